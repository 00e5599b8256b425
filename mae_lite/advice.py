"""What to do when images come slower than they are learned from: the same words for a run, ``bench`` and ``plan``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

STARVED = 0.2
"""Share of the time spent waiting for images from which on faster reading is worth the trouble."""
_LOOKED_AT_SECONDS = 60.0


def when_starved(share: float, *, packed: bool, workers: int, cpus: int) -> str:
    """Return a sentence on reading images; empty where it takes too little time to matter.

    Args:
        share: of the time that training waits for images.
        packed: whether the images lie in a pack, or in memory, already.
        workers: processes that read.
        cpus: that this process may use.
    """
    if share < STARVED:
        return ""
    ways = []
    if not packed:
        ways.append("make a pack once with mae-lite prepare DATA PACK and train on that")
    if workers < cpus:
        ways.append(f"read with more processes: --workers {cpus}")
    ways = ways or ["use a machine with more or faster CPU cores for each device"]
    return f"{share:.0%} of the time is spent waiting for images: {', or '.join(ways)}"


class Starving:
    """Watches the rows of a run, and says once whether it starves."""

    def __init__(self, *, packed: bool, workers: int, cpus: int) -> None:
        """Keep what the advice depends on, see :func:`when_starved`."""
        self._known: dict[str, Any] = {"packed": packed, "workers": workers, "cpus": cpus}
        self._waited = self._seconds = 0.0
        self._told = False

    def heard(self, row: Mapping[str, Any]) -> str:
        """Take a row of metrics; return advice when a minute of training is enough to judge by, else nothing."""
        if self._told or "reading_share" not in row:
            return ""
        self._waited += row["reading_share"] * row["seconds"]
        self._seconds += row["seconds"]
        if self._seconds < _LOOKED_AT_SECONDS:
            return ""
        self._told = True
        return when_starved(self._waited / self._seconds, **self._known)
