"""What the demo found: table, sentence and page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from mae_lite import figures, rundir
from mae_lite.report import page

LABELS = (2, 5, 10)
SEEDS = (0, 1, 2)
MAE, SCRATCH, LONGER = "mae", "scratch", "scratch, longer"
METHODS = {MAE: "digits-finetune", SCRATCH: "digits-scratch", LONGER: "digits-scratch-longer"}
BASELINES = ("1-nearest neighbour", "logistic regression")
NOTES = (
    "One pre-training serves all three draws; a draw decides the labelled images and the order of fine-tuning. "
    "MAE and scratch are fine-tuned with the same updates, batches and augmentation, each with the learning rate "
    "that was best for it on a validation part of the training images; the search is in docs/digits.md.",
    "Scratch, longer is the same network with more updates: what patience alone buys.",
)
Cell: TypeAlias = tuple[str, int, int]
"""Method, labels per class, seed."""
Results: TypeAlias = dict[Cell, float]


def mean(results: Results, method: str, labels: int) -> float:
    """Return the mean accuracy of a method over the seeds, in percent."""
    return sum(100 * results[method, labels, seed] for seed in SEEDS) / len(SEEDS)


def headline(results: Results) -> str:
    """Return what the demo shows, computed from its results."""
    labels = LABELS[1]
    ours, scratch = mean(results, MAE, labels), mean(results, SCRATCH, labels)
    best_pixels = max(mean(results, name, labels) for name in BASELINES)
    return (
        f"With {labels} labels per class, MAE pre-training on unlabelled digits reaches {ours:.1f} %: "
        f"{ours - scratch:+.1f} points against the same network from scratch with the same number of updates, "
        f"{ours - mean(results, LONGER, labels):+.1f} against scratch trained longer, "
        f"and {ours - best_pixels:+.1f} against the better of two classifiers on pixels."
    )


def rows(results: Results) -> list[list[str]]:
    """Return the table: for each method and number of labels the mean and every single value, in percent."""
    table = []
    for method in (*METHODS, *BASELINES):
        cells = []
        for labels in LABELS:
            single = " ".join(f"{100 * results[method, labels, seed]:.1f}" for seed in SEEDS)
            cells.append(f"{mean(results, method, labels):.1f}  ({single})")
        table.append([method, *cells])
    return table


def as_text(results: Results) -> str:
    """Return the table for a terminal."""
    header = ["", *(f"{labels} labels per class" for labels in LABELS)]
    lines = [f"{row[0]:<22}" + "".join(f"{cell:>26}" for cell in row[1:]) for row in (header, *rows(results))]
    return "Test accuracy in percent: mean (each of 3 draws of the labels)\n" + "\n".join(lines)


def as_page(pretraining: Path, runs: Mapping[Cell, Path], results: Results) -> page.Page:
    """Return the page: table, figures and how to repeat it."""
    single = {
        method: [[100 * results[method, labels, seed] for seed in SEEDS] for labels in LABELS]
        for method in (*METHODS, *BASELINES)
    }
    names = [f"{labels}" for labels in LABELS]
    fine = {method: [_curve(runs[method, LABELS[1], seed]) for seed in SEEDS] for method in (MAE, SCRATCH)}
    pictures = sorted((pretraining / "previews").glob("step_*.png"), key=lambda path: int(path.stem[5:]))
    return page.Page(
        title="MAE-lite on handwritten digits",
        headline=headline(results),
        tables=[
            page.Table(
                "Test accuracy in percent: mean (each of 3 draws of the labels)",
                ["", *(f"{labels} labels per class" for labels in LABELS)],
                rows(results),
            )
        ],
        figures=[
            page.Figure(
                "Accuracy on the test images; dots are the draws.",
                figures.points(names, single, "labels per class", "test accuracy, %"),
            ),
            page.Figure(
                "Above: digits. Middle: what the encoder sees. Below: what MAE paints into the gaps; visible "
                "patches are pasted in, and each patch has its true mean and contrast.",
                png=pictures[-1].read_bytes(),
            ),
            page.Figure(
                "Pre-training loss: squared error on hidden patches, normalised per patch.",
                figures.curves({MAE: [_curve(pretraining)]}, "update", "loss"),
            ),
            page.Figure(
                f"Fine-tuning loss with {LABELS[1]} labels per class, same number of updates.",
                figures.curves(fine, "update", "cross-entropy", log_y=True),
            ),
        ],
        notes=NOTES,
        commands=[
            "make demo",
            "mae-lite pretrain digits-mae --data digits",
            "mae-lite finetune digits-finetune --init RUN --data digits",
        ],
    )


def _curve(folder: Path) -> figures.Series:
    found = [(row["step"], row["loss"]) for row in rundir.read_rows(folder) if "loss" in row]
    return [step for step, _ in found], [loss for _, loss in found]
