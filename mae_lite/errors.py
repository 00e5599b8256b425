"""Every error a user can meet, with the exit code the command line gives it.

An error says what is wrong, what was found, what was expected and, on a line of its own that starts
with ``Fix:``, what to do next. Modules raise these classes and no others for anything a user caused.
"""

from __future__ import annotations

import difflib
import errno
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mae_lite.addresses import hidden

EXIT_STOPPED = 75
"""Exit code of a run that stopped early, saved its state and can be resumed (``EX_TEMPFAIL``)."""

EXIT_INTERRUPTED = 130
"""Exit code after Ctrl-C where there is nothing to resume."""


class MaeLiteError(Exception):
    """Base of all errors with an explanation for the user.

    Args:
        what: the file, setting or action that is wrong.
        found: what is there; left out when ``what`` already says it.
        expected: what would be right.
        fix: a command, value or action that leads on.
    """

    exit_code = 1
    shared = False
    """Whether every rank raises it, so that the first may speak for all."""

    def __init__(self, what: str, *, found: str = "", expected: str = "", fix: str) -> None:
        """Keep the four parts, without secrets of URLs, and build the message from them."""
        what, found, expected, fix = map(hidden, (what, found, expected, fix))
        self.what, self.found, self.expected, self.fix = what, found, expected, fix
        details = [f"found {found}"] if found else []
        details += [f"expected {expected}"] if expected else []
        head = f"{what}: {', '.join(details)}" if details else what
        super().__init__(f"{head}\nFix: {fix}")

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by parts, so that an error crosses process borders whole."""
        return (_rebuild, (type(self), self.what, self.found, self.expected, self.fix))


def _rebuild(kind: type[MaeLiteError], what: str, found: str, expected: str, fix: str) -> MaeLiteError:
    return kind(what, found=found, expected=expected, fix=fix)


class ConfigError(MaeLiteError):
    """A setting, recipe or command line that cannot work."""

    exit_code = 2


class DataError(MaeLiteError):
    """Images or labels that are missing or unreadable."""

    exit_code = 3


class SplitError(DataError):
    """A data set that does not have the part that was asked for."""


class CheckpointError(MaeLiteError):
    """Weights or a run folder that cannot be used as asked."""

    exit_code = 4


class DiskError(MaeLiteError):
    """The disk, the permissions or the environment stand in the way."""

    exit_code = 5


class PeerError(DiskError):
    """Another rank of the run was killed or lost, or has a bug."""


class Stopped(MaeLiteError):
    """Work that was asked to stop, and goes on when it is started again."""

    exit_code = EXIT_STOPPED


class NumericsError(MaeLiteError):
    """A loss or gradient that is not finite."""

    exit_code = 6


class NotFinite(NumericsError):
    """An update that was not made, or a state that was not saved, because it is not finite."""

    blamed = -1
    """The update to leave out; -1 when none is to blame."""


class StudyError(MaeLiteError):
    """Stages of a study that failed, each with its own error in its log."""

    exit_code = 7


@contextmanager
def explained(path: Path, action: str, needed: int = 0) -> Iterator[None]:
    """Turn an ``OSError`` of the block, which writes ``needed`` bytes, into a :class:`DiskError` with what to do."""
    try:
        yield
    except OSError as error:
        raise _refused(error, path, action, needed) from error


def _refused(error: OSError, path: Path, action: str, needed: int) -> DiskError:
    return DiskError(
        f"cannot {action} {str(path)!r}",
        found=f"{errno.errorcode.get(error.errno or 0, 'error')} ({error.strerror or error})",
        fix=_advice(error.errno, path, needed),
    )


def _advice(number: int | None, path: Path, needed: int) -> str:
    if number == errno.EFBIG:
        return f"raise the limit of a file's size (ulimit -f): {_megabytes(needed)} MB are to be written"
    if number in (errno.ENOSPC, errno.EDQUOT):
        existing = next((p for p in (path, *path.parents) if p.exists()), Path("/"))
        wanted = f"{_megabytes(needed)} MB are needed, " if needed else ""
        room = os.statvfs(existing)
        free = _megabytes(room.f_bavail * room.f_frsize)
        return f"free space or quota ({wanted}{free} MB are free there) and run it again"
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "choose a folder you may write to, with --out FOLDER"
    if number in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR):
        found, wanted = ("a folder", "a file") if number == errno.EISDIR else ("a file", "a folder")
        return f"{found} is where {wanted} should be: choose another place with --out"
    return "check the disk and run the same command again"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.{0 if count >= 1e7 else 1 if count >= 1e5 else 4}f}"


def plain(text: str) -> str:
    """Return ``text`` without anything that a terminal would obey, or secrets of URLs; line ends stay."""
    text = hidden(text).encode("utf-8", "backslashreplace").decode()
    return "".join(
        sign if sign.isprintable() or sign == "\n" else sign.encode("unicode_escape").decode() for sign in text
    )


def in_line(name: object) -> str:
    """Return what a user has named, a folder or a class, as :func:`plain` text that stays on one line."""
    return plain(str(name).replace("\n", "\\n"))


class _Plain(logging.Formatter):
    """Names of files reach the terminal without anything that it would obey."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the message."""
        return plain(super().format(record))


def plain_handler(line: str = "%(message)s") -> logging.Handler:
    """Return the handler that takes messages to standard error, each written as ``line`` says."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Plain(line))
    return handler


def shortly(error: BaseException) -> str:
    """Return kind and text of another library's error on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}{'...' if len(text) > 200 else ''}"


def nearest(name: str, options: Iterable[str]) -> str:
    """Return " (nearest: 'x')" for the option closest to ``name``, or "" when none is close."""
    close = difflib.get_close_matches(name, list(options), n=1, cutoff=0.5)
    return f" (nearest: {close[0]!r})" if close else ""
