"""A table of image files: CSV or TSV with a column of paths, and perhaps columns of labels and of splits."""

from __future__ import annotations

import csv
import hashlib
import io
import logging
import os
import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mae_lite.data.sources import Example, Indices, Source, Split, some
from mae_lite.data.splits import WORDS, choose_split, split_of
from mae_lite.errors import DataError

_log = logging.getLogger(__name__)

# Where a table has several of them, the first listed is taken: full paths tell more than bare names.
_PATHS = ("path", "filepath", "file_path", "image_path", "file", "filename", "image", "img")
_LABELS = ("label", "class", "class_name", "label_name", "category", "target")
_SPLITS = ("split", "set", "subset", "partition")
_ABSENT = ("nan", "null", "none", "na", "n/a", "<na>")
"""What programs write among numbers where there is none."""
_NUMBER = re.compile(r"-?[0-9]{1,18}(\.[0-9]+)?")
_CHECKED = 1000
"""Files whose existence is checked at opening: a million questions to a network disk would take minutes."""


@dataclass
class _Rows:
    """The rows of a table, column by column."""

    lines: list[int] = field(default_factory=list)
    """Where each begins, counted from 1 as editors do."""
    paths: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    """Empty strings without labels."""
    splits: list[Split] = field(default_factory=list)
    """Empty when there is no such column."""


@dataclass(frozen=True)
class _Columns:
    """Which column holds what."""

    count: int
    path: int
    label: int | None
    split: int | None


class Table(Source):
    """The images that a table names, in its order. Paths are relative to the table's folder."""

    in_memory = False

    def __init__(self, path: Path, split: Split = "train", name: str | None = None, *, strict: bool = False) -> None:
        """Read the table and derive the classes: from the rows of the train split, where splits are told.

        Whole numbers are classes in the order of the numbers, anything else is in the order of the text.

        Args:
            path: a file that ends in .tsv, or one whose header is divided by commas, semicolons or tabs.
            split: which rows, where a column tells splits; otherwise all rows are taken for every split.
            name: what the user gave.
            strict: whether nothing may stand in for a missing split.

        Raises:
            DataError: when the table, a row, a label or one of the first files is missing or wrong; names the line.
        """
        self.name = name or str(path)
        rows = _parse(_text(path), path)
        _check_unique(rows, path)
        names, classes = _classes(rows, path)
        self.split = choose_split(sorted({*rows.splits}), split, self.name, strict=strict) if rows.splits else None
        kept = [row for row in range(len(rows.paths)) if self.split is None or rows.splits[row] == self.split]
        labelled = bool(names[kept[0]])
        number = {class_name: position for position, class_name in enumerate(classes)}
        self.classes = tuple(classes) if labelled else None
        self.labels = np.array([number[names[row]] if labelled else -1 for row in kept], dtype=np.int64)
        self._folder = path.parent
        # One buffer for all paths: a list of a million strings would be copied into every worker process by
        # reference counting alone.
        encoded = [rows.paths[row].encode() for row in kept]
        self._buffer = b"".join(encoded)
        self._ends: Indices = np.cumsum([len(item) for item in encoded], dtype=np.int64)
        _check_files(self._folder, [(rows.lines[row], rows.paths[row]) for row in kept[:_CHECKED]], path)

    def _written(self, index: int) -> bytes:
        start = int(self._ends[index - 1]) if index > 0 else 0
        return self._buffer[start : int(self._ends[index])]

    def example(self, index: int) -> Example:
        """Return where image ``index`` is; whether it still is there, its reader finds out."""
        path = self._folder / self._written(index).decode()
        return Example(str(path), path)

    def fingerprint(self) -> dict[str, int | str]:
        """Return the count and a SHA-256 over paths, labels and file sizes; asks the file system for every size."""
        digest = hashlib.sha256()
        for index, label in enumerate(self.labels.tolist()):
            written = self._written(index)
            try:
                size = (self._folder / written.decode()).stat().st_size
            except OSError:
                size = -1  # reading the image is what will say so
            class_name = self.classes[label] if self.classes else ""
            digest.update(b"%s\0%s\0%d\0" % (written, class_name.encode(), size))
        return {"count": len(self), "sha256": digest.hexdigest()}


