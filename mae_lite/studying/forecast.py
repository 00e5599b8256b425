"""What a study will take, reckoned from the arithmetic of its recipes and a stated speed; nothing is measured."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mae_lite import costs
from mae_lite.studying.graph import Graph
from mae_lite.studying.stages import LOOKS, Stage, State
from mae_lite.timing.clock import clock

_CHECKPOINTS = 2
_BYTES_PER_PARAMETER = 12
"""Of a checkpoint: a weight and the optimiser's two moments, 4 bytes each."""


class Assumed(Protocol):
    """What a study, or a suite, says of its machine."""

    @property
    def gflops_per_second(self) -> float:
        """Speed of one process."""

    @property
    def hardware(self) -> str:
        """What has this speed."""

    @property
    def start_seconds(self) -> float:
        """Time that a process takes to begin."""


@dataclass(frozen=True)
class Forecast:
    """A stage with its cost: all of it, also where some is done."""

    stage: Stage
    state: State
    seconds: float
    disk_mb: float


def forecast(assumed: Assumed, graph: Graph) -> list[Forecast]:
    """Return time and disk of every stage of a graph."""
    return of_stages(assumed, graph.stages.values())


def of_stages(assumed: Assumed, stages: Iterable[Stage]) -> list[Forecast]:
    """Return time and disk of every stage."""
    return [Forecast(stage, stage.state(), _seconds(assumed, stage), _disk_mb(stage)) for stage in stages]


def _seconds(assumed: Assumed, stage: Stage) -> float:
    recipe = stage.recipe
    if recipe is None:
        return assumed.start_seconds
    return assumed.start_seconds + gflop(stage) / assumed.gflops_per_second


def gflop(stage: Stage) -> float:
    """Return the arithmetic of a stage: of all its updates, or of one look at each image."""
    recipe = stage.recipe
    if recipe is None:
        return 0.0
    training = stage.trains or stage.kind == "layers"
    each = costs.step_gflops(recipe) * recipe.epochs if training else costs.forward_gflops(recipe.encoder)
    return each * stage.images


def _disk_mb(stage: Stage) -> float:
    """Count checkpoints, of the encoder alone, and the finished model; other stages leave next to nothing."""
    if stage.recipe is None or not stage.trains:
        return 0.0
    return costs.model_parameters(stage.recipe) * (_CHECKPOINTS * _BYTES_PER_PARAMETER + 4) / 1e6


def wall_seconds(found: Sequence[Forecast], processes: int) -> float:
    """Return the time that is left with so many stages at once: never less than the longest chain of stages."""
    left = {item.stage.name: 0.0 if item.state == "done" else item.seconds for item in found}
    ends: dict[str, float] = {}
    for item in found:
        begin = max((ends[need] for need in item.stage.needs), default=0.0)
        ends[item.stage.name] = begin + left[item.stage.name]
    return max(sum(left.values()) / processes, max(ends.values(), default=0.0))


def in_order(found: Sequence[Forecast]) -> dict[str, Stage]:
    """Return the stages by name in the order to begin them: seed by seed, so that there are numbers to look at early.

    Looks into encoders come last, but for those that train, which begin with the last seed. Within a seed those come
    first that the most time depends on (a stage's own, and that of the longest chain of stages that need it), so that
    no long one is left over in the end, with all processes but one at rest.
    """
    own = {item.stage.name: item.seconds for item in found}
    chains = dict(own)
    for item in reversed(found):  # each stands after those that it needs
        for need in item.stage.needs:
            chains[need] = max(chains[need], own[need] + chains[item.stage.name])
    seeds = {item.stage.name: 0 if item.stage.recipe is None else item.stage.recipe.seed for item in found}
    last = max(seeds.values(), default=0)

    def place(item: Forecast) -> tuple[bool, int, float]:
        stage, trains = item.stage, item.stage.kind == "layers"
        return stage.kind in LOOKS and not trains, last if trains else seeds[stage.name], -chains[stage.name]

    ordered = sorted(found, key=place)
    return {item.stage.name: item.stage for item in ordered}


@dataclass(frozen=True)
class Plan:
    """What a dry run tells: all stages, and what is assumed of the machine and the images."""

    assumed: Assumed
    stages: Sequence[Forecast]
    processes: int
    images: str
    """Says how many there are."""

    def numbers(self) -> dict[str, Any]:
        """Return the stages for programs; ``command`` has the words after ``mae-lite``, None where there are none."""
        stages = [
            {
                "name": item.stage.name,
                "kind": item.stage.kind,
                "state": item.state,
                "seconds": item.seconds,
                "disk_mb": item.disk_mb,
                "command": list(item.stage.words) or None,
            }
            for item in self.stages
        ]
        return {"stages": stages, "processes": self.processes, "seconds_left": self._left(), "hardware": self._said()}

    def as_text(self) -> str:
        """Return the stages as a table, each with its command where that is known."""
        width = max((len(item.stage.name) for item in self.stages), default=5)
        lines = [f"{'stage':<{width}}  {'kind':<8}  {'state':<5}  {'time':>11}  {'disk':>8}"]
        for item in self.stages:
            stage = item.stage
            disk = f"{item.disk_mb:,.0f} MB" if item.disk_mb >= 0.5 else ""
            time = clock(item.seconds)
            lines.append(f"{stage.name:<{width}}  {stage.kind:<8}  {item.state:<5}  {time:>11}  {disk:>8}")
            if stage.words:
                lines.append(f"    mae-lite {shlex.join(stage.words)}")
        done = sum(item.state == "done" for item in self.stages)
        disk_gb = sum(item.disk_mb for item in self.stages) / 1e3
        left = f"about {clock(self._left())} left with {self.processes} at once"
        return "\n".join([
            *lines,
            "",
            f"{len(self.stages)} stages, {done} done; {left}; {disk_gb:.1f} GB",
            f"Reckoned, not measured: {self.images}, {self._said()}. mae-lite plan measures a recipe.",
        ])  # fmt: skip

    def _left(self) -> float:
        return wall_seconds(self.stages, self.processes)

    def _said(self) -> str:
        speed = f"{self.assumed.gflops_per_second:,.0f} GFLOP/s for each process ({self.assumed.hardware})"
        return f"{speed}, {self.assumed.start_seconds:.0f} s to start it"
