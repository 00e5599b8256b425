"""Is it learning? Features of training images, measured again and again while an encoder trains.

The bank and the queries are disjoint, but both are images that the encoder trains on (without their labels). So these
numbers say what its features have become worth; they do not say how well it would do on images it has never seen.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mae_lite import draws
from mae_lite.data.loader import Batch
from mae_lite.data.sources import Indices
from mae_lite.evaluation.features import extract
from mae_lite.evaluation.probes import feature_std, linear, rankme, weighted_knn

_log = logging.getLogger(__name__)

_FEWEST = 10
_PER_CLASS = 5
_DIGITS = 6


@dataclass(frozen=True)
class Chosen:
    """Which training images serve the probes."""

    bank: Indices
    """Sorted; their features are the known ones, and RankMe's."""
    queries: Indices
    """Sorted, disjoint from the bank; none where classes cannot be probed."""
    reason: str = ""
    """Why there are no queries."""


def choose(labels: Indices, limit: int, seed: int) -> Chosen:
    """Choose up to ``limit`` images by seed: of each class as many, four in five for the bank, one in five to ask.

    A class of one image is left out: it cannot be on both sides. Where there are more classes than images for five of
    each, a part of the classes is drawn. Without classes to ask about, the bank is drawn from all images.

    Args:
        labels: [N] class numbers, -1 without.
        limit: most images to choose.
        seed: seed of the draws.
    """
    present, counts = np.unique(labels[labels >= 0], return_counts=True)
    present = present[counts >= 2]
    reason = _reason(len(counts), len(present), limit)
    if reason:
        everyone = draws.permutation(draws.key(seed, "probe images"), len(labels))
        return Chosen(np.sort(everyone[: max(1, limit * 4 // 5)]), np.empty(0, dtype=np.int64), reason)
    most_classes = max(2, limit // _PER_CLASS)
    asked = present[draws.permutation(draws.key(seed, "probe classes"), len(present))[:most_classes]]
    bank, queries = [], []
    for label in asked.tolist():
        members = np.flatnonzero(labels == label)
        members = members[draws.permutation(draws.key(seed, "probe images", label), len(members))]
        members = members[: limit // len(asked)]
        queried = max(1, int(len(members) / _PER_CLASS + 0.5))
        queries.append(members[:queried])
        bank.append(members[queried:])
    return Chosen(np.sort(np.concatenate(bank)), np.sort(np.concatenate(queries)))


def _reason(classes: int, with_two: int, limit: int) -> str:
    """Return why classes cannot be probed; "" when they can."""
    if classes == 0:
        return "the images have no labels"
    if with_two < 2:
        return f"fewer than two classes (of {classes}) have 2 images"
    return f"{limit} images are too few (--probe-images {_FEWEST} at least)" if limit < _FEWEST else ""


def announce(chosen: Chosen) -> None:
    """Say what will be measured, and what that means."""
    if chosen.reason:
        _log.info("no kNN and no linear probe: %s; RankMe and feature deviation only", chosen.reason)
        return
    _log.info(
        "probes: kNN and linear on %s training images, about %s others: they measure features, not generalisation",
        f"{len(chosen.bank):,}",
        f"{len(chosen.queries):,}",
    )


@dataclass(frozen=True)
class FeatureProbe:
    """Measures features: ``rankme`` and ``feature_std``, and with queries ``knn_top1`` and ``linear_top1``."""

    batches: Callable[[], Iterable[Batch]]
    """Loads this rank's share of the bank followed by the queries."""
    bank: int
    """Images of the bank; an id below it belongs there."""
    device: torch.device
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, step: int, encoder: Any) -> dict[str, float]:
        """Return the numbers, on all ranks the same; rounded, so that a processor's last bit does not show in them."""
        features = extract(encoder, self.batches(), device=self.device, mean=self.mean, std=self.std)
        if not np.isfinite(features.values).all():
            _log.warning("step %d: some features are not finite, nothing was measured", step)
            return {}
        known = features.ids < self.bank
        bank, queries = features.values[known], features.values[~known]
        if len(bank) == 0:
            return {}
        numbers = {"rankme": rankme(bank), "feature_std": feature_std(bank)}
        labelled = bank, features.labels[known], queries, features.labels[~known]
        if len(queries) and len(np.unique(labelled[1])) > 1:
            numbers = {"knn_top1": weighted_knn(*labelled), "linear_top1": linear(*labelled), **numbers}
        return {name: round(value, _DIGITS) for name, value in numbers.items()}
