"""Every error a user can meet, with the exit code the command line gives it.

An error says what is wrong, what was found, what was expected and, on a line of its own that starts
with ``Fix:``, what to do next. Modules raise these classes and no others for anything a user caused.
"""

from __future__ import annotations

import difflib
import logging
import sys
from collections.abc import Iterable

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
        """Keep the four parts and build the message from them."""
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


class StudyError(MaeLiteError):
    """Stages of a study that failed, each with its own error in its log."""

    exit_code = 7


def plain(text: str) -> str:
    """Return ``text`` without anything that a terminal would obey; line ends stay."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return "".join(
        sign if sign.isprintable() or sign == "\n" else sign.encode("unicode_escape").decode() for sign in text
    )


class _Plain(logging.Formatter):
    """Names of files reach the terminal without anything that it would obey."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the message."""
        return plain(super().format(record))


def plain_handler() -> logging.Handler:
    """Return the handler that takes messages to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Plain("%(message)s"))
    return handler


def shortly(error: BaseException) -> str:
    """Return kind and text of another library's error on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}{'...' if len(text) > 200 else ''}"


def nearest(name: str, options: Iterable[str]) -> str:
    """Return " (nearest: 'x')" for the option closest to ``name``, or "" when none is close."""
    close = difflib.get_close_matches(name, list(options), n=1, cutoff=0.5)
    return f" (nearest: {close[0]!r})" if close else ""