def _fault(path: Path, line: int, what: str, *, found: str = "", expected: str = "", fix: str) -> DataError:
    return DataError(f"{str(path)!r} line {line}: {what}", found=found, expected=expected, fix=fix)


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        found, fix = str(error.strerror), "give a CSV file that you may read, with --data csv:FILE.csv"
        raise DataError(f"table {str(path)!r} cannot be read", found=found, fix=fix) from error
    resave = "save it as UTF-8 (in Excel: 'CSV UTF-8')"
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"table {str(path)!r} is not UTF-8", found="UTF-16 at byte position 0", fix=resave)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        at = error.start + len(data) - len(error.object)  # counted there from behind the mark at the start
        line = data.count(b"\n", 0, at) + 1
        found = f"byte {data[at]:#04x} at byte position {at}, line {line}"
        raise DataError(f"table {str(path)!r} is not UTF-8", found=found, fix=resave) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise _fault(path, line, "a zero byte, which no text has", fix="give a text file of comma separated values")
    if not text.strip():
        fix = "write a header such as path,label and a line for each image"
        raise DataError(f"table {str(path)!r} is empty", found=f"{len(data)} bytes", fix=fix)
    return text


def _parse(text: str, path: Path) -> _Rows:
    rows, columns, start = _Rows(), None, 1
    delimiter = "\t" if path.suffix.lower() == ".tsv" else _delimiter(text)
    # newline="" leaves line ends to csv, which must tell those inside quotes from the others.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            line, start = start, reader.line_num + 1
            if not "".join(cells).strip() and len(cells) < 2:
                continue
            if columns is None:
                columns = _columns(cells, path, line)
            else:
                _add(rows, cells, columns, path, line)
    except csv.Error as error:
        fix = "close every quote that is opened, and write a quote inside quotes twice"
        raise _fault(path, start, "the row cannot be read", found=str(error), fix=fix) from error
    if not rows.paths:
        raise DataError(f"table {str(path)!r} has no rows", found="a header alone", fix="add a line for each image")
    return rows


def _delimiter(text: str) -> str:
    """Return what divides the header into most columns; a comma where nothing does."""

    def columns(delimiter: str) -> int:
        reader = csv.reader(io.StringIO(text.lstrip(), newline=""), delimiter=delimiter)
        try:
            return len(next(reader, []))
        except csv.Error:
            return 0

    return max(",;\t", key=columns)


def _columns(cells: list[str], path: Path, line: int) -> _Columns:
    header = [cell.strip().lower() for cell in cells]
    found = [next((word for word in words if word in header), None) for words in (_PATHS, _LABELS, _SPLITS)]
    known = [word for word in found if word is not None]
    if found[0] is None:
        fix = "make the first line a header such as path,label or path,label,split"
        what, expected = "the header has no column of paths", f"one of {', '.join(_PATHS)}"
        raise _fault(path, line, what, found=f"the columns {some(cells)}", expected=expected, fix=fix)
    double = [word for word in known if header.count(word) > 1]
    if double:
        raise _fault(path, line, f"{header.count(double[0])} columns are named {double[0]!r}", fix="rename one of them")
    others = [cell for cell, word in zip(cells, header, strict=True) if word not in known]
    if others:
        _log.info("%s: the columns %s are read, not %s", path, some(known), some(others))
    at = [None if word is None else header.index(word) for word in found]
    return _Columns(len(cells), at[0] or 0, at[1], at[2])


