"""Augmentation of a whole batch of equally large images at once, on the CPU or on a GPU.

It shows what :class:`mae_lite.data.transforms.TrainTransform` shows with the same draws, but for single steps of 1/255:
the same crops, the same order of the colours. What is drawn is decided on the host; the device gets a few numbers per
image and is never waited for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from mae_lite.config import Augmentation
from mae_lite.data import batched_colours, transforms
from mae_lite.data.batched_colours import on_device
from mae_lite.data.resampling import Boxes, Crops, resampled
from mae_lite.data.transforms import TrainTransform, Uniforms
from mae_lite.errors import ConfigError

# Values of the images worked on at once: about what a core's cache holds, and what a GPU's memory has room for.
_CHUNK_VALUES = {"cpu": 1 << 20}
_CHUNK_VALUES_ELSEWHERE = 1 << 28


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
                less than one step of 1/255.

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

    @property
    def views(self) -> int:
        """How many views there are of an image, the local ones included."""
        return self.augmentation.views + (0 if self.local is None else self.local.augmentation.views)

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
