"""What a run reads: its images, their division into updates, and the loaders."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from lightning_fabric import Fabric

from mae_lite import config
from mae_lite.data.loader import Batch, evaluation_loader, training_loader
from mae_lite.data.plan import Plan
from mae_lite.data.sources import Source, check_classes, few_labels, open_source, stratified_split, subset
from mae_lite.data.transforms import EvalTransform, TrainTransform
from mae_lite.errors import ConfigError, DataError

_MICRO_LIMIT = {"cpu": 256, "mps": 256, "cuda": 1024}


def images(recipe: config.Recipe, runtime: config.Runtime) -> tuple[Source, Source | None]:
    """Open the training images and, for supervised runs, the validation images.

    Raises:
        DataError: when they are missing, or unfit for a classifier.
    """
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
        check_classes(train.classes, runtime.data, held_out)
    elif recipe.validation_fraction > 0:
        kept, rest = stratified_split(train.labels, recipe.validation_fraction, recipe.seed)
        train, held_out = subset(train, kept), subset(train, rest)
    if recipe.labels_per_class is not None:
        train = subset(train, few_labels(train.labels, recipe.labels_per_class, recipe.seed, train.classes))
    return train, held_out


def plan(recipe: config.Recipe, runtime: config.Runtime, fabric: Fabric, samples: int) -> Plan:
    """Divide the updates over ranks and micro-batches.

    Raises:
        ConfigError: when the numbers do not fit together.
    """
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


def batches(
    recipe: config.Recipe, runtime: config.Runtime, source: Source, order: Plan, fabric: Fabric, start: int, stop: int
) -> Iterator[Batch]:
    """Load this rank's micro-batches of updates ``start`` to ``stop`` - 1."""
    channels = recipe.encoder.channels
    transform = TrainTransform(recipe.augmentation, recipe.encoder.image_size, channels)
    loader = training_loader(
        source,
        transform,
        order,
        channels=channels,
        start_step=start,
        stop_step=stop,
        workers=_workers(runtime, source),
        pin_memory=fabric.device.type == "cuda",
    )
    return iter(loader)


def in_order(
    recipe: config.Recipe, runtime: config.Runtime, source: Source, *, ranks: int = 1, rank: int = 0
) -> Iterable[Batch]:
    """Load a rank's share of ``source`` once, unaugmented and in order."""
    return evaluation_loader(
        source,
        EvalTransform(recipe.augmentation, recipe.encoder.image_size, recipe.encoder.channels),
        batch_size=256,
        channels=recipe.encoder.channels,
        workers=_workers(runtime, source),
        ranks=ranks,
        rank=rank,
    )


def _workers(runtime: config.Runtime, source: Source) -> int:
    if runtime.workers is not None:
        return runtime.workers
    return 0 if source.in_memory else max(1, min(16, (torch.multiprocessing.cpu_count() or 1) // runtime.devices))
