"""ONNX files that ``mae-lite export`` wrote as modules; they say themselves how images become their input."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, Field, ValidationError
from torch import Tensor, nn

from mae_lite.config import Augmentation
from mae_lite.errors import CheckpointError, ConfigError, shortly
from mae_lite.models.onnx_session import session

_BESIDE = "preprocessing.json"
_SCORES = "logits"
_FLOATS = ("tensor(float)", "tensor(float16)", "tensor(double)")
_AGAIN = "export the run with mae-lite export RUN --to onnx"
_Side = Annotated[int, Field(ge=1, le=16_384)]
_Mean = Annotated[float, Field(ge=-1e6, le=1e6)]
_Deviation = Annotated[float, Field(ge=1e-6, le=1e6)]


class OnnxModel(nn.Module):
    """A network in onnxruntime; its weights are no parameters, and it computes on the CPU."""

    def __init__(self, source: str, opened: Any, output: str) -> None:
        """Keep an ``onnxruntime.InferenceSession``, the name of its output, and what to call it in messages."""
        super().__init__()
        self._source, self._session, self._output = source, opened, output
        self.num_classes = 0

    def forward(self, images: Tensor) -> Tensor:
        """Return scores [B, K] of normalised float32 images [B, C, S, S].

        Raises:
            CheckpointError: when onnxruntime cannot compute them, or they are no scores.
        """
        try:
            (found,) = self._session.run([self._output], {self._session.get_inputs()[0].name: images.cpu().numpy()})
            scores = torch.from_numpy(found)
        except Exception as error:  # a kind for each thing that can be wrong, none of them public
            raise _unusable(self._source, shortly(error)) from error
        if scores.ndim != 2 or len(scores) != len(images):
            raise _unusable(self._source, f"an output {list(scores.shape)} for {len(images)} images")
        return scores


@dataclass(frozen=True)
class Described:
    """A network and what is said about it."""

    model: OnnxModel
    augmentation: Augmentation
    image_size: int
    channels: int
    classes: tuple[str, ...] | None


class _Input(BaseModel):
    """What an image has to become."""

    type: Literal["float32"] = "float32"
    layout: Literal["NCHW"] = "NCHW"


class _Words(BaseModel):
    """What is read of a file's metadata; anyone may have written them. What would not be followed is refused."""

    mean: tuple[_Mean, ...]
    std: tuple[_Deviation, ...]
    resize_short_side_px: _Side
    centre_crop_px: _Side
    output: Literal["logits", "tokens"]
    classes: tuple[str, ...] | None = None
    interpolation: Literal["bicubic"] = "bicubic"
    normalise: Literal["(pixel / 255 - mean) / std"] = "(pixel / 255 - mean) / std"
    input: _Input = _Input()


def read(source: str, file: Path) -> Described:
    """Open a classifier, and let it look at a black image.

    Args:
        source: what to call it in messages.
        file: of ONNX, with metadata as ``mae-lite export`` writes them, or with its ``preprocessing.json`` beside it.

    Raises:
        CheckpointError: when it cannot be opened or does not run, is no classifier, or does not say how images become
            its input.
        ConfigError: when onnxruntime is not installed.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        raise ConfigError(f"{source!r} is an ONNX file", found="no package onnxruntime", fix="pip install onnxruntime")
    try:
        opened = session(file)
    except Exception as error:  # a kind for each thing that can be wrong, none of them public
        raise _unusable(source, shortly(error)) from error
    words = _words(source, file, opened.get_modelmeta().custom_metadata_map)
    if words.output != _SCORES:
        raise CheckpointError(
            f"{source!r} cannot name classes",
            found="an ONNX file of an encoder without a classification head",
            expected="a classifier",
            fix="fine-tune the run first, and export that",
        )
    side, channels = words.centre_crop_px, len(words.mean)
    _check_entry(source, opened, channels, side)
    if len(words.std) != channels:
        raise _unsaid(source, f"{channels} numbers in mean, {len(words.std)} in std")
    if words.resize_short_side_px < side:
        raise _unsaid(source, f"a short side of {words.resize_short_side_px} px, and {side} px cut from it")
    model = OnnxModel(source, opened, _scores_of(source, opened))
    model.num_classes = model(torch.zeros(1, channels, side, side)).shape[1]
    crop = side / words.resize_short_side_px
    prepared = Augmentation(mean=words.mean, std=words.std, eval_crop=crop)
    return Described(model, prepared, side, channels, words.classes)


def _check_entry(source: str, opened: Any, channels: int, side: int) -> None:
    """Refuse a network that does not take one batch of any size, of images as its metadata say."""
    entries = opened.get_inputs()
    wanted = ["batch", channels, side, side]
    shapes = [list(entry.shape) for entry in entries]
    if len(entries) != 1 or len(shapes[0]) != 4 or entries[0].type != "tensor(float)":
        found = " and ".join(f"{entry.type} {shape}" for entry, shape in zip(entries, shapes, strict=True))
        raise _unusable(source, f"inputs {found}" if found else "no input")
    batch, *rest = shapes[0]
    if isinstance(batch, int):
        raise _unusable(source, f"batches of {batch}", "batches of any size")
    if any(isinstance(one, int) and one != asked for one, asked in zip(rest, wanted[1:], strict=True)):
        raise CheckpointError(
            f"what {source!r} says of its input does not fit it",
            found=f"{channels} channels, {side} x {side} px",
            expected=f"{rest[0]} channels, {rest[1]} x {rest[2]} px",
            fix=_AGAIN,
        )


def _scores_of(source: str, opened: Any) -> str:
    """Return the name of the output with the scores."""
    leaving = opened.get_outputs()
    one = next((entry for entry in leaving if entry.name == _SCORES), leaving[0])
    if (len(leaving) > 1 and one.name != _SCORES) or one.type not in _FLOATS:
        named = ", ".join(f"{entry.name}: {entry.type}" for entry in leaving)
        raise _unusable(source, f"outputs {named}", f"one output of scores, or one called {_SCORES}")
    return str(one.name)


def _words(source: str, file: Path, metadata: Mapping[str, str]) -> _Words:
    beside = file.with_name(_BESIDE)
    try:
        if "mean" in metadata or not beside.is_file():
            known = {name: _value(source, name, metadata[name]) for name in _Words.model_fields if name in metadata}
        else:
            known = json.loads(beside.read_text(encoding="utf-8"))
        return _Words.model_validate(known)
    except ValidationError as error:
        first = error.errors()[0]
        raise _unsaid(source, f"{'.'.join(map(str, first['loc'])) or _BESIDE}: {first['msg']}") from error
    except (ValueError, OSError, RecursionError) as error:
        raise _unsaid(source, shortly(error)) from error


def _value(source: str, name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _unsaid(source, f"{name}: {shortly(error)}") from error


def _unsaid(source: str, found: str) -> CheckpointError:
    return CheckpointError(
        f"{source!r} does not say how images become its input",
        found=found,
        expected=f"metadata as mae-lite export writes them, or {_BESIDE} beside it",
        fix=_AGAIN,
    )


def _unusable(
    source: str, found: str, expected: str = "a whole file, for one batch of float32 images"
) -> CheckpointError:
    return CheckpointError(
        f"{source!r} is no ONNX file that gives scores of images", found=found, expected=expected, fix=_AGAIN
    )
