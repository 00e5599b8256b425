"""What a source costs before decoding: microseconds for one image at a random place, beside the plain alternatives.

python benchmarks/reading.py --parquet FILE.parquet --tar FILE.tar [--out benchmarks/results/reading.json]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from mae_lite.data.images import decode
from mae_lite.data.opening import open_source

IMAGES = 2000
REPEATS = 5


def cost(read: Callable[[int], object], order: list[int]) -> dict[str, float]:
    """Return microseconds for one call: the median and the range over repeats."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        for index in order:
            read(index)
        times.append(1e6 * (time.perf_counter() - start) / len(order))
    return {
        "median_us": round(statistics.median(times), 1),
        "min_us": round(min(times), 1),
        "max_us": round(max(times), 1),
    }


def measure(parquet: str, tar: str) -> dict[str, dict[str, float]]:
    """Measure our sources and the alternatives on the same random places."""
    rows, shards = open_source(f"parquet:{parquet}"), open_source(f"shards:{tar}")
    rng = np.random.default_rng(0)
    in_rows, in_shards = rng.integers(0, len(rows), IMAGES).tolist(), rng.integers(0, len(shards), IMAGES).tolist()
    file = pq.ParquetFile(parquet)
    group = file.metadata.row_group(0).num_rows

    def row_group(index: int) -> object:
        return file.read_row_group(index // group, columns=["image"])["image"][index % group].as_py()["bytes"]

    with tarfile.open(tar, "r:") as opened:
        members = [member for member in opened if member.isfile()]
        return {
            "parquet, ours": cost(rows.example, in_rows),
            "parquet, read_row_group per sample": cost(row_group, in_rows[:20]),
            "parquet, ours, decoded": cost(lambda index: decode(rows.example(index), 3), in_rows),
            "tar, ours": cost(shards.example, in_shards),
            "tar, tarfile.extractfile": cost(lambda index: opened.extractfile(members[index]).read(), in_shards),  # type: ignore[union-attr]
            "tar, ours, decoded": cost(lambda index: decode(shards.example(index), 3), in_shards[:200]),
        }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parquet", required=True)
    parser.add_argument("--tar", required=True)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/reading.json"))
    options = parser.parse_args()
    results = measure(options.parquet, options.tar)
    for name, row in results.items():
        print(f"{name:<36} {row['median_us']:>10.1f} us  ({row['min_us']:.1f} to {row['max_us']:.1f})")
    names = [f"--parquet {Path(options.parquet).name}", f"--tar {Path(options.tar).name}"]
    about = {
        "command": f"python benchmarks/reading.py {' '.join(names)}",
        "hardware": f"{platform.machine()}, {os.cpu_count()} CPUs",
        "system": f"{platform.system()}, Python {sys.version.split()[0]}",
        "state": "file system cache warm",
        "results": results,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(about, indent=2) + "\n")


if __name__ == "__main__":
    main()
