"""How right a classifier is, class by class, and where it is wrong.

Shapes: n images, S classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mae_lite.cards import estimates
from mae_lite.data.labels_file import name_of
from mae_lite.evaluation.accuracy import of_scores, predictions
from mae_lite.evaluation.preview import sheet
from mae_lite.exporting.pictures import Pictures

_PAIRS = 10
_THUMBNAIL_PX = 160


def quality(scores: Tensor, labels: Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """Return accuracy, balanced accuracy, accuracy of each class, confusion and calibration.

    Args:
        scores: [n, S], before the softmax.
        labels: [n].
        classes: S names.

    Raises:
        DataError: when there is no image.
    """
    found = of_scores(scores, labels)
    said = predictions(scores, labels)
    right = said == labels
    confidences = scores.double().softmax(dim=1).amax(dim=1)
    pairs = Counter(zip(labels[~right].tolist(), said[~right].tolist(), strict=True))
    return {
        "images": found.images,
        "top1": found.top1,
        "top1_interval": estimates.wilson(int(right.sum()), found.images),
        "top5": found.top5,
        "balanced_accuracy": found.macro,
        "per_class": [_of_class(name, labels == number, right) for number, name in enumerate(classes)],
        "confusion": [list(row) for row in found.confusion] or None,
        "confused": [
            {"label": classes[label], "predicted": classes[other], "images": count}
            for (label, other), count in sorted(pairs.items(), key=lambda item: (-item[1], item[0]))[:_PAIRS]
        ],
        "calibration": estimates.calibration(confidences.numpy(), right.numpy()),
    }


def _of_class(name: str, own: Tensor, right: Tensor) -> dict[str, Any]:
    images, hits = int(own.sum()), int((own & right).sum())
    known = {"accuracy": hits / images, "interval": estimates.wilson(hits, images)} if images else {}
    return {"class": name, "images": images, "right": hits, "accuracy": None, "interval": None, **known}


def mistakes(scores: Tensor, pictures: Pictures, classes: Sequence[str], most: int) -> list[dict[str, Any]]:
    """Return the wrong predictions that are most sure of themselves, the surest first.

    Args:
        scores: [n, S], before the softmax.
        pictures: the n images.
        classes: S names.
        most: how many at most.

    Returns:
        For each ``image``, its name, ``label``, ``predicted``, ``probability`` in 0 to 1, and ``png``, what the model
        saw, as bytes.
    """
    said, shares = predictions(scores, pictures.labels), scores.double().softmax(dim=1)
    sure = shares.gather(1, said.unsqueeze(1)).squeeze(1)
    wrong = (said != pictures.labels).nonzero().flatten()
    places = wrong[sure[wrong].argsort(descending=True, stable=True)][:most].tolist()
    images = torch.cat([batch.images for batch in pictures.batches]) if places else torch.empty(0)
    ids = torch.cat([batch.ids for batch in pictures.batches]).tolist()
    return [
        {
            "image": name_of(pictures.source, ids[place]),
            "label": classes[int(pictures.labels[place])],
            "predicted": classes[int(said[place])],
            "probability": float(sure[place]),
            "png": _thumbnail(images[place]),
        }
        for place in places
    ]


def _thumbnail(image: Tensor) -> bytes:
    """Return what a model saw, uint8 [C, H, H], as a PNG of at most 160 pixels, or of small images enlarged."""
    step = -(-image.shape[-1] // _THUMBNAIL_PX)
    return sheet([image[None, :, ::step, ::step].permute(0, 2, 3, 1).numpy()])
