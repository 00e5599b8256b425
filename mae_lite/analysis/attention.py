"""How far heads look and how widely: attention distance and entropy, exact, per block and head.

Raghu et al. 2021 (arXiv:2108.08810), figure 3, and the paper's figures of distance and entropy: of the attention of
patches to patches, whose softmax is taken over patches alone. Shapes: B images, H heads, T tokens, N patches.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def patch_distances(grid: tuple[int, int], patch_px: float) -> Tensor:
    """Return the distance [N, N] float64 in pixels between the middles of patches, row by row."""
    rows, columns = torch.meshgrid(*(torch.arange(count, dtype=torch.float64) for count in grid), indexing="ij")
    places = torch.stack([rows.flatten(), columns.flatten()], dim=1)  # [N, 2]
    return (places[:, None] - places).square().sum(dim=-1).sqrt() * patch_px


def distance_and_entropy(logits: Tensor, distances: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean distance and the mean entropy in nats, [B, H] each, over the N patches that look.

    Args:
        logits: [B, H, N, N] of patches alone.
        distances: [N, N], whose unit is that of the result.
    """
    log_shares = logits.log_softmax(dim=-1)
    shares = log_shares.exp()
    far = shares.flatten(2) @ distances.to(shares.dtype).flatten() / logits.shape[-1]
    entropy = -log_shares.mul_(shares).sum(dim=-1).mean(dim=-1)
    return far.double(), entropy.double()


@dataclass
class HeadSums:
    """Distance and entropy of every block and head, summed over images."""

    distances: Tensor
    """[N, N] pixels."""
    prefix: int
    """Tokens before the patches."""

    def __post_init__(self) -> None:
        """Start with nothing seen."""
        self._far: dict[int, Tensor] = {}
        self._entropy: dict[int, Tensor] = {}
        self._images: dict[int, int] = {}

    def add(self, block: int, logits: Tensor) -> None:
        """Take in what the softmax of ``block`` is given over all tokens, [B, H, T, T]."""
        inner = logits[:, :, self.prefix :, self.prefix :]
        far, entropy = distance_and_entropy(inner, self.distances)
        for sums, values in ((self._far, far), (self._entropy, entropy)):
            sums[block] = sums.get(block, 0) + values.sum(dim=0).cpu()
        self._images[block] = self._images.get(block, 0) + len(logits)

    def distance_px(self) -> list[list[float]]:
        """Return the mean distance in pixels of each head of each block."""
        return self._means(self._far)

    def entropy_nats(self) -> list[list[float]]:
        """Return the mean entropy in nats of each head of each block."""
        return self._means(self._entropy)

    def _means(self, sums: dict[int, Tensor]) -> list[list[float]]:
        return [(sums[block] / self._images[block]).tolist() for block in sorted(sums)]


def class_attention(logits: Tensor, prefix: int) -> Tensor:
    """Return what share of the class token's attention each patch gets, mean over heads, [B, N].

    Args:
        logits: [B, H, T, T] over all tokens, the class token first.
        prefix: tokens before the patches.
    """
    return logits[:, :, 0].softmax(dim=-1).mean(dim=1)[:, prefix:]
