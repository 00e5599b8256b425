"""What a process that is started later gets from its parent, through memory instead of a pipe."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from multiprocessing import reduction
from typing import Any


class Handed:
    """An object that processes of a "spawn" context get as one of their arguments.

    multiprocessing writes arguments into a pipe of which it keeps the reading end open itself: where they are larger
    than the pipe, and the process dies before it has read them, the parent waits forever. This also pickles them once,
    however many processes there are.
    """

    def __init__(self, value: object) -> None:
        """Pickle ``value``."""
        self._descriptor = os.memfd_create("handed over")
        with open(self._descriptor, "wb", closefd=False) as file:
            pickle.dump(value, file, pickle.HIGHEST_PROTOCOL)

    def close(self) -> None:
        """Free the memory; processes started later would fail."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __reduce__(self) -> tuple[Callable[[Any], object], tuple[Any]]:
        """Become a small message; where it arrives, it is the value again."""
        return _received, (reduction.DupFd(self._descriptor),)


def _received(handle: Any) -> object:
    with open(handle.detach(), "rb") as file:
        # By position: all processes share one place in the file.
        return pickle.loads(os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0))
