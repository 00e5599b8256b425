"""Whether speed was paid for with accuracy: the same short runs on the slow and the fast road, with three seeds each.

The slow road reads and augments images one by one and resizes them as Pillow does; the fast one resizes as torch does,
or keeps all images in memory and augments whole batches. Apart from single steps of 1/255, a seed sees the same images
on all roads. What is compared: the loss along the way, and kNN and linear probes at the end.

    python benchmarks/same_accuracy.py CIFAR10_FOLDER [--seeds 3] [--epochs 6]

reads CIFAR10_FOLDER/train.parquet, and scikit-learn's digits.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from mae_lite import config, recipes, training
from mae_lite.exporting.machine import processor
from mae_lite.rundir import read_rows

ROADS: dict[str, dict[str, Any]] = {
    "slow": {"pixels": "exact", "loading": "workers"},
    "fast": {"pixels": "fast", "loading": "workers"},
    "resident": {"pixels": "fast", "loading": "resident"},
}
IMAGES = 4000
PROBES = ("knn_top1", "linear_top1")


def recipe_of(name: str, epochs: float, seed: int) -> config.Recipe:
    """Return a recipe that a CPU can train in a minute, without what the resident road refuses."""
    if name == "digits":
        changes: dict[str, Any] = {"encoder": {"depth": 4}, "global_batch_size": 64}
        plain = {"rotate_degrees": 0.0, "shear_degrees": 0.0, "translate": 0.0, "zoom": (1.0, 1.0), "flip": 0.0}
        return recipes.derive(
            recipes.get("digits-mae"),
            **changes,
            augmentation={**plain, "crop_scale": (0.6, 1.0)},
            epochs=4 * epochs,
            warmup_epochs=epochs / 2,
            seed=seed,
        )
    return recipes.derive(
        recipes.get("cifar10-mae-tiny"),
        encoder={"width": 96, "depth": 4, "num_heads": 6},
        global_batch_size=64,
        lr_per_256=4e-3,
        epochs=epochs,
        warmup_epochs=epochs / 8,
        seed=seed,
    )


def measure(recipe: config.Recipe, data: str, road: str, out: Path) -> dict[str, Any]:
    """Train, and return the losses and what the probes say."""
    runtime = config.Runtime(
        **ROADS[road],
        data=data,
        out=str(out),
        workers=0,
        accelerator="cpu",
        tensorboard=False,
        progress=False,
        probe_every_epochs=recipe.epochs,
        probe_images=1250,
    )
    training.run(recipe, runtime)
    rows = read_rows(out)
    last = next(row for row in reversed(rows) if PROBES[0] in row)
    return {
        "road": road,
        "seed": recipe.seed,
        "losses": [row["loss"] for row in rows if "loss" in row],
        **{name: last[name] for name in PROBES},
    }


def compared(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return how far each other road is from the slow one, beside how far the slow one's seeds are apart."""
    slow = {row["seed"]: row for row in rows if row["road"] == "slow"}
    found: dict[str, Any] = {}
    for road in ROADS.keys() - {"slow"}:
        pairs = [(row, slow[row["seed"]]) for row in rows if row["road"] == road]
        gaps = [
            max(abs(a - b) / b for a, b in zip(one["losses"], other["losses"], strict=True)) for one, other in pairs
        ]
        found[road] = {"largest_gap_of_losses": max(gaps)}
        for name in PROBES:
            differences = [one[name] - other[name] for one, other in pairs]
            found[road][name] = {"mean_difference": statistics.mean(differences), "differences": differences}
    ends = [row["losses"][-1] for row in slow.values()]
    found["seeds"] = {"deviation_of_last_loss": statistics.stdev(ends) / statistics.mean(ends)} | {
        name: {"deviation": statistics.stdev(row[name] for row in slow.values())} for name in PROBES
    }
    return found


def main() -> None:
    """Train on all roads, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=6)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/same_accuracy.json"))
    options = parser.parse_args()
    sets: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        some = Path(folder) / "some.parquet"
        pq.write_table(pq.read_table(options.data / "train.parquet").slice(0, IMAGES), some)
        for name, data in (("digits", "digits"), ("cifar10", str(some))):
            rows = []
            for seed in range(options.seeds):
                for road in ROADS:
                    out = Path(folder) / f"{name}-{road}-{seed}"
                    rows.append(measure(recipe_of(name, options.epochs, seed), data, road, out))
                    row = rows[-1]
                    probed = ", ".join(f"{probe} {100 * row[probe]:.1f}" for probe in PROBES)
                    print(f"{name:<8} {road:<9} seed {seed}: loss {row['losses'][-1]:.4f}, {probed}", flush=True)
            sets[name] = {"compared": compared(rows), "runs": rows}
            print(json.dumps(sets[name]["compared"], indent=1), flush=True)
    result = {
        "images": {"digits": 1346, "cifar10": IMAGES},
        "sets": sets,
        "hardware": {**processor(), "cpus": os.cpu_count(), "torch": torch.__version__},
        "command": ["python", "benchmarks/same_accuracy.py", "CIFAR10_FOLDER", *sys.argv[2:]],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
