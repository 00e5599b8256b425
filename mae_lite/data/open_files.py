"""A few files kept open for reading at any place, in whatever process."""

from __future__ import annotations

import os
from pathlib import Path

_MOST_OPEN = 64


class OpenFile:
    """A file open for reading, closed when nobody reads from it any more."""

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            OSError: when that is not possible.
        """
        with path.open("rb", buffering=0) as file:
            self.descriptor = os.dup(file.fileno())

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


class OpenFiles:
    """Files by path; of many, those used last stay open. Pickled, it is empty: each process opens its own."""

    def __init__(self) -> None:
        """Start without any."""
        self._opened: dict[Path, OpenFile] = {}

    def __getstate__(self) -> dict[str, object]:
        return {"_opened": {}}

    def get(self, path: Path) -> OpenFile:
        """Return the file; keep what this returns while reading, as another thread may let go of the file.

        Raises:
            OSError: when it cannot be opened.
        """
        opened = self._opened.pop(path, None) or OpenFile(path)
        self._opened[path] = opened  # at the end: what was used longest ago stands first
        for oldest in list(self._opened)[:-_MOST_OPEN]:
            self._opened.pop(oldest, None)
        return opened

    def forget(self, path: Path) -> None:
        """Let go of a file, for what lies at its path may be another one now."""
        self._opened.pop(path, None)
