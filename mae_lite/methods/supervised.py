"""Classification with mixup, cutmix and label smoothing, from scratch or from pre-trained weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mae_lite import config, draws
from mae_lite.methods.base import Method, StepOutput
from mae_lite.models.encoders import build_classifier


class SupervisedClassifier(Method):
    """Cross-entropy on the labels.

    Mixing pairs each row of the global batch with its neighbour (0 with 1, 2 with 3, ...), with one weight per
    batch, so that the pairs stay together however the batch is split over ranks and micro-batches of even size.
    """

    def __init__(self, recipe: config.Recipe, method: config.Supervised, num_classes: int) -> None:
        """Build the classifier; the seed of ``recipe`` decides its initial values."""
        super().__init__()
        self.method = method
        self.side = recipe.encoder.image_size
        self.encoder: Any = build_classifier(
            recipe.encoder, num_classes, method.pooling, recipe.seed, method.relative_positions
        )
        self.couples_samples = method.mixup > 0 or method.cutmix > 0

    def draw(self, seed: int, step: int, rows: range) -> dict[str, Tensor]:
        """Draw the weight [1, 1, H, H] that each image keeps of itself; the rest is its neighbour."""
        del rows  # one draw for the whole global batch
        if not self.couples_samples:
            return {}
        weight = _mixing_weight(self.method, self.side, draws.generator(draws.key(seed, "mix", step)))
        return {"weight": torch.from_numpy(weight)}

    def forward(self, images: Tensor, labels: Tensor, draws: Mapping[str, Tensor]) -> StepOutput:
        """Return the cross-entropy, averaged over the batch."""
        smoothing = self.method.label_smoothing
        if "weight" not in draws:
            logits = self.encoder(images).float()
            return StepOutput(cross_entropy(logits, labels, label_smoothing=smoothing), {})
        weight = draws["weight"]
        share = weight.mean()
        logits = self.encoder(images * weight + _swap(images) * (1 - weight)).float()
        own = cross_entropy(logits, labels, label_smoothing=smoothing)
        other = cross_entropy(logits, _swap(labels), label_smoothing=smoothing)
        return StepOutput(share * own + (1 - share) * other, {})


def _swap(rows: Tensor) -> Tensor:
    """Exchange neighbouring rows: 0 with 1, 2 with 3, ..."""
    return rows.reshape(-1, 2, *rows.shape[1:]).flip(1).reshape(rows.shape)


def _mixing_weight(method: config.Supervised, side: int, random: np.random.Generator) -> npt.NDArray[np.float32]:
    """Return the share of itself that each pixel keeps: constant for mixup, 0 in a box for cutmix (Yun et al. 2019)."""
    weight = np.ones((1, 1, side, side), dtype=np.float32)
    if random.random() >= method.mix_probability:
        return weight
    cut = method.cutmix > 0 and (method.mixup == 0 or random.random() < 0.5)
    alpha = method.cutmix if cut else method.mixup
    share = random.beta(alpha, alpha)
    if not cut:
        return weight * np.float32(share)
    half = int(side * np.sqrt(1 - share)) // 2
    row, column = random.integers(side, size=2)
    weight[:, :, max(row - half, 0) : row + half, max(column - half, 0) : column + half] = 0
    return weight
