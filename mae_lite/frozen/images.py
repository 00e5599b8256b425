"""Which images a probe learns from and which it is measured on."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from mae_lite.data.opening import open_source
from mae_lite.data.sources import Indices, Source, some, subset
from mae_lite.data.splits import aligned, labelled_part, stratified_split
from mae_lite.errors import ConfigError, DataError
from mae_lite.frozen.settings import ProbeSettings

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """Some images of a data set."""

    source: Source
    """The data set."""
    positions: Indices
    """[n] of the images in it, sorted."""
    labels: Indices
    """[n] their classes, by the numbers of the training images."""
    split: str
    needed: Indices
    """Sorted positions of all images of the data set that this or another part has."""

    @property
    def images(self) -> Source:
        """The images as a source of their own."""
        return subset(self.source, self.positions)


@dataclass(frozen=True)
class Divided:
    """Images to learn from and images to measure on."""

    train: Part
    measured: Part
    classes: tuple[str, ...]
    few: bool
    """Whether not all training labels are used."""


def divided(settings: ProbeSettings) -> Divided:
    """Open and divide the images that ``settings`` names.

    Raises:
        ConfigError: for two places to measure on.
        DataError: when labels or images are missing, classes differ, or training images would be measured on.
    """
    train = open_source(settings.data, "train", allow_empty=settings.allow_empty_classes)
    classes = train.classes
    if classes is None or len(classes) < 2:
        raise DataError(
            f"{settings.data!r} cannot be probed",
            found="no labels" if classes is None else f"one class, {classes[0]!r}",
            expected="at least two classes",
            fix="give labelled images, e.g. a folder with one sub-folder per class",
        )
    everything = np.arange(len(train), dtype=np.int64)
    if settings.test_fraction:
        if settings.test_data is not None:
            raise ConfigError(
                "test_fraction",
                found=f"{settings.test_fraction:g} beside --test-data {settings.test_data}",
                expected="one place to measure on",
                fix="drop --test-fraction or --test-data",
            )
        known, asked = stratified_split(train.labels, settings.test_fraction, settings.seed, "probe test")
    else:
        known, asked = everything, everything[:0]
    few = labelled_part(train.labels[known], settings.labels_per_class, settings.label_fraction, settings.seed, classes)
    positions = known if few is None else known[few]
    needed = np.sort(np.concatenate([positions, asked]))
    part = Part(train, positions, train.labels[positions], "train", needed)
    if settings.test_fraction:
        measured = Part(train, asked, train.labels[asked], "part of train", needed)
    else:
        measured = _measured(settings, train)
    _check_known(part, measured, classes)
    return Divided(part, measured, classes, few is not None)


def _measured(settings: ProbeSettings, train: Source) -> Part:
    spec = settings.test_data or settings.data
    source = open_source(spec, settings.split, allow_empty=settings.allow_empty_classes)
    if source.classes is None:
        raise DataError(f"{spec!r} has no labels", fix="give labelled images with --test-data")
    if source.fingerprint() == train.fingerprint():
        raise DataError(
            f"{spec!r} has no {settings.split} images of its own: these are the training images",
            found=f"the same {len(train):,} images",
            expected="images that are not learned from",
            fix="give others with --test-data PATH, or set a part aside with --test-fraction 0.2",
        )
    labels = aligned(source, train.classes, settings.data).labels
    everything = np.arange(len(source), dtype=np.int64)
    return Part(source, everything, labels, source.split or settings.split, everything)


def _check_known(train: Part, measured: Part, classes: tuple[str, ...]) -> None:
    """Refuse classes that are asked about and have no training image."""
    if not len(measured.positions):
        raise DataError(
            f"no image of {measured.source.name!r} is left to measure on",
            found="one image of each class",
            expected="a class with two images at least",
            fix="add images, or give others with --test-data PATH",
        )
    unknown = sorted(set(measured.labels.tolist()) - set(train.labels.tolist()))
    if unknown:
        raise DataError(
            f"{len(unknown)} classes of {measured.source.name!r} have no training image in {train.source.name!r}",
            found=some([classes[label] for label in unknown]),
            expected="at least one training image of each class that is asked about",
            fix="add training images of them, or measure on images without them: --test-data PATH",
        )
