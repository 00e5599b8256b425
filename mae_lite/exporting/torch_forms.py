"""Forms that torch itself runs: folders for timm, whole and in half precision, and a program of torch.export."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, fx

from mae_lite.exporting.opened import Opened, Place, borders, of_timm
from mae_lite.exporting.subject import Tokens
from mae_lite.exporting.work import Form, Work
from mae_lite.models import weights

PROGRAM = "model.pt2"


def timm_folder(work: Work) -> dict[str, bytes]:
    """Return the files of a folder for timm; transformers wraps it too."""
    return _folder(work, work.subject.model.state_dict())


def _half(work: Work) -> dict[str, bytes]:
    state = work.subject.model.state_dict()
    return _folder(work, {name: value.half() if value.is_floating_point() else value for name, value in state.items()})


def _folder(work: Work, state: Mapping[str, Tensor]) -> dict[str, bytes]:
    settings = dict(work.subject.settings)
    # Folders of earlier versions have the number of outputs here too, which transformers does not take.
    settings["model_args"] = {k: v for k, v in settings.get("model_args", {}).items() if k != "num_classes"}
    return {"config.json": json.dumps(settings, indent=2).encode(), "model.safetensors": weights.to_bytes(state)}


def _open_timm(folder: Path, work: Work) -> Opened:
    model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    return of_timm(model, model if work.subject.output == "logits" else Tokens(model))


def _program(work: Work) -> dict[str, bytes]:
    batch = torch.export.Dim("batch")
    program = torch.export.export(work.subject.served, (work.example(),), dynamic_shapes=({0: batch},))
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={"preprocessing.json": work.preprocessing.decode()})
    return {PROGRAM: buffer.getvalue(), "preprocessing.json": work.preprocessing}


class _Program:
    """A program of torch.export that was read back."""

    def __init__(self, path: Path) -> None:
        self._module: Any = torch.export.load(path).module()

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        return self._module(images)  # type: ignore[no-any-return]

    @torch.no_grad()
    def states(self, images: Tensor) -> dict[str, Tensor]:
        names = borders(_place(node) for node in self._module.graph.nodes)
        seen = _Recorder(self._module, set(names.values())).record(images)
        return {block: seen[name] for block, name in names.items()}


def _place(node: fx.Node) -> Place:
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    first = node.args[0] if node.args else None
    return Place(stack[-1][0] if stack else "", first.name if isinstance(first, fx.Node) else None, node.name)


class _Recorder(fx.Interpreter):
    """Runs a graph one operation after the other and keeps some of the values."""

    def __init__(self, module: Any, wanted: set[str]) -> None:
        super().__init__(module)
        self._wanted, self._seen = wanted, dict[str, Tensor]()

    def record(self, images: Tensor) -> dict[str, Tensor]:
        self.run(images)
        return self._seen

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self._wanted:
            self._seen[n.name] = value
        return value


TIMM = Form(timm_folder, _open_timm)
HALF = Form(_half, _open_timm, tolerance=1e-2, exact=False)
PROGRAM_FORM = Form(_program, lambda folder, _: _Program(folder / PROGRAM))
