"""Random crops of a whole batch, resampled as Pillow does: by products on a GPU, by the faster of two ways on a CPU."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from mae_lite.data.batched_colours import on_device, to_bytes

Boxes = npt.NDArray[np.int64]
"""[B, 4]: left, top, width, height in pixels."""

Numbers = npt.NDArray[np.int64]

_STEP = 2.0**-15
_TAPS_UP_TO = 48  # longest side, in pixels, for which whole batches are faster on a CPU than a call for each image


@dataclass(frozen=True)
class Crops:
    """What is cut out of each of B images, and how it is resampled."""

    boxes: Boxes
    flipped: npt.NDArray[np.bool_]
    """[B], whether left and right are exchanged."""
    cubic: npt.NDArray[np.bool_]
    """[B], whether with the cubic filter; with the triangle otherwise."""


def resampled(pixels: Tensor, crops: Crops, size: int, compute_dtype: torch.dtype = torch.float32) -> Tensor:
    """Cut out and resample as Pillow's ``crop`` and ``resize`` do, in the faster way for device and size.

    Args:
        pixels: [B, C, S, T] uint8.
        crops: of B images.
        size: side of the output H, in pixels.
        compute_dtype: for :func:`by_products` on a GPU.

    Returns:
        [B, C, H, H] uint8, within one or two steps of Pillow's where that starts with the rows. Pillow 13 starts with
        the columns where they shrink more; the cubic filter, cut off in between, then differs more at hard edges.
    """
    if pixels.device.type != "cpu":
        return by_products(pixels, crops, size, compute_dtype)
    if max(*pixels.shape[-2:], size) <= _TAPS_UP_TO:
        return by_taps(pixels, crops, size)
    return one_by_one(pixels, crops, size)


def one_by_one(pixels: Tensor, crops: Crops, size: int) -> Tensor:
    """Resample each image by PyTorch's antialiased filter for bytes; arguments as in :func:`resampled`."""
    made = pixels.new_empty(*pixels.shape[:2], size, size)
    for row, (left, top, width, height) in enumerate(crops.boxes.tolist()):
        crop = pixels[row : row + 1, :, top : top + height, left : left + width]
        # PyTorch has vector code for three channels beside each other.
        crop = crop.contiguous(memory_format=torch.channels_last)
        mode = "bicubic" if crops.cubic[row] else "bilinear"
        found = functional.interpolate(crop, (size, size), mode=mode, antialias=True, align_corners=False)
        made[row] = found[0].flip(-1) if crops.flipped[row] else found[0]
    return made


def by_products(pixels: Tensor, crops: Crops, size: int, compute_dtype: torch.dtype = torch.float32) -> Tensor:
    """Resample all images by two batched matrix products, first along the rows.

    The weights are those of Pillow's antialiasing at any shrink factor, so that large crops need not be halved first.
    They are rounded to multiples of 2^-15: sums of their products with bytes then are exact in float32, and hence the
    same in any order, batch and library. (TensorFloat-32, if the program allows it, rounds them further, to a tenth
    of a step of 1/255.)

    Args:
        pixels: [B, C, S, T] uint8.
        crops: of B images.
        size: side of the output H, in pixels.
        compute_dtype: of the products.

    Returns:
        [B, C, H, H] uint8.
    """
    images, channels, height, width = pixels.shape
    across, down = _lines(crops, pixels.device)
    rows = pixels.transpose(1, 2).to(compute_dtype, memory_format=torch.contiguous_format)  # [B, S, C, T]
    places = torch.arange(width, device=pixels.device)
    weights = _weights(across, places, size).to(compute_dtype)
    found = _whole(torch.bmm(rows.view(images, height * channels, width), weights.transpose(1, 2)))
    places = torch.arange(height, device=pixels.device)
    weights = _weights(down, places, size).to(compute_dtype)
    found = _whole(torch.bmm(weights, found.view(images, height, channels * size)))
    return to_bytes(found.view(images, size, channels, size).transpose(1, 2))


def by_taps(pixels: Tensor, crops: Crops, size: int) -> Tensor:
    """Resample all images as :func:`by_products` does, on the CPU and without the products with 0; see there."""
    images, channels, height, _ = pixels.shape
    (left, top, wide, high), cubic = crops.boxes.T, crops.cubic.astype(np.int64)
    columns = pixels.flatten(1, 2).transpose(1, 2).contiguous()
    found = _tapped(columns.float(), left, wide, cubic + 2 * crops.flipped, size)  # [B, H, C * S]
    # In two steps, each of which PyTorch does several times faster than both at once.
    rows = found.transpose(1, 2).contiguous().view(images, channels, height, size).transpose(1, 2).contiguous()
    found = _tapped(rows.view(images, height, channels * size), top, high, cubic, size)
    return to_bytes(found.view(images, size, channels, size).transpose(1, 2))


