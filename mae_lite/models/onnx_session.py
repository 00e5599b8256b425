"""ONNX networks in onnxruntime, on the CPU."""

from __future__ import annotations

from typing import Any

import torch


def session(data: bytes) -> Any:
    """Return an ``onnxruntime.InferenceSession`` of a file's bytes; as many threads as torch has now work in it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors; its warnings are about how it optimises
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
