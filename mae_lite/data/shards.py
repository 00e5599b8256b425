"""WebDataset shards: tar files on a local disk, indexed once and read in any order, never extracted."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa

from mae_lite.data import cache, shard_index
from mae_lite.data.open_files import OpenFiles
from mae_lite.data.shard_files import find
from mae_lite.data.sources import Example, Indices, Source, Split, some
from mae_lite.errors import DataError

_log = logging.getLogger(__name__)

_VERSION = 1
"""Of the index; counted up when its content changes, so that an old one is not taken."""
NAMES = ("classes.txt", "classnames.txt")


class Shards(Source):
    """The images of tar files: shards in the order of their names, members in the order of each."""

    in_memory = False

    def __init__(self, pattern: str, split: Split = "train", name: str | None = None, *, strict: bool = False) -> None:
        """Index the shards at first use, then open the index.

        The class of ``KEY.jpg`` is the number in ``KEY.cls`` or the "label" in ``KEY.json``; where there are neither,
        the name of the folder it lies in. Numbers get names from classes.txt or classnames.txt beside the shards, one
        in a line; without such a file, a number is its own name.

        Args:
            pattern: a .tar file, a folder of them, a glob, or names with {000..127} and {a,b}.
            split: which shards, where their names tell splits; otherwise all are taken for every split.
            name: what the user gave.
            strict: whether nothing may stand in for a missing split.

        Raises:
            ConfigError: when the pattern stands for too many names.
            DataError: when shards or labels are missing, damaged or contradict each other; names shard and member.
            DiskError: when the index cannot be written; MAE_LITE_CACHE moves it.
        """
        self.name = name or pattern
        self._paths, self.split = find(pattern, split, self.name, strict=strict)
        self._states = [_state(path) for path in self._paths]
        facts = [[str(path.absolute()), *state] for path, state in zip(self._paths, self._states, strict=True)]
        kept = cache.place("shards", [_VERSION, facts])
        self._files = OpenFiles()
        self._take(*(cache.load(kept) or self._index(kept)))

    def _take(self, table: Any, about: dict[str, Any]) -> None:
        """Take what the index says."""
        self._shards, self._offsets, self._sizes = (table[name].to_numpy() for name in ("shard", "offset", "size"))
        self.labels: Indices = table["label"].to_numpy().copy()  # the table itself cannot be written to
        self._members: Any = table["name"].combine_chunks()
        self.classes = None if about["classes"] is None else tuple(about["classes"])
        if about["numbered"]:
            listed, highest = self._names_file(), int(self.labels.max())
            self.classes = tuple(map(str, range(highest + 1))) if listed is None else _class_names(*listed, highest)
        if about["ignored"]:
            _log.info("%s: not read: %s", self.name, shard_index.listed_counts(about["ignored"]))

    def _names_file(self) -> tuple[str, bytes] | None:
        """Return where the names of the classes stand, and the file's content; None where there is no such file."""
        folder = self._paths[0].parent
        path = next((folder / name for name in NAMES if (folder / name).is_file()), None)
        if path is None:
            return None
        try:
            return str(path), path.read_bytes()
        except OSError as error:
            fix = "save it as UTF-8, one name in a line"
            raise DataError(f"class names {str(path)!r} cannot be read", found=str(error), fix=fix) from error

    def _index(self, kept: Path) -> tuple[Any, dict[str, Any]]:
        _log.info("%s: indexing %d shards, once", self.name, len(self._paths))
        columns, about = shard_index.index(self._paths, self.name)
        cache.save(kept, columns, about)
        return pa.table(columns), about

    def example(self, index: int) -> Example:
        """Return the encoded image ``index``.

        Raises:
            DataError: when the shard has gone or changed since it was indexed; names shard and member.
        """
        shard, size = int(self._shards[index]), int(self._sizes[index])
        name = f"{self._paths[shard]} member {self._member(index)}"
        try:
            # pread has no position to share, so that threads and forked processes may use one file at once.
            opened = self._files.get(self._paths[shard])
            data = os.pread(opened.descriptor, size, int(self._offsets[index]))
            # After the read: a shard written over would give another image under this one's label.
            status = os.fstat(opened.descriptor)
        except OSError as error:
            raise _changed(name, str(error.strerror)) from error
        if (status.st_size, status.st_mtime_ns) != self._states[shard]:
            self._files.forget(self._paths[shard])
            raise _changed(name, "another size or time of change")
        if len(data) != size:
            raise _changed(name, f"{len(data)} of {size} bytes")
        return Example(name, data)

    def _member(self, index: int) -> str:
        name: bytes = self._members[index].as_py()
        return name.decode("utf-8", "surrogateescape")

    def fingerprint(self) -> dict[str, int | str]:
        """Return the count and a SHA-256 over names and sizes of shards and members, labels and classes."""
        shards = [[path.name, size] for path, (size, _) in zip(self._paths, self._states, strict=True)]
        digest = hashlib.sha256(json.dumps([shards, self.classes]).encode())
        digest.update(b"\0".join(self._members.to_pylist()))
        for column in (self._shards, self._sizes, self.labels):
            digest.update(column.astype("<i8").tobytes())
        if self.windows is not None and len(self.windows) > 1:  # another order of images is another run
            digest.update(f"windows of {self.windows.size} shards".encode())
        return {"count": len(self), "sha256": digest.hexdigest()}


def _state(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
        found = "" if stat.S_ISREG(status.st_mode) else "no regular file"
    except OSError as error:
        found = str(error.strerror)
    if found:
        fix = "give shards that you may read, with --data shards:PATH"
        raise DataError(f"shard {str(path)!r} cannot be read", found=found, fix=fix)
    return status.st_size, status.st_mtime_ns


def _changed(name: str, found: str) -> DataError:
    return DataError(
        f"image {name!r} cannot be read, as its shard has gone or changed since it was indexed",
        found=found,
        expected="the shard as it was when the run started",
        fix="put it back, or run the same command again to have it indexed anew",
    )


def _class_names(place: str, content: bytes, highest: int) -> tuple[str, ...]:
    """Return the names of the classes 0 to ``highest`` from the ``content`` of the file at ``place``."""
    try:
        names = [line.strip() for line in content.decode("utf-8-sig").rstrip().splitlines()]
    except UnicodeDecodeError as error:
        fix = "save it as UTF-8, one name in a line"
        raise DataError(f"class names {place!r} cannot be read", found=str(error), fix=fix) from error
    twice = [name for name, count in Counter(names).items() if count > 1]
    if "" in names or twice:
        found = f"an empty line {names.index('') + 1}" if "" in names else f"{some(twice)} more than once"
        raise DataError(
            f"class names {place!r} are not unique",
            found=found,
            expected="one name for each class",
            fix="give each class a name of its own",
        )
    if len(names) <= highest:
        raise DataError(
            f"class names {place!r} are too few",
            found=f"{len(names)} names, and class number {highest} in the shards",
            expected="a line for each class, from number 0",
            fix="add the missing names, or remove the file to have numbers as names",
        )
    return tuple(names)
