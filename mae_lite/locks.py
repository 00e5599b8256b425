"""Taking turns: one thread of one process at a time, the others wait."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mae_lite import files
from mae_lite.errors import explained


@contextmanager
def turn(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock file ``path`` during the block; yield whether it is held, which without ``wait`` it may not be.

    The lock belongs to this opening of the file, so that threads of one process wait for each other too
    (:class:`mae_lite.files.Lock` is of the process). It ends with the block, or with the processes that have it open.

    Args:
        path: made where it is missing, with its folder; it stays.
        wait: for others to finish.

    Raises:
        DiskError: when the file cannot be made.
    """
    files.make_folder(path.parent)
    with explained(path, "open the lock"):
        handle = path.open("ab")
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            # Not left to closing: a process forked meanwhile has it open too, and would go on holding it.
            fcntl.flock(handle, fcntl.LOCK_UN)
