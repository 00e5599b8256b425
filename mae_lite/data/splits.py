"""Dividing data: the splits that names announce, parts held out by seed, few labels, classes that agree."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterable

import numpy as np

from mae_lite import draws
from mae_lite.data.sources import Indices, Source, Split, Subset, some
from mae_lite.errors import ConfigError, DataError, SplitError

_log = logging.getLogger(__name__)

WORDS: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid", "dev"),
    "test": ("test", "testing"),
}
"""What folders, files and columns call each split."""
STAND_INS: dict[Split, tuple[Split, ...]] = {"train": (), "val": ("test",), "test": ("val",)}
"""Where one of validation and test images is missing, the other is taken, aloud."""


def split_of(word: str) -> Split | None:
    """Return the split that ``word`` names, in any case; None for other words."""
    return next((split for split, words in WORDS.items() if word.lower() in words), None)


def split_in(name: str) -> Split | None:
    """Return the split whose word stands in a file name ("test" does not stand in "latest", nor "val" in "valley")."""
    for split, words in WORDS.items():
        if any(re.search(rf"(?<![a-z]){word}(set)?(?![a-z])", name.lower()) for word in words):
            return split
    return None


def choose_split(available: Iterable[Split], wanted: Split, name: str, *, strict: bool = False) -> Split:
    """Return ``wanted`` where it is there, else the one that stands in for it, which is logged.

    Args:
        available: the splits that a data set has.
        wanted: the one to read.
        name: the data set, for messages.
        strict: whether nothing may stand in.

    Raises:
        SplitError: when neither is there.
    """
    present = list(available)
    for option in (wanted, *(() if strict else STAND_INS[wanted])):
        if option in present:
            if option != wanted:
                _log.info("%s has no %s images of its own: its %s images are taken", name, wanted, option)
            return option
    raise SplitError(
        f"{name!r} has no {wanted} images",
        found=f"only {some([str(split) for split in present])}",
        expected=f"a part named {' or '.join(WORDS[wanted])}",
        fix=f"give the {wanted} images by their own path",
    )


def aligned(source: Source, classes: tuple[str, ...] | None, trained_on: str) -> Source:
    """Return ``source`` with the class numbers of the training data; a class it lacks is named aloud.

    Args:
        source: images to be used beside the training data.
        classes: those of the training data, None without labels.
        trained_on: what to call the training data in messages.

    Raises:
        DataError: when it has classes that the training data lack, or only one of both has labels; lists the names.
    """
    if classes == source.classes:
        return source
    ours, theirs = classes or (), source.classes or ()
    extra, missing = sorted(set(theirs) - set(ours)), sorted(set(ours) - set(theirs))
    if extra or not theirs:
        parts = [f"{word} {some(names)}" for word, names in (("extra", extra), ("missing", missing)) if names]
        raise DataError(
            f"the classes of {source.name!r} differ from those of the training data {trained_on!r}",
            found="; ".join(parts),
            expected=f"no class beyond the {len(ours)} of the training data",
            fix="rename or remove classes until both agree; labels would mean different things otherwise",
        )
    if missing:
        _log.warning("%s lacks %d classes of the training data: %s", source.name, len(missing), some(missing))
    number = {name: position for position, name in enumerate(ours)}
    translation = np.array([number[name] for name in theirs], dtype=np.int64)
    return Subset(source, np.arange(len(source)), translation[source.labels], classes)


def stratified_split(labels: Indices, fraction: float, seed: int, purpose: str = "held out") -> tuple[Indices, Indices]:
    """Set aside a share of every class, at random by seed.

    A class of two or more keeps at least one image on each side; the only image of a class stays in train.
    Without labels (all -1), all images count as one class.

    Args:
        labels: [N] class numbers.
        fraction: share to set aside, between 0 and 1.
        seed: seed of the draw.
        purpose: name of the draw.

    Returns:
        The indices that remain and those set aside, each sorted.

    Raises:
        ConfigError: when ``fraction`` is not between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise ConfigError(
            "validation_fraction",
            found=f"{fraction:g}",
            expected="above 0 and below 1",
            fix="--validation-fraction 0.1",
        )
    aside = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = min(max(math.floor(len(members) * fraction + 0.5), 1), len(members) - 1)
        order = draws.permutation(draws.key(seed, purpose, int(label)), len(members))
        aside[members[order[:count]]] = True
    return np.flatnonzero(~aside), np.flatnonzero(aside)


