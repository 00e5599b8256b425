"""Ending a process from beside its main thread, which waits for something that may never come."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from typing import NoReturn

from mae_lite.errors import MaeLiteError
from mae_lite.terminal import say

_READING_SECONDS = 2.0
LastWords = Callable[[MaeLiteError], object]
"""Writes down, where the next start and the report look for it, why a process ends."""
_SECONDS = 3.0


def leave(error: MaeLiteError, *, speak: bool, last_words: LastWords) -> NoReturn:
    """End this process at once with the error's exit code; it may take 3 seconds over its last words.

    Args:
        error: why.
        speak: whether to print it; among ranks one does.
        last_words: writes it down.
    """
    end_soon(error.exit_code)
    if speak:
        say(f"error: {error}", aside=True)
    try:
        last_words(error)
    finally:
        _end(error.exit_code)


def end_soon(code: int) -> None:
    """See to it that this process ends within 3 seconds, with ``code``, whatever becomes of its last words.

    A disk that hangs is one of the reasons to be here: it must not hold up the end.
    """
    limit = threading.Timer(_SECONDS, _end, (code,))
    limit.daemon = True
    limit.start()


def in_time(read: Callable[[], str], otherwise: str) -> str:
    """Return what ``read`` says, or ``otherwise`` if that takes it 2 seconds: what is told must not wait for a disk."""
    said: list[str] = []
    reader = threading.Thread(target=lambda: said.append(read()), daemon=True)
    reader.start()
    reader.join(_READING_SECONDS)
    return said[0] if said else otherwise


def _end(code: int) -> NoReturn:
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(code)
