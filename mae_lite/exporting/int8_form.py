"""The form in 8-bit numbers for ONNX runtimes: weights and what they are multiplied with, calibrated on images.

What comes out of these products, what is normalised and added, and what attention multiplies stay in float32: there
Vision Transformers lose most by rounding, and have few operations.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from mae_lite import files
from mae_lite.exporting import machine
from mae_lite.exporting.onnx_form import NETWORK, SCOPES, Session, describe, network
from mae_lite.exporting.opened import Opened
from mae_lite.exporting.work import Form, Work

NAME = "onnx-int8"


def _write(work: Work) -> dict[str, bytes]:
    import onnx

    calibration = work.calibration  # read first: a lack of images is said before minutes of work
    reduced, why = machine.reduced_range()
    work.note(NAME, why)
    work.note(NAME, f"calibrated on {len(calibration)} images of {calibration.about['data']}")
    model = onnx.load_from_string(network(work))
    scopes = {node.name: _scope(node) for node in model.graph.node}
    place = work.scratch / "quantising"  # onnxruntime quantises from file to file
    files.make_folder(place)
    quantised = onnx.load(_quantised(model, place, calibration.normalised(), reduced))
    for node in quantised.graph.node:
        if scopes.get(node.name):  # lost on the way; they say which block an operation belongs to
            entry = node.metadata_props.add()
            entry.key, entry.value = SCOPES, scopes[node.name]
    describe(quantised, work.subject.preprocessing())
    files.remove(place)
    return {NETWORK: quantised.SerializeToString(), "preprocessing.json": work.preprocessing}


def _scope(node: Any) -> str:
    return next((entry.value for entry in node.metadata_props if entry.key == SCOPES), "")


def _quantised(model: Any, place: Path, batches: Iterator[Tensor], reduced: bool) -> Path:
    """Quantise a network.

    Args:
        model: as a ``ModelProto``.
        place: an empty folder.
        batches: normalised images [B, C, H, H], whose activations set the ranges.
        reduced: whether weights have 7 bits.

    Returns:
        The file that onnxruntime wrote in ``place``.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        """Gives out one batch after the other."""

        def get_next(self) -> dict[str, Any] | None:
            """Return the next batch."""
            batch = next(batches, None)
            return None if batch is None else {"images": batch.numpy()}

    prepared, written = place / "prepared.onnx", place / "quantised.onnx"
    quant_pre_process(model, prepared)
    ready, kinds = onnx.load(prepared), ["MatMul", "Gemm", "Conv"]
    quantization.quantize_static(
        ready,
        written,
        Reader(),
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=kinds,
        per_channel=True,
        reduce_range=reduced,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        nodes_to_exclude=_between_tokens(ready),  # its own MatMulConstBOnly is not read for QDQ
        # A bias is added next, in float32: rounding before it costs accuracy and saves no time.
        extra_options={"OpTypesToExcludeOutputQuantization": kinds},
    )
    return written


def _between_tokens(model: Any) -> list[str]:
    """Return the matrix products without weights: those of queries with keys and of shares with values."""
    constants = {tensor.name for tensor in model.graph.initializer}
    products = (node for node in model.graph.node if node.op_type == "MatMul")
    return [node.name for node in products if not constants & set(node.input)]


def _open(folder: Path, _: Work) -> Opened:
    return Session(folder / NETWORK)


FORM = Form(_write, _open, tolerance=None, exact=False)
