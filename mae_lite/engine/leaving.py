"""Ending a process from beside its main thread, which waits for something that may never come."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from typing import NoReturn

from mae_lite.errors import MaeLiteError
from mae_lite.terminal import say

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
    # A disk that hangs is one of the reasons to be here: it must not hold up the end.
    limit = threading.Timer(_SECONDS, _end, (error.exit_code,))
    limit.daemon = True
    limit.start()
    if speak:
        say(f"error: {error}", aside=True)
    try:
        last_words(error)
    finally:
        _end(error.exit_code)


def _end(code: int) -> NoReturn:
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(code)
