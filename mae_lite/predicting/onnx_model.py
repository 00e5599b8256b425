"""ONNX files that ``mae-lite export`` wrote as modules; they say themselves how images become their input."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, Field, ValidationError
from torch import Tensor, nn

from mae_lite.config import Augmentation
from mae_lite.errors import CheckpointError, ConfigError, MaeLiteError, shortly
from mae_lite.models.onnx_session import session

_NETWORK = "model.onnx"
_BESIDE = "preprocessing.json"
_LARGEST_SIDE = 16_384
_MIB = 2**20


class OnnxModel(nn.Module):
    """A network in onnxruntime; its weights are no parameters, and it computes on the CPU."""

    def __init__(self, opened: Any, outputs: int) -> None:
        """Keep an ``onnxruntime.InferenceSession`` and how many numbers it gives for each image."""
        super().__init__()
        self._session, self.num_classes = opened, outputs

    def forward(self, images: Tensor) -> Tensor:
        """Return scores [B, K] of normalised float32 images [B, C, S, S]."""
        fed = {self._session.get_inputs()[0].name: images.cpu().numpy()}
        return torch.from_numpy(self._session.run(None, fed)[0])


@dataclass(frozen=True)
class Described:
    """A network and what is said about it."""

    model: OnnxModel
    augmentation: Augmentation
    image_size: int
    channels: int
    classes: tuple[str, ...] | None


class _Words(BaseModel):
    """What is read of a file's metadata; anyone may have written them."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize_short_side_px: int = Field(ge=1, le=_LARGEST_SIDE)
    centre_crop_px: int = Field(ge=1, le=_LARGEST_SIDE)
    output: Literal["logits", "tokens"]
    classes: tuple[str, ...] | None = None


def file_of(path: Path) -> Path | None:
    """Return the network that a file or folder is; None for anything else."""
    if path.suffix.lower() == ".onnx" and path.is_file():
        return path
    return path / _NETWORK if (path / _NETWORK).is_file() else None


def read(source: str, file: Path) -> Described:
    """Open a network.

    Args:
        source: what to call it in messages.
        file: of ONNX, with metadata as ``mae-lite export`` writes them, or with its ``preprocessing.json`` beside it.

    Raises:
        CheckpointError: when it cannot be opened, or does not say how images become its input.
        ConfigError: when onnxruntime is not installed.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        raise ConfigError(f"{source!r} is an ONNX file", found="no package onnxruntime", fix="pip install onnxruntime")
    try:
        opened = session(file.read_bytes())
        (entry,), leaving = opened.get_inputs(), opened.get_outputs()[0]
        channels, *sides = entry.shape[1:]
    except Exception as error:  # onnxruntime has a kind for each thing that can be wrong, none of them public
        raise CheckpointError(
            f"{source!r} is no ONNX file that onnxruntime runs on images",
            found=shortly(error),
            expected="a whole file, with one input [batch, channels, side, side]",
            fix="export the run again, or copy the file again",
        ) from error
    words = _words(source, file, opened.get_modelmeta().custom_metadata_map)
    side = words.centre_crop_px
    if sides != [side, side] or not len(words.mean) == len(words.std) == channels:
        raise CheckpointError(
            f"what {source!r} says of its input does not fit it",
            found=f"{side} x {side} px, {len(words.mean)} channels",
            expected=f"{' x '.join(map(str, sides))} px, {channels} channels",
            fix="export the run again",
        )
    try:
        crop = min(side / words.resize_short_side_px, 1.0)
        prepared = Augmentation(mean=words.mean, std=words.std, eval_crop=crop)
    except (ValidationError, MaeLiteError) as error:
        raise _unsaid(source, shortly(error)) from error
    outputs = leaving.shape[-1] if words.output == "logits" and isinstance(leaving.shape[-1], int) else 0
    return Described(OnnxModel(opened, outputs), prepared, side, channels, words.classes)


def _words(source: str, file: Path, metadata: dict[str, str]) -> _Words:
    beside = file.with_name(_BESIDE)
    try:
        if "mean" in metadata or not beside.is_file():
            return _Words.model_validate({name: json.loads(text) for name, text in metadata.items()})
        with beside.open("rb") as handle:
            return _Words.model_validate_json(handle.read(_MIB))
    except ValidationError as error:
        first = error.errors()[0]
        raise _unsaid(source, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except (ValueError, OSError, RecursionError) as error:
        raise _unsaid(source, shortly(error)) from error


def _unsaid(source: str, found: str) -> CheckpointError:
    return CheckpointError(
        f"{source!r} does not say how images become its input",
        found=found,
        expected=f"metadata as mae-lite export writes them, or {_BESIDE} beside it",
        fix="export the run with mae-lite export RUN --to onnx",
    )
