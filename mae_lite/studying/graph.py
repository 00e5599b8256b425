"""From a study to its stages: one for each training, measurement and analysis, those that others need made once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mae_lite import overrides, recipes
from mae_lite.config import Recipe
from mae_lite.report import repeat
from mae_lite.studies.values import Analysis, Pretraining, Row, Study, Task
from mae_lite.studying.stages import LOOKS, Stage, Start, Training, Use, evaluation, hashed, training

_LABELS = {"labels_per_class", "label_fraction"}
_LAYERS_POINTS = 8
"""Fine-tunings of ``mae-lite layers`` for a seed: none, all, and a quarter, half and three quarters from both sides."""


@dataclass(frozen=True)
class Cell:
    """One number of the table: a row on a task with a seed, and the folder of its classifier."""

    row: Row
    task: Task
    seed: int
    folder: Path


@dataclass
class Graph:
    """All stages by name, each after those that it needs; and what the result is made of."""

    stages: dict[str, Stage] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)
    analyses: list[tuple[Analysis, Stage]] = field(default_factory=list)
    """An analysis that has a stage for each row is here once for each, with that row alone."""
    repeated: list[tuple[Analysis, int, Stage]] = field(default_factory=list)
    """Analyses of rows at other seeds than the first, which only claims need: with the rows that have the seed."""

    def levels(self) -> list[list[Stage]]:
        """Return the stages in rounds: those of a round need stages of earlier rounds only."""
        depth: dict[str, int] = {}
        for name, stage in self.stages.items():
            depth[name] = 1 + max((depth[need] for need in stage.needs), default=-1)
        rounds = range(max(depth.values(), default=-1) + 1)
        return [[stage for name, stage in self.stages.items() if depth[name] == number] for number in rounds]


def place(data: str, part: str | None) -> str:
    """Return a study's data, or a folder within them, as ``--data`` names it."""
    return data if part is None else str(Path(data) / part)


def build(study: Study, root: Path, data: str) -> Graph:
    """Return the graph of ``study``.

    Args:
        study: says what is compared.
        root: folder of all run folders.
        data: the study's images, as ``--data`` names them.
    """
    return _Builder(study, root, data).build()


