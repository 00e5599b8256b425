"""What MaskFeat and SimMIM share: the encoder sees all places, a learned token stands where something is hidden.

Shapes: B images, C channels, H side in pixels, U places that may be hidden, K of them visible, h side of the encoder's
last map of tokens, M = h² its tokens, D width of its first tokens, P numbers predicted for a token of the last map.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mae_lite import config, draws
from mae_lite.methods.base import Method
from mae_lite.models.encoders import build_encoder
from mae_lite.models.vit import init_linear


class Painter(nn.Module):
    """What is learned beside the encoder and dropped after training: the mask token and one linear layer."""

    def __init__(self, width: int, last_width: int, values: int) -> None:
        """Build both; N(0, 0.02), truncated for the layer."""
        super().__init__()
        self.mask_token = nn.Parameter(torch.empty(width))
        self.pred = nn.Linear(last_width, values)
        nn.init.normal_(self.mask_token, std=0.02)
        init_linear(self.pred, "trunc_normal")


class MaskTokenMethod(Method):
    """Hides places of an image, and predicts something for every token of the last map."""

    def __init__(self, recipe: config.Recipe, method: config.Hiding, unit_px: int, width: int, values: int) -> None:
        """Build encoder and painter; the seed of ``recipe`` decides their initial values.

        Args:
            recipe: has the encoder.
            method: says which share is hidden.
            unit_px: side of a place that is hidden or not, in pixels.
            width: of the tokens that predict.
            values: numbers that each of them predicts.
        """
        super().__init__()
        encoder = recipe.encoder
        self.unit = unit_px
        self.unit_patches = unit_px // encoder.patch_size
        self.units = (encoder.image_size // unit_px) ** 2
        self.kept = method.kept(self.units)
        self.encoder: Any = build_encoder(encoder, recipe.seed)
        if isinstance(encoder, config.Encoder):
            self.encoder.pos_embed.requires_grad_(False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(draws.key(recipe.seed, "init painter") >> 1)
            self.painter = Painter(encoder.width, width, values)

    def draw(self, seed: int, step: int, rows: range) -> dict[str, Tensor]:
        """Draw the mask noise [B, U] of ``rows`` of the global batch."""
        return {"noise": torch.from_numpy(draws.uniform(draws.key(seed, "mask", step), rows, self.units))}

    def hidden(self, draws: Mapping[str, Tensor]) -> Tensor:
        """Return the numbers [B, U - K] of the hidden places: those whose noise is highest."""
        return torch.argsort(draws["noise"], dim=1, stable=True)[:, self.kept :]

    def predict(self, images: Tensor, hidden: Tensor) -> Tensor:
        """Return predictions [B, M, P] for all tokens of the last map, row by row.

        Args:
            images: [B, C, H, H].
            hidden: [B, U - K] numbers of the hidden places.
        """
        tokens = encode_masked(self.encoder, images, self.mask(hidden), self.painter)
        return self.painter.pred(tokens)  # type: ignore[no-any-return]

    def mask(self, hidden: Tensor) -> Tensor:
        """Return [B, grid, grid], true where a patch is hidden, from the numbers [B, U - K] of the hidden places."""
        mask = torch.zeros(len(hidden), self.units, dtype=torch.bool, device=hidden.device).scatter(1, hidden, True)
        side = round(self.units**0.5)
        wide = mask.reshape(-1, side, side).repeat_interleave(self.unit_patches, dim=2)
        return wide.repeat_interleave(self.unit_patches, dim=1)


def project_masked(encoder: Any, images: Tensor, mask: Tensor, painter: Painter) -> Tensor:
    """Return what the patch projection puts out [B, N, D], of Swin [B, grid, grid, D], the mask token where hidden.

    In Swin it takes the place of what the norm behind the projection puts out. As in both papers that is before
    positions are added, so that the encoder knows where something is hidden. Arguments as of :func:`encode_masked`.
    """
    tokens = encoder.patch_embed(images)
    return torch.where(mask.reshape(*tokens.shape[:-1], 1), painter.mask_token.to(tokens.dtype), tokens)


def encode_masked(encoder: Any, images: Tensor, mask: Tensor, painter: Painter) -> Tensor:
    """Return the tokens of the last map after the final norm [B, M, D'], without a class token.

    Args:
        encoder: a timm Vision Transformer with a class token, or a timm Swin transformer.
        images: [B, C, H, H].
        mask: [B, grid, grid], true where a patch is hidden.
        painter: has the mask token.
    """
    tokens = project_masked(encoder, images, mask, painter)
    if tokens.ndim == 4:
        return encoder.norm(encoder.layers(tokens)).flatten(1, 2)  # type: ignore[no-any-return]
    class_token = encoder.cls_token.expand(len(tokens), -1, -1).to(tokens.dtype)
    tokens = torch.cat([class_token, tokens], dim=1) + encoder.pos_embed
    return encoder.norm(encoder.blocks(encoder.norm_pre(tokens)))[:, 1:]  # type: ignore[no-any-return]
