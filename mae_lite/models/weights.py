"""Tensors in: the only module that loads weights, ours or a stranger's, and it never loads half of them silently."""

from __future__ import annotations

import argparse
import fnmatch
import logging
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from mae_lite.errors import CheckpointError
from mae_lite.models.vit import adapted_projection, resized_positions

_log = logging.getLogger(__name__)
_WRAPPERS = ("module.", "_orig_mod.", "model.")
_STATE_NAMES = ("model", "state_dict", "model_state")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # torch paints its messages
_MAX_BYTES = 16 * 2**30


def from_bytes(data: bytes, name: str) -> dict[str, Tensor]:
    """Read safetensors.

    Raises:
        CheckpointError: when ``data`` is not a whole safetensors file.
    """
    try:
        return safetensors.torch.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{name!r} is not a readable safetensors file", found=str(error), fix="copy or download it again"
        ) from error


def to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Write safetensors; shared and strided tensors are copied."""
    return safetensors.torch.save({key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()})


def read_file(path: Path) -> dict[str, Tensor]:
    """Read the tensors of one file: safetensors, or a third party's ``.pth`` without running any of its code.

    Names come back as ours: wrapper prefixes removed, the public MAE layout mapped to ``encoder.`` and ``decoder.``.

    Raises:
        CheckpointError: for anything that is not an intact checkpoint of dense tensors.
    """
    try:
        head = path.read_bytes()[:8] if path.stat().st_size < 8 else _head(path)
    except OSError as error:
        raise CheckpointError(f"{str(path)!r} cannot be read", found=str(error), fix="check the path") from error
    if zipfile.is_zipfile(path):
        return canonical_names(_read_pickle(path))
    if head[:1] in (b"<", b"") or head.startswith(b"version"):
        looks = {b"<": "an HTML page", b"v": "a Git-LFS pointer", b"": "an empty file"}[head[:1]]
        raise CheckpointError(f"{str(path)!r} is {looks}", expected="a checkpoint", fix="download the real file")
    return canonical_names(from_bytes(path.read_bytes(), str(path)))


def _head(path: Path) -> bytes:
    with path.open("rb") as handle:
        return handle.read(8)


def _read_pickle(path: Path) -> dict[str, Tensor]:
    # torch.load does not notice flipped bits; the zip's own checksums do.
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip() if sum(i.file_size for i in archive.infolist()) < _MAX_BYTES else "its size"
    if damaged:
        raise CheckpointError(f"{str(path)!r} is damaged in {damaged!r}", fix="copy or download it again")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds here; each means the same to the user
        raise CheckpointError(
            f"{str(path)!r} holds more than tensors, or is not a PyTorch checkpoint",
            found=_COLOURS.sub("", str(error)).splitlines()[0][:200],
            fix="ask its author for a safetensors file; code inside a checkpoint is never run here",
        ) from error
    return _state_dict(content, path)


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    state = content
    if isinstance(content, Mapping):
        state = next((content[name] for name in _STATE_NAMES if isinstance(content.get(name), Mapping)), content)
    if not isinstance(state, Mapping):
        state = {}
    tensors = {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(
            f"{str(path)!r} holds no tensors under {', '.join(_STATE_NAMES)} or at its top level",
            fix="give a file with a model's state dict",
        )
    for key, value in tensors.items():
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            raise CheckpointError(f"{str(path)!r}: tensor {key!r} is not dense", fix="save it as dense floats")
    return tensors


def canonical_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Map names to ours: wrapper prefixes go; bare ViT and public MAE names get ``encoder.`` and ``decoder.``."""
    names = dict(tensors)
    for _ in range(4):
        prefix = next((p for p in _WRAPPERS if names and all(name.startswith(p) for name in names)), None)
        if prefix is None:
            break
        names = {name.removeprefix(prefix): value for name, value in names.items()}
    if "cls_token" not in names:
        return names
    return {_canonical(name): value for name, value in names.items()}


def _canonical(name: str) -> str:
    if name == "mask_token":
        return "decoder.mask_token"
    return f"decoder.{name.removeprefix('decoder_')}" if name.startswith("decoder_") else f"encoder.{name}"


def load_into(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    new: Sequence[str] = (),
    dropped: Sequence[str] = (),
    source: str,
) -> None:
    """Load ``tensors`` into ``model``; positions and the patch projection's channels are adapted aloud, all else fits.

    Args:
        model: receives the tensors.
        tensors: by the model's own names.
        new: patterns of names that the model has and ``tensors`` may lack; they keep their initial values.
        dropped: patterns of names that ``tensors`` may have and the model lacks.
        source: what to call the tensors in messages.

    Raises:
        CheckpointError: names the first five keys that are missing, left over or of another shape.
    """
    own = model.state_dict()
    fitting = {key: value.to(own[key].dtype) for key, value in tensors.items() if key in own}
    for key, value in fitting.items():
        if key.endswith("pos_embed") and value.shape[1:2] != own[key].shape[1:2] and value.ndim == 3:
            fitting[key] = resized_positions(value, own[key].shape[1])
        elif key.endswith("patch_embed.proj.weight") and value.ndim == 4:
            fitting[key] = adapted_projection(value, own[key].shape[1])
    problems = [f"{key}: missing" for key in own if key not in fitting and not _matches(key, new)]
    problems += [f"{key}: not in the model" for key in tensors if key not in own and not _matches(key, dropped)]
    problems += [
        f"{key}: {list(value.shape)} for {list(own[key].shape)}"
        for key, value in fitting.items()
        if value.shape != own[key].shape
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise CheckpointError(
            f"{source!r} does not fit the model in {len(problems)} of {len(own)} tensors",
            found="; ".join(problems[:5]) + more,
            fix="use a recipe with the encoder that these weights were trained with",
        )
    left_out = sorted(key for key in tensors if key not in own)
    if left_out:
        _log.info("%s: %d tensors not needed here were dropped (%s, ...)", source, len(left_out), left_out[0])
    model.load_state_dict({**own, **fitting})


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
