"""Relative positions for fine-tuning: a learned bias of attention for every offset between two patches (BEiT).

Bao et al. 2022 (arXiv:2106.08254), as in the paper's longer fine-tuning; the absolute positions stay. Shapes: h patches
along a side, N = h² patches, T = 1 + N tokens, H heads.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from timm.layers.attention import Attention
from timm.layers.pos_embed_rel import RelPosBias, resize_rel_pos_bias_table
from torch import Tensor, nn

_log = logging.getLogger(__name__)
TABLE = "attn.relative.relative_position_bias_table"
"""What the name of a table ends with here."""
BEIT = "beit_base_patch16_224"
"""timm's architecture that :func:`as_beit` is for, with its sizes and :data:`BEIT_ARGUMENTS` overridden."""
BEIT_ARGUMENTS = {"use_abs_pos_emb": True, "use_rel_pos_bias": True, "init_values": None}
_SPECIAL = 3  # rows for class token to patch, patch to class token, class token to itself


def relative_attention(grid: int) -> type[Attention]:
    """Return timm's attention with a table of biases, [(2h - 1)² + 3, H], that starts at zero, for ``grid`` = h."""

    class RelativeAttention(Attention):
        """Softmax attention of logits q kᵀ / sqrt(D / H) + bias."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.relative = RelPosBias((grid, grid), self.num_heads, prefix_tokens=1)
            nn.init.zeros_(self.relative.relative_position_bias_table)

        def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
            bias = self.relative.get_bias()  # [1, H, T, T]
            result: Tensor = super().forward(x, bias if attn_mask is None else bias + attn_mask, is_causal)
            return result

    return RelativeAttention


def resized_table(table: Tensor, rows: int) -> Tensor:
    """Resize a table [(2h - 1)² + 3, H] to ``rows`` = (2g - 1)² + 3 for a grid of g, bicubic, and say so."""
    old, new = (math.isqrt(count - _SPECIAL) for count in (len(table), rows))
    if old == new or old**2 + _SPECIAL != len(table):
        return table
    grids = ((old + 1) // 2, (new + 1) // 2)
    _log.warning(
        "relative positions resized from a %d x %d grid to %d x %d (bicubic)", *(g for g in grids for _ in "xy")
    )
    resized: Tensor = resize_rel_pos_bias_table(table, (grids[1], grids[1]), (rows, table.shape[1]))
    return resized


def has_tables(tensors: Mapping[str, Tensor]) -> bool:
    """Say whether weights hold tables of relative positions."""
    return any(name.endswith(TABLE) for name in tensors)


def as_beit(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the state of a classifier with relative positions to that of timm's BEiT, which computes the same.

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
