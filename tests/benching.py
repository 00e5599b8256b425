"""What tests of the benchmarks share: the scripts as modules, and small photographs for them."""

from __future__ import annotations

import importlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
TINY = ["--device", "cpu", "--tiny"]


def jpeg(seed: int, side: int = 32) -> bytes:
    """Return a random JPEG."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG")
    return buffer.getvalue()


def write_cifar(folder: Path, images: int = 40) -> None:
    """Write parquet files with so many images of 2 classes each."""
    folder.mkdir(parents=True)
    for split, first in (("train", 0), ("test", 100)):
        rows = [{"bytes": jpeg(first + number), "path": None} for number in range(images)]
        table = pa.table({"image": rows, "label": [number % 2 for number in range(images)]})
        pq.write_table(table, folder / f"{split}.parquet")


def module(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a benchmark as ``python benchmarks/NAME.py`` would."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module(name)
