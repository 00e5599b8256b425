"""Images per second that one core reads for training, up to the batch of bytes, on three ways and by timm and Pillow.

Random resized crops (0.08 to 1 of the area) to 224 pixels, bicubic, mirrored half of the time; one process, one
thread. Rounds are interleaved, and ratios are taken within a round, so that a machine's other work weighs on all alike.

python benchmarks/data_paths.py --tar IMAGENET_SAMPLE [--out benchmarks/results/data_paths.json]
"""

from __future__ import annotations

import argparse
import io
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

import numpy as np
import torch
from PIL import Image
from timm.data.transforms_factory import create_transform

from mae_lite.config import Augmentation
from mae_lite.data.loader import training_loader
from mae_lite.data.opening import open_source
from mae_lite.data.plan import Plan
from mae_lite.data.sources import Encoded, Example, Source
from mae_lite.data.transforms import TrainTransform

ROUNDS = 5
BATCH = 64
SIDE = 224
SHORT_SIDE = 256


class InMemory(Source):
    """Images that lie in memory as bytes or arrays."""

    classes, in_memory, split = None, True, None

    def __init__(self, name: str, data: Sequence[Encoded]) -> None:
        self.name, self.data = name, data
        self.labels = np.full(len(data), -1, dtype=np.int64)

    def example(self, index: int) -> Example:
        """Return image ``index``."""
        return Example(self.name, self.data[index])

    def fingerprint(self) -> dict[str, int | str]:
        """Return the number of images; nothing is resumed here."""
        return {"images": len(self)}


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
                    views.append(transform(image.convert("RGB")))
            torch.from_numpy(np.stack(views))

    return run


def with_ours(source: Source, steps: int, rounding: str) -> Callable[[], None]:
    """Return what loads a source as training does."""
    transform = TrainTransform(Augmentation(), SIDE, 3, "exact" if rounding == "exact" else "fast")
    plan = Plan(samples=len(source), global_batch_size=BATCH, micro_batch_size=BATCH, seed=0)

    def run() -> None:
        for batch in training_loader(source, transform, plan, channels=3, start_step=0, stop_step=steps):
            assert batch.images.shape == (BATCH, 3, SIDE, SIDE) and not batch.bad

    return run


def small(path: Path) -> Image.Image:
    """Return the image with the short side of a pack."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    scale = SHORT_SIDE / min(image.size)
    size = round(image.width * scale), round(image.height * scale)
    return image.resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image) -> bytes:
    """Return the image as JPEG of quality 90."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def square(image: Image.Image) -> Encoded:
    """Return the centre, [256, 256, 3] uint8."""
    left, top = (image.width - SHORT_SIDE) // 2, (image.height - SHORT_SIDE) // 2
    return np.asarray(image.crop((left, top, left + SHORT_SIDE, top + SHORT_SIDE))).copy()


def measure(folder: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Return images per second and the ratio to timm and Pillow, the medians over rounds."""
    files = sorted(folder.rglob("*.jpg"))
    steps = len(files) // BATCH
    reduced = [small(path) for path in files]
    sources: dict[str, Source] = {
        "b: our files": open_source(f"folder:{folder}"),
        "c: our JPEGs of 256 px": InMemory("jpegs", [encoded(image) for image in reduced]),
        "d: our arrays of 256 px": InMemory("arrays", [square(image) for image in reduced]),
    }
    del reduced
    ways = {"a: timm and Pillow, files": with_timm(files, steps)}
    for name, source in sources.items():
        ways[name] = with_ours(source, steps, "fast")
        ways[f"{name}, exact"] = with_ours(source, steps, "exact")
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, run in ways.items():
            start = time.perf_counter()
            run()
            if turn:  # the first round warms up
                rates[name].append(steps * BATCH / (time.perf_counter() - start))
    first = next(iter(rates.values()))
    return {
        name: {
            "images_per_s": round(statistics.median(values), 1),
            "ratio": round(statistics.median([value / base for value, base in zip(values, first, strict=True)]), 2),
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
            opened.extractall(folder, filter="data")
        results = measure(Path(folder), options.rounds)
    for name, row in results.items():
        print(f"{name:<32} {row['images_per_s']:>8.1f} images/s   {row['ratio']:.2f} x")
    about = {
        "command": "python benchmarks/data_paths.py --tar IMAGENET_SAMPLE",
        "hardware": f"{platform.machine()}, {os.cpu_count()} CPUs shared with other work; one process, one thread",
        "system": f"{platform.system()}, Python {sys.version.split()[0]}, torch {torch.__version__}",
        "state": f"file system cache warm, batches of {BATCH}, medians of {options.rounds} interleaved rounds",
        "results": results,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(about, indent=2) + "\n")


if __name__ == "__main__":
    main()
