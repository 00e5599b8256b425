"""Files behind URLs: the only module that reads from the network.

Everything is tried a few times; what remains is one error. fsspec is imported at the first use of a URL.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

from mae_lite.data import fetch_rules
from mae_lite.errors import DataError, DiskError, MaeLiteError, explained, shortly

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

CONNECT_SECONDS, STALL_SECONDS = 20.0, 60.0
PAUSES_SECONDS = (1.0, 4.0, 16.0)
"""Before each further attempt."""
_CHUNK = 1 << 20
_ASKED_AT_ONCE = 16
_NEEDS = {"s3": "s3fs", "gs": "gcsfs"}
_TAGS = ("md5Hash", "ETag", "etag", "Last-Modified", "LastModified", "mtime")
"""What may tell one content from another, the best first."""
_PASSING = {408, 425, 429}
"""HTTP statuses below 500 that another attempt may get over."""
DIGEST = "sha256:"
"""Before the tag of a file whose content is known."""
_systems: dict[tuple[int, str, float, float], Any] = {}
"""By process, and by what makes them differ."""


@dataclass(frozen=True)
class Remote:
    """A file behind a URL, in one of its states."""

    url: str
    size: int
    """Bytes."""
    tag: str
    """What changes with the content: "sha256:..." where that is known, else what the server says of it."""

    @property
    def name(self) -> str:
        """The URL without user, password and query, which may be secrets."""
        return _plain(self.url)

    @property
    def file_name(self) -> str:
        """The name of the file alone."""
        return unquote(urlsplit(self.url).path).rpartition("/")[2] or "file"

    def beside(self, file_name: str) -> str:
        """Return the URL of another file in the same folder."""
        parts = urlsplit(self.url)
        return urlunsplit(parts._replace(path=f"{parts.path.rpartition('/')[0]}/{file_name}"))


def look(urls: Sequence[str]) -> list[Remote]:
    """Ask the servers for the state of files, in the order of ``urls``, without reading them.

    Raises:
        ConfigError: when a URL is not to be fetched (see :mod:`mae_lite.data.fetch_rules`).
        DataError: when one is missing, or the server gave no answer after a few attempts.
        DiskError: when a package is missing.
    """
    with ThreadPoolExecutor(_ASKED_AT_ONCE) as pool:
        return list(pool.map(lambda url: _tried(url, lambda: _state(_file_system(url), url)), urls))


def copy(remote: Remote, target: Path, stopped: Callable[[], bool] = lambda: False) -> None:
    """Copy a whole file, in the state that ``remote`` describes, onto ``target``.

    Args:
        remote: what to copy.
        target: written over, not published: a part may lie there after an error.
        stopped: asked between two pieces; the copy ends with an error when it returns true.

    Raises:
        DataError: when it is missing, has changed, or did not arrive whole after a few attempts.
        DiskError: when there is no room for it, a package is missing, or the copy was stopped.
    """
    _tried(remote.url, lambda: _copy(remote, target, stopped))


def state(url: str) -> Remote | None:
    """Ask the server for the state of a file; None where there is none, or none for us.

    Raises:
        DataError: when the server gave no answer after a few attempts.
        DiskError: when a package is missing.
    """
    try:
        return look([url])[0]
    except DataError as error:
        if error.__cause__ is None or _passing(error.__cause__):
            raise
        return None


def small(url: str, limit: int) -> bytes | None:
    """Return the content of a file of at most ``limit`` bytes; None where there is none.

    Raises:
        DataError: when it is larger, or did not arrive whole after a few attempts.
        DiskError: when a package is missing.
    """
    remote = state(url)
    if remote is None:
        return None
    if remote.size > limit:
        raise DataError(f"{remote.name!r} has more than {limit:,} bytes", fix="put the right file there")

    def read() -> bytes:
        with _opened(_file_system(url), url) as stream:
            content = b"".join(_pieces(stream, limit + 1))
        if len(content) != remote.size:
            raise EOFError(f"{len(content):,} bytes instead of {remote.size:,}")
        return content

    return _tried(url, read)


def _copy(remote: Remote, target: Path, stopped: Callable[[], bool]) -> None:
    system = _file_system(remote.url)
    by_server = not remote.tag.startswith(DIGEST)
    if by_server:
        _check_same(remote, _state(system, remote.url))
    digest, received = hashlib.sha256(), 0
    with explained(target, "write"):
        writing = target.open("r+b" if target.exists() else "wb")  # its size may be a claim on the room, which stays
    with writing, _opened(system, remote.url) as stream:
        for data in _pieces(stream, remote.size + 1):
            if stopped():
                raise DiskError(f"{remote.name!r} was not fetched", found="a run that ends", fix="run it again")
            with explained(target, "write"):  # around this alone: a stalled server is an OSError too
                received += writing.write(data)
            if not by_server:
                digest.update(data)
        with explained(target, "write"):
            writing.truncate(received)
    if received != remote.size:
        raise EOFError(f"{received:,} bytes{' or more' * (received > remote.size)} instead of {remote.size:,}")
    if by_server:
        _check_same(remote, _state(system, remote.url))  # it may have changed on the way
    elif f"{DIGEST}{digest.hexdigest()}" != remote.tag:
        raise EOFError("another SHA-256 than the index of the shards has")


def _pieces(stream: Any, limit: int) -> Iterator[bytes]:
    """Yield what ``stream`` holds; little more than ``limit`` bytes of it."""
    while limit > 0 and (data := stream.read(min(_CHUNK, limit))):
        limit -= len(data)
        yield data


def _state(system: Any, url: str) -> Remote:
    about = system.info(url)
    size = about.get("size")
    if size is None:
        expected = "a server that tells the length (Content-Length), without which a cut-off file looks whole"
        raise DataError(f"{_plain(url)!r} has no known size", expected=expected, fix="let another server send it")
    return Remote(url, int(size), next((str(about[tag]) for tag in _TAGS if about.get(tag) is not None), ""))


def _check_same(remote: Remote, now: Remote) -> None:
    if now != remote:
        raise DataError(
            f"{remote.name!r} has changed on the server",
            found=f"{now.size:,} bytes, {now.tag or 'no tag'}",
            expected=f"{remote.size:,} bytes, {remote.tag or 'no tag'}, as when it was indexed",
            fix="put the old file back, or run the same command again to have the new one indexed",
        )


def _file_system(url: str) -> Any:
    """Return this process's connection; none is ever let go.

    fsspec closes one that is collected as garbage from whatever thread that happens in, and waits for it: in a forked
    process for ever, or a second, as the thread that should do it stayed behind in the parent.
    """
    fetch_rules.check(url)
    scheme = url.partition("://")[0]
    key = os.getpid(), scheme, CONNECT_SECONDS, STALL_SECONDS
    if key not in _systems:
        try:
            import aiohttp
            import fsspec

            _survive_forks()
            options: dict[str, Any] = {"skip_instance_cache": True}
            if scheme.startswith("http"):
                limits = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=STALL_SECONDS)
                options["client_kwargs"] = {"timeout": limits, "trace_configs": fetch_rules.traces()}
            _systems.setdefault(key, fsspec.filesystem(scheme, **options))
        except ImportError as error:
            package = _NEEDS.get(scheme, "fsspec[http]")
            what, fix = f"{scheme}:// needs the package {package}", "pip install 'mae_lite[remote]'"
            raise DiskError(what, found=shortly(error), fix=fix) from error
    return _systems[key]


@cache
def _survive_forks() -> None:
    import fsspec.asyn

    # A lock that another thread of the parent held for a moment would be held in the child for ever.
    os.register_at_fork(after_in_child=fsspec.asyn.reset_lock)


@contextmanager
def _opened(system: Any, url: str) -> Iterator[Any]:
    # Packed on the way, a file would have another length than the server says.
    plain = {"block_size": 0, "size": 1, "headers": {"Accept-Encoding": "identity"}} if url.startswith("http") else {}
    with system.open(url, "rb", **plain) as stream:
        yield stream


def _tried(url: str, action: Callable[[], _T]) -> _T:
    """Return what ``action`` returns, at the latest of a few attempts.

    Raises:
        DataError: when none succeeded, or another one would not help.
    """
    for pause in PAUSES_SECONDS:
        try:
            return _explained(url, action)
        except DataError as error:
            if error.__cause__ is None or not _passing(error.__cause__):
                raise
            _log.warning("%s: %s; another attempt in %g s", _plain(url), error.found, pause)
        time.sleep(pause)
    return _explained(url, action)


def _explained(url: str, action: Callable[[], _T]) -> _T:
    try:
        return action()
    except MaeLiteError:
        raise
    except Exception as error:  # each file system has errors of its own
        for ours in _causes(error):
            if isinstance(ours, MaeLiteError):
                raise ours from None  # a redirect that was refused
        raise DataError(
            f"{_plain(url)!r} cannot be fetched",
            found=_found(error),
            expected="the whole file",
            fix="correct the address or see to the server, then run the same command again; what has arrived is kept",
        ) from error


def _plain(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _status(error: BaseException) -> int:
    """Return the HTTP status behind ``error``; 0 without one."""
    told = [getattr(cause, "status", None) for cause in _causes(error)]
    return next((status for status in told if isinstance(status, int)), 0)


def _passing(error: BaseException) -> bool:
    """Whether another attempt may help."""
    if status := _status(error):
        return status >= 500 or status in _PASSING
    import aiohttp

    kinds = (aiohttp.ClientError, TimeoutError, ConnectionError, EOFError)
    return not isinstance(error, aiohttp.InvalidURL) and any(isinstance(cause, kinds) for cause in _causes(error))


def _found(error: BaseException) -> str:
    if status := _status(error):
        return f"HTTP status {status}"
    if any(isinstance(cause, TimeoutError) for cause in _causes(error)):
        return f"no answer, or stalled after {STALL_SECONDS:g} s"
    if any(type(cause).__name__ == "ClientPayloadError" for cause in _causes(error)):
        return "an answer that was cut off"
    if isinstance(error, FileNotFoundError) and error.__cause__ is None:
        return "no such file"
    return str(error) if isinstance(error, EOFError) else type(error.__cause__ or error).__name__
