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

from mae_lite.errors import CheckpointError, shortly
from mae_lite.models import layouts
from mae_lite.models.fitting import check_patterns, fitted, unfit

_log = logging.getLogger(__name__)
_STATE_NAMES = ("model", "state_dict", "model_state", "model_ema", "state_dict_ema")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # torch paints its messages
_ZIP = b"PK"
_TAR_PLACE, _TAR = 257, b"ustar"


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
    if head.startswith(_ZIP) and _is_zip(path):  # what has a zip at its end alone, torch reads as a pickle
        return _dense(_read_pickle(path), path)
    if path.suffix.lower() == ".onnx":
        raise CheckpointError(
            f"{str(path)!r} is an ONNX file, in which weights have lost their names",
            expected="a checkpoint",
            fix="give the run or the folder that it was exported from",
        )
    looks = None if head[8:9] == b"{" else _looks_like(head)  # safetensors: the length of its header, then JSON
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
    (_ZIP, "an incomplete or damaged zip archive", "copy or download it again"),
    (b"\xff\xd8\xff", "a JPEG image", "give the file with the weights"),
    (b"\x89PNG", "a PNG image", "give the file with the weights"),
    (b"\0" * 9, "nothing but zeros at its beginning, as after a full disk", "copy or download it again"),
)


def _looks_like(head: bytes) -> tuple[str, str] | None:
    """Say what a file is that begins with ``head``, and what to do."""
    if not head:
        return "an empty file", "download the real file"
    for start, what, fix in _KINDS:
        if head.startswith(start):
            return what, fix
    if head[_TAR_PLACE:] == _TAR:
        return "a tar archive", "unpack it, and give the file with the weights"
    if all(sign in b"\t\n\r" or 32 <= sign < 127 for sign in head):
        return "a text file", "give the file with the weights"
    return None


def _is_zip(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # raised, and not answered, where its end is damaged
        return False


def _head(path: Path) -> bytes:
    with path.open("rb") as handle:
        return handle.read(_TAR_PLACE + len(_TAR))


def _read_pickle(path: Path) -> dict[str, Tensor]:
    # torch.load does not notice flipped bits; the zip's own checksums do.
    try:
        with zipfile.ZipFile(path) as archive:
            _check_kind(path, archive)
            damaged = archive.testzip()
    except CheckpointError:
        raise
    except Exception as error:  # zipfile raises many kinds where a directory is damaged
        damaged = f"its directory ({shortly(error)})"
    if damaged:
        raise CheckpointError(f"{str(path)!r} is damaged in {damaged!r}", fix="copy or download it again")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds here; each means the same to the user
        raise CheckpointError(
            f"{str(path)!r} holds more than tensors, or is not a PyTorch checkpoint",
            found=_more(path, error),
            fix="ask its author for a safetensors file; code inside a checkpoint is never run here",
        ) from error
    return _state_dict(content, path)


def _check_kind(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse archives that are no checkpoints, before anything is unpacked."""
    if any(name.endswith(".npy") for name in archive.namelist()):
        fix = "convert it with the library that it is for, to PyTorch or safetensors"
        raise CheckpointError(f"{str(path)!r} is a NumPy archive, as JAX models have", fix=fix)
    claimed, held = sum(member.file_size for member in archive.infolist()), path.stat().st_size
    if claimed > 2 * held + 2**20:  # torch stores tensors as they are; this would unpack for ever
        raise CheckpointError(
            f"{str(path)!r} unpacks to more than a checkpoint of its size does",
            found=f"{claimed:,} bytes in a file of {held:,}",
            expected="tensors stored as they are",
            fix="ask its author for a safetensors file",
        )


def _more(path: Path, error: Exception) -> str:
    """Say what a checkpoint holds beside tensors; never in torch's words, which tell how to run it."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # whatever the scan stumbles over, it is no checkpoint
        names = []
    if names:
        return f"code: {', '.join(sorted(names)[:5])}"
    said = _COLOURS.sub("", str(error)).splitlines() or [""]
    return type(error).__name__ if "weights_only" in said[0] or "load" in said[0] else said[0][:200]


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
    allow_missing: Sequence[str] | None = None,
    source: str,
) -> None:
    """Load ``tensors`` into ``model``; what :func:`mae_lite.models.fitting.fitted` adapts is told; all else fits.

    Args:
        model: receives the tensors; on the meta device, where nothing is stored, they are only compared with it.
        tensors: by the model's own names.
        new: patterns of names, each of a part that ``tensors`` may lack as a whole; it keeps its initial values.
        dropped: patterns of names that ``tensors`` may have and the model lacks.
        allow_missing: patterns that the user gave, of names that may be missing too; None where there is no such flag.
        source: what to call the tensors in messages.

    Raises:
        CheckpointError: names the first five keys that are missing, left over or of another shape or kind.
        ConfigError: for a pattern of ``allow_missing`` that nothing missing has.
    """
    own = model.state_dict()
    fitting = fitted({key: tensors[key] for key in own if key in tensors}, own, source)
    whole = [pattern for pattern in new if not any(fnmatch.fnmatchcase(key, pattern) for key in fitting)]
    missing = [key for key in own if key not in fitting and not _matches(key, whole)]
    refused = [key for key in missing if not _matches(key, allow_missing or ())]
    problems = [f"{key}: missing {list(own[key].shape)}" for key in refused]
    left_out = sorted(key for key in tensors if key not in own)
    strange = [key for key in left_out if not _matches(key, dropped)]
    problems += [f"{key}: {list(tensors[key].shape)} not in the model" for key in strange]
    problems += [
        f"{key}: {list(value.shape)} for {list(own[key].shape)}"
        for key, value in fitting.items()
        if value.shape != own[key].shape
    ]
    if problems:
        anew = allow_missing is not None and len(refused) == len(problems)
        raise unfit(source, problems, len(own), [*(allow_missing or ()), *refused] if anew else [])
    check_patterns(allow_missing or (), [key for key in own if key not in fitting], source)
    if missing:
        _log.warning("%s: as allowed, these start anew: %s", source, ", ".join(missing))
    fresh = sorted(key for key in own if key not in fitting and key not in missing)
    if fresh:
        _log.info("%s: %d tensors that it lacks start anew (%s, ...), as always here", source, len(fresh), fresh[0])
    if left_out:
        _log.info("%s: %d tensors not needed here were dropped (%s, ...)", source, len(left_out), left_out[0])
    if not any(value.is_meta for value in own.values()):
        model.load_state_dict({**own, **fitting})


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
