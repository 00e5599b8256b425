"""From a study to its stages: what each runs, where, after which others, and how far it is.

A stage's folder is named by its recipe and a hash of all that decides its result: settings, data, and the stages that
it starts from. Whatever needs the same weights therefore finds the same folder, in this study and in others.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mae_lite import files, recipes, rundir
from mae_lite.config import Recipe, Supervised
from mae_lite.errors import NumericsError
from mae_lite.report import repeat
from mae_lite.studies.values import Analysis, Pretraining, Row, Study, Task

State = Literal["done", "half", "new"]
Training = Literal["pretrain", "finetune"]
Use = Literal["init", "teacher"]

_FILES = {"analyze": "analysis", "probe": "probe", "layers": "layers"}
"""Where the commands that look into encoders write their numbers: FILE.json."""
_LABELS = {"labels_per_class", "label_fraction"}
_LAYERS_POINTS = 8
"""Fine-tunings of ``mae-lite layers`` for a seed: none, all, and a quarter, half and three quarters from both sides."""


@dataclass(frozen=True)
class Stage:
    """One command of a study."""

    name: str
    kind: str
    """A key of :data:`STATES`."""
    folder: Path
    """Where its result appears."""
    words: tuple[str, ...]
    """Of the command line, after ``mae-lite``."""
    needs: tuple[str, ...] = ()
    """Names of the stages that have to be done before."""
    recipe: Recipe | None = None
    """What it trains, or measures."""
    data: str = ""
    images: int = 0
    """Images that it reads: an epoch's, or all that it measures."""

    @property
    def trains(self) -> bool:
        """Whether it trains, so that it takes epochs and leaves checkpoints."""
        return self.kind in ("pretrain", "finetune", "try")

    def state(self) -> State:
        """Say whether it is done, begun or new, from its folder alone."""
        return STATES[self.kind](self)


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

    def levels(self) -> list[list[Stage]]:
        """Return the stages in rounds: those of a round need stages of earlier rounds only."""
        depth: dict[str, int] = {}
        for name, stage in self.stages.items():
            depth[name] = 1 + max((depth[need] for need in stage.needs), default=-1)
        rounds = range(max(depth.values(), default=-1) + 1)
        return [[stage for name, stage in self.stages.items() if depth[name] == number] for number in rounds]


def build(study: Study, root: Path, data: str) -> Graph:
    """Return the graph of ``study``.

    Args:
        study: says what is compared.
        root: folder of all run folders.
        data: the study's images, as ``--data`` names them.
    """
    return _Builder(study, root, data).build()


@dataclass(frozen=True)
class Start:
    """Weights that a training begins with, or learns from."""

    weights: str
    """As ``--init`` and ``--teacher`` take them."""
    identity: str
    """What tells these weights from others."""
    stage: bool = True
    """Whether a stage of the name ``identity`` makes them; otherwise they are there already."""


def training(
    kind: Training,
    recipe: Recipe,
    data: str,
    root: Path,
    runtime: Mapping[str, Any],
    *,
    images: int,
    sources: Mapping[Use, Start],
) -> Stage:
    """Return the stage that trains ``recipe`` on ``data``, in a folder of ``root`` that its settings name.

    Args:
        kind: its command.
        recipe: a known one, or a variant of it.
        data: as ``--data`` names them.
        root: folder of all run folders.
        runtime: how it is carried out, as fields of ``config.Runtime``; nothing that decides a result. A classifier is
            validated, not probed.
        images: how many an epoch has, for forecasts.
        sources: weights that it begins with, or learns from.
    """
    uses: tuple[Use, ...] = ("init", "teacher")
    identity = [recipe.digest(), data, *(sources[use].identity if use in sources else None for use in uses)]
    name = f"{recipe.name}-{_hash(identity)}"
    probed = not isinstance(recipe.method, Supervised)
    own = {name: value for name, value in runtime.items() if probed or not name.startswith("probe_")}
    words = [kind, recipe.name, "--data", data]
    words += [word for use, start in sources.items() for word in (f"--{use}", start.weights)]
    words += repeat.changes(recipe)
    words += repeat.flags({"tensorboard": False, "progress": False, **own, "out": str(root / name)}.items())
    needs = tuple(start.identity for start in sources.values() if start.stage)
    return Stage(name, kind, root / name, tuple(words), needs, recipe, data, images)


