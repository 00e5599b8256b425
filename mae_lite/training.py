"""A stage: a recipe and its runtime in, a run folder out."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mae_lite import config, ending, files, inputs, left_out, loading, memory, methods, probing, rundir
from mae_lite.advice import Collapsing, Spiking, Starving
from mae_lite.data import labels_file
from mae_lite.data.sources import Source, at_hand, usable_cpus
from mae_lite.display import display
from mae_lite.engine import checkpoint, loop
from mae_lite.engine.checkpoint import Progress
from mae_lite.engine.compiling import compiled
from mae_lite.engine.optim import LearningRate, WeightDecay, build_optimizer
from mae_lite.engine.peers import Peers
from mae_lite.engine.ranks import on_rank_zero, peak_memory_mb, start_fabric
from mae_lite.engine.signals import StopSignals
from mae_lite.errors import ConfigError, MaeLiteError, NotFinite, in_line
from mae_lite.evaluation.incoming import check_start
from mae_lite.evaluation.load import check_initial, init_digest, load_initial
from mae_lite.evaluation.teacher import load_teacher
from mae_lite.loggers import Loggers, opening
from mae_lite.methods.base import Method
from mae_lite.methods.teacher import Taught, Teacher
from mae_lite.models import timm_folder

_log = logging.getLogger(__name__)
_PATIENCE_S = 10.0
"""How long after a signal a run may take to the next sign of life."""


@dataclass(frozen=True)
class Outcome:
    """How a stage ended."""

    folder: Path
    state: str
    """finished, stopped (by a signal; resumable) or paused (at stop_after_steps; resumable)."""
    step: int
    total_steps: int
    best: float | None = None
    """Highest share of the validation images that were recognised, in [0, 1]; None where none were measured."""


def run(recipe: config.Recipe, runtime: config.Runtime, images: Source | None = None) -> Outcome:
    """Train, or continue, the run that ``recipe`` and ``runtime`` describe.

    Args:
        recipe: what to do.
        runtime: where and how.
        images: training images in place of ``runtime.data``, which then is only what to call them; for instance
            ``mae_lite.from_dataset(dataset)``.

    Raises:
        MaeLiteError: with an explanation; it stands in the folder's ``status.json`` too.
    """
    if runtime.override and not runtime.out:
        raise ConfigError("override", found="no --out", expected="the run that goes on", fix="add --out FOLDER")
    check_start(recipe, runtime.init)  # before anything is made or read
    opening.check(runtime.loggers_used)
    rundir.check_place(Path(runtime.out or "runs"))
    with StopSignals(_PATIENCE_S) as signals:
        weights = init_digest(runtime.init)
        teacher = load_teacher(recipe, runtime.teacher)
        taught = None if teacher is None else teacher.sha256
        folder = Path(runtime.out) if runtime.out else rundir.default_folder(recipe, runtime, weights, taught)
        train, held_out = inputs.images(recipe, runtime, images)
        fabric = start_fabric(recipe, runtime)
        ranks = fabric.global_rank, fabric.world_size
        with Peers(*ranks, fabric.barrier, partial(ending.remaining, folder)) as peers:
            with peers.together():
                if not rundir.checkpoints(folder):  # what does not fit leaves no folder behind
                    inputs.plan(recipe, runtime, fabric, len(train), train.windows)
                    if runtime.init is not None:
                        check_initial(recipe, len(train.classes or ()), runtime.init, runtime.allow_missing)
                description = rundir.describe(recipe, runtime, train.classes, train.fingerprint(), weights, taught)
                peak = partial(peak_memory_mb, fabric.device)
                opened = partial(rundir.RunDir, folder, description, peak, runtime.override, train.changes_since)
                record = on_rank_zero(fabric, opened)
            if record is not None:
                peers.last_words = partial(ending.note, record)
            signals.last_words = peers.end
            with ending.recorded(record), peers.together(), memory.explained(recipe, runtime, fabric, len(train)):
                while True:
                    try:
                        return _run(recipe, runtime, fabric, signals, folder, record, (train, held_out), teacher)
                    except NotFinite as failure:
                        if runtime.on_nan == "stop":
                            raise
                        on_rank_zero(fabric, partial(ending.leave_out, folder, failure))
                    gc.collect()  # the model and its gradients, before there is another


def _run(
    recipe: config.Recipe,
    runtime: config.Runtime,
    fabric: Fabric,
    signals: StopSignals,
    folder: Path,
    record: rundir.RunDir | None,
    images: tuple[Source, Source | None],
    teacher: Teacher | None,
) -> Outcome:
    train, held_out = images
    job, progress = assemble(recipe, runtime, fabric, signals, folder, train, teacher)
    job.probes = probing.probes(job, train, held_out)
    total = job.rate.total_steps
    over = ending.finished_at(folder) == total
    with Loggers({}) if record is None else _begin(job, progress, record, train) as loggers:
        shown = runtime.progress and fabric.is_global_zero
        if shown:
            _announce(job, progress, train)
        with display(recipe.name, progress.step, total, shown) as job.display:
            state = loop.train(job, progress)
        if record is not None:
            published = {"encoder", "classifier"} & {path.name for path in folder.iterdir()}
            if state == "finished" and not (over and published):  # what lies there may be the model of fewer epochs
                _publish(job, train)
            record.status(state, step=progress.step, total_steps=total, best=progress.best, **progress.measured)
        loggers.state = state
    return Outcome(folder, state, progress.step, total, progress.best)


def _begin(job: loop.Job, progress: Progress, record: rundir.RunDir, train: Source) -> Loggers:
    """Write down how this start goes on, and let the run's rows be logged."""
    record.cut(progress.step)
    ranks, recipe = job.fabric.world_size, job.recipe
    last = rundir.last_start(record.path)
    before = last.get("ranks", ranks)
    if progress.step and before != ranks:
        _log.warning("begun on %d ranks, goes on on %d: the same images, but the last bits may differ", before, ranks)
    facts: dict[str, Any] = {"device": _device_name(job.fabric), "ranks": ranks, "data": train.describe()}
    facts |= {"left_out": sorted(job.skipped)} if job.skipped else {}
    # Of the run, for loggers; one that starts anew is another run to them.
    facts["id"] = (progress.step and last.get("id")) or os.urandom(8).hex()
    record.record_start(**facts, pixels=job.runtime.pixels, loading=job.loading, resumed_at=progress.step)
    if recipe.labels_per_class is not None or recipe.label_fraction is not None:
        files.write_text(record.path / labels_file.FILE, labels_file.as_csv(train))
    record.status("running", step=progress.step, total_steps=job.rate.total_steps)
    about = rundir.read_json(record.path / "recipe.json", "a run") | {"provenance": rundir.last_start(record.path)}
    openers = opening.openers(job.runtime.loggers_used, record.path, progress.step, about)
    loggers = Loggers(openers, rundir.read_rows(record.path))
    job.log = _logger(record, loggers, _watch(job, train))
    return loggers


