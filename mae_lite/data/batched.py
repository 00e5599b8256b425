"""Augmentation of a whole batch of equally large images at once, on the CPU or on a GPU.

It shows what :class:`mae_lite.data.transforms.TrainTransform` shows with the same draws, but for single steps of 1/255:
the same crops, the same order of the colours. What is drawn is decided on the host; the device gets a few numbers per
image and is never waited for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from mae_lite.config import Augmentation
from mae_lite.data import batched_colours, transforms
from mae_lite.data.batched_colours import on_device, to_bytes
from mae_lite.data.transforms import TrainTransform, Uniforms
from mae_lite.errors import ConfigError

Boxes = npt.NDArray[np.int64]
"""[B, 4]: left, top, width, height in pixels."""

_STEP = 2.0**-15
# Values of the images worked on at once: about what a core's cache holds, and what a GPU's memory has room for.
_CHUNK_VALUES = {"cpu": 1 << 20}
_CHUNK_VALUES_ELSEWHERE = 1 << 28
_TAPS_UP_TO = 48  # longest side, in pixels, for which whole batches are faster on a CPU than a call for each image


@dataclass(frozen=True)
class Crops:
    """What is cut out of each of B images, and how it is resampled."""

    boxes: Boxes
    flipped: npt.NDArray[np.bool_]
    """[B], whether left and right are exchanged."""
    cubic: npt.NDArray[np.bool_]
    """[B], whether with the cubic filter; with the triangle otherwise."""


def unsupported(augmentation: Augmentation) -> tuple[str, ...]:
    """Name the settings that :class:`BatchTransform` cannot do; their images need :class:`TrainTransform`."""
    asked = {
        "rotate_degrees": augmentation.rotate_degrees > 0,
        "shear_degrees": augmentation.shear_degrees > 0,
        "translate": augmentation.translate > 0,
        "zoom": augmentation.zoom != (1.0, 1.0),
        "randaugment": augmentation.randaugment is not None,
        "erasing": augmentation.erasing > 0,
    }
    return tuple(name for name, wanted in asked.items() if wanted)


class BatchTransform:
    """Random crop, jitter, blur, grey, flip and solarising of whole batches."""

    def __init__(
        self, augmentation: Augmentation, image_size: int, channels: int, compute_dtype: torch.dtype = torch.float32
    ) -> None:
        """Prepare for square outputs.

        Args:
            augmentation: what to do and how strongly.
            image_size: side of the output, in pixels.
            channels: of the images.
            compute_dtype: of the matrix products that resample on a GPU. float16 is faster and moves values by
                less than one step of 1/255; see :func:`by_products` for what float32 gives.

        Raises:
            ConfigError: when ``augmentation`` has settings that are :func:`unsupported`.
        """
        if names := unsupported(augmentation):
            raise ConfigError(
                f"augmentation.{names[0]}",
                found=repr(getattr(augmentation, names[0])),
                expected="no such change, for it is not done for whole batches",
                fix="transform the images one by one",
            )
        self.augmentation, self.image_size, self.channels = augmentation, image_size, channels
        self.compute_dtype = compute_dtype
        one_by_one = TrainTransform(augmentation, image_size, channels).local
        self.local: BatchTransform | None = None
        if one_by_one is not None:
            self.local = BatchTransform(one_by_one.augmentation, one_by_one.image_size, channels, compute_dtype)

    def __call__(self, pixels: Tensor, u: Uniforms) -> Tensor:
        """Make the views that are not local.

        Args:
            pixels: [B, C, S, T] uint8 on any device.
            u: [B, V, transforms.DRAWS] uniform numbers in [0, 1), V at least ``augmentation.views``.

        Returns:
            [B, C, H, H] uint8 on the same device; [B, views, C, H, H] of several views. Row i depends on row i of
            the arguments alone.
        """
        views = self._views(pixels, u[:, : self.augmentation.views])
        return views[:, 0] if self.augmentation.views == 1 else views

    def local_views(self, pixels: Tensor, u: Uniforms) -> Tensor | None:
        """Make the local views, [B, L, C, S, S], from the draws that follow those of the others; None without any."""
        return None if self.local is None else self.local._views(pixels, u[:, self.augmentation.views :])

    def _views(self, pixels: Tensor, u: Uniforms) -> Tensor:
        images, views = u.shape[:2]
        made = pixels.new_empty(images, views, self.channels, self.image_size, self.image_size)
        for rows in _chunks(images, max(pixels[:1].numel(), made[:1, 0].numel()), pixels.device):
            for view in range(views):
                made[rows, view] = self._view(pixels[rows], u[rows, view], view)
        return made

    def _view(self, pixels: Tensor, u: Uniforms, view: int) -> Tensor:
        augmentation, size = self.augmentation, (pixels.shape[-1], pixels.shape[-2])
        flipped = u[:, transforms._FLIP] < augmentation.flip
        if augmentation.crop_scale is None and size == (self.image_size, self.image_size):
            made = torch.where(on_device(flipped, pixels.device).view(-1, 1, 1, 1), pixels.flip(-1), pixels)
        else:
            boxes = np.tile(np.array([0, 0, *size]), (len(u), 1))
            if augmentation.crop_scale is not None:
                boxes = crop_boxes(size, augmentation.crop_scale, augmentation.crop_ratio, u[:, transforms._CROP])
            cubic = np.full(len(u), augmentation.interpolation == "bicubic")
            if augmentation.interpolation == "random":
                cubic = u[:, transforms._INTERPOLATION] >= 0.5
            made = resampled(pixels, Crops(boxes, flipped, cubic), self.image_size, self.compute_dtype)
        # TrainTransform flips between grey and solarising; every one of them gives the same on a mirrored image.
        colours = u[:, transforms._COLOURS]
        batched_colours.recolour(made, augmentation, colours, view)
        batched_colours.solarise(made, augmentation, colours, view)
        return made


def _chunks(images: int, values: int, device: torch.device) -> Iterator[slice]:
    """Yield parts of the batch, of images of so many values, that are worked on at once."""
    step = max(_CHUNK_VALUES.get(device.type, _CHUNK_VALUES_ELSEWHERE) // values, 1)
    return (slice(start, start + step) for start in range(0, images, step))


def crop_boxes(size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float], u: Uniforms) -> Boxes:
    """Choose the crops that :func:`mae_lite.data.transforms.crop_box` chooses, for all images.

    Args:
        size: width and height of the images.
        scale: range of the crop's share of the area.
        ratio: range of width / height.
        u: [B, 40] uniform numbers, four for each attempt.
    """
    width, height = size
    low, high = math.log(ratio[0]), math.log(ratio[1])
    boxes = np.empty((len(u), 4), np.int64)
    left_over = np.arange(len(u))
    for attempt in range(u.shape[1] // 4):
        area_draw, ratio_draw, top_draw, left_draw = u[left_over, 4 * attempt : 4 * attempt + 4].astype(np.float64).T
        area = width * height * (scale[0] + (scale[1] - scale[0]) * area_draw)
        # Not numpy's exp, whose last bit may differ from that of crop_box.
        aspect = np.array([math.exp(power) for power in (low + (high - low) * ratio_draw).tolist()])
        w, h = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
        fits = (0 < w) & (w <= width) & (0 < h) & (h <= height)
        # Truncation is what int() does.
        found = np.stack([np.trunc(left_draw * (width - w + 1)), np.trunc(top_draw * (height - h + 1)), w, h], 1)
        boxes[left_over[fits]] = found[fits]
        left_over = left_over[~fits]
        if not len(left_over):
            return boxes
    for row in left_over:
        boxes[row] = transforms.crop_box(size, scale, ratio, u[row])
    return boxes


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
    across, down = _lines(crops, pixels.device)
    columns = pixels.flatten(1, 2).transpose(1, 2).contiguous()
    found = _tapped(columns.float(), across, size)  # [B, H, C * S]
    # In two steps, each of which PyTorch does several times faster than both at once.
    rows = found.transpose(1, 2).contiguous().view(images, channels, height, size).transpose(1, 2).contiguous()
    found = _tapped(rows.view(images, height, channels * size), down, size)
    return to_bytes(found.view(images, size, channels, size).transpose(1, 2))


def _tapped(table: Tensor, lines: Lines, size: int) -> Tensor:
    """Resample [B, N, M] to [B, size, M] by the weights of :func:`_weights` that are not 0."""
    images, source, values = table.shape
    scale = (lines.length / size).clamp_(min=1)
    reach = scale * (1 + lines.cubic)
    taps = math.ceil(2 * float(reach.max()))
    first = (lines.centres(size) - reach + 0.5).floor_() + lines.start
    places = first + torch.arange(taps)  # [B, size, taps]
    weights = _weights(lines, places, size).view(-1, taps)
    places = places.clamp_(0, source - 1).add_(torch.arange(images).view(-1, 1, 1) * source)
    found = functional.embedding_bag(
        places.to(torch.int32).view(-1, taps), table.view(-1, values), per_sample_weights=weights, mode="sum"
    )
    return _whole(found).view(images, size, values)


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
