"""Exact accuracy: counts are summed over batches and ranks, and divided once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mae_lite.data.loader import Batch, to_device
from mae_lite.errors import DataError


@dataclass(frozen=True)
class Accuracy:
    """Accuracy on a labelled set; all shares are in 0 to 1."""

    images: int
    top1: float
    """Share of images whose highest score is the label's."""
    top5: float | None
    """Share of images whose label is among the five highest scores; None below six classes."""
    macro: float
    """Mean of the per-class accuracies over the classes that occur (balanced accuracy)."""
    per_class: tuple[float | None, ...]
    """Accuracy of each class; None where no image has it."""
    confusion: tuple[tuple[int, ...], ...]
    """Counts, rows: label, columns: prediction; empty above 100 classes."""


@torch.no_grad()
def measure(
    model: Any,
    batches: Iterable[Batch],
    num_classes: int,
    *,
    device: torch.device,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Accuracy:
    """Run ``model`` in eval mode over labelled batches and count.

    Where torch.distributed is initialised, each rank counts its own batches and all return the same sums. A
    score that is not a number never counts as a hit.

    Raises:
        DataError: when the batches hold no image at all.
    """
    was_training = model.training
    model.eval()
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)
    top5 = torch.zeros((), dtype=torch.int64, device=device)
    for host in batches:
        batch = to_device(host, device, mean, std)
        top5 += _count(confusion, model(batch.images).float(), batch.labels)
    model.train(was_training)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(confusion)
        torch.distributed.all_reduce(top5)
    return _summary(confusion.cpu(), int(top5))


def of_scores(scores: Tensor, labels: Tensor) -> Accuracy:
    """Return the accuracy of scores [n, classes] whose true classes are ``labels`` [n], as :func:`measure` counts.

    Raises:
        DataError: when there is no image.
    """
    confusion = torch.zeros(scores.shape[1], scores.shape[1], dtype=torch.int64)
    return _summary(confusion, int(_count(confusion, scores, labels)))


def predictions(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the class [n] that counts as what scores [n, classes] say; the label only where no other has as much."""
    return torch.where(_hits(scores, labels)[0], labels, _wrong_prediction(scores, labels))


def _count(confusion: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
    """Add to ``confusion`` and return how many labels are among the five highest scores."""
    prediction = predictions(scores, labels)
    confusion.view(-1).index_add_(0, labels * len(confusion) + prediction, torch.ones_like(prediction))
    return _hits(scores, labels)[1].sum()


def _hits(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return two [B] masks: the label has the highest score; it is among the five highest.

    A tie counts against the label, so that a model whose scores are all equal has accuracy 0, not 1.
    """
    own = scores.gather(1, labels.unsqueeze(1))
    others_at_least = (scores >= own).sum(dim=1) - 1
    valid = scores.isfinite().all(dim=1)
    return valid & (others_at_least < 1), valid & (others_at_least < 5)


def _wrong_prediction(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the best class other than the label, [B]."""
    others = scores.nan_to_num(nan=torch.finfo(scores.dtype).min)  # not -inf, which only the label has
    return others.scatter(1, labels.unsqueeze(1), -torch.inf).argmax(dim=1)


def _summary(confusion: Tensor, top5: int) -> Accuracy:
    classes = len(confusion)
    totals, hits = confusion.sum(dim=1).tolist(), confusion.diagonal().tolist()
    per_class = tuple(hit / total if total else None for hit, total in zip(hits, totals, strict=True))
    present = [share for share in per_class if share is not None]
    images = sum(totals)
    if not images:
        raise DataError(
            "there is no accuracy of no images",
            found="not one that could be read",
            fix="run mae-lite check DATA to see what is wrong with them",
        )
    return Accuracy(
        images=images,
        top1=sum(hits) / images,
        top5=top5 / images if classes > 5 else None,
        macro=sum(present) / len(present),
        per_class=per_class,
        confusion=tuple(map(tuple, confusion.tolist())) if classes <= 100 else (),
    )
