"""Parquet files in the layout of Hugging Face, read through a memory-mapped Arrow file.

Parquet cannot give out a single row cheaply, so that the first use converts the files once, uncompressed,
into a cache folder (:mod:`mae_lite.data.cache`).
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from mae_lite.data import arrow_cache, cache
from mae_lite.data.sources import Example, Source, Split, some
from mae_lite.data.splits import choose_split, split_in
from mae_lite.errors import DataError, DiskError

_log = logging.getLogger(__name__)


class Parquet(Source):
    """Rows of one or several parquet files, in the order of the file names."""

    in_memory = False

    def __init__(self, path: Path, split: Split = "train", name: str | None = None, *, strict: bool = False) -> None:
        """Convert at first use, then open.

        Args:
            path: a parquet file, or a folder with some (or with a folder ``data`` of them).
            split: in a folder, which files to take, by the word train, val or test in their names; test files stand
                in for missing validation files and the other way round.
            name: what the user gave.
            strict: whether nothing may stand in.

        Raises:
            DataError: when files, columns, images or labels are missing or wrong; names the row.
            DiskError: when the cache cannot be written; MAE_LITE_CACHE moves it.
        """
        self.name = name or str(path)
        files, self.split = _choose(path, split, self.name, strict)
        facts = [(str(file.absolute()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        self._path = cache.place("arrow", [arrow_cache.VERSION, facts])
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

    def example(self, index: int) -> Example:
        """Return the encoded image of row ``index``.

        Raises:
            DataError: when the cached Arrow file has gone.
        """
        return Example(self._row_name(index), self._encoded(index))

    def fingerprint(self) -> dict[str, int | str]:
        """Return the count and a SHA-256 over names, sizes and footers of the files."""
        return {"count": len(self), "sha256": self._digest}

    def _encoded(self, index: int) -> bytes:
        if self._table is None:
            try:
                self._table = arrow_cache.read(self._path).table
            except OSError as error:
                raise DataError(
                    f"the Arrow copy of {self.name!r} has gone",
                    found=f"{error.strerror or error}",
                    fix="start the run again, which makes it anew",
                ) from error
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
        raise cache.moved(error, target) from error


def _choose(path: Path, split: Split, name: str, strict: bool) -> tuple[list[Path], Split | None]:
    """Return the files of a split; all of them, and None, when their names announce none."""
    if not path.is_dir():
        return [path], None
    found = sorted(path.glob("*.parquet")) or sorted(path.glob("data/*.parquet"))
    files = [file for file in found if file.is_file()]  # a pipe would be waited for without end
    if not files:
        raise DataError(
            f"no parquet files in {name!r}",
            found=some(sorted(entry.name for entry in path.iterdir())),
            expected="files that end in .parquet",
            fix="give the folder that holds them with --data parquet:PATH, or images with --data folder:PATH",
        )
    announced = {file: split_in(file.stem) for file in files}
    if not any(announced.values()):
        return files, None
    unnamed = [file.name for file, word in announced.items() if word is None]
    if unnamed:
        _log.warning("%s: %s are left out: their names say no split, those of the others do", name, some(unnamed))
    chosen = choose_split([word for word in announced.values() if word is not None], split, name, strict=strict)
    return [file for file in files if announced[file] == chosen], chosen
