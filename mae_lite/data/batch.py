"""What travels from the loader to the loop."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mae_lite.data.bad_files import BadFile


@dataclass(frozen=True)
class Batch:
    """B samples."""

    images: Tensor
    """[B, C, H, H] uint8, or [B, V, C, H, H] of V > 1 views, in any order in memory; after :func:`to_device` float32,
    normalised and contiguous."""
    labels: Tensor
    """[B] int64, -1 without labels."""
    ids: Tensor
    """[B] int64, position of each sample in its source."""
    bad: tuple[BadFile, ...] = ()
    """Images that could not be read; others stand in their place, or in evaluation none."""
    local_images: Tensor | None = None
    """[B, L, C, S, S], the L local views where the augmentation makes some; as ``images`` otherwise."""

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory, from where a GPU copies without waiting; PyTorch calls this."""
        local = None if self.local_images is None else self.local_images.pin_memory()
        images, labels, ids = (tensor.pin_memory() for tensor in (self.images, self.labels, self.ids))
        return replace(self, images=images, labels=labels, ids=ids, local_images=local)

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on ``device``, its images as they are."""
        local = None if self.local_images is None else self.local_images.to(device, non_blocking=True)
        images, labels, ids = (value.to(device, non_blocking=True) for value in (self.images, self.labels, self.ids))
        return replace(self, images=images, labels=labels, ids=ids, local_images=local)


def to_device(batch: Batch, device: torch.device | str, mean: tuple[float, ...], std: tuple[float, ...]) -> Batch:
    """Copy bytes to the device and normalise there: (x / 255 - mean) / std, float32.

    Args:
        batch: with uint8 images.
        device: where to.
        mean: [C] channel means of pixels in 0 to 1.
        std: [C] channel deviations of pixels in 0 to 1.

    Returns:
        The batch on the device, with float32 images.
    """
    there = batch.to(device)
    smaller = None if there.local_images is None else normalised(there.local_images, mean, std)
    return replace(there, images=normalised(there.images, mean, std), local_images=smaller)


def normalised(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Return uint8 pixels [..., C, H, W] as (x / 255 - mean) / std in float32, on their device, channel by channel.

    Args:
        pixels: of any number of images, or of one; in any order in memory.
        mean: [C] channel means of pixels in 0 to 1.
        std: [C] channel deviations of pixels in 0 to 1.
    """
    shape, device = (-1, 1, 1), pixels.device
    centre, spread = (uploaded(torch.tensor(values).view(shape), device) for values in (mean, std))
    planes = pixels.to(torch.float32, memory_format=torch.contiguous_format)
    return planes.div_(255).sub_(centre).div_(spread)


def uploaded(values: Tensor, device: torch.device) -> Tensor:
    """Copy numbers of the host to the device without waiting for the work that is queued there."""
    return (values.pin_memory() if device.type == "cuda" else values).to(device, non_blocking=True)
