"""Odd and bad data sets and settings: what to create, the command line, and what the error says of it."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from tests.corpus_images import png

PIXELS = png(8, 8, 8, 0, [bytes(range(8))] * 8)
CONFIG, DATA = 2, 3


class Case(NamedTuple):
    """A command that must fail by the error contract, or succeed where ``code`` is 0."""

    make: Callable[[], object]
    command: str
    """check, pretrain or finetune."""
    words: str
    """Data set and options, divided by blanks."""
    code: int
    mentions: tuple[str, ...] = ()


def images(*places: str, count: int = 4) -> None:
    """Put images into folders."""
    for place in places:
        Path(place).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Path(place, f"{number}.png").write_bytes(PIXELS + bytes([number]))


def without_images(folder: str, *others: str) -> None:
    images(*others)
    Path(folder).mkdir(parents=True)


def text(name: str, content: str | bytes, pipe: str = "") -> None:
    """Write a file beside a folder of images, and perhaps a pipe."""
    images("a")
    if pipe:
        os.mkfifo(pipe)
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())


def linked(target: str, name: str = "set/a/link.png") -> None:
    images("set/a", "set/b")
    os.symlink(target, name)


def pipe(name: str) -> None:
    images("set/a", "set/b")
    os.mkfifo(name)


def parquet(columns: dict[str, object], cut: int | None = None) -> None:
    pq.write_table(pa.table(columns), "x.parquet")
    if cut is not None:
        Path("x.parquet").write_bytes(Path("x.parquet").read_bytes()[:cut])


def shard(*members: tuple[str, bytes], link: str = "", cut: int | None = None, kind: str = "w") -> None:
    with tarfile.open("x.tar", kind) as tar:  # type: ignore[call-overload]
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        if link:
            info = tarfile.TarInfo("l.png")
            info.type, info.linkname = tarfile.SYMTYPE, link
            tar.addfile(info)
    if cut is not None:
        Path("x.tar").write_bytes(Path("x.tar").read_bytes()[:cut])


def bad_images(count: int) -> None:
    images("set/a", "set/b", count=20)
    for path in sorted(Path("set").rglob("*.png"))[:count]:
        path.write_bytes(b"")


TWO = ("a/0.png", PIXELS), ("b/1.png", PIXELS)

FOLDERS = {
    "empty folder": Case(lambda: Path("set").mkdir(), "check", "set", DATA, ("no images in 'set'", "no files")),
    "missing folder": Case(lambda: images("sets"), "check", "set", DATA, ("'set' does not exist", "nearest: 'sets'")),
    "other files alone": Case(lambda: text("x.txt", "x"), "check", "x.txt", DATA, ("no folder",)),
    "splits further down": Case(
        lambda: images("set/in/val/a", "set/in/test/b"), "check", "set", DATA, ("further down", "--data set/in")
    ),
    "splits one folder down": Case(lambda: images("set/in/train/a", "set/in/val/a"), "check", "set", 0),
    "loose images": Case(lambda: images("set", "set/a"), "check", "set", DATA, ("beside and inside",)),
    "empty class": Case(lambda: without_images("set/b", "set/a"), "pretrain", "set", DATA, ("'b'", "--allow-empty")),
    "one class": Case(lambda: images("set/a"), "finetune", "set", DATA, ("one class, 'a'",)),
    "no labels": Case(lambda: images("set"), "finetune", "set", DATA, ("no labels",)),
    "one image per class": Case(
        lambda: images("set/a", "set/b", count=1), "finetune", "set", DATA, ("set aside", "--validation-fraction 0")
    ),
    "class mismatch": Case(
        lambda: images("t/a", "t/b", "v/a", "v/c"), "finetune", "t --val-data v", DATA, ("extra 'c'", "missing 'b'")
    ),
    "dangling link": Case(lambda: linked("nowhere"), "check", "set", 0),
    "link to itself": Case(lambda: linked("link.png"), "check", "set", 0),
    "link in a circle": Case(lambda: linked("../..", "set/a/up"), "check", "set", 0),
    "loop as data": Case(lambda: os.symlink("set", "set"), "check", "set", DATA, ("'set'",)),
    "pipe beside images": Case(lambda: pipe("set/a/x.png"), "check", "set", 0),
    "pipe as data": Case(lambda: pipe("p"), "check", "p", DATA, ("'p'", "a pipe")),
    "pipe as table": Case(lambda: pipe("p.csv"), "check", "p.csv", DATA, ("'p.csv'", "a pipe")),
    "pipe as parquet": Case(lambda: pipe("p.parquet"), "check", "p.parquet", DATA, ("a pipe",)),
    "pipe among parquet": Case(lambda: pipe("set/p.parquet"), "check", "set", DATA, ("no parquet files",)),
    "pipe as shard": Case(lambda: pipe("p.tar"), "check", "p.tar", DATA, ("'p.tar'", "no regular file")),
    "archive": Case(lambda: text("x.zip", b"PK"), "check", "x.zip", DATA, ("an archive", "unzip")),
    "one image": Case(lambda: images("set"), "check", "set/0.png", DATA, ("one image file",)),
    "name too long": Case(lambda: None, "check", "a" * 5000, DATA, ("5,000 characters",)),
    "name with zero byte": Case(lambda: None, "check", "a\0b", DATA, ("null byte",)),
    "all bad": Case(lambda: bad_images(40), "pretrain", "set", DATA, ("0 bytes",)),
    "too many bad": Case(lambda: bad_images(15), "pretrain", "set --epochs 4", DATA, ("too many", "found 11 of 40")),
    "one bad": Case(lambda: bad_images(1), "pretrain", "set", 0),
    "one bad is too many": Case(
        lambda: bad_images(4), "pretrain", "set --epochs 1 --on-bad fail", DATA, ("0 bytes", "--on-bad skip")
    ),
    "all too small": Case(
        lambda: images("set"), "pretrain", "set --reading.smallest-side 9", DATA, ("too small", "8 x 8")
    ),
}
for _id, _name in {
    "NFC": "\u00e9", "NFD": "e\u0301", "newline": "a\nb", "250 bytes": "x" * 250, "emoji": "\U0001f600",
    "dash": "-rf", "percent": "%s%d%", "quote": "'\"", "formula": "=cmd()", "escape": "\x1b[31m", "no UTF-8": "\udcff",
}.items():  # fmt: skip
    FOLDERS[f"class name {_id}"] = Case(lambda name=_name: images(f"set/{name}", "set/b"), "check", "set", 0)  # type: ignore[misc]
    FOLDERS[f"class name {_id}, classifier"] = Case(
        lambda name=_name: images(f"set/{name}", "set/b"),  # type: ignore[misc]
        "finetune",
        "set",
        0,
    )

TABLES = {
    "no header": ("a/0.png,1\n", "no column of paths"),
    "NaN label": ("path,label\na/0.png,1\na/1.png,nan\n", "line 3"),
    "fractional label": ("path,label\na/0.png,1\na/1.png,1.5\n", "'1.5'"),
    "negative label": ("path,label\na/0.png,0\na/1.png,-1\n", "'-1'"),
    "empty label": ("path,label\na/0.png,1\na/1.png,\n", "line 3"),
    "duplicate": ("path\na/0.png\na/0.png\n", "listed twice"),
    "missing file": ("path\na/0.png\na/9.png\n", "a/9.png"),
    "backslash": ("path\na\\0.png\n", "separate folders by /"),
    "Latin-1": (b"path\na/\xe9.png\n", "not UTF-8"),
    "UTF-16": ("path\na/0.png\n".encode("utf-16"), "UTF-16"),
    "zero byte": (b"path\na/0\0.png\n", "a zero byte"),
    "empty": (b"", "is empty"),
    "header alone": ("path,label\n", "no rows"),
    "open quote": ('path\n"a/0.png\n', "cannot be read"),
    "too many fields": ("path,label\na/0.png,1,2\n", "too many fields"),
    "unknown split": ("path,split\na/0.png,sometimes\n", "'sometimes'"),
    "two columns of one name": ("path,path\na/0.png,a/1.png\n", "2 columns"),
}
FINE_TABLES = {
    "byte order mark": b"\xef\xbb\xbfpath,label\na/0.png,x\na/1.png,y\n",
    "CRLF": b"path,label\r\na/0.png,x\r\na/1.png,y\r\n",
    "semicolons": b"path;label\na/0.png;x\na/1.png;y\n",
}
CSV = {
    **{f"csv {name}": Case(lambda c=content: text("x.csv", c), "check", "x.csv", DATA, ("x.csv", word))  # type: ignore[misc]
       for name, (content, word) in TABLES.items()},
    **{f"csv {name}": Case(lambda c=content: text("x.csv", c), "check", "x.csv", 0)  # type: ignore[misc]
       for name, content in FINE_TABLES.items()},
    "csv pipe": Case(
        lambda: text("x.csv", "path\np.png\n", pipe="p.png"), "pretrain",
        "x.csv --global-batch-size 1 --on-bad fail", DATA, ("p.png", "a pipe"),
    ),
}  # fmt: skip
PARQUET = {
    "no image column": Case(lambda: parquet({"x": [1]}), "check", "x.parquet", DATA, ("no column of encoded images",)),
    "null image": Case(lambda: parquet({"image": [PIXELS, None]}), "check", "x.parquet", DATA, ("row 1",)),
    "null label": Case(
        lambda: parquet({"image": [PIXELS] * 2, "label": [0, None]}), "check", "x.parquet", DATA, ("row 1", "null")
    ),
    "negative label": Case(
        lambda: parquet({"image": [PIXELS] * 2, "label": [0, -1]}), "check", "x.parquet", DATA, ("label -1",)
    ),
    "text label": Case(
        lambda: parquet({"image": [PIXELS], "label": ["a"]}), "check", "x.parquet", DATA, ("not integers",)
    ),
    "images as text": Case(lambda: parquet({"image": ["a"]}), "check", "x.parquet", DATA, ("image: string",)),
    "no rows": Case(lambda: parquet({"image": pa.array([], pa.binary())}), "check", "x.parquet", DATA, ("no rows",)),
    "truncated": Case(lambda: parquet({"image": [PIXELS]}, 60), "check", "x.parquet", DATA, ("complete parquet",)),
    "empty": Case(lambda: parquet({"image": [PIXELS]}, 0), "check", "x.parquet", DATA, ("complete parquet",)),
    "whole": Case(lambda: parquet({"image": [PIXELS] * 3}), "check", "x.parquet", 0),
}
SHARDS = {
    "whole": Case(lambda: shard(*TWO), "check", "x.tar", 0),
    "truncated": Case(lambda: shard(*TWO, cut=700), "check", "x.tar", DATA, ("damaged or incomplete",)),
    "empty": Case(lambda: shard(*TWO, cut=0), "check", "x.tar", DATA, ("damaged or incomplete",)),
    "compressed": Case(lambda: shard(*TWO, kind="w:gz"), "check", "x.tar", DATA, ("compressed", "gunzip")),
    "links": Case(lambda: shard(link="/etc/passwd"), "check", "x.tar", DATA, ("no images", "1 x link")),
    "names that climb": Case(lambda: shard(("../../a/0.png", PIXELS), ("../b/1.png", PIXELS)), "check", "x.tar", 0),
    "duplicate": Case(lambda: shard(TWO[0], TWO[0]), "check", "x.tar", DATA, ("twice",)),
    "mixed labels": Case(
        lambda: shard(("0.png", PIXELS), ("0.cls", b"1"), ("1.png", PIXELS)), "check", "x.tar", DATA, ("no label",)
    ),
    "label is no number": Case(
        lambda: shard(("0.png", PIXELS), ("0.cls", b"cat")), "check", "x.tar", DATA, ("'cat'",)
    ),
    "no images": Case(lambda: shard(("a.txt", b"x")), "check", "x.tar", DATA, ("no images", ".txt")),
    "missing": Case(lambda: None, "check", "shards:x-{000..002}.tar", DATA, ("3 of 3 missing",)),
    "unreadable image": Case(
        lambda: shard(("0.png", b""), ("1.png", PIXELS)), "pretrain", "x.tar --global-batch-size 2 --on-bad fail",
        DATA, ("0.png", "0 bytes"),
    ),
}  # fmt: skip
NAMES = {
    "torchvision typo": Case(lambda: None, "check", "torchvision:cifar01", CONFIG, ("cifar01",)),
    "torchvision offline": Case(lambda: None, "check", "torchvision:cifar10", DATA, ("cifar10",)),
    "hub offline": Case(lambda: None, "check", "hf:nobody/nothing", DATA, ("nobody/nothing",)),
    "unknown kind": Case(lambda: None, "check", "fodler:x", CONFIG, ("nearest: 'folder'",)),
    "unknown split": Case(lambda: images("set"), "check", "set#trian", CONFIG, ("after #",)),
    "image size": Case(lambda: images("set"), "pretrain", "set --encoder.image-size 9", CONFIG, ("image_size", "8")),
    "mask ratio": Case(lambda: images("set"), "pretrain", "set --method.mask-ratio 1", CONFIG, ("mask_ratio",)),
    "batch": Case(lambda: images("set"), "pretrain", "set --global-batch-size 9", CONFIG, ("global_batch_size", "9")),
    "range": Case(lambda: images("set"), "pretrain", "set --reading.value-range 9 1", CONFIG, ("value_range",)),
}
SETS = {
    **FOLDERS,
    **CSV,
    **{f"parquet {name}": case for name, case in PARQUET.items()},
    **{f"shards {name}": case for name, case in SHARDS.items()},
    **NAMES,
}
