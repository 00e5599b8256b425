"""``mae-lite bench``: how fast, beside what this machine could do at best, and what to do about it."""

from __future__ import annotations

from typing import Any

import torch

from mae_lite import advice, config, costs
from mae_lite.data.sources import at_hand, usable_cpus
from mae_lite.measuring.limits import copy_bandwidth, matrix_rate
from mae_lite.timing import rates


def bench(recipe: config.Recipe, runtime: config.Runtime, batch: int | None, seconds: float) -> dict[str, Any]:
    """Time reading, the step, and both together; ``seconds`` for each measurement.

    Raises:
        MaeLiteError: as a run would.
    """
    setting = rates.open_setting(recipe, runtime, batch)
    device, source = setting.device, setting.source
    half = device.type == "cuda" and recipe.precision == "bf16"
    matrix = matrix_rate(device, torch.bfloat16 if half else torch.float32, seconds)
    decode = rates.decode_rate(source, recipe, seconds)
    reading, step = rates.reading_rate(setting, seconds), rates.step_rate(setting, seconds)
    together, waiting = rates.together_rate(setting, 2 * seconds)
    packable = recipe.encoder.channels == 3 and not at_hand(source)
    converted = rates.conversion_rate(source, recipe, seconds) if packable else None
    copied, cores = copy_bandwidth(device, seconds), max(setting.workers, 1)
    resident = setting.job.loading == "resident"
    apart = device.type != "cpu" and not resident  # reading and learning have processors of their own
    possible = min(reading, step) if apart else 1 / (1 / reading + 1 / step)
    return {
        "recipe": recipe.name,
        "data": source.describe(),
        "batch": setting.batch,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "loading": setting.job.loading,
        "workers": setting.workers,
        "limits": {
            "matrix_tflops": matrix / 1e12,
            "decode_images_per_second_per_core": decode,
            "copy_gb_per_second": copied / 1e9,
            "conversion_images_per_second_per_core": converted,
        },
        "gflop_per_image": costs.step_gflops(recipe),
        "images_per_second": {
            "reading": _beside(reading, copied / _view_bytes(recipe) if resident else cores * decode),
            "step": _beside(step, matrix / (costs.step_gflops(recipe) * 1e9)),
            "together": _beside(together, possible),
        },
        "waiting_share": waiting,
        "advice": ("" if resident else _advice(setting, waiting))
        or "The step takes the time: faster reading would gain little.",
    }


def _advice(setting: rates.Setting, waiting: float) -> str:
    packed, cpus = at_hand(setting.source), usable_cpus()
    return advice.when_starved(waiting, packed=packed, workers=setting.workers, cpus=cpus)


def _view_bytes(recipe: config.Recipe) -> int:
    """Return the bytes of all views of an image."""
    augmentation = recipe.augmentation
    local = (augmentation.local_views or 0) * (augmentation.local_size or 0) ** 2
    return recipe.encoder.channels * (augmentation.views * recipe.encoder.image_size**2 + local)


def _beside(measured: float, limit: float) -> dict[str, float]:
    return {"measured": measured, "limit": limit, "share": measured / limit}


def as_text(found: dict[str, Any]) -> str:
    """Return the table for people."""
    limits, rows = found["limits"], found["images_per_second"]
    matrix, decode, copy, converted = limits.values()
    cores = max(found["workers"], 1)
    why = {
        "reading": "copying the views alone, in the memory of the device"
        if found["loading"] == "resident"
        else f"decoding alone, {cores} x {decode:,.0f}",
        "step": f"{matrix:.2f} TFLOP/s of matrix products, {found['gflop_per_image']:.2f} GFLOP per image",
        "together": "reading and step beside each other"
        if found["device"] != "cpu" and found["loading"] == "workers"
        else "reading and step in turn, on the same device",
    }
    lines = [
        f"{found['recipe']} on {found['data']}",
        f"{found['batch']} images per update; {found['device']}, {found['threads']} threads; "
        f"{found['workers'] if found['loading'] == 'workers' else 'no'} workers; memory is copied at {copy:.1f} GB/s",
        "",
        f"{'images/s':<10}{'measured':>10}{'limit':>10}{'share':>8}   the limit is",
    ]
    for name, row in rows.items():
        lines.append(f"{name:<10}{row['measured']:>10,.0f}{row['limit']:>10,.0f}{row['share']:>8.0%}   {why[name]}")
    if converted is not None:
        lines.append(f"mae-lite prepare can make a pack of {converted:,.0f} images/s on each core")
    return "\n".join([*lines, "", found["advice"]])
