"""The form for ONNX runtimes: one file that describes itself, for batches of any size."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mae_lite.exporting.opened import Opened, Place, block_of, borders
from mae_lite.exporting.work import Form, Work
from mae_lite.models.onnx_session import session

NETWORK = "model.onnx"
SCOPES = "pkg.torch.onnx.name_scopes"
"""Where torch notes the modules that an operation belongs to."""
_OPSET = 20  # the first whose Gelu is one operation


def network(work: Work) -> bytes:
    """Return the model as ONNX in float32, with its description in ``metadata_props``; made once."""
    if NETWORK not in work.made:
        work.made[NETWORK] = _network(work)
    return work.made[NETWORK]


def _network(work: Work) -> bytes:
    program: Any = torch.onnx.export(
        work.subject.served,
        (work.example(),),
        dynamo=True,
        opset_version=_OPSET,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        input_names=["images"],
        output_names=[work.subject.output],
        verbose=False,
    )
    model = program.model_proto
    describe(model, work.subject.preprocessing())
    written: bytes = model.SerializeToString()
    return written


def describe(model: Any, known: Mapping[str, Any]) -> None:
    """Write what the input has to be and what the output means into ``metadata_props``, each value as JSON."""
    import onnx

    onnx.helper.set_model_props(model, {name: json.dumps(value) for name, value in known.items()})
    model.producer_name = "mae_lite"


def _write(work: Work) -> dict[str, bytes]:
    return {NETWORK: network(work), "preprocessing.json": work.preprocessing}


class Session:
    """A file of ONNX in onnxruntime, on the CPU."""

    def __init__(self, path: Path) -> None:
        """Read it; as many threads as torch has now will work on it."""
        self._path = path
        self._session = session(path.read_bytes())

    def __call__(self, images: Tensor) -> Tensor:
        """Return the output."""
        return self._run(self._session, None, images)[0]

    def states(self, images: Tensor) -> dict[str, Tensor]:
        """Run a copy of the file that gives out what leaves each block as well."""
        import onnx

        model = onnx.load(self._path)
        names = borders(_place(node) for node in model.graph.node)
        already = {value.name for value in model.graph.output}
        for name in dict.fromkeys(names.values()):
            if name not in already:
                model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
        values = self._run(session(model.SerializeToString()), list(names.values()), images)
        return dict(zip(names, values, strict=True))

    @staticmethod
    def _run(session: Any, outputs: Sequence[str] | None, images: Tensor) -> list[Tensor]:
        return [torch.from_numpy(value) for value in session.run(outputs, {"images": images.numpy()})]


def _place(node: Any) -> Place:
    noted = next((entry.value for entry in node.metadata_props if entry.key == SCOPES), "")
    # A list in Python's notation, the innermost module last, and behind it the operation itself.
    words = [word.strip(" '\"") for word in noted.strip("[]").split(",")]
    scope = next((word for word in reversed(words) if block_of(word) is not None), "")
    return Place(scope, node.input[0] if len(node.input) else None, node.output[0])


def _open(folder: Path, _: Work) -> Opened:
    return Session(folder / NETWORK)


FORM = Form(_write, _open)
