"""Stopping on request: finish the step, save, leave."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from mae_lite.errors import EXIT_STOPPED

_LIBC = ctypes.CDLL(None)
_SET_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of Linux' prctl."""
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopSignals:
    """Context in which the first SIGTERM, SIGINT or SIGUSR1 sets a flag and the second ends the process at once."""

    def __init__(self) -> None:
        """Start without a request."""
        self.requested: str | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        """Install the handlers (only the main thread may)."""
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the previous handlers back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.requested:
            os._exit(128 + number)
        self.requested = signal.Signals(number).name


@contextmanager
def ctrl_c_held_back() -> Iterator[None]:
    """Let Ctrl-C wait; a process started meanwhile does not see one, even while it imports, until it says otherwise."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """Let this process, a worker, end with its parent instead of going on, or waiting for ever, as an orphan."""
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(EXIT_STOPPED)


def killed_with_parent() -> None:
    """Ask the kernel to kill this process, another program's in a moment, when its parent ends, however that ends.

    A run that is killed goes on from its last checkpoint, and lets go of its folder at once.
    """
    _LIBC.prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
