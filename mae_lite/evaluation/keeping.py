"""A part of pre-trained weights, for layer importance: the first or the last blocks stay, the others start anew.

The paper's question is which blocks carry what pre-training is worth. What lies before the blocks belongs to the first
one, the final LayerNorm to the last: keeping none keeps nothing, keeping all keeps everything.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from mae_lite.errors import CheckpointError

_log = logging.getLogger(__name__)
_BLOCK = re.compile(r"encoder\.blocks\.(\d+)\.")
_BEFORE = ("encoder.patch_embed.", "encoder.cls_token", "encoder.pos_embed", "encoder.norm_pre.")
_BEHIND = ("encoder.norm.", "encoder.fc_norm.")


def kept(
    tensors: Mapping[str, Tensor], depth: int, which: tuple[Literal["first", "last"], int], init: str
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors that stay, and the patterns of names that start anew.

    Args:
        tensors: starting weights of a plain Vision Transformer, by our names.
        depth: blocks of the model that they are for.
        which: side, and number of blocks to keep there, 0 to ``depth``.
        init: what to call the weights in messages.

    Raises:
        CheckpointError: when they have another number of blocks, so that first and last are not the same in both.
    """
    found = {int(match[1]) for name in tensors if (match := _BLOCK.match(name))}
    if found and found != set(range(depth)):  # of none, loading says more
        raise CheckpointError(
            f"{init!r} has another number of blocks",
            found=str(len(found)),
            expected=f"{depth}, of which the {which[0]} {which[1]} are kept",
            fix=f"--encoder.depth {len(found)}",
        )
    side, count = which
    blocks = range(count) if side == "first" else range(depth - count, depth)
    anew = [f"encoder.blocks.{number}." for number in range(depth) if number not in blocks]
    anew += _BEFORE if 0 not in blocks else ()
    anew += _BEHIND if depth - 1 not in blocks else ()
    _log.info("%s: %s", init, _words(side, count, depth))
    stay = {name: value for name, value in tensors.items() if not name.startswith(tuple(anew))}
    return stay, [f"{beginning}*" for beginning in anew]


def _words(side: str, count: int, depth: int) -> str:
    """Say which blocks start anew, counted from 1."""
    if count == depth:
        return f"all {depth} blocks are kept"
    if count == 0:
        return f"nothing is kept: all {depth} blocks and what lies before and behind them start anew"
    fresh = (count + 1, depth) if side == "first" else (1, depth - count)
    blocks = f"block {fresh[0]} starts" if fresh[0] == fresh[1] else f"blocks {fresh[0]} to {fresh[1]} start"
    around = "the final LayerNorm" if side == "first" else "patch projection, class token and positions"
    return f"the {side} {count} of {depth} blocks are kept; {blocks} anew, and so do {around}"
