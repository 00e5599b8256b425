"""What a run measures of itself between two rows of metrics: sums of losses, images, and where the time went."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from mae_lite.data.batch import Batch
from mae_lite.data.plan import Plan
from mae_lite.engine.checkpoint import Progress
from mae_lite.methods.base import Method


class Waited:
    """Batches, and the time that was spent waiting for them while the device had nothing else to do."""

    def __init__(self, batches: Iterator[Batch], device: torch.device) -> None:
        """Start at zero."""
        self._batches, self._device, self._seconds = batches, device, 0.0

    def __iter__(self) -> Iterator[Batch]:
        """Return itself."""
        return self

    def __next__(self) -> Batch:
        """Return the next batch."""
        start, idle = time.monotonic(), _idle_after_this(self._device)
        batch = next(self._batches)
        self._seconds += min(time.monotonic() - start, idle())
        return batch

    def read(self) -> float:
        """Return the seconds since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds


def _idle_after_this(device: torch.device) -> Callable[[], float]:
    """Return what says for how many seconds the device has been idle, if what is queued now was the last of its work.

    A host that computes itself is not idle for having to do so, which is why the clock alone counts there.
    """
    if device.type != "cuda":
        return lambda: math.inf
    event: Any = torch.cuda.Event
    done = event(enable_timing=True)
    done.record()

    def idle() -> float:
        if not done.query():
            return 0.0
        now = event(enable_timing=True)
        now.record()
        now.synchronize()
        return float(done.elapsed_time(now)) / 1e3

    return idle


class Meter:
    """Sums loss and logs between two rows of metrics, without waiting for the device at every step."""

    def __init__(self, fabric: Fabric, plan: Plan, method: Method, progress: Progress, batches: Waited) -> None:
        """Go on with the sums of ``progress``."""
        self._fabric, self._plan, self._method = fabric, plan, method
        self._progress, self._batches = progress, batches
        before = {"loss": progress.loss_sum, **progress.log_sums}
        self._sums = {name: self._scalar(value) for name, value in before.items()}
        self._since, self._images = time.monotonic(), 0
        method.seconds()  # what was measured before counts for nothing

    def _scalar(self, value: float) -> Tensor:
        return torch.tensor(value, dtype=torch.float32, device=self._fabric.device)

    def add(self, numbers: Mapping[str, Tensor]) -> None:
        """Count an update."""
        for name, value in numbers.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._progress.loss_count += 1
        self._images += self._plan.global_batch_size

    def store(self) -> None:
        """Write the sums, averaged over the ranks, to the progress that is about to be saved."""
        if self._fabric.world_size > 1:
            for value in self._sums.values():
                torch.distributed.all_reduce(value)
                value /= self._fabric.world_size
        sums = {name: value.item() for name, value in self._sums.items()}
        self._progress.loss_sum, self._progress.log_sums = sums.pop("loss"), sums

    def row(self, rate: float, norm: Tensor) -> dict[str, Any]:
        """Return what metrics.jsonl gets: means since the last row; then start anew."""
        self.store()
        progress, now = self._progress, time.monotonic()
        elapsed = now - self._since
        sums = {"loss": progress.loss_sum, **progress.log_sums}
        parts = {"reading": self._batches.read(), **self._method.seconds()}
        row = {
            "step": progress.step,
            "epoch": round(progress.step / self._plan.steps_per_epoch, 4),
            **{name: value / progress.loss_count for name, value in sums.items()},
            "lr": rate,
            "grad_norm": norm.item(),
            "images_per_second": self._images / max(elapsed, 1e-9),
            "seconds": elapsed,
            **{f"{part}_share": spent / max(elapsed, 1e-9) for part, spent in parts.items()},
        }
        self._sums = {name: self._scalar(0.0) for name in sums}
        progress.loss_sum, progress.loss_count, progress.log_sums = 0.0, 0, {}
        self._since, self._images = now, 0
        return row