def _tapped(table: Tensor, start: Numbers, length: Numbers, kind: Numbers, size: int) -> Tensor:
    """Resample in one direction.

    Args:
        table: [B, N, M] float32.
        start: [B], first of the N in the crop.
        length: [B], how many of them are in the crop.
        kind: [B], 1 for the cubic filter, plus 2 for the reverse order.
        size: of the output.

    Returns:
        [B, size, M] whole numbers from 0 to 255.
    """
    images, source, values = table.shape
    places, weights = _taps(source, size)
    taps = places.shape[-1]
    which = torch.from_numpy(kind * source + length - 1)
    starts = torch.from_numpy((start + source * np.arange(images)).astype(np.int32)).view(-1, 1, 1)
    found = functional.embedding_bag(
        places.index_select(0, which).add_(starts).view(-1, taps),
        table.view(-1, values),
        per_sample_weights=weights.index_select(0, which).view(-1, taps),
        mode="sum",
    )
    return _whole(found).view(images, size, values)


@cache
def _taps(source: int, size: int) -> tuple[Tensor, Tensor]:
    """Return which pixels behind the start of a crop make each resampled one, and their weights, for every crop.

    Both are [4 * source, size, taps], int32 and float32: for each length up to ``source``, by the triangle, the cubic,
    the triangle in reverse order and the cubic in reverse order.
    """
    backwards, cubic, length = torch.meshgrid(torch.arange(2), torch.arange(2), torch.arange(source) + 1, indexing="ij")
    length, cubic, backwards = (values.reshape(-1, 1, 1).float() for values in (length, cubic, backwards))
    lines = Lines(torch.zeros_like(length), length, cubic, backwards)
    reach = (length / size).clamp_(min=1) * (1 + cubic)
    first = (lines.centres(size) - reach + 0.5).floor_()
    places = first + torch.arange(math.ceil(2 * float(reach.max())))
    weights = _weights(lines, places, size)
    return places.clamp_(min=0).minimum(length - 1).to(torch.int32), weights


@dataclass(frozen=True)
class Lines:
    """What is resampled in one direction; all are [B, 1, 1] float32."""

    start: Tensor
    """First pixel."""
    length: Tensor
    """Pixels."""
    cubic: Tensor
    """1 for the cubic filter, 0 for the triangle."""
    reversed: Tensor
    """1 where the output runs backwards, 0 elsewhere."""

    def centres(self, size: int) -> Tensor:
        """Return where the centres of ``size`` output pixels lie behind ``start``, [B, size, 1]."""
        place = torch.arange(size, device=self.start.device).add(0.5).view(-1, 1)
        return (place + self.reversed * (size - 2 * place)) * (self.length / size)


def _lines(crops: Crops, device: torch.device) -> tuple[Lines, Lines]:
    """Send the crops to the device: what lies in each row, what in each column."""
    numbers = np.concatenate([crops.boxes, crops.flipped[:, None], crops.cubic[:, None]], axis=1, dtype=np.float32)
    left, top, width, height, flipped, cubic = on_device(numbers.T, device).view(6, -1, 1, 1)
    return Lines(left, width, cubic, flipped), Lines(top, height, cubic, torch.zeros_like(flipped))


def _weights(lines: Lines, places: Tensor, size: int) -> Tensor:
    """Return what pixels count in each resampled one.

    The filters are the triangle and the cubic of Keys (1981, "Cubic convolution interpolation", equation 15,
    a = -1/2), stretched where the crop shrinks, cut off at its edges, and of sum 1.

    Args:
        lines: B crops in this direction.
        places: [N] or [B, size, N], which pixels.
        size: pixels in the output.

    Returns:
        [B, size, N] float32.
    """
    inside = places - lines.start + 0.5
    scale = (lines.length / size).clamp_(min=1)
    far = (inside - lines.centres(size)).abs_().div_(scale).clamp_(max=2)
    near = (1.5 * far).sub_(2.5).mul_(far).mul_(far).add_(1)
    curve = torch.where(far < 1, near, (far - 2).square_().mul_((far - 1).mul_(-0.5)))
    weights = torch.where(lines.cubic > 0, curve, (1 - far).clamp_(min=0))
    weights = weights.mul_((inside > 0) & (inside < lines.length))
    return weights.div_(weights.sum(-1, keepdim=True).mul_(_STEP)).round_().mul_(_STEP)


def _whole(values: Tensor) -> Tensor:
    """Round to whole numbers from 0 to 255, in place."""
    return values.add_(0.5).floor_().clamp_(0, 255)
