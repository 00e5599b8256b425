"""Accuracies that the source reports, by pre-training and fine-tuning: lab notes, studies and reports take them here.

Source: *A Closer Look at Self-Supervised Lightweight Vision Transformers*, its journal version and public tables. All
are top-1 on ImageNet-1k's validation images, of models that were trained on its training images.
"""

from __future__ import annotations

from typing import NamedTuple

CLASSES = 1000
TRAINING_IMAGES = 1_281_167
VALIDATION_IMAGES = 50_000
_IMPROVED = "finetune-improved"
_TABLE = "public table of ViT-Tiny"
_LARGER = "public table of larger models"
_JOURNAL = "journal version"


class Published(NamedTuple):
    """One number of the source."""

    pretraining: str | None
    """Recipe of the starting weights; None starts from random ones."""
    finetuning: str
    """Recipe of the classifier."""
    top1_percent: float
    source: str
    """Where it stands."""
    teacher: str | None = None
    """Recipe of what the pre-training learned from."""


NUMBERS = (
    Published(None, "scratch", 75.8, _TABLE),
    Published(None, "supervised-tiny", 75.8, f"{_TABLE}: the same training as scratch"),
    Published("mocov3-tiny", "finetune-improved-mocov3", 76.8, _TABLE),
    Published("mae-tiny", _IMPROVED, 78.0, _TABLE),
    Published("mae-tiny", "finetune-improved-100", 76.2, "the maintainers' answer to a question"),
    Published("mae-tiny", "finetune-improved-rpe", 79.0, _JOURNAL),
    Published("d-mae-tiny", _IMPROVED, 78.4, "abstract, and public table of ViT-Tiny", "mae-base"),
    Published("d2-mae-tiny", _IMPROVED, 78.7, _JOURNAL, "mae-base"),
    Published("d2-mae-tiny", "finetune-improved-rpe", 79.4, _JOURNAL, "mae-base"),
    Published(None, "scratch-small", 80.2, _LARGER),
    Published(None, "supervised-small", 80.2, f"{_LARGER}: the same training as scratch-small"),
    Published("mae-small", "finetune-improved-small", 82.1, _LARGER),
    Published("d-mae-small", "finetune-improved-small", 82.5, _LARGER, "mae-base"),
    Published("d2-simmim-swin-tiny", "finetune-swin-tiny", 77.4, "public table of Swin", "simmim-swin-base"),
)


def find(pretraining: str | None, finetuning: str) -> Published | None:
    """Return the source's number for a pair of recipes; None where it has none."""
    return next((one for one in NUMBERS if (one.pretraining, one.finetuning) == (pretraining, finetuning)), None)


def expected_of(finetuning: str) -> str:
    """Return what a fine-tuning recipe is expected to reach, as its lab note says it."""
    return _listed([
        (one.top1_percent, "" if one.pretraining is None else f" from {one.pretraining}")
        for one in NUMBERS
        if one.finetuning == finetuning
    ])  # fmt: skip


def expected_after(pretraining: str) -> str:
    """Return what is expected after a pre-training recipe, as its lab note says it."""
    return _listed([
        (one.top1_percent, f" after {one.finetuning}") for one in NUMBERS if one.pretraining == pretraining
    ])  # fmt: skip


def _listed(found: list[tuple[float, str]]) -> str:
    words = [f"{top1:.1f} %{' ImageNet top-1' * (place == 0)}{what}" for place, (top1, what) in enumerate(found)]
    return "; ".join(words)