def assemble(
    recipe: config.Recipe,
    runtime: config.Runtime,
    fabric: Fabric,
    signals: StopSignals,
    folder: Path,
    train: Source,
    teacher: Teacher | None,
    state: tuple[int, Mapping[str, bytes]] | None = None,
) -> tuple[loop.Job, Progress]:
    """Build the parts of a run and put ``state``, the newest checkpoint, or the starting weights into them."""
    plan = inputs.plan(recipe, runtime, fabric, len(train), train.windows)
    method = methods.build(recipe, len(train.classes or ()))
    if isinstance(method, Taught):
        method.teacher = teacher
    found = state or checkpoint.newest(folder)
    if found is None:
        load_initial(method, recipe, runtime.init, runtime.allow_missing)
    ema = _average(method, recipe, fabric.device)
    plain = build_optimizer(method, recipe)
    wrapped, optimizer = fabric.setup(compiled(method, fabric.device) if runtime.compiled else method, plain)
    progress = Progress() if found is None else checkpoint.restore(found[1], method, plain, ema)
    begun = None if found is None or state is not None else rundir.last_start(folder).get("loading", "workers")
    way, batches = loading.reader(recipe, runtime, train, plan, fabric, folder, begun)
    job = loop.Job(
        recipe=recipe,
        runtime=runtime,
        fabric=fabric,
        method=method,
        wrapped=wrapped,
        optimizer=optimizer,
        rate=LearningRate.of(recipe, plan.steps_per_epoch),
        decay=WeightDecay.of(recipe, plan.steps_per_epoch),
        plan=plan,
        batches=batches,
        loading=way,
        folder=folder,
        signals=signals,
        skipped=frozenset(left_out.read(folder)),
        name_of=partial(_name, train),
        ema=ema,
    )
    return job, progress


