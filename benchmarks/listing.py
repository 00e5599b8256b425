"""How long a large folder of images takes to open: the first time, later, and after a change, beside two plain ways.

It makes a tree of small files in 1,000 class folders, opens it in fresh processes, and removes it. Beside the time to
open, which includes the fingerprint, it tells the time that a Python process spends on imports before.

    python benchmarks/listing.py [--files 1000000] [--folder TMP] [--out benchmarks/results/listing.json]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CLASSES = 1000
REPEATS = 3


def walked(root: Path) -> tuple[float, int]:
    """List with os.walk, and ask for every size: what a fingerprint needs."""
    start = time.perf_counter()
    found = []
    for folder, _, files in os.walk(root):
        for name in files:
            if name.lower().endswith((".jpg", ".jpeg", ".png")):
                path = os.path.join(folder, name)
                found.append((path, os.stat(path).st_size))
    found.sort()
    return start, len(found)


def image_folder(root: Path) -> tuple[float, int]:
    """List as torchvision does, which asks for no sizes."""
    from torchvision.datasets import ImageFolder

    start = time.perf_counter()
    return start, len(ImageFolder(root))


def opened(root: Path) -> tuple[float, int]:
    """Open as a run does, with the fingerprint."""
    from mae_lite.data.folder import Folder

    start = time.perf_counter()
    source = Folder(root)
    return start, int(source.fingerprint()["count"])


WAYS: dict[str, Callable[[Path], tuple[float, int]]] = {
    "os.walk": walked,
    "torchvision ImageFolder": image_folder,
    "mae_lite": opened,
}


def measure(way: str, root: Path) -> dict[str, float]:
    """Time one way in this process, which should be fresh."""
    begin = time.perf_counter()
    start, count = WAYS[way](root)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"seconds": seconds, "import_seconds": start - begin, "images": count, "peak_mb": peak / 1e6}


def in_fresh_process(way: str, root: Path, cache: Path) -> dict[str, float]:
    """Run :func:`measure` in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--measure", way, "--folder", str(root)],
        env=os.environ | {"MAE_LITE_CACHE": str(cache)},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    result: dict[str, float] = json.loads(done.stdout)
    return result


def generate(root: Path, files: int) -> None:
    """Make ``files`` small files in class folders; they need not be images to be listed."""
    for number in range(CLASSES):
        folder = root / f"n{number:08d}"
        folder.mkdir(parents=True)
        for position in range(number, files, CLASSES):
            with open(folder / f"n{number:08d}_{position // CLASSES}.JPEG", "wb", buffering=0) as handle:
                handle.write(b"x" * (1 + position % 7))


def compare(root: Path, cache: Path) -> dict[str, dict[str, float]]:
    """Return the measurements by name; the median run of three by time, except for what happens once only."""

    def median(way: str) -> dict[str, float]:
        runs = sorted((in_fresh_process(way, root, cache) for _ in range(REPEATS)), key=lambda run: run["seconds"])
        return runs[REPEATS // 2] | {"slowest_seconds": runs[-1]["seconds"]}

    results = {"os.walk, sizes": median("os.walk"), "torchvision ImageFolder": median("torchvision ImageFolder")}
    results["mae_lite, first time"] = in_fresh_process("mae_lite", root, cache)
    results["mae_lite, later"] = median("mae_lite")
    (root / "n00000500" / "added.JPEG").write_bytes(b"x")
    results["mae_lite, one file added"] = in_fresh_process("mae_lite", root, cache)
    assert results["mae_lite, one file added"]["images"] == results["mae_lite, later"]["images"] + 1
    return results


def table(results: dict[str, dict[str, float]]) -> str:
    """Return the results for people."""
    base = results["os.walk, sizes"]["seconds"]
    lines = [f"{'':28}{'seconds':>9}{'of os.walk':>12}{'imports s':>11}{'peak MB':>9}"]
    for name, row in results.items():
        ratio = row["seconds"] / base
        lines.append(f"{name:28}{row['seconds']:9.2f}{ratio:12.2f}{row['import_seconds']:11.2f}{row['peak_mb']:9.0f}")
    return "\n".join(lines)


def processor() -> str:
    """Return the processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    """Generate, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="where the tree is made for a while")
    parser.add_argument("--out", default="benchmarks/results/listing.json")
    parser.add_argument("--measure", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, Path(options.folder))))
        return
    place = Path(tempfile.mkdtemp(prefix="listing-", dir=options.folder))
    try:
        start = time.perf_counter()
        generate(place / "images", options.files)
        print(f"{options.files:,} files made in {time.perf_counter() - start:.0f} s", flush=True)
        time.sleep(3)  # folders just made are not trusted yet
        results = compare(place / "images", place / "cache")
        cache_mb = sum(path.stat().st_size for path in (place / "cache").rglob("*") if path.is_file()) / 1e6
    finally:
        shutil.rmtree(place, ignore_errors=True)
    facts: dict[str, Any] = {
        "command": f"python benchmarks/listing.py --files {options.files}",
        "hardware": f"{processor()}, {os.cpu_count()} cores",
        "system": f"{platform.system()}, Python {platform.python_version()}",
        "state": "file system cache warm",
        "cache_mb": cache_mb,
        "results": results,
    }
    Path(options.out).parent.mkdir(parents=True, exist_ok=True)
    Path(options.out).write_text(json.dumps(facts, indent=2) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
