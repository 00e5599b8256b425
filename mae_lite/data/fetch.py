"""Files behind URLs, copied whole into the cache: the only module that reads from the network."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import aiohttp
import fsspec

from mae_lite import files
from mae_lite.data import cache
from mae_lite.errors import DataError, DiskError, shortly

_log = logging.getLogger(__name__)

CONNECT_SECONDS, STALL_SECONDS = 20.0, 60.0
PAUSES_SECONDS = (1.0, 4.0, 16.0)
"""Before each further attempt."""
_CHUNK = 1 << 20
_NEEDS = {"s3": "s3fs", "gs": "gcsfs"}


def is_url(place: str) -> bool:
    """Whether ``place`` names a file that this module can copy."""
    return re.match(r"(https?|s3|gs)://", place) is not None


def copies(urls: list[str], name: str) -> list[Path]:
    """Return whole local copies of ``urls``, in this order; those that are there already are only asked about.

    Args:
        urls: of files.
        name: the data set, for messages.

    Raises:
        DataError: when a file is missing, or did not arrive whole after a few attempts.
        DiskError: when there is no room for it, or a package is missing.
    """
    found = []
    for position, url in enumerate(urls, 1):
        for pause in (*PAUSES_SECONDS, None):
            try:
                found.append(_copy(url, f"{name}: fetching {position} of {len(urls)}, {_plain(url)}"))
                break
            except (FileNotFoundError, aiohttp.ClientError, TimeoutError, ConnectionError, EOFError) as error:
                status = _status(error)
                final = 400 <= status < 500 or (isinstance(error, FileNotFoundError) and not status)
                if pause is None or final:
                    raise _failed(url, error) from error
                _log.warning("%s: %s; another attempt in %g s", _plain(url), _found(error), pause)
                time.sleep(pause)
    return found


def _copy(url: str, said: str) -> Path:
    system: Any = _file_system(url)
    about = system.info(url)
    size = about.get("size")
    # A changed file has another size or tag, and so another place: its old copy and index are left behind.
    facts = [url, size, *(str(about.get(tag)) for tag in ("ETag", "etag", "Last-Modified", "LastModified", "mtime"))]
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    folder = cache.place("fetched", []).parent / digest
    path = folder / (Path(unquote(urlsplit(url).path)).name or "file")
    if path.exists():
        return path
    _log.info("%s", said)
    with files.published_file(path) as temporary, temporary.open("wb") as target:
        received = 0
        with system.open(url, "rb", block_size=0) if "http" in url[:4] else system.open(url, "rb") as stream:
            while data := stream.read(_CHUNK):
                with files.explained(path, "write"):  # around this alone: a stalled server is an OSError too
                    received += target.write(data)
        if size is not None and received != size:
            raise EOFError(f"{received:,} of {size:,} bytes")
    return path


def _file_system(url: str) -> Any:
    scheme = url.partition("://")[0]
    options: dict[str, Any] = {}
    if scheme.startswith("http"):
        limits = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=STALL_SECONDS)
        options = {"client_kwargs": {"timeout": limits}, "skip_instance_cache": True}
    try:
        return fsspec.filesystem(scheme, **options)
    except ImportError as error:
        package = _NEEDS.get(scheme, "fsspec[http]")
        what, fix = f"{scheme}:// needs the package {package}", "pip install 'mae_lite[remote]'"
        raise DiskError(what, found=shortly(error), fix=fix) from error


def _plain(url: str) -> str:
    """Return ``url`` without user, password and query, which may be secrets."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _status(error: BaseException) -> int:
    """Return the HTTP status behind ``error``; 0 without one."""
    return int(getattr(error, "status", 0) or getattr(error.__cause__, "status", 0))


def _found(error: BaseException) -> str:
    if status := _status(error):
        return f"HTTP status {status}"
    if isinstance(error, TimeoutError) or isinstance(error.__cause__, TimeoutError):
        return f"no answer, or stalled after {STALL_SECONDS:g} s"
    return str(error) if isinstance(error, EOFError) else type(error).__name__


def _failed(url: str, error: BaseException) -> DataError:
    return DataError(
        f"{_plain(url)!r} cannot be fetched",
        found=_found(error),
        expected="the whole file",
        fix="correct the address or see to the server, then run the same command again; what has arrived is kept",
    )
