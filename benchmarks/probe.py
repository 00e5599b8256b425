"""Seconds of a linear probe with ten learning rates, beside one: the heads alone, and with the images before them.

python benchmarks/probe.py CIFAR10_FOLDER [--images 2000] [--out benchmarks/results/probe.json]

Heads: on random features, ten heads at once, one head, and ten heads one after another. Whole: what `mae-lite probe`
does with the first images of CIFAR10_FOLDER/train.parquet, a fifth of them to measure on, and a ViT-Tiny with random
weights at 224 pixels, with one rate and with ten, each time from images. With one rate a head is trained once; with
ten, ten are trained on nine tenths and the best again on all. What is compared takes turns; the median of the rounds.
One thread.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

import mae_lite
from mae_lite.evaluation import heads
from mae_lite.frozen.settings import RATES

ALONE = 0.05
MODEL = "timm:vit_tiny_patch16_224"


def head_seconds(images: int, width: int, classes: int, rounds: int, epochs: float) -> dict[str, list[float]]:
    """Return the seconds of each round."""
    random = np.random.default_rng(0)
    labels = random.integers(classes, size=images)
    features = (random.normal(size=(classes, width))[labels] + 3 * random.normal(size=(images, width))).astype(
        "float32"
    )
    schedule = heads.Schedule(epochs=epochs, fewest_updates=1)

    def trained(rates: Sequence[float]) -> object:
        return heads.train(features, labels, classes, rates, seed=0, schedule=schedule)

    ways: dict[str, Callable[[], object]] = {
        "ten at once": lambda: trained(RATES),
        "one": lambda: trained([ALONE]),
        "ten in turn": lambda: [trained([rate]) for rate in RATES],
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for name in [*ways] * rounds:
        start = time.perf_counter()
        ways[name]()
        found[name].append(round(time.perf_counter() - start, 6))
    return found


def whole_seconds(data: Path, images: int, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of whole probes, from images that are read anew."""
    found: dict[str, list[float]] = {"probe with ten rates": [], "probe with one rate": []}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        pq.write_table(pq.read_table(data / "train.parquet").slice(0, images), folder / "some.parquet")
        for turn, name in enumerate([*found] * rounds):
            os.environ["MAE_LITE_CACHE"] = str(folder / f"cache-{turn}")
            rates = RATES if name.endswith("ten rates") else (ALONE,)
            start = time.perf_counter()
            mae_lite.probe(MODEL, random=True, data=str(folder / "some.parquet"), test_fraction=0.2, rates=rates)
            found[name].append(round(time.perf_counter() - start, 6))
    return found


def processor() -> str:
    """Return the processor's name where the system tells it."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--epochs", type=float, default=90.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/probe.json"))
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    rounds = head_seconds(options.images, options.width, options.classes, options.rounds, options.epochs)
    ten, one, turns = (statistics.median(rounds[name]) for name in ("ten at once", "one", "ten in turn"))
    whole = whole_seconds(options.data, options.images, options.rounds)
    ten_rates, one_rate = (statistics.median(seconds) for seconds in whole.values())
    ratios = {
        "ten heads at once / one head": round(ten / one, 2),
        "ten heads in turn / ten at once": round(turns / ten, 2),
        "probe with ten rates / with one, from images": round(ten_rates / one_rate, 2),
        "probe with ten rates / with one, from kept features": round((ten + one) / one, 2),
    }
    print(f"ten heads at once {ten:.2f} s, one {one:.2f} s, ten in turn {turns:.2f} s")
    print(f"a whole probe with ten rates {ten_rates:.1f} s, with one {one_rate:.1f} s")
    print("\n".join(f"{name:<58} {ratio:>6.2f}" for name, ratio in ratios.items()))
    result = {
        "images": options.images,
        "width": options.width,
        "classes": options.classes,
        "epochs": options.epochs,
        "seconds": {**rounds, **whole},
        "ratios": ratios,
        "hardware": {"cpu": processor(), "threads": 1, "torch": version("torch"), "python": platform.python_version()},
        "command": ["python", *(sys.argv if words is None else ["benchmarks/probe.py", *words])],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
