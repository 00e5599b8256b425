"""One file of a pack and the list of what is in it: made by whoever is free, the same bytes whoever that is."""

from __future__ import annotations

import hashlib
import itertools
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from mae_lite import files
from mae_lite.data import cache
from mae_lite.data.bad_files import BadFile, bad_file
from mae_lite.data.pack import Form, Part, sha256_of
from mae_lite.data.sources import Source
from mae_lite.errors import DataError, DiskError, explained
from mae_lite.preparing import pool
from mae_lite.preparing.resizing import converted

_AT_ONCE = 8_000_000
"""Bytes that wait to be written."""
_COLUMNS = {
    "offset": pa.int64(),
    "size": pa.int64(),
    "crc32": pa.int64(),
    "label": pa.int64(),
    "name": pa.large_string(),
}


@dataclass(frozen=True)
class Making:
    """What all parts have in common."""

    sources: Mapping[str, Source]
    folder: Path
    form: Form
    plan: str
    """Digest of the plan: a part that was made by another is made anew."""


@dataclass(frozen=True)
class Job:
    """One part: which images of which split."""

    split: str
    number: int
    images: range

    def paths(self, folder: Path) -> tuple[Path, Path]:
        """Return where the images and where their list go."""
        stem = folder / self.split / f"part-{self.number:05d}"
        return stem.with_suffix(".bin"), stem.with_suffix(".arrow")


@dataclass(frozen=True)
class Made:
    """A part that is on the disk and was read back."""

    job: Job
    part: Part
    bad: tuple[BadFile, ...]
    kept: bool
    """Whether an earlier start had made it."""


@dataclass
class _Rows:
    """What the list of a part will say."""

    sizes: list[int] = field(default_factory=list)
    sums: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    bad: list[BadFile] = field(default_factory=list)

    def columns(self) -> dict[str, Any]:
        """Return it as arrays."""
        ends = list(itertools.accumulate(self.sizes, initial=0))
        values = (ends[:-1], self.sizes, self.sums, self.labels, self.names)
        return {name: pa.array(value, kind) for (name, kind), value in zip(_COLUMNS.items(), values, strict=True)}


def make(making: Making, job: Job, stopped: pool.Asked) -> Made:
    """Make a part, unless it is there as it should be.

    Raises:
        DiskError: when it cannot be written, or is read back differently.
        Stopped: when ``stopped`` says so; nothing of the part remains.
    """
    path, listed = job.paths(making.folder)
    found = _made_before(making, job)
    if found is not None:
        return found
    rows = _Rows()
    with files.published_file(path) as temporary:
        with explained(path, "write"):
            sha256 = _write(making, job, temporary, rows, stopped)
        if sha256_of(temporary) != sha256:
            raise DiskError(
                f"{str(path)!r} is read back differently from how it was written",
                fix="check the disk, and give the same command again",
            )
    part = Part(file=path.name, images=len(rows.sizes), bytes=sum(rows.sizes), sha256=sha256)
    about = {
        "plan": making.plan,
        "images": [job.images.start, job.images.stop],
        "part": part.model_dump(),
        "bad": [[item.index, item.name, item.reason, item.fix] for item in rows.bad],
    }
    cache.write(listed, rows.columns(), about)
    return Made(job, part, tuple(rows.bad), kept=False)


def rows_of(job: Job, folder: Path) -> Any:
    """Return the list of a part that was made, as a pyarrow table.

    Raises:
        DiskError: when it has gone meanwhile.
    """
    loaded = cache.load(job.paths(folder)[1])
    if loaded is None:
        raise DiskError(f"{str(job.paths(folder)[1])!r} has gone", fix="give the same command again")
    return loaded[0]


def _made_before(making: Making, job: Job) -> Made | None:
    """Return the part as an earlier start left it; None where there is none, or not as it was written."""
    path, listed = job.paths(making.folder)
    loaded = cache.load(listed)
    if loaded is None or loaded[1]["plan"] != making.plan:
        return None
    about = loaded[1]
    part = Part.model_validate(about["part"])
    try:
        if about["images"] != [job.images.start, job.images.stop] or sha256_of(path) != part.sha256:
            return None
    except OSError:
        return None
    return Made(job, part, tuple(BadFile(*item) for item in about["bad"]), kept=True)


def _write(making: Making, job: Job, path: Path, rows: _Rows, stopped: pool.Asked) -> str:
    """Convert and write the images of a part; return the SHA-256 of the whole."""
    digest, waiting = hashlib.sha256(), bytearray()
    files.disk.append(path, b"")  # a part of bad images alone is a file too
    for index in job.images:
        if stopped():
            raise pool.stop_error()
        name, data = _one(making.sources[job.split], index, making.form, rows)
        if data is None:
            continue
        rows.sizes.append(len(data))
        rows.sums.append(zlib.crc32(data))
        rows.labels.append(int(making.sources[job.split].labels[index]))
        rows.names.append(name.encode("utf-8", "backslashreplace").decode())
        waiting += data
        if len(waiting) > _AT_ONCE:
            digest.update(waiting)
            files.disk.append(path, bytes(waiting))
            waiting.clear()
    digest.update(waiting)
    files.disk.append(path, bytes(waiting))
    return digest.hexdigest()


def _one(source: Source, index: int, form: Form, rows: _Rows) -> tuple[str, bytes | None]:
    """Return name and bytes of an image; a bad one is noted, and has no bytes."""
    name = f"{source.name} image {index}"
    try:
        example = source.example(index)
        name = example.name
        return name, converted(example, form)
    except DataError as error:
        rows.bad.append(bad_file(index, name, error))
    except OSError as error:  # it went away between two looks
        rows.bad.append(BadFile(index, name, f"cannot be read: {error.strerror or error}"))
    return name, None
