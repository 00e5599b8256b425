"""What every kind of data set offers: a sequence of examples, still encoded, with or without labels.

The path of an image: a source (digits, folder, table, parquet, shards, ...) -> images -> transforms -> loader.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from mae_lite.data.windows import Windows
from mae_lite.errors import DataError

Split = Literal["train", "val", "test"]
Indices = npt.NDArray[np.int64]
Encoded = bytes | Path | Image.Image | npt.NDArray[Any]
"""An image as a source has it: an encoded file's bytes or its place, a Pillow image, or pixels [H, W] or [H, W, C]."""


@dataclass(frozen=True)
class Example:
    """One image, before the guard has looked at it."""

    name: str
    """What to call it in messages: its path, or its file and row."""
    data: Encoded


class Source(Protocol):
    """A sequence of images, with or without labels. Picklable, and safe to use after a fork."""

    name: str
    """What the user gave, for messages."""
    classes: tuple[str, ...] | None
    """Class names, in the order of the labels; None without labels."""
    labels: Indices
    """[N] class numbers; all -1 without labels."""
    in_memory: bool
    """Whether reading an image costs next to nothing, so that worker processes do not pay."""
    packed: bool = False
    """Whether the images lie in a pack."""
    split: Split | None
    """Which split of a divided data set this is; None for data that are the same whatever split is asked for."""
    windows: Windows | None = None
    """Which images to read together, where reading them in any order would be slow."""

    def example(self, index: int) -> Example:
        """Return image ``index``, not decoded.

        Raises:
            DataError: when it cannot be read; names the image.
        """
        ...

    def fingerprint(self) -> dict[str, int | str]:
        """Return the number of images and a hash that changes with the data set, without reading the images."""
        ...

    def changes_since(self, fingerprint: Mapping[str, Any]) -> str:  # noqa: ARG002  # most keep no lists
        """Return which images came, went and changed since ``fingerprint`` was taken; "" where that is not known."""
        return ""

    def expect(self, shards: Iterable[int]) -> None:  # noqa: ARG002  # most have nothing to prepare
        """Be told which shards of ``windows`` are read next, in place of what was said before."""
        return None

    def positions(self) -> Indices:
        """Return where each image lies, [N], in the whole data set that this may be a part of."""
        return np.arange(len(self), dtype=np.int64)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def describe(self) -> str:
        """Return one line for people."""
        classes = "without labels" if self.classes is None else f"in {len(self.classes)} classes"
        return f"{self.name}: {len(self):,} images {classes}"


def at_hand(source: Source) -> bool:
    """Say whether nothing would be gained by packing the images: they lie in a pack, or in memory."""
    return source.packed or source.in_memory


def usable_cpus() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def some(names: list[str]) -> str:
    """Return up to ten names for a message, and how many more there are."""
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(map(repr, names[:10])) + more if names else "nothing"


class Subset(Source):
    """Some images of another source, in the order of ``indices``, perhaps with other labels."""

    def __init__(
        self,
        source: Source,
        indices: npt.ArrayLike,
        labels: Indices | None = None,
        classes: tuple[str, ...] | None = None,
    ) -> None:
        """Keep the source and the positions in it.

        Args:
            source: what it is a part of.
            indices: [n] positions in it.
            labels: [n] class numbers in place of the source's own.
            classes: what these numbers mean; only read beside ``labels``.
        """
        self._source = source
        self._indices: Indices = np.asarray(indices, dtype=np.int64)
        self.name, self.in_memory, self.split = source.name, source.in_memory, source.split
        self.packed = source.packed
        self.classes = source.classes if labels is None else classes
        self.labels = source.labels[self._indices] if labels is None else labels
        self.windows = None if source.windows is None else source.windows.part(self._indices)

    def changes_since(self, fingerprint: Mapping[str, Any]) -> str:
        """Return what has changed in the whole data set."""
        return self._source.changes_since(fingerprint)

    def expect(self, shards: Iterable[int]) -> None:
        """Pass it on: shards keep their numbers."""
        self._source.expect(shards)

    def example(self, index: int) -> Example:
        """Return the image at position ``index`` of the subset."""
        return self._source.example(int(self._indices[index]))

    def positions(self) -> Indices:
        """Return where each image lies, [n], in the data set at the bottom."""
        return self._source.positions()[self._indices]

    def fingerprint(self) -> dict[str, int | str]:
        """Return the count, a SHA-256 over the whole source's and the chosen indices, and that of the whole."""
        source = self._source.fingerprint()
        found = hashlib.sha256(str(source["sha256"]).encode() + self._indices.tobytes()).hexdigest()
        return {"count": len(self), "sha256": found, "whole": source.get("whole", source["sha256"])}


def subset(source: Source, indices: npt.ArrayLike) -> Source:
    """Return a view of ``source`` that has only the images ``indices`` [n], with the same classes."""
    return Subset(source, indices)


class Objects(Source):
    """A Python object in the manner of torchvision: ``dataset[i]`` is (image, class number), or an image alone."""

    def __init__(self, dataset: Any, name: str | None = None) -> None:
        """Read all labels; ``dataset.targets`` and ``dataset.classes`` spare decoding every image for them.

        Args:
            dataset: has a length; its items are images as Pillow images, arrays [H, W] or [H, W, C], paths or encoded
                bytes, each alone or in a tuple with its class number.
            name: what to call it in messages; by default its type.

        Raises:
            DataError: when it is empty, or some labels are missing or negative.
        """
        self.name = name or f"{type(dataset).__name__} object"
        self.in_memory, self.split = False, None
        self._dataset = dataset
        if not len(dataset):
            raise DataError(f"{self.name!r} is empty", expected="at least one image", fix="give another data set")
        targets = getattr(dataset, "targets", None)
        found = [self._item(index)[1] for index in range(len(dataset))] if targets is None else list(targets)
        unlabelled = all(label is None for label in found)
        if not unlabelled and any(label is None or int(label) != label or label < 0 for label in found):
            raise DataError(
                f"{self.name!r} has labels that are no class numbers",
                expected="whole numbers from 0, or no labels at all",
                fix="make its items (image, class number)",
            )
        self.labels = np.array([-1] * len(found) if unlabelled else found, dtype=np.int64)
        names = getattr(dataset, "classes", None) or [str(n) for n in range(int(self.labels.max()) + 1)]
        self.classes = None if unlabelled else tuple(map(str, names))

    def _item(self, index: int) -> tuple[Any, Any]:
        item = self._dataset[index]
        return (item[0], item[1]) if isinstance(item, tuple | list) else (item, None)

    def example(self, index: int) -> Example:
        """Return image ``index`` as the object gives it."""
        name = f"{self.name} item {index}"
        try:
            data = self._item(index)[0]
        except Exception as error:  # another's code: any failure means that there is no image
            found = f"{type(error).__name__}: {error}"
            raise DataError(f"image {name!r} cannot be read", found=found, fix="see to the data set") from error
        if isinstance(data, str):
            data = Path(data)
        if not isinstance(data, bytes | Path | Image.Image | np.ndarray):
            raise DataError(
                f"image {name!r} is no image",
                found=type(data).__name__,
                expected="a Pillow image, an array [H, W] or [H, W, C], a path or bytes",
                fix="give the data set without a transform that makes tensors",
            )
        return Example(name, data)

    def fingerprint(self) -> dict[str, int | str]:
        """Return the count and a SHA-256 over name and labels; the images themselves are not looked at."""
        digest = hashlib.sha256(self.name.encode() + self.labels.tobytes())
        return {"count": len(self), "sha256": digest.hexdigest()}
