"""What lies where in tar files, found out from their headers; the only module that reads them.

Names inside a tar file serve messages and classes and never become paths, so that ``../`` in one of them reaches
nothing. Only regular files count; what is neither an image nor a label is counted by its extension and left alone,
whatever it claims to be. Nothing is extracted or decoded, except for the JSON and the digits of labels.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa

from mae_lite.data.scan import EXTENSIONS
from mae_lite.data.shard_files import check_plain
from mae_lite.errors import DataError

_LABELS = ("cls", "json")
_LARGEST = {"an image": 1 << 30, "a label": 1 << 24}
"""Bytes of one member that are read into memory."""
MOST_CLASSES = 1_000_000
_BLOCK = 512


class Image(NamedTuple):
    """Where an image lies within its shard."""

    name: str
    offset: int
    size: int


@dataclass
class Content:
    """What one shard holds."""

    images: dict[str, Image] = field(default_factory=dict)
    """By sample key: the path up to the first dot of the file name."""
    numbers: dict[str, int] = field(default_factory=dict)
    """Class numbers by sample key."""
    names: set[str] = field(default_factory=set)
    ignored: Counter[str] = field(default_factory=Counter)


def index(
    paths: Sequence[Path], name: str, contents: Iterable[Content] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the headers of all members.

    Args:
        paths: the shards.
        name: the data set, for messages.
        contents: what :func:`scan` found in each, where they are not on this disk.

    Returns:
        A column each for "shard" (position in ``paths``), "offset", "size", "name" (bytes) and "label" of the images,
        in the order of shards and members; and facts: "classes" (the names of folders, None without), "numbered"
        (whether labels are class numbers instead) and "ignored" (what was not read, counted).

    Raises:
        DataError: when a shard is damaged, or images or labels are missing or contradict each other; names the member.
    """
    found: list[tuple[int, Image]] = []
    numbers: list[int] = []
    ignored: Counter[str] = Counter()
    for shard, content in enumerate(map(scan, paths) if contents is None else contents):
        found += [(shard, image) for image in content.images.values()]
        numbers += [content.numbers.get(key, -1) for key in content.images]
        ignored += content.ignored
    if not found:
        listed, expected = listed_counts(ignored) or "no files", f"files that end in {' '.join(EXTENSIONS)}"
        raise DataError(f"no images in {name!r}", found=listed, expected=expected, fix="give shards of images")
    numbered = max(numbers) >= 0
    folders = [""] * len(found) if numbered else [_folder(image.name) for _, image in found]
    classes = sorted({*folders})
    if numbered or classes != [""]:
        for (shard, image), number, folder in zip(found, numbers, folders, strict=True):
            if number < 0 and not folder:
                fix = "add KEY.cls for each KEY.jpg, or put all images into folders of classes"
                raise _wrong(paths[shard], image.name, "it has no label while others have one", fix=fix)
        position = {class_name: number for number, class_name in enumerate(classes)}
        numbers = numbers if numbered else [position[folder] for folder in folders]
    columns = {
        "shard": pa.array([shard for shard, _ in found], pa.int64()),
        "offset": pa.array([image.offset for _, image in found], pa.int64()),
        "size": pa.array([image.size for _, image in found], pa.int64()),
        "name": pa.array([image.name.encode("utf-8", "surrogateescape") for _, image in found], pa.large_binary()),
        "label": pa.array(numbers, pa.int64()),
    }
    return columns, {"classes": None if classes == [""] else classes, "numbered": numbered, "ignored": ignored}


def listed_counts(counts: Mapping[str, int]) -> str:
    """Return the ten most frequent of ``counts`` for a message."""
    return ", ".join(f"{count} x {kind}" for kind, count in Counter(counts).most_common(10))


def _folder(name: str) -> str:
    """Return the folder that a member lies in; "" for none."""
    parts = [part for part in name.split("/")[:-1] if part.strip(".")]
    return parts[-1] if parts else ""


def _wrong(path: Path, member: str, what: str, *, found: str = "", expected: str = "", fix: str) -> DataError:
    return DataError(f"shard {str(path)!r} member {member!r}: {what}", found=found, expected=expected, fix=fix)


def _damaged(path: Path, last: str | None, found: str) -> DataError:
    good = "no whole member" if last is None else f"the last whole member is {last!r}"
    return DataError(
        f"shard {str(path)!r} is damaged or incomplete",
        found=f"{found}; {good}",
        expected="a whole tar file",
        fix="copy or download it again, or write it anew with tar",
    )


