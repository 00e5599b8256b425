"""Local copies of shards behind URLs: fetched when needed or soon before, each by one process, within a limit.

They lie in ``MAE_LITE_CACHE/fetched``, which all runs of this user share. ``MAE_LITE_SHARD_CACHE_GB`` limits what lies
there; without it, nine tenths of the room there is. What was needed longest ago goes first.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mae_lite import files, locks
from mae_lite.data import cache, fetch
from mae_lite.errors import ConfigError, DiskError, MaeLiteError, explained

_log = logging.getLogger(__name__)

LIMIT = "MAE_LITE_SHARD_CACHE_GB"
_LOCK = "lock"
_AT_ONCE = 4
"""Shards that a process fetches ahead at the same time; one connection seldom fills a fast link."""
_READS = 20
"""Times that a shard may vanish between its arrival and its reading, which says that the limit is far too low."""
_WAIT_SECONDS = 0.05


class _Stored(NamedTuple):
    """A file in the cache, the one needed longest ago first."""

    needed: float
    bytes: int
    path: Path


class ShardCache:
    """Shards by number, from 0. Picklable, and safe to use in threads and after a fork."""

    def __init__(self, shards: Sequence[fetch.Remote], name: str) -> None:
        """Fetch nothing yet.

        Args:
            shards: in the order of their numbers.
            name: the data set, for messages.
        """
        self._shards, self._name = tuple(shards), name
        self._paths = [_place(shard) for shard in shards]
        self._ahead: _Ahead | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave threads behind."""
        return {**self.__dict__, "_ahead": None}

    def __len__(self) -> int:
        """Return the number of shards."""
        return len(self._shards)

    def read(self, shard: int, offset: int, size: int) -> bytes:
        """Return ``size`` bytes of a shard from byte ``offset`` on; it is fetched where it is not there.

        Raises:
            DataError: when it cannot be fetched.
            DiskError: when there is no room for it.
        """
        path = self._paths[shard]
        for _ in range(_READS):
            try:
                # Opened for each read: a shard that is deleted while it is open keeps its room on the disk.
                with explained(path, "read"), path.open("rb", buffering=0) as file:
                    if os.fstat(file.fileno()).st_size == self._shards[shard].size:
                        return os.pread(file.fileno(), size, offset)
                files.remove(path)  # somebody else's doing: a copy appears whole
            except DiskError as error:
                if not isinstance(error.__cause__, FileNotFoundError):
                    raise
            self.fetch(shard)
        raise DiskError(
            f"shards of {self._name!r} are deleted before they are read",
            found=f"{LIMIT} {_limit_gb()}",
            expected="room for what all processes read at once",
            fix=f"raise {LIMIT}, or use fewer --workers",
        )

    @contextmanager
    def held(self, shard: int) -> Iterator[Path]:
        """Yield where the whole shard lies; it stays there during the block."""
        path = self._paths[shard]
        with locks.turn(path.parent / _LOCK):
            self._fetch(shard, lambda: False)
            yield path

    def fetch(
        self, shard: int, stopped: Callable[[], bool] = lambda: False, wanted: Callable[[], bool] = lambda: True
    ) -> None:
        """Have the shard on this disk: fetch it, unless ``stopped``, or wait until another thread or process has.

        Asked whether it is still ``wanted`` when its turn has come: by then it may have been read and deleted again.
        """
        with locks.turn(self._paths[shard].parent / _LOCK):
            if wanted():
                self._fetch(shard, stopped)

    def expect(self, shards: Iterable[int]) -> None:
        """Be told which shards are needed next, in this order: they are fetched in the background, and stay longest.

        This replaces what was expected before; nothing ends what is under way too. Errors wait for the one who reads.
        """
        wanted = list(shards)
        for shard in wanted:
            with suppress(FileNotFoundError):
                files.disk.touch(self._paths[shard])
        if self._ahead is None or self._ahead.process != os.getpid():
            self._ahead = _Ahead(self)
        self._ahead.expect(wanted)

    def _fetch(self, shard: int, stopped: Callable[[], bool]) -> None:
        """Fetch a shard whose turn this thread has."""
        path, remote = self._paths[shard], self._shards[shard]
        if path.exists():
            return
        files.sweep(path.parent)  # what a killed process left
        try:
            with files.published_file(path) as temporary:
                _claim(temporary, remote.size)
                _log.debug("%s: fetching shard %d of %d, %s", self._name, shard + 1, len(self._shards), remote.name)
                fetch.copy(remote, temporary, stopped)
        except DiskError as error:
            if isinstance(error.__cause__, OSError):
                raise cache.moved(error, path.parent) from error
            raise


