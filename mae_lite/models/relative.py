"""Relative positions for fine-tuning: a learned bias of attention for every offset between two patches (BEiT).

Bao et al. 2022 (arXiv:2106.08254), as in the paper's longer fine-tuning; the absolute positions stay. Shapes: h patches
along a side, N = h² patches, T = 1 + N tokens, H heads.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from timm.layers.pos_embed_rel import RelPosBias
from torch import Tensor, nn

from mae_lite.errors import CheckpointError

_log = logging.getLogger(__name__)
TABLE = "attn.relative.relative_position_bias_table"
"""What the name of a table ends with here."""
BEIT = "beit_base_patch16_224"
"""timm's architecture that :func:`as_beit` is for, with its sizes and :data:`BEIT_ARGUMENTS` overridden."""
BEIT_ARGUMENTS = {"use_abs_pos_emb": True, "use_rel_pos_bias": True, "init_values": 0.0}
_SPECIAL = 3  # rows for class token to patch, patch to class token, class token to itself
_WB = "(?:weight|bias)"
_PLAIN = re.compile(
    rf"cls_token|pos_embed|patch_embed\.proj\.{_WB}|(?:norm|fc_norm|head)\.{_WB}|"
    rf"blocks\.\d+\.(?:norm[12]|attn\.(?:qkv|proj)|mlp\.fc[12])\.{_WB}"
)


def add_tables(model: Any, grid: int) -> None:
    """Give each block of a timm Vision Transformer a table [(2h - 1)² + 3, H] of zeros, for ``grid`` = h.

    timm's own attention stays; it adds the bias to its logits as it adds a mask.
    """
    for block in model.blocks:
        block.attn.relative = RelPosBias((grid, grid), block.attn.num_heads, prefix_tokens=1)
        nn.init.zeros_(block.attn.relative.relative_position_bias_table)
        block.attn.register_forward_pre_hook(_with_bias, with_kwargs=True)


def _with_bias(attention: Any, inputs: tuple[Any, ...], settings: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    bias, mask = attention.relative.get_bias(), settings.get("attn_mask")  # [1, H, T, T]
    return inputs, {**settings, "attn_mask": bias if mask is None else bias + mask}


def oddity(model: Any) -> str | None:
    """Return what of a timm Vision Transformer its BEiT cannot have, as which it is published; None for a plain one."""
    state, block = model.state_dict(), model.blocks[0]
    unknown = [name for name in state if not _PLAIN.fullmatch(name)]
    if unknown:
        return f"{unknown[0]!r}"
    missing = [name for name in ("patch_embed.proj.bias", "blocks.0.attn.qkv.bias") if name not in state]
    if missing:
        return f"no {missing[0]!r}"
    if block.mlp.fc1.out_features != 4 * block.mlp.fc1.in_features:
        return f"an MLP of {block.mlp.fc1.out_features} for a width of {block.mlp.fc1.in_features}"
    if not (isinstance(block.mlp.act, nn.GELU) and block.mlp.act.approximate == "none"):
        return f"the activation {type(block.mlp.act).__name__}"
    eps = {module.eps for module in model.modules() if isinstance(module, nn.LayerNorm)} - {1e-6}
    return f"a LayerNorm that adds {eps.pop():g}" if eps else None


def resized_tables(tensors: Mapping[str, Tensor], rows: Mapping[str, int]) -> dict[str, Tensor]:
    """Resize tables [(2h - 1)² + 3, H] bicubic, and say so once; the last three rows stay as they are.

    Args:
        tensors: holds the tables.
        rows: (2g - 1)² + 3 for a grid of g, for the name of each table.

    Returns:
        Those of another size than asked for.

    Raises:
        CheckpointError: for a table that belongs to no square grid with a class token.
    """
    resized: dict[str, Tensor] = {}
    for name, wanted in rows.items():
        table = tensors[name]
        if len(table) == wanted:
            continue
        old, new = (math.isqrt(max(0, count - _SPECIAL)) for count in (len(table), wanted))
        if old**2 + _SPECIAL != len(table) or new % 2 == 0 or old % 2 == 0:
            raise CheckpointError(
                f"{name!r}, a table of relative positions",
                found=f"{len(table)} rows",
                expected="(2 h - 1)² + 3, for h x h patches and a class token",
                fix="use weights of a Vision Transformer for square images, with a class token",
            )
        if not resized:
            grids = (*((old + 1) // 2,) * 2, *((new + 1) // 2,) * 2)
            _log.warning("relative positions resized from a %d x %d grid to %d x %d (bicubic)", *grids)
        square = table[:-_SPECIAL].float().T.reshape(1, -1, old, old)  # [1, H, 2h - 1, 2h - 1]
        square = nn.functional.interpolate(square, size=(new, new), mode="bicubic", antialias=True, align_corners=False)
        resized[name] = torch.cat([square.flatten(2)[0].T, table[-_SPECIAL:].float()]).to(table.dtype)
    return resized


def has_tables(tensors: Mapping[str, Tensor]) -> bool:
    """Say whether weights hold tables of relative positions."""
    return any(name.endswith(TABLE) for name in tensors)


def as_beit(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the state of a model with relative positions to that of timm's BEiT, which computes the same.

    BEiT has no bias of the keys. It adds q b, the same number for all keys, to the logits of a query, and the softmax
    does not see what all of them share; so nothing is lost.
    """
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        if name.endswith("attn.qkv.bias"):
            query, _, values = value.chunk(3)
            stem = name.removesuffix("qkv.bias")
            renamed |= {f"{stem}q_bias": query.clone(), f"{stem}v_bias": values.clone()}
        else:
            renamed[name.replace("attn.relative.", "attn.")] = value
    return renamed
