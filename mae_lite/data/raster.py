"""The short way of colour images: JPEG files become arrays, and arrays are resized, without Pillow in between.

Decoding gives the pixels that Pillow gives, for both use libjpeg-turbo with its accurate transform; whatever is not
plain goes the long way (:mod:`mae_lite.data.images`), so that the same files are refused. Resizing is torch's for
bytes: the antialiased filters of Pillow, whose weights have fewer bits.

Shapes: H height, W width, S side of the output.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import simplejpeg
import torch
from PIL import Image
from torch.nn import functional

from mae_lite.config import Reading
from mae_lite.data.pixels import orientation

Bytes = npt.NDArray[np.uint8]
Box = tuple[int, int, int, int]
"""Left, top, width, height in pixels."""
Reduction = Callable[[tuple[int, int]], int]
"""By how much an image of a width and height may be made smaller in decoding: 1, 2, 4 or 8."""

JPEG = b"\xff\xd8\xff"

_TURNED: dict[Image.Transpose, Callable[[Bytes], Bytes]] = {
    Image.Transpose.FLIP_LEFT_RIGHT: lambda pixels: pixels[:, ::-1],
    Image.Transpose.ROTATE_180: lambda pixels: pixels[::-1, ::-1],
    Image.Transpose.FLIP_TOP_BOTTOM: lambda pixels: pixels[::-1],
    Image.Transpose.TRANSPOSE: lambda pixels: pixels.transpose(1, 0, 2),
    Image.Transpose.ROTATE_270: lambda pixels: pixels[::-1].transpose(1, 0, 2),
    Image.Transpose.TRANSVERSE: lambda pixels: pixels[::-1, ::-1].transpose(1, 0, 2),
    Image.Transpose.ROTATE_90: lambda pixels: pixels[:, ::-1].transpose(1, 0, 2),
}
_SIDEWAYS = (
    Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
)


@dataclass(frozen=True, slots=True)
class Raster:
    """A colour image as an array, perhaps smaller than its file says."""

    pixels: Bytes
    """[H, W, 3] after division by ``reduced``, rounded up; a view of any strides, perhaps read-only."""
    size: tuple[int, int]
    """Width and height of the whole image, in which crops are given."""
    reduced: int = 1
    """By how much it was made smaller in decoding."""


def of_jpeg(encoded: bytes, image: Image.Image, reading: Reading, reduction: Reduction | None) -> Raster | None:
    """Decode a JPEG file of 8 bits, in grey or colour.

    Args:
        encoded: the file.
        image: the same, opened by the guard, not loaded.
        reading: rules of conversion.
        reduction: asked with the upright size; None decodes all pixels.

    Returns:
        The image, upright; None for files that are not plain: CMYK, profiles to apply, damage, or even an oddity that
        libjpeg warns of.
    """
    size = image.size
    profile = reading.apply_profile and "icc_profile" in image.info
    if image.format != "JPEG" or image.mode not in ("L", "RGB") or profile:
        return None
    turn = orientation(image) if reading.turn_upright else None
    upright = size[::-1] if turn in _SIDEWAYS else size
    factor = 1 if reduction is None else reduction(upright)
    if turn is not None and any(side % factor for side in size):
        factor = 1  # the last pixel is narrower than the others, and after turning it may come first
    width, height = (-(-side // factor) for side in size)
    try:
        pixels = simplejpeg.decode_jpeg(encoded, "RGB", min_height=height, min_width=width, min_factor=factor)
    except ValueError:
        return None
    if pixels.shape != (height, width, 3):
        return None
    return Raster(pixels if turn is None else _TURNED[turn](pixels), upright, factor)


def resized(picture: Image.Image | Raster, box: Box, side: int, name: str) -> Bytes:
    """Crop and resize a colour image.

    Args:
        picture: any size.
        box: what to take of it, in pixels of the whole image.
        side: of the output.
        name: "bicubic" or "bilinear".

    Returns:
        [S, S, 3], contiguous.
    """
    left, top, width, height = box
    if isinstance(picture, Image.Image):
        pixels = np.asarray(picture.crop((left, top, left + width, top + height)))
    elif picture.reduced > 1:
        return _from_reduced(picture, box, side, name)
    else:
        pixels = picture.pixels[top : top + height, left : left + width]
    if (width, height) == (side, side):
        return np.array(pixels, order="C")
    # A copy, for torch takes neither negative strides nor read-only memory, and is fast on contiguous pixels alone.
    batch = torch.from_numpy(np.array(pixels, order="C")).permute(2, 0, 1)[None]
    found: Bytes = functional.interpolate(batch, (side, side), mode=name, antialias=True)[0].permute(1, 2, 0).numpy()
    return found


def _from_reduced(raster: Raster, box: Box, side: int, name: str) -> Bytes:
    """Resize a crop whose edges lie between pixels; Pillow can do that, and decoding has taken more time anyway."""
    left, top, width, height = (value / raster.reduced for value in box)
    x, y = math.floor(left), math.floor(top)
    part = np.ascontiguousarray(raster.pixels[y : math.ceil(top + height), x : math.ceil(left + width)])
    within = (left - x, top - y, left - x + width, top - y + height)
    resampling = Image.Resampling[name.upper()]
    return np.array(Image.fromarray(part).resize((side, side), resampling, within))


def write_planes(pixels: Bytes, flip: bool, out: Bytes) -> None:
    """Copy [S, S, 3] to ``out`` [3, S, S], mirrored left to right if asked for; torch is twice as fast as NumPy."""
    source = torch.from_numpy(pixels).permute(2, 0, 1)
    torch.from_numpy(out).copy_(source.flip(-1) if flip else source)
