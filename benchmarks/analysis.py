"""How long ``mae-lite analyze`` takes at 224 px, all analyses without training, beside one plain forward pass.

python benchmarks/analysis.py [--images 1000] [--data DATA] [--threads 2] [--out benchmarks/results/analysis.json]

Without --data the images are generated: JPEGs of 400 x 300 pixels in ten classes. The forward pass is of the same
random ViT-Tiny over as many blank images, without reading anything.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mae_lite.analysis import analyze as analysis
from mae_lite.analysis.loading import load

MODEL = "timm:vit_tiny_patch16_224"


def generate(folder: Path, images: int) -> str:
    """Write smooth random JPEGs in ten classes that differ in brightness."""
    rng = np.random.default_rng(0)
    for number in range(images):
        label = number % 10
        coarse = rng.integers(0, 130, (6, 8, 3)) + 12 * label
        picture = Image.fromarray(coarse.astype(np.uint8)).resize((400, 300), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        picture.save(buffer, format="JPEG", quality=90)
        place = folder / str(label) / f"{number}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(buffer.getvalue())
    return str(folder)


def forward_seconds(images: int, batch: int) -> float:
    """Return the seconds of a plain forward pass."""
    model = load(MODEL, random=True).model
    blank = torch.zeros(batch, 3, 224, 224)
    start = time.perf_counter()
    with torch.inference_mode():
        for _ in range(-(-images // batch)):
            model.forward_features(blank)
    return time.perf_counter() - start


def measure(images: int, data: str | None, importances: list[str]) -> dict[str, float]:
    """Return the seconds of one analysis with each kind of importance, and of the forward pass."""
    found = {"forward_s": round(forward_seconds(images, min(images, 64)), 1)}
    with tempfile.TemporaryDirectory() as folder:
        given = data or generate(Path(folder) / "data", images)
        for importance in importances:
            order = {"images": images, "importance": importance, "random": True}
            start = time.perf_counter()
            analysis.analyze(analysis.Order((MODEL,), given, Path(folder) / "out", **order))  # type: ignore[arg-type]
            found[f"importance_{importance}_s"] = round(time.perf_counter() - start, 1)
    found["peak_mib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return found


def main() -> None:
    """Measure and print, and write if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--data", default=None)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--importances", nargs="+", default=["none", "skip"])
    parser.add_argument("--out", default=None)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    result = {
        "command": " ".join(["python", *sys.argv]),
        "model": MODEL,
        "images": options.images,
        "threads": options.threads,
        "cpus": os.cpu_count(),
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        **measure(options.images, options.data, options.importances),
    }
    print(json.dumps(result, indent=2))
    if options.out:
        Path(options.out).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
