"""Feature distillation: every patch token of the student, mapped linearly, shall be the teacher's token of that place.

Both sides are normalised by a LayerNorm without affine, as the teacher's are in Wei et al. 2022, *Contrastive Learning
Rivals Masked Image Modeling in Fine-tuning via Feature Distillation*. Nothing is masked; class and register tokens are
not compared. Shapes: B images, N patches, D width of the student, E of the teacher, S side of the teacher's images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mae_lite import config, draws
from mae_lite.methods.base import StepOutput
from mae_lite.methods.teacher import Taught, Teacher
from mae_lite.models.taps import full_precision
from mae_lite.models.vit import build_encoder


class FeatureDistiller(Taught):
    """An encoder that learns a teacher's patch tokens from the same pixels, and the linear map between the two."""

    def __init__(self, recipe: config.Recipe, method: config.FeatureDistillation) -> None:
        """Build encoder and map; the seed of ``recipe`` decides their initial values."""
        super().__init__()
        self.settings, self.pixels = method, recipe.augmentation
        self.teacher_side = method.teacher(recipe.plain_encoder).image_size
        self.encoder: Any = build_encoder(recipe.plain_encoder, recipe.seed)
        self.encoder.pos_embed.requires_grad_(False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(draws.key(recipe.seed, "init matching") >> 1)
            self.matching = nn.Linear(recipe.plain_encoder.width, method.teacher_width)

    def forward(self, images: Tensor, labels: Tensor, draws: Mapping[str, Tensor]) -> StepOutput:
        """Return how far the student's patch tokens are from the teacher's; nothing is drawn."""
        del labels, draws
        own = self.encoder.forward_features(images)[:, 1:]  # [B, N, D] after the final LayerNorm, no class token
        target = self._targets(images)  # [B, N, E]
        with full_precision(images.device):
            weight, bias = self.matching.weight, self.matching.bias
            mapped = functional.linear(own.to(weight.dtype), weight, bias)  # [B, N, E]
            loss = token_distance(mapped, target.to(weight.dtype), self.settings)
        return StepOutput(loss, {})

    @torch.no_grad()
    def _targets(self, images: Tensor) -> Tensor:
        """Return the teacher's patch tokens [B, N, E] of the student's images [B, C, H, H]."""
        teacher = self.known_teacher()
        with self._clock.running(images.device):
            seen = teachers_images(images, self.teacher_side, self.pixels, teacher)
            tokens: Tensor = teacher.model.forward_features(seen)[:, self.settings.teacher_prefix_tokens :]
        return tokens


def token_distance(mapped: Tensor, target: Tensor, settings: config.FeatureDistillation) -> Tensor:
    """Return the distance [] of tokens [B, N, E] from those of the teacher, each token normalised on its own.

    Smooth L1: the mean over all channels of d² / 2 beta where |d| < beta, else |d| - beta / 2. Cosine: the mean over
    tokens of 1 - the cosine of the angle between the two.
    """
    mapped, target = (functional.layer_norm(tokens, tokens.shape[-1:], eps=1e-6) for tokens in (mapped, target))
    if settings.distance == "cosine":
        return (1 - functional.cosine_similarity(mapped, target, dim=-1)).mean()
    return functional.smooth_l1_loss(mapped, target, beta=settings.smooth_l1_beta)


def teachers_images(images: Tensor, side: int, pixels: config.Augmentation, teacher: Teacher) -> Tensor:
    """Return what the teacher sees [B, C, S, S]: resized so that its patches cover what the student's do.

    Args:
        images: [B, C, H, H], normalised with the mean and deviation of ``pixels``.
        side: S, in pixels.
        pixels: how ``images`` were normalised.
        teacher: knows the mean and deviation that it was trained with, or None for those of ``pixels``.
    """
    if images.shape[-1] != side:
        images = functional.interpolate(images, size=(side, side), mode="bicubic", antialias=True)
    mean, std = teacher.mean or pixels.mean, teacher.std or pixels.std
    if (mean, std) == (pixels.mean, pixels.std):
        return images
    # With the numbers of a channel as arguments: tensors of them would have to be sent to the device, which waits.
    numbers = zip(images.unbind(1), pixels.mean, pixels.std, mean, std, strict=True)
    return torch.stack([(one * old_s + (old_m - new_m)) / new_s for one, old_m, old_s, new_m, new_s in numbers], 1)
