"""How images come to the loop: read by workers, or kept in the memory of the device."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Literal

from lightning_fabric import Fabric

from mae_lite import config
from mae_lite.data.batched import BatchTransform
from mae_lite.data.loader import Batch, watched
from mae_lite.data.plan import Plan
from mae_lite.data.resident import Resident, check_settings
from mae_lite.data.sources import Source
from mae_lite.engine.ranks import free_memory_bytes
from mae_lite.errors import ConfigError
from mae_lite.inputs import bad_files_of, batches, ranks_here, workers_of

Loading = Literal["workers", "resident"]
Batches = Callable[[int, int], Iterator[Batch]]
"""Makes the micro-batches of the updates from one to before another."""

_log = logging.getLogger(__name__)


def reader(
    recipe: config.Recipe,
    runtime: config.Runtime,
    source: Source,
    order: Plan,
    fabric: Fabric,
    folder: Path,
    begun: Loading | None = None,
) -> tuple[Loading, Batches]:
    """Choose how this rank's micro-batches come, and return what makes them.

    Args:
        recipe: says how images are augmented.
        runtime: says which way is wanted.
        source: the training images.
        order: their division into updates.
        fabric: the device.
        folder: for the list of bad images.
        begun: the way in which a run that goes on has trained so far.

    Raises:
        ConfigError: when the images are wanted in the device's memory, and cannot be there.
    """
    resident = _resident(recipe, runtime, source, fabric, begun)
    chosen: Loading = "workers" if resident is None else "resident"
    if begun not in (None, chosen):
        _log.warning(
            "this run was begun with --loading %s and goes on with %s: pixels differ by single steps of 1/255",
            *(begun, chosen),
        )
    if resident is None:
        return chosen, partial(batches, recipe, runtime, source, order, fabric, folder)
    transform = BatchTransform(recipe.augmentation, recipe.encoder.image_size, recipe.encoder.channels)

    def made(start: int, stop: int) -> Iterator[Batch]:
        found = resident.batches(transform, order, start, stop)
        return watched(found, bad_files_of("train", source, runtime, folder, fabric.global_rank))

    return chosen, made


def _resident(
    recipe: config.Recipe, runtime: config.Runtime, source: Source, fabric: Fabric, begun: Loading | None
) -> Resident | None:
    """Bring the images to the device, if that is wanted and, where nobody insists on it, possible."""
    device, wanted = fabric.device, runtime.loading
    if wanted == "auto":
        wanted = begun or ("resident" if device.type == "cuda" else "workers")
    if wanted == "workers":
        return None
    free = free_memory_bytes(device) // (1 if device.type == "cuda" else ranks_here(fabric.world_size))
    try:
        check_settings(recipe.augmentation, runtime.pixels, device)
        return Resident(
            source,
            device,
            channels=recipe.encoder.channels,
            limit_bytes=free if runtime.loading == "resident" else free // 2,
            reading=recipe.reading,
            workers=workers_of(runtime, source, fabric.world_size),
        )
    except ConfigError as error:
        if runtime.loading == "resident":
            raise
        _log.info("images are read by workers, for %s is not possible: expected %s", error.found, error.expected)
        return None
