"""The one training loop, used by every method.

An update number `step` is a function of the weights before it, the recipe's seed and `step` itself. Named
exception to the independence of ranks and micro-batches: drop path, drawn by torch from a seed made of the seed,
the step, the rank and the micro-batch (a resumed run repeats it exactly).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from torch import Tensor

from mae_lite import config
from mae_lite.data.batch import Batch
from mae_lite.data.plan import Plan
from mae_lite.display import Show
from mae_lite.engine import checkpoint
from mae_lite.engine.checkpoint import Progress
from mae_lite.engine.failure import check_state, kept
from mae_lite.engine.meter import Meter, Waited
from mae_lite.engine.optim import LearningRate, WeightDecay
from mae_lite.engine.ranks import on_rank_zero
from mae_lite.engine.signals import StopSignals
from mae_lite.engine.update import Updates
from mae_lite.errors import DiskError, NotFinite
from mae_lite.methods.base import Method

_log = logging.getLogger(__name__)
_SAVES_MAY_FAIL = 3
SAVE_SECONDS = 60.0
SAVE_SHARE = 0.02
_SAVE_PATIENCE_S = 120.0
"""What a checkpoint may take after a signal: a slow disk must not cost the updates since the last one."""


@dataclass(frozen=True)
class Probe:
    """Something to do beside training, at its own rhythm. It must change neither weights nor random generators."""

    measure: Callable[[int, Any], Mapping[str, float]]
    """(finished updates, encoder in eval mode) -> numbers for metrics.jsonl; "val_top1" decides which state is best."""
    every_epochs: float
    """Epochs between two times; the end of the schedule always is one."""
    at_start: bool = False
    """Also before the first update."""


def _nothing(*_: Any, **__: Any) -> None:
    pass


@dataclass
class Job:
    """All the parts of a run, built and restored."""

    recipe: config.Recipe
    runtime: config.Runtime
    fabric: Fabric
    method: Method
    wrapped: Any
    optimizer: Any
    rate: LearningRate
    decay: WeightDecay
    plan: Plan
    batches: Callable[[int, int], Iterator[Batch]]
    folder: Path
    signals: StopSignals
    loading: Literal["workers", "resident"] = "workers"
    """How images come."""
    skipped: frozenset[int] = frozenset()
    """Updates that are left out."""
    name_of: Callable[[int], str] = str
    """Position of a training image -> what to call it."""
    ema: Any = None
    probes: Sequence[Probe] = ()
    log: Callable[[Mapping[str, Any]], None] = _nothing
    """Takes a row of metrics; all ranks but the first leave it out."""
    display: Show = _nothing


def train(job: Job, progress: Progress) -> Literal["finished", "stopped", "paused"]:
    """Make updates until the schedule ends ("finished"), a signal comes ("stopped") or stop_after_steps ("paused").

    Raises:
        NotFinite: at an update with a loss or gradient that is not finite, which is not made, as none after it; names
            the bundle that keeps it.
        DiskError: when the last checkpoint, or several in a row, cannot be written.
    """
    fabric, end = job.fabric, job.rate.total_steps
    last = min(end, job.runtime.stop_after_steps or end)
    batches = Waited(job.batches(progress.step, last), fabric.device)
    meter, updates = Meter(fabric, job.plan, job.method, progress, batches), Updates(job, batches)
    saver = _Saver(job, progress)
    job.wrapped.train()
    if progress.step == 0:
        _run_probes(job, progress, updates)
    if _agree(fabric, job.signals.requested is not None, False)[0]:  # before the first update: nothing to save
        return "stopped"
    while progress.step < last:
        step = progress.step
        norm = _norm_of_update(job, progress, meter, updates)
        job.signals.moved()
        better = _run_probes(job, progress, updates)
        row = None
        if norm is not None and _due(progress.step, job.runtime.log_every_steps, end):
            _settle(job, progress, updates)
            row = meter.row(job.rate(step), norm)
            job.log(row)
        job.display(progress.step, row)
        stop, save = _agree(fabric, job.signals.requested is not None, saver.due() or better)
        if stop or save or progress.step == last:
            _settle(job, progress, updates)
            meter.store()
            with job.signals.patient(_SAVE_PATIENCE_S):
                saver.save(final=stop or progress.step == last)
        if stop:
            return "stopped"
    return "finished" if progress.step >= end else "paused"


def _norm_of_update(job: Job, progress: Progress, meter: Meter, updates: Updates) -> Tensor | None:
    """Make the next update, or leave it out if it is one of those; return the gradients' norm, None without."""
    if progress.step in job.skipped:
        with _kept_if_it_fails(job, progress, updates):
            updates.leave_out()
        progress.step += 1
        epoch = round(progress.step / job.plan.steps_per_epoch, 4)
        job.log({"step": progress.step, "epoch": epoch, "left_out": 1})
        return None
    with _kept_if_it_fails(job, progress, updates):
        numbers, norm = updates.make(progress.step)
    progress.step += 1
    meter.add(numbers)
    return norm


