"""Tar shards behind URLs: indexed without keeping all of them, then read window by window through a local cache."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mae_lite import files, locks
from mae_lite.data import cache, fetch, published_index, shard_cache, shard_index
from mae_lite.data.shard_cache import ShardCache
from mae_lite.data.shard_files import expand
from mae_lite.data.shard_index import Content, Image
from mae_lite.data.shards import NAMES, Shards
from mae_lite.data.sources import Example
from mae_lite.data.windows import Windows
from mae_lite.errors import DataError, DiskError

_log = logging.getLogger(__name__)

_VERSION = 1
"""Of the index; counted up when its content changes, so that an old one is not taken."""
WINDOW_BYTES = 4e9
"""Of shards read together: some 35,000 photographs, enough to shuffle. Part of the order, and so no setting."""
_LIVE = 3
"""Windows on the disk at once: the one that workers are about to leave, the current one, the one that is fetched."""
_MOST_NAMES = 1 << 26
"""Bytes of the names of classes."""
_AHEAD = 8
"""Shards that are fetched while others are indexed."""


class RemoteShards(Shards):
    """The images of tar files behind URLs, in the order of the pattern; what :class:`Shards` says holds here too."""

    def __init__(self, pattern: str, name: str | None = None) -> None:
        """Index the shards at first use, which reads each once, then open the index.

        Later starts ask the server for sizes and tags alone. All shards are taken, whatever their names say of splits.

        Args:
            pattern: URLs with {000..127} and {a,b}; http, https, s3 or gs.
            name: what the user gave.

        Raises:
            ConfigError: when the pattern stands for too many names.
            DataError: when shards or labels are missing, damaged or contradict each other.
            DiskError: when a package or room for the largest shard is missing.
        """
        self.name, self.split = name or pattern, None
        urls = expand(pattern)
        self._remotes, table, about = published_index.read(urls) or self._indexed(fetch.look(urls))
        # Where they lie does not matter to fingerprints, so that a local copy of the shards is the same data.
        self._paths = [Path(remote.file_name) for remote in self._remotes]
        self._states = [(remote.size, 0) for remote in self._remotes]
        self._cache = ShardCache(self._remotes, self.name)
        self._take(table, about)
        sizes = np.array([remote.size for remote in self._remotes], dtype=np.int64)
        size = max(1, int(WINDOW_BYTES / max(1.0, float(sizes.mean()))))
        self.windows = Windows(self._shards, size)
        self._needed = int(np.sort(sizes)[::-1][: _LIVE * size].sum()), size

    def _indexed(self, remotes: list[fetch.Remote]) -> tuple[list[fetch.Remote], Any, dict[str, Any]]:
        """Return shards, table and facts from the kept index, or from one that is made now."""
        kept = cache.place("remote", [_VERSION, [[remote.url, remote.size, remote.tag] for remote in remotes]])
        with locks.turn(kept.with_suffix(".lock")):  # of several processes that start at once, one makes the index
            if (found := cache.load(kept)) is None:
                total = sum(remote.size for remote in remotes)
                _log.info("%s: indexing %d shards, %.3g GB, once", self.name, len(remotes), total / 1e9)
                scanned = [
                    cache.place("scanned", [_VERSION, remote.url, remote.size, remote.tag]) for remote in remotes
                ]
                contents = _contents(ShardCache(remotes, self.name), scanned)
                cache.save(kept, *shard_index.index([Path(one.file_name) for one in remotes], self.name, contents))
                found = cache.load(kept)
                for path in scanned:
                    files.remove(path)
        if found is None:
            raise _unreadable(kept)
        return remotes, *found

    def _names_file(self) -> tuple[str, bytes] | None:
        for name in NAMES:
            content = fetch.small(self._remotes[0].beside(name), _MOST_NAMES)
            if content is not None:
                return name, content
        return None

    def example(self, index: int) -> Example:
        """Return the encoded image ``index``.

        Raises:
            DiskError: when its shard can no longer be fetched. This is no bad image, for which another may stand in:
                what a run sees must not depend on the state of a network.
        """
        shard, size = int(self._shards[index]), int(self._sizes[index])
        try:
            data = self._cache.read(shard, int(self._offsets[index]), size)
        except DataError as error:
            raise DiskError(error.what, found=error.found, expected=error.expected, fix=error.fix) from error
        return Example(f"{self._remotes[shard].name} member {self._member(index)}", data)

    def expect(self, shards: Iterable[int]) -> None:
        """Fetch shards in the background, in this order.

        Raises:
            DiskError: when the cache is too small for training.
        """
        wanted, (needed, size) = list(shards), self._needed
        if wanted and needed > (room := shard_cache.room_bytes()):
            raise DiskError(
                f"the cache of shards is too small to train on {self.name!r}",
                found=f"room for {room / 1e9:.3g} GB",
                expected=f"{needed / 1e9:.3g} GB, {_LIVE} windows of {size} shards",
                fix=f"raise {shard_cache.LIMIT}, free space, or set MAE_LITE_CACHE to a folder on a larger disk",
            )
        self._cache.expect(wanted)


def _contents(shards: ShardCache, scanned: list[Path]) -> Iterator[Content]:
    """Yield what each shard holds; what is known of it is kept, so that an interrupted start goes on where it was."""
    left = [shard for shard, path in enumerate(scanned) if cache.load(path) is None]
    for shard, path in enumerate(scanned):
        if shard in left[:1]:
            shards.expect(left[:_AHEAD])
            with shards.held(left.pop(0)) as place:
                content = shard_index.scan(place)
            cache.save(path, {}, {key: getattr(content, key) for key in ("images", "numbers", "ignored")})
        found = cache.load(path)
        if found is None:
            raise _unreadable(path)
        images = {key: Image(*place) for key, place in found[1]["images"].items()}
        yield Content(images, found[1]["numbers"], ignored=Counter(found[1]["ignored"]))


def _unreadable(kept: Path) -> DiskError:
    fix = "check the disk, or set MAE_LITE_CACHE to a folder on another"
    return DiskError(f"the index {str(kept)!r} is not as it was written", fix=fix)
