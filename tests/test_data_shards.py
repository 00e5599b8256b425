"""Tar shards: patterns, labels, the kept index, and archives that are broken or mean harm."""

from __future__ import annotations

import gzip
import io
import json
import logging
import multiprocessing
import os
import pickle
import tarfile
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mae_lite.data import shard_files, shard_index
from mae_lite.data.shards import Shards
from mae_lite.data.sources import Split, subset
from mae_lite.errors import ConfigError, DataError, DiskError

pytestmark = pytest.mark.usefixtures("arrow_cache")

Members = list[tuple[str, bytes]]


def picture(red: int, kind: str = "JPEG") -> bytes:
    """Return a small image file."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (red, 0, 0)).save(buffer, kind)
    return buffer.getvalue()


def info(name: str, size: int = 0, **fields: Any) -> tarfile.TarInfo:
    """Return a header."""
    member = tarfile.TarInfo(name)
    member.size = size
    for key, value in fields.items():
        setattr(member, key, value)
    return member


def shard(path: Path, members: Members, form: int = tarfile.PAX_FORMAT) -> Path:
    """Write a tar file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:", format=form, errors="surrogateescape") as tar:
        for name, data in members:
            tar.addfile(info(name, len(data)), io.BytesIO(data))
    return path


def numbered(*labels: int, start: int = 0) -> Members:
    """Return samples of WebDataset: an image and its class number each."""
    return [
        member
        for position, label in enumerate(labels, start)
        for member in ((f"{position:04d}.jpg", picture(position)), (f"{position:04d}.cls", str(label).encode()))
    ]


def read(source: Any) -> list[bytes]:
    """Return the bytes of every example."""
    found = [source.example(index).data for index in range(len(source))]
    assert all(isinstance(data, bytes) for data in found)
    return found


