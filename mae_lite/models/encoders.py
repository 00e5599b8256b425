"""Encoders of both kinds, plain and hierarchical, from their settings; :mod:`mae_lite.models.vit` has the plain one.

Shapes: B images, C channels, H side in pixels, h side of a map of tokens, D width.
"""

from __future__ import annotations

from typing import Any, Literal

import timm
import torch
from torch import nn

from mae_lite import config, draws
from mae_lite.errors import ConfigError, nearest
from mae_lite.models import vit


def build_encoder(encoder: config.Encoder | config.Swin, seed: int) -> nn.Module:
    """Build an encoder without a head; its final LayerNorm acts on all tokens.

    Args:
        encoder: what to build.
        seed: decides the initial values.

    Raises:
        ConfigError: for a name that timm does not know.
    """
    if isinstance(encoder, config.Encoder):
        return vit.build_encoder(encoder, seed)
    return _build_swin(encoder, seed, num_classes=0)


def build_classifier(
    encoder: config.Encoder | config.Swin,
    num_classes: int,
    pooling: Literal["mean", "token"],
    seed: int,
    relative_positions: bool = False,
) -> nn.Module:
    """Build an encoder with a head; Swin has one way to pool, the mean of the tokens after its final LayerNorm.

    Raises:
        ConfigError: for a name that timm does not know.
    """
    if isinstance(encoder, config.Encoder):
        return vit.build_classifier(encoder, num_classes, pooling, seed, relative_positions)
    return _build_swin(encoder, seed, num_classes=num_classes)


def timm_arguments(encoder: config.Encoder | config.Swin) -> dict[str, Any]:
    """Return the keyword arguments of ``timm.create_model`` that describe ``encoder``."""
    if isinstance(encoder, config.Encoder):
        return vit.timm_arguments(encoder)
    return {
        "img_size": encoder.image_size,
        "patch_size": encoder.patch_size,
        "in_chans": encoder.channels,
        "embed_dim": encoder.width,
        "depths": encoder.depths,
        "num_heads": encoder.num_heads,
        "window_size": encoder.window_size,
        "drop_path_rate": encoder.drop_path,
    }


def _build_swin(encoder: config.Swin, seed: int, num_classes: int) -> nn.Module:
    """Build a Swin transformer with the initial values of its paper and timm.

    Linear layers and position biases start from a normal distribution of deviation 0.02, the patch projection as
    torch's convolutions do, biases at 0.
    """
    known = timm.list_models("*swin*", module="swin_transformer")
    if encoder.name not in known:
        raise ConfigError(
            "encoder.name",
            found=f"{encoder.name!r}{nearest(encoder.name, known)}",
            expected="a Swin transformer of timm",
            fix="--encoder.name swin_tiny_patch4_window7_224",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draws.key(seed, "init") >> 1)
        model: nn.Module = timm.create_model(encoder.name, num_classes=num_classes, **timm_arguments(encoder))
    return model
