"""From a pattern such as ``train-{000..127}.tar`` to the shards it names."""

from __future__ import annotations

import glob
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

from mae_lite.data.sources import Split, some
from mae_lite.data.splits import choose_split, split_in
from mae_lite.errors import ConfigError, DataError

_log = logging.getLogger(__name__)

_MOST = 1_000_000
"""Names that a pattern may stand for; more is a slip of the keyboard, and would fill the memory."""
_BRACES = re.compile(r"\{([^{}]*,[^{}]*|[0-9]{1,18}\.\.[0-9]{1,18})\}")
_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}
_COMPRESSED = re.compile(r"(.*)\.(tar\.(gz|bz2|xz|zst)|tgz|tbz2?|txz)", flags=re.IGNORECASE | re.DOTALL)


def expand(pattern: str) -> list[str]:
    """Return what ``{000..127}`` and ``{a,b}`` stand for, as a shell does; other braces stay as they are.

    Raises:
        ConfigError: when there are more than a million.
    """
    before: list[str] = []
    texts = [pattern]
    while texts != before:
        before, texts = texts, []
        for text in before:  # the first braces of each, the others in the next round
            match = _BRACES.search(text)
            options = _options(match[1], pattern, _MOST - len(texts)) if match else [""]
            head, tail = (text[: match.start()], text[match.end() :]) if match else (text, "")
            texts += [head + option + tail for option in options]
    return list(dict.fromkeys(texts))


def find(pattern: str, split: Split, name: str, *, strict: bool = False) -> tuple[list[Path], Split | None]:
    """Return the shards in the order of their names, and which split they are.

    Shards of a folder, a glob or a list are divided where their names tell splits; a pattern that itself tells one
    split is taken at its word.

    Args:
        pattern: a shard, a folder of them, a glob, or names with ranges and lists in braces.
        split: which ones, where they are divided.
        name: the data set, for messages.
        strict: whether nothing may stand in for a missing split.

    Raises:
        ConfigError: when the pattern stands for too many names.
        DataError: when shards are missing or compressed; names the first.
    """
    path = Path(pattern).expanduser()
    if os.path.isdir(path):  # os.path takes a pattern too long for a file name for what it is: no file
        found = _tars(sorted(path.iterdir()), f"the folder {str(path)!r}")
    elif os.path.exists(path):
        return [path], None
    else:
        texts = expand(str(path))
        found = _matches(texts)
        told = {split_in(Path(text).name) for text in texts}
        if len(told) == 1 and None not in told:
            return found, None
    parts = {file: split_in(file.name) for file in found}
    available = sorted({part for part in parts.values() if part is not None})
    if not available:
        return found, None
    unknown = [file.name for file, part in parts.items() if part is None]
    if unknown:
        _log.warning("%s: %s are not read, as other shards tell a split by their names", name, some(unknown))
    chosen = choose_split(available, split, name, strict=strict)
    return [file for file, part in parts.items() if part == chosen], chosen


def _options(inside: str, pattern: str, room: int) -> list[str]:
    first, _, last = inside.partition("..")
    options: Sequence[str] = inside.split(",")
    if "," not in inside:
        numbers = range(min(int(first), int(last)), max(int(first), int(last)) + 1)
        padded = any(len(end) > 1 and end.startswith("0") for end in (first, last))
        width = max(len(first), len(last)) if padded else 0
        options = [f"{number:0{width}d}" for number in numbers[: room + 1]]
    if len(options) > room:
        raise ConfigError(
            f"the pattern {pattern!r} stands for too many shards",
            found=f"{{{inside}}}",
            expected=f"at most {_MOST:,} names",
            fix="correct the range, e.g. train-{000..127}.tar",
        )
    return list(options)


def _matches(texts: list[str]) -> list[Path]:
    found, missing = [], []
    for text in texts:
        if os.path.isfile(text):
            found.append(Path(text))
        elif glob.has_magic(text) and (files := glob.glob(text, recursive=True)):
            found += _tars([Path(file) for file in files], repr(text))
        else:
            missing.append(text)
    if missing:
        beside = sorted(file.name for file in Path(missing[0]).parent.glob("*.tar"))
        raise DataError(
            f"shard {missing[0]!r} does not exist",
            found=f"{len(missing)} of {len(texts)} missing, in its folder {some(beside)}",
            expected="all shards of the pattern",
            fix="complete the shards or correct the pattern, e.g. --data 'shards:train-{000..127}.tar'",
        )
    return sorted({*found})


def _tars(files: list[Path], where: str) -> list[Path]:
    visible = [file for file in files if not file.name.startswith(".") and file.is_file()]
    found = [file for file in visible if file.suffix.lower() == ".tar"]
    for file in visible:
        match = _COMPRESSED.fullmatch(str(file))
        if match and Path(f"{match[1]}.tar") not in found:
            raise _compressed(file, file.name)
    if not found:
        raise DataError(
            f"no shards in {where}",
            found=some([file.name for file in files]),
            expected="files that end in .tar",
            fix="give the folder that holds them with --data shards:PATH",
        )
    return found


def check_plain(path: Path, start: bytes) -> None:
    """Refuse what the first bytes of a shard tell to be compressed, whatever its name is.

    Raises:
        DataError: when it is.
    """
    kind = next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), None)
    if kind is not None:
        raise _compressed(path, f"the content of a {kind} file")


def _compressed(path: Path, found: str) -> DataError:
    return DataError(
        f"shard {str(path)!r} is compressed",
        found=found,
        expected="a plain tar file, where an image can be read from the middle",
        fix="unpack the compression alone and keep the tar file, e.g. gunzip FILE.tar.gz",
    )