def _name(source: Source, index: int) -> str:
    try:
        return source.example(index).name
    except MaeLiteError:  # it is gone since; its place says which it was
        return f"{source.name} image {index}"


def _watch(job: loop.Job, train: Source) -> Starving | None:
    """Return what notices that images come slowly; where they are in the device's memory, nothing can be done."""
    if job.loading == "resident":
        return None
    workers = inputs.workers_of(job.runtime, train, job.fabric.world_size)
    return Starving(
        packed=at_hand(train),
        workers=workers,
        cpus=usable_cpus() // inputs.ranks_here(job.fabric.world_size),
    )


def _logger(record: rundir.RunDir, loggers: Loggers, watch: Starving | None) -> Callable[[Mapping[str, Any]], None]:
    watching = Spiking(), Collapsing()
    for row in rundir.read_rows(record.path):  # so that a run that goes on says the same as one that was never stopped
        for one in watching:
            one.heard(row)

    def log(row: Mapping[str, Any]) -> None:
        for one in watching:
            found, words = one.heard(row)
            row = {**row, **found}
            if words:
                _log.warning("%s", words)
        record.log(row)
        loggers.log(row)
        if watch is not None and (words := watch.heard(row)):
            _log.warning("%s", words)

    return log


def _average(method: Method, recipe: config.Recipe, device: torch.device) -> AveragedModel | None:
    if recipe.ema_decay is None:
        return None
    averaging = get_ema_multi_avg_fn(recipe.ema_decay)  # type: ignore[no-untyped-call]
    return AveragedModel(method, device=device, multi_avg_fn=averaging)


def _publish(job: loop.Job, train: Source) -> None:
    """Write the finished model as a timm folder."""
    method: Any = job.ema.module if job.ema is not None else job.method
    if isinstance(job.recipe.method, config.Supervised):
        pooling = "avg" if job.recipe.method.pooling == "mean" else "token"
        classifier = timm_folder.contents(method.encoder, job.recipe, train.classes, pooling=pooling)
        files.publish_folder(job.folder / "classifier", classifier)
        return
    files.publish_folder(job.folder / "encoder", timm_folder.contents(method.encoder, job.recipe, None))


def _announce(job: loop.Job, progress: Progress, train: Source) -> None:
    _log.info("%s: %s", job.recipe.name, train.describe())
    _log.info("run folder %s", in_line(job.folder))
    if progress.step >= job.rate.total_steps:
        _log.info("this run is finished")
    elif progress.step:
        _log.info("continuing at step %d of %d", progress.step, job.rate.total_steps)
    if job.loading == "resident":
        _log.info("all images are kept in the memory of the device, and augmented there")
    if job.plan.micro_batches > 1:
        _log.info("gradients of %d micro-batches of %d are added up", job.plan.micro_batches, job.plan.micro_batch_size)
    if job.recipe.precision == "bf16" and job.fabric.device.type != "cuda":
        _log.info("float32 on %s; bf16 needs a CUDA device", job.fabric.device.type)


def _device_name(fabric: Fabric) -> str:
    if fabric.device.type == "cuda":
        return torch.cuda.get_device_name(fabric.device)
    return f"{fabric.device.type}, {torch.get_num_threads()} threads"
