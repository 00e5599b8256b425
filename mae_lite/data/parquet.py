"""Parquet files in the layout of Hugging Face, read through a memory-mapped Arrow file.

Parquet cannot give out a single row cheaply, so that the first use converts the files once, uncompressed,
into a cache folder (``MAE_LITE_CACHE``, by default ``~/.cache/mae_lite``).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mae_lite.data import arrow_cache, images
from mae_lite.data.sources import Source, Split, some
from mae_lite.errors import DataError, DiskError

_log = logging.getLogger(__name__)

_SPLITS: dict[Split, tuple[str, ...]] = {"train": ("train",), "val": ("val", "test"), "test": ("test", "val")}
"""Beginnings of words in the file names of each split ("val" is in "validation" too); the first found is taken."""


class Parquet(Source):
    """Rows of one or several parquet files, in the order of the file names."""

    channels = 3
    in_memory = False

    def __init__(self, path: Path, split: Split = "train", name: str | None = None) -> None:
        """Convert at first use, then open.

        Args:
            path: a parquet file, or a folder with some (or with a folder ``data`` of them).
            split: in a folder, which files to take, by the word train, val or test in their names; test files stand
                in for missing validation files and the other way round.
            name: what the user gave.

        Raises:
            DataError: when files, columns, images or labels are missing or wrong; names the row.
            DiskError: when the cache cannot be written; MAE_LITE_CACHE moves it.
        """
        self.name = name or str(path)
        files = _choose(path, split, self.name)
        self._path = _cache_folder() / f"{_cache_key(files)}.arrow"
        self._table: Any = None
        if not arrow_cache.usable(self._path):
            _convert(files, self._path)
        content = arrow_cache.read(self._path)
        self.labels, self.classes = content.labels, content.classes
        self._files, self._chunks, self._table = content.files, content.chunk_starts, content.table
        self._digest = content.sha256

    def __getstate__(self) -> dict[str, Any]:
        """Leave the memory map out: each process opens its own."""
        return {**self.__dict__, "_table": None}

    def image(self, index: int, channels: int) -> Image.Image:
        """Return the image of row ``index`` decoded.

        Raises:
            DataError: when it cannot be decoded; names file and row.
        """
        return images.decode(self._encoded(index), channels, self._row_name(index))

    def fingerprint(self) -> dict[str, int | str]:
        """Return the count and a SHA-256 over names, sizes and footers of the files."""
        return {"count": len(self), "sha256": self._digest}

    def _encoded(self, index: int) -> bytes:
        if self._table is None:
            self._table = arrow_cache.read(self._path).table
        chunk = int(np.searchsorted(self._chunks, index, side="right")) - 1
        data: bytes = self._table.column(0).chunk(chunk)[index - int(self._chunks[chunk])].as_py()
        return data

    def _row_name(self, index: int) -> str:
        for file, rows in self._files:
            if index < rows:
                return f"{file} row {index}"
            index -= rows
        raise IndexError(index)


def _convert(files: list[Path], target: Path) -> None:
    try:
        arrow_cache.convert(files, target)
    except DiskError as error:
        fix = f"set MAE_LITE_CACHE to a folder with room and write access, instead of {str(target.parents[1])!r}"
        raise DiskError(error.what, found=error.found, expected=error.expected, fix=fix) from error


def _cache_folder() -> Path:
    return Path(os.environ.get("MAE_LITE_CACHE") or Path.home() / ".cache" / "mae_lite") / "arrow"


def _cache_key(files: list[Path]) -> str:
    facts = [(str(file.absolute()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps([arrow_cache.VERSION, facts]).encode()).hexdigest()


def _choose(path: Path, split: Split, name: str) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("*.parquet")) or sorted(path.glob("data/*.parquet"))
    if not files:
        raise DataError(
            f"no parquet files in {name!r}",
            found=some(sorted(entry.name for entry in path.iterdir())),
            expected="files that end in .parquet",
            fix="give the folder that holds them with --data parquet:PATH, or images with --data folder:PATH",
        )
    by_split = {word: [file for file in files if _names(word, file)] for words in _SPLITS.values() for word in words}
    for word in _SPLITS[split]:
        if by_split[word]:
            if word != _SPLITS[split][0]:
                taken = some([file.name for file in by_split[word]])
                _log.info(
                    "%s has no file named %s: its %s images are those of %s", name, _SPLITS[split][0], split, taken
                )
            return by_split[word]
    if not any(by_split.values()):
        return files
    raise DataError(
        f"{name!r} has no {split} files",
        found=some([file.name for file in files]),
        expected=f"a file name with {' or '.join(_SPLITS[split])}",
        fix=f"name the file with the {split} images itself, e.g. --data {files[0]}",
    )


def _names(word: str, file: Path) -> bool:
    # At the start of a word only: "test" is not in "latest".
    return re.search(rf"(?<![a-z]){word}", file.stem.lower()) is not None
