"""The images below a folder with their sizes and times, listed once and kept between runs."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mae_lite import draws
from mae_lite.data import cache, scan
from mae_lite.data.sources import Indices
from mae_lite.errors import DiskError

_log = logging.getLogger(__name__)

_VERSION = 1
_COLUMNS = ("name", "size", "mtime_ns", "folder")
_PATIENCE_S = 1.0
"""How long a start may take to compare single files: all of them, up to some hundred thousand on a local disk."""
_BLOCK = 64  # neighbours are cheaper to ask for, but shall not hide that a folder of them was altered
_BLOCKS_AT_ONCE = 8
_warned: set[Path] = set()


@dataclass(frozen=True)
class Listing:
    """N image files below a folder, in the order of their paths as bytes."""

    names: Any
    """[N] paths relative to the root: a pyarrow array of large_binary, on the disk where it is kept."""
    sizes: Indices
    """[N] in bytes."""
    mtimes_ns: Indices
    """[N] times of the last change."""
    folder_of: Indices
    """[N] which of ``folders`` each lies in; classes and labels follow from it."""
    folders: tuple[scan.FolderFacts, ...]
    """Every folder, empty ones too, the root first."""
    sha256: str
    """Over names and sizes."""

    @property
    def ignored(self) -> Counter[str]:
        """How many files are no images, by extension or kind; hidden files do not count."""
        total: Counter[str] = Counter()
        for folder in self.folders:
            total.update(folder.ignored)
        return total

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.sizes)


def listing(root: Path) -> Listing:
    """Return the images below ``root``, from the cache where that is still true.

    At every start each folder's times and inode are compared, which tells of everything added, removed, renamed or
    replaced; only folders that differ are read again. A folder that changed less than two seconds before it was read
    is not trusted and read again at the next start. Single files are compared by size and time in random order for a
    second, so all of them where there are few: a file written in place, which leaves its folder as it was, is always
    noticed in a small data set, and in one of a million only when it is among those drawn. Two changes stay
    unnoticed: a file rewritten in place with its old size and time, and whatever happens after this function.

    Raises:
        DataError: when a folder cannot be read.
    """
    path = _place(root)
    kept = _load(path)
    progress = scan.Progress(root)
    with scan.threads() as pool:
        known = {} if kept is None else _trusted(root, kept, pool)
        seen = scan.walk(root, known, pool, progress)
        if kept is None or seen.fresh or len(seen.folders) != len(kept.folders):
            current = _merged(root, kept, seen, pool, progress)
        else:
            current = kept
    if kept is None:
        _save(path, current)
    elif current.folders != kept.folders or not _same(current, kept):
        if changed := _changes(kept, current):
            _log.info("%s has changed since it was listed: %s", root, changed)
        if kept.sha256 != current.sha256:  # for runs that were begun with it
            _save(_place(root, kept.sha256), kept)
        _save(path, current)
    ignored = ", ".join(f"{count:,} x {kind}" for kind, count in _by_count(current.ignored))
    if ignored:
        _log.info("%s: %s images; ignored %s", root, f"{len(current):,}", ignored)
    return current


def changes_since(root: Path, sha256: str) -> str:
    """Return what came, went and changed below ``root`` since its listing had this SHA-256; "" where none is kept."""
    before, now = _load(_place(root, sha256)), _load(_place(root))
    return "" if before is None or now is None else _changes(before, now, times=False)


def _place(root: Path, sha256: str | None = None) -> Path:
    """Return where the listing of ``root`` is kept: the present one, or one of before by its SHA-256."""
    return cache.place("listings", [os.path.abspath(root), _VERSION, *([] if sha256 is None else [sha256])])


def _by_count(kinds: Counter[str]) -> list[tuple[str, int]]:
    return sorted(kinds.items(), key=lambda item: (-item[1], item[0]))


def _same(one: Listing, other: Listing) -> bool:
    return one.sha256 == other.sha256 and np.array_equal(one.mtimes_ns, other.mtimes_ns)


def _trusted(root: Path, kept: Listing, pool: ThreadPoolExecutor) -> dict[str, scan.FolderFacts]:
    """Return the kept folders, unsettled where a file was seen to differ; none where more may differ than was seen."""
    deadline = time.monotonic() + _PATIENCE_S
    count = -(-len(kept) // _BLOCK)
    # Another draw at every start, for it decides what is looked at and never what is found.
    order = draws.permutation(draws.key(time.time_ns(), "files to compare"), count)
    expected = np.stack([kept.sizes, kept.mtimes_ns], axis=1)

    def differing(blocks: npt.NDArray[np.int64]) -> Indices | None:
        if time.monotonic() > deadline:
            return None
        rows = (blocks[:, None] * _BLOCK + np.arange(_BLOCK)).ravel()
        rows = rows[rows < len(kept)]
        found = scan.stat_files(root, kept.names.take(pa.array(rows)).to_pylist())
        return np.unique(kept.folder_of[rows[(found != expected[rows]).any(axis=1)]])

    groups = [order[start : start + _BLOCKS_AT_ONCE] for start in range(0, count, _BLOCKS_AT_ONCE)]
    answers = [answer for answer in pool.map(differing, groups) if answer is not None]
    suspects = {int(number) for answer in answers for number in answer}
    _log.debug("%s: %d of %d files compared", root, min(len(answers) * _BLOCK * _BLOCKS_AT_ONCE, len(kept)), len(kept))
    if suspects and len(answers) < len(groups):
        return {}
    known = {facts.name: facts for facts in kept.folders}
    return known | {kept.folders[n].name: kept.folders[n]._replace(settled=False) for n in suspects}


def _merged(
    root: Path, kept: Listing | None, seen: scan.Seen, pool: ThreadPoolExecutor, progress: scan.Progress
) -> Listing:
    """Return the listing of what was read just now and of what was known and has not changed."""
    folders = tuple(sorted(seen.folders.values(), key=lambda facts: os.fsencode(facts.name)))
    number = {facts.name: position for position, facts in enumerate(folders)}
    names: list[bytes] = []
    numbers: list[int] = []
    for folder, images in seen.fresh.items():
        prefix = os.fsencode(folder) + b"/" if folder else b""
        names += [prefix + image for image in images]
        numbers += [number[folder]] * len(images)
    facts = scan.stat_all(root, names, pool, progress)
    folder_of = np.array(numbers, dtype=np.int64)
    if (facts[:, 0] < 0).any():  # removed between the two looks
        there = facts[:, 0] >= 0
        names = [name for name, one in zip(names, there.tolist(), strict=True) if one]
        facts, folder_of = facts[there], folder_of[there]
    if kept is not None:
        renumbered = np.array(
            [-1 if f.name in seen.fresh else number.get(f.name, -1) for f in kept.folders], dtype=np.int64
        )[kept.folder_of]
        stay = renumbered >= 0
        names += kept.names.filter(pa.array(stay)).to_pylist()
        facts = np.concatenate([facts, np.stack([kept.sizes[stay], kept.mtimes_ns[stay]], axis=1)])
        folder_of = np.concatenate([folder_of, renumbered[stay]])
    order = sorted(range(len(names)), key=names.__getitem__)
    names = [names[position] for position in order]
    facts, folder_of = facts[order], folder_of[order]
    sizes = np.ascontiguousarray(facts[:, 0])
    array = pa.array(names, type=pa.large_binary())
    return Listing(array, sizes, np.ascontiguousarray(facts[:, 1]), folder_of, folders, _digest(names, sizes))


def _digest(names: list[bytes], sizes: Indices) -> str:
    digest = hashlib.sha256()
    for start in range(0, len(names), 10_000):
        pairs = zip(names[start : start + 10_000], sizes[start : start + 10_000].tolist(), strict=True)
        digest.update(b"".join(b"%b\0%d\0" % pair for pair in pairs))
    return digest.hexdigest()


def _changes(kept: Listing, current: Listing, *, times: bool = True) -> str:
    """Return what has changed, in one line; "" where only other files came or went.

    Args:
        kept: the earlier listing.
        current: the later one.
        times: whether a file with another time and the old size counts as altered.
    """
    before = pc.fill_null(pc.index_in(current.names, value_set=kept.names), -1).to_numpy(zero_copy_only=False)
    stayed = before >= 0
    old = before[stayed]
    altered = np.zeros(len(current), dtype=bool)
    later = (current.mtimes_ns[stayed] != kept.mtimes_ns[old]) & times
    altered[stayed] = (current.sizes[stayed] != kept.sizes[old]) | later
    removed = np.ones(len(kept), dtype=bool)
    removed[old] = False
    parts = []
    for word, names, which in (
        ("added", current.names, ~stayed),
        ("removed", kept.names, removed),
        ("altered", current.names, altered),
    ):
        rows = np.flatnonzero(which)
        if len(rows):
            first = ", ".join(repr(os.fsdecode(names[row].as_py())) for row in rows[:3].tolist())
            parts.append(f"{len(rows):,} {word} ({first}{', ...' if len(rows) > 3 else ''})")
    return "; ".join(parts)


def _load(path: Path) -> Listing | None:
    """Return the kept listing; None where there is none, or where it is damaged."""
    found = cache.load(path)
    if found is None:
        return None
    table, about = found
    try:
        names, sizes, mtimes, folder_of = [_whole(table.column(name)) for name in _COLUMNS]
        folders = tuple(scan.FolderFacts(*facts) for facts in about["folders"])
        return Listing(names, sizes.to_numpy(), mtimes.to_numpy(), folder_of.to_numpy(), folders, about["sha256"])
    except (pa.ArrowException, KeyError, TypeError, ValueError):
        return None


def _whole(column: Any) -> Any:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _save(path: Path, current: Listing) -> None:
    """Keep a listing; where that is not possible, say so once and go on without."""
    columns = [current.names, *map(pa.array, (current.sizes, current.mtimes_ns, current.folder_of))]
    about: Mapping[str, Any] = {
        "folders": current.folders,
        "sha256": current.sha256,
    }
    try:
        cache.save(path, dict(zip(_COLUMNS, columns, strict=True)), about)
    except DiskError as error:
        if path.parent not in _warned:
            _warned.add(path.parent)
            _log.warning("image folders are listed anew at every start: %s", error)
