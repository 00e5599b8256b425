"""Fifty updates of every method on CIFAR-10 (JPEG q75 copy): does its loss fall, do features gain, how fast is it.

Settings are those of the 32-pixel recipes but for the batch, the schedule and the rate, which are made for so few
updates. kNN is the weighted nearest-neighbour accuracy of mean patch tokens on training images: 2,000 known, 500 asked.

    python benchmarks/every_method.py CIFAR10_FOLDER [--steps 50] [--batch 64] [--only NAME ...]

reads CIFAR10_FOLDER/train.parquet. Numbers after 50 updates say that a method works, not which one is better.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from mae_lite import config, inputs, methods, recipes, training
from mae_lite.data.opening import open_source
from mae_lite.data.sources import Source, subset
from mae_lite.evaluation import features, online, probes
from mae_lite.evaluation.load import load_run
from mae_lite.rundir import read_rows

PLAIN_TEACHER, SWIN_TEACHER = "cifar10-mae-tiny", "cifar10-simmim-swin"
"""Runs of this benchmark that teach others; the students have their size."""
"""The recipe whose run, made first, is the teacher of those that need one."""
RECIPES = (
    PLAIN_TEACHER,
    "cifar10-d-mae-tiny",
    "cifar10-d-mae-tiny-hidden",
    "cifar10-d2-mae-tiny",
    "cifar10-feature-distill-tiny",
    "cifar10-mae-hog-tiny",
    "cifar10-maskfeat-tiny",
    "cifar10-simmim",
    SWIN_TEACHER,
    "cifar10-d2-simmim-swin",
    "cifar10-mocov3",
    "cifar10-dino",
    "cifar10-supervised",
)
PEAK_LR = 5e-4


def teacher(recipe: config.Recipe) -> tuple[str | None, dict[str, Any]]:
    """Return the run that teaches ``recipe``, and the settings of its method that say so."""
    width = {"teacher_width": recipe.encoder.width}
    match recipe.method:
        case config.DistilledMAE() | config.FeatureDistillation():
            return PLAIN_TEACHER, width
        case config.DistilledSimMIM():
            heads = recipes.get(SWIN_TEACHER).encoder.num_heads
            return SWIN_TEACHER, width | {"teacher_heads": heads}
        case _:
            return None, {}


def shortened(name: str, steps: int, batch: int, images: int, changes: dict[str, Any]) -> config.Recipe:
    """Return the recipe ``name`` with a schedule of ``steps`` updates, a fifth of them warm-up."""
    recipe = recipes.get(name)
    epochs = steps / (images // batch)
    return recipes.derive(
        recipe,
        method=teacher(recipe)[1],
        global_batch_size=batch,
        epochs=epochs,
        warmup_epochs=epochs / 5,
        warmup_start_lr=0.0,
        lr_per_256=PEAK_LR * 256 / batch,
        validation_fraction=0.0,
        **changes,
    )


def nearest(encoder: Any, recipe: config.Recipe, data: str, source: Source, probed: int) -> float:
    """Return the kNN accuracy, 0 to 1, of an encoder's features."""
    chosen = online.choose(source.labels, probed, seed=0)
    batches = {}
    for name, indices in (("bank", chosen.bank), ("queries", chosen.queries)):
        loader = inputs.in_order(recipe, config.Runtime(data=data, workers=0), subset(source, indices), None)
        mean, std = recipe.augmentation.mean, recipe.augmentation.std
        batches[name] = features.extract(encoder, loader, device=torch.device("cpu"), mean=mean, std=std)
    bank, queries = batches["bank"], batches["queries"]
    return probes.weighted_knn(bank.values, bank.labels, queries.values, queries.labels)


def measure(recipe: config.Recipe, data: str, source: Source, runs: Path, probed: int) -> dict[str, Any]:
    """Train, and return what it did to loss and features, and how fast."""
    before = methods.build(recipe, len(source.classes or ())).encoder
    first = nearest(before, recipe, data, source, probed)
    taught_by = teacher(recipe)[0]
    runtime = config.Runtime(
        data=data,
        out=str(runs / recipe.name),
        teacher=None if taught_by is None else str(runs / taught_by),
        workers=0,
        log_every_steps=5,
        probe_images=0,
        accelerator="cpu",
        tensorboard=False,
        progress=False,
    )
    start = time.monotonic()
    training.run(recipe, runtime)
    seconds = time.monotonic() - start
    rows = [row for row in read_rows(runs / recipe.name) if "loss" in row]
    rates = sorted(row["images_per_second"] for row in rows)
    return {
        "recipe": recipe.name,
        "loss_first_5": rows[0]["loss"],
        "loss_last_5": rows[-1]["loss"],
        "knn_before": first,
        "knn_after": nearest(load_run(runs / recipe.name).model, recipe, data, source, probed),
        "images_per_second": rates[len(rates) // 2],
        "seconds": seconds,
        "updates": rows[-1]["step"],
        **{name: rows[-1][name] for name in ("view_feature_std", "teacher_share") if name in rows[-1]},
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--probed", type=int, default=2500)
    parser.add_argument("--only", nargs="*", default=list(RECIPES))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/every_method.json"))
    options = parser.parse_args()
    data = str(options.data / "train.parquet")
    source = open_source(data, "train")
    rows = []
    print(f"{'recipe':<28} {'loss':>8} {'to':>8} {'kNN':>6} {'to':>6} {'images/s':>9}")
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only:
            recipe = shortened(name, options.steps, options.batch, len(source), {})
            row = measure(recipe, data, source, Path(folder), options.probed)
            rows.append(row)
            losses, nearest_found = (row["loss_first_5"], row["loss_last_5"]), (row["knn_before"], row["knn_after"])
            print(
                f"{name:<28} {losses[0]:8.4f} {losses[1]:8.4f} {100 * nearest_found[0]:6.1f} "
                f"{100 * nearest_found[1]:6.1f} {row['images_per_second']:9.1f}",
                flush=True,
            )
    result = {
        "data": "CIFAR-10 (JPEG q75 copy)",
        "batch": options.batch,
        "peak_lr": PEAK_LR,
        "rows": rows,
        "hardware": {
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
            "torch": torch.__version__,
        },
        "command": ["python", *sys.argv],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
