"""A disk that refuses, tears, or ends the process at chosen operations."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from mae_lite import files

Fault = Callable[[int, str, Path], int]
"""(number of the operation from 1, its name, path) -> errno, KILL, or 0 to let it happen."""
KILL = -1
"""In place of an errno: the process is killed where it stands."""


class FaultyDisk(files.Disk):
    """Asks ``fault`` before every operation; a torn write or deletion leaves half of its work behind."""

    def __init__(self, fault: Fault, *, torn: bool = False) -> None:
        self.fault, self.torn = fault, torn
        self.operations: list[tuple[str, Path]] = []
        self.waited: list[float] = []

    def write(self, path: Path, data: bytes) -> None:
        self._ask("write", path, lambda: path.write_bytes(data[: len(data) // 2]))
        super().write(path, data)

    def append(self, path: Path, data: bytes) -> None:
        def half() -> None:
            with path.open("ab") as handle:
                handle.write(data[: len(data) // 2])

        self._ask("append", path, half)
        super().append(path, data)

    def sync(self, path: Path) -> None:
        self._ask("sync", path)
        super().sync(path)

    def rename(self, source: Path, target: Path) -> None:
        self._ask("rename", target)
        super().rename(source, target)

    def make_folder(self, path: Path) -> None:
        self._ask("make_folder", path)
        super().make_folder(path)

    def remove(self, path: Path) -> None:
        def some() -> None:
            for first in sorted(path.iterdir())[:1] if path.is_dir() else ():
                first.unlink()

        self._ask("remove", path, some)
        super().remove(path)

    def wait(self, seconds: float) -> None:
        self.waited.append(seconds)

    def _ask(self, name: str, path: Path, half: Callable[[], object] | None = None) -> None:
        self.operations.append((name, path))
        number = self.fault(len(self.operations), name, path)
        if number:
            if self.torn and half is not None:
                half()
            if number == KILL:
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(number, os.strerror(number), str(path))


def at(position: int, number: int, *, always: bool = False, times: int = 1) -> Fault:
    """Return a fault at operation ``position`` and in all ``times`` in a row, or from there on when ``always``."""

    def fault(count: int, name: str, path: Path) -> int:
        del name, path
        return number if position <= count < position + times or (always and count > position) else 0

    return fault


def healthy(count: int, name: str, path: Path) -> int:
    """Let everything happen; for counting operations."""
    del count, name, path
    return 0
