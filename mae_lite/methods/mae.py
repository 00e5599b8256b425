"""Masked autoencoder (He et al. 2022) with the light decoder of MAE-lite.

The encoder sees the class token and the visible patches only; the decoder sees all positions and predicts
the pixels of the hidden ones. Mask: 1 = removed.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from mae_lite import config, draws
from mae_lite.methods.base import Method, StepOutput
from mae_lite.models.blocks import run_block_for, run_blocks, take
from mae_lite.models.vit import build_encoder, init_linear, sincos_table

_TARGET_EPS = 1e-6


class Decoder(nn.Module):
    """The light decoder: linear map, mask token, own fixed positions, blocks, LayerNorm, linear map to patches."""

    def __init__(self, encoder: config.Encoder, method: config.Masking) -> None:
        """Build the decoder with MAE's initial values."""
        super().__init__()
        width = method.decoder_width
        self.embed = nn.Linear(encoder.width, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(sincos_table(width, encoder.grid), requires_grad=False)
        norm: Any = partial(nn.LayerNorm, eps=1e-6)
        self.blocks = nn.Sequential(
            *(
                Block(width, method.decoder_heads, mlp_ratio=4.0, qkv_bias=True, norm_layer=norm)
                for _ in range(method.decoder_depth)
            )
        )
        self.norm = norm(width)
        self.pred = nn.Linear(width, method.values(encoder))
        nn.init.normal_(self.mask_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                init_linear(module, "xavier")

    def forward(self, latent: Tensor, order: Tensor, rows: Tensor | None = None) -> Tensor:
        """Predict patches.

        Args:
            latent: [B, 1 + K, D], class token first, then the visible patches in the order of ``order``.
            order: [B, N] patch numbers, the K visible ones first.
            rows: [B, M] patch numbers to predict; None predicts all in row-major order.

        Returns:
            [B, M, P] predictions (all N when ``rows`` is None).
        """
        batch, patches = order.shape
        tokens = self.embed(latent)  # [B, 1 + K, width]
        hidden = self.mask_token.expand(batch, patches + 1 - tokens.shape[1], -1)
        shuffled = torch.cat([tokens, hidden.to(tokens.dtype)], dim=1)  # [B, 1 + N, width] in the order of `order`
        place = nn.functional.pad(torch.argsort(order, dim=1) + 1, (1, 0))  # the class token stays in front
        tokens = take(shuffled, place) + self.pos_embed
        if rows is None:
            tokens = run_blocks(self.blocks, tokens)[:, 1:]  # [B, N, width], class token gone
        else:
            tokens = run_block_for(self.blocks[-1], run_blocks(self.blocks[:-1], tokens), rows + 1)
        return self.pred(self.norm(tokens))  # type: ignore[no-any-return]


class MaskedAutoencoder(Method):
    """MAE: hide most patches, encode the rest, predict the hidden pixels."""

    def __init__(self, recipe: config.Recipe, method: config.Masking) -> None:
        """Build encoder and decoder; the seed of ``recipe`` decides their initial values."""
        super().__init__()
        encoder = recipe.plain_encoder
        self.patch_size = encoder.patch_size
        self.patches = encoder.patches
        self.kept = method.kept(self.patches)
        self.normalize_target = isinstance(method, config.Painting) and method.normalize_target
        self.encoder: Any = build_encoder(encoder, recipe.seed)
        self.encoder.pos_embed.requires_grad_(False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(draws.key(recipe.seed, "init decoder") >> 1)
            self.decoder = Decoder(encoder, method)

    def draw(self, seed: int, step: int, rows: range) -> dict[str, Tensor]:
        """Draw the mask noise [B, N] of ``rows`` of the global batch."""
        return {"noise": torch.from_numpy(draws.uniform(draws.key(seed, "mask", step), rows, self.patches))}

    def forward(self, images: Tensor, labels: Tensor, draws: Mapping[str, Tensor]) -> StepOutput:
        """Return the mean squared error per hidden patch, averaged over the hidden patches."""
        del labels
        order = torch.argsort(draws["noise"], dim=1, stable=True)  # [B, N]
        patches = patchify(images, self.patch_size)
        return StepOutput(self.painting_loss(patches, self.encode(patches, order[:, : self.kept]), order), {})

    def painting_loss(self, patches: Tensor, latent: Tensor, order: Tensor) -> Tensor:
        """Return the loss [] of painting patches [B, N, P] from ``latent``; see :meth:`Decoder.forward`."""
        return self.error(self.target(take(patches, order[:, self.kept :])), latent, order)

    def error(self, target: Tensor, latent: Tensor, order: Tensor) -> Tensor:
        """Return the mean squared error [] of what is decoded from ``latent``; see :meth:`Decoder.forward`.

        Args:
            target: [B, N - K, P], of the hidden patches in the order of ``order``.
            latent: [B, 1 + K, D].
            order: [B, N] patch numbers, the K visible ones first.
        """
        prediction = self.decoder(latent, order, order[:, self.kept :])  # [B, N - K, P]
        return nn.functional.mse_loss(prediction.float(), target)

    def encode(self, patches: Tensor, visible: Tensor) -> Tensor:
        """Encode the visible patches.

        Args:
            patches: [B, N, P] from :func:`patchify`.
            visible: [B, K] patch numbers.

        Returns:
            [B, 1 + K, D] tokens after the final LayerNorm, class token first.
        """
        encoder = self.encoder
        return encoder.norm(run_blocks(encoder.blocks, embed(encoder, patches, visible)))  # type: ignore[no-any-return]

    def target(self, patches: Tensor) -> Tensor:
        """Return what to predict for patches [..., P]: pixels, by default normalised per patch."""
        patches = patches.float()
        if not self.normalize_target:
            return patches
        # (x - mean) / sqrt(variance + 1e-6), whose variance divides by P - 1, in one pass: a LayerNorm's divides by P.
        values = patches.shape[-1]
        share = (values - 1) / values
        scale = patches.new_full((values,), share**0.5)
        return nn.functional.layer_norm(patches, (values,), scale, eps=share * _TARGET_EPS)


def embed(encoder: Any, patches: Tensor, visible: Tensor) -> Tensor:
    """Return the tokens [B, 1 + K, D] that enter the first block of a timm Vision Transformer, class token first.

    Args:
        encoder: has a class token and a position for it and each patch.
        patches: [B, N, P] from :func:`patchify`.
        visible: [B, K] patch numbers.
    """
    projection = encoder.patch_embed.proj
    # patchify orders a patch by (row, column, channel), the convolution by (channel, row, column)
    weight = projection.weight.permute(0, 2, 3, 1).flatten(1)  # [D, P]
    tokens = nn.functional.linear(take(patches, visible), weight, projection.bias)  # [B, K, D]
    tokens = tokens + encoder.pos_embed[0].index_select(0, visible.flatten() + 1).reshape(tokens.shape)
    class_token = (encoder.cls_token + encoder.pos_embed[:, :1]).expand(len(tokens), -1, -1)
    tokens = torch.cat([class_token.to(tokens.dtype), tokens], dim=1)
    return encoder.norm_pre(tokens)  # type: ignore[no-any-return]


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """Cut images [B, C, H, H] into patches [B, N, P]; inside a patch the order is row, column, channel."""
    batch, channels, side, _ = images.shape
    grid = side // patch_size
    cut = images.reshape(batch, channels, grid, patch_size, grid, patch_size).permute(1, 0, 2, 4, 3, 5)
    # A channel at a time reads along the rows of the image; one permuting copy would be twice as slow on a CPU.
    return torch.stack(tuple(cut), dim=-1).reshape(batch, grid * grid, patch_size * patch_size * channels)


def unpatchify(patches: Tensor, patch_size: int, channels: int) -> Tensor:
    """Undo :func:`patchify`: [B, N, P] to [B, C, H, H]."""
    batch, count, _ = patches.shape
    grid = round(count**0.5)
    cut = patches.reshape(batch, grid, grid, patch_size, patch_size, channels)
    return cut.permute(0, 5, 1, 3, 2, 4).reshape(batch, channels, grid * patch_size, grid * patch_size)
