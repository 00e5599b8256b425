"""The encoder: a timm Vision Transformer with 12 heads and the paper's positions and initial values.

Shapes: B images, C channels, H side in pixels, N patches, D width.
"""

from __future__ import annotations

import logging
import math
from typing import Any, Literal

import numpy as np
import timm
import torch
from torch import Tensor, nn

from mae_lite import config, draws
from mae_lite.errors import ConfigError, nearest
from mae_lite.models import relative

_log = logging.getLogger(__name__)
_TEMPERATURE = 10000.0
Family = Literal["mae", "mocov3"]
"""Whose conventions an encoder starts from; they differ in initial values and in the axes of the position table."""


def timm_arguments(encoder: config.Encoder) -> dict[str, Any]:
    """Return the keyword arguments of ``timm.create_model`` that describe ``encoder``."""
    return {
        "img_size": encoder.image_size,
        "patch_size": encoder.patch_size,
        "in_chans": encoder.channels,
        "embed_dim": encoder.width,
        "depth": encoder.depth,
        "num_heads": encoder.num_heads,
        "drop_path_rate": encoder.drop_path,
    }


def architecture_heads(name: str) -> int | None:
    """Return the heads that timm's own architecture ``name`` has; None when timm does not know it as a plain one."""
    if name not in timm.list_models("*vit*", module="vision_transformer"):
        return None
    with torch.device("meta"):
        model: Any = timm.create_model(name)
    return int(model.blocks[0].attn.num_heads)


def build_encoder(
    encoder: config.Encoder, seed: int, family: Family = "mae", relative_positions: bool = False
) -> nn.Module:
    """Build an encoder without a head; its final LayerNorm acts on all tokens.

    Args:
        encoder: what to build.
        seed: decides the initial values.
        family: whose initial values and positions it gets.
        relative_positions: see :func:`build_classifier`.

    Raises:
        ConfigError: for a name that timm does not know.
    """
    return _with_tables(_build(encoder, seed, family, num_classes=0, global_pool="token"), encoder, relative_positions)


def build_classifier(
    encoder: config.Encoder,
    num_classes: int,
    pooling: Literal["mean", "token"],
    seed: int,
    relative_positions: bool = False,
) -> nn.Module:
    """Build an encoder with a head: mean of patch tokens, LayerNorm, linear layer; or the class token.

    Relative positions, if asked for, are added to the absolute ones and start at zero; all else starts as without.

    Raises:
        ConfigError: for a name that timm does not know, and for relative positions in what is no plain one.
    """
    global_pool = "avg" if pooling == "mean" else "token"
    model = _build(encoder, seed, "mae", num_classes=num_classes, global_pool=global_pool)
    return _with_tables(model, encoder, relative_positions)


def _with_tables(model: nn.Module, encoder: config.Encoder, relative_positions: bool) -> nn.Module:
    if relative_positions:
        if oddity := relative.oddity(model):
            raise _unfit(encoder, f"one with {oddity}, for which timm's BEiT has no place beside relative positions")
        with torch.random.fork_rng(devices=[]):  # timm draws values that are not kept
            relative.add_tables(model, encoder.grid)
    return model


def _build(encoder: config.Encoder, seed: int, family: Family, **head: Any) -> nn.Module:
    if encoder.name not in timm.list_models("*vit*", module="vision_transformer"):
        known = timm.list_models("*vit*", module="vision_transformer")
        raise ConfigError(
            "encoder.name",
            found=f"{encoder.name!r}{nearest(encoder.name, known)}",
            expected="a plain Vision Transformer of timm",
            fix="--encoder.name vit_tiny_patch16_224",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draws.key(seed, "init") >> 1)
        try:
            model: Any = timm.create_model(encoder.name, **timm_arguments(encoder), **head)
        except (AssertionError, TypeError, ValueError) as error:
            raise _unfit(encoder, f"timm cannot build it with these settings: {error}") from error
        if getattr(model, "cls_token", None) is None or tuple(model.pos_embed.shape[1:2]) != (encoder.patches + 1,):
            raise _unfit(encoder, "one without class token, with register tokens or with other positions")
        initialise(model, encoder)
        if family == "mocov3":
            _initialise_mocov3(model, encoder)
    return model  # type: ignore[no-any-return]


def _unfit(encoder: config.Encoder, found: str) -> ConfigError:
    return ConfigError(
        f"encoder.name {encoder.name!r}",
        found=found,
        expected="a plain Vision Transformer with a class token and one position per patch",
        fix="--encoder.name vit_tiny_patch16_224",
    )


