"""What methods that compare views of an image share: networks that follow others, and a watch for collapse."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize


def momentum_at(step: int, total_steps: int, start: float) -> float:
    """Return the momentum of update ``step`` of ``total_steps``: from ``start`` to 1 along half a cosine."""
    return 1 - (1 - start) * (1 + math.cos(math.pi * step / total_steps)) / 2


@torch.no_grad()
def follow(follower: nn.Module, leader: nn.Module, momentum: float) -> None:
    """Move the parameters of ``follower`` to momentum · its own + (1 - momentum) · its leader's; buffers stay."""
    torch._foreach_lerp_(list(follower.parameters()), list(leader.parameters()), 1 - momentum)


def spread(features: Tensor) -> Tensor:
    """Return how far features [N, D] are from having collapsed onto a point: [] float32, from 0 to 1.

    The deviation of features at length 1, averaged over dimensions, times sqrt(D), which is the scale of
    :func:`mae_lite.evaluation.probes.feature_std`.
    """
    unit = normalize(features.float(), dim=1)
    deviation: Tensor = unit.std(dim=0, correction=0).mean() * math.sqrt(features.shape[1])
    return deviation
