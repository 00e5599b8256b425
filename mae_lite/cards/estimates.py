"""Accuracies with their intervals, and how far probabilities can be believed. Plain numpy.

Shapes: n images, S classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_Z = 1.959964
"""Of intervals of 95 %."""
BINS = 15

Interval = tuple[float, float]


def wilson(right: int, images: int) -> Interval:
    """Return the 95 % interval of a share, 0 to 1, of independent images (Wilson 1927).

    It stays within 0 and 1, and is no point where all are right.
    """
    share, square = right / images, _Z**2
    centre = (share + square / (2 * images)) / (1 + square / images)
    half = _Z / (1 + square / images) * math.sqrt(share * (1 - share) / images + square / (4 * images**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def drop(before: Sequence[bool], after: Sequence[bool]) -> tuple[float, Interval]:
    """Return how much smaller the share of ``after`` is than that of ``before``, and its 95 % interval.

    Both are of the same images, so only those count on which they differ (Agresti and Min 2005: half an image is added
    to each cell of the table, so that no difference at all has an interval too).
    """
    images = len(before)
    lost = sum(one and not other for one, other in zip(before, after, strict=True))
    won = sum(other and not one for one, other in zip(before, after, strict=True))
    count = images + 2
    middle, changed = (lost - won) / count, lost + won + 1
    half = _Z * math.sqrt(max(changed - (lost - won) ** 2 / count, 0.0)) / count
    return (lost - won) / images, (max(-1.0, middle - half), min(1.0, middle + half))


def calibration(confidences: npt.NDArray[np.float64], right: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Return how far the probability of the best class can be believed.

    Args:
        confidences: [n] in 0 to 1.
        right: [n] whether that class is the label.

    Returns:
        ``ece``, the expected calibration error (Guo et al. 2017): the mean distance, over images, between the mean
        confidence and the accuracy of their bin, of 15 of equal width; ``mean_confidence``; and ``bins``, those that
        are not empty.
    """
    places = np.clip(np.ceil(confidences * BINS).astype(int) - 1, 0, BINS - 1)  # (low, high], as in the paper
    bins, error = [], 0.0
    for place in np.unique(places):
        inside = places == place
        confidence, accuracy = float(confidences[inside].mean()), float(right[inside].mean())
        error += float(inside.mean()) * abs(confidence - accuracy)
        bins.append(
            {
                "low": place / BINS,
                "high": (place + 1) / BINS,
                "images": int(inside.sum()),
                "confidence": confidence,
                "accuracy": accuracy,
            }
        )
    return {"ece": error, "mean_confidence": float(confidences.mean()), "bins": bins}
