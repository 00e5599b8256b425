"""What contrastive methods do to the values of an image's pixels; every random number is an argument.

The operations are torchvision's for Pillow images (jitter, grey) and MoCo-v3's (blur, solarise; Chen, Xie, He 2021).
"""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from mae_lite.config import Augmentation

Uniforms = npt.NDArray[np.float32]

DRAWS = 10
"""Uniform numbers in [0, 1) that one image takes."""

_JITTERED, _ORDER, _BRIGHTNESS, _CONTRAST, _SATURATION, _HUE, _BLURRED, _SIGMA, _GREYED, _SOLARISED = range(DRAWS)
_ORDERS = tuple(itertools.permutations(range(4)))
_THRESHOLD = 128


def recoloured(image: Image.Image, augmentation: Augmentation, u: Uniforms, view: int) -> Image.Image:
    """Jitter, blur and grey one image, each with its probability.

    Args:
        image: mode "RGB"; mode "L" where nothing but blur is asked for.
        augmentation: what to do and how strongly.
        u: [DRAWS] uniform numbers in [0, 1).
        view: which version of the image this is, from 0.
    """
    if augmentation.jitter is not None and u[_JITTERED] < augmentation.jitter_probability:
        image = _jittered(image, augmentation.jitter, u)
    if u[_BLURRED] < of_view(augmentation.blur, view):
        low, high = augmentation.blur_sigma
        image = image.filter(ImageFilter.GaussianBlur(low + (high - low) * float(u[_SIGMA])))
    if u[_GREYED] < augmentation.grey:
        image = image.convert("L").convert("RGB")
    return image


def solarised(image: Image.Image, augmentation: Augmentation, u: Uniforms, view: int) -> Image.Image:
    """Invert all values of 128 and more, with its probability in this view; arguments as in :func:`recoloured`."""
    if u[_SOLARISED] < of_view(augmentation.solarise, view):
        return ImageOps.solarize(image, _THRESHOLD)
    return image


def of_view(values: tuple[float, ...], view: int) -> float:
    """Return what holds for a view: its own value, or the last for all further ones."""
    return values[min(view, len(values) - 1)]


def turned_hue(image: Image.Image, share: float) -> Image.Image:
    """Turn the hue of an RGB image by a share of the colour circle, in steps of 1/255, in HSV."""
    hue, saturation, value = image.convert("HSV").split()
    turned = (np.asarray(hue).astype(np.int32) + int(share * 255)) % 256
    bands = (Image.fromarray(turned.astype(np.uint8)), saturation, value)
    return Image.merge("HSV", bands).convert("RGB")


def _jittered(image: Image.Image, strengths: tuple[float, float, float, float], u: Uniforms) -> Image.Image:
    """Change brightness, contrast, saturation and hue in one of the 24 orders; factors are uniform about no change."""
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for operation in _ORDERS[int(u[_ORDER] * len(_ORDERS))]:
        change = strengths[operation] * (2 * float(u[_BRIGHTNESS + operation]) - 1)
        if strengths[operation] == 0:
            continue
        image = turned_hue(image, change) if operation == 3 else enhancers[operation](image).enhance(1 + change)
    return image
