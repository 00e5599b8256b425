"""One number of a transfer table: the stages behind weights on a set, and the choice of settings between them.

The grid is measured on validation images, by fine-tunings with the first seed. Its best point is fine-tuned anew, on
all training images, with every seed; these runs alone are measured on test images.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mae_lite import recipes, rundir
from mae_lite.config import Recipe
from mae_lite.errors import ConfigError
from mae_lite.studies.suites import Point, Set, Suite
from mae_lite.studies.values import trained_on
from mae_lite.studying import stages
from mae_lite.studying.stages import Stage
from mae_lite.studying.starts import Model

_VALIDATIONS = 10
"""Of a run: only the last one counts, and on a small set one in every epoch would take as long as training."""


@dataclass(frozen=True)
class Trial:
    """A point of the grid and what it reached."""

    point: Point
    run: Path
    top1: float | None
    """Share of the validation images, after the last update; None where training diverged."""


@dataclass(frozen=True)
class Final:
    """The best point with one seed: its training, and its measurement on test images."""

    seed: int
    tuned: Stage
    measured: Stage


@dataclass(frozen=True)
class Cell:
    """Weights on a set."""

    suite: Suite
    set: Set
    model: Model
    root: Path
    recipe: Recipe
    """Of the set, with the encoder of the weights."""

    @property
    def name(self) -> str:
        """What news and figures call it."""
        return f"{self.model.label} on {self.set.name}"

    def trials(self) -> dict[Point, Stage]:
        """Return the stages of the grid; none where it has one point, which needs no choice."""
        points = self.set.points()
        if len(points) == 1:
            return {}
        return {point: self._trial(point) for point in points}

    def tried(self) -> list[Trial]:
        """Return what the finished stages of the grid have reached."""
        found = []
        for point, stage in self.trials().items():
            if stage.state() == "done":
                found.append(Trial(point, stage.folder, None if stages.diverged(stage) else _validated(stage.folder)))
        return found

    def chosen(self) -> Point | None:
        """Return the best point; None before the whole grid is known, or where all of it diverged."""
        points, tried = self.set.points(), self.tried()
        if len(points) == 1:
            return points[0]
        return best(tried) if len(tried) == len(points) else None

    def finals(self, point: Point) -> list[Final]:
        """Return the runs at the best point."""
        found = []
        for seed in self.suite.seeds:
            recipe = self.suite.final(self.recipe, self.set, point, seed)
            tuned = self._training(recipe, f"{self._short}-seed-{seed}")
            found.append(Final(seed, tuned, stages.evaluation(tuned, self.set.test, self.set.test_images or 0)))
        return found

    def to_come(self) -> list[Stage]:
        """Return stand-ins for the runs at the best point while it is not known: they take as long as at any other."""
        needs = tuple(stage.name for stage in self.trials().values())
        found = []
        for final in self.finals(self.set.points()[0]):
            nowhere = final.tuned.folder / "not known yet"
            found.append(replace(final.tuned, needs=needs, folder=nowhere, words=()))
            found.append(replace(final.measured, folder=nowhere, words=()))
        return found

    @property
    def _short(self) -> str:
        return f"{self.model.label}@{self.set.name}"  # neither name has this sign

    def _trial(self, point: Point) -> Stage:
        recipe = self.suite.tried(self.recipe, self.set, point)
        return replace(self._training(recipe, f"{self._short}-{point.name}"), kind="try")

    def _training(self, recipe: Recipe, name: str) -> Stage:
        """Return a fine-tuning stage whose news and log have a readable name; its folder has one by its settings."""
        runtime: dict[str, Any] = {"validate_every_epochs": max(1.0, recipe.epochs / _VALIDATIONS)}
        images = 0 if self.set.images is None else trained_on(recipe, self.set.images, self.set.classes or 2)
        made = stages.training(
            "finetune",
            recipe,
            self.set.data,
            self.root,
            self.suite.runtime | runtime,
            images=images,
            sources={"init": self.model.start},
        )
        return replace(made, name=name)


def cells(suite: Suite, models: Sequence[Model], root: Path) -> list[Cell]:
    """Return every model on every set, set by set.

    Raises:
        ConfigError: when a recipe and an encoder do not go together, or two sets would be the same runs.
        CheckpointError: when weights do not fit.
    """
    found = []
    for one in suite.sets:
        for model in models:
            recipe = recipes.derive(model.adapted(recipes.get(one.recipe)), **one.changes)
            found.append(Cell(suite, one, model, root, recipe))
    _check_apart(found)
    shapes = {
        (c.model.identity, c.recipe.encoder.model_dump_json(), c.recipe.method.model_dump_json()): c for c in found
    }
    for cell in shapes.values():
        cell.model.check(cell.recipe)
    return found


def _check_apart(found: Iterable[Cell]) -> None:
    """Refuse two sets that would train in one folder."""
    owners: dict[Path, Cell] = {}
    for cell in found:
        for point in cell.set.points():
            folder = cell.finals(point)[0].tuned.folder
            other = owners.setdefault(folder, cell)
            if other is not cell:
                raise ConfigError(
                    f"sets {other.set.name!r} and {cell.set.name!r}",
                    found=f"the same data {cell.set.data!r} and settings",
                    expected="different sets",
                    fix="drop one of them with --sets, or from the file",
                )


def best(tried: Iterable[Trial]) -> Point | None:
    """Return the point with the highest accuracy; of equal ones that with the smaller rate, then layer decay."""
    known = [(-trial.top1, trial.point) for trial in tried if trial.top1 is not None]
    return min(known)[1] if known else None


def at_edge(one: Set, point: Point) -> list[str]:
    """Say at which edges of the grid ``point`` lies, with more beyond them: above layer decay 1 there is nothing."""
    said = []
    for name, values, value in (
        ("learning rate", one.lr_per_256, point.lr_per_256),
        ("layer decay", one.layer_decay, point.layer_decay),
    ):
        if len(values) > 1 and value == min(values):
            said.append(f"smallest {name}")
        elif len(values) > 1 and value == max(values) and not (name == "layer decay" and value == 1.0):
            said.append(f"largest {name}")
    return said


def _validated(run: Path) -> float | None:
    """Return the accuracy on validation images after the last update."""
    rows: Sequence[Mapping[str, Any]] = rundir.read_rows(run)
    values = [row["val_top1"] for row in rows if row.get("val_top1") is not None]
    return float(values[-1]) if values else None
