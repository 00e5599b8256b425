"""The images that are compared: the splits of a data set, or one and another set, numbered through."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mae_lite.copies.settings import DuplicateSettings
from mae_lite.data import labels_file
from mae_lite.data.opening import open_source, own_split
from mae_lite.data.sources import Source, Split
from mae_lite.errors import DataError

_HELD_OUT: tuple[Split, ...] = ("val", "test")


@dataclass(frozen=True)
class Image:
    """One image of a part."""

    part: str
    index: int
    """Its position in the part."""
    name: str
    label: str | None
    """Name of its class, where it has one."""


class Parts:
    """Several sources; their images are numbered through, in order."""

    def __init__(self, sources: dict[str, Source]) -> None:
        """Keep the sources by their names."""
        self.sources = sources
        lengths = [len(source) for source in sources.values()]
        self.starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        self.names = tuple(sources)

    def part_of(self, number: int) -> int:
        """Return which part image ``number`` is in."""
        return int(np.searchsorted(self.starts, number, side="right")) - 1

    def place(self, number: int) -> tuple[Source, int]:
        """Return the source of image ``number`` and its position there."""
        part = self.part_of(number)
        return self.sources[self.names[part]], number - int(self.starts[part])

    def label(self, number: int) -> str | None:
        """Return the name of an image's class; None without one."""
        source, index = self.place(number)
        label = int(source.labels[index])
        return None if source.classes is None or label < 0 else source.classes[label]

    def image(self, number: int) -> Image:
        """Return what is known of image ``number``."""
        source, index = self.place(number)
        return Image(self.names[self.part_of(number)], index, labels_file.name_of(source, index), self.label(number))


def opened(data: str, settings: DuplicateSettings) -> Parts:
    """Open what is to be compared.

    Raises:
        DataError: when it is missing, or ``against`` is the same images again.
    """
    empty = settings.allow_empty_classes
    found: dict[str, Source] = {}
    if settings.split is not None:
        mine = found[settings.split] = open_source(data, settings.split, strict=True, allow_empty=empty)
    else:
        mine = open_source(data, "train", allow_empty=empty)
        found[mine.split or "images"] = mine
        for split in () if settings.against is not None else _HELD_OUT:
            own = own_split(data, mine, split, allow_empty=empty)
            if own is not None:
                found[split] = own
    if settings.against is not None:
        other = open_source(settings.against, "test", allow_empty=empty)
        if other.fingerprint() == mine.fingerprint():
            raise DataError(
                f"--against {settings.against!r} are the images of {data!r} themselves",
                expected="other images",
                fix="drop --against: all images of a set are compared with each other",
            )
        found["against"] = other
    return Parts(found)
