"""Linear CKA between the layers of two models, batch by batch, so that memory does not grow with the images.

Nguyen, Raghu and Kornblith 2021 (arXiv:2010.15327), equations 2 and 3: sums over batches of the unbiased estimator of
HSIC (Song et al. 2012), whose expectation does not depend on the batch size. Shapes: n images of a batch, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mae_lite.errors import DataError

FEWEST = 4
"""Images that the unbiased estimator needs at least."""


def grams(layers: Sequence[Tensor]) -> Tensor:
    """Return X Xᵀ [L, n, n] float64 of each layer's features [n, ...], with zeros on the diagonal.

    The features are centred over the batch first. The unbiased estimator does not see that, but float32 does: without
    it the mean, far larger than what differs between images, would take the digits.
    """
    found = []
    for features in layers:
        flat = features.flatten(1).to(torch.promote_types(features.dtype, torch.float32))  # [n, D]
        flat = flat - flat.mean(dim=0)
        gram = (flat @ flat.T).double()
        found.append(gram - torch.diag(gram.diagonal()))
    return torch.stack(found)


def unbiased_hsic(one: Tensor, other: Tensor) -> Tensor:
    """Return HSIC₁ [L, M] of every pair of Gram matrices [L, n, n] and [M, n, n] with zeros on the diagonal, n >= 4."""
    n = one.shape[-1]
    products = one.flatten(1) @ other.flatten(1).T  # tr(K L)
    rows, others = one.sum(dim=2), other.sum(dim=2)  # [L, n] and [M, n]
    sums = rows.sum(dim=1)[:, None] * others.sum(dim=1)  # 1ᵀK1 · 1ᵀL1
    crossed = rows @ others.T  # 1ᵀK L1
    return (products + sums / ((n - 1) * (n - 2)) - 2 / (n - 2) * crossed) / (n * (n - 3))


class MinibatchCKA:
    """The sums over batches; a smaller last batch counts by its images, and not at all below four."""

    def __init__(self) -> None:
        """Start with nothing seen."""
        self.images = 0
        self._crossed, self._one, self._other = (torch.zeros((), dtype=torch.float64) for _ in range(3))

    def add(self, one: Tensor, other: Tensor) -> None:
        """Take in a batch.

        Args:
            one: [L, n, n] from :func:`grams`, of the first model's layers.
            other: [M, n, n], of the second model's, for the same images.
        """
        count = one.shape[-1]
        if count < FEWEST:
            return
        self._crossed = self._crossed + count * unbiased_hsic(one, other)
        self._one = self._one + count * _own(one)
        self._other = self._other + count * _own(other)
        self.images += count

    def matrix(self) -> Tensor:
        """Return CKA [L, M] float64: about 0 for unrelated layers, 1 for the same up to rotation and scale.

        A layer that gives all images the same features is like nothing: not a number.

        Raises:
            DataError: when no batch had four images.
        """
        if not self.images:
            raise DataError("too few images to compare layers", expected=f"{FEWEST} at least", fix="give more images")
        one, other = (torch.where(own > 0, own, torch.nan) for own in (self._one, self._other))
        return self._crossed / (one[:, None] * other).sqrt()


def _own(gram: Tensor) -> Tensor:
    """Return HSIC₁ of each layer with itself [L]."""
    return torch.stack([unbiased_hsic(layer[None], layer[None])[0, 0] for layer in gram])
