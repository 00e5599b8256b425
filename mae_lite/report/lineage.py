"""All that was trained for a run: the run itself, what it started from, and what that started and learned from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mae_lite import costs
from mae_lite.report import origins, read
from mae_lite.report.read import Run
from mae_lite.report.values import whole


@dataclass(frozen=True)
class Past:
    """A run and all runs behind it."""

    runs: tuple[Run, ...]
    """Each once, the run itself first."""
    unread: tuple[str, ...]
    """Weights whose run cannot be read, as they were named."""

    def gflops(self) -> float | None:
        """Return the arithmetic of training all of them; None where a part of it is not known."""
        spent = [_gflops(run) for run in self.runs]
        known = [value for value in spent if value is not None]
        return None if self.unread or len(known) < len(spent) else sum(known)


class Lineage:
    """Follows runs to what they came from; no folder is read twice."""

    def __init__(self, runs: Sequence[Run]) -> None:
        """Take ``runs``, which are read already."""
        self._known = {run.folder.resolve(): run for run in runs}

    def source(self, run: Run, weights: str) -> Run | None:
        """Return the run that ``weights``, which ``run`` names, came from; None where it cannot be read."""
        place = origins.place(run.folder, weights)
        if place is None:
            return None
        resolved = place.resolve()
        if resolved not in self._known:
            self._known[resolved] = read.read(place)
        return self._known[resolved]

    def past(self, run: Run) -> Past:
        """Return the run and all that is behind it."""
        found: dict[Path, Run] = {}
        unread: list[str] = []
        waiting = [run]
        while waiting:
            one = waiting.pop(0)
            if one.folder.resolve() in found:
                continue
            found[one.folder.resolve()] = one
            for weights in (one.init, one.teacher):
                source = None if weights is None else self.source(one, weights)
                if source is not None:
                    waiting.append(source)
                elif weights is not None:
                    unread.append(weights)
        return Past(tuple(found.values()), tuple(unread))


def _gflops(run: Run) -> float | None:
    """Return the arithmetic of the updates that were made; evaluation and probes are left out."""
    step = whole(run.status.get("step"))
    if run.recipe is None or step is None or step < 0:
        return None
    return costs.step_gflops(run.recipe) * run.recipe.global_batch_size * step
