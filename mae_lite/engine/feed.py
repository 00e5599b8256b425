"""What updates are made from, on its way to the device.

The host may have to wait for a device that works beside it, to learn whether an update was finite. What the next update
needs of the host is prepared before that, while the device computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from mae_lite.data.batch import Batch, uploaded

if TYPE_CHECKING:
    from mae_lite.engine.loop import Job

WORK_BESIDE = ("cuda",)
"""Kinds of devices whose work goes on meanwhile, and to which memory is copied without waiting."""


class Food(NamedTuple):
    """A micro-batch of an update, on the device."""

    batch: Batch
    """Images as bytes."""
    drawn: dict[str, Tensor]
    """The method's random numbers for them."""


class Feed:
    """Micro-batches with their draws, one after the other."""

    def __init__(self, job: Job, batches: Iterator[Batch]) -> None:
        """Bring ``batches`` to the device of ``job``, one by one."""
        self._job, self._batches = job, batches
        self._ready: Callable[[], Food] | None = None

    def take(self, step: int, rows: range) -> Food:
        """Return the next micro-batch, which is ``rows`` of the global batch of update ``step``."""
        ready, self._ready = self._ready, None
        return self._made(step, rows) if ready is None else ready()

    def prepare(self, step: int, rows: range) -> None:
        """Do the work of the next :meth:`take` now, where that costs no time; what fails is raised there."""
        if self._job.fabric.device.type not in WORK_BESIDE:
            return
        try:
            food = self._made(step, rows)
        except StopIteration:
            return  # the next take meets it again
        except Exception as error:  # bad images, for instance: of no concern to the update that goes on
            self._ready = _raising(error)
        else:
            self._ready = lambda: food

    def leave_out(self) -> None:
        """Pass over a micro-batch; what failed when it was prepared is raised."""
        ready, self._ready = self._ready, None
        if ready is None:
            next(self._batches)
        else:
            ready()

    def _made(self, step: int, rows: range) -> Food:
        return Food(next(self._batches).to(self._job.fabric.device), drawn(self._job, step, rows))


def drawn(job: Job, step: int, rows: range) -> dict[str, Tensor]:
    """Return the method's random numbers for ``rows`` of the global batch of update ``step``, on the device."""
    found = job.method.draw(job.recipe.seed, step, rows)
    return {name: uploaded(value, job.fabric.device) for name, value in found.items()}


def _raising(error: Exception) -> Callable[[], Food]:
    def fail() -> Food:
        raise error

    return fail
