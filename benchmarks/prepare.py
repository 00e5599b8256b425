"""What ``mae-lite prepare`` makes of a core: images per second, beside a bare loop of decoding, resizing and encoding.

    python benchmarks/prepare.py DATA [--images 200] [--rounds 5] [--out benchmarks/results/prepare.json]

Both do the same images in turns, in one process. The bare loop has its files in memory, and keeps nothing; prepare
reads, writes, flushes, hashes and reads back, and copies the few JPEGs that are small enough already. They are compared
by the CPU seconds that they take, which other work on the machine changes little, and by the clock.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, features

from mae_lite.config import Reading
from mae_lite.data.opening import open_source
from mae_lite.data.pack import Form
from mae_lite.data.sources import Example, Source, subset
from mae_lite.exporting.machine import processor
from mae_lite.preparing.parts import Job, Making, make

SIDE, QUALITY = 256, 90


def bare(images: Sequence[bytes]) -> None:
    """Decode, resize and encode by Pillow alone."""
    for data in images:
        image: Image.Image = Image.open(io.BytesIO(data))
        image = image if image.mode == "RGB" else image.convert("RGB")
        scale = min(1.0, SIDE / min(image.size))
        if scale < 1:
            size = (round(image.width * scale), round(image.height * scale))
            image = image.resize(size, Image.Resampling.BICUBIC)
        image.save(io.BytesIO(), "JPEG", quality=QUALITY)


def prepared(source: Source) -> None:
    """Make one part of a pack."""
    form = Form(kind="jpeg", side=SIDE, channels=3, quality=QUALITY, reading=Reading())
    with tempfile.TemporaryDirectory() as folder:
        job = Job("all", 0, range(len(source)))
        made = make(Making({"all": source}, Path(folder), form, "benchmark"), job, lambda: False)
    assert made.part.images == len(source)


def measure(data: str, images: int, rounds: int) -> dict[str, object]:
    """Return images per second of both, by two clocks: the median and the range of the rounds, and of their ratio."""
    whole = open_source(data)
    chosen = np.sort(np.random.default_rng(0).permutation(len(whole))[:images])
    source = subset(whole, chosen)
    in_memory = [_bytes(source.example(index)) for index in range(len(source))]
    works: dict[str, Callable[[], None]] = {
        "bare loop": functools.partial(bare, in_memory),
        "prepare": functools.partial(prepared, source),
    }
    clocks = {"images_per_cpu_second": time.process_time, "images_per_second": time.perf_counter}
    rates: dict[str, dict[str, list[float]]] = {clock: {name: [] for name in works} for clock in clocks}
    bare(in_memory[:20])
    for _ in range(rounds):
        for name, work in works.items():
            starts = {clock: now() for clock, now in clocks.items()}
            work()
            for clock, now in clocks.items():
                rates[clock][name].append(len(source) / (now() - starts[clock]))
    results: dict[str, object] = {"images": len(source)}
    for clock, of_clock in rates.items():
        ratios = [ours / theirs for ours, theirs in zip(of_clock["prepare"], of_clock["bare loop"], strict=True)]
        rows = {name: _spread(values, 1) for name, values in of_clock.items()}
        results[clock] = {**rows, "prepare / bare loop": _spread(ratios, 3)}
    return results


def _bytes(example: Example) -> bytes:
    assert isinstance(example.data, bytes | Path), "an encoded image"
    return example.data if isinstance(example.data, bytes) else example.data.read_bytes()


def _spread(values: Sequence[float], digits: int) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="photographs, as --data takes them")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/prepare.json"))
    options = parser.parse_args(argv)
    results = measure(options.data, options.images, options.rounds)
    print(json.dumps(results, indent=2))
    about = {
        "command": f"python benchmarks/prepare.py {Path(options.data).name} --images {options.images} "
        f"--rounds {options.rounds}",
        "hardware": f"{processor()['model']}, {os.cpu_count()} CPUs",
        "system": f"{platform.system()}, Python {sys.version.split()[0]}, Pillow {PIL.__version__}, "
        f"libjpeg-turbo {features.version_feature('libjpeg_turbo')}",
        "to": f"JPEG, short side {SIDE}, quality {QUALITY}",
        "results": results,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(about, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
