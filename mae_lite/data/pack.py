"""A pack: images resized once, in a few large files, so that reading one costs next to nothing.

    PACK/pack.json                 what it holds, with the SHA-256 of every other file; written last
    PACK/SPLIT/part-00000.bin      encoded JPEGs, or pixels [n, H, W, C] uint8, one after the other
    PACK/SPLIT/index.arrow         part, offset, bytes, CRC-32, label and name of each image
    PACK/SPLIT/part-00000.arrow    the rows of one part, and
    PACK/prepare.json              the settings: by these ``mae-lite prepare`` goes on, and mends; reading needs neither

``SPLIT`` is train, val or test; "all" where the data are not divided. Images are read by position instead of through a
memory map: that is as fast for pieces of this size, and a file cut short is an error instead of a signal that ends the
process.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError

from mae_lite.config import Config, Reading
from mae_lite.data import cache
from mae_lite.data.open_files import OpenFiles
from mae_lite.data.sources import Example, Indices, Source, Split
from mae_lite.data.splits import choose_split
from mae_lite.errors import DataError

FILE = "pack.json"
PLAN = "prepare.json"
INDEX = "index.arrow"
UNDIVIDED = "all"
VERSION = 1
Kind = Literal["jpeg", "uint8"]


class Part(Config):
    """One file of images."""

    file: str
    images: int
    bytes: int
    sha256: str


class Division(Config):
    """One split."""

    images: int
    left_out: int
    """Images that could not be read."""
    index_sha256: str
    parts: tuple[Part, ...]


class Form(Config):
    """How the images of a pack are kept."""

    kind: Kind
    side: int = Field(ge=1, le=65_500)
    """Short side of a JPEG at most, or both sides of pixels; in pixels."""
    channels: int = Field(ge=1)
    quality: int | None = Field(ge=1, le=95)
    """Of the JPEGs."""
    reading: Reading
    """Rules by which the files became pixels."""


class Contents(Form):
    """What ``pack.json`` says."""

    version: int
    source: str
    """What it was made from."""
    source_fingerprints: dict[str, dict[str, int | str]]
    """Of each split."""
    classes: dict[str, tuple[str, ...] | None]
    """Of each split."""
    splits: dict[str, Division]


def is_pack(path: Path) -> bool:
    """Say whether a finished pack lies at ``path``."""
    return (path / FILE).is_file()


def contents(path: Path) -> Contents:
    """Read what a pack says of itself.

    Raises:
        DataError: when it is not there, not readable, or of another version.
    """
    fix = f"make it again: mae-lite prepare DATA {path}"
    try:
        found = Contents.model_validate_json((path / FILE).read_bytes())
    except OSError as error:
        unfinished = (path / PLAN).is_file()
        raise DataError(
            f"{str(path)!r} is no pack",
            found="one that was not finished" if unfinished else f"no {FILE} ({error.strerror})",
            expected=f"a folder that mae-lite prepare has written, with {FILE}",
            fix="give the same mae-lite prepare command again, it goes on where it stopped" if unfinished else fix,
        ) from error
    except ValidationError as error:
        raise DataError(f"{str(path / FILE)!r} is damaged", found=str(error).splitlines()[0], fix=fix) from error
    if found.version != VERSION:
        raise DataError(
            f"{str(path)!r} is a pack of another version",
            found=str(found.version),
            expected=str(VERSION),
            fix=fix,
        )
    return found


class Pack(Source):
    """The images of one split of a pack."""

    in_memory, packed = False, True

    def __init__(self, path: Path, split: Split = "train", name: str | None = None, *, strict: bool = False) -> None:
        """Open it; the images themselves are not read.

        Args:
            path: folder that ``mae-lite prepare`` has written.
            split: which part; an undivided pack is taken whole.
            name: what the user gave.
            strict: whether nothing may stand in for a missing split.

        Raises:
            DataError: when files are missing, or have another size than when they were written.
            SplitError: when it does not have the split.
        """
        self.name = name or str(path)
        self.contents = contents(path)
        divided = UNDIVIDED not in self.contents.splits
        present: list[Split] = [part for part in ("train", "val", "test") if part in self.contents.splits]
        self.split = choose_split(present, split, self.name, strict=strict) if divided else None
        part = self.split or UNDIVIDED
        division = self.contents.splits[part]
        self._paths = [path / part / item.file for item in division.parts]
        for file, item in zip(self._paths, division.parts, strict=True):
            _check_size(file, item.bytes)
        table = _index(path / part / INDEX, division)
        self._parts, self._offsets, self._sizes, self._sums = (
            table[column].to_numpy() for column in ("part", "offset", "size", "crc32")
        )
        self._names: Any = table["name"].combine_chunks()
        self.labels: Indices = table["label"].to_numpy().copy()
        self.classes = self.contents.classes[part]
        self._sha256 = hashlib.sha256(b"".join(item.sha256.encode() for item in division.parts)).hexdigest()
        self._index_sha256 = division.index_sha256
        self._files = OpenFiles()

    def example(self, index: int) -> Example:
        """Return image ``index``: its JPEG, or its pixels [H, W, C].

        Raises:
            DataError: when it cannot be read, or a JPEG is not what was written; names the image.
        """
        name = self._name(index)
        if self.contents.kind == "jpeg":
            return Example(name, self._checked(index, name))
        side, channels = self.contents.side, self.contents.channels
        pixels = np.empty((side, side, channels), dtype=np.uint8)
        self.read_into(index, pixels, name)
        return Example(name, pixels)

    def check(self, index: int) -> None:
        """Compare the bytes of image ``index`` with their sum when they were written.

        Raises:
            DataError: when they differ, or cannot be read; names the image.
        """
        self._checked(index, self._name(index))

    def _name(self, index: int) -> str:
        return f"{self._paths[int(self._parts[index])]} image {self._names[index].as_py()}"

    def _checked(self, index: int, name: str) -> bytes:
        data = bytearray(int(self._sizes[index]))
        self.read_into(index, data, name)
        if zlib.crc32(data) != int(self._sums[index]):
            raise _damaged(name, "another CRC-32 than when it was written")
        return bytes(data)

    def read_into(self, index: int, place: bytearray | npt.NDArray[np.uint8], name: str | None = None) -> None:
        """Read the bytes of image ``index`` to where they are wanted.

        Args:
            index: position of the image.
            place: as many contiguous bytes as the image has; for pixels [H, W, C].
            name: what to call it in an error.

        Raises:
            DataError: when its file has gone, or is shorter than when it was opened.
        """
        part = int(self._parts[index])
        view = place.data if isinstance(place, np.ndarray) else place
        try:
            opened = self._files.get(self._paths[part])
            count = os.preadv(opened.descriptor, [view], int(self._offsets[index]))
        except OSError as error:
            raise _damaged(name or f"{self._paths[part]} image {index}", str(error.strerror)) from error
        if count != int(self._sizes[index]):
            found = f"{count} of {self._sizes[index]} bytes"
            raise _damaged(name or f"{self._paths[part]} image {index}", found)

    def fingerprint(self) -> dict[str, int | str]:
        """Return the count and a SHA-256 over those of the files, which were taken when they were written."""
        digest = hashlib.sha256(f"{self._sha256} {self._index_sha256}".encode())
        return {"count": len(self), "sha256": digest.hexdigest()}

    def describe(self) -> str:
        """Return one line for people."""
        known = self.contents
        size = f"{known.side} x {known.side} pixels" if known.kind == "uint8" else f"JPEG of {known.side} pixels"
        return f"{super().describe()}, {size}"


def verify(path: Path) -> list[str]:
    """Read all files of a pack again; return those that are not as they were written, with what is wrong."""
    bad = []
    for part, division in contents(path).splits.items():
        expected = {item.file: item.sha256 for item in division.parts} | {INDEX: division.index_sha256}
        for file, sha256 in expected.items():
            try:
                if sha256_of(path / part / file) != sha256:
                    bad.append(f"{path / part / file}: its SHA-256 differs from {FILE}")
            except OSError as error:
                bad.append(f"{path / part / file}: {error.strerror}")
    return bad


def sha256_of(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file of any size.

    Raises:
        OSError: when it cannot be read.
    """
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _index(path: Path, division: Division) -> Any:
    loaded = cache.load(path)
    if loaded is None or loaded[0].num_rows != division.images:
        raise DataError(
            f"the index {str(path)!r} is missing or damaged",
            expected=f"{division.images} images",
            fix="copy it again from where the pack was made, or give the mae-lite prepare command of then again",
        )
    return loaded[0]


def _check_size(path: Path, expected: int) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise _incomplete(path, str(error.strerror), expected) from error
    if size != expected:
        raise _incomplete(path, f"{size:,} bytes", expected)


def _incomplete(path: Path, found: str, expected: int) -> DataError:
    return DataError(
        f"a file of the pack is not as it was written: {str(path)!r}",
        found=found,
        expected=f"{expected:,} bytes",
        fix="copy it again from where the pack was made, or give the mae-lite prepare command of then again",
    )


def _damaged(name: str, found: str) -> DataError:
    return DataError(
        f"image {name!r} cannot be read, as the pack is not as it was written",
        found=found,
        fix="see which files are damaged with mae-lite prepare DATA PACK --verify, and copy them again",
    )
