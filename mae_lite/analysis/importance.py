"""How much each block matters, without training: nearest neighbours with one block skipped or begun anew.

Shapes: B images, T tokens, D width.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mae_lite import draws
from mae_lite.evaluation.probes import Labels, Table, weighted_knn
from mae_lite.models.vit import init_linear

How = Literal["skip", "reinitialise"]
_FOLDS = 5


@dataclass(frozen=True)
class Importance:
    """Top-1 accuracies, 0 to 1, of nearest neighbours."""

    whole: float
    """Of the model as it is."""
    without: list[float]
    """With one block changed, for each block."""

    def drops(self) -> list[float]:
        """Return what the change of each block costs, as a share."""
        return [self.whole - value for value in self.without]


class Ablation:
    """Features of images from a model as it is and with each block changed, from one pass and its continuations."""

    def __init__(self, model: Any, how: How, seed: int) -> None:
        """Prepare.

        Args:
            model: a Vision Transformer of timm in eval mode.
            how: whether a block is left out, or gets new initial values.
            seed: of these values.
        """
        self._model = model
        self._changed = [nn.Identity() if how == "skip" else _anew(block, seed, n) for n, block in _blocks(model)]
        self._rows: list[list[npt.NDArray[np.float32]]] = [[] for _ in range(1 + len(self._changed))]

    def add(self, states: tuple[Tensor, ...], features: Tensor) -> None:
        """Take in a batch.

        Args:
            states: [B, T, D] each, what enters each block; one more may follow.
            features: [B, T, D] of the model as it is, after the final norm.
        """
        self._keep(0, features)
        for number, changed in enumerate(self._changed):
            tokens = changed(states[number])
            for block in self._model.blocks[number + 1 :]:
                tokens = block(tokens)
            self._keep(1 + number, self._model.norm(tokens))

    def _keep(self, place: int, features: Tensor) -> None:
        pooled = features[:, self._model.num_prefix_tokens :].float().mean(dim=1)
        self._rows[place].append(pooled.cpu().numpy())

    def result(self, labels: Labels) -> Importance:
        """Return the accuracies for the class numbers [n] of all images, in the order in which they came."""
        whole, *without = (folded_knn(np.concatenate(rows), labels) for rows in self._rows)
        return Importance(whole, without)


def folded_knn(features: Table, labels: Labels) -> float:
    """Return the top-1 accuracy, 0 to 1, of nearest neighbours when each fifth of the images asks the other four.

    Args:
        features: [n, D].
        labels: [n] class numbers; each fifth gets its share of every class.
    """
    fold = np.empty(len(labels), dtype=np.int64)
    fold[np.argsort(labels, kind="stable")] = np.arange(len(labels)) % _FOLDS
    hits = 0.0
    for number in range(min(_FOLDS, len(labels))):
        asks = fold == number
        share = weighted_knn(features[~asks], labels[~asks], features[asks], labels[asks])
        hits += share * int(asks.sum())
    return hits / len(labels)


def _blocks(model: Any) -> list[tuple[int, Any]]:
    return list(enumerate(model.blocks))


def _anew(block: nn.Module, seed: int, number: int) -> nn.Module:
    """Return a copy with the initial values of pre-training: Xavier for linear layers, 1 and 0 for norms."""
    fresh = copy.deepcopy(block)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draws.key(seed, "importance", number) >> 1)
        for module in fresh.modules():
            if isinstance(module, nn.Linear):
                init_linear(module, "xavier")
            elif isinstance(module, nn.LayerNorm) and module.elementwise_affine:
                module.reset_parameters()
    return fresh
