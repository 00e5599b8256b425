"""A whole run on JPEG files: its images/s beside the step alone and beside the loader alone.

The run is ``mae_lite.run`` with as many reading processes as there are cores. Each worker makes whole batches, so that
they arrive in bursts of one per worker: times are taken over whole bursts, without the first two.
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
from gpu_timing import milliseconds
from PIL import Image

import mae_lite
from mae_lite import config, inputs, recipes
from mae_lite.engine.ranks import start_fabric

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


def loader_speed(recipe: config.Recipe, runtime: config.Runtime, place: Path, steps: int, skip: int) -> float:
    """Return the images/s of the loader when nothing waits for it but a loop that counts."""
    train, _ = inputs.images(recipe, runtime)
    fabric = start_fabric(recipe, runtime)
    plan = inputs.plan(recipe, runtime, fabric, len(train))
    start = time.perf_counter()
    for number, _ in enumerate(inputs.batches(recipe, runtime, train, plan, fabric, place, 0, steps)):
        if number + 1 == skip * plan.micro_batches:
            start = time.perf_counter()
    return (steps - skip) * recipe.global_batch_size / (time.perf_counter() - start)


def run_speed(recipe: config.Recipe, runtime: config.Runtime, skip_rows: int) -> float:
    """Return the images/s of a run, from its own rows of metrics."""
    outcome = mae_lite.run(recipe, runtime)
    lines = (outcome.folder / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if "images_per_second" in row][skip_rows:]
    return float(sum(row["images_per_second"] * row["seconds"] for row in rows) / sum(row["seconds"] for row in rows))


def compare(options: argparse.Namespace, device: torch.device, place: Path) -> dict[str, Any]:
    """Measure loader, step and run on the same images."""
    images, kind = images_in(place, options.tiny)
    sizes = [path.stat().st_size for path in images.rglob("*") if path.is_file()]
    batch = 4 if options.tiny else min(options.batch, len(sizes))
    workers = min(options.workers, 1) if options.tiny else options.workers
    burst = max(1, workers)
    steps, skip = BURSTS * burst, _WARM_UP * burst
    epoch = steps / (len(sizes) // batch)
    changes = {"global_batch_size": batch, "epochs": epoch, "warmup_epochs": epoch / 10}
    recipe = recipes.derive(gpu_steps.recipe_of(options.tiny), "end-to-end", **changes)
    runtime = config.Runtime(
        data=str(images),
        out=str(place / "run"),
        workers=workers,
        log_every_steps=burst,
        accelerator=options.device,
        tensorboard=False,
        progress=False,
    )
    step = gpu_steps.step_of(gpu_steps.ours(batch, device, options.tiny), "bf16", device)
    limit = batch / (milliseconds(step, device, seconds=0.01 if options.tiny else 1.0)["ms"] / 1e3)
    del step
    loader = loader_speed(recipe, runtime, place, steps, skip)
    return {
        "images": {"kind": kind, "count": len(sizes), "mean_kb": sum(sizes) / len(sizes) / 1e3},
        "batch": batch,
        "workers": workers,
        "images_per_second": {"step alone": limit, "loader alone": loader, "run": run_speed(recipe, runtime, _WARM_UP)},
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write."""
    parser = gpu_record.options_of(__doc__)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--workers", type=int, default=gpu_record.cores())
    options = parser.parse_args(argv)
    device = gpu_record.device_of(options)
    with tempfile.TemporaryDirectory(prefix="end-to-end-") as place:
        results = compare(options, device, Path(place))
    speeds = results["images_per_second"]
    for name, speed in speeds.items():
        print(f"{name:14}{speed:>10,.0f} images/s")
    print(
        f"the run reaches {100 * speeds['run'] / min(speeds['step alone'], speeds['loader alone']):.0f} % of its limit"
    )
    gpu_record.write(options, "end_to_end", sys.argv[1:] if argv is None else argv, results)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
