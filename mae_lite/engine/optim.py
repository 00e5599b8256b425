"""Parameter groups, the optimiser, and the learning rate and weight decay of a recipe, per step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, assert_never

import torch
from timm.models import group_parameters
from torch import nn

from mae_lite import config
from mae_lite.methods.base import Method


@dataclass(frozen=True)
class LearningRate:
    """Linear warm-up, then cosine, evaluated at the step that is about to be made (0-based)."""

    peak: float
    total_steps: int
    warmup_steps: int
    start: float = 0.0
    final: float = 0.0

    @classmethod
    def of(cls, recipe: config.Recipe, steps_per_epoch: int) -> LearningRate:
        """Convert the epochs of ``recipe`` to steps."""
        return cls(
            peak=recipe.peak_lr,
            total_steps=_total_steps(recipe, steps_per_epoch),
            warmup_steps=round(recipe.warmup_epochs * steps_per_epoch),
            start=recipe.warmup_start_lr,
            final=recipe.final_lr,
        )

    def __call__(self, step: int) -> float:
        """Return the rate of the update number ``step``."""
        if step < self.warmup_steps:
            return self.start + (self.peak - self.start) * step / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        return self.final + (self.peak - self.final) * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class WeightDecay:
    """Cosine from the first value to the last, evaluated at the step that is about to be made (0-based)."""

    start: float
    total_steps: int
    final: float

    @classmethod
    def of(cls, recipe: config.Recipe, steps_per_epoch: int) -> WeightDecay:
        """Convert the epochs of ``recipe`` to steps; without an end of its own the first value holds throughout."""
        start, final = recipe.optimizer.weight_decay, recipe.optimizer.final_weight_decay
        return cls(start, _total_steps(recipe, steps_per_epoch), start if final is None else final)

    def __call__(self, step: int) -> float:
        """Return the weight decay of the update number ``step``, of parameters that are not exempt."""
        return self.final + (self.start - self.final) * 0.5 * (1 + math.cos(math.pi * step / self.total_steps))


def _total_steps(recipe: config.Recipe, steps_per_epoch: int) -> int:
    return max(1, round(recipe.epochs * steps_per_epoch))


def parameter_groups(method: Method, recipe: config.Recipe) -> list[dict[str, Any]]:
    """Group the trainable parameters by learning-rate scale and weight decay.

    Layer decay: patch projection, class token and positions are layer 0, block i is layer i + 1, the rest is
    layer depth + 1; scale = decay^(depth + 1 - layer). In Swin the blocks of all stages are counted on; what merges
    tokens before a stage belongs to the stage's first block, and a block's table of positions to the block.

    Returns:
        Groups for a torch optimiser with the extra entries ``lr_scale``, ``exempt`` (from weight decay) and ``names``.
    """
    encoder: Any = method.get_submodule(method.trained)
    top = _depth(encoder) + 1
    layers = {f"{method.trained}.{name}": layer for name, layer in _layers(encoder).items()}
    tokens = {f"{method.trained}.{name}" for name in encoder.no_weight_decay()}
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, parameter in method.named_parameters():
        if not parameter.requires_grad:
            continue
        kinds = recipe.optimizer.no_decay
        exempt = ("vectors" in kinds and parameter.ndim <= 1) or ("tokens" in kinds and name in tokens)
        decay = 0.0 if exempt else recipe.optimizer.weight_decay
        scale = recipe.layer_decay ** (top - layers.get(name, top))
        fresh = {"params": [], "names": [], "lr_scale": scale, "exempt": exempt, "weight_decay": decay}
        group = groups.setdefault((scale, exempt), fresh)
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def _depth(encoder: Any) -> int:
    """Return the number of blocks of a Vision Transformer, or of all stages of a Swin transformer."""
    stages = getattr(encoder, "layers", None)
    return len(encoder.blocks) if stages is None else sum(len(stage.blocks) for stage in stages)


def _layers(encoder: nn.Module) -> dict[str, int]:
    matcher: Any = getattr(encoder, "group_matcher")  # noqa: B009 - every timm model has one, nn.Module's type does not
    layers = group_parameters(encoder, matcher(coarse=False), reverse=True)
    # timm counts a final LayerNorm to the last block; in MAE and here it belongs to the rest.
    return {name: layer for name, layer in layers.items() if not name.startswith("norm.")}


def build_optimizer(method: Method, recipe: config.Recipe) -> torch.optim.Optimizer:
    """Build the optimiser of ``recipe`` over its parameter groups; rates are set before each step."""
    groups = parameter_groups(method, recipe)
    match recipe.optimizer:
        case config.AdamW() as settings:
            return torch.optim.AdamW(groups, lr=recipe.peak_lr, betas=settings.betas, eps=settings.eps, fused=True)
        case config.SGD() as settings:
            nesterov = settings.nesterov and settings.momentum > 0  # torch refuses the two together; they are plain SGD
            # torch's fused SGD fails where a parameter gets its first gradient later than others, as DINO's prototypes.
            fused = not isinstance(recipe.method, config.DINO)
            rate, momentum = recipe.peak_lr, settings.momentum
            return torch.optim.SGD(groups, lr=rate, momentum=momentum, nesterov=nesterov, fused=fused)
        case never:
            assert_never(never)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of ``rate``; the floor of the schedule is scaled too."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]


def set_weight_decay(optimizer: torch.optim.Optimizer, decay: float) -> None:
    """Give every group ``decay`` but those that are exempt from it."""
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.0 if group["exempt"] else decay
