"""What methods that compare all images of the global batch need from other ranks, on any device.

torch's own SyncBatchNorm refuses CPU tensors, so that two processes could not be compared with one in a test.
Shapes: B rows of this rank, G of all ranks (each has as many), D channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn


def rank_of_all() -> tuple[int, int]:
    """Return the number of this process, from 0, and how many train together."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def gathered(rows: Tensor) -> Tensor:
    """Return the rows [B, D] of all ranks, [G, D] in the order of ranks, without gradient."""
    _, ranks = rank_of_all()
    if ranks == 1:
        return rows.detach()
    parts = [torch.empty_like(rows) for _ in range(ranks)]
    distributed.all_gather(parts, rows.detach().contiguous())
    return torch.cat(parts)


def mean_of_all(rows: Tensor) -> Tensor:
    """Return the mean [D] float32 over the rows [B, D] of all ranks, without gradient."""
    mean = rows.detach().float().mean(dim=0)
    _, ranks = rank_of_all()
    return mean if ranks == 1 else _all_reduced(mean) / ranks


class GlobalBatchNorm(nn.BatchNorm1d):
    """BatchNorm1d whose statistics are those of the batches of all ranks together; every rank has as many rows."""

    def forward(self, rows: Tensor) -> Tensor:
        """Normalise rows [B, D] of this rank; the running statistics follow the global batch.

        Raises:
            ValueError: when training on a single row, which has no variance.
        """
        _, ranks = rank_of_all()
        if ranks == 1 or not self.training:
            return super().forward(rows)
        values = rows.float()
        count = len(values) * ranks
        mean: Tensor = _Sum.apply(values.sum(dim=0)) / count
        centred = values - mean
        variance: Tensor = _Sum.apply(centred.square().sum(dim=0)) / count
        self._follow(mean.detach(), variance.detach() * count / (count - 1))
        normal = centred * torch.rsqrt(variance + self.eps)
        if self.affine:
            normal = normal * self.weight + self.bias
        return normal.to(rows.dtype)

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics [D] towards those of a batch, the variance unbiased, as BatchNorm1d does."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, share)
            self.running_var.lerp_(variance, share)


class _Sum(torch.autograd.Function):
    """The sum over all ranks; its gradient is the sum of all ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:  # noqa: ARG004  # torch passes it
        """Return the sum of every rank's values."""
        return _all_reduced(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ARG004
        """Return the sum of every rank's gradient."""
        return _all_reduced(gradients[0])


def _all_reduced(values: Tensor) -> Tensor:
    total = values.contiguous().clone()
    distributed.all_reduce(total)
    return total
