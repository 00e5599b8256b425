"""Which library resizes a crop: crops per second of one core, and how far each is from what Pillow makes of them.

Random crops (0.08 to 1 of the area) of decoded photographs become 224 px, bicubic. Ours is torch's filter, which widens
where it shrinks, as Pillow's does. OpenCV's does not: crops of twice the size or more are averaged in whole blocks
before, as is usual with it. It takes part where it is installed. Rounds are interleaved, and ratios taken within each.

    python benchmarks/resizing.py DATA [--images 300] [--rounds 5]
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from mae_lite.data.images import decode
from mae_lite.data.opening import open_source
from mae_lite.data.raster import Raster, resize_into
from mae_lite.exporting.machine import processor

SIDE = 224
Pixels = npt.NDArray[np.uint8]
Crop = tuple[Pixels, tuple[int, int, int, int]]
"""An image [H, W, 3], and left, top, width and height of what is taken of it."""


def crops(data: str, images: int) -> list[Crop]:
    """Decode images, and draw a crop of each."""
    source, rng, found = open_source(data), np.random.default_rng(0), []
    for index in rng.permutation(len(source))[:images].tolist():
        image = decode(source.example(index), 3)
        assert isinstance(image, Image.Image)  # of 3 channels it always is
        pixels = np.array(image)
        height, width = pixels.shape[:2]
        area, ratio = height * width * rng.uniform(0.08, 1), np.exp(rng.uniform(-np.log(4 / 3), np.log(4 / 3)))
        wide, high = min(width, round((area * ratio) ** 0.5)), min(height, round((area / ratio) ** 0.5))
        left, top = int(rng.integers(width - wide + 1)), int(rng.integers(height - high + 1))
        found.append((pixels, (left, top, wide, high)))
    return found


def with_pillow(crop: Crop) -> Pixels:
    """Resize as the reference does."""
    pixels, (left, top, width, height) = crop
    part = Image.fromarray(pixels[top : top + height, left : left + width])
    return np.asarray(part.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def with_torch(crop: Crop) -> Pixels:
    """Resize as training does."""
    pixels, box = crop
    out = np.empty((3, SIDE, SIDE), np.uint8)
    resize_into(Raster(pixels, (pixels.shape[1], pixels.shape[0])), box, "bicubic", out)
    return out.transpose(1, 2, 0)


def with_opencv(crop: Crop) -> Pixels:
    """Resize as is usual with OpenCV."""
    cv2: Any = importlib.import_module("cv2")
    pixels, (left, top, width, height) = crop
    part = pixels[top : top + height, left : left + width]
    less = min(width, height) // SIDE
    if less >= 2:
        part = cv2.resize(part, (width // less, height // less), interpolation=cv2.INTER_AREA)
    resized: Pixels = cv2.resize(part, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    return resized


WAYS: dict[str, Callable[[Crop], Pixels]] = {"Pillow": with_pillow, "torch": with_torch, "OpenCV": with_opencv}


def measure(taken: Sequence[Crop], rounds: int) -> dict[str, dict[str, float]]:
    """Return crops per second, the ratio to Pillow, and the mean difference from it in steps of 1/255."""
    ways = {name: way for name, way in WAYS.items() if name != "OpenCV" or importlib.util.find_spec("cv2") is not None}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    made = {name: [way(crop).astype(np.int16) for crop in taken] for name, way in ways.items()}  # which warms up
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            for crop in taken:
                way(crop)
            seconds[name].append(time.perf_counter() - start)
    pairs = {name: zip(seconds["Pillow"], spent, strict=True) for name, spent in seconds.items()}
    return {
        name: {
            "crops_per_second": len(taken) / statistics.median(seconds[name]),
            "ratio": statistics.median(pillow / own for pillow, own in pairs[name]),
            "mean_difference": statistics.mean(
                float(np.abs(own - pillow).mean()) for own, pillow in zip(made[name], made["Pillow"], strict=True)
            ),
        }
        for name in ways
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/resizing.json"))
    words = sys.argv[1:] if argv is None else argv
    options = parser.parse_args(words)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    if importlib.util.find_spec("cv2") is not None:
        importlib.import_module("cv2").setNumThreads(1)
    found = measure(crops(options.data, options.images), options.rounds)
    torch.set_num_threads(before)
    for name, row in found.items():
        print(f"{name:<8}{row['crops_per_second']:>8,.0f}/s{row['ratio']:>7.2f} x"
              f"{row['mean_difference']:>7.2f} of 255 from Pillow's")  # fmt: skip
    content = {
        "results": found,
        "hardware": {**processor(), "cpus": os.cpu_count(), "threads": 1},
        "command": ["python", "benchmarks/resizing.py", "DATA", *words[1:]],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
