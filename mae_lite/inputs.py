"""What a run reads: its images, their division into updates, and the loaders."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

from lightning_fabric import Fabric

from mae_lite import config, launch
from mae_lite.data.bad_files import FILE, BadFiles
from mae_lite.data.loader import Batch, evaluation_loader, training_loader, watched
from mae_lite.data.opening import open_source, own_split
from mae_lite.data.plan import Plan
from mae_lite.data.sources import Source, subset, usable_cpus
from mae_lite.data.splits import aligned, image_share, labelled_part, stratified_split
from mae_lite.data.transforms import EvalTransform, TrainTransform
from mae_lite.data.windows import Windows
from mae_lite.errors import ConfigError, DataError

_log = logging.getLogger(__name__)
EVALUATION_BATCH = 256
"""Images that are read together where nothing is learned from them."""
_MICRO_LIMIT = {"cpu": 256, "mps": 256, "cuda": 1024}


def images(recipe: config.Recipe, runtime: config.Runtime, given: Source | None = None) -> tuple[Source, Source | None]:
    """Open the training images and, for supervised runs, the validation images.

    These are, in this order: ``val_data``; the data's own validation split; a stratified part of the training images
    by seed, of the size that the recipe says. Test images never serve.

    Args:
        recipe: says whether labels are needed.
        runtime: says where the images are.
        given: training images that are open already.

    Raises:
        DataError: when they are missing, or unfit for a classifier.
        ConfigError: when validation images are given to a method that does not validate, or probes asked of one that
            does.
    """
    if runtime.val_data is not None and not isinstance(recipe.method, config.Supervised):
        raise ConfigError(
            "val_data",
            found=repr(runtime.val_data),
            expected=f"no validation images, since recipe {recipe.name!r} pre-trains without labels",
            fix="drop --val-data, or give it when fine-tuning",
        )
    if runtime.probe_every_epochs is not None and isinstance(recipe.method, config.Supervised):
        raise ConfigError(
            "probe_every_epochs",
            found=f"{runtime.probe_every_epochs:g}",
            expected=f"nothing, since recipe {recipe.name!r} trains a classifier, which is validated instead",
            fix="use --validate-every-epochs",
        )
    train = given or open_source(runtime.data, "train", allow_empty=runtime.allow_empty_classes)
    if not isinstance(recipe.method, config.Supervised):
        part = image_share(len(train), recipe.image_fraction, recipe.seed)
        return train if part is None else subset(train, part), None
    _check_classes(train, runtime.data)
    train, held_out = _held_out(recipe, runtime, train, own=given is None)
    if held_out is not None and len(held_out) == 0:
        raise _nothing_held_out(recipe, runtime, len(train))
    few = labelled_part(train.labels, recipe.labels_per_class, recipe.label_fraction, recipe.seed, train.classes)
    return train if few is None else subset(train, few), held_out


def _held_out(recipe: config.Recipe, runtime: config.Runtime, train: Source, own: bool) -> tuple[Source, Source | None]:
    """Return the training images that remain, and the validation images."""
    if runtime.val_data is not None:
        given = open_source(runtime.val_data, "val", allow_empty=runtime.allow_empty_classes)
        if given.fingerprint() == train.fingerprint():
            raise DataError(
                f"the validation data {runtime.val_data!r} are the training images",
                found=f"the same {len(given):,} images",
                expected="images that are not trained on",
                fix="give others with --val-data PATH, or drop it to set a part of the training images aside",
            )
        return train, aligned(given, train.classes, runtime.data)
    brought = own_split(runtime.data, train, "val", runtime.allow_empty_classes) if own else None
    if brought is not None:
        _log.info("validating on the data's own validation images, %s of them", f"{len(brought):,}")
        return train, aligned(brought, train.classes, runtime.data)
    if recipe.validation_fraction > 0:
        kept, rest = stratified_split(train.labels, recipe.validation_fraction, recipe.seed)
        told = "%s labelled images (--validation-fraction %g) are set aside for validation"
        _log.info(told, f"{len(rest):,}", recipe.validation_fraction)
        return subset(train, kept), subset(train, rest)
    return train, None


def _check_classes(train: Source, data: str) -> None:
    if train.classes is None or len(train.classes) < 2:
        raise DataError(
            f"{data!r} cannot train a classifier",
            found="no labels" if train.classes is None else f"one class, {train.classes[0]!r}",
            expected="at least two classes",
            fix="give labelled images, e.g. a folder with one sub-folder per class",
        )


def _nothing_held_out(recipe: config.Recipe, runtime: config.Runtime, images: int) -> DataError:
    if runtime.val_data is not None:
        return DataError(
            f"the validation data {runtime.val_data!r} are empty",
            expected="at least one image",
            fix="give other images with --val-data PATH, or drop it to set a part of the training images aside",
        )
    return DataError(
        f"no image of {runtime.data!r} can be set aside for validation",
        found=f"{images} images, one of each class, and validation_fraction {recipe.validation_fraction:g}",
        expected="a class with two images at least",
        fix="add images, give validation images with --val-data PATH, or do without: --validation-fraction 0",
    )


def plan(
    recipe: config.Recipe, runtime: config.Runtime, fabric: Fabric, samples: int, windows: Windows | None = None
) -> Plan:
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
    if recipe.couples_samples:
        _check_whole(recipe, micro, share)
        micro = share
    elif micro is None:
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
        windows=windows,
    )


def _check_whole(recipe: config.Recipe, micro: int | None, share: int) -> None:
    if micro is not None and micro != share:
        raise ConfigError(
            "micro_batch_size",
            found=str(micro),
            expected=f"the {share} images per device and update, because {recipe.method.kind} looks at all of them "
            "together: gradients of parts, added up, would train something else",
            fix="drop --micro-batch-size; to save memory use more --devices or a smaller --global-batch-size",
        )


def batches(
    recipe: config.Recipe,
    runtime: config.Runtime,
    source: Source,
    order: Plan,
    fabric: Fabric,
    folder: Path,
    start: int,
    stop: int,
) -> Iterator[Batch]:
    """Load this rank's micro-batches of updates ``start`` to ``stop`` - 1; bad images are listed in ``folder``."""
    channels = recipe.encoder.channels
    transform = TrainTransform(recipe.augmentation, recipe.encoder.image_size, channels, runtime.pixels)
    loader = training_loader(
        source,
        transform,
        order,
        channels=channels,
        reading=recipe.reading,
        start_step=start,
        stop_step=stop,
        workers=workers_of(runtime, source, fabric.world_size),
        pin_memory=fabric.device.type == "cuda",
    )
    return watched(loader, bad_files_of("train", source, runtime, folder, fabric.global_rank))


