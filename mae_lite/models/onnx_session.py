"""ONNX networks in onnxruntime, on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

_NETWORK = "model.onnx"
_OTHERS = ("config.json", "recipe.json", "model.safetensors", "pytorch_model.bin")
"""Where a folder has one of these, it is not the network that is meant."""


def network_of(path: Path) -> Path | None:
    """Return the network that a file or folder is; None for anything else."""
    if path.suffix.lower() == ".onnx" and path.is_file():
        return path
    network = path / _NETWORK
    return network if network.is_file() and not any((path / name).exists() for name in _OTHERS) else None


def session(network: bytes | Path) -> Any:
    """Return an ``onnxruntime.InferenceSession``; as many threads as torch has now work in it.

    Args:
        network: a file, beside which weights may lie that are not in it; or the bytes of one.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors; its warnings are about how it optimises
    return onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