def fails(pattern: object, *words: str, split: Split = "train", kind: type = DataError) -> None:
    """Assert that shards are refused by the error contract."""
    with pytest.raises(kind) as caught:
        Shards(str(pattern), split)
    assert "\nFix: " in str(caught.value)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_images_with_class_numbers(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", [*numbered(2, 0), ("x.txt", b"a caption")])
    source = Shards(str(path))
    assert source.classes == ("0", "1", "2") and source.labels.tolist() == [2, 0]
    assert read(source) == [picture(0), picture(1)]
    assert source.example(1).name == f"{path} member 0001.jpg"
    assert (source.name, source.split, source.in_memory, len(source)) == (str(path), None, False, 2)
    assert "2 images in 3 classes" in source.describe() and source.labels.dtype == np.int64
    assert source.labels.flags.writeable
    assert read(subset(source, [1])) == [picture(1)]


def test_labels_in_json(tmp_path: Path) -> None:
    label = {"label": 1, "height": 3}
    members = [("a.json", json.dumps(label).encode()), ("a.png", picture(1, "PNG")), *numbered(0)]
    source = Shards(str(shard(tmp_path / "a.tar", [*members, ("0000.json", b'{"label": 0}')])), name="mine")
    assert source.labels.tolist() == [1, 0] and read(source) == [picture(1, "PNG"), picture(0)]
    assert source.name == "mine"


@pytest.mark.parametrize("data", [b"{}", b'{"label": null}', b"[1]", b'"label"'])
def test_json_about_other_things(tmp_path: Path, data: bytes) -> None:
    source = Shards(str(shard(tmp_path / "a.tar", [("a.jpg", picture(0)), ("a.json", data)])))
    assert source.classes is None and source.labels.tolist() == [-1]


def test_folders_are_classes(tmp_path: Path) -> None:
    names = ["./data/n02/n02_a.JPEG", "data/n01/n01_b.jpg", "/abs/n02/c.webp", "../../n03/d.npy"]
    source = Shards(str(shard(tmp_path / "a.tar", [(name, name.encode()) for name in names])))
    assert source.classes == ("n01", "n02", "n03") and source.labels.tolist() == [1, 0, 1, 2]
    assert read(source) == [name.encode() for name in names]


def test_no_labels(tmp_path: Path) -> None:
    source = Shards(str(shard(tmp_path / "a.tar", [("./b.jpg", b"b"), ("../a.png", b"a")])))
    assert source.classes is None and source.labels.tolist() == [-1, -1] and read(source) == [b"b", b"a"]


def test_class_names(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", numbered(2, 0))
    names = tmp_path / "classnames.txt"
    names.write_text("\ufeffcat\r\ndög\r\nemu crane\r\nunseen\r\n\r\n", encoding="utf-8")
    assert Shards(str(path)).classes == ("cat", "dög", "emu crane", "unseen")
    (tmp_path / "classes.txt").write_text("a\nb\nc")
    assert Shards(str(path)).classes == ("a", "b", "c")
    for text, words in (
        (b"a\nb\n", ["too few", "2 names", "class number 2"]),
        (b"a\nb\na", ["not unique", "'a'"]),
        (b"a\n\nb", ["not unique", "line 2"]),
        (b"\xff\n", ["UTF-8"]),
    ):
        (tmp_path / "classes.txt").write_bytes(text)
        fails(path, str(tmp_path / "classes.txt"), *words)


def test_other_files_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    hidden = ["__MACOSX/a.jpg", "._a.jpg", ".DS_Store", "x/.cache/b.jpg", ".jpg"]
    harm = ["a.pyd", "b.pickle", "c.pth", "d.pth", "README", "a.v2.cls"]
    path = shard(tmp_path / "a.tar", [(name, b"\x80\x04cos\nsystem\n") for name in hidden + harm] + numbered(0))
    with caplog.at_level(logging.INFO, "mae_lite"):
        assert len(Shards(str(path))) == 1
    assert [record.message for record in caplog.records if "not read" in record.message] == [
        f"{path}: not read: 2 x .pth, 1 x .pyd, 1 x .pickle, 1 x no extension, 1 x .cls"
    ]


def test_order(tmp_path: Path) -> None:
    shard(tmp_path / "b.tar", numbered(0, 0, start=4))
    shard(tmp_path / "a.tar", numbered(0, 1)[::-1])
    # The same keys in two shards are different samples.
    shard(tmp_path / "c.tar", numbered(1))
    source = Shards(str(tmp_path))
    assert read(source) == [picture(red) for red in (1, 0, 4, 5, 0)]
    assert source.labels.tolist() == [1, 0, 0, 0, 1]


@pytest.mark.parametrize(
    ("pattern", "texts"),
    [
        ("a.tar", ["a.tar"]),
        ("a-{8..11}", ["a-8", "a-9", "a-10", "a-11"]),
        ("a-{008..011}", ["a-008", "a-009", "a-010", "a-011"]),
        ("a-{2..0}", ["a-0", "a-1", "a-2"]),
        ("{a,b}{0..1}{c,}", ["a0c", "a0", "a1c", "a1", "b0c", "b0", "b1c", "b1"]),
        ("{a,{b,c}}", ["a", "b", "c"]),
        ("{a}{}{0..x}{1,2}", ["{a}{}{0..x}1", "{a}{}{0..x}2"]),
    ],
)
def test_braces(pattern: str, texts: list[str]) -> None:
    assert sorted(shard_files.expand(pattern)) == sorted(texts)


@pytest.mark.parametrize("pattern", ["{0..999999999999}", "{000..999}{000..999}{0,1}", "{a,b}" * 30])
def test_unreasonable_braces(pattern: str) -> None:
    fails(f"x-{pattern}.tar", "too many shards", "1,000,000", kind=ConfigError)


def test_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        shard(tmp_path / f"x-{number:03d}.tar", numbered(0, start=number))
    shard(tmp_path / "{odd}[1].tar", numbered(0, start=9))
    (tmp_path / "notes.txt").write_text("not a shard")
    assert read(Shards(f"{tmp_path}/x-{{000..002}}.tar")) == [picture(0), picture(1), picture(2)]
    assert read(Shards(f"{tmp_path}/x-{{002,000,002}}.tar")) == [picture(0), picture(2)]
    assert read(Shards(f"{tmp_path}/x-*[12]*")) == [picture(1), picture(2)]
    assert read(Shards(f"{tmp_path}/{{odd}}[1].tar")) == [picture(9)]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(Shards("~/x-{000..001}.tar")) == 2
    assert len(Shards(str(tmp_path))) == 4


def test_missing_shards(tmp_path: Path) -> None:
    shard(tmp_path / "x-000.tar", numbered(0))
    first = str(tmp_path / "x-001.tar")
    fails(tmp_path / "x-{000..127}.tar", repr(first), "127 of 128")
    fails(tmp_path / "y-*.tar", "does not exist", "y-*.tar")
    fails(tmp_path / "y.tar", "does not exist", "1 of 1", "in its folder 'x-000.tar'")
    fails(tmp_path / "nowhere" / "y.tar", "does not exist", "in its folder nothing")
    fails(tmp_path / ("x-{" + "001," * 100 + "000}.tar"), repr(first), "1 of 2")
    (tmp_path / "empty").mkdir()
    fails(tmp_path / "empty", "no shards", "nothing")
    os.mkfifo(tmp_path / "pipe.tar")
    fails(tmp_path / "pipe.tar", "no regular file")


def test_compressed_shards(tmp_path: Path) -> None:
    plain = shard(tmp_path / "x.tar", numbered(0))
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(plain.read_bytes()))
    assert len(Shards(str(tmp_path))) == 1  # what gunzip --keep leaves
    (tmp_path / "y.tar.gz").write_bytes(gzip.compress(plain.read_bytes()))
    for pattern in (tmp_path, tmp_path / "*", tmp_path / "y.tar.gz"):
        fails(pattern, "y.tar.gz", "compressed", "gunzip")
    (tmp_path / "renamed.tar").write_bytes(gzip.compress(bytes(10_000_000)))  # a bomb, if it were unpacked
    fails(tmp_path / "renamed.tar", "renamed.tar", "gzip", "gunzip")


def test_splits_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number, name in enumerate(["train-0", "train-1", "my_validation_0", "extra"]):
        shard(tmp_path / f"{name}.tar", numbered(number, start=number))
    with caplog.at_level(logging.INFO, "mae_lite"):
        assert read(Shards(str(tmp_path))) == [picture(0), picture(1)]
        assert "'extra.tar' are not read" in caplog.text
        val = Shards(str(tmp_path), "val")
        assert (read(val), val.split) == ([picture(2)], "val")
        assert Shards(f"{tmp_path}/*.tar", "test").split == "val"
    assert "its val images are taken" in caplog.text
    with pytest.raises(DataError, match="has no test images"):
        Shards(str(tmp_path), "test", strict=True)
    listed = Shards(f"{tmp_path}/{{train-0,train-1,my_validation_0}}.tar", "val")
    assert (len(listed), listed.split) == (1, "val")


def test_a_pattern_that_tells_its_split_is_taken_whole(tmp_path: Path) -> None:
    for name in ("train-0", "train-1", "val-0"):
        shard(tmp_path / f"{name}.tar", numbered(0))
    for pattern in ("train-{0..1}.tar", "train-*.tar", "train-?.tar"):
        source = Shards(f"{tmp_path}/{pattern}", "val")
        assert (len(source), source.split) == (2, None)
    assert Shards(f"{tmp_path}/val-0.tar").split is None


def test_the_index_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    path = shard(tmp_path / "a.tar", [*numbered(1, 0), ("x.pkl", b"x")])
    first = Shards(str(path))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the index is read again")

    with monkeypatch.context() as patch, caplog.at_level(logging.INFO, "mae_lite"):
        patch.setattr(tarfile, "open", refuse)
        second = Shards(str(path))
    assert read(second) == read(first) and second.classes == first.classes
    assert second.labels.tolist() == [1, 0] and second.fingerprint() == first.fingerprint()
    assert "1 x .pkl" in caplog.text
    shard(path, numbered(3, 2, 1))
    assert Shards(str(path)).labels.tolist() == [3, 2, 1]
    for kept in (tmp_path / "cache").rglob("*.arrow"):
        kept.write_bytes(b"damaged")
    assert read(Shards(str(path))) == [picture(0), picture(1), picture(2)]


def test_an_index_that_cannot_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MAE_LITE_CACHE", str(tmp_path / "file" / "cache"))
    fails(shard(tmp_path / "a.tar", numbered(0)), "MAE_LITE_CACHE", kind=DiskError)


def test_fingerprint(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    contents: list[Members] = [
        numbered(0, 1),
        numbered(1, 0),
        [("x/0.jpg", picture(0))],
        [("y/0.jpg", picture(0))],
        [("x/0.jpg", b"1")],
    ]
    prints = [Shards(str(shard(path, members))).fingerprint() for members in contents]
    assert len({str(print_["sha256"]) for print_ in prints}) == 5
    assert [print_["count"] for print_ in prints] == [2, 2, 1, 1, 1]
    elsewhere = Shards(str(shard(tmp_path / "copy" / "a.tar", contents[0])))
    assert elsewhere.fingerprint() == prints[0]


def _child(source: Shards, connection: Any) -> None:
    connection.send((read(source), source.labels.tolist(), source.classes))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_read_the_same(tmp_path: Path, method: str) -> None:
    path = shard(tmp_path / "a.tar", numbered(*range(20)))
    source = Shards(str(path))
    expected = [picture(red) for red in range(20)]
    assert read(source) == expected and len(source._files._opened) == 1
    again = pickle.loads(pickle.dumps(source))
    assert again._files._opened == {} and read(again) == expected
    context: Any = multiprocessing.get_context(method)
    pipes, processes = [], []
    for _ in range(2):
        ours, theirs = context.Pipe()
        processes.append(context.Process(target=_child, args=(source, theirs)))
        processes[-1].start()
        pipes.append(ours)
    assert read(source) == expected  # while the children read through descriptors that they share after a fork
    for pipe, process in zip(pipes, processes, strict=True):
        assert pipe.recv() == (expected, list(range(20)), tuple(map(str, range(20))))
        process.join(20)
        assert process.exitcode == 0


def test_few_files_are_open_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mae_lite.data.open_files._MOST_OPEN", 3)
    for number in range(8):
        shard(tmp_path / f"{number}.tar", numbered(0, start=number))
    source = Shards(str(tmp_path))
    before = len(os.listdir("/proc/self/fd"))
    for index in (0, 1, 2, 0, 3, 0, 4, 5, 6, 7, 0):
        assert source.example(index).data == picture(index)
        assert len(os.listdir("/proc/self/fd")) <= before + 3
    assert [path.name for path in source._files._opened] == ["6.tar", "7.tar", "0.tar"]
    del source
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_shard_that_goes_or_changes(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", numbered(0, 1))
    content = path.read_bytes()

    def refuses(source: Shards, found: str) -> None:
        with pytest.raises(DataError) as caught:
            source.example(1)
        for word in (str(path), "0001.jpg", found, "\nFix: "):
            assert word in str(caught.value)

    source, opened = Shards(str(path)), Shards(str(path))
    opened.example(0)
    path.write_bytes(content[:1500])
    refuses(source, "another size")
    refuses(opened, "of ")  # the file was open already: the read is short
    path.unlink()
    refuses(source, "No such file")
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))
    refuses(source, "time of change")
    assert not source._files._opened


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    """Assert that nothing below ``folder`` appears, goes or changes, apart from the cache."""

    def state() -> dict[str, bytes | None]:
        found = (path for path in folder.rglob("*") if "cache" not in path.parts)
        return {str(path): path.read_bytes() if path.is_file() else None for path in found}

    before = state()
    yield
    assert state() == before


EVIL_LINKS = {
    "symlink": info("0002.jpg", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "hardlink": info("0002.jpg", type=tarfile.LNKTYPE, linkname="0000.jpg"),
    "device": info("0002.jpg", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
    "pipe": info("0002.jpg", type=tarfile.FIFOTYPE),
    "folder": info("0002.jpg", type=tarfile.DIRTYPE),
}


@pytest.mark.parametrize("kind", EVIL_LINKS)
def test_only_regular_files_are_read(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "inner" / "a.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w:") as tar:
        tar.addfile(EVIL_LINKS[kind])
        for name, data in numbered(0):
            tar.addfile(info(name, len(data)), io.BytesIO(data))
    with unchanged(tmp_path), caplog.at_level(logging.INFO, "mae_lite"):
        assert read(Shards(str(path))) == [picture(0)]
    assert ("not read" in caplog.text) == (kind != "folder")


@pytest.mark.parametrize("name", ["../../escaped.jpg", "/tmp/escaped.jpg", "a/../../../escaped.jpg", "C:\\escaped.jpg"])
def test_names_are_never_paths(tmp_path: Path, name: str) -> None:
    path = shard(tmp_path / "inner" / "deep" / "a.tar", [(name, picture(1))])
    there = Path("/tmp/escaped.jpg").exists()
    with unchanged(tmp_path):
        source = Shards(str(path))
        assert read(source) == [picture(1)] and source.example(0).name.endswith(f" member {name}")
    assert Path("/tmp/escaped.jpg").exists() == there


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([("a.jpg", b"1"), ("b.cls", b"0"), ("a.jpg", b"2")], ["'a.jpg'", "twice"]),
        ([("a.jpg", b"1"), ("a.cls", b"0"), ("a.cls", b"0")], ["'a.cls'", "twice"]),
        ([("a.jpg", b"1"), ("a.png", b"2")], ["'a.png'", "'a.jpg'", "key 'a'"]),
        ([("x/a.jpg", b"1"), ("x/a.seg.png", b"2")], ["'x/a.seg.png'", "key 'x/a'"]),
        ([("a.jpg", b"1"), ("a.cls", b"0"), ("b.jpg", b"2")], ["'b.jpg'", "no label"]),
        ([("a.jpg", b"1"), ("a.json", b'{"label": 3}'), ("b.jpg", b"2"), ("b.json", b"{}")], ["'b.jpg'", "no label"]),
        ([("x/a.jpg", b"1"), ("b.jpg", b"2")], ["'b.jpg'", "no label"]),
        ([("a.jpg", b"1"), ("a.cls", b"cat")], ["'a.cls'", "'cat'", "whole number", "classes.txt"]),
        ([("a.jpg", b"1"), ("a.cls", b"")], ["'a.cls'", "''"]),
        ([("a.jpg", b"1"), ("a.cls", b"-1")], ["'a.cls'", "'-1'"]),
        ([("a.jpg", b"1"), ("a.cls", b"1.5")], ["'a.cls'", "'1.5'"]),
        ([("a.jpg", b"1"), ("a.cls", b"\xff\xfe")], ["'a.cls'", "class number"]),
        ([("a.jpg", b"1"), ("a.cls", b"9" * 5000)], ["'a.cls'", "999,999"]),
        ([("a.jpg", b"1"), ("a.cls", b"1000000")], ["'a.cls'", "999,999"]),
        ([("a.jpg", b"1"), ("a.json", b"{")], ["'a.json'", "no JSON"]),
        ([("a.jpg", b"1"), ("a.json", b"[" * 100_000)], ["'a.json'", "no JSON"]),
        ([("a.jpg", b"1"), ("a.json", b"\xff")], ["'a.json'", "no JSON"]),
        ([("a.jpg", b"1"), ("a.json", b'{"label": ' + b"9" * 5000 + b"}")], ["'a.json'", "no JSON"]),
        ([("a.jpg", b"1"), ("a.json", b'{"label": "cat"}')], ["'a.json'", "'cat'"]),
        ([("a.jpg", b"1"), ("a.json", b'{"label": true}')], ["'a.json'", "True"]),
        ([("a.jpg", b"1"), ("a.json", b'{"label": 1.0}')], ["'a.json'", "1.0"]),
        ([("a.jpg", b"1"), ("a.json", b'{"label": -1}')], ["'a.json'", "-1"]),
        ([("a.jpg", b"1"), ("a.cls", b"1"), ("a.json", b'{"label": 2}')], ["'a.json'", "1 there and 2 here"]),
        ([("a.txt", b"1"), ("b.txt", b"1"), ("c.pkl", b"")], ["no images", "2 x .txt, 1 x .pkl"]),
        ([], ["no images", "no files"]),
    ],
)
def test_errors_name_the_member(tmp_path: Path, members: Members, words: list[str]) -> None:
    fails(shard(tmp_path / "a.tar", members), str(tmp_path / "a.tar"), *words)


def test_unlabelled_images_of_another_shard_are_named(tmp_path: Path) -> None:
    shard(tmp_path / "a.tar", numbered(0))
    shard(tmp_path / "b.tar", [("x/b.jpg", b"1")])
    fails(tmp_path, str(tmp_path / "b.tar"), "'x/b.jpg'", "no label")


def _negative(content: bytes) -> bytes:
    block = bytearray(content)
    block[124:136] = b"\xff" * 10 + b"\xfc\x00"  # -1024 in base 256: a naive reader goes back and reads it again
    block[148:156] = b"%06o\0 " % (sum(block[:148]) + 8 * 32 + sum(block[156:512]))
    return bytes(block)


def _large(content: bytes) -> bytes:
    return info("first.jpg", 10 << 30).tobuf(tarfile.GNU_FORMAT) + content


def _large_extension(content: bytes) -> bytes:
    return info("././@LongLink", 10 << 30, type=tarfile.GNUTYPE_LONGNAME).tobuf(tarfile.GNU_FORMAT) + content


FIRST = 512 + 1024  # header and data of the first image of WHOLE
BROKEN: dict[str, tuple[Callable[[bytes], bytes], list[str]]] = {
    "nothing": (lambda _: b"", ["no whole member", "empty"]),
    "text": (lambda _: b"not a tar file" * 100, ["no whole member"]),
    "cut in a header": (lambda content: content[: FIRST + 100], ["'0000.jpg'"]),
    "cut between members": (lambda content: content[:FIRST], ["'0000.jpg'", "end mark"]),
    "cut in data": (lambda content: content[: FIRST + 512 + 1], ["'0000.jpg'"]),
    "cut in the first data": (lambda content: content[:600], ["no whole member", "'0000.jpg'"]),
    "without an end": (lambda content: content.rstrip(b"\0"), []),
    "damaged header": (
        lambda content: content[:FIRST] + b"x" * 512 + content[FIRST + 512 :],
        ["'0000.jpg'", "no header"],
    ),
    "negative size": (_negative, ["-1,024", "no whole member"]),
    "10 GB header": (_large, ["10,737,418,240", "'first.jpg'"]),
    "10 GB long name": (_large_extension, []),
    "joined by cat": (lambda content: content + content, ["--concatenate"]),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_damaged_archives(tmp_path: Path, kind: str) -> None:
    data = picture(0).ljust(1000, b"\0")
    path = shard(tmp_path / "a.tar", [("0000.jpg", data), ("0001.jpg", data), ("0002.jpg", data)])
    spoil, words = BROKEN[kind]
    assert len(Shards(str(path))) == 3
    path.write_bytes(spoil(path.read_bytes()))
    fails(path, str(path), *words)


def test_any_cut_is_found(tmp_path: Path) -> None:
    whole = shard(tmp_path / "whole.tar", numbered(0, 1)).read_bytes()
    end = len(whole.rstrip(b"\0")) // 512 * 512 + 512
    for size in range(0, end + 512, 97):
        cut = tmp_path / "cut.tar"
        cut.write_bytes(whole[:size])
        fails(cut, "cut.tar")
    cut.write_bytes(whole[: end + 512])  # one block of zeros is an end, too
    assert len(Shards(str(cut))) == 2


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_damage_is_an_error_or_harmless(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        members = [("x" * 120 + "/é.jpg", b"1" * 600), ("a/b.jpg", b"2" * 10)]
        form = data.draw(st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))
        path = shard(Path(folder, "a.tar"), members, form)
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, 4000))] = data.draw(st.integers(0, 255))
        path.write_bytes(content)
        try:
            source = Shards(str(path))
        except DataError as error:
            assert "\nFix: " in str(error)
        else:
            assert all(len(item) <= len(content) for item in read(source))


