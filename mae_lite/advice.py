"""What to do when images come slower than they are learned from, when numbers jump, and when features collapse."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping
from typing import Any

STARVED = 0.2
"""Share of the time spent waiting for images from which on faster reading is worth the trouble."""
_LOOKED_AT_SECONDS = 60.0
SPIKES = {"loss": 3.0, "grad_norm": 10.0}
"""Numbers that are watched for jumps, and how often its median one has to be to count as a jump."""
_ROWS, _ROWS_AT_LEAST = 50, 10
_SPREADS = 10.0
COLLAPSED = 0.02
"""Deviation of features (0: all the same, 1: isotropic) below which they tell images apart hardly any more."""
_SPREAD = ("feature_std", "view_feature_std")


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


class Spiking:
    """Watches the rows of a run for a loss or gradient norm far above what it was, and says so once.

    Far is beyond a multiple of the median of the last 50 rows (:data:`SPIKES`), and beyond that median by ten times the
    median deviation from it, so that numbers that scatter widely do not count. Authors of MoCo-v3 saw such jumps of the
    gradient before each dip of the accuracy (Chen et al. 2021, arXiv:2104.02057, figure 4).
    """

    def __init__(self) -> None:
        """Know nothing yet."""
        self._known = {name: deque[float](maxlen=_ROWS) for name in SPIKES}
        self._told = False

    def heard(self, row: Mapping[str, Any]) -> tuple[dict[str, float], str]:
        """Take a row of metrics; return what to add to it, NAME_spike, and words the first time."""
        found = {}
        for name, times in SPIKES.items():
            value = row.get(name)
            if not isinstance(value, int | float) or not math.isfinite(value):
                continue
            known = self._known[name]
            if len(known) >= _ROWS_AT_LEAST and (middle := statistics.median(known)) > 0:
                spread = statistics.median(abs(one - middle) for one in known)
                if value > times * middle and value > middle + _SPREADS * spread:
                    found[f"{name}_spike"] = round(value / middle, 2)
            known.append(value)
        if not found or self._told:
            return found, ""
        self._told = True
        what = " and ".join(
            f"{name.removesuffix('_spike')} is {times:.3g} times its median" for name, times in found.items()
        )
        return found, (
            f"step {row['step']}: {what} of the rows before. Training is unstable here: --clip-grad-norm 1, a lower "
            "--lr-per-256 or more --warmup-epochs calm it; look whether accuracy or probes fall"
        )


class Collapsing:
    """Watches the rows of a run for features that have become the same for all images, and says so once.

    Two rows in a row have to say so, and none before the first update counts: features begin close to each other.
    """

    def __init__(self) -> None:
        """Know nothing yet."""
        self._low = dict.fromkeys(_SPREAD, 0)
        self._told = False

    def heard(self, row: Mapping[str, Any]) -> tuple[dict[str, float], str]:
        """Take a row of metrics; return what to add to it, NAME_collapsed, and words the first time."""
        found = {}
        for name in _SPREAD:
            value = row.get(name)
            if row.get("step") and isinstance(value, int | float):
                self._low[name] = self._low[name] + 1 if value < COLLAPSED else 0
                if self._low[name] >= 2:
                    found[f"{name}_collapsed"] = 1.0
        if not found or self._told:
            return found, ""
        self._told = True
        names = " and ".join(
            f"{name.removesuffix('_collapsed')} {row[name.removesuffix('_collapsed')]:.2g}" for name in found
        )
        return found, (
            f"step {row['step']}: {names}, twice in a row: the features have collapsed, all images look alike to the "
            "encoder. Go back to the recipe's own --lr-per-256 and --global-batch-size, or to fewer changes of it"
        )
