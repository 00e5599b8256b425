"""What other libraries keep apart and our models hold in one tensor. D: width, H: hidden width of the MLP."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from mae_lite.errors import CheckpointError

_PART = re.compile(r"(.*\.attn)\.[qkv]\.(weight|bias)")
_BEIT = re.compile(r"(.*\.attn)\.[qv]_bias")
_GAMMA = re.compile(r"(.*\.blocks\.\d+)\.ls([12])\.gamma")
_SCALED = {"1": "attn.proj", "2": "mlp.fc2"}


def fused(renamed: Mapping[str, Tensor], source: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Merge what belongs together: q, k, v; biases of q and v; layer scale; a class token without a position.

    Args:
        renamed: by our names, the parts named ``attn.q.weight``, ``attn.q_bias``, ``ls1.gamma``.
        source: what to call them in messages.

    Returns:
        The tensors of a plain Vision Transformer, and what was done, in words.

    Raises:
        CheckpointError: when a part is missing or of another shape.
    """
    tensors, notes = dict(renamed), []
    steps = (
        (_fuse_parts, "separate q, k and v were joined"),
        (_fuse_beit_biases, "q and v biases were joined with a k bias of zeros"),
        (_fold_scale, "layer scale was folded into the layers before it"),
        (_add_class_position, "the class token, which had no position, got one of zeros"),
    )
    for step, note in steps:
        try:
            changed = step(tensors)
        except (KeyError, RuntimeError, IndexError) as error:
            raise CheckpointError(
                f"{source!r} is incomplete where tensors must be joined",
                found=f"missing or misshapen: {str(error).splitlines()[0]}",
                fix="download it again, or give a checkpoint of a plain Vision Transformer",
            ) from error
        notes += [note] if changed else []
    return tensors, tuple(notes)


def _fuse_parts(tensors: dict[str, Tensor]) -> bool:
    found = {(match[1], match[2]) for name in tensors if (match := _PART.fullmatch(name))}
    for attention, kind in found:
        names = [f"{attention}.{part}.{kind}" for part in "qkv"]
        tensors[f"{attention}.qkv.{kind}"] = torch.cat([tensors[name] for name in names])  # [3D, D] or [3D]
        for name in names:
            del tensors[name]
    return bool(found)


def _fuse_beit_biases(tensors: dict[str, Tensor]) -> bool:
    found = {match[1] for name in tensors if (match := _BEIT.fullmatch(name))}
    for attention in found:
        query, value = tensors[f"{attention}.q_bias"], tensors[f"{attention}.v_bias"]
        tensors[f"{attention}.qkv.bias"] = torch.cat([query, torch.zeros_like(query), value])  # [3D]
        del tensors[f"{attention}.q_bias"], tensors[f"{attention}.v_bias"]
    return bool(found)


def _fold_scale(tensors: dict[str, Tensor]) -> bool:
    # gamma * (W x + b) = (gamma W) x + gamma b, row by row
    found = [(name, match) for name in tensors if (match := _GAMMA.fullmatch(name))]
    for name, match in found:
        gamma = tensors.pop(name).float()  # [D]
        layer = f"{match[1]}.{_SCALED[match[2]]}"
        tensors[f"{layer}.weight"] = gamma[:, None] * tensors[f"{layer}.weight"].float()
        tensors[f"{layer}.bias"] = gamma * tensors[f"{layer}.bias"].float()
    return bool(found)


def _add_class_position(tensors: dict[str, Tensor]) -> bool:
    table = tensors.get("encoder.pos_embed")
    if table is None or table.ndim != 3 or not table.shape[1]:
        return False
    rows = table.shape[1]
    if math.isqrt(rows) ** 2 != rows or math.isqrt(rows - 1) ** 2 == rows - 1:
        return False
    tensors["encoder.pos_embed"] = torch.cat([torch.zeros_like(table[:, :1]), table], dim=1)
    return True
