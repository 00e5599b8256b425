"""The only module that writes, renames or deletes files.

Everything durable goes through :data:`disk`, a handful of primitive operations, so that a test can fail, tear or kill
at any one of them. A file appears whole or not at all: temporary file, fsync, rename, fsync of the folder. A folder
appears whole too, with a SHA-256 manifest written last.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

from mae_lite.addresses import hidden_in
from mae_lite.errors import CheckpointError, DiskError, explained

MANIFEST = "manifest.json"
TEMPORARY = ".tmp-"
"""Prefix of everything unfinished; what carries it is removed at the next start."""
_ASIDE = f"{TEMPORARY}old-"
_PASSING, _PAUSES_SECONDS = (errno.EIO, errno.ESTALE), (0.1, 0.5, 2.0)
"""Errors that a disk across a network may give for a moment, and what to wait before each further attempt."""


class Disk:
    """The primitive operations that change a disk."""

    def write(self, path: Path, data: bytes) -> None:
        """Create ``path`` with ``data`` and flush it to the device."""
        with path.open("wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())

    def append(self, path: Path, data: bytes) -> None:
        """Append ``data`` to ``path``, in one write; not flushed to the device."""
        with path.open("ab", buffering=0) as handle:
            if handle.write(data) != len(data):  # the system took what fitted
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def sync(self, path: Path) -> None:
        """Flush a file or a folder to the device."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Move ``source`` onto ``target``; both lie in the same folder."""
        os.replace(source, target)

    def make_folder(self, path: Path) -> None:
        """Create a folder and its parents."""
        path.mkdir(parents=True, exist_ok=True)

    def touch(self, path: Path) -> None:
        """Set the time of change of ``path`` to now."""
        os.utime(path)

    def remove(self, path: Path) -> None:
        """Delete a file, or a folder with all it holds."""
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def wait(self, seconds: float) -> None:
        """Give the device a moment."""
        time.sleep(seconds)


disk = Disk()


def _patiently(path: Path, action: str, work: Callable[[], None], needed: int = 0) -> None:
    """Do ``work``, which may be done twice; do all of it again where the disk's error may pass."""
    # Not from where it failed: a file whose fsync failed once is not to be trusted, whatever a second fsync says.
    with explained(path, action, needed):
        for pause in _PAUSES_SECONDS:
            try:
                return work()
            except OSError as error:
                if error.errno not in _PASSING:
                    raise
            disk.wait(pause)
        work()


def make_folder(path: Path) -> None:
    """Create a folder and its parents.

    Raises:
        DiskError: when that is not possible.
    """
    _patiently(path, "create the folder", lambda: disk.make_folder(path))


