"""What travels from the loader to the loop: samples, and batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor

from mae_lite.data.bad_files import BadFile
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
