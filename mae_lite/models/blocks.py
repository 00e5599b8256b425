"""Running a timm Vision Transformer's blocks with less to remember and, in the last one, less to do.

Shapes: B images, T tokens, D width, M tokens that are wanted.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import linear, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

_FEW_TOKENS = 100


def run_blocks(blocks: Iterable[Any], tokens: Tensor) -> Tensor:
    """Run ``tokens`` [B, T, D] through timm's ``blocks``; the results are those of calling them, bit for bit.

    On a CPU the GELUs are computed once more in the backward pass, which takes a fiftieth of its time and saves a
    quarter of the memory; parts of a block are called then, and not the block. On a GPU the blocks are called: there a
    step of a small model waits for its host, not for memory; and torch.compile chooses itself what to compute twice.
    Compiled for a CPU, the attention of few tokens is that of matrix products, equal up to rounding.
    """
    with _attention_for(tokens):
        for block in blocks:
            if _thrifty(tokens):
                tokens = tokens + block.drop_path1(block.ls1(block.attn(block.norm1(tokens))))
                tokens = tokens + _mlp_branch(block, tokens)
            else:
                tokens = block(tokens)
    return tokens


def run_block_for(block: Any, tokens: Tensor, rows: Tensor) -> Tensor:
    """Return what a plain block of timm, without dropout, makes of some of its tokens; they still attend to all.

    Args:
        block: a timm ``Block`` whose attention has no norms or gate of its own.
        tokens: [B, T, D], what enters the block.
        rows: [B, M] which tokens are wanted.

    Returns:
        [B, M, D], equal to ``take(block(tokens), rows)`` up to rounding.
    """
    attention, width, heads = block.attn, tokens.shape[-1], block.attn.num_heads
    normed = block.norm1(tokens)
    weight, bias = attention.qkv.weight, attention.qkv.bias
    query = linear(take(normed, rows), weight[:width], bias[:width]).reshape(*rows.shape, heads, -1)
    both = linear(normed, weight[width:], bias[width:]).reshape(*tokens.shape[:2], 2, heads, -1)
    key, value = both.permute(2, 0, 3, 1, 4).unbind(0)  # [B, H, T, D / H] each
    mixed = scaled_dot_product_attention(query.transpose(1, 2), key, value)
    tokens = take(tokens, rows) + attention.proj(mixed.transpose(1, 2).flatten(2))  # [B, M, D]
    return tokens + _mlp_branch(block, tokens)


def take(tokens: Tensor, rows: Tensor) -> Tensor:
    """Pick tokens [B, N, X] by their numbers [B, M]: [B, M, X]. Whole rows are copied, faster than ``torch.gather``."""
    batch, count, width = tokens.shape
    starts = torch.arange(0, batch * count, count, device=rows.device).unsqueeze(1)
    return tokens.flatten(0, 1).index_select(0, (rows + starts).flatten()).reshape(batch, -1, width)


def _mlp_branch(block: Any, tokens: Tensor) -> Tensor:
    mlp = block.mlp
    inner = mlp.fc1(block.norm2(tokens))
    if _thrifty(tokens) and torch.is_grad_enabled():
        # Recomputing stops when the input of fc2 is there, so that no matrix product is made twice.
        outer = checkpoint(_after_fc1, mlp, inner, use_reentrant=False, preserve_rng_state=mlp.drop1.p > 0)
    else:
        outer = _after_fc1(mlp, inner)
    return block.drop_path2(block.ls2(outer))  # type: ignore[no-any-return]


def _attention_for(tokens: Tensor) -> AbstractContextManager[None]:
    # The CPU's fused attention works through blocks of queries and keys, too small to be worth it here: torch.compile
    # makes half its time of the plain one for 50 tokens, as much at about 130. Eager code stays fused, though a step
    # would gain 8 %: the last bits of runs that were published, or are to be resumed, would change.
    if tokens.device.type == "cpu" and tokens.shape[1] <= _FEW_TOKENS and torch.compiler.is_compiling():
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()


def _thrifty(tokens: Tensor) -> bool:
    return tokens.device.type == "cpu" and not torch.compiler.is_compiling()


def _after_fc1(mlp: Any, inner: Tensor) -> Tensor:
    outer: Tensor = mlp.drop2(mlp.fc2(mlp.norm(mlp.drop1(mlp.act(inner)))))
    return outer
