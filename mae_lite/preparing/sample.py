"""A few images, drawn at random, converted beforehand: what the whole will take in time and space."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from mae_lite import draws
from mae_lite.data.pack import Form
from mae_lite.data.pixels import planes
from mae_lite.data.sources import Example, Source
from mae_lite.errors import DataError, DiskError
from mae_lite.preparing.resizing import converted, decoded

Result = TypeVar("Result")
SIDE = 256
"""Of images that are larger, in pixels."""
QUALITY = 90
"""Of JPEGs."""
_ASKED = 64
"""Images that are asked for their side."""
_LISTED = 200
"""Bytes that the lists take for an image, more or less."""


@dataclass(frozen=True)
class Estimate:
    """What the whole would take."""

    images: int
    bytes: int
    seconds: float
    """In one process."""
    unreadable: int
    """Of those tried."""
    tried: int


def estimate(sources: Mapping[str, Source], form: Form, count: int) -> Estimate:
    """Convert ``count`` images, or all where there are fewer.

    Raises:
        DataError: when none of them can be read.
    """
    errors: list[DataError] = []
    start = time.perf_counter()
    sizes = list(_tried(sources, count, lambda example: len(converted(example, form)), errors))
    seconds = time.perf_counter() - start
    if not sizes:
        raise _none_readable(errors)
    images, tried = sum(map(len, sources.values())), len(sizes) + len(errors)
    size = round(images * (float(np.mean(sizes)) + _LISTED))
    return Estimate(images, size, seconds * images / tried, len(errors), tried)


def own_side(sources: Mapping[str, Source], form: Form) -> int:
    """Return 256, or the short side of images that are smaller and all have the same.

    Args:
        sources: of which some are looked at.
        form: says how they are read.
    """
    sides: set[int] = set()
    for side in _tried(sources, _ASKED, lambda example: min(planes(decoded(example, form))[0].size), []):
        sides.add(side)
        if side >= SIDE or len(sides) > 1:
            return SIDE
    return sides.pop() if sides else SIDE


def check_room(folder: Path, expected: Estimate) -> None:
    """Refuse to begin what will not fit on the disk.

    Raises:
        DiskError: when the free space, and what earlier starts have written, are less than ``expected``.
    """
    there = sum(path.stat().st_size for path in folder.glob("*/part-*"))
    disk = os.statvfs(next(path for path in (folder, *folder.resolve().parents) if path.exists()))
    free = disk.f_bavail * disk.f_frsize
    if free + there < expected.bytes:
        raise DiskError(
            f"there is too little room for a pack in {str(folder)!r}",
            found=f"{readable(free)} free",
            expected=f"about {readable(expected.bytes - there)}",
            fix="free space, choose a folder on another disk, or make it smaller with --kind jpeg, --side or --quality",
        )


def readable(size: float) -> str:
    """Return a number of bytes for people."""
    return f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"


def _tried(
    sources: Mapping[str, Source], count: int, use: Callable[[Example], Result], errors: list[DataError]
) -> Iterator[Result]:
    """Yield what ``use`` makes of images drawn at random; those that cannot be read are put into ``errors``."""
    ends = np.cumsum([len(source) for source in sources.values()])
    for place in np.sort(draws.permutation(draws.key(0, "prepare"), int(ends[-1]))[:count]).tolist():
        number = int(np.searchsorted(ends, place, side="right"))
        source = list(sources.values())[number]
        try:
            yield use(source.example(place - int(ends[number]) + len(source)))
        except DataError as error:
            errors.append(error)
        except OSError as error:
            errors.append(DataError(f"an image of {source.name!r} cannot be read", found=str(error), fix="put it back"))


def _none_readable(errors: list[DataError]) -> DataError:
    first = errors[0]
    channels = re.match(r"--encoder\.channels (\d+)", first.fix)
    return DataError(
        f"none of {len(errors)} images tried can be read; {first.what}",
        found=first.found,
        expected=first.expected,
        fix=f"--kind uint8 --channels {channels[1]}" if channels else first.fix,
    )
