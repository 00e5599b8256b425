"""What happens inside a Vision Transformer: tokens between blocks and attention of every head, in one forward pass.

Shapes: B images, T tokens (those before the patches first), H heads, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers.attention import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

OnAttention = Callable[[int, Tensor], None]
"""Is given a block's number from 0 and what its softmax over all tokens is given, [B, H, T, T] float32."""


@dataclass(frozen=True)
class Tapped:
    """What one forward pass has shown."""

    states: tuple[Tensor, ...]
    """[B, T, D] each: what enters each block, and last what leaves the last one."""
    features: Tensor
    """[B, T, D] after the final norm."""


def oddity(model: nn.Module) -> str | None:
    """Return what of a model cannot be tapped; None for a Vision Transformer of timm's plain blocks."""
    if not isinstance(model, VisionTransformer):
        return f"{type(model).__name__}, whose blocks are no plain ones"
    for block in model.blocks:
        if type(block) is not Block or type(block.attn) is not Attention:
            return f"blocks of {type(block).__name__} with {type(getattr(block, 'attn', None)).__name__}"
    return None


def tapped(model: Any, images: Tensor, on_attention: OnAttention | None = None) -> Tapped:
    """Run ``model`` once as it is and note what passes by.

    Args:
        model: one without :func:`oddity`.
        images: [B, C, h, h], normalised.
        on_attention: is called for each block while the model runs, so that one block's attention is held at a time.
    """
    states: list[Tensor] = []
    hooks = [block.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0])) for block in model.blocks]
    hooks.append(model.blocks[-1].register_forward_hook(lambda _, __, output: states.append(output)))
    if on_attention is not None:
        for number, block in enumerate(model.blocks):
            hook = _attention_hook(number, on_attention)
            hooks.append(block.attn.register_forward_pre_hook(hook, with_kwargs=True))
    try:
        features = model.forward_features(images)
    finally:
        for handle in hooks:
            handle.remove()
    return Tapped(tuple(states), features)


def _attention_hook(number: int, on_attention: OnAttention) -> Callable[[Any, Any, dict[str, Any]], None]:
    def hook(attention: Any, inputs: tuple[Any, ...], settings: dict[str, Any]) -> None:
        with full_precision(inputs[0].device):
            logits = attention_logits(_SAME, attention, inputs[0])
            bias = settings.get("attn_mask")  # relative positions add theirs here
            on_attention(number, logits if bias is None else logits + bias)

    return hook


def attention_logits(norm: nn.Module, attention: Any, tokens: Tensor) -> Tensor:
    """Return what a block's softmax is given, q kᵀ / sqrt(D / H) [B, H, T, T], in float32 at least.

    Made anew from the block's input, since fused attention shows it to nobody.

    Args:
        norm: the block's first LayerNorm.
        attention: has ``qkv`` and ``num_heads``, and perhaps norms of queries and keys.
        tokens: [B, T, D], what enters the block.
    """
    batch, count, _ = tokens.shape
    tokens, heads = norm(in_full(tokens)), attention.num_heads
    rows = attention.qkv.weight.shape[0] // 3 * 2  # queries and keys, not values
    weight, bias = attention.qkv.weight[:rows], attention.qkv.bias
    both = nn.functional.linear(tokens, weight, None if bias is None else bias[:rows])  # [B, T, 2 D]
    query, key = both.reshape(batch, count, 2, heads, -1).permute(2, 0, 3, 1, 4)  # [B, H, T, D / H] each
    query = getattr(attention, "q_norm", _SAME)(query)
    key = getattr(attention, "k_norm", _SAME)(key)
    logits: Tensor = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    return logits


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context without mixed precision: differences of logits are lost in bfloat16's 8 bits."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def in_full(values: Tensor) -> Tensor:
    """Return ``values`` in float32, or in float64 where they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


_SAME = nn.Identity()