@torch.no_grad()
def initialise(model: Any, encoder: config.Encoder) -> None:
    """Set the initial values of a timm Vision Transformer in place (RECIPES: *Init*)."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            init_linear(module, "trunc_normal" if name.startswith("head") else encoder.init)
    projection = model.patch_embed.proj
    if encoder.init == "xavier":
        nn.init.xavier_uniform_(projection.weight.flatten(1))
    else:  # torch's own start is as wide at 16 x 16 x 3 values, but drowns the positions where patches are small
        nn.init.trunc_normal_(projection.weight, std=0.02)
        nn.init.zeros_(projection.bias)
    nn.init.normal_(model.cls_token, std=0.02)
    if encoder.positions == "sincos":
        model.pos_embed.copy_(sincos_table(encoder.width, encoder.grid))
    else:
        nn.init.normal_(model.pos_embed, std=0.02)


@torch.no_grad()
def _initialise_mocov3(model: Any, encoder: config.Encoder) -> None:
    """Change MAE's initial values to MoCo-v3's: Xavier for q, k and v each, a class token near 0, its own table."""
    for block in model.blocks:
        for matrix in block.attn.qkv.weight.chunk(3):  # [D, D] each, views of the fused [3D, D]
            nn.init.xavier_uniform_(matrix)
    nn.init.zeros_(model.patch_embed.proj.bias)
    nn.init.normal_(model.cls_token, std=1e-6)
    model.pos_embed.copy_(sincos_table(encoder.width, encoder.grid, "mocov3"))


def init_linear(layer: nn.Linear, scheme: Literal["xavier", "trunc_normal"]) -> None:
    """Set a linear layer's initial weight; the fused qkv counts as one [3D, D] matrix. The bias is zero."""
    if scheme == "xavier":
        nn.init.xavier_uniform_(layer.weight)
    else:
        nn.init.trunc_normal_(layer.weight, std=0.02)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def sincos_table(width: int, grid: int, family: Family = "mae") -> Tensor:
    """Return fixed 2-D sin-cos positions, [1, 1 + grid², width] float32, row-major, class token (zeros) first.

    Each half of the width is [sin, cos] over one axis with frequencies 10000^(-i / (width / 4)). MAE's first
    half encodes the column, MoCo-v3's the row.
    """
    quarter = width // 4
    frequencies = _TEMPERATURE ** (-np.arange(quarter, dtype=np.float64) / quarter)
    rows, columns = np.meshgrid(np.arange(grid), np.arange(grid), indexing="ij")
    axes = (columns, rows) if family == "mae" else (rows, columns)
    parts = []
    for axis in axes:
        angles = axis.reshape(-1, 1) * frequencies  # [N, width / 4]
        parts += [np.sin(angles), np.cos(angles)]
    table = np.concatenate([np.zeros((1, width)), np.concatenate(parts, axis=1)])
    return torch.from_numpy(table).float().unsqueeze(0)


def resized_positions(table: Tensor, positions: int) -> Tensor:
    """Resize a position table [1, 1 + M, D] to ``positions`` = 1 + N rows, bicubic, and say so.

    The class token's row stays as it is.
    """
    old, new = math.isqrt(max(0, table.shape[1] - 1)), math.isqrt(positions - 1)
    if old < 1 or old**2 != table.shape[1] - 1 or new**2 != positions - 1:
        raise ConfigError(
            "position table",
            found=f"{table.shape[1]} rows for {positions}",
            expected="a square grid and a class token in both",
            fix="use weights of a square, class-token Vision Transformer",
        )
    if old == new:
        return table
    _log.warning("positions resized from a %d x %d grid to %d x %d (bicubic)", old, old, new, new)
    return interpolated_positions(table, new)


def interpolated_positions(table: Tensor, grid: int) -> Tensor:
    """Return a position table [1, 1 + old², D] for another grid, [1, 1 + grid², D], bicubic, the same where it is."""
    old = math.isqrt(table.shape[1] - 1)
    if old == grid:
        return table
    places = table[:, 1:].float().reshape(1, old, old, -1).permute(0, 3, 1, 2)  # [1, D, old, old]
    places = nn.functional.interpolate(places, size=(grid, grid), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([table[:, :1].float(), places.flatten(2).transpose(1, 2)], dim=1).to(table.dtype)


def adapted_projection(weight: Tensor, channels: int) -> Tensor:
    """Make a patch projection [D, C, p, p] read images of another number of channels, and say so.

    One channel gets the sum over all: a grey image then gives what it gave as equal channels. More or fewer get the
    channels in turn, scaled so that the sum over channels keeps its size.
    """
    old = weight.shape[1]
    if old == channels:
        return weight
    if channels == 1:
        _log.warning("patch projection: its %d channels were added up for images of 1", old)
        return weight.sum(dim=1, keepdim=True)
    _log.warning("patch projection: its %d channels were repeated in turn for images of %d", old, channels)
    return weight.repeat(1, math.ceil(channels / old), 1, 1)[:, :channels] * (old / channels)
