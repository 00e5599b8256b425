"""Conversion of parquet files to one uncompressed Arrow file, and reading it back through a memory map."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mae_lite import files as disk
from mae_lite.errors import DataError, explained

VERSION = 1
"""Layout of the Arrow file; part of its name, so that a new layout converts anew."""

_BATCH_ROWS = 512  # 50 MB of ordinary photographs
_MAX_CLASSES = 1_000_000  # labels above are numbers of something else
_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "labels", "fine_label")
_SCHEMA = pa.schema([("image", pa.binary()), ("label", pa.int64())])


@dataclass(frozen=True)
class Content:
    """What an Arrow file holds: N rows in K chunks."""

    table: Any
    """The memory-mapped pyarrow table: columns image (encoded bytes), label."""
    labels: npt.NDArray[np.int64]
    """[N], -1 without labels."""
    classes: tuple[str, ...] | None
    """Class names; None without labels."""
    files: list[tuple[str, int]]
    """The parquet files, and how many rows each gave."""
    chunk_starts: npt.NDArray[np.int64]
    """[K] row number at which each chunk starts."""
    sha256: str
    """Over names, sizes and footers of the parquet files."""


@dataclass(frozen=True)
class _Columns:
    """Where a parquet file keeps what."""

    image: str
    nested: bool
    label: str | None
    names: tuple[str, ...] | None


def usable(path: Path) -> bool:
    """Return whether an Arrow file is there and whole."""
    try:
        with pa.memory_map(str(path)) as handle:
            pa.ipc.open_file(handle)
    except (OSError, pa.ArrowException):
        return False
    return True


def read(path: Path) -> Content:
    """Open an Arrow file that :func:`convert` wrote, without reading the images."""
    table = pa.ipc.open_file(pa.memory_map(str(path)), options=pa.ipc.IpcReadOptions(use_threads=False)).read_all()
    facts = json.loads(table.schema.metadata[b"mae_lite"])
    labels = table.column(1).to_numpy().astype(np.int64)
    names = facts["names"]
    if names is None and facts["labelled"]:
        names = [str(number) for number in range(int(labels.max()) + 1)]
    sizes = [chunk.num_rows for chunk in table.to_batches()]
    return Content(
        table=table,
        labels=labels,
        classes=None if names is None else tuple(names),
        files=[(name, rows) for name, rows in facts["files"]],
        chunk_starts=np.cumsum([0, *sizes[:-1]], dtype=np.int64),
        sha256=facts["sha256"],
    )


def convert(sources: list[Path], target: Path) -> None:
    """Write the rows of parquet files to one Arrow file, a few hundred rows in memory at a time.

    Raises:
        DataError: when a file, a column, an image or a label is missing or wrong; names the row.
        DiskError: when the Arrow file cannot be written.
    """
    opened = [_open(source) for source in sources]
    columns = [_columns(source, file.schema_arrow) for source, file in zip(sources, opened, strict=True)]
    if any((other.label is None, other.names) != (columns[0].label is None, columns[0].names) for other in columns):
        raise DataError(
            "parquet files of one data set differ in their labels",
            found=", ".join(f"{source.name}: {column.label}" for source, column in zip(sources, columns, strict=True)),
            expected="the same label column and class names in all of them",
            fix="give one of the files with --data parquet:PATH, or write them anew from one data set",
        )
    facts: dict[str, Any] = {
        "files": [(str(source), file.metadata.num_rows) for source, file in zip(sources, opened, strict=True)],
        "labelled": columns[0].label is not None,
        "names": columns[0].names,
        "sha256": _digest(sources),
    }
    if not sum(rows for _, rows in facts["files"]):
        raise DataError("the parquet data have no rows", found=str(sources[0]), fix="give data with --data PATH")
    schema = _SCHEMA.with_metadata({"mae_lite": json.dumps(facts)})
    with disk.published_file(target) as temporary:
        with explained(target, "write"):
            writer = pa.ipc.new_file(str(temporary), schema)
        for source, file, column in zip(sources, opened, columns, strict=True):
            for batch in _batches(source, file, column):
                with explained(target, "write"):
                    writer.write_batch(batch)
        with explained(target, "write"):
            writer.close()


def _open(source: Path) -> Any:
    try:
        # A buffer size makes it read row groups page by page instead of whole.
        return pq.ParquetFile(source, buffer_size=1 << 20)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(source, error) from error


def _damaged(source: Path, error: Exception, row: int = 0) -> DataError:
    return DataError(
        f"parquet file {str(source)!r} cannot be read" + (f" beyond row {row}" if row else ""),
        found=str(error).splitlines()[0] if str(error) else type(error).__name__,
        expected="a complete parquet file",
        fix="copy or download it again",
    )


def _columns(source: Path, schema: Any) -> _Columns:
    image = next((name for name in _IMAGE_COLUMNS if name in schema.names), None)
    kind = None if image is None else schema.field(image).type
    nested = kind is not None and pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    if image is None or not (nested or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise DataError(
            f"parquet file {str(source)!r} has no column of encoded images",
            found=", ".join(f"{field.name}: {field.type}" for field in schema),
            expected="a column 'image' of type binary, or struct<bytes: binary, path: string>",
            fix="write it with Hugging Face datasets as an Image feature, or give a folder of images",
        )
    label = next((name for name in _LABEL_COLUMNS if name in schema.names), None)
    if label is not None and not pa.types.is_integer(schema.field(label).type):
        raise DataError(
            f"parquet file {str(source)!r} has labels that are not integers",
            found=f"column {label!r} of type {schema.field(label).type}",
            expected="class numbers from 0",
            fix="write it with Hugging Face datasets as a ClassLabel feature",
        )
    return _Columns(image, nested, label, None if label is None else _class_names(schema, label))


def _class_names(schema: Any, label: str) -> tuple[str, ...] | None:
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(str(name) for name in features[label]["names"])
    except (KeyError, TypeError, ValueError):  # written by other software: class numbers serve as names
        return None


def _digest(sources: list[Path]) -> str:
    """Hash names, sizes and footers; a footer holds the position and statistics of every column chunk."""
    digest = hashlib.sha256()
    for source in sources:
        with source.open("rb") as handle:
            size = handle.seek(0, 2)
            handle.seek(max(size - 8, 0))
            footer = int.from_bytes(handle.read(4), "little")
            handle.seek(max(size - 8 - footer, 0))
            digest.update(f"{source.name}/{size}/".encode() + handle.read())
    return digest.hexdigest()


def _batches(source: Path, file: Any, columns: _Columns) -> Iterator[Any]:
    row = 0
    batches = file.iter_batches(_BATCH_ROWS, columns=[columns.image, *([columns.label] if columns.label else [])])
    while True:
        try:
            batch = next(batches, None)
        except (OSError, pa.ArrowException) as error:
            raise _damaged(source, error, row) from error
        if batch is None:
            return
        image = batch.column(columns.image)
        encoded = image.field("bytes") if columns.nested else image
        # A null struct hides its fields without making them null.
        absent = np.asarray(image.is_null()) | np.asarray(encoded.is_null())
        _refuse(source, row, absent, "no image bytes", "the encoded image itself, not only a path to it")
        yield pa.record_batch([encoded.cast(pa.binary()), _labels(source, row, batch, columns)], schema=_SCHEMA)
        row += batch.num_rows


def _labels(source: Path, row: int, batch: Any, columns: _Columns) -> Any:
    if columns.label is None:
        return pa.array(np.full(batch.num_rows, -1, dtype=np.int64))
    column = batch.column(columns.label)
    count = _MAX_CLASSES if columns.names is None else len(columns.names)
    _refuse(source, row, np.asarray(column.is_null()), "no label (null)", f"a class number from 0 to {count - 1}")
    labels = column.to_numpy(zero_copy_only=False)
    wrong = (labels < 0) | (labels >= count)
    found = f"label {labels[wrong][0]}" if wrong.any() else ""
    _refuse(source, row, wrong, found, f"a class number from 0 to {count - 1}")
    return pa.array(labels.astype(np.int64))


def _refuse(source: Path, start: int, wrong: npt.NDArray[np.bool_], found: str, expected: str) -> None:
    if wrong.any():
        raise DataError(
            f"parquet file {str(source)!r} row {start + int(wrong.argmax())} (counted from 0) cannot be used",
            found=found,
            expected=expected,
            fix="correct or remove that row",
        )
