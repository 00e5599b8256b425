"""What :mod:`mae_lite.data.colours` does to one image, for a whole batch on its device.

Every operation ends in whole values from 0 to 255, as in Pillow, so that bytes between two operations lose nothing.
Which images an operation meets is known on the host from their draws: only their numbers travel to the device, and the
host never waits for it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mae_lite.config import Augmentation
from mae_lite.data import colours
from mae_lite.data.batch import uploaded
from mae_lite.data.colours import Uniforms, of_view

_LUMA = (19595, 38470, 7471)
"""Pillow's weights of red, green and blue in "L", in 1/65536; the sums are below 2^24, hence exact in float32."""
_BLURS = 3
"""Box filters in Pillow's Gaussian blur, in each direction."""


def on_device(values: npt.NDArray[np.generic], device: torch.device) -> Tensor:
    """Copy an array to the device, see :func:`uploaded`."""
    return uploaded(torch.from_numpy(np.ascontiguousarray(values)), device)


def to_bytes(values: Tensor) -> Tensor:
    """Return values from 0 to 255 as contiguous uint8, without their fractions; by way of int32 twice as fast."""
    return values.to(torch.int32).to(torch.uint8, memory_format=torch.contiguous_format)


def recolour(pixels: Tensor, augmentation: Augmentation, u: Uniforms, view: int) -> None:
    """Jitter, blur and grey the images in place, each with its probability.

    Args:
        pixels: [B, C, H, W] uint8; C is 3 where more than blur is asked for.
        augmentation: what to do and how strongly.
        u: [B, colours.DRAWS] uniform numbers in [0, 1), those of :func:`mae_lite.data.colours.recoloured`.
        view: which version of the images this is, from 0.
    """
    if augmentation.jitter is not None:
        _jitter(pixels, augmentation.jitter, augmentation.jitter_probability, u)
    low, high = augmentation.blur_sigma
    sigma = low + (high - low) * u[:, colours._SIGMA].astype(np.float64)
    _change(pixels, u[:, colours._BLURRED] < of_view(augmentation.blur, view), blurred, box_weights(sigma))
    _change(pixels, u[:, colours._GREYED] < augmentation.grey, lambda chosen, _: grey(chosen).expand_as(chosen))


def solarise(pixels: Tensor, augmentation: Augmentation, u: Uniforms, view: int) -> None:
    """Invert all values of 128 and more in place, with its probability; arguments as in :func:`recolour`."""
    chosen = u[:, colours._SOLARISED] < of_view(augmentation.solarise, view)
    _change(pixels, chosen, lambda some, _: torch.where(some < colours._THRESHOLD, some, 255 - some))


def _change(
    pixels: Tensor,
    chosen: npt.NDArray[np.bool_],
    operation: Callable[[Tensor, Tensor], Tensor],
    strengths: npt.NDArray[np.generic] | None = None,
) -> None:
    """Put ``operation(images, strengths)`` in the place of the chosen images.

    Args:
        pixels: [B, C, H, W] uint8.
        chosen: [B].
        operation: from float32 images [N, C, H, W] to others of values from 0 to 255; their fractions are cut off.
        strengths: [B, ...], of which it gets those of the chosen images; none are zeros.
    """
    (rows,) = np.nonzero(chosen)
    if not len(rows):
        return
    values = np.zeros(len(rows), np.float32) if strengths is None else strengths[rows]
    places = on_device(rows, pixels.device)
    found = operation(pixels.index_select(0, places).float(), on_device(values, pixels.device))
    pixels[places] = to_bytes(found)  # on a CPU faster than index_copy_


def _jitter(pixels: Tensor, strengths: tuple[float, float, float, float], probability: float, u: Uniforms) -> None:
    """Change brightness, contrast, saturation and hue, in each image's own order, in place."""
    jittered = u[:, colours._JITTERED] < probability
    orders = np.array(colours._ORDERS)[(u[:, colours._ORDER] * len(colours._ORDERS)).astype(np.int64)]  # [B, 4]
    draws = u[:, colours._BRIGHTNESS : colours._HUE + 1].astype(np.float64)
    changes = np.array(strengths) * (2 * draws - 1)
    factors = (1 + changes).astype(np.float32)
    factors[:, 3] = np.trunc(changes[:, 3] * 255)
    operations = (brightened, contrasted, saturated, turned_hue)
    for step in range(4):
        for number, operation in enumerate(operations):
            if strengths[number] != 0:
                _change(pixels, jittered & (orders[:, step] == number), operation, factors[:, number])


def brightened(pixels: Tensor, factors: Tensor) -> Tensor:
    """Scale [N, C, H, W] by [N] factors."""
    return _clipped(pixels * factors.view(-1, 1, 1, 1))


def contrasted(pixels: Tensor, factors: Tensor) -> Tensor:
    """Scale the distance of [N, 3, H, W] from the mean shade of the image by [N] factors."""
    shades = grey(pixels)
    mean = shades.sum((-2, -1), keepdim=True, dtype=torch.float64) / shades[0].numel()
    return _blended(mean.add(0.5).floor().float(), pixels, factors)


