"""Whole runs on a pack of JPEGs, on a pack of pixels and on images in the device's memory, beside the step alone.

The run is ``mae_lite.run``; packs, of photographs of 256 px, are read by as many processes as there are cores. For each
way the reader is measured alone, too: its share of the step's speed, eager or compiled, whichever is faster, says how
much of what the device could learn from the cores of this machine can give it. A worker makes whole batches, so that
they arrive in bursts of one per worker: times are taken over whole bursts, without the first two. ViTMAE of
transformers, trained as usual in fp16 and fed for nothing, stands beside them where it is installed.
The images: DATA/images (benchmarks/make_pack.py makes it), else generated ones.

    DATA=data-pack python benchmarks/gpu_end_to_end.py [--batch 512] [--workers N] [--device cpu --tiny]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gpu_record
import gpu_steps
import numpy as np
import torch
from gpu_timing import wait
from PIL import Image

import mae_lite
from mae_lite import config, inputs, loading, recipes
from mae_lite.engine.ranks import start_fabric
from mae_lite.errors import EXIT_STOPPED
from mae_lite.preparing.prepare import Order, prepare

BURSTS = 8
_WARM_UP = 2


def generate(folder: Path, count: int, side: int) -> None:
    """Write JPEGs with the coarse shapes and the fine noise that make a photograph's size."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 10, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((side * 5 // 4, side), Image.Resampling.BICUBIC), dtype=np.int16)
        noisy = pixels + rng.integers(-12, 13, pixels.shape, dtype=np.int16)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{number:05d}.jpg", quality=90)


def images_in(place: Path, tiny: bool) -> tuple[Path, str]:
    """Return a folder of images, made in ``place`` where DATA has none, and what they are."""
    given = gpu_record.pack() / "images"
    if given.is_dir():
        return given, "photographs"
    print(f"no images at {str(given)!r} (DATA gives another place): using generated ones")
    generate(place / "generated", 16 if tiny else 1024, 40 if tiny else 256)
    return place / "generated", "generated"


def roads(images: Path, place: Path, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return the ways to the same images, as settings of a run; packs are made in ``place``."""
    side = 32 if options.tiny else 256
    for kind in ("jpeg", "uint8"):
        prepare(Order(str(images), place / kind, kind=kind, side=side, workers=max(1, options.workers)))
    return {
        "JPEG pack": {"data": str(place / "jpeg"), "loading": "workers"},
        "pixel pack": {"data": str(place / "uint8"), "loading": "workers"},
        "resident": {"data": str(place / "uint8"), "loading": "resident"},
    }


def step_speeds(batch: int, device: torch.device, tiny: bool) -> dict[str, float]:
    """Return the images/s of steps alone: ours, and ViTMAE's where it is installed."""
    modes = [(gpu_steps.OURS, "bf16"), (gpu_steps.OURS, "bf16, compiled"), (gpu_steps.THEIRS, "fp16")]
    found = {}
    for name, mode in modes:
        if tiny and "compiled" in mode:
            continue
        try:
            found[f"{name}, {mode}"] = gpu_steps.measure(name, mode, batch, device, tiny)["images_per_second"]
        except Exception as error:  # an alternative that is not installed, or fails, must not hide the other numbers
            if name == gpu_steps.OURS:
                raise
            print(f"{name}, {mode}: {type(error).__name__}: {error}")
    return found


def loader_speed(recipe: config.Recipe, runtime: config.Runtime, place: Path, steps: int, skip: int) -> float:
    """Return the images/s of the reader when nothing waits for it but a loop that counts."""
    train, _ = inputs.images(recipe, runtime)
    fabric = start_fabric(recipe, runtime)
    plan = inputs.plan(recipe, runtime, fabric, len(train))
    _, batches = loading.reader(recipe, runtime, train, plan, fabric, place)
    start = time.perf_counter()
    for number, _ in enumerate(batches(0, steps)):
        if number + 1 == skip * plan.micro_batches:
            wait(fabric.device)
            start = time.perf_counter()
    wait(fabric.device)
    return (steps - skip) * recipe.global_batch_size / (time.perf_counter() - start)


def run_speed(recipe: config.Recipe, runtime: config.Runtime, skip_rows: int) -> float:
    """Return the images/s of a run, from its own rows of metrics; the last one has what the end takes."""
    outcome = mae_lite.run(recipe, runtime)
    if outcome.state != "finished":
        raise gpu_record.StoppedEarlyError
    lines = (outcome.folder / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if "images_per_second" in row][skip_rows:-1]
    return float(sum(row["images_per_second"] * row["seconds"] for row in rows) / sum(row["seconds"] for row in rows))


def compare(options: argparse.Namespace, device: torch.device, place: Path) -> dict[str, Any]:
    """Measure the step, and for each way its reader and a run, on the same images."""
    images, kind = images_in(place, options.tiny)
    sizes = [path.stat().st_size for path in images.rglob("*") if path.is_file()]
    batch = 4 if options.tiny else min(options.batch, len(sizes))
    workers = min(options.workers, 1) if options.tiny else options.workers
    burst = max(1, workers)
    steps, skip = BURSTS * burst, _WARM_UP * burst
    epoch = steps / (len(sizes) // batch)
    changes = {"global_batch_size": batch, "epochs": epoch, "warmup_epochs": epoch / 10}
    recipe = recipes.derive(gpu_steps.recipe_of(options.tiny), "end-to-end", **changes)
    alone = step_speeds(batch, device, options.tiny)
    limit = max(speed for name, speed in alone.items() if name.startswith(gpu_steps.OURS))
    plain = next((speed for name, speed in alone.items() if name.startswith(gpu_steps.THEIRS)), None)
    rest = {"workers": workers, "log_every_steps": burst, "accelerator": options.device}
    rest |= {"probe_images": 0, "probe_every_epochs": epoch}  # what is left of probes comes with the last row
    found = {}
    for name, road in roads(images, place, options).items():
        out = str(place / f"run {name}")
        compiled = {} if options.tiny else {"compiled": True}
        runtime = config.Runtime(**road, **rest, **compiled, out=out, tensorboard=False, progress=False)
        loader, run = loader_speed(recipe, runtime, place, steps, skip), run_speed(recipe, runtime, _WARM_UP)
        found[name] = {"loader alone": loader, "share of the step's speed": loader / limit, "run": run}
        if plain is not None:
            found[name]["run over ViTMAE in fp16"] = run / plain
    return {
        "images": {"kind": kind, "count": len(sizes), "mean_kb": sum(sizes) / len(sizes) / 1e3},
        "batch": batch,
        "workers": workers,
        "steps_alone": alone,
        "images_per_second": found,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write."""
    parser = gpu_record.options_of(__doc__)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--workers", type=int, default=gpu_record.cores())
    options = parser.parse_args(argv)
    device = gpu_record.device_of(options)
    try:
        with tempfile.TemporaryDirectory(prefix="end-to-end-") as place:
            results = compare(options, device, Path(place))
    except gpu_record.StoppedEarlyError:
        return EXIT_STOPPED
    for name, speed in results["steps_alone"].items():
        print(f"{name + ', the step alone':45}{speed:>10,.0f} images/s")
    for name, speeds in results["images_per_second"].items():
        share = 100 * speeds["share of the step's speed"]
        print(f"{name:12}{speeds['run']:>10,.0f} images/s; reader alone {speeds['loader alone']:,.0f}, "
              f"{share:.0f} % of the step")  # fmt: skip
    gpu_record.write(options, "end_to_end", sys.argv[1:] if argv is None else argv, results)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
