"""Where images come from: what every source offers, how one is opened, and how one is divided.

The path of an image: a source (this module and digits, folder, parquet) -> images -> transforms -> loader.
"""

from __future__ import annotations

import hashlib
import math
import re
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from mae_lite import draws
from mae_lite.errors import ConfigError, DataError, nearest

Split = Literal["train", "val", "test"]
Indices = npt.NDArray[np.int64]

_KINDS = ("digits", "folder", "parquet")


class Source(Protocol):
    """A sequence of images, with or without labels. Picklable, and safe to use after a fork."""

    name: str
    """What the user gave, for messages."""
    classes: tuple[str, ...] | None
    """Class names, in the order of the labels; None without labels."""
    labels: Indices
    """[N] class numbers; all -1 without labels."""
    channels: int
    """Channels the images have by nature: 1 (grey) or 3 (colour)."""
    in_memory: bool
    """Whether reading an image costs next to nothing, so that worker processes do not pay."""

    def image(self, index: int, channels: int) -> Image.Image:
        """Return image ``index`` decoded, in mode "L" (1 channel) or "RGB" (3).

        Raises:
            DataError: when it cannot be read; names the image.
        """
        ...

    def fingerprint(self) -> dict[str, int | str]:
        """Return the number of images and a hash that changes with the data set, without reading the images."""
        ...

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def describe(self) -> str:
        """Return one line for people."""
        classes = "without labels" if self.classes is None else f"in {len(self.classes)} classes"
        return f"{self.name}: {len(self):,} images {classes}"


def open_source(spec: str, split: Split = "train") -> Source:
    """Open a data set.

    A path that names no splits (a folder of classes, one parquet file) is taken whole for every split. Where one of
    validation and test images is missing, the other stands in, which is logged.

    Args:
        spec: "digits", "folder:PATH", "parquet:PATH", or a path whose kind is recognised.
        split: which part, where the data set has parts.

    Raises:
        ConfigError: when the kind is unknown.
        DataError: when nothing usable is at the path; says what is there.
    """
    if spec == "digits":
        from mae_lite.data.digits import Digits

        return Digits(split)
    kind, path = _parse(spec)
    if not path.exists():
        raise _missing(spec, path)
    if kind == "parquet" or (kind is None and _holds_parquet(path)):
        from mae_lite.data.parquet import Parquet

        return Parquet(path, split, name=spec)
    from mae_lite.data.folder import Folder

    return Folder(path, split, name=spec)


def _parse(spec: str) -> tuple[str | None, Path]:
    # Two letters at least, so that a drive such as C: stays part of a path.
    match = re.fullmatch(r"([A-Za-z][A-Za-z0-9_-]+):(.*)", spec, flags=re.DOTALL)
    if match is None or Path(spec).exists():
        return None, Path(spec).expanduser()
    kind, rest = match.groups()
    if kind not in ("folder", "parquet") or not rest:
        raise ConfigError(
            "data",
            found=repr(spec) + nearest(kind, _KINDS),
            expected="digits, folder:PATH, parquet:PATH, or a path",
            fix=f"--data {_nearest_kind(kind)}",
        )
    return kind, Path(rest).expanduser()


def _nearest_kind(kind: str) -> str:
    for option in _KINDS:
        if nearest(kind, [option]):
            return option if option == "digits" else f"{option}:PATH"
    return "folder:PATH"


def _holds_parquet(path: Path) -> bool:
    if path.is_dir():
        return any(path.glob("*.parquet")) or any(path.glob("data/*.parquet"))
    return path.suffix.lower() == ".parquet"


def _missing(spec: str, path: Path) -> DataError:
    parent = path.absolute().parent
    while not parent.is_dir():
        parent = parent.parent
    names = sorted(entry.name for entry in parent.iterdir() if not entry.name.startswith("."))
    close = nearest(path.name, [*names, "digits"])
    return DataError(
        f"data {spec!r} does not exist",
        found=f"in {str(parent)!r}: {some(names)}{close}",
        fix="give an existing folder of images or parquet file with --data PATH, or --data digits to try things out",
    )


def check_classes(classes: tuple[str, ...] | None, trained_on: str, other: Source) -> None:
    """Make sure that a label means the same class as in training; two unlabelled sets agree.

    Args:
        classes: those of the training data, None without labels.
        trained_on: what to call the training data in messages.
        other: the images to be used beside them.

    Raises:
        DataError: when the class names or their order differ; lists the names.
    """
    if classes == other.classes:
        return
    ours, theirs = classes or (), other.classes or ()
    extra, missing = sorted(set(theirs) - set(ours)), sorted(set(ours) - set(theirs))
    parts = [f"{word} {some(names)}" for word, names in (("extra", extra), ("missing", missing)) if names]
    raise DataError(
        f"the classes of {other.name!r} differ from those of the training data {trained_on!r}",
        found="; ".join(parts) or "the same names in another order",
        expected=f"the same {len(ours)} classes",
        fix="rename, add or remove classes until both agree; labels would mean different things otherwise",
    )


def some(names: list[str]) -> str:
    """Return up to ten names for a message, and how many more there are."""
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(map(repr, names[:10])) + more if names else "nothing"


class Subset(Source):
    """Some images of another source, in the order of ``indices``."""

    def __init__(self, source: Source, indices: npt.ArrayLike) -> None:
        """Keep the source and the positions in it."""
        self._source = source
        self._indices: Indices = np.asarray(indices, dtype=np.int64)
        self.name, self.classes = source.name, source.classes
        self.channels, self.in_memory = source.channels, source.in_memory
        self.labels = source.labels[self._indices]

    def image(self, index: int, channels: int) -> Image.Image:
        """Return the image at position ``index`` of the subset."""
        return self._source.image(int(self._indices[index]), channels)

    def fingerprint(self) -> dict[str, int | str]:
        """Return the count and a SHA-256 over the whole source's and the chosen indices."""
        whole = str(self._source.fingerprint()["sha256"])
        return {"count": len(self), "sha256": hashlib.sha256(whole.encode() + self._indices.tobytes()).hexdigest()}


def subset(source: Source, indices: npt.ArrayLike) -> Source:
    """Return a view of ``source`` that has only the images ``indices`` [n], with the same classes."""
    return Subset(source, indices)


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
    if len(labels) == 0 or labels.min() < 0:
        raise DataError("labels_per_class needs labels", found="images without", fix="give labelled data with --data")
    chosen = []
    for label in range(len(classes)) if classes else np.unique(labels).tolist():
        members = np.flatnonzero(labels == label)
        if not 1 <= per_class <= len(members):
            class_name = classes[label] if classes else str(label)
            raise DataError(
                f"{per_class} labels per class are not possible for class {class_name!r}",
                found=f"{len(members)} images of it",
                expected=f"1 to {len(members)} labels per class" if len(members) else "at least one image",
                fix=f"--labels-per-class {len(members)}" if len(members) else "add images of it or remove the class",
            )
        order = draws.permutation(draws.key(seed, "few labels", label), len(members))
        chosen.append(members[order[:per_class]])
    return np.sort(np.concatenate(chosen))
