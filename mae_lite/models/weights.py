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
from mae_lite.models import layouts
from mae_lite.models.relative import TABLE, resized_tables
from mae_lite.models.vit import adapted_projection, resized_positions

_log = logging.getLogger(__name__)
_STATE_NAMES = ("model", "state_dict", "model_state", "model_ema", "state_dict_ema")
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

    Names come back as they are in the file; :func:`mae_lite.models.layouts.recognise` makes ours of them.

    Raises:
        CheckpointError: for anything that is not an intact checkpoint of dense tensors.
    """
    try:
        head = _head(path)
    except OSError as error:
        raise CheckpointError(f"{str(path)!r} cannot be read", found=str(error), fix="check the path") from error
    if zipfile.is_zipfile(path):
        return _dense(_read_pickle(path), path)
    looks = None if head[8:] == b"{" else _looks_like(head)  # safetensors: the length of its header, then JSON
    if looks is not None:
        what, fix = looks
        raise CheckpointError(f"{str(path)!r} is {what}", expected="a checkpoint", fix=fix)
    return _dense(from_bytes(path.read_bytes(), str(path)), path)


_KINDS: tuple[tuple[bytes, str, str], ...] = (
    (b"<", "an HTML page", "download the real file"),
    (b"version ", "a Git-LFS pointer", "download the real file"),
    (b"\x89HDF", "an HDF5 file, as TensorFlow and Keras write them", "export it to PyTorch or safetensors there"),
    (
        b"\x80",
        "a bare pickle, or of PyTorch's format before 1.6",
        "save it as safetensors where it was written",
    ),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
)


def _looks_like(head: bytes) -> tuple[str, str] | None:
    """Say what a file is that begins with ``head``, and what to do."""
    if not head:
        return "an empty file", "download the real file"
    for start, what, fix in _KINDS:
        if head.startswith(start):
            return what, fix
    if all(sign in b"\t\n\r" or 32 <= sign < 127 for sign in head):
        return "a text file", "give the file with the weights"
    return None


def _head(path: Path) -> bytes:
    with path.open("rb") as handle:
        return handle.read(9)


def _read_pickle(path: Path) -> dict[str, Tensor]:
    # torch.load does not notice flipped bits; the zip's own checksums do.
    with zipfile.ZipFile(path) as archive:
        if any(name.endswith(".npy") for name in archive.namelist()):
            fix = "convert it with the library that it is for, to PyTorch or safetensors"
            raise CheckpointError(f"{str(path)!r} is a NumPy archive, as JAX models have", fix=fix)
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
        _log_others(content, state, path)
    if not isinstance(state, Mapping):
        state = {}
    tensors = {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        optimizer = isinstance(content, Mapping) and bool({"optimizer", "param_groups"} & set(content))
        raise CheckpointError(
            f"{str(path)!r} holds no tensors under {', '.join(_STATE_NAMES)} or at its top level",
            found="an optimizer's state only" if optimizer else "",
            fix="give a file with a model's state dict",
        )
    return tensors


def _dense(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return ``tensors``, unless one is not what weights are: stored values, each a real number.

    Raises:
        CheckpointError: names the first that is not.
    """
    for key, value in tensors.items():
        if value.layout != torch.strided or value.is_quantized or value.is_meta or value.is_complex():
            kind = f"{value.dtype}, {value.layout}".replace("torch.", "")
            raise CheckpointError(
                f"{str(path)!r}: tensor {key!r} is not dense", found=kind, fix="save it as dense floats"
            )
        # A view may claim a shape that repeats a few bytes for ever; the first copy of it would take all memory.
        claimed, held = value.numel() * value.element_size(), value.untyped_storage().nbytes()
        if claimed > held:
            raise CheckpointError(
                f"{str(path)!r}: tensor {key!r} claims more than the file holds",
                found=f"shape {list(value.shape)}, {claimed:,} bytes, of {held:,} stored",
                expected="every value stored",
                fix="ask its author for a safetensors file, or save it there as tensor.contiguous()",
            )
    return tensors


def _log_others(content: Mapping[Any, Any], state: Any, path: Path) -> None:
    others = [name for name in _STATE_NAMES if isinstance(content.get(name), Mapping) and content[name] is not state]
    if others:
        taken = next(name for name in _STATE_NAMES if content.get(name) is state)
        _log.info("%s: the weights under %r are taken, not those under %s", path, taken, ", ".join(map(repr, others)))


def canonical_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Map bare ViT and public MAE names to ``encoder.`` and ``decoder.``, and nothing else."""
    names = layouts.unwrapped(tensors)
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
    """Load ``tensors`` into ``model``; positions and the patch projection's channels are adapted aloud; all else fits.

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
    fitting = {key: tensors[key].to(own[key].dtype) for key in own if key in tensors}
    for key, value in fitting.items():
        if key.endswith("pos_embed") and value.shape[1:2] != own[key].shape[1:2] and value.ndim == 3:
            fitting[key] = resized_positions(value, own[key].shape[1])
        elif key.endswith("patch_embed.proj.weight") and value.ndim == 4:
            fitting[key] = adapted_projection(value, own[key].shape[1])
    fitting |= resized_tables(fitting, {key: len(own[key]) for key in fitting if key.endswith(TABLE)})
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