def evaluation(tuned: Stage, data: str, images: int, split: str = "test") -> Stage:
    """Return the stage that measures the classifier of ``tuned`` on ``images`` images of ``data``."""
    words = ("evaluate", str(tuned.folder), "--data", data, "--split", split)
    return Stage(f"evaluate-{tuned.name}", "evaluate", tuned.folder, words, (tuned.name,), tuned.recipe, data, images)


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
        return self._graph

    def _pretrain(self, wanted: Pretraining, seed: int) -> Stage:
        teacher = None if wanted.teacher is None else self._pretrain(wanted.teacher, self._study.seeds[0])
        recipe = self._study.pretrained(wanted.recipe, seed)
        return self._train("pretrain", recipe, self._place(self._study.part), teacher=teacher)

    def _finetune(self, row: Row, task: Task, seed: int, start: Stage | None) -> Stage:
        data = self._place(task.part)
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
            options = ["--blocks", *repeat.flags(settings.items()), "--seed", str(tuned.seed)]
            images = self._study.images + self._study.test_images
        yield analysis, self._looked(analysis, list(encoders.values()), options, images)

    def _looked(self, analysis: Analysis, encoders: list[Stage], options: list[str], images: int) -> Stage:
        data = self._place(self._study.tasks[0].part)
        identity = [analysis.kind, options, data, *(stage.name for stage in encoders)]
        folder = self._root / f"{_FILES[analysis.kind]}-{analysis.name}-{_hash(identity)}"
        models = [str(stage.folder) for stage in encoders]
        words = (analysis.kind, *models, "--data", data, *options, "--out", str(folder))
        needs, recipe = tuple(stage.name for stage in encoders), encoders[0].recipe
        read = images * len(encoders)
        return self._add(Stage(folder.name, analysis.kind, folder, words, needs, recipe, data, read))

    def _layers(self, analysis: Analysis, row: Row, encoder: Stage) -> Stage:
        task, seeds = self._study.tasks[0], self._study.seeds[: analysis.seeds]
        data = self._place(task.part)
        plain = recipes.get(row.finetuning.name)
        recipe = recipes.derive(self._study.finetuned(row, task, seeds[0]), seed=plain.seed)
        identity = [recipe.digest(), data, list(seeds), encoder.name]
        folder = self._root / f"layers-{analysis.name}-{_hash(identity)}"
        words = ["layers", str(encoder.folder), recipe.name, "--data", data, *repeat.changes(recipe)]
        words += repeat.flags({"seeds": seeds, "workers": 0, "out": str(folder)}.items())
        runs = _LAYERS_POINTS * len(seeds)
        images = runs * self._study.trained_on(recipe, task)
        return self._add(Stage(folder.name, "layers", folder, tuple(words), (encoder.name,), recipe, data, images))

    def _place(self, part: str | None) -> str:
        """Return the study's data, or a folder within them, as ``--data`` names it."""
        return self._data if part is None else str(Path(self._data) / part)

    def _add(self, stage: Stage) -> Stage:
        return self._graph.stages.setdefault(stage.name, stage)


def _hash(identity: list[Any]) -> str:
    return files.sha256(json.dumps(identity).encode())[:8]


def _training(stage: Stage) -> State:
    published = any((stage.folder / name / files.MANIFEST).is_file() for name in ("encoder", "classifier"))
    status = _json(stage.folder / "status.json")
    if published and status.get("state") == "finished":
        return "done"
    return "half" if rundir.checkpoints(stage.folder) else "new"


def _trial(stage: Stage) -> State:
    return "done" if diverged(stage) else _training(stage)


def diverged(stage: Stage) -> bool:
    """Say whether a training has ended with numbers that are not finite: an answer, too, where settings are tried."""
    status = _json(stage.folder / "status.json")
    return status.get("state") == "failed" and status.get("error") == NumericsError.__name__


def measured(stage: Stage) -> dict[str, Any]:
    """Return what an evaluation found on the stage's data; empty before it is done."""
    found = [_json(path) for path in sorted((stage.folder / "eval").glob("*.json"))]
    return next((item for item in found if item.get("data") == stage.data), {})


def _evaluation(stage: Stage) -> State:
    return "done" if measured(stage) else "new"


def _looked(stage: Stage) -> State:
    """Say how far an analysis is: its file of numbers is written last."""
    return "done" if _json(stage.folder / f"{_FILES[stage.kind]}.json") else "new"


def _json(path: Path) -> dict[str, Any]:
    """Return a JSON object; empty where there is none, or a damaged one, whose stage is then repeated."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


STATES: dict[str, Callable[[Stage], State]] = {
    "pretrain": _training,
    "finetune": _training,
    "try": _trial,
    "evaluate": _evaluation,
    "analyze": _looked,
    "probe": _looked,
    "layers": _looked,
}
"""How far a stage of each kind is. A new kind is an entry here, and what adds its stages to a graph."""