class _Builder:
    """Adds stages to a graph, each once."""

    def __init__(self, study: Study, root: Path, data: str) -> None:
        self._study, self._root, self._data = study, root, data
        self._graph = Graph()

    def build(self) -> Graph:
        encoders: dict[tuple[str, int], Stage] = {}
        first = self._study.seeds[0]
        for seed in self._study.seeds:
            for row in self._study.rows:
                if seed not in self._study.seeds[: row.seeds]:
                    continue
                start = None if row.pretraining is None else self._pretrain(row.pretraining, seed)
                for task in self._study.tasks:
                    tuned = self._finetune(row, task, seed, start)
                    encoders.setdefault((row.name, seed), start or tuned)
                    self._graph.cells.append(Cell(row, task, seed, tuned.folder))
        for analysis in self._study.analyses:
            found = {name: encoders[name, first] for name in analysis.rows}
            self._graph.analyses += self._look(analysis, found)
            self._repeat(analysis, encoders)
        return self._graph

    def _repeat(self, analysis: Analysis, encoders: Mapping[tuple[str, int], Stage]) -> None:
        for seed in self._study.seeds[1 : analysis.seeds or 1] if analysis.kind != "layers" else ():
            found = {name: encoders[name, seed] for name in analysis.rows if (name, seed) in encoders}
            if analysis.rows[0] not in found:
                continue  # it is what the others are compared with
            one = analysis.model_copy(update={"rows": tuple(found)})
            self._graph.repeated += [(one, seed, stage) for one, stage in self._look(one, found)]

    def _pretrain(self, wanted: Pretraining, seed: int) -> Stage:
        teacher = None if wanted.teacher is None else self._pretrain(wanted.teacher, self._study.seeds[0])
        recipe = self._study.pretrained(wanted.recipe, seed)
        return self._train("pretrain", recipe, place(self._data, self._study.part), teacher=teacher)

    def _finetune(self, row: Row, task: Task, seed: int, start: Stage | None) -> Stage:
        data = place(self._data, task.part)
        tuned = self._train("finetune", self._study.finetuned(row, task, seed), data, init=start, task=task)
        self._add(evaluation(tuned, data, self._study.test_images))
        return tuned

    def _train(
        self,
        kind: Training,
        recipe: Recipe,
        data: str,
        *,
        init: Stage | None = None,
        teacher: Stage | None = None,
        task: Task | None = None,
    ) -> Stage:
        weights: dict[Use, Stage | None] = {"init": init, "teacher": teacher}
        given = {use: Start(str(one.folder), one.name) for use, one in weights.items() if one is not None}
        images = self._study.trained_on(recipe, task)
        return self._add(training(kind, recipe, data, self._root, self._study.runtime, images=images, sources=given))

    def _look(self, analysis: Analysis, encoders: Mapping[str, Stage]) -> Iterator[tuple[Analysis, Stage]]:
        """Yield the stages of an analysis: one for all rows, or one for each, with the rows of each."""
        rows = {row.name: row for row in self._study.rows}
        if analysis.kind == "layers":
            for name, encoder in encoders.items():
                one = analysis.model_copy(update={"rows": (name,)})
                yield one, self._layers(analysis, rows[name], encoder)
            return
        options = ["--images", str(analysis.images)]
        images = analysis.images
        if analysis.kind == "probe":
            tuned = self._study.finetuned(rows[analysis.rows[0]], self._study.tasks[0], self._study.seeds[0])
            settings = tuned.model_dump(include=_LABELS, exclude_none=True)
            options = ["--blocks", *overrides.flags(settings.items()), "--seed", str(tuned.seed)]
            images = self._study.images + self._study.test_images
        yield analysis, self._looked(analysis, list(encoders.values()), options, images)

    def _looked(self, analysis: Analysis, encoders: list[Stage], options: list[str], images: int) -> Stage:
        data = place(self._data, self._study.tasks[0].part)
        identity = [analysis.kind, options, data, *(stage.name for stage in encoders)]
        folder = self._root / f"{LOOKS[analysis.kind]}-{analysis.name}-{hashed(identity)}"
        models = [str(stage.folder) for stage in encoders]
        words = (analysis.kind, *models, "--data", data, *options, "--out", str(folder))
        needs, recipe = tuple(stage.name for stage in encoders), encoders[0].recipe
        read = images * len(encoders)
        return self._add(Stage(folder.name, analysis.kind, folder, words, needs, recipe, data, read))

    def _layers(self, analysis: Analysis, row: Row, encoder: Stage) -> Stage:
        task, seeds = self._study.tasks[0], self._study.seeds[: analysis.seeds]
        data = place(self._data, task.part)
        plain = recipes.get(row.finetuning.name)
        recipe = recipes.derive(self._study.finetuned(row, task, seeds[0]), seed=plain.seed)
        identity = [recipe.digest(), data, list(seeds), encoder.name]
        folder = self._root / f"layers-{analysis.name}-{hashed(identity)}"
        words = ["layers", str(encoder.folder), recipe.name, "--data", data, *repeat.changes(recipe)]
        runtime = {name: value for name, value in self._study.runtime.items() if not name.startswith("probe_")}
        words += overrides.flags({"tensorboard": False, **runtime, "seeds": seeds, "out": str(folder)}.items())
        runs = _LAYERS_POINTS * len(seeds)
        images = runs * self._study.trained_on(recipe, task)
        return self._add(Stage(folder.name, "layers", folder, tuple(words), (encoder.name,), recipe, data, images))

    def _add(self, stage: Stage) -> Stage:
        return self._graph.stages.setdefault(stage.name, stage)
