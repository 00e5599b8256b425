"""A process that opens one form as its user does, with that form's libraries alone, and says what memory it took.

``python -m mae_lite.cards.fresh KIND FOLDER CHANNELS SIDE`` prints JSON: megabytes after the libraries were imported,
and the most until one image went through.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mae_lite import rundir
from mae_lite.terminal import say

_STATUS = Path("/proc/self/status")


def main(kind: str, folder: str, channels: int, side: int) -> dict[str, float]:
    """Open the form of ``kind`` in ``folder``, give it one image of zeros, and return the megabytes."""
    run = _OPENERS[kind]((1, channels, side, side))
    libraries = _peak_mb()
    run(Path(folder))
    return {"peak_mb": _peak_mb(), "libraries_mb": libraries}


def _peak_mb() -> float:
    """Return the most memory that this process has held; Linux's resource usage would count its parent's too."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return rundir.resident_peak_mb()
    return float(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024 / 1e6


def _timm(shape: tuple[int, ...]) -> Callable[[Path], object]:
    import timm
    import torch

    def run(folder: Path) -> object:
        model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        with torch.no_grad():
            return model(torch.zeros(shape))

    return run


def _program(shape: tuple[int, ...]) -> Callable[[Path], object]:
    import torch

    def run(folder: Path) -> object:
        with torch.no_grad():
            return torch.export.load(folder / "model.pt2").module()(torch.zeros(shape))

    return run


def _network(shape: tuple[int, ...]) -> Callable[[Path], object]:
    import numpy as np
    import onnxruntime

    def run(folder: Path) -> object:
        session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
        return session.run(None, {"images": np.zeros(shape, dtype=np.float32)})

    return run


def _transformers(shape: tuple[int, ...]) -> Callable[[Path], object]:
    import torch
    import transformers

    library: Any = transformers

    def run(folder: Path) -> object:
        settings = json.loads((folder / "config.json").read_text())
        named = str((settings.get("architectures") or [""])[0])
        scored = named.endswith("ForImageClassification") or settings.get("num_classes")
        kind = library.AutoModelForImageClassification if scored else library.AutoModel
        with torch.no_grad():
            return kind.from_pretrained(folder).eval()(torch.zeros(shape))

    return run


_OPENERS: dict[str, Callable[[tuple[int, ...]], Callable[[Path], object]]] = {
    "torch": _timm,
    "timm": _timm,
    "timm-half": _timm,
    "torch-export": _program,
    "onnx": _network,
    "onnx-int8": _network,
    "huggingface": _transformers,
}
"""Imports the libraries of a form and returns what opens and runs it."""

if __name__ == "__main__":
    say(json.dumps(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
