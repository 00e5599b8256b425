"""The formula of a Vision Transformer, written out: the judge of a conversion, independent of timm and of merging.

Shapes: B images, C channels, H side in pixels, N patches, T tokens, D width, K head width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional


@torch.no_grad()
def tokens(renamed: Mapping[str, Tensor], images: Tensor, heads: int, eps: float = 1e-6) -> Tensor:
    """Return the tokens [B, 1 + N, D] after the final LayerNorm (before it, where the model has none).

    Args:
        renamed: by our names, nothing merged: q, k, v, biases and layer scale as the source keeps them.
        images: [B, C, H, H], of the size that the position table is for.
        heads: attention heads.
        eps: of every LayerNorm.
    """
    own = {name.removeprefix("encoder."): value.float() for name, value in renamed.items()}
    weight = own["patch_embed.proj.weight"]
    found = functional.conv2d(images, weight, own["patch_embed.proj.bias"], stride=weight.shape[-1])
    found = found.flatten(2).transpose(1, 2)  # [B, N, D]
    table = own["pos_embed"]
    lead = own["cls_token"].expand(len(images), -1, -1)
    if table.shape[1] == found.shape[1]:  # positions for the patches alone
        found = torch.cat([lead, found + table], dim=1)
    else:
        found = torch.cat([lead, found], dim=1) + table
    block = 0
    while f"blocks.{block}.norm1.weight" in own:
        start = f"blocks.{block}."
        part = {name.removeprefix(start): value for name, value in own.items() if name.startswith(start)}
        update = _attention(part, _norm(part, "norm1", found, eps), heads)
        found = found + part.get("ls1.gamma", 1.0) * update
        hidden = functional.gelu(_linear(part, "mlp.fc1", _norm(part, "norm2", found, eps)))
        found = found + part.get("ls2.gamma", 1.0) * _linear(part, "mlp.fc2", hidden)
        block += 1
    return _norm(own, "norm", found, eps) if "norm.weight" in own else found


def _linear(part: Mapping[str, Tensor], name: str, values: Tensor) -> Tensor:
    return functional.linear(values, part[f"{name}.weight"], part.get(f"{name}.bias"))


def _norm(part: Mapping[str, Tensor], name: str, values: Tensor, eps: float) -> Tensor:
    return functional.layer_norm(values, values.shape[-1:], part[f"{name}.weight"], part[f"{name}.bias"], eps)


def _attention(part: Mapping[str, Tensor], values: Tensor, heads: int) -> Tensor:
    batch, count, width = values.shape
    split = []
    for place, letter in enumerate("qkv"):
        rows = slice(place * width, (place + 1) * width)
        weight = part[f"attn.{letter}.weight"] if f"attn.{letter}.weight" in part else part["attn.qkv.weight"][rows]
        result = functional.linear(values, weight)
        for name in (f"attn.{letter}.bias", f"attn.{letter}_bias"):
            result = result + part.get(name, 0.0)
        if "attn.qkv.bias" in part:
            result = result + part["attn.qkv.bias"][rows]
        split.append(result.reshape(batch, count, heads, width // heads).transpose(1, 2))  # [B, heads, T, K]
    query, key, value = split
    logits = query @ key.transpose(-2, -1) * (width // heads) ** -0.5
    table = part.get("attn.relative.relative_position_bias_table")
    shares = (logits if table is None else logits + relative_bias(table, count)).softmax(dim=-1)
    mixed = (shares @ value).transpose(1, 2).reshape(batch, count, width)
    return _linear(part, "attn.proj", mixed)


def relative_bias(table: Tensor, count: int) -> Tensor:
    """Return what a table of relative positions [(2h - 1)² + 3, heads] adds to the logits of T = 1 + h² tokens.

    Args:
        table: a row for each offset of a query's patch from its key's, then for class token to patch, patch to class
            token, class token to itself.
        count: T.

    Returns:
        [heads, T, T], a query's logits in a row.
    """
    grid = math.isqrt(count - 1)
    place = torch.arange(grid**2)
    down = place[:, None] // grid - place // grid + grid - 1  # [N, N]
    right = place[:, None] % grid - place % grid + grid - 1
    bias = torch.empty(count, count, table.shape[1])
    bias[1:, 1:] = table[down * (2 * grid - 1) + right]
    bias[0, 1:], bias[1:, 0], bias[0, 0] = table[-3], table[-2], table[-1]
    return bias.permute(2, 0, 1)
