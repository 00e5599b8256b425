"""Images per second that one core reads for training, up to the batch of bytes, on three ways and by timm and Pillow.

Random resized crops (0.08 to 1 of the area) to 224 pixels, bicubic, mirrored half of the time; one process, one
thread. Nobody parts the channels, which a GPU does in passing: the three bytes of a pixel stay side by side. Rounds are
interleaved, and ratios are taken within a round, so that a machine's other work weighs on all alike; CPU seconds,
beside the clock, feel it least. The packs are made by ``mae-lite prepare``'s own code.

python benchmarks/data_paths.py --tar IMAGENET_SAMPLE [--out benchmarks/results/data_paths.json]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from timm.data.transforms_factory import create_transform

from mae_lite.config import Augmentation
from mae_lite.data.loader import training_loader
from mae_lite.data.opening import open_source
from mae_lite.data.plan import Plan
from mae_lite.data.sources import Source
from mae_lite.data.transforms import TrainTransform
from mae_lite.exporting.machine import processor
from mae_lite.preparing.prepare import Order, prepare

ROUNDS = 5
BATCH = 64
SIDE = 224
SHORT_SIDE = 256


def with_timm(files: Sequence[Path], steps: int) -> Callable[[], None]:
    """Return what reads the files with Pillow and crops with timm's transform for training."""
    transform = create_transform(
        (3, SIDE, SIDE),
        is_training=True,
        scale=(0.08, 1.0),
        interpolation="bicubic",
        hflip=0.5,
        color_jitter=None,  # type: ignore[arg-type]  # timm turns it off by None
        use_prefetcher=True,  # bytes instead of normalised floats, as ours
    )

    def run() -> None:
        for start in range(0, steps * BATCH, BATCH):
            views = []
            for path in files[start : start + BATCH]:
                with Image.open(path) as image:
                    views.append(transform(image.convert("RGB")).permute(1, 2, 0))
            assert torch.stack(views).shape == (BATCH, SIDE, SIDE, 3)

    return run


def with_ours(source: Source, steps: int, rounding: str) -> Callable[[], None]:
    """Return what loads a source as training does."""
    transform = TrainTransform(Augmentation(), SIDE, 3, "exact" if rounding == "exact" else "fast")
    plan = Plan(samples=len(source), global_batch_size=BATCH, micro_batch_size=BATCH, seed=0)

    def run() -> None:
        for batch in training_loader(source, transform, plan, channels=3, start_step=0, stop_step=steps):
            assert batch.images.shape == (BATCH, 3, SIDE, SIDE) and not batch.bad

    return run


def pack(data: str, folder: Path, kind: Literal["jpeg", "uint8"]) -> Source:
    """Return a pack of the images, 256 px, JPEG of quality 90 or pixels."""
    prepare(Order(data, folder / kind, kind=kind, side=SHORT_SIDE, workers=1))
    return open_source(str(folder / kind))


def measure(folder: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Return images per second and the ratio to timm and Pillow, medians over rounds, by CPU seconds and the clock."""
    files = sorted((folder / "files").rglob("*.jpg"))
    steps, data = len(files) // BATCH, f"folder:{folder / 'files'}"
    sources = {
        "b: our files": open_source(data),
        "c: our pack of JPEGs": pack(data, folder, "jpeg"),
        "d: our pack of pixels": pack(data, folder, "uint8"),
    }
    ways = {"a: timm and Pillow, files": with_timm(files, steps)}
    for name, source in sources.items():
        ways[name] = with_ours(source, steps, "fast")
        ways[f"{name}, exact"] = with_ours(source, steps, "exact")
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, run in ways.items():
            start, clock = time.process_time(), time.perf_counter()
            run()
            spent = time.process_time() - start, time.perf_counter() - clock
            if turn:  # the first round warms up
                rates[name].append((steps * BATCH / spent[0], steps * BATCH / spent[1]))
    first = next(iter(rates.values()))
    return {
        name: {
            key: round(
                statistics.median(
                    [value[i] / (base[i] if ratio else 1) for value, base in zip(values, first, strict=True)]
                ),
                2,
            )
            for i, words in enumerate(("cpu_second", "second"))
            for ratio, key in ((False, f"images_per_{words}"), (True, f"ratio_by_{words}"))
        }
        for name, values in rates.items()
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tar", required=True, help="the sample of 1,000 photographs of ImageNet")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/data_paths.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(options.tar, "r:") as opened:
            opened.extractall(Path(folder) / "files", filter="data")
        results = measure(Path(folder), options.rounds)
    for name, row in results.items():
        print(f"{name:<32} {row['images_per_cpu_second']:>8.1f} images/s of CPU   {row['ratio_by_cpu_second']:.2f} x")
    about = {
        "command": "python benchmarks/data_paths.py --tar IMAGENET_SAMPLE",
        "hardware": f"{processor()['model']}, {os.cpu_count()} CPUs shared with other work; one process, one thread",
        "system": f"{platform.system()}, Python {sys.version.split()[0]}, torch {torch.__version__}",
        "state": f"file system cache warm, batches of {BATCH}, medians of {options.rounds} interleaved rounds",
        "results": results,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(about, indent=2) + "\n")


if __name__ == "__main__":
    main()