def in_order(
    recipe: config.Recipe,
    runtime: config.Runtime,
    source: Source,
    folder: Path | None,
    *,
    ranks: int = 1,
    rank: int = 0,
) -> Iterable[Batch]:
    """Load a rank's share of ``source`` once, plain and in order, without bad images.

    They are listed in ``folder`` and counted; without one, for training images that training itself will meet, not.
    """
    loader = evaluation_loader(
        source,
        EvalTransform(recipe.augmentation, recipe.encoder.image_size, recipe.encoder.channels),
        batch_size=EVALUATION_BATCH,
        channels=recipe.encoder.channels,
        reading=recipe.reading,
        workers=workers_of(runtime, source, ranks),
        ranks=ranks,
        rank=rank,
    )
    if folder is None:
        return (batch for batch in loader if len(batch.ids))
    return watched(loader, bad_files_of("val", source, runtime, folder, rank))


def bad_files_of(set_name: str, source: Source, runtime: config.Runtime, folder: Path, rank: int) -> BadFiles:
    """Return what lists the bad images of a set, "train" or "val", in ``folder``, and ends the run at too many."""
    # Every rank meets every image in the end, so that each can count for itself; only the files must not be shared.
    name = FILE if rank == 0 else FILE.replace(".csv", f"_rank_{rank}.csv")
    return BadFiles(set_name, len(source), runtime.on_bad, folder / name)


def workers_of(runtime: config.Runtime, source: Source, ranks: int) -> int:
    """Return how many processes read images for each rank: a fair share of the CPUs this process may use."""
    if runtime.workers is not None:
        return runtime.workers
    if source.in_memory:
        return 0
    return max(1, min(16, usable_cpus() // ranks_here(ranks)))


def ranks_here(ranks: int) -> int:
    """Return how many of the ``ranks`` run on this machine: torchrun says it, fewer than all on many machines."""
    return launch.number("LOCAL_WORLD_SIZE", ranks, least=1)