def saturated(pixels: Tensor, factors: Tensor) -> Tensor:
    """Scale the distance of [N, 3, H, W] from its shades of grey by [N] factors."""
    return _blended(grey(pixels), pixels, factors)


def grey(pixels: Tensor) -> Tensor:
    """Return Pillow's "L", [N, 1, H, W], of colours [N, 3, H, W]; whole numbers in float32."""
    red, green, blue = pixels.unbind(1)
    shades = red * _LUMA[0] + green * _LUMA[1] + blue * _LUMA[2]
    return shades.add_(1 << 15).mul_(2.0**-16).floor_().unsqueeze(1)


def _blended(origin: Tensor, pixels: Tensor, factors: Tensor) -> Tensor:
    return _clipped(origin + factors.view(-1, 1, 1, 1) * (pixels - origin))


def _clipped(values: Tensor) -> Tensor:
    return values.clamp_(0, 255).floor_()


def turned_hue(pixels: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue of RGB images in Pillow's 8-bit HSV.

    Hue is the sector of the hexagon that Smith (1978, "Color gamut transform pairs") describes, in steps of 1/255.

    Args:
        pixels: [N, 3, H, W] whole numbers from 0 to 255.
        turns: [N] whole steps.
    """
    value, least = pixels.amax(1), pixels.amin(1)
    spread = value - least
    red, green, blue = ((value.unsqueeze(1) - pixels) / spread.clamp(min=1).unsqueeze(1)).unbind(1)
    # A channel is the largest where its distance is 0; all are in shades of grey, whose hue is 0 as in Pillow.
    sector = torch.where(red == 0, blue - green, torch.where(green == 0, 2 + red - blue, 4 + green - red))
    hue = (sector / 6 + 1).frac_().mul_(255).floor_()
    saturation = (spread / value.clamp(min=1)).mul_(255).floor_().div_(255)
    sector = (hue + turns.view(-1, 1, 1)).remainder_(256).mul_(6).div_(255)
    rest = value * saturation
    channels = []
    for corner in (5, 3, 1):  # red, green and blue fall where the hue is far from their own
        place = (sector + corner).remainder_(6)
        channels.append(value - rest * torch.minimum(place, 4 - place).clamp_(0, 1))
    return torch.stack(channels, 1).add_(0.5).floor_()


def box_weights(sigma: npt.NDArray[np.float64]) -> npt.NDArray[np.int32]:
    """Return the weights of the box filters that make Pillow's Gaussian blur.

    Three boxes of a fractional length approach it (Gwosdek et al. 2011, "Theoretical foundations of Gaussian
    convolution by extended box filtering", equations 11 and 14).

    Args:
        sigma: [N] deviations in pixels.

    Returns:
        [N, R + 1], the weight at each distance from the centre in 1/2^24; R fits the widest. Computed in float32, in
        which Pillow does.
    """
    variance = np.square(sigma.astype(np.float32)) / np.float32(_BLURS)
    whole = np.floor((np.sqrt(12 * variance.astype(np.float64) + 1).astype(np.float32) - 1) / 2)
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - np.square(whole + 1)))
    inner = (np.float32(1 << 24) / (2 * (whole + part) + 1)).astype(np.int32)[:, None]
    reach = whole.astype(np.int32)[:, None]
    outer = ((1 << 24) - (2 * reach + 1) * inner) // 2
    distance = np.arange(reach.max(initial=0) + 2)
    found: npt.NDArray[np.int32] = np.where(distance <= reach, inner, np.where(distance == reach + 1, outer, 0))
    return found


def blurred(pixels: Tensor, weights: Tensor) -> Tensor:
    """Blur [N, C, H, W] with box filters of weights [N, R + 1]; the values at the edges go on beyond them.

    Whole numbers, for ties are frequent, and whichever way they are rounded adds up over six filters.
    """
    pixels = pixels.to(torch.int32)
    for direction in (-1, -2):
        for _ in range(_BLURS):
            pixels = _boxed(pixels, weights, direction)
    return pixels


def _boxed(pixels: Tensor, weights: Tensor, direction: int) -> Tensor:
    reach, length = weights.shape[1] - 1, pixels.shape[direction]
    shape = list(pixels.shape)
    shape[direction] = reach
    before, after = (pixels.narrow(direction, edge, 1).expand(shape) for edge in (0, length - 1))
    wide = torch.cat([before, pixels, after], direction)
    columns = weights.view(len(weights), -1, 1, 1, 1).unbind(1)
    found = pixels * columns[0]
    for distance in range(1, reach + 1):
        pair = wide.narrow(direction, reach - distance, length) + wide.narrow(direction, reach + distance, length)
        found += pair.mul_(columns[distance])
    # Sums are below 2^32, so that their 8 upper bits are right although the sign may have changed.
    return found.add_(1 << 23).bitwise_right_shift_(24).bitwise_and_(255)
