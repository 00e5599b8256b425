"""Stages: what a command of a study or a transfer runs, where, after which others, and how far it is.

A stage's folder is named by its recipe and a hash of all that decides its result: settings, data, and the stages that
it starts from. Whatever needs the same weights therefore finds the same folder, in this study and in others.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mae_lite import files, overrides, rundir
from mae_lite.config import Recipe, Supervised
from mae_lite.errors import NotFinite, NumericsError
from mae_lite.report import repeat

State = Literal["done", "half", "new"]
Training = Literal["pretrain", "finetune"]
Use = Literal["init", "teacher"]

LOOKS = {"analyze": "analysis", "probe": "probe", "layers": "layers"}
"""Commands that look into encoders, and where they write their numbers: FILE.json."""


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
    name = f"{recipe.name}-{hashed(identity)}"
    probed = not isinstance(recipe.method, Supervised)
    own = {name: value for name, value in runtime.items() if probed or not name.startswith("probe_")}
    words = [kind, recipe.name, "--data", data]
    words += [word for use, start in sources.items() for word in (f"--{use}", start.weights)]
    words += repeat.changes(recipe)
    words += overrides.flags({"tensorboard": False, "progress": False, **own, "out": str(root / name)}.items())
    needs = tuple(start.identity for start in sources.values() if start.stage)
    return Stage(name, kind, root / name, tuple(words), needs, recipe, data, images)


def evaluation(tuned: Stage, data: str, images: int, split: str = "test") -> Stage:
    """Return the stage that measures the classifier of ``tuned`` on ``images`` images of ``data``."""
    words = ("evaluate", str(tuned.folder), "--data", data, "--split", split)
    return Stage(f"evaluate-{tuned.name}", "evaluate", tuned.folder, words, (tuned.name,), tuned.recipe, data, images)


def hashed(identity: list[Any]) -> str:
    """Return what names a stage: eight digits of the hash of all that decides its result."""
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
    return status.get("state") == "failed" and status.get("error") in (NotFinite.__name__, NumericsError.__name__)


def measured(stage: Stage) -> dict[str, Any]:
    """Return what an evaluation found: of the finished run, on the data and the split of the stage; empty before."""
    wanted = {
        "data": stage.data,
        "asked": dict(zip(stage.words, stage.words[1:], strict=False)).get("--split"),
        "step": _json(stage.folder / "status.json").get("step"),
    }
    found = [_json(path) for path in sorted((stage.folder / "eval").glob("*.json"))]
    return next((item for item in found if "top1" in item and wanted.items() <= item.items()), {})


def _evaluation(stage: Stage) -> State:
    return "done" if measured(stage) else "new"


def _looked(stage: Stage) -> State:
    """Say how far an analysis is: its file of numbers is written last."""
    return "done" if _json(stage.folder / f"{LOOKS[stage.kind]}.json") else "new"


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
