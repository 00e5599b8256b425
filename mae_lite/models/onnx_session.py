"""ONNX networks in onnxruntime, on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


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