def test_sparse_and_large_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tar"
    sparse = info("a.jpg", 0, pax_headers={"GNU.sparse.map": "0,1", "GNU.sparse.size": "5", "GNU.sparse.realsize": "5"})
    with tarfile.open(path, "w:", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(sparse)
    fails(path, str(path), "'a.jpg'", "sparse")
    shard(path, numbered(0))
    monkeypatch.setitem(shard_index._LARGEST, "an image", 100)
    fails(path, "'0000.jpg'", "too large", "100 for an image")
    monkeypatch.setitem(shard_index._LARGEST, "an image", 1000)
    monkeypatch.setitem(shard_index._LARGEST, "a label", 0)
    fails(path, "'0000.cls'", "too large", "0 for a label")


NAMES = [
    "é" * 125 + "e",  # 255 bytes with the extension of three letters and its dot
    "x" * 100 + "/" + "y" * 200,
    "é",
    unicodedata.normalize("NFD", "é"),
    "日本語",
    "🐈",
    " space ",
    "-rf",
    "100%",
    "line\nbreak",
    "\x1b[31mred",
    "=cmd()",
    "latin-\udce9",  # a byte that is no UTF-8
]


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_odd_names(tmp_path: Path, form: int) -> None:
    members = [(f"class {name}/{name}.jpg", str(position).encode()) for position, name in enumerate(NAMES)]
    if form == tarfile.PAX_FORMAT:
        members = members[:-1]
    path = shard(tmp_path / "ä {1}.tar", members, form)
    for _ in range(2):  # as indexed, and as kept
        source = Shards(str(path))
        assert [source.example(row).name for row in range(len(source))] == [
            f"{path} member {name}" for name, _ in members
        ]
        assert read(source) == [data for _, data in members]
        assert source.classes is not None
        assert [source.classes[label] for label in source.labels] == [name.split("/")[-2] for name, _ in members]
        assert len(str(source.fingerprint()["sha256"])) == 64
    assert read(pickle.loads(pickle.dumps(source))) == read(source)


_LETTERS = st.characters(exclude_categories=["Cs"], exclude_characters="/\0.")
_STEMS = st.text(_LETTERS, min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(_STEMS, _STEMS), min_size=1, max_size=6, unique=True), st.booleans())
def test_any_names_come_back(pairs: list[tuple[str, str]], gnu: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        members = [(f"{first}/{second}.jpg", str(position).encode()) for position, (first, second) in enumerate(pairs)]
        form = tarfile.GNU_FORMAT if gnu else tarfile.PAX_FORMAT
        source = Shards(str(shard(Path(folder, "a.tar"), members, form)))
        assert read(source) == [data for _, data in members]
        assert source.classes == tuple(sorted({first for first, _ in pairs}))
        assert [source.classes[label] for label in source.labels] == [first for first, _ in pairs]
        assert [source.example(row).name.split(" member ", 1)[1] for row in range(len(source))] == [
            name for name, _ in members
        ]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 300), min_size=1, max_size=12))
