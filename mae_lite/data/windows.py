"""The order of images that lie in shards too many to have at once: window by window, a few shards in each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from mae_lite import draws

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Windows:
    """Which shard each image lies in, and how many shards are read together.

    In each epoch the shards stand in a random order, of which every ``size`` are a window; the last may have fewer.
    Windows follow each other, and images are shuffled within theirs. This depends on seed and epoch alone.
    """

    shard: Indices
    """[N] shard numbers."""
    size: int
    """Shards per window, at least 1."""

    @cached_property
    def shards(self) -> Indices:
        """The S shards that have images, sorted."""
        return np.unique(self.shard)

    def __len__(self) -> int:
        """Return the number of windows of an epoch."""
        return -(-len(self.shards) // self.size)

    def part(self, indices: Indices) -> Windows:
        """Return the windows of some of the images."""
        return Windows(self.shard[indices], self.size)

    def of_epoch(self, seed: int, epoch: int) -> list[Indices]:
        """Return the shard numbers of each window of an epoch."""
        order = draws.permutation(draws.key(seed, "shards", epoch), len(self.shards))
        return np.split(self.shards[order], range(self.size, len(order), self.size))

    def of_shards(self, seed: int, epoch: int) -> Indices:
        """Return the window of an epoch that each shard lies in, by its number; of those without images anything."""
        window = np.zeros(int(self.shards[-1]) + 1, dtype=np.int64)
        for number, shards in enumerate(self.of_epoch(seed, epoch)):
            window[shards] = number
        return window

    def of_images(self, seed: int, epoch: int) -> Indices:
        """Return the window of an epoch that each image lies in, [N]."""
        return self.of_shards(seed, epoch)[self.shard]

    def arranged(self, order: Indices, seed: int, epoch: int) -> Indices:
        """Return a shuffled ``order`` of all images with one window after the other; one window leaves it as it is."""
        if len(self) == 1:
            return order
        return order[np.argsort(self.of_images(seed, epoch)[order], kind="stable")]

    def few(self, seed: int, images: int) -> Indices:
        """Return the images of a few shards, by seed: at least ``images`` where there are; with one window all.

        Reading some images from anywhere would fetch every shard.
        """
        if len(self) == 1:
            return np.arange(len(self.shard))
        order = self.shards[draws.permutation(draws.key(seed, "few shards"), len(self.shards))]
        counts = np.bincount(self.shard)[order]
        enough = int(np.searchsorted(np.cumsum(counts), images)) + 1
        return np.flatnonzero(np.isin(self.shard, order[:enough]))
