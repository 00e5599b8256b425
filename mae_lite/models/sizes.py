"""What the tensors of a Vision Transformer say of its size, and what they cannot say: the number of heads."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from torch import Tensor

from mae_lite import config
from mae_lite.errors import CheckpointError

_NAMES = {
    192: "vit_tiny_patch16_224",
    384: "vit_small_patch16_224",
    768: "vit_base_patch16_224",
    1024: "vit_large_patch16_224",
}
_USUAL_HEADS = {192: (12, 3), 384: (12, 6), 768: (12,), 1024: (16,)}
"""Heads that published models of a width have: one number is a fact, two are a question."""
_DECODER_HEADS = {96: (3,), 192: (6,), 512: (16,)}


def encoder_size(tensors: Mapping[str, Tensor], heads: int, source: str) -> config.Encoder:
    """Return the encoder that ``tensors`` (by our names) belong to.

    Raises:
        CheckpointError: when a tensor that tells the size is missing, or the model is of another kind.
    """
    try:
        table, weight = tensors["encoder.pos_embed"], tensors["encoder.patch_embed.proj.weight"]
        rows, width = table.shape[1], tensors["encoder.cls_token"].shape[-1]
        hidden = tensors["encoder.blocks.0.mlp.fc1.weight"].shape[0]
        channels, patch, other = weight.shape[1:]
    except (KeyError, IndexError, ValueError) as error:
        raise CheckpointError(
            f"{source!r} is not a whole Vision Transformer",
            found=f"missing or misshapen: {error}",
            expected="class token, positions, patch projection and blocks",
            fix="give a checkpoint of a plain Vision Transformer",
        ) from error
    grid = math.isqrt(rows - 1) if rows > 1 else 0
    oddities = [
        (grid**2 != rows - 1 or not grid, f"{rows} positions, which are no square and a class token"),
        (patch != other, f"patches of {patch} x {other} pixels"),
        (hidden != 4 * width, f"an MLP of {hidden} for a width of {width}"),
        (width % heads != 0, f"a width of {width} that {heads} heads cannot share"),
    ]
    found = [words for odd, words in oddities if odd]
    if found:
        raise CheckpointError(
            f"{source!r} is no Vision Transformer that can be built here",
            found=", ".join(found),
            expected="square images and patches, a class token and an MLP of 4 times the width",
            fix="give another checkpoint" + (", or other --heads" if width % heads else ""),
        )
    return config.Encoder(
        name=_NAMES.get(width, _NAMES[192]),
        image_size=grid * patch,
        channels=channels,
        patch_size=patch,
        width=width,
        depth=_depth(tensors, "encoder"),
        num_heads=heads,
        positions="learned" if width % 4 else "sincos",
    )


def decoder_size(tensors: Mapping[str, Tensor], heads: int, source: str) -> config.MAE:
    """Return the decoder that ``tensors`` (by our names) belong to.

    Raises:
        CheckpointError: when it is incomplete or cannot have so many heads.
    """
    width = decoder_width(tensors)
    if width is None or width % heads or width % 4:
        raise CheckpointError(
            f"{source!r} has a decoder that cannot be built here",
            found=f"a width of {width} with {heads} heads",
            expected="a multiple of the heads and of 4",
            fix="give other --decoder-heads",
        )
    return config.MAE(decoder_depth=_depth(tensors, "decoder"), decoder_width=width, decoder_heads=heads)


def decoder_width(tensors: Mapping[str, Tensor]) -> int | None:
    """Return the width of the decoder; None when there is none."""
    token = tensors.get("decoder.mask_token")
    return None if token is None else token.shape[-1]


def chosen_heads(asked: int | None, stated: int | None, width: int, source: str, part: str = "") -> int:
    """Return the number of heads: what the source states, else what the user says, else what that width always has.

    Args:
        asked: the user's word.
        stated: the source's word.
        width: channels of a token.
        source: what to call the weights in messages.
        part: "" for the encoder, "decoder-" for the decoder.

    Raises:
        CheckpointError: when the two disagree, or nobody knows.
    """
    if asked is not None and stated is not None and asked != stated:
        raise CheckpointError(
            f"{source!r} states its number of attention heads",
            found=f"--{part}heads {asked}",
            expected=str(stated),
            fix=f"drop --{part}heads",
        )
    usual = (_DECODER_HEADS if part else _USUAL_HEADS).get(width, ())
    known = asked or stated or (usual[0] if len(usual) == 1 else None)
    if known is not None:
        return known
    options = usual or tuple(sorted({n for n in (12, width // 64, width // 32, width // 16) if n and width % n == 0}))
    fix = " or ".join(f"--{part}heads {number}" for number in options) or f"--{part}heads NUMBER"
    why = " (MAE-lite's own models have 12, timm's and DeiT's the other)" if len(usual) == 2 else ""
    raise CheckpointError(
        f"{source!r} does not say its number of {part.replace('-', ' ')}attention heads",
        found=f"a width of {width}",
        expected="the number it was trained with: shapes cannot tell, and another one computes something else",
        fix=fix + why,
    )


def _depth(tensors: Mapping[str, Tensor], part: str) -> int:
    numbers = [int(match[1]) for name in tensors if (match := re.match(rf"{part}\.blocks\.(\d+)\.", name))]
    return max(numbers, default=-1) + 1
