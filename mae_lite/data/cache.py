"""What is worth keeping between runs: tables derived from a data set, as memory-mapped Arrow files.

They lie in ``MAE_LITE_CACHE``, by default ``~/.cache/mae_lite``, and may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from mae_lite import files
from mae_lite.errors import DiskError

_ABOUT = b"mae_lite"
_CRC_BYTES = 4
_HEAD = b"mae_lite table, CRC-32 of the Arrow file that begins at byte 64\n".ljust(64 - _CRC_BYTES)[: 64 - _CRC_BYTES]


def place(kind: str, facts: Any) -> Path:
    """Return where the table of ``kind`` that belongs to ``facts`` (anything JSON takes) is kept."""
    root = Path(os.environ.get("MAE_LITE_CACHE") or Path.home() / ".cache" / "mae_lite")
    return root / kind / f"{hashlib.sha256(json.dumps(facts).encode()).hexdigest()}.arrow"


def load(path: Path) -> tuple[Any, dict[str, Any]] | None:
    """Open a kept table through a memory map.

    Returns:
        The pyarrow table and what :func:`save` was told about it; None when it is not there or not as it was written.
    """
    try:
        whole = pa.memory_map(str(path)).read_buffer()
        content = whole.slice(len(_HEAD) + _CRC_BYTES)
        # The Arrow reader believes every offset: a damaged file would lead it to places that are not there.
        if whole.slice(0, len(_HEAD) + _CRC_BYTES).to_pybytes() != _HEAD + _crc(content):
            return None
        table = pa.ipc.open_file(content, options=pa.ipc.IpcReadOptions(use_threads=False)).read_all()
        return table, json.loads(table.schema.metadata[_ABOUT])
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        return None


def save(path: Path, columns: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Keep a table: pyarrow arrays by name, and a few facts that JSON takes.

    Raises:
        DiskError: when it cannot be written; says how to move the cache.
    """
    try:
        files.make_folder(path.parent)
        write(path, columns, about)
    except DiskError as error:
        raise moved(error, path) from error


def write(path: Path, columns: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Write a table for :func:`load` anywhere; arguments as in :func:`save`.

    Raises:
        DiskError: when it cannot be written.
    """
    table = pa.table(dict(columns)).replace_schema_metadata({_ABOUT: json.dumps(dict(about))})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    content = sink.getvalue()
    files.write_bytes(path, b"".join((_HEAD, _crc(content), content)))


def _crc(content: Any) -> bytes:
    return zlib.crc32(memoryview(content)).to_bytes(_CRC_BYTES, "little")


def moved(error: DiskError, path: Path) -> DiskError:
    """Return ``error`` with the advice that helps here: another place for the cache."""
    fix = f"set MAE_LITE_CACHE to a folder with room and write access, instead of {str(path.parents[1])!r}"
    return DiskError(error.what, found=error.found, expected=error.expected, fix=fix)
