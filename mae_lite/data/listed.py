"""Images that are named one by one: by files, folders and patterns, or by the lines of a list."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mae_lite.data.listing import listing
from mae_lite.data.scan import EXTENSIONS
from mae_lite.data.sources import Example, Source
from mae_lite.errors import ConfigError, DataError, nearest

LINES = "-"
"""The word for a list of paths, one in each line."""


class Listed(Source):
    """Image files without labels, in the order given; one may be named more than once."""

    def __init__(self, paths: Iterable[str | Path], name: str = "the images named") -> None:
        """Keep the paths; files are looked at when they are decoded.

        Args:
            paths: of the files.
            name: what to call them together in messages.

        Raises:
            DataError: when there are none.
        """
        # One column for all paths: a list of strings would be copied into every worker process by reference counting.
        self._names: Any = pa.array([os.fsencode(path) for path in paths], type=pa.large_binary())
        if not len(self._names):
            raise DataError(
                f"no image is named in {name}",
                expected="files, folders or patterns of images",
                fix="name one at least, e.g. photos or 'photos/*.jpg'",
            )
        self.name, self.classes, self.split, self.in_memory = name, None, None, False
        self.labels = np.full(len(self._names), -1, dtype=np.int64)

    def example(self, index: int) -> Example:
        """Return image ``index``, not opened."""
        path = os.fsdecode(self._names[int(index)].as_py())
        return Example(path, Path(path))

    def fingerprint(self) -> dict[str, int | str]:
        """Return the count and a SHA-256 over the paths."""
        digest = hashlib.sha256(b"\0".join(self._names.to_pylist()))
        return {"count": len(self), "sha256": digest.hexdigest()}


def named(words: Sequence[str | Path], lines: Iterable[str] = ()) -> Listed:
    """Return the images that ``words`` name.

    Args:
        words: files; folders, for the images at any depth below them; patterns as a shell has them, with ``**`` for any
            depth; and "-" for ``lines``. What exists by its whole name is no pattern.
        lines: paths of files and folders, taken as they stand; empty ones are passed over.

    Raises:
        ConfigError: when "-" stands there twice.
        DataError: when a word names nothing, a folder has no image, or nothing is named at all. A missing file in
            ``lines`` is noticed when it is to be read.
    """
    written = [os.fspath(word) for word in words]
    if written.count(LINES) > 1:
        raise ConfigError(f"{LINES!r} is given twice", expected="one list of paths", fix=f"give {LINES!r} once")
    name = " ".join(map(repr, written[:3])) + (f" and {len(written) - 3} more" if len(written) > 3 else "")
    return Listed((path for word in written for path in _below(word, lines)), name or "an empty list")


def _below(word: str, lines: Iterable[str]) -> Iterator[str]:
    if word == LINES:
        for line in lines:
            if path := line.removesuffix("\n").removesuffix("\r"):
                yield from _files(path)
        return
    path = os.path.expanduser(word)
    if os.path.lexists(path):
        yield from _files(path)
        return
    found = sorted(glob.glob(path, recursive=True), key=os.fsencode) if glob.has_magic(path) else []
    if not found:
        raise _nothing(word, path)
    for match in found:
        yield from _files(match)


def _files(path: str) -> Iterator[str]:
    """Yield a file, or the images of a folder in the order of their paths."""
    if not os.path.isdir(path):
        yield path
        return
    found = listing(Path(path))
    if not len(found):
        others = ", ".join(f"{count} x {kind}" for kind, count in found.ignored.most_common(5))
        raise DataError(
            f"no images in {path!r}",
            found=others or "no files",
            expected=f"files that end in {' '.join(EXTENSIONS)}, at any depth",
            fix="name another folder, or the files themselves",
        )
    for name in found.names:
        yield os.path.join(path, os.fsdecode(name.as_py()))


def _nothing(word: str, path: str) -> DataError:
    if glob.has_magic(path):
        return DataError(
            f"the pattern {word!r} matches nothing",
            found="neither a file nor a folder",
            expected="at least one, e.g. with 'photos/*.jpg' or 'photos/**/*.png'",
            fix="correct it, or name files and folders",
        )
    parent = os.path.dirname(path) or "."
    try:
        close = nearest(os.path.basename(path), os.listdir(parent))
    except OSError:
        close = f" (there is no folder {parent!r})"
    return DataError(
        f"{word!r} does not exist{close}",
        expected="an image file, a folder, a pattern, or - for a list on standard input",
        fix="correct the path; a data set such as digits is given alone",
    )
