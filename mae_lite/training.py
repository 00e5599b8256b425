"""A stage: a recipe and its runtime in, a run folder out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mae_lite import config, files, methods, rundir
from mae_lite.data.loader import Batch, evaluation_loader, training_loader
from mae_lite.data.plan import Plan
from mae_lite.data.sources import Source, check_classes, few_labels, open_source, stratified_split, subset
from mae_lite.data.transforms import EvalTransform, TrainTransform
from mae_lite.display import display
from mae_lite.engine import checkpoint, loop
from mae_lite.engine.checkpoint import Progress
from mae_lite.engine.optim import LearningRate, build_optimizer
from mae_lite.engine.ranks import on_rank_zero, start_fabric
from mae_lite.engine.signals import StopSignals
from mae_lite.errors import ConfigError, DataError, MaeLiteError
from mae_lite.evaluation.accuracy import measure
from mae_lite.evaluation.load import load_initial
from mae_lite.evaluation.preview import reconstruction_png
from mae_lite.methods.base import Method
from mae_lite.methods.mae import MaskedAutoencoder
from mae_lite.models import timm_folder
from mae_lite.tensorboard import EventFiles

_log = logging.getLogger(__name__)
_MICRO_LIMIT = {"cpu": 256, "mps": 256, "cuda": 1024}


@dataclass(frozen=True)
class Outcome:
    """How a stage ended."""

    folder: Path
    state: str
    """finished, stopped (by a signal; resumable) or paused (at stop_after_steps; resumable)."""
    step: int
    total_steps: int


def run(recipe: config.Recipe, runtime: config.Runtime) -> Outcome:
    """Train, or continue, the run that ``recipe`` and ``runtime`` describe.

    Raises:
        MaeLiteError: with an explanation; it stands in the folder's ``status.json`` too.
    """
    with StopSignals() as signals:
        folder = Path(runtime.out) if runtime.out else rundir.default_folder(recipe, runtime)
        train, held_out = _images(recipe, runtime)
        fabric = start_fabric(recipe, runtime)
        description = rundir.describe(recipe, runtime, train.classes, train.fingerprint())
        record = on_rank_zero(fabric, partial(rundir.RunDir, folder, description))
        try:
            return _run(recipe, runtime, fabric, signals, folder, record, (train, held_out))
        except MaeLiteError as error:
            if record is not None:
                record.status("failed", message=str(error))
            raise
        finally:
            if record is not None:
                record.close()


def _run(
    recipe: config.Recipe,
    runtime: config.Runtime,
    fabric: Fabric,
    signals: StopSignals,
    folder: Path,
    record: rundir.RunDir | None,
    images: tuple[Source, Source | None],
) -> Outcome:
    train, held_out = images
    plan = _plan(recipe, runtime, fabric, len(train))
    rate = LearningRate.of(recipe, plan.steps_per_epoch)
    method = methods.build(recipe, len(train.classes or ()))
    found = checkpoint.newest(folder)
    if found is None:
        load_initial(method, recipe, runtime.init)
    ema = _average(method, recipe)
    plain = build_optimizer(method, recipe)
    wrapped, optimizer = fabric.setup(method, plain)
    if ema is not None:
        ema.to(fabric.device)
    progress = Progress() if found is None else checkpoint.restore(found[1], method, plain, ema)
    if record is not None:
        record.cut(progress.step)
        record.record_start(
            device=_device_name(fabric), ranks=fabric.world_size, data=train.describe(), resumed_at=progress.step
        )
        record.status("running", step=progress.step, total_steps=rate.total_steps)
    log = _logger(runtime, folder, record, progress)
    job = loop.Job(
        recipe=recipe,
        runtime=runtime,
        fabric=fabric,
        method=method,
        wrapped=wrapped,
        optimizer=optimizer,
        rate=rate,
        plan=plan,
        batches=partial(_batches, recipe, runtime, train, plan, fabric),
        folder=folder,
        log=log,
        signals=signals,
        display=display(recipe.name, progress.step, rate.total_steps, runtime.progress and fabric.is_global_zero),
        probes=_probes(recipe, runtime, held_out, fabric),
        ema=ema,
    )
    _announce(job, progress, train)
    state = loop.train(job, progress) if progress.step < rate.total_steps else "finished"
    if record is not None:
        if state == "finished":
            _publish(job, train)
        record.status(state, step=progress.step, total_steps=rate.total_steps, best=progress.best, **progress.measured)
    return Outcome(folder, state, progress.step, rate.total_steps)


def _logger(
    runtime: config.Runtime, folder: Path, record: rundir.RunDir | None, progress: Progress
) -> Callable[[Mapping[str, Any]], None]:
    if record is None:
        return lambda row: None  # noqa: ARG005
    if not runtime.tensorboard:
        return record.log
    events = EventFiles(folder / "tensorboard", progress.step)

    def log(row: Mapping[str, Any]) -> None:
        record.log(row)
        events.log(row)

    return log


def _images(recipe: config.Recipe, runtime: config.Runtime) -> tuple[Source, Source | None]:
    """Open the training images and, for supervised runs, the validation images."""
    train = open_source(runtime.data, "train")
    if not isinstance(recipe.method, config.Supervised):
        return train, None
    if train.classes is None or len(train.classes) < 2:
        found = "no labels" if train.classes is None else f"one class, {train.classes[0]!r}"
        raise DataError(
            f"{runtime.data!r} cannot train a classifier",
            found=found,
            expected="at least two classes",
            fix="give labelled images, e.g. a folder with one sub-folder per class",
        )
    held_out: Source | None = None
    if runtime.val_data is not None:
        held_out = open_source(runtime.val_data, "test")
        check_classes(train, held_out)
    elif recipe.validation_fraction > 0:
        kept, rest = stratified_split(train.labels, recipe.validation_fraction, recipe.seed)
        train, held_out = subset(train, kept), subset(train, rest)
    if recipe.labels_per_class is not None:
        train = subset(train, few_labels(train.labels, recipe.labels_per_class, recipe.seed, train.classes))
    return train, held_out


def _plan(recipe: config.Recipe, runtime: config.Runtime, fabric: Fabric, samples: int) -> Plan:
    share, left = divmod(recipe.global_batch_size, fabric.world_size)
    if left:
        raise ConfigError(
            "global_batch_size",
            found=str(recipe.global_batch_size),
            expected=f"a multiple of the {fabric.world_size} devices",
            fix=f"--global-batch-size {(share + 1) * fabric.world_size}",
        )
    mixes = isinstance(recipe.method, config.Supervised) and (recipe.method.mixup > 0 or recipe.method.cutmix > 0)
    micro = runtime.micro_batch_size
    if micro is None:
        limit = _MICRO_LIMIT.get(fabric.device.type, 256)
        sizes = [size for size in range(1, min(share, limit) + 1) if share % size == 0 and (size % 2 == 0 or not mixes)]
        micro = max(sizes, default=share)
    if mixes and micro % 2:
        raise ConfigError(
            "micro_batch_size",
            found=str(micro),
            expected="an even number, because mixing pairs neighbours",
            fix=f"--global-batch-size {2 * fabric.world_size * max(1, share // 2)} --micro-batch-size 2",
        )
    return Plan(
        samples=samples,
        global_batch_size=recipe.global_batch_size,
        micro_batch_size=micro,
        seed=recipe.seed,
        ranks=fabric.world_size,
        rank=fabric.global_rank,
    )


def _batches(
    recipe: config.Recipe, runtime: config.Runtime, source: Source, plan: Plan, fabric: Fabric, start: int, stop: int
) -> Iterator[Batch]:
    channels = recipe.encoder.channels
    transform = TrainTransform(recipe.augmentation, recipe.encoder.image_size, channels)
    loader = training_loader(
        source,
        transform,
        plan,
        channels=channels,
        start_step=start,
        stop_step=stop,
        workers=_workers(runtime, source),
        pin_memory=fabric.device.type == "cuda",
    )
    return iter(loader)


def _workers(runtime: config.Runtime, source: Source) -> int:
    if runtime.workers is not None:
        return runtime.workers
    return 0 if source.in_memory else max(1, min(16, (torch.multiprocessing.cpu_count() or 1) // runtime.devices))


def _probes(
    recipe: config.Recipe, runtime: config.Runtime, held_out: Source | None, fabric: Fabric
) -> tuple[loop.Probe, ...]:
    if held_out is None:
        return ()
    augmentation, source = recipe.augmentation, held_out

    def validate(step: int, model: Any) -> dict[str, float]:
        del step
        batches, mean, std = _in_order(recipe, runtime, source, fabric), augmentation.mean, augmentation.std
        result = measure(model, batches, len(source.classes or ()), device=fabric.device, mean=mean, std=std)
        return {"val_top1": result.top1, "val_macro": result.macro}

    return (validate,)


def _in_order(recipe: config.Recipe, runtime: config.Runtime, source: Source, fabric: Fabric) -> Iterable[Batch]:
    return evaluation_loader(
        source,
        EvalTransform(recipe.augmentation, recipe.encoder.image_size, recipe.encoder.channels),
        batch_size=256,
        channels=recipe.encoder.channels,
        workers=_workers(runtime, source),
        ranks=fabric.world_size,
        rank=fabric.global_rank,
    )


def _average(method: Method, recipe: config.Recipe) -> AveragedModel | None:
    if recipe.ema_decay is None:
        return None
    return AveragedModel(method, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_decay))  # type: ignore[no-untyped-call]


def _publish(job: loop.Job, train: Source) -> None:
    """Write the finished model as a timm folder, and for MAE a picture of what it paints."""
    model = (job.ema.module if job.ema is not None else job.method).encoder
    if isinstance(job.recipe.method, config.Supervised):
        pooling = "avg" if job.recipe.method.pooling == "mean" else "token"
        files.publish_folder(
            job.folder / "classifier", timm_folder.contents(model, job.recipe, train.classes, pooling=pooling)
        )
    else:
        files.publish_folder(job.folder / "encoder", timm_folder.contents(model, job.recipe, None))
    if isinstance(job.method, MaskedAutoencoder):
        files.make_folder(job.folder / "previews")
        fixed = next(iter(_in_order(job.recipe, job.runtime, subset(train, range(min(8, len(train)))), job.fabric)))
        picture = reconstruction_png(job.method, fixed, job.recipe)
        files.write_bytes(job.folder / "previews" / f"step_{job.rate.total_steps}.png", picture)


def _announce(job: loop.Job, progress: Progress, train: Source) -> None:
    if not job.fabric.is_global_zero:
        return
    _log.info("%s: %s", job.recipe.name, train.describe())
    _log.info("run folder %s", job.folder)
    if progress.step:
        _log.info("continuing at step %d of %d", progress.step, job.rate.total_steps)
    if job.plan.micro_batches > 1:
        _log.info("gradients of %d micro-batches of %d are added up", job.plan.micro_batches, job.plan.micro_batch_size)
    if job.recipe.precision == "bf16" and job.fabric.device.type != "cuda":
        _log.info("float32 on %s; bf16 needs a CUDA device", job.fabric.device.type)


def _device_name(fabric: Fabric) -> str:
    if fabric.device.type == "cuda":
        return torch.cuda.get_device_name(fabric.device)
    return f"{fabric.device.type}, {torch.get_num_threads()} threads"