def few_labels(labels: Indices, per_class: int, seed: int, classes: tuple[str, ...] | None = None) -> Indices:
    """Choose ``per_class`` images of every class, at random by seed; a smaller choice lies within a larger one.

    Args:
        labels: [N] class numbers.
        per_class: images to take of each class.
        seed: seed of the draw.
        classes: class names for messages; a class without a single image is noticed only with them.

    Returns:
        Sorted indices, [classes * per_class].

    Raises:
        DataError: when there are no labels, or a class has too few images; names the class.
    """

    def wanted(class_name: str, members: int) -> int:
        if not 1 <= per_class <= members:
            raise DataError(
                f"{per_class} labels per class are not possible for class {class_name!r}",
                found=f"{members} images of it",
                expected=f"1 to {members} labels per class" if members else "at least one image",
                fix=f"--labels-per-class {members}" if members else "add images of it or remove the class",
            )
        return per_class

    return _drawn("labels_per_class", labels, wanted, seed, classes)


def label_share(labels: Indices, fraction: float, seed: int, classes: tuple[str, ...] | None = None) -> Indices:
    """Choose a share of every class, at least one image, at random by seed.

    A smaller choice lies within a larger one, also within and around those of :func:`few_labels`.

    Args:
        labels: [N] class numbers.
        fraction: share of each class to take, above 0 and at most 1.
        seed: seed of the draw.
        classes: class names for messages; a class without a single image is noticed only with them.

    Returns:
        Sorted indices.

    Raises:
        DataError: when there are no labels, or a class has no image; names the class.
    """

    def wanted(class_name: str, members: int) -> int:
        if not members:
            raise DataError(
                f"a share of class {class_name!r} cannot be drawn",
                found="no image of it",
                expected="at least one",
                fix="add images of it or remove the class",
            )
        return max(1, math.floor(members * fraction + 0.5))

    return _drawn("label_fraction", labels, wanted, seed, classes)


def image_share(images: int, fraction: float | None, seed: int) -> Indices | None:
    """Choose a share of all images, at least one, at random by seed; a smaller choice lies within a larger one.

    Returns:
        Sorted indices; None where ``fraction`` is None.
    """
    if fraction is None:
        return None
    count = min(max(1, math.floor(images * fraction + 0.5)), images)
    return np.sort(draws.permutation(draws.key(seed, "few images"), images)[:count])


def labelled_part(
    labels: Indices, per_class: int | None, fraction: float | None, seed: int, classes: tuple[str, ...] | None
) -> Indices | None:
    """Return the images that :func:`few_labels` or :func:`label_share` chooses; None where neither is asked for."""
    if per_class is not None:
        return few_labels(labels, per_class, seed, classes)
    return None if fraction is None else label_share(labels, fraction, seed, classes)


def _drawn(
    setting: str, labels: Indices, wanted: Callable[[str, int], int], seed: int, classes: tuple[str, ...] | None
) -> Indices:
    """Draw as many images of each class as ``wanted`` says for its name and its number of images."""
    if len(labels) == 0 or labels.min() < 0:
        raise DataError(f"{setting} needs labels", found="images without", fix="give labelled data with --data")
    chosen = []
    for label in range(len(classes)) if classes else np.unique(labels).tolist():
        members = np.flatnonzero(labels == label)
        count = wanted(classes[label] if classes else str(label), len(members))
        order = draws.permutation(draws.key(seed, "few labels", label), len(members))
        chosen.append(members[order[:count]])
    return np.sort(np.concatenate(chosen))
