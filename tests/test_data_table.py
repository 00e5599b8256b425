"""Tables of image files: what is a label, which rows are a split, and errors that name the line."""

from __future__ import annotations

import csv
import io
import logging
import multiprocessing
import pickle
import tempfile
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mae_lite.data.sources import Split
from mae_lite.data.table import Table
from mae_lite.errors import DataError


def jpeg(red: int) -> bytes:
    """Return a small JPEG file."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (red, 0, 0)).save(buffer, "JPEG")
    return buffer.getvalue()


def plant(folder: Path, text: str | bytes, *names: str, table: str = "t.csv") -> Path:
    """Write a table, and the images it names."""
    for position, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(jpeg(position))
    path = folder / table
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def rows(folder: Path, header: str, *lines: str) -> Path:
    """Write a table of the given lines, and the images in their first column."""
    return plant(folder, "\n".join([header, *lines]), *(line.split(",")[0] for line in lines))


def named(table: Table) -> list[str]:
    """Return the class name of every image."""
    assert table.classes is not None
    return [table.classes[label] for label in table.labels.tolist()]


def read(table: Table) -> list[bytes]:
    """Return the bytes behind every example."""
    found = [table.example(index).data for index in range(len(table))]
    assert all(isinstance(path, Path) for path in found)
    return [path.read_bytes() for path in found if isinstance(path, Path)]


def fails(path: Path, *words: str, split: Split = "train", strict: bool = False) -> None:
    """Assert that a table is refused by the error contract."""
    with pytest.raises(DataError) as caught:
        Table(path, split, strict=strict)
    message = str(caught.value)
    assert "\nFix: " in message and str(path) in message
    for word in words:
        assert word in message, message


def test_paths_and_labels(tmp_path: Path) -> None:
    table = Table(rows(tmp_path, "path,label", "b.jpg,dog", "sub/a.jpg,cat", "c.jpg,dog"))
    assert table.classes == ("cat", "dog") and table.labels.tolist() == [1, 0, 1]
    assert read(table) == [jpeg(0), jpeg(1), jpeg(2)]
    assert table.example(1).name == str(tmp_path / "sub" / "a.jpg")
    assert (table.in_memory, table.split, len(table)) == (False, None, 3)
    assert "3 images in 2 classes" in table.describe()


def test_no_labels(tmp_path: Path) -> None:
    table = Table(rows(tmp_path, "path", "a.jpg", "b.jpg"), name="mine")
    assert table.classes is None and table.labels.tolist() == [-1, -1] and table.name == "mine"
    empty = Table(rows(tmp_path, "path,label", "a.jpg,", "b.jpg, "))
    assert empty.classes is None and empty.labels.tolist() == [-1, -1]


@pytest.mark.parametrize(
    "header", ["Path,Label", " FILE , Class ", "image,target", "filepath,Category", "IMG,label_name", "label,path"]
)
def test_headers(tmp_path: Path, header: str) -> None:
    swapped = header.startswith("label,")
    path = plant(tmp_path, f"{header}\n" + ("x,a.jpg" if swapped else "a.jpg,x"), "a.jpg")
    assert named(Table(path)) == ["x"]


def test_other_columns_are_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "mae_lite"):
        table = Table(rows(tmp_path, "filename,filepath,width,label", "a.jpg,a.jpg,3,x", "b.jpg,b.jpg,4,y"))
    assert named(table) == ["x", "y"]
    assert len(caplog.records) == 1 and "'filepath', 'label' are read, not 'filename', 'width'" in caplog.text


@pytest.mark.parametrize(
    ("ending", "separator"), [("csv", ","), ("csv", ";"), ("csv", "\t"), ("tsv", "\t"), ("txt", ";")]
)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_dialects(tmp_path: Path, ending: str, separator: str, mark: str, end: str) -> None:
    lines = ["", "path,label", "", 'a.jpg,"x,;\ty"', "", "b.jpg,z", "", ""]
    # What stands between quotes keeps its separators.
    text = end.join(line.replace(".jpg,", f".jpg{separator}").replace("path,", f"path{separator}") for line in lines)
    table = Table(plant(tmp_path, mark + text, "a.jpg", "b.jpg", table=f"t.{ending}"))
    assert sorted(named(table)) == sorted(["x,;\ty", "z"]) and read(table) == [jpeg(0), jpeg(1)]


@pytest.mark.parametrize(
    ("labels", "classes", "numbers"),
    [
        (["10", "2", "0"], ("0", "2", "10"), [2, 1, 0]),
        (["2", "0", "1"], ("0", "1", "2"), [2, 0, 1]),
        (["1.0", "0.0", "1"], ("0", "1"), [1, 0, 1]),
        (["007", "010", "001"], ("001", "007", "010"), [1, 2, 0]),
        (["10", "2", "cat"], ("10", "2", "cat"), [0, 1, 2]),
        (["nan", "cat", "dog"], ("cat", "dog", "nan"), [2, 0, 1]),
        (["1" * 40, "2" * 5000, "3"], ("1" * 40, "2" * 5000, "3"), [0, 1, 2]),
        ([" dog", "cat ", "dog"], ("cat", "dog"), [1, 0, 1]),
    ],
)
def test_class_numbers(tmp_path: Path, labels: list[str], classes: tuple[str, ...], numbers: list[int]) -> None:
    table = Table(rows(tmp_path, "path,label", *(f"{row}.jpg,{label}" for row, label in enumerate(labels))))
    assert table.classes == classes and table.labels.tolist() == numbers


SPLITS = ("path,label,split", "a.jpg,y,train", "b.jpg,x,TRAINING", "c.jpg,y,Validation", "d.jpg,x,dev")


def test_splits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = rows(tmp_path, *SPLITS)
    assert named(Table(path)) == ["y", "x"] and read(Table(path)) == [jpeg(0), jpeg(1)]
    val = Table(path, "val")
    assert read(val) == [jpeg(2), jpeg(3)] and (val.split, val.classes) == ("val", ("x", "y"))
    with caplog.at_level(logging.INFO, "mae_lite"):
        assert Table(path, "test").split == "val"
    assert "its val images are taken" in caplog.text
    with pytest.raises(DataError, match="has no test images"):
        Table(path, "test", strict=True)


def test_classes_come_from_train(tmp_path: Path) -> None:
    path = rows(tmp_path, "path,label,split", "a.jpg,0,train", "b.jpg,7,train", "c.jpg,3,train", "d.jpg,7,val")
    assert Table(path, "val").classes == ("0", "3", "7") and Table(path, "val").labels.tolist() == [2]
    path = rows(tmp_path, "path,label,split", "a.jpg,cat,train", "b.jpg,cat,val", "c.jpg,dgo,val")
    for split in ("train", "val"):  # before training, not after it
        fails(path, "line 4", "'dgo'", "val split", "'cat'", split=split)


def test_a_split_may_lack_labels(tmp_path: Path) -> None:
    path = rows(tmp_path, "path,label,split", "a.jpg,1,train", "b.jpg,0,train", "c.jpg,,test", "d.jpg,,test")
    assert Table(path).labels.tolist() == [1, 0]
    test = Table(path, "test")
    assert test.classes is None and test.labels.tolist() == [-1, -1]
    path = rows(tmp_path, "path,label,split", "a.jpg,,train", "b.jpg,dog,val", "c.jpg,cat,val")
    assert Table(path).classes is None and Table(path, "val").classes == ("cat", "dog")


def test_only_validation(tmp_path: Path) -> None:
    path = rows(tmp_path, "path,label,split", "a.jpg,x,val")
    assert Table(path, "val").classes == ("x",)
    with pytest.raises(DataError, match="has no train images"):
        Table(path)


def test_without_a_column_of_splits_all_is_taken(tmp_path: Path) -> None:
    path = rows(tmp_path, "path,label", "a.jpg,x", "b.jpg,y")
    assert [(len(Table(path, split, strict=True)), Table(path, split).split) for split in ("train", "val", "test")] == [
        (2, None)
    ] * 3


def test_places(tmp_path: Path) -> None:
    """Absolute paths, tildes and backslashes are names like any other."""
    elsewhere = tmp_path / "elsewhere"
    path = plant(elsewhere, "", "abs.jpg", "~/t.jpg", "a\\b.jpg", "../up.jpg")
    plant(elsewhere, f"path\n{elsewhere / 'abs.jpg'}\n~/t.jpg\na\\b.jpg\n../up.jpg\n")
    assert read(Table(path)) == [jpeg(0), jpeg(1), jpeg(2), jpeg(3)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["is empty", "0 bytes"]),
        ("\n \n", ["is empty"]),
        ("path,label\n", ["no rows"]),
        ("name,label\na.jpg,1", ["line 1", "'name', 'label'", "path,label"]),
        ("\n\na.jpg,1\nb.jpg,2", ["line 3", "'a.jpg', '1'"]),
        ("path,label,path\na.jpg,1,a.jpg", ["line 1", "2 columns are named 'path'"]),
        ("path,label\na.jpg,1\nb.jpg", ["line 3", "too few fields", "expected 2"]),
        ("path,label\n\n\nmy, name.jpg,1", ["line 4", "too many fields", "found 3"]),
        ('path,label\n"a\n\nb.jpg",1\nb.jpg', ["line 5", "too few"]),
        ('path,label\n"a\r\nb.jpg",1\r\nb.jpg', ["line 4", "too few"]),
        ("path,label\na.jpg,1\n ,1", ["line 3", "path is empty"]),
        ("path,label\na.jpg,1\n,", ["line 3", "path is empty"]),
        ("path,label\na.jpg,1\nb.jpg,", ["line 3", "label is empty"]),
        ("path,label,split\na.jpg,1,val\nb.jpg,1,train\nc.jpg,,val", ["line 4", "the other val rows"]),
        ("path,label\na.jpg,1\nb.jpg,nan", ["line 3", "'nan'", "whole numbers"]),
        ("path,label\na.jpg,NaN\nb.jpg,2", ["line 2", "'NaN'"]),
        ("path,label\na.jpg,null\nb.jpg,2", ["line 2", "'null'"]),
        ("path,label\na.jpg,1\nb.jpg,-1", ["line 3", "'-1'"]),
        ("path,label\na.jpg,1\nb.jpg,0.5", ["line 3", "'0.5'"]),
        ("path,label\na.jpg,1\nb.jpg,1\na.jpg,2", ["line 4", "twice", "line 2", "'1'", "'2'"]),
        ("path,label\na.jpg,1\nb.jpg,1\na.jpg,1", ["line 4", "twice", "line 2", "remove one"]),
        ("path,split\na.jpg,train\nb.jpg,foo", ["line 3", "'foo'", "train"]),
        ("path,split\na.jpg,train\nb.jpg,", ["line 3", "''"]),
        ('path,label\na.jpg,1\n"b.jpg,1\nc.jpg,1', ["line 3", "quote"]),
        ('path,label\na.jpg,1\n"b"c.jpg,1', ["line 3", "quote"]),
        (f'path,label\na.jpg,1\n"{"x" * 200_000}",1', ["line 3", "limit"]),
        ("path,label\na.jpg,1\nb\0.jpg,1", ["line 3", "zero byte"]),
        ("path,label\na.jpg,1\n\nnot_there.jpg,2\nnor_there.jpg,2", ["line 4", "not_there.jpg", "2 of the 3"]),
        ("path,label\nsub\\a.jpg,1", ["line 2", "separate folders by /"]),
        (f"path,label\n{'x' * 300}.jpg,1", ["line 2", "does not exist"]),
        (b"path,label\na.jpg,1\nb.jpg,caf\xe9\n", ["byte position 28", "0xe9", "line 3", "UTF-8"]),
        (b"\xef\xbb\xbfpath,label\nb.jpg,caf\xe9\n", ["byte position 23", "0xe9", "line 2", "UTF-8"]),
        ("path,label\na.jpg,1".encode("utf-16"), ["UTF-16", "UTF-8"]),
    ],
)
def test_errors_name_the_line(tmp_path: Path, text: str | bytes, words: list[str]) -> None:
    fails(plant(tmp_path, text, "a.jpg", "b.jpg", "c.jpg"), *words)


def test_a_table_that_cannot_be_read(tmp_path: Path) -> None:
    fails(tmp_path, "Is a directory")
    fails(tmp_path / "x.csv", "No such file")


def test_another_unicode_form_is_told(tmp_path: Path) -> None:
    name = unicodedata.normalize("NFD", "é.jpg")
    path = plant(tmp_path, "path\n" + unicodedata.normalize("NFC", name), name)
    fails(path, "line 2", "Unicode form")


def test_only_the_first_files_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mae_lite.data.table._CHECKED", 2)
    path = plant(tmp_path, "path\na.jpg\nb.jpg\nnot_there.jpg", "a.jpg", "b.jpg")
    assert Table(path).example(2).data == tmp_path / "not_there.jpg"


def test_fingerprint(tmp_path: Path) -> None:
    path = rows(tmp_path, "path,label", "a.jpg,x", "b.jpg,y")
    table = Table(path)
    first = table.fingerprint()
    assert first["count"] == 2 and first == Table(path).fingerprint() and len(str(first["sha256"])) == 64
    (tmp_path / "a.jpg").write_bytes(b"another size")
    second = table.fingerprint()
    (tmp_path / "a.jpg").unlink()
    third = table.fingerprint()
    (tmp_path / "a.jpg").write_bytes(jpeg(0))
    relabelled = Table(plant(tmp_path, "path,label\na.jpg,y\nb.jpg,x")).fingerprint()
    renamed = Table(plant(tmp_path, "path,label\na.jpg,x\nb.jpg,z")).fingerprint()
    assert len({str(print_["sha256"]) for print_ in (first, second, third, relabelled, renamed)}) == 5
    assert Table(plant(tmp_path, "label;path\nx;a.jpg\ny;b.jpg")).fingerprint() == first


def _child(source: Table, connection: object) -> None:
    connection.send(read(source))  # type: ignore[attr-defined]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_read_the_same(tmp_path: Path, method: str) -> None:
    table = Table(rows(tmp_path, "path,label", "a.jpg,x", "b.jpg,y"))
    assert read(pickle.loads(pickle.dumps(table))) == read(table)
    context = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    process = context.Process(target=_child, args=(table, theirs))  # type: ignore[attr-defined]
    process.start()
    assert ours.recv() == read(table)
    process.join(20)
    assert process.exitcode == 0


# Any text that UTF-8 can carry and that may name a file.
_LETTERS = st.characters(exclude_categories=["Cs"], exclude_characters="/\0")
_NAMES = st.text(_LETTERS, min_size=1, max_size=60).filter(lambda name: name.strip() and name not in (".", ".."))
_LABELS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20).filter(
    lambda label: bool(label.strip())
)


def _write(path: Path, header: Sequence[str], lines: list[tuple[str, str]], dialect: str) -> None:
    with path.open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle, dialect).writerows([header, *lines])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(_NAMES, _LABELS), min_size=1, max_size=6, unique_by=lambda row: row[0]), st.booleans())
def test_any_names_and_labels_come_back(lines: list[tuple[str, str]], tabs: bool) -> None:
    lines = [(f"{name}.jpg", f"class {label}") for name, label in lines if len(name.encode()) <= 251]
    if not lines:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "t.tsv" if tabs else "t.csv")
        _write(path, ["path", "label"], lines, "excel-tab" if tabs else "excel")
        for position, (name, _) in enumerate(lines):
            Path(folder, name).write_bytes(b"%d" % position)
        table = Table(path)
        assert [Path(table.example(row).name).name for row in range(len(table))] == [name for name, _ in lines]
        assert named(table) == [label.strip() for _, label in lines]
        assert read(table) == [b"%d" % position for position in range(len(lines))]
        assert table.classes == tuple(sorted({label.strip() for _, label in lines}))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 10**17), min_size=1, max_size=20))
def test_numbers_keep_their_order(numbers: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for row in range(len(numbers)):
            Path(folder, f"{row}.jpg").touch()
        lines = [(f"{row}.jpg", str(number)) for row, number in enumerate(numbers)]
        _write(Path(folder, "t.csv"), ["file", "target"], lines, "unix")
        table = Table(Path(folder, "t.csv"))
        assert table.classes == tuple(str(number) for number in sorted(set(numbers)))
        assert named(table) == [str(number) for number in numbers]


@pytest.mark.parametrize(
    "name",
    [
        "é" * 125 + "e.jpg",  # 255 bytes
        " leading and trailing .jpg ",
        "-rf.jpg",
        "100%.jpg",
        "日本語/猫.jpg",
        "🐈.jpg",
        "line\nbreak.jpg",
        'quote".jpg',
        "=cmd().jpg",
        "\x1b[31mred.jpg",
        unicodedata.normalize("NFD", "ü.jpg"),
    ],
)
def test_odd_names(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(jpeg(5))
    _write(tmp_path / "t.csv", ["path", "label"], [(name, name)], "excel")
    table = Table(tmp_path / "t.csv")
    assert read(table) == [jpeg(5)] and named(table) == [name.strip()]
    assert table.example(0).data == tmp_path / name


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_a_table_or_an_error(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = plant(Path(folder), b"path,label\n" + data)
        with pytest.raises(DataError, match="Fix: "):
            Table(path)
