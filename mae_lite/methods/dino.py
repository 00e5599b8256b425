"""DINO (Caron et al. 2021, *Emerging Properties in Self-Supervised Vision Transformers*).

A student says of every view of an image which prototypes it looks like, and shall say what its teacher, which is its
own slow average, says of the other views of full size. Shapes: B images of this rank, V = 2 views, L local views, D
width, K prototypes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, log_softmax, normalize

from mae_lite import config, draws
from mae_lite.methods.across_ranks import mean_of_all
from mae_lite.methods.base import Method, StepOutput
from mae_lite.methods.comparing import follow, momentum_at, spread
from mae_lite.models.vit import build_encoder, init_linear, interpolated_positions


class PrototypeHead(nn.Module):
    """Three linear layers with GELU between (no BatchNorm), then cosine similarities to the prototypes (appendix C)."""

    def __init__(self, width: int, method: config.DINO) -> None:
        """Build it for features of ``width`` channels; all weights start as truncated normal, biases as 0."""
        super().__init__()
        hidden, bottleneck = method.hidden_width, method.bottleneck_width
        self.layers = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                init_linear(layer, "trunc_normal")
        self.prototypes = nn.Parameter(nn.init.trunc_normal_(torch.empty(method.prototypes, bottleneck), std=0.02))

    def forward(self, features: Tensor) -> Tensor:
        """Return the similarities [N, K] of features [N, D]; a prototype's length is 1, whatever its weights'."""
        bottleneck = normalize(self.layers(features).float(), dim=1)
        return linear(bottleneck, normalize(self.prototypes.float(), dim=1))


class SelfDistillation(Method):
    """Student and student head are trained; ``encoder`` is the teacher, which follows and is what the run is for."""

    couples_samples = True
    trained = "student"
    centre: Tensor
    """[K], the slow average of the teacher's outputs over all images."""

    def __init__(self, recipe: config.Recipe, method: config.DINO) -> None:
        """Build all parts; the seed of ``recipe`` decides their initial values, and the teacher's are the student's."""
        super().__init__()
        self.method = method
        self.student: Any = build_encoder(recipe.plain_encoder, recipe.seed)
        self.student.pos_embed.requires_grad_(False)
        whole = config.Encoder.model_validate(recipe.plain_encoder.model_dump() | {"drop_path": 0.0})
        self.encoder: Any = build_encoder(whole, recipe.seed).requires_grad_(False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(draws.key(recipe.seed, "init prototype head") >> 1)
            self.student_head = PrototypeHead(recipe.plain_encoder.width, method)
        self.teacher_head = copy.deepcopy(self.student_head).requires_grad_(False)
        self.register_buffer("centre", torch.zeros(method.prototypes))
        self.before_step(0.0)

    def before_step(self, epoch: float) -> None:
        """Set the teacher's temperature."""
        self.teacher_temperature = teacher_temperature_at(epoch, self.method)

    def forward(
        self,
        images: Tensor,
        labels: Tensor,
        draws: Mapping[str, Tensor],
        local_images: Tensor | None = None,
    ) -> StepOutput:
        """Return the loss of two views [B, 2, C, H, H] and of any local views [B, L, C, S, S]; the centre moves on.

        The logs hold ``view_feature_std``, the :func:`~mae_lite.methods.comparing.spread` of the student's class
        tokens, and ``teacher_entropy``: how many nats the teacher leaves open of an image's prototypes, log K where
        they have collapsed onto all of them.
        """
        del labels, draws
        features = class_tokens(self.student, images.flatten(0, 1))  # [B * V, D]
        opinions = [self.student_head(features).unflatten(0, images.shape[:2])]
        if local_images is not None:
            small = class_tokens(self.student, local_images.flatten(0, 1))  # [B * L, D]
            opinions.append(self.student_head(small).unflatten(0, local_images.shape[:2]))
        with torch.no_grad():
            outputs = self.teacher_head(class_tokens(self.encoder, images.flatten(0, 1))).float()  # [B * V, K]
            targets = ((outputs - self.centre) / self.teacher_temperature).softmax(dim=1)
            if self.training:
                self.centre.lerp_(mean_of_all(outputs), 1 - self.method.centre_momentum)
            entropy = torch.special.entr(targets).sum(dim=1).mean()
        logits = torch.cat(opinions, dim=1).float() / self.method.student_temperature  # [B, V + L, K]
        loss = distillation_loss(logits, targets.unflatten(0, images.shape[:2]))
        return StepOutput(loss, {"view_feature_std": spread(features.detach()), "teacher_entropy": entropy})

    def after_backward(self, epoch: float) -> None:
        """Keep the student's prototypes as they are for a while: what it compares with shall not run off at first."""
        if epoch < self.method.freeze_prototypes_epochs:
            self.student_head.prototypes.grad = None

    def after_step(self, step: int, total_steps: int) -> None:
        """Move the teacher towards the student that update ``step`` - 1 made, with the momentum of that update."""
        momentum = momentum_at(step - 1, total_steps, self.method.momentum)
        follow(self.encoder, self.student, momentum)
        follow(self.teacher_head, self.student_head, momentum)


def teacher_temperature_at(epoch: float, method: config.DINO) -> float:
    """Return the teacher's temperature: a line over the first epochs, then constant.

    The line is followed at every update, where the paper's own runs take a step of it at each epoch.
    """
    share = min(1.0, epoch / method.teacher_warmup_epochs) if method.teacher_warmup_epochs else 1.0
    return method.teacher_start_temperature + share * (method.teacher_temperature - method.teacher_start_temperature)


def distillation_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy of what the student says of a view under what the teacher says of another (eq. 3).

    Args:
        logits: [B, V + L, K] of the student, the teacher's views first.
        targets: [B, V, K] probabilities of the teacher, without gradient.

    Returns:
        [] float32, mean over the images and all pairs of a teacher's view and another view.
    """
    said = log_softmax(logits, dim=2)
    others = said.sum(dim=1, keepdim=True) - said[:, : targets.shape[1]]  # [B, V, K], of all views but the same
    loss: Tensor = -(targets * others).sum(dim=2).mean() / (logits.shape[1] - 1)
    return loss


def class_tokens(encoder: Any, images: Tensor) -> Tensor:
    """Return the class tokens [N, D] after the final LayerNorm of images [N, C, S, S] of any size of whole patches.

    The position table is resized to the size of the images as section 3.2 of Dosovitskiy et al. 2021 does it.
    """
    tokens = encoder.patch_embed.proj(images).flatten(2).transpose(1, 2)  # [N, patches, D]
    positions = interpolated_positions(encoder.pos_embed, images.shape[-1] // encoder.patch_embed.patch_size[0])
    class_token = encoder.cls_token.expand(len(tokens), -1, -1).to(tokens.dtype)
    tokens = torch.cat([class_token, tokens], dim=1) + positions
    return encoder.norm(encoder.blocks(encoder.norm_pre(tokens)))[:, 0]  # type: ignore[no-any-return]