def write_bytes(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data``, whole or not at all.

    Raises:
        DiskError: when that is not possible; the old file is then untouched.
    """
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")

    def work() -> None:
        try:
            disk.write(temporary, data)
            disk.rename(temporary, path)
            disk.sync(path.parent)
        except OSError:
            _remove_quietly(temporary)
            raise

    _patiently(path, "write", work, len(data))


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` in UTF-8, whole or not at all; bytes of a name that are no text become escapes."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, value: Any) -> None:
    """Replace ``path`` by ``value`` as indented JSON, whole or not at all; secrets of URLs are left out."""
    write_text(path, json.dumps(hidden_in(value), indent=2) + "\n")


def append_line(path: Path, line: str) -> None:
    """Append one line of text."""
    with explained(path, "append to"):
        disk.append(path, line.encode() + b"\n")


def remove(path: Path) -> None:
    """Delete a file or a folder, if it is there.

    Raises:
        DiskError: when that is not possible.
    """
    _patiently(path, "delete", lambda: disk.remove(path))


def _remove_quietly(path: Path) -> None:
    with suppress(OSError):  # an error that brought us here is the one to report; leftovers go at the next start
        disk.remove(path)


@contextmanager
def published_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path for a library to write to; publish it under ``path`` when the block succeeds."""
    make_folder(path.parent)
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    try:
        yield temporary
        with explained(path, "write"):
            disk.sync(temporary)
            disk.rename(temporary, path)
            disk.sync(path.parent)
    finally:
        _remove_quietly(temporary)


def publish_folder(path: Path, contents: Mapping[str, bytes]) -> None:
    """Create the folder ``path`` with ``contents``, by names that may have folders, and a manifest, whole or not.

    Raises:
        DiskError: when that is not possible; whatever ``path`` held before is then untouched.
    """
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    manifest = {name: {"sha256": sha256(data), "bytes": len(data)} for name, data in contents.items()}
    folders = sorted({temporary, *((temporary / name).parent for name in contents)})

    def work() -> None:
        try:
            disk.remove(temporary)
            for folder in folders:
                disk.make_folder(folder)
            for name, data in contents.items():
                disk.write(temporary / name, data)
            disk.write(temporary / MANIFEST, json.dumps(manifest, indent=2).encode())
            for folder in reversed(folders):
                disk.sync(folder)
            (_replace_folder if path.exists() else disk.rename)(temporary, path)
            disk.sync(path.parent)
        except OSError:
            _remove_quietly(temporary)
            raise

    _patiently(path, "write", work, sum(map(len, contents.values())))


def _replace_folder(temporary: Path, path: Path) -> None:
    # A folder cannot be renamed onto a full one: the old one steps aside. Should the new one not arrive, sweep()
    # puts the old one back.
    aside = path.with_name(f"{_ASIDE}{path.name}")
    disk.remove(aside)
    disk.rename(path, aside)
    try:
        disk.rename(temporary, path)
    except OSError:
        with suppress(OSError):
            disk.rename(aside, path)
        raise
    _remove_quietly(aside)


def read_folder(path: Path) -> dict[str, bytes]:
    """Read a published folder and verify every file against the manifest.

    Raises:
        CheckpointError: when a file is missing, incomplete or altered.
    """
    fix = f"delete {str(path)!r} to fall back to an older checkpoint, or copy it again from its source"
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        expected = {name: (entry["bytes"], entry["sha256"]) for name, entry in manifest.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{str(path)!r} has no readable {MANIFEST}", found=repr(error), fix=fix) from error
    contents = {}
    for name, (size, digest) in expected.items():
        file = path / name
        try:
            # A stranger's manifest may name a device, which has no end.
            ours = ".." not in Path(name).parts and file.is_relative_to(path) and (file.is_file() or not file.exists())
            data = file.read_bytes() if file.stat().st_size == size and ours else b""
        except OSError as error:
            raise CheckpointError(f"{str(file)!r} cannot be read", found=repr(error), fix=fix) from error
        if len(data) != size:
            raise CheckpointError(f"{str(file)!r} is incomplete ({file.stat().st_size} of {size} bytes)", fix=fix)
        if sha256(data) != digest:
            raise CheckpointError(f"{str(file)!r} is damaged: its SHA-256 differs from the manifest", fix=fix)
        contents[name] = data
    return contents


def sweep(folder: Path) -> None:
    """Remove what interrupted writes left in ``folder``, and finish them; failing to is not an error."""
    for leftover in folder.glob(f"{TEMPORARY}*"):
        original = folder / leftover.name.removeprefix(_ASIDE)
        with suppress(OSError):
            if leftover.name.startswith(_ASIDE) and not original.exists():
                disk.rename(leftover, original)
            else:
                disk.remove(leftover)


def sha256(data: bytes) -> str:
    """Return the hexadecimal SHA-256 of ``data``."""
    return hashlib.sha256(data).hexdigest()


class Lock:
    """An exclusive lock on a folder, released when the process ends, however it ends.

    A POSIX record lock is not inherited by forked data workers, so a killed run's orphans do not hold it.
    """

    _held: ClassVar[set[Path]] = set()

    def __init__(self, path: Path, owner: str) -> None:
        """Take the lock.

        Args:
            path: the lock file; it stays when the lock is released.
            owner: what to tell others about the holder.

        Raises:
            DiskError: when another process, or another run of this process, holds it.
        """
        self._path = path.resolve()
        with explained(path, "open the lock"):
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if self._path in Lock._held:
                raise BlockingIOError
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._descriptor, 500, 0).decode(errors="replace").strip() or "another process"
            if self._path not in Lock._held:  # closing any descriptor would release a lock of our own process
                os.close(self._descriptor)
            fix = "wait for it, stop it, or choose another folder with --out FOLDER"
            raise DiskError(f"{str(path.parent)!r} is in use by a live run", found=holder, fix=fix) from error
        Lock._held.add(self._path)
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, owner.encode(), 0)

    def release(self) -> None:
        """Give the lock back."""
        if self._path in Lock._held:
            Lock._held.discard(self._path)
            os.close(self._descriptor)
