"""Batches of images: made from samples, pinned, brought to the device and normalised there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mae_lite.data.bad_files import BadFile
from mae_lite.data.plan import Indices
from mae_lite.data.transforms import Pixels


class Sample(NamedTuple):
    """An image that was read."""

    position: int
    """Where it is in the source."""
    views: Sequence[Pixels]
    """[C, H, H] each."""
    local_views: Sequence[Pixels] = ()
    """[C, S, S] each."""


@dataclass(frozen=True)
class Batch:
    """B samples."""

    images: Tensor
    """[B, C, H, H] uint8, or [B, V, C, H, H] of V > 1 views; float32 and normalised after :func:`to_device`."""
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


def collated(
    samples: Sequence[Sample], labels: Indices, shape: tuple[int, int, int], bad: tuple[BadFile, ...]
) -> Batch:
    """Return a batch of uint8 images.

    Args:
        samples: as many as there are, all with the same number of views.
        labels: [N] of the whole source.
        shape: [C, H, H] of an image, for a batch without any.
        bad: images that could not be read.
    """
    ids = np.array([sample.position for sample in samples], dtype=np.int64)
    images = _stacked([sample.views for sample in samples]) if samples else torch.empty(0, 1, *shape, dtype=torch.uint8)
    local = [sample.local_views for sample in samples if sample.local_views]
    return Batch(
        images[:, 0] if images.shape[1] == 1 else images,
        torch.from_numpy(labels[ids]),
        torch.from_numpy(ids),
        bad,
        _stacked(local) if local else None,
    )


def _stacked(rows: Sequence[Sequence[Pixels]]) -> Tensor:
    """Return the B rows of V views [C, H, H] as [B, V, C, H, H]."""
    flat = np.stack([pixels for row in rows for pixels in row])
    return torch.from_numpy(flat.reshape(len(rows), -1, *flat.shape[1:]))


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
    images, labels, ids = (tensor.to(device, non_blocking=True) for tensor in (batch.images, batch.labels, batch.ids))
    centre, spread = (torch.tensor(values).view(1, -1, 1, 1).to(device, non_blocking=True) for values in (mean, std))

    def normalised(pixels: Tensor) -> Tensor:
        return pixels.float().div_(255).sub_(centre).div_(spread)

    local = None if batch.local_images is None else normalised(batch.local_images.to(device, non_blocking=True))
    return Batch(normalised(images), labels, ids, batch.bad, local)