def scan(path: Path) -> Content:
    """Read the headers of one shard.

    Raises:
        DataError: when it is damaged or contradicts itself; names the member.
    """
    content = Content()
    last: str | None = None
    try:
        with path.open("rb") as handle:
            check_plain(path, handle.peek(8))
            size = os.fstat(handle.fileno()).st_size
            # "r:" is the mode without decompression: no small file can grow into a large one.
            with tarfile.open(fileobj=handle, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
                while (member := tar.next()) is not None:
                    # tarfile itself would go in circles after a negative size.
                    if member.size < 0 or member.offset_data + member.size > size:
                        claim = f"member {member.name!r} of {member.size:,} bytes at {member.offset_data:,} of {size:,}"
                        raise _damaged(path, last, claim)
                    _take(member, handle, content, path)
                    last = member.name
                    tar.members = []  # type: ignore[attr-defined]  # it keeps all: a gigabyte for a million members
                _check_end(handle, tar.offset, path, last)
    except DataError:
        raise
    except OSError as error:
        fix = "give a shard that you may read, or copy it again"
        raise DataError(f"shard {str(path)!r} cannot be read", found=str(error.strerror), fix=fix) from error
    except Exception as error:  # damaged headers make tarfile raise nearly anything: ValueError, RecursionError, ...
        raise _damaged(path, last, f"{type(error).__name__} ({error})") from error
    return content


def _check_end(handle: BinaryIO, end: int, path: Path, last: str | None) -> None:
    """Check that headers ended at the mark of zeros: tarfile takes a damaged or missing header for the end."""
    handle.seek(end)
    tail = handle.read(1 << 16)
    if len(tail) < _BLOCK:
        raise _damaged(path, last, f"no end mark at byte {end:,}")
    if any(tail[:_BLOCK]):
        raise _damaged(path, last, f"no header at byte {end:,}")
    if any(tail):
        what = "more content behind its end, as in tar files that were joined by cat"
        raise DataError(f"shard {str(path)!r} has {what}", fix="join them by tar --concatenate, or keep them apart")


def _take(member: tarfile.TarInfo, handle: BinaryIO, content: Content, path: Path) -> None:
    """Add a member to what its shard holds."""
    if member.isdir():
        return
    if not member.isreg():
        content.ignored["link" if member.islnk() or member.issym() else "special file"] += 1
        return
    *folders, file = member.name.split("/")
    if "__MACOSX" in folders or any(part.startswith(".") and part.strip(".") for part in (*folders, file)):
        return
    if member.name in content.names:
        fix = "write the shard anew, with each name once"
        raise _wrong(path, member.name, "the name occurs twice", fix=fix)
    content.names.add(member.name)
    stem, _, ending = file.partition(".")
    key = "/".join((*folders, stem))
    suffix = f".{file.rpartition('.')[2].lower()}" if ending else "no extension"
    if suffix in EXTENSIONS:
        _check_data(member, "an image", path)
        if other := content.images.get(key):
            what, found = f"another image has the key {key!r}", f"{other.name!r} before it"
            fix = "keep one image for each key, which is the name up to its first dot; rename or remove the other"
            raise _wrong(path, member.name, what, found=found, fix=fix)
        content.images[key] = Image(member.name, member.offset_data, member.size)
    elif ending.lower() in _LABELS:
        _check_data(member, "a label", path)
        number = _number(os.pread(handle.fileno(), member.size, member.offset_data), ending.lower(), member.name, path)
        if number is not None and content.numbers.setdefault(key, number) != number:
            what, found = f"another label has the key {key!r}", f"{content.numbers[key]} there and {number} here"
            raise _wrong(path, member.name, what, found=found, fix="let KEY.cls and KEY.json agree")
    else:
        content.ignored[suffix] += 1


def _check_data(member: tarfile.TarInfo, kind: str, path: Path) -> None:
    if member.issparse():
        raise _wrong(path, member.name, "it is a sparse member", fix="write the shard anew, without tar --sparse")
    if member.size > _LARGEST[kind]:
        found, expected = f"{member.size:,} bytes", f"at most {_LARGEST[kind]:,} for {kind}"
        raise _wrong(path, member.name, "it is too large", found=found, expected=expected, fix="make it smaller")


def _number(data: bytes, ending: str, member: str, path: Path) -> int | None:
    """Return the class number in a label; None for JSON that is about other things."""
    value: Any = None
    if ending == "cls":
        text = data.decode("utf-8", "replace").strip()
        value = int(text) if re.fullmatch("[0-9]{1,18}", text) else text
    else:
        try:
            fields = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise _wrong(path, member, "it is no JSON", found=str(error), fix="write it anew or remove it") from error
        value = fields.get("label") if isinstance(fields, dict) else None
    if value is None:
        return None
    if type(value) is int and 0 <= value < MOST_CLASSES:
        return value
    raise _wrong(
        path,
        member,
        "it is no class number",
        found=repr(value)[:80],
        expected=f"a whole number from 0 to {MOST_CLASSES - 1:,}",
        fix="write the class number, and the class names into classes.txt beside the shards",
    )
