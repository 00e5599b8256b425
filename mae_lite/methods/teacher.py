"""What all methods share that learn from a frozen teacher: the teacher itself, where it lives, and its time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor

from mae_lite.errors import ConfigError
from mae_lite.methods.base import Method


class Teacher:
    """A frozen timm Vision Transformer. Not a module, so that no optimiser, checkpoint or average ever holds it."""

    def __init__(
        self, model: Any, sha256: str, mean: tuple[float, ...] | None = None, std: tuple[float, ...] | None = None
    ) -> None:
        """Freeze ``model``.

        Args:
            model: a timm model.
            sha256: identifies its weights, and whatever else decides what it puts out.
            mean: of each channel of the pixels in 0 to 1 that it takes; None takes what the recipe says.
            std: their deviation; None likewise.
        """
        self.model, self.sha256 = model.eval().requires_grad_(False), sha256
        self.mean, self.std = mean, std

    def __deepcopy__(self, memo: dict[int, Any]) -> Teacher:
        """Return itself: an average of the student's weights needs no second teacher."""
        return self


class Taught(Method):
    """A method with a teacher."""

    teacher: Teacher | None = None
    """Set before the first step; not needed to load the student."""

    def __init__(self) -> None:
        """Start the clock."""
        super().__init__()
        self._clock = Clock()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the teacher along, to another device or precision."""
        if self.teacher is not None:
            self.teacher.model._apply(fn)
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call, no-any-return]

    def seconds(self) -> dict[str, float]:
        """Return the teacher's time since the last call."""
        return {"teacher": self._clock.read()}

    def known_teacher(self) -> Teacher:
        """Return the teacher.

        Raises:
            ConfigError: when none was set.
        """
        if self.teacher is None:
            raise ConfigError(
                "this method distils, and has no teacher", fix="set method.teacher before the first step, or --teacher"
            )
        return self.teacher


class Clock:
    """Adds up the time that pieces of work take on the device; on a GPU nothing waits for it before :meth:`read`."""

    def __init__(self) -> None:
        """Start at zero."""
        self._total, self._events = 0.0, list[tuple[Any, Any]]()

    def __deepcopy__(self, memo: dict[int, Any]) -> Clock:
        """Return a clock of its own, for the copy in an average of the weights; events cannot be copied."""
        return Clock()

    @contextmanager
    def running(self, device: torch.device) -> Iterator[None]:
        """Count what happens inside."""
        if device.type == "cuda":
            event: Any = torch.cuda.Event
            start, end = event(enable_timing=True), event(enable_timing=True)
            start.record()
            yield
            end.record()
            self._events.append((start, end))
        else:
            began = time.perf_counter()
            yield
            self._total += time.perf_counter() - began

    def read(self) -> float:
        """Return the seconds since the last call."""
        for start, end in self._events:
            end.synchronize()
            self._total += start.elapsed_time(end) / 1000
        total, self._total = self._total, 0.0
        self._events.clear()
        return total
