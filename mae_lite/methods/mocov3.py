"""MoCo-v3 (Chen, Xie, He 2021, *An Empirical Study of Training Self-Supervised Vision Transformers*).

Two views of an image shall predict each other's keys among those of all images of the global batch. The keys come
from a copy of the encoder that follows it slowly. Shapes: B images of this rank, G of all ranks, V = 2 views.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from mae_lite import config, draws
from mae_lite.methods.across_ranks import GlobalBatchNorm, gathered, rank_of_all
from mae_lite.methods.base import Method, StepOutput
from mae_lite.methods.comparing import follow, momentum_at, spread
from mae_lite.models.vit import build_encoder


class MomentumContrast(Method):
    """Encoder, projector and predictor are trained; momentum encoder and momentum projector follow them."""

    couples_samples = True

    def __init__(self, recipe: config.Recipe, method: config.MoCoV3) -> None:
        """Build all parts; the seed of ``recipe`` decides their initial values, and the followers start as copies."""
        super().__init__()
        self.method = method
        encoder: Any = build_encoder(recipe.plain_encoder, recipe.seed, "mocov3")
        self.encoder: Any = encoder
        encoder.pos_embed.requires_grad_(False)
        if method.freeze_patch_projection:
            encoder.patch_embed.proj.requires_grad_(False)
        width, hidden, output = recipe.plain_encoder.width, method.hidden_width, method.output_width
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(draws.key(recipe.seed, "init projector") >> 1)
            self.projector = perceptron(width, hidden, hidden, output)
            self.predictor = perceptron(output, hidden, output)
        self.momentum_encoder: Any = copy.deepcopy(encoder).requires_grad_(False)
        self.momentum_projector = copy.deepcopy(self.projector).requires_grad_(False)

    def forward(self, images: Tensor, labels: Tensor, draws: Mapping[str, Tensor]) -> StepOutput:
        """Return the symmetrised contrastive loss of two views [B, 2, C, H, H].

        The logs hold ``view_feature_std``, the :func:`~mae_lite.methods.comparing.spread` of the class tokens.
        """
        del labels, draws
        both = images.flatten(0, 1)  # [B * 2, C, H, H]
        features = self.encoder(both).unflatten(0, images.shape[:2])  # [B, 2, D], class tokens after the final norm
        # A view at a time: the statistics of BatchNorm are those of one view.
        queries = [self.predictor(self.projector(view)) for view in features.unbind(dim=1)]
        with torch.no_grad():
            followed = self.momentum_encoder(both).unflatten(0, images.shape[:2])
            keys = [self.momentum_projector(view) for view in followed.unbind(dim=1)]
        temperature = self.method.temperature
        loss = contrastive_loss(queries[0], keys[1], temperature) + contrastive_loss(queries[1], keys[0], temperature)
        return StepOutput(loss, {"view_feature_std": spread(features.detach().flatten(0, 1))})

    def after_step(self, step: int, total_steps: int) -> None:
        """Move the followers to where they shall be when the keys of update ``step`` (the next one) are computed.

        Their BatchNorm statistics are their own and not averaged.
        """
        momentum = momentum_at(step, total_steps, self.method.momentum)
        follow(self.momentum_encoder, self.encoder, momentum)
        follow(self.momentum_projector, self.projector, momentum)


def perceptron(*widths: int) -> nn.Sequential:
    """Return linear layers without bias between ``widths``, BatchNorm after each, ReLU between, no affine at the end.

    Args:
        widths: channels of the input, of each hidden layer, of the output.
    """
    layers: list[nn.Module] = []
    for number, (inputs, outputs) in enumerate(itertools.pairwise(widths), start=2):
        last = number == len(widths)
        layers += [nn.Linear(inputs, outputs, bias=False), GlobalBatchNorm(outputs, affine=not last)]
        layers += [] if last else [nn.ReLU()]
    return nn.Sequential(*layers)


def contrastive_loss(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """Return 2 T times the cross-entropy of finding each query's own key among those of all ranks.

    Args:
        queries: [B, D] of this rank, any length.
        keys: [B, D] of this rank, any length, without gradient.
        temperature: T.

    Returns:
        [] float32, mean over this rank's queries.
    """
    with _full_precision(queries.device.type):
        unit_queries = normalize(queries.float(), dim=1)
        unit_keys = gathered(normalize(keys.float(), dim=1))  # [G, D]
        logits = unit_queries @ unit_keys.T / temperature  # [B, G]
        rank, _ = rank_of_all()
        own = torch.arange(len(queries), device=queries.device) + len(queries) * rank
        return 2 * temperature * cross_entropy(logits, own)


def _full_precision(device_type: str) -> AbstractContextManager[Any]:
    # The meta device, on which costs are counted, has no autocast to switch off.
    available = torch.amp.is_autocast_available(device_type)
    return torch.autocast(device_type, enabled=False) if available else nullcontext()