class _Ahead:
    """Threads that fetch what is expected; they end when nothing is."""

    def __init__(self, shards: ShardCache) -> None:
        self._shards, self._waiting, self._wanted = shards, deque[int](), frozenset[int]()
        self._lock, self._running, self.process = threading.Lock(), 0, os.getpid()
        self._generation = 0  # counts the times that nothing was expected any more

    def expect(self, shards: list[int]) -> None:
        with self._lock:
            self._waiting, self._wanted = deque(shards), frozenset(shards)
            self._generation += not shards
            while self._running < min(_AT_ONCE, len(shards)):
                self._running += 1
                # Daemons: a program that ends does not wait for a slow server.
                threading.Thread(target=self._work, daemon=True, name="shards ahead").start()

    def _stopped(self, generation: int) -> bool:
        return self._generation != generation

    def _is_wanted(self, shard: int) -> bool:
        return shard in self._wanted

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._running -= 1
                    return
                shard, generation = self._waiting.popleft(), self._generation
            try:
                self._shards.fetch(shard, partial(self._stopped, generation), partial(self._is_wanted, shard))
            except MaeLiteError as error:
                _log.debug("not fetched ahead: %s", error.what)


def _place(remote: fetch.Remote) -> Path:
    # A changed file has another size or tag, and so another place: its old copy is left until room is needed.
    digest = hashlib.sha256(json.dumps([remote.url, remote.size, remote.tag]).encode()).hexdigest()
    return _folder() / digest / remote.file_name


def _folder() -> Path:
    return cache.place("fetched", []).parent


def _claim(temporary: Path, size: int) -> None:
    """Make a file of ``size`` bytes, when there is room, or room has been made, or others have let go of some.

    Raises:
        DiskError: when there will be none.
    """
    while True:
        with locks.turn(_folder() / _LOCK):
            if _make_room(size):
                with explained(temporary, "write"), temporary.open("wb") as file:
                    file.truncate(size)  # counts as room taken from now on
                return
        time.sleep(_WAIT_SECONDS)  # all else is being fetched or read by others, which will be done


def _make_room(size: int) -> bool:
    """Delete what was needed longest ago until ``size`` bytes more stay within the limit; return whether they do."""
    found = sorted(_stored())
    used = sum(stored.bytes for stored in found)
    limit = _limit_bytes(used)
    if size > limit:
        raise DiskError(
            f"the cache {str(_folder())!r} has no room for a shard",
            found=f"room for {limit / 1e9:.3g} GB in all, and a shard of {size / 1e9:.3g} GB",
            fix=f"raise {LIMIT}, free space, or set MAE_LITE_CACHE to a folder on a larger disk",
        )
    for stored in found:
        if used + size <= limit:
            break
        with locks.turn(stored.path.parent / _LOCK, wait=False) as mine:
            if mine:
                files.remove(stored.path)
                used -= stored.bytes
    return used + size <= limit


def room_bytes() -> float:
    """Return how much may lie in the cache.

    Raises:
        ConfigError: when ``MAE_LITE_SHARD_CACHE_GB`` is no number above 0.
    """
    return _limit_bytes(sum(stored.bytes for stored in _stored()))


def _limit_bytes(used: int) -> float:
    if (limit_gb := _limit_gb()) is not None:
        return limit_gb * 1e9
    place = next(path for path in (_folder(), *_folder().parents) if path.exists())
    disk = os.statvfs(place)
    return 0.9 * (used + disk.f_bavail * disk.f_frsize)


def _limit_gb() -> float | None:
    text = os.environ.get(LIMIT, "").strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        fix = f"set {LIMIT}=100, or unset it to use nine tenths of the room there is"
        raise ConfigError(LIMIT, found=repr(text), expected="a number of gigabytes above 0", fix=fix)
    return value


def _stored() -> Iterator[_Stored]:
    for path in _folder().glob("*/*"):
        with suppress(FileNotFoundError):
            status = path.stat()
            if path.name != _LOCK:
                yield _Stored(status.st_mtime, status.st_size, path)
