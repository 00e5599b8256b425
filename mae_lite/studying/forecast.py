"""What a study will take, reckoned from the arithmetic of its recipes and a stated speed; nothing is measured."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from mae_lite import costs
from mae_lite.studies.values import Study
from mae_lite.studying.graph import Graph, Stage, State
from mae_lite.timing.clock import clock

_CHECKPOINTS = 2
_BYTES_PER_PARAMETER = 12
"""Of a checkpoint: a weight and the optimiser's two moments, 4 bytes each."""


@dataclass(frozen=True)
class Forecast:
    """A stage with its cost: all of it, also where some is done."""

    stage: Stage
    state: State
    seconds: float
    disk_mb: float


def forecast(study: Study, graph: Graph) -> list[Forecast]:
    """Return time and disk of every stage."""
    return [Forecast(stage, stage.state(), _seconds(study, stage), _disk_mb(stage)) for stage in graph.stages.values()]


def _seconds(study: Study, stage: Stage) -> float:
    recipe = stage.recipe
    if recipe is None:
        return study.start_seconds
    return study.start_seconds + gflop(stage) / study.gflops_per_second


def gflop(stage: Stage) -> float:
    """Return the arithmetic of a stage: of all its updates, or of one look at each image."""
    if stage.recipe is None:
        return 0.0
    training = stage.kind in ("pretrain", "finetune")
    each = (
        costs.step_gflops(stage.recipe) * stage.recipe.epochs
        if training
        else costs.forward_gflops(stage.recipe.encoder)
    )
    return each * stage.images


def _disk_mb(stage: Stage) -> float:
    """Count checkpoints, of the encoder alone, and the finished model; other stages leave next to nothing."""
    if stage.recipe is None or stage.kind not in ("pretrain", "finetune"):
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


def as_text(study: Study, found: Sequence[Forecast], processes: int, commands: bool = True) -> str:
    """Return the graph as a table; each stage with its command."""
    width = max((len(item.stage.name) for item in found), default=5)
    lines = [f"{'stage':<{width}}  {'kind':<8}  {'state':<5}  {'time':>11}  {'disk':>8}"]
    for item in found:
        stage = item.stage
        disk = f"{item.disk_mb:,.0f} MB" if item.disk_mb >= 0.5 else ""
        lines.append(f"{stage.name:<{width}}  {stage.kind:<8}  {item.state:<5}  {clock(item.seconds):>11}  {disk:>8}")
        if commands:
            lines.append(f"    mae-lite {shlex.join(stage.words)}")
    done = sum(item.state == "done" for item in found)
    disk_gb = sum(item.disk_mb for item in found) / 1e3
    left = wall_seconds(found, processes)
    return "\n".join([
        *lines,
        "",
        f"{len(found)} stages, {done} done; about {clock(left)} left with {processes} at once; {disk_gb:.1f} GB",
        f"Reckoned, not measured: {study.images:,} training images, {study.gflops_per_second:,.0f} GFLOP/s for each "
        f"process ({study.hardware}), {study.start_seconds:.0f} s to start it. mae-lite plan measures a recipe.",
    ])  # fmt: skip
