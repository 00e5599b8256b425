"""Stopping on request: finish the step, save, leave."""

from __future__ import annotations

import _thread
import ctypes
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from mae_lite.engine.leaving import LastWords, leave
from mae_lite.errors import EXIT_STOPPED, MaeLiteError, Stopped
from mae_lite.launch import first_rank

_LIBC = ctypes.CDLL(None)
_SET_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of Linux' prctl."""
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopSignals:
    """Context in which the first SIGTERM, SIGINT or SIGUSR1 sets a flag and the second ends the process at once.

    Given a patience, a signal also starts a thread that ends the process when nothing moves any more: a start that
    takes too long, or hangs, has nothing to lose, and what is saved is whole at any time.
    """

    def __init__(self, patience_s: float | None = None) -> None:
        """Start without a request.

        Args:
            patience_s: seconds after a signal, and after each sign of life, until the process ends; None for ever.
        """
        self.requested: str | None = None
        self.last_words: LastWords = _nothing
        """What to do about the error before the process ends for lack of a sign of life."""
        self._patience_s = patience_s
        self._moved, self._longest, self._over = time.monotonic(), 0.0, False
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
        self._over = True
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def moved(self, expected: bool = True) -> None:
        """Take a sign of life; where updates take long, patience is twice the longest.

        Args:
            expected: whether the time since the last sign tells how long the next may take.
        """
        now = time.monotonic()
        if expected:
            self._longest = max(self._longest, now - self._moved)
        self._moved = now

    @contextmanager
    def patient(self, seconds: float) -> Iterator[None]:
        """Have patience for so many seconds, in something that is worth waiting for."""
        before, self._longest = self._longest, max(self._longest, seconds / 2)
        self.moved(expected=False)
        try:
            yield
        finally:
            self._longest = before
            self.moved(expected=False)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.requested:
            os._exit(128 + number)
        self.requested = signal.Signals(number).name
        if self._patience_s is not None:
            self.moved(expected=False)
            # Not by threading, whose locks the interrupted code may hold.
            _thread.start_new_thread(self._watch, (self._patience_s, self.requested))

    def _watch(self, patience_s: float, name: str) -> None:
        while not self._over:
            allowed = max(patience_s, 2 * self._longest)
            if time.monotonic() - self._moved > allowed:
                error = Stopped(
                    f"stopped by {name}",
                    found=f"no update and no checkpoint that ended within {allowed:.0f} s",
                    fix="give the same command again: it goes on from the last checkpoint, if there is one",
                )
                leave(error, speak=first_rank(), last_words=self.last_words)
            time.sleep(0.1)


def _nothing(error: MaeLiteError) -> None:
    del error


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
