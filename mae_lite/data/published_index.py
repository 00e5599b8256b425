"""The index of shards as a file beside them: who reads them from far knows them without fetching them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mae_lite import files
from mae_lite.data import cache, fetch, shard_index
from mae_lite.data.shard_files import find
from mae_lite.data.sources import some
from mae_lite.errors import DataError

_log = logging.getLogger(__name__)

NAME = "mae_lite_index.arrow"
_VERSION = 1
_CHUNK = 1 << 24
_LARGEST = 1 << 34
"""Bytes, some hundred million images."""
_TYPES = {"shard": pa.int64(), "offset": pa.int64(), "size": pa.int64(), "name": pa.large_binary(), "label": pa.int64()}


def publish(pattern: str) -> Path:
    """Write the index of local shards beside them; upload it with them.

    Args:
        pattern: a .tar file, a folder of them, a glob, or names with {000..127} and {a,b}, all in one folder. Splits
            that names tell stay together: who reads names the shards.

    Returns:
        The path of the index.

    Raises:
        DataError: when shards are missing, damaged, or lie in several folders.
        DiskError: when it cannot be written.
    """
    path = Path(pattern).expanduser()
    paths = sorted(path.glob("*.tar")) if path.is_dir() else find(pattern, "train", pattern)[0]
    folders = sorted({str(shard.parent) for shard in paths})
    if len(folders) != 1:
        expected, fix = "shards in one folder, where their index will lie", "index each folder by itself"
        raise DataError(f"shards {pattern!r} cannot share an index", found=some(folders), expected=expected, fix=fix)
    columns, about = shard_index.index(paths, pattern)
    shards = [[shard.name, shard.stat().st_size, _sha256(shard)] for shard in paths]
    cache.save(paths[0].parent / NAME, columns, {**about, "version": _VERSION, "shards": shards})
    return paths[0].parent / NAME


def read(urls: Sequence[str]) -> tuple[list[fetch.Remote], Any, dict[str, Any]] | None:
    """Return shards, table and facts (see :func:`mae_lite.data.shard_index.index`) from the index beside ``urls``.

    None where there is no index, or the shards lie in several folders.

    Raises:
        DataError: when the index cannot be read or lacks one of the shards.
        DiskError: when there is no room for it, or a package is missing.
    """
    places = {fetch.Remote(url, 0, "").beside(NAME) for url in urls}
    remote = fetch.state(places.pop()) if len(places) == 1 else None
    if remote is None:
        return None
    if remote.size > _LARGEST:
        fix = "give the address of shards that you trust"
        raise DataError(
            f"{remote.name!r} is no index", found=f"{remote.size:,} bytes", expected=f"at most {_LARGEST:,}", fix=fix
        )
    path = cache.place("published", [remote.url, remote.size, remote.tag])
    if not path.exists():
        with files.published_file(path) as temporary:
            fetch.copy(remote, temporary)
    table, about = cache.load(path) or (None, {})
    fault = "no whole file of its kind" if table is None else _fault(table, about)
    if fault:
        files.remove(path)
        fix = "write it anew with mae_lite.index_shards, or remove it to have the shards indexed by who reads them"
        raise DataError(f"the index {remote.name!r} cannot be used", found=fault, fix=fix)
    _log.info("%s says what the shards hold", remote.name)
    return _chosen(urls, remote, table, about)


def _chosen(
    urls: Sequence[str], index: fetch.Remote, table: Any, about: dict[str, Any]
) -> tuple[list[fetch.Remote], Any, dict[str, Any]]:
    """Return those of the indexed shards that ``urls`` name, in their order."""
    known = {name: (number, size, digest) for number, (name, size, digest) in enumerate(about["shards"])}
    asked = [fetch.Remote(url, 0, "") for url in urls]
    missing = [shard.file_name for shard in asked if shard.file_name not in known]
    if missing:
        raise DataError(
            f"the index {index.name!r} lacks shards",
            found=some(missing),
            expected="all shards of the pattern",
            fix="correct the pattern, or write the index anew with mae_lite.index_shards",
        )
    numbers = np.array([known[shard.file_name][0] for shard in asked], dtype=np.int64)
    position = np.full(len(known), -1, dtype=np.int64)
    position[numbers] = np.arange(len(numbers))
    shard = position[table["shard"].to_numpy()]
    rows = np.flatnonzero(shard >= 0)
    rows = rows[np.argsort(shard[rows], kind="stable")]
    table = table.take(pa.array(rows)).set_column(0, "shard", pa.array(shard[rows]))
    remotes = [fetch.Remote(one.url, *known[one.file_name][1:]) for one in asked]
    return remotes, table, about


def _fault(table: Any, about: dict[str, Any]) -> str:
    """Return what is wrong with an index that came from far; "" for nothing."""
    try:
        if about["version"] != _VERSION:
            return f"version {about['version']!r} instead of {_VERSION}"
        table.validate(full=True)
        if dict(zip(table.column_names, table.schema.types, strict=True)) != _TYPES or not len(table):
            return "other columns, or no rows"
        shard, offset, size, label = (table[name].to_numpy() for name in ("shard", "offset", "size", "label"))
        sizes = np.array([size for _, size, _ in about["shards"]], dtype=np.int64)
        if not _within(shard, len(sizes) - 1) or not _within(offset, sizes[shard]) or not _within(size, sizes[shard]):
            return "places that are not in the shards"
        classes = about["classes"]
        highest = shard_index.MOST_CLASSES - 1 if about["numbered"] else -1 if classes is None else len(classes) - 1
        if label.min() < -1 or label.max() > highest or np.any(offset + size > sizes[shard]):
            return "labels or places that cannot be"
    except (KeyError, TypeError, ValueError, OverflowError, pa.ArrowException) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _within(values: npt.NDArray[np.int64], highest: Any) -> bool:
    return bool(np.all((values >= 0) & (values <= highest)))


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(_CHUNK):
            digest.update(data)
    return f"{fetch.DIGEST}{digest.hexdigest()}"
