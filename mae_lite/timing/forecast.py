"""``mae-lite plan``: time, memory and disk that a recipe will take on this machine, from a short probe."""

from __future__ import annotations

import math
from typing import Any

import torch

from mae_lite import advice, config, costs, inputs
from mae_lite.data.sources import at_hand, usable_cpus
from mae_lite.engine import loop
from mae_lite.engine.optim import LearningRate
from mae_lite.engine.ranks import free_memory_bytes, peak_memory_mb
from mae_lite.timing import rates
from mae_lite.timing.clock import clock

PACK_SIDE, _SMALL_SIDE = 256, 64
_KEPT = 3
"""Checkpoints on the disk at once: the last two, and the one being written; the best as well where it is validated."""
_SPARE = 0.9
"""Share of the memory that may be planned with."""


def forecast(recipe: config.Recipe, runtime: config.Runtime, seconds: float) -> dict[str, Any]:
    """Probe a few updates, and reckon up the whole run; ``seconds`` for each measurement.

    Raises:
        MaeLiteError: as a run would.
    """
    small, per_image = _memory_of_an_image(recipe, runtime)
    setting = rates.open_setting(recipe, runtime, like=small)
    reading, step = rates.reading_rate(setting, seconds), rates.step_rate(setting, seconds)
    memory = peak_memory_mb(setting.device)
    order = inputs.plan(recipe, runtime, setting.job.fabric, len(setting.source), setting.source.windows)
    updates = LearningRate.of(recipe, order.steps_per_epoch).total_steps
    images = updates * order.global_batch_size
    resident, gpu = setting.job.loading == "resident", setting.device.type != "cpu"
    apart = gpu and not resident  # reading and learning have processors of their own
    rate = min(reading, step) if apart else 1 / (1 / reading + 1 / step)
    available = _available_mb(setting.device)
    validation = _validation(setting, order.steps_per_epoch, updates, seconds)
    room = available * _SPARE - (memory - per_image * setting.batch)
    return {
        "recipe": recipe.name,
        "data": setting.source.describe(),
        "device": torch.cuda.get_device_name(setting.device) if gpu else "cpu",
        "updates": updates,
        "global_batch_size": order.global_batch_size,
        "images": images,
        "gflop": images * costs.step_gflops(recipe),
        "seconds": images / rate + validation["seconds"],
        "validation": validation,
        "probes": not isinstance(recipe.method, config.Supervised),
        "images_per_second": {"reading": reading, "step": step, "together": rate},
        "probed_batch": setting.batch,
        "memory_mb": memory,
        "memory_mb_per_image": per_image,
        "memory_mb_available": available,
        "largest_micro_batch": max(int(room / per_image), 0) if per_image > 0 else None,
        "checkpoint_mb": _checkpoint_mb(setting),
        "checkpoints_kept": _KEPT + isinstance(recipe.method, config.Supervised),
        "pack_side": _pack_side(recipe),
        "pack_mb": len(setting.source) * _pack_side(recipe) ** 2 * recipe.encoder.channels / 1e6,
        "workers": setting.workers,
        "workers_that_keep_up": math.ceil(step / (reading / max(setting.workers, 1))),
        "cpus": usable_cpus(),
        "advice": advice.when_starved(
            0.0 if resident else 1 - rate / step,
            packed=at_hand(setting.source),
            workers=setting.workers,
            cpus=usable_cpus(),
        ),
    }


def _validation(setting: rates.Setting, steps_per_epoch: int, updates: int, seconds: float) -> dict[str, Any]:
    """Return what measuring the validation images takes, all times together."""
    if setting.held_out is None:
        return {"images": 0, "times": 0, "seconds": 0.0}
    every = setting.job.runtime.validate_every_epochs * steps_per_epoch
    times = loop.times_due(every, updates)
    each = rates.validation_seconds(setting, seconds)
    return {"images": len(setting.held_out), "times": times, "seconds": times * each}


def _pack_side(recipe: config.Recipe) -> int:
    """Return the side that images of a pack need: room for crops, or that of small images."""
    return PACK_SIDE if recipe.encoder.image_size > _SMALL_SIDE else recipe.encoder.image_size


def _memory_of_an_image(recipe: config.Recipe, runtime: config.Runtime) -> tuple[rates.Setting, float]:
    """Return a setting of a small batch, and the megabytes that an image takes in a step, from two sizes of batches.

    Images that would stay on the device are left where they are meanwhile.
    """
    by_workers = runtime.model_copy(update={"loading": "workers"})
    small = rates.open_setting(recipe, by_workers, 8)
    few = _peak_mb(small)
    large = rates.open_setting(recipe, by_workers, like=small)
    return small, max(_peak_mb(large) - few, 0.0) / max(large.batch - small.batch, 1)


def _peak_mb(setting: rates.Setting) -> float:
    rates.step_rate(setting, 0.0)
    return peak_memory_mb(setting.device)


def _checkpoint_mb(setting: rates.Setting) -> float:
    tensors = list(setting.job.method.state_dict().values())
    if setting.job.ema is not None:
        tensors += setting.job.ema.state_dict().values()
    entries = setting.job.optimizer.optimizer.state_dict()["state"].values()
    tensors += [value for entry in entries for value in entry.values() if isinstance(value, torch.Tensor)]
    return float(sum(tensor.nbytes for tensor in tensors)) / 1e6


def _available_mb(device: torch.device) -> float:
    """Return the memory that a run could have: the whole GPU's, or what this machine has free beside this process."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory / 1e6
    return free_memory_bytes(device) / 1e6 + peak_memory_mb(device)


def as_text(found: dict[str, Any]) -> str:
    """Return lines for people."""
    largest = found["largest_micro_batch"]
    fits = "" if largest is None else f"; about {largest:,} would fit into {_size(found['memory_mb_available'])}"
    keeping = found["workers_that_keep_up"]
    enough = f"{keeping} would keep up with the step" + (
        f", of {found['cpus']} CPUs" if keeping <= found["cpus"] else f"; there are {found['cpus']} CPUs"
    )
    lines = [
        f"{found['recipe']} on {found['data']}; {found['device']}",
        f"  updates   {found['updates']:,} of {found['global_batch_size']:,} images",
        f"  time      {_time(found)}",
        f"  memory    {_size(found['memory_mb'])} with {found['probed_batch']} images in a forward pass{fits}",
        f"  disk      {_size(found['checkpoint_mb'] * found['checkpoints_kept'])} of checkpoints; a pack of "
        f"{found['pack_side']}-px pixels would take {_size(found['pack_mb'])}",
        f"  workers   {found['workers']}; {enough}",
    ]
    return "\n".join([*lines, *([found["advice"]] if found["advice"] else [])])


def _time(found: dict[str, Any]) -> str:
    together, step, reading = (found["images_per_second"][name] for name in ("together", "step", "reading"))
    rates_of = f"{together:,.0f} images/s (training alone {step:,.0f}, reading alone {reading:,.0f})"
    look = found["validation"]
    if not look["times"]:
        return f"{clock(found['seconds'])} at {rates_of}{'; probes come on top' if found['probes'] else ''}"
    often = "once" if look["times"] == 1 else f"{look['times']:,} times"
    return (
        f"{clock(found['seconds'])}: {clock(found['seconds'] - look['seconds'])} of training at {rates_of}, "
        f"{clock(look['seconds'])} of looking at {look['images']:,} validation images {often}"
    )


def _size(megabytes: float) -> str:
    return f"{megabytes / 1e3:.1f} GB" if megabytes >= 999.5 else f"{megabytes:.3g} MB"
