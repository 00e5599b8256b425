"""Whether an exported model computes what it was made from, on real images, and if not, where it begins to differ.

Shapes: B images, n of them in all, S classes.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mae_lite.exporting.opened import Opened
from mae_lite.exporting.pictures import Pictures

AFTER = "what follows the blocks (norm, pooling, head)"
_LEAST_RUNS, _SECONDS = 10, 1.0


@dataclass(frozen=True)
class Comparison:
    """A model beside its reference on n images."""

    images: int
    difference: float
    """Largest difference of a number of the output."""
    relative: float
    """The same, as a share of the largest output of the reference."""
    cosine: float
    """Smallest cosine similarity, over the images, of an output with the reference's."""
    agreement: float | None
    """Share of images with the same best class; None where the output is no score of classes."""
    hits: int | None
    """Images whose best class is their label; None without labels."""
    reference_hits: int | None
    """Those of the reference."""
    right: tuple[bool, ...] | None = None
    """Of each image whether it is one of the hits; None without labels."""

    @property
    def accuracy(self) -> float | None:
        """Share of the images whose best class is their label."""
        return None if self.hits is None else self.hits / self.images


@dataclass
class _Sums:
    difference: float = 0.0
    largest: float = 0.0
    cosine: float = 1.0
    same: int = 0
    right: list[bool] = field(default_factory=list)
    reference_hits: int = 0


def compare(expected: list[Tensor], opened: Opened, pictures: Pictures) -> Comparison | str:
    """Run a model on all images, and on the first one alone.

    Args:
        expected: outputs of the reference, a tensor for each batch; [B, S] for classifiers.
        opened: the model.
        pictures: the images.

    Returns:
        How far it is from the reference; or, where the outputs have another shape, what it is.
    """
    sums, scores = _Sums(), expected[0].ndim == 2
    for wanted, images, labels in _batches(expected, pictures):
        found = opened(images).float()
        if found.shape != wanted.shape:
            return f"outputs of {list(found.shape)} in place of {list(wanted.shape)}"
        _add(sums, found, wanted, labels, scores)
    count = len(pictures)
    return Comparison(
        images=count,
        difference=sums.difference,
        relative=sums.difference / sums.largest if sums.largest else sums.difference,
        cosine=sums.cosine,
        agreement=sums.same / count if scores else None,
        hits=sum(sums.right) if scores and pictures.labelled else None,
        reference_hits=sums.reference_hits if scores and pictures.labelled else None,
        right=tuple(sums.right) if scores and pictures.labelled else None,
    )


def _batches(expected: list[Tensor], pictures: Pictures) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield reference, images and labels; the first image goes alone, which a program for fixed batches refuses."""
    for number, (wanted, images) in enumerate(zip(expected, pictures.normalised(), strict=True)):
        labels = pictures.batches[number].labels
        if number == 0 and len(images) > 1:
            yield wanted[:1], images[:1], labels[:1]
            wanted, images, labels = wanted[1:], images[1:], labels[1:]
        yield wanted, images, labels


def _add(sums: _Sums, found: Tensor, wanted: Tensor, labels: Tensor, scores: bool) -> None:
    sums.difference = _larger(sums.difference, (found - wanted).abs().max().item())
    sums.largest = _larger(sums.largest, wanted.abs().max().item())
    alike = torch.nn.functional.cosine_similarity(found.flatten(1).double(), wanted.flatten(1).double())
    sums.cosine = -_larger(-sums.cosine, -alike.min().item())
    if scores:
        sums.same += int((found.argmax(1) == wanted.argmax(1)).sum())
        sums.right += (found.argmax(1) == labels).tolist()
        sums.reference_hits += int((wanted.argmax(1) == labels).sum())


def _larger(one: float, other: float) -> float:
    """Return the larger of two; what is not a number is larger than all, where ``max`` may lose it."""
    return one if math.isnan(one) or one > other else other


def first_difference(reference: Opened, opened: Opened, images: Tensor, tolerance: float | None) -> str:
    """Return where a model begins to differ from its reference.

    Args:
        reference: what it has to agree with.
        opened: the model.
        images: [B, C, H, H], normalised.
        tolerance: largest difference that rounding explains, as a share of the largest value. None for 8-bit numbers,
            which differ everywhere: then that part is named in which the error grows most.
    """
    wanted, found = reference.states(images), opened.states(images)
    wanted[AFTER], found[AFTER] = reference(images), opened(images).float()
    before, worst, name = 0.0, -1.0, AFTER
    for part in (part for part in wanted if part in found):
        error = _error(found[part], wanted[part], tolerance is not None)
        if not math.isfinite(error) or (tolerance is not None and error > tolerance):
            return part
        if tolerance is None and error - before > worst:
            worst, name = error - before, part
        before = error
    return name


def _error(found: Tensor, wanted: Tensor, largest: bool) -> float:
    """Return the largest, or the typical, difference as a share of the largest, or the typical, value."""
    if found.shape != wanted.shape:
        return math.inf
    gap = (found.float() - wanted).abs()
    if largest:
        return gap.max().item() / max(wanted.abs().max().item(), 1e-12)
    return (gap.square().mean().sqrt() / wanted.square().mean().sqrt().clamp_min(1e-12)).item()


def latency_ms(opened: Opened, image: Tensor) -> float:
    """Return the median time for one image [1, C, H, H], in milliseconds, after three runs to warm up."""
    for _ in range(3):
        opened(image)
    times: list[float] = []
    while len(times) < _LEAST_RUNS or (sum(times) < _SECONDS and len(times) < 20 * _LEAST_RUNS):
        start = time.perf_counter()
        opened(image)
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)