def test_any_class_numbers_come_back(labels: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        half = len(labels) // 2
        shard(Path(folder, "0.tar"), numbered(*labels[:half]) or [("x.txt", b"")])
        shard(Path(folder, "1.tar"), numbered(*labels[half:]))
        source = Shards(folder)
        assert source.labels.tolist() == labels and source.classes is not None
        assert [source.classes[label] for label in labels] == [str(label) for label in labels]
        assert len(source.classes) == max(labels) + 1


@pytest.mark.needs_data
def test_real_images(shared_data: Path) -> None:
    path = shared_data / "imagenet-sample" / "imagenet-sample.tar"
    source = Shards(str(path))
    assert source.classes is not None and (len(source), len(source.classes)) == (1000, 1000)
    assert sorted(source.labels.tolist()) == list(range(1000)) and source.classes[0] == "n01440764"
    with tarfile.open(path, "r:") as tar:
        for index in range(0, 1000, 250):
            name = source.example(index).name.split(" member ")[1]
            member = tar.extractfile(name)
            assert member is not None and source.example(index).data == member.read()
            assert name.startswith(source.classes[source.labels[index]])
    data = source.example(999).data
    assert isinstance(data, bytes) and Image.open(io.BytesIO(data)).size[0] > 100


def test_a_shard_written_over_in_place_is_noticed_while_it_is_open(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", numbered(0, 2))
    source = Shards(str(path))
    source.example(0)
    content = path.read_bytes()
    with path.open("r+b") as file:
        file.write(content[::-1])  # the same size, other images
    with pytest.raises(DataError, match="another size or time of change"):
        source.example(1)


@pytest.mark.parametrize("place", [3, 70, 300, -300, -3])
def test_a_flipped_bit_in_the_index_is_not_believed(tmp_path: Path, arrow_cache: Path, place: int) -> None:
    path = shard(tmp_path / "a.tar", numbered(0, 5))
    labels = Shards(str(path)).labels.tolist()
    (kept,) = (arrow_cache.parent / "shards").iterdir()
    content = bytearray(kept.read_bytes())
    content[place] ^= 16
    kept.write_bytes(content)
    assert Shards(str(path)).labels.tolist() == labels
    assert kept.read_bytes() != content  # made anew
