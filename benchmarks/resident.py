"""Training images per second and core from CIFAR-10 (JPEG q75 copy): decoded one by one, or kept as bytes in memory.

(a) torchvision's pipeline for each image: decode with Pillow, RandomResizedCrop, RandomHorizontalFlip, PILToTensor.
(b) the same images as one uint8 tensor through BatchTransform, with the same settings; the random draws count as well.

    python benchmarks/resident.py CIFAR10_FOLDER [--images 10000] [--batch 256]

reads CIFAR10_FOLDER/train.parquet. One thread; the median of five rounds that take turns.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from torchvision import transforms

from mae_lite import draws
from mae_lite.config import Augmentation
from mae_lite.data.batched import BatchTransform
from mae_lite.data.transforms import DRAWS

tvt: Any = transforms  # torchvision is typed in part

SIDE = 32
ROUNDS = 5
SCALE = (0.08, 1.0)


def decoded(data: bytes) -> Image.Image:
    """Return an image file as RGB."""
    return Image.open(io.BytesIO(data)).convert("RGB")


def from_files(files: list[bytes]) -> Callable[[], object]:
    """Return what makes one epoch of torchvision's images."""
    crop = tvt.RandomResizedCrop(SIDE, scale=SCALE, interpolation=tvt.InterpolationMode.BICUBIC)
    pipeline = tvt.Compose([crop, tvt.RandomHorizontalFlip(), tvt.PILToTensor()])
    return lambda: [pipeline(decoded(file)) for file in files]


def from_memory(files: list[bytes], batch: int) -> Callable[[], object]:
    """Return what makes one epoch of batches from the images, which are decoded here."""
    images = torch.from_numpy(np.stack([np.asarray(decoded(file)) for file in files]).transpose(0, 3, 1, 2).copy())
    transform = BatchTransform(Augmentation(crop_scale=SCALE, interpolation="bicubic", flip=0.5), SIDE, 3)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))

    def epoch() -> None:
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            u = draws.uniform(draws.key(0, "augment", 0), rows.numpy(), DRAWS)
            transform(images[rows], u[:, None])

    return epoch


def measure(files: list[bytes], batch: int) -> dict[str, dict[str, float]]:
    """Return images/s of both, in rounds that take turns after one to warm up."""
    ways = {"torchvision, one by one": from_files(files), "resident, whole batches": from_memory(files, batch)}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(1 + ROUNDS):
        for name, epoch in ways.items():
            start = time.perf_counter()
            epoch()
            rates[name].append(len(files) / (time.perf_counter() - start))
    return {
        name: {"median": round(statistics.median(row[1:])), "min": round(min(row[1:])), "max": round(max(row[1:]))}
        for name, row in rates.items()
    }


def processor() -> str:
    """Return the processor's name where the system tells it."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/resident.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    column = pq.read_table(options.data / "train.parquet", columns=["image"])["image"].slice(0, options.images)
    rates = measure([row["bytes"] for row in column.to_pylist()], options.batch)
    files, memory = (row["median"] for row in rates.values())
    for name, row in rates.items():
        print(f"{name:<26} {row['median']:>8} images/s  ({row['min']} to {row['max']})")
    print(f"{'ratio':<26} {memory / files:>8.1f}")
    result = {
        "data": f"CIFAR-10 (JPEG q75 copy), {len(column)} images",
        "batch": options.batch,
        "images_per_second": rates,
        "ratio": round(memory / files, 1),
        "hardware": {
            "cpu": processor(),
            "threads": 1,
            **{name: version(name) for name in ("torch", "torchvision", "pillow")},
        },
        "command": ["python", *("CIFAR10_FOLDER" if text == str(options.data) else text for text in sys.argv)],
        "note": "Measured beside other jobs.",
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