@contextmanager
def _kept_if_it_fails(job: Job, progress: Progress, updates: Updates) -> Iterator[None]:
    """Publish the bundle of an update that turns out not to be finite: this one, or the last that seemed made."""
    try:
        yield
    except NotFinite as failure:
        taken_back = progress.step - failure.blamed
        progress.step -= taken_back
        progress.loss_count -= taken_back
        raise kept(job, progress, updates.seen, failure) from failure


def _settle(job: Job, progress: Progress, updates: Updates) -> None:
    """Make sure that the last update was made, before anybody looks at what came of it."""
    with _kept_if_it_fails(job, progress, updates):
        updates.settle()


def _due(step: int, every: float, end: int) -> bool:
    """Say whether ``step`` is one of every ``every``; where a run pauses makes no difference to its rows."""
    return step == end or int(step / every) > int((step - 1) / every)


def times_due(every: float, end: int) -> int:
    """Return how often a probe of every ``every`` updates is measured in ``end`` of them."""
    return sum(_due(step, every, end) for step in range(1, end + 1))


def _run_probes(job: Job, progress: Progress, updates: Updates) -> bool:
    """Measure what is due; return whether this is the best so far, and so a state to keep."""
    step, epoch, end = progress.step, job.plan.steps_per_epoch, job.rate.total_steps
    due = [p for p in job.probes if (_due(step, p.every_epochs * epoch, end) if step else p.at_start)]
    if not due:
        return False
    _settle(job, progress, updates)
    model = job.ema.module if job.ema is not None else job.method
    model.eval()
    job.signals.moved(expected=False)
    alive = model.encoder.register_forward_hook(lambda *_: job.signals.moved(expected=False))
    with torch.no_grad():
        numbers = {name: value for probe in due for name, value in probe.measure(step, model.encoder).items()}
    alive.remove()
    job.wrapped.train()
    progress.measured |= numbers
    accuracy = numbers.get("val_top1")
    better = accuracy is not None and (progress.best is None or accuracy > progress.best)
    if better:
        progress.best, progress.best_step = accuracy, step
    if numbers:
        job.log({"step": step, "epoch": round(step / epoch, 4), **numbers})
        job.display(step, numbers)
    return better


def _agree(fabric: Fabric, stop: bool, save: bool) -> tuple[bool, bool]:
    """Let every rank do what any rank wants, so that all stop and save at the same step."""
    if fabric.world_size == 1:
        return stop, save
    flags = torch.tensor([int(stop), int(save)], device=fabric.device)
    torch.distributed.all_reduce(flags, op=torch.distributed.ReduceOp.MAX)
    return bool(flags[0]), bool(flags[1])


class _Saver:
    """Decides when to save, and survives saves that fail for a while."""

    def __init__(self, job: Job, progress: Progress) -> None:
        self._job, self._progress = job, progress
        self._last, self._cost, self._failures = time.monotonic(), 0.0, 0

    def due(self) -> bool:
        every = self._job.runtime.save_every_steps
        if every is not None:
            return self._progress.step % every == 0
        return time.monotonic() - self._last > max(SAVE_SECONDS, self._cost / SAVE_SHARE)

    def save(self, final: bool) -> None:
        check_state(self._job, self._progress)
        start = time.monotonic()
        try:
            on_rank_zero(self._job.fabric, self._write)
            self._failures = 0
        except DiskError as error:
            self._failures += 1
            if final or self._failures >= _SAVES_MAY_FAIL:
                raise
            message = str(error).replace("\nFix:", ";")
            _log.warning("checkpoint of step %d failed, training goes on: %s", self._progress.step, message)
        self._last = time.monotonic()
        self._cost = self._last - start

    def _write(self) -> None:
        job = self._job
        checkpoint.save(job.folder, self._progress, job.method, job.optimizer.optimizer, job.ema)
