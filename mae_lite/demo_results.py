"""What the demo compares, and its table for a terminal; the page is the report of its runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

LABELS = (2, 5, 10)
SEEDS = (0, 1, 2, 3, 4)
MAE, SCRATCH, LONGER = "mae", "scratch", "scratch, longer"
METHODS = {MAE: "digits-finetune", SCRATCH: "digits-scratch", LONGER: "digits-scratch-longer"}
BASELINES = ("1-nearest neighbour", "logistic regression")
TITLE = "MAE-lite on handwritten digits"
NOTES = (
    "One pre-training serves all draws; a draw decides the labelled images and the order of fine-tuning. MAE "
    "(digits-finetune) and scratch are fine-tuned with the same updates, batches and augmentation, each with the "
    "learning rate that was best for it on a validation part of the training images; the search is in docs/digits.md.",
    "digits-scratch-longer is the same network from scratch with four times the updates: what patience alone buys. The "
    "two baselines are classifiers on raw pixels with the same labelled images.",
)
Cell: TypeAlias = tuple[str, int, int]
"""Method, labels per class, seed."""
Results: TypeAlias = Mapping[Cell, float]


def mean(results: Results, method: str, labels: int) -> float:
    """Return the mean accuracy of a method over the seeds, in percent."""
    return sum(100 * results[method, labels, seed] for seed in SEEDS) / len(SEEDS)


def as_text(results: Results) -> str:
    """Return the table for a terminal: the mean and every single value, in percent."""
    header = f"{'':<20}" + "".join(f"{labels} labels per class".rjust(36) for labels in LABELS)
    lines = [header]
    for method in (*METHODS, *BASELINES):
        cells = []
        for labels in LABELS:
            single = " ".join(f"{100 * results[method, labels, seed]:.1f}" for seed in SEEDS)
            cells.append(f"{mean(results, method, labels):.1f}  ({single})")
        lines.append(f"{method:<20}" + "".join(cell.rjust(36) for cell in cells))
    return f"Test accuracy in percent: mean (each of {len(SEEDS)} draws of the labels)\n" + "\n".join(lines)


def as_values(results: Results) -> list[dict[str, str | int | float]]:
    """Return every single value for programs."""
    return [
        {"method": method, "labels_per_class": labels, "seed": seed, "top1_percent": 100 * value}
        for (method, labels, seed), value in results.items()
    ]


def as_baselines(results: Results) -> list[dict[str, str | int | float]]:
    """Return the numbers of the pixel classifiers as the report reads them."""
    return [
        {"name": name, "data": "digits", "labels_per_class": labels, "seed": seed, "top1": value}
        for (name, labels, seed), value in results.items()
        if name in BASELINES
    ]
