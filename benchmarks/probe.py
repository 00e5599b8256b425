"""Seconds of a linear probe with ten learning rates, beside one: the heads alone, and with the images before them.

python benchmarks/probe.py [--images 5000] [--width 192] [--classes 10] [--out benchmarks/results/probe.json]

Heads: on random features, ten heads at once, one head, and ten heads one after another, which take turns; the median of
the rounds. Images: the forward pass of a random ViT-Tiny with patches of 4 pixels over blank images of 32, of which the
time of so many images is reckoned; nothing is read or decoded. One thread. A probe with one rate is the pass and one
training; a probe with ten is the pass, the sweep and one training more.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mae_lite.config import Encoder
from mae_lite.evaluation import heads
from mae_lite.frozen.settings import RATES
from mae_lite.models.vit import build_encoder

ALONE = 0.05


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


def pass_seconds(images: int, batch: int = 64) -> float:
    """Return the seconds that the forward pass over ``images`` takes, from those of a few batches."""
    model: Any = build_encoder(Encoder(image_size=32, patch_size=4), seed=0).eval()
    blank = torch.zeros(batch, 3, 32, 32)
    taken = []
    with torch.inference_mode():
        for _ in range(4):
            start = time.perf_counter()
            model.forward_features(blank)
            taken.append(time.perf_counter() - start)
    return round(statistics.median(taken[1:]) * images / batch, 6)


def processor() -> str:
    """Return the processor's name where the system tells it."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--epochs", type=float, default=90.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/probe.json"))
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    rounds = head_seconds(options.images, options.width, options.classes, options.rounds, options.epochs)
    ten, one, turns = (statistics.median(rounds[name]) for name in ("ten at once", "one", "ten in turn"))
    images = pass_seconds(options.images)
    ratios = {
        "ten heads at once / one head": round(ten / one, 2),
        "ten heads in turn / ten at once": round(turns / ten, 2),
        "probe with ten rates / with one, from images (reckoned)": round((images + ten + one) / (images + one), 2),
        "probe with ten rates / with one, from kept features": round((ten + one) / one, 2),
    }
    print(f"ten heads at once {ten:.2f} s, one {one:.2f} s, ten in turn {turns:.2f} s, images {images:.1f} s")
    print("\n".join(f"{name:<58} {ratio:>6.2f}" for name, ratio in ratios.items()))
    result = {
        "images": options.images,
        "width": options.width,
        "classes": options.classes,
        "epochs": options.epochs,
        "seconds": {**rounds, "forward pass, reckoned from 3 batches": images},
        "ratios": ratios,
        "hardware": {"cpu": processor(), "threads": 1, "torch": version("torch"), "python": platform.python_version()},
        "command": ["python", *(sys.argv if words is None else ["benchmarks/probe.py", *words])],
        "note": "Measured beside other jobs.",
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
