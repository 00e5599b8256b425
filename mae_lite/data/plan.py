"""Which samples make up which update: arithmetic on seed, epoch and step, without reading any image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mae_lite import draws
from mae_lite.data.windows import Windows
from mae_lite.errors import ConfigError

Indices = npt.NDArray[np.int64]
Key = tuple[int, Indices]
"""What makes a batch: epoch, and sample indices [B]."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which samples make up which update.

    Each epoch is a permutation of all samples, or of those of one window after the other, cut into global batches; what
    is left at its end is dropped.
    A global batch is divided over the ranks, and each rank's part into micro-batches, as contiguous rows.
    """

    samples: int
    """Length of the training set."""
    global_batch_size: int
    """Samples per update, over all ranks and micro-batches."""
    micro_batch_size: int
    """Samples per rank and forward pass."""
    seed: int
    """Seed of the order and of the augmentation."""
    ranks: int = 1
    """Number of processes that train together."""
    rank: int = 0
    """Which one this is."""
    windows: Windows | None = field(default=None, compare=False)
    """Which samples an epoch keeps together; None mixes all."""

    def __post_init__(self) -> None:
        """Raise a ConfigError when the numbers do not fit together."""
        for name in ("global_batch_size", "micro_batch_size", "ranks"):
            if getattr(self, name) < 1:
                raise ConfigError(name, found=str(getattr(self, name)), expected="at least 1", fix=f"raise {name}")
        if not 0 <= self.rank < self.ranks:
            raise ConfigError(
                "rank", found=str(self.rank), expected=f"0 to {self.ranks - 1}", fix="launch with --devices"
            )
        if self.global_batch_size > self.samples:
            largest = self.samples - self.samples % self.ranks
            raise ConfigError(
                "global_batch_size",
                found=str(self.global_batch_size),
                expected=f"at most the {self.samples} training images",
                fix=f"--global-batch-size {largest}" if largest else "use more images or fewer devices",
            )
        self._check_division()

    def _check_division(self) -> None:
        if self.global_batch_size % self.ranks:
            nearest = max(round(self.global_batch_size / self.ranks), 1) * self.ranks
            raise ConfigError(
                "global_batch_size",
                found=str(self.global_batch_size),
                expected=f"a multiple of the {self.ranks} processes",
                fix=f"--global-batch-size {nearest}",
            )
        per_rank = self.global_batch_size // self.ranks
        if per_rank % self.micro_batch_size:
            valid = [size for size in range(1, per_rank + 1) if per_rank % size == 0]
            fitting = max(size for size in valid if size <= max(self.micro_batch_size, 1))
            raise ConfigError(
                "micro_batch_size",
                found=str(self.micro_batch_size),
                expected=f"a divisor of the {per_rank} images per process and update: {', '.join(map(str, valid))}",
                fix=f"--micro-batch-size {fitting}",
            )

    @property
    def steps_per_epoch(self) -> int:
        """Updates per epoch, at least 1."""
        return self.samples // self.global_batch_size

    @property
    def micro_batches(self) -> int:
        """Forward passes per update on each rank."""
        return self.global_batch_size // (self.ranks * self.micro_batch_size)

    def order(self, epoch: int) -> Indices:
        """Return the order of all samples in an epoch, [samples]."""
        order = draws.permutation(draws.key(self.seed, "order", epoch), self.samples)
        return order if self.windows is None else self.windows.arranged(order, self.seed, epoch)

    def rows(self, step: int) -> Indices:
        """Return the samples of the global batch of an update, [global_batch_size]."""
        epoch, position = divmod(step, self.steps_per_epoch)
        start = position * self.global_batch_size
        return self.order(epoch)[start : start + self.global_batch_size]

    def micro_rows(self, micro: int) -> range:
        """Return which rows of the global batch are this rank's micro-batch ``micro``."""
        start = self.rank * (self.global_batch_size // self.ranks) + micro * self.micro_batch_size
        return range(start, start + self.micro_batch_size)

    def keys(self, start_step: int, stop_step: int) -> Iterator[Key]:
        """Yield epoch and samples of each of this rank's micro-batches, for updates start to stop - 1."""
        current, order = -1, np.empty(0, dtype=np.int64)
        for step in range(start_step, stop_step):
            epoch, position = divmod(step, self.steps_per_epoch)
            if epoch != current:
                current, order = epoch, self.order(epoch)
            for micro in range(self.micro_batches):
                rows = self.micro_rows(micro)
                start = position * self.global_batch_size
                yield epoch, order[start + rows.start : start + rows.stop]

    def announced_keys(self, start_step: int, stop_step: int, expect: Callable[[list[int]], None]) -> Iterator[Key]:
        """Yield what :meth:`keys` does; when a window begins, tell ``expect`` of its shards and those of the next.

        Closed before its end, tell it that nothing is expected any more.
        """
        if self.windows is None:
            yield from self.keys(start_step, stop_step)
            return
        begun = None
        try:
            for epoch, samples in self.keys(start_step, stop_step):
                window = int(self.windows.of_shards(self.seed, epoch)[self.windows.shard[samples[-1]]])
                if begun != (epoch, window):
                    begun = epoch, window
                    expect(self._coming(self.windows, epoch, window, stop_step))
                yield epoch, samples
        except GeneratorExit:
            expect([])
            raise

    def _coming(self, windows: Windows, epoch: int, window: int, stop_step: int) -> list[int]:
        """Return the shards of a window and of the one after it, unless training ends before that."""
        found = windows.of_epoch(self.seed, epoch)
        images = int(np.count_nonzero(windows.of_images(self.seed, epoch) <= window))  # until the next one begins
        steps = min(images // self.global_batch_size, self.steps_per_epoch)
        coming = [found[window]]
        if epoch * self.steps_per_epoch + steps < stop_step:
            inside = steps < self.steps_per_epoch and window + 1 < len(found)  # what is left at the end is dropped
            coming.append(found[window + 1] if inside else windows.of_epoch(self.seed, epoch + 1)[0])
        return list(dict.fromkeys(np.concatenate(coming).tolist()))
