"""What lies below a folder: image files, folders, and how much of what else. The file system is asked in parallel."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from mae_lite.errors import DataError

_log = logging.getLogger(__name__)
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".npy")
"""What image files end in, in any case."""
DANGLING = "dangling link"
CIRCLE = "link in a circle"
SPECIAL = "special file"

_SUFFIXES = tuple(map(os.fsencode, EXTENSIONS))
_CLUTTER = (b"__macosx", b"thumbs.db", b"desktop.ini")  # left by other systems, and nobody's data
# A local disk answers within the time that Python needs to ask; a network takes its time, so that many ask at once.
_THREADS = 16
_FOLDERS_AT_ONCE = 16
_FILES_AT_ONCE = 1000
# File systems count time in ticks (2 s on FAT): a folder that changed just before it was read may change again within
# the same tick, which its time would not tell.
RACY_NS = 2_000_000_000
_QUIET_S = 2.0
_PROGRESS_S = 5.0


class FolderFacts(NamedTuple):
    """One folder as it was when it was read."""

    name: str
    """Relative to the root, with "/"; "" is the root itself."""
    mtime_ns: int
    ctime_ns: int
    inode: int
    settled: bool
    """Whether the same times mean the same entries."""
    ignored: dict[str, int]
    """How many entries are no images, by extension or kind."""


class Seen(NamedTuple):
    """What a walk saw."""

    folders: dict[str, FolderFacts]
    """Every folder, empty ones too."""
    fresh: dict[str, list[bytes]]
    """Names of the images directly in each folder that was read; folders that were known and unchanged are missing."""


class _Visit(NamedTuple):
    name: str
    above: tuple[tuple[int, int], ...]
    """Device and inode of every folder on the way down."""


class _Found(NamedTuple):
    facts: FolderFacts
    images: list[bytes] | None
    folders: list[str]
    above: tuple[tuple[int, int], ...]


class Progress:
    """Says how far a listing has come, when it takes long."""

    def __init__(self, root: Path) -> None:
        """Start the clock."""
        self._root = root
        self._next = time.monotonic() + _QUIET_S

    def at(self, count: int, whole: int | None = None) -> None:
        """Log now and then how many files were found, or of how many found ones the sizes are known."""
        if count and time.monotonic() >= self._next:
            of = "" if whole is None else f" of {whole:,}"
            _log.info("listing %s ... %s files", self._root, f"{count:,}{of}")
            self._next = time.monotonic() + _PROGRESS_S


def threads() -> ThreadPoolExecutor:
    """Return threads for waiting on the file system; leave the context to end them."""
    return ThreadPoolExecutor(_THREADS)


def walk(root: Path, known: Mapping[str, FolderFacts], pool: ThreadPoolExecutor, progress: Progress) -> Seen:
    """Visit every folder below ``root``; read those that are not ``known``, changed, or were not settled.

    Symbolic links are followed, except where they lead back up.

    Raises:
        DataError: when a folder cannot be read.
    """
    children: dict[str, list[str]] = {}
    for name in known:
        if name:
            children.setdefault(name.rpartition("/")[0], []).append(name)
    seen, count = Seen({}, {}), 0
    level = [_Visit("", ())]
    while level:
        below: list[_Visit] = []
        found = _spread(pool, lambda visit: _visit(root, visit, known, children), level, _FOLDERS_AT_ONCE)
        for visit, one in zip(level, found, strict=True):
            if isinstance(one, _Found):
                seen.folders[visit.name] = one.facts
                below += [_Visit(name, one.above) for name in one.folders]
                if one.images is not None:
                    seen.fresh[visit.name] = one.images
                    count += len(one.images)
            else:
                _note(seen.folders, visit.name, one)
            progress.at(count)
        level = below
    return seen


def _visit(
    root: Path, visit: _Visit, known: Mapping[str, FolderFacts], children: Mapping[str, list[str]]
) -> _Found | str:
    """Return what is in one folder, or a word for why it is not to be entered."""
    path = os.fsencode(root / visit.name)
    before = time.time_ns()
    try:
        status = os.stat(path)
        key = (status.st_dev, status.st_ino)
        if key in visit.above:
            return CIRCLE
        times = (status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        old = known.get(visit.name)
        if old is not None and old.settled and times == (old.mtime_ns, old.ctime_ns, old.inode):
            return _Found(old, None, children.get(visit.name, []), (*visit.above, key))
        images, folders, ignored = read(path)
    except FileNotFoundError as error:
        if visit.name:
            return DANGLING
        raise _unreadable(root, error) from error
    except OSError as error:
        raise _unreadable(root / visit.name, error) from error
    # The change time cannot be set by hand, so that folders copied with their old times count as recent too.
    settled = status.st_ctime_ns < before - RACY_NS and DANGLING not in ignored
    facts = FolderFacts(visit.name, *times, settled, dict(ignored))
    return _Found(facts, images, [f"{visit.name}/{name}".lstrip("/") for name in folders], (*visit.above, key))


def _note(folders: dict[str, FolderFacts], name: str, reason: str) -> None:
    """Write into the facts of the parent why the folder ``name`` was not entered."""
    parent = name.rpartition("/")[0]
    facts = folders[parent]
    if reason == DANGLING:  # gone without a change of the parent: a link, whose target may come back as silently
        folders[parent] = facts._replace(settled=False)
    else:
        folders[parent] = facts._replace(ignored={**facts.ignored, reason: facts.ignored.get(reason, 0) + 1})


def read(path: bytes) -> tuple[list[bytes], list[str], Counter[str]]:
    """Return the names of the images and of the folders in one folder, and how many entries of other kinds it has.

    Raises:
        OSError: when it cannot be read.
    """
    images: list[bytes] = []
    folders: list[str] = []
    ignored: Counter[str] = Counter()
    with os.scandir(path) as entries:
        for entry in entries:
            name = entry.name
            if name.startswith(b".") or name.lower() in _CLUTTER:
                continue
            kind = _kind(entry)
            if kind == "folder":
                folders.append(os.fsdecode(name))
            elif kind == "image":
                images.append(name)
            else:
                ignored[kind] += 1
    return images, folders, ignored


def entries(folder: Path) -> tuple[list[str], dict[str, Path]]:
    """Return the names of the images and the folders, by name, directly in ``folder``.

    Raises:
        DataError: when it cannot be read.
    """
    try:
        images, folders, _ = read(os.fsencode(folder))
    except OSError as error:
        raise _unreadable(folder, error) from error
    return sorted(map(os.fsdecode, images)), {name: folder / name for name in sorted(folders)}


def _kind(entry: os.DirEntry[bytes]) -> str:
    try:
        if entry.is_dir():
            return "folder"
        if not entry.is_file():
            return DANGLING if entry.is_symlink() else SPECIAL
    except OSError:
        if entry.is_symlink():  # a link to itself, or into a place that is closed
            return DANGLING
        raise
    name = entry.name.lower()
    return "image" if name.endswith(_SUFFIXES) else os.fsdecode(os.path.splitext(name)[1]) or "no extension"


def stat_all(root: Path, names: Sequence[bytes], pool: ThreadPoolExecutor, progress: Progress) -> npt.NDArray[np.int64]:
    """Return size and mtime_ns of the files ``names`` below ``root``, [n, 2]; -1 for those that are gone.

    Raises:
        DataError: when the file system refuses.
    """
    blocks = [names[start : start + _FILES_AT_ONCE] for start in range(0, len(names), _FILES_AT_ONCE)]
    rows = np.empty((len(names), 2), dtype=np.int64)
    done = 0
    for found in _spread(pool, lambda block: stat_files(root, block), blocks, 1):
        rows[done : done + len(found)] = found
        done += len(found)
        progress.at(done, len(names))
    return rows


def stat_files(root: Path, names: Iterable[bytes]) -> npt.NDArray[np.int64]:
    """Return size and mtime_ns as :func:`stat_all` does, in this thread."""
    prefix = os.path.join(os.fsencode(root), b"")
    rows: list[int] = []
    for name in names:
        try:
            status = os.stat(prefix + name)
        except (FileNotFoundError, NotADirectoryError):
            rows += (-1, -1)
        except OSError as error:
            if error.errno != errno.ELOOP:  # a link to itself is as good as gone
                raise _unreadable((root / os.fsdecode(name)).parent, error) from error
            rows += (-1, -1)
        else:
            rows.append(status.st_size)
            rows.append(status.st_mtime_ns)
    try:
        return np.array(rows, dtype=np.int64).reshape(-1, 2)
    except OverflowError:  # a time beyond the year 2262
        limits = np.iinfo(np.int64)
        return np.array([min(max(row, limits.min), limits.max) for row in rows], dtype=np.int64).reshape(-1, 2)


def _unreadable(folder: Path, error: OSError) -> DataError:
    """Return the error for a folder that the system does not let us read."""
    return DataError(
        f"folder {str(folder)!r} cannot be read",
        found=str(error.strerror),
        expected="a folder of images",
        fix="give a folder you may read, with --data PATH",
    )


def _spread(
    pool: ThreadPoolExecutor, function: Callable[[_Item], _Result], items: Sequence[_Item], size: int
) -> Iterator[_Result]:
    """Yield ``function`` of every item, in order; a thread takes ``size`` items at a time."""
    blocks = [items[start : start + size] for start in range(0, len(items), size)]
    for results in pool.map(lambda block: [function(item) for item in block], blocks):
        yield from results
