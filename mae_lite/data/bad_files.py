"""What happens to images that cannot be read: a few are listed and replaced, many are an error."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from mae_lite import draws, files
from mae_lite.errors import DataError, DiskError

_log = logging.getLogger(__name__)

FILE = "bad_files.csv"
_HEADER = ("set", "index", "image", "reason")
_FEW, _SHARE = 10, 0.001
_REPLACEMENTS = 50  # with half of a small set bad, all of them are bad once in 10^15
T = TypeVar("T")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class BadFile:
    """An image that could not be read; in a sentence, name and reason make one."""

    index: int
    """Its position in the source."""
    name: str
    """Its path, or its file and row."""
    reason: str
    """What is wrong with it."""
    fix: str = ""
    """What to do about it."""


def bad_file(index: int, name: str, error: DataError) -> BadFile:
    """Return what ``error`` says of image ``name``."""
    reason = error.what.removeprefix(f"image {name!r} ")
    return BadFile(index, name, f"{reason}: {error.found}" if error.found else reason, error.fix)


def allowed(images: int) -> int:
    """Return how many of ``images`` may be bad: 10, or 0.1 % where that is more."""
    return max(_FEW, int(images * _SHARE))


def as_row(*cells: object) -> str:
    """Return a line of CSV without line end; control characters are escaped and no cell can act as a formula."""
    safe = []
    for cell in cells:
        text = str(cell).encode("utf-8", "backslashreplace").decode()
        text = "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)
        safe.append(f"'{text}" if text.startswith(_FORMULA) else text)
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(safe)
    return line.getvalue()


def listed(set_name: str, bad: Sequence[BadFile]) -> str:
    """Return a whole CSV file of bad images."""
    rows = [as_row(*_HEADER), *(as_row(set_name, item.index, item.name, item.reason) for item in bad)]
    return "\n".join(rows) + "\n"


def first_readable(
    read: Callable[[int], T | None], index: int, images: int, seed: int, epoch: int
) -> tuple[int, T] | None:
    """Read image ``index``, or another in its place that depends on seed, epoch and ``index`` alone.

    Args:
        read: returns an image, or None for one that is bad.
        index: position of the image.
        images: how many there are.
        seed: of the run.
        epoch: in which it is read.

    Returns:
        Position and image; None when all that were drawn are bad.
    """
    found, chosen = read(index), index
    for attempt in range(_REPLACEMENTS):
        if found is not None:
            break
        place = draws.key(seed, "replacement", epoch, index, attempt)
        chosen = int(float(draws.uniform(place, [0], 1)[0, 0]) * images)
        found = read(chosen)
    return None if found is None else (chosen, found)


def none_left(name: str, bad: Sequence[BadFile]) -> DataError:
    """Return the error for a source in which no image to replace a bad one was found."""
    return DataError(
        f"nearly all images of {name!r} seem unusable",
        found=f"{len(bad)} bad ones drawn in a row; the first, {bad[0].name!r}, {bad[0].reason}",
        expected="a bad image here and there",
        fix=f"{bad[0].fix or 'replace them'}; mae-lite check DATA lists them all",
    )


class BadFiles:
    """The bad images of one set that a run has met; each counts once, also over resumed starts."""

    def __init__(self, set_name: str, images: int, on_bad: Literal["skip", "fail"], path: Path | None) -> None:
        """Read what earlier starts of the run have listed.

        Args:
            set_name: "train" or "val".
            images: length of the set.
            on_bad: whether to go on.
            path: the CSV file to list them in; None lists them nowhere.
        """
        self._set, self._images, self._on_bad, self._path = set_name, images, on_bad, path
        self._met: set[int] = set()
        if path is not None and path.exists():
            with path.open(encoding="utf-8", errors="replace", newline="") as handle:
                rows = [row for row in csv.reader(handle) if len(row) == len(_HEADER) and row[0] == set_name]
            self._met = {int(row[1]) for row in rows if row[1].isdecimal()}  # the file is open to anyone's pen

    @property
    def count(self) -> int:
        """Different images met so far."""
        return len(self._met)

    def add(self, bad: Sequence[BadFile]) -> None:
        """Take note of bad images that a batch has met.

        Raises:
            DataError: at the first where ``on_bad`` is "fail"; otherwise when there are more than :func:`allowed`.
        """
        for item in bad:
            if self._on_bad == "fail":
                raise DataError(
                    f"image {item.name!r} {item.reason}",
                    fix=f"{item.fix or 'replace it'}; or go on without it with --on-bad skip",
                )
            if item.index not in self._met:
                self._met.add(item.index)
                self._list(item)
            limit = allowed(self._images)
            if len(self._met) > limit:  # also at the next start, which knows them already
                raise DataError(
                    f"too many images of the {self._set} set are bad",
                    found=f"{len(self._met)} of {self._images:,}; the last one, {item.name!r}, {item.reason}",
                    expected=f"at most {limit} (10, or 0.1 %)",
                    fix="run mae-lite check DATA to list them all, then replace or remove them",
                )

    def _list(self, item: BadFile) -> None:
        _log.warning(
            "bad image %d of at most %d is left out: %r %s",
            len(self._met),
            allowed(self._images),
            item.name,
            item.reason,
        )
        if self._path is None:
            return
        try:
            if not self._path.exists():
                files.append_line(self._path, as_row(*_HEADER))
            files.append_line(self._path, as_row(self._set, item.index, item.name, item.reason))
        except DiskError as error:  # the run is worth more than the list
            _log.warning("%s (%s); training goes on", error.what, error.found)