def _add(rows: _Rows, cells: list[str], columns: _Columns, path: Path, line: int) -> None:
    if len(cells) != columns.count:
        raise _fault(
            path,
            line,
            f"too {'few' if len(cells) < columns.count else 'many'} fields",
            found=str(len(cells)),
            expected=f"{columns.count}, as in the header",
            fix="put what contains the separator or a line break between quotes",
        )
    if not cells[columns.path].strip():
        raise _fault(path, line, "the path is empty", fix="write the path of the image, or remove the line")
    if columns.split is not None:
        word = cells[columns.split].strip()
        split = split_of(word)
        if split is None:
            words = ", ".join(word for words in WORDS.values() for word in words)
            raise _fault(path, line, "the split is unknown", found=repr(word), expected=words, fix="write train or val")
        rows.splits.append(split)
    rows.lines.append(line)
    rows.paths.append(cells[columns.path])
    rows.labels.append("" if columns.label is None else cells[columns.label].strip())


def _check_unique(rows: _Rows, path: Path) -> None:
    first: dict[str, int] = {}
    for row, image in enumerate(rows.paths):
        other = first.setdefault(image, row)
        if other == row:
            continue
        what = f"image {image!r} is listed twice, also in line {rows.lines[other]}"
        labels = rows.labels[other], rows.labels[row]
        if labels[0] != labels[1]:
            what += f", with the labels {labels[0]!r} there and {labels[1]!r} here"
        raise _fault(path, rows.lines[row], what, fix="remove one of both lines")


def _classes(rows: _Rows, path: Path) -> tuple[list[str], list[str]]:
    """Return the class name of every row ("" without labels) and the classes in order."""
    splits: list[Split | None] = [*rows.splits] or [None] * len(rows.paths)
    labelled = {split for label, split in zip(rows.labels, splits, strict=True) if label}
    for line, label, split in zip(rows.lines, rows.labels, splits, strict=True):
        if split in labelled and not label:
            others = f"the other {split} rows have one" if split else "other rows have one"
            raise _fault(path, line, f"the label is empty while {others}", fix="write its label, or remove the line")
    numbers = _numeric(rows, path)
    names = [str(int(label.split(".")[0])) if numbers and label else label for label in rows.labels]
    sources = {"train"} if "train" in labelled else labelled
    chosen = {name for name, split in zip(names, splits, strict=True) if name and split in sources}
    for line, name, split in zip(rows.lines, names, splits, strict=True):
        if name and name not in chosen:
            raise _fault(
                path,
                line,
                f"label {name!r} of the {split} split does not occur in the train split",
                expected=some(sorted(chosen)),
                fix="correct the label, or remove the rows that have it",
            )
    return names, sorted(chosen, key=int if numbers else None)


def _numeric(rows: _Rows, path: Path) -> bool:
    """Return whether the labels are whole numbers; with zeros in front ("007") they count as text and stay as they are.

    Raises:
        DataError: when they are numbers, but not whole ones from 0, or some are missing.
    """
    labels = [(label, line) for label, line in zip(rows.labels, rows.lines, strict=True) if label]
    others = [(label, line) for label, line in labels if not _NUMBER.fullmatch(label)]
    if len(others) == len(labels) or any(label.lower() not in _ABSENT for label, _ in others):
        return False
    for label, line in labels:
        if not _NUMBER.fullmatch(label) or label.startswith("-") or label.partition(".")[2].strip("0"):
            raise _fault(
                path,
                line,
                "the label is no class number",
                found=repr(label),
                expected="whole numbers from 0, as the other labels are numbers",
                fix="write its class number, or remove the line",
            )
    return not any(re.match("0[0-9]", label) for label, _ in labels)


def _check_files(folder: Path, rows: list[tuple[int, str]], path: Path) -> None:
    missing = [(line, image) for line, image in rows if not os.path.exists(folder / image)]
    if not missing:
        return
    (line, image), place = missing[0], folder / missing[0][1]
    fix = f"correct the path; it counts from the folder of the table, {str(folder)!r}"
    if any(os.path.exists(unicodedata.normalize(form, str(place))) for form in ("NFC", "NFD")):
        fix = "write it as the disk does: the same letters are there in another Unicode form (NFC or NFD)"
    elif "\\" in image:
        fix = "separate folders by / in place of \\"
    what, found = (
        f"image {str(place)!r} does not exist",
        f"{len(missing)} of the {len(rows)} files looked for are missing",
    )
    raise _fault(path, line, what, found=found, fix=fix)
