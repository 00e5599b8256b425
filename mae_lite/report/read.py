"""Run folders as plain facts: all that a report knows, read without torch. What is missing or damaged is left out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mae_lite import rundir
from mae_lite.config import Recipe
from mae_lite.errors import CheckpointError, ConfigError, MaeLiteError
from mae_lite.overrides import build
from mae_lite.report import origins
from mae_lite.report.values import number, whole
from mae_lite.run_state import state_of

BASELINES = "baselines.json"
"""Beside run folders: numbers of opponents that are no runs, a list of objects (see :class:`Baseline`)."""

ANALYSES = {"analysis.json": "analyze", "layers.json": "layers", "probe.json": "probe"}
"""Files that make a folder an analysis, with the command that writes them."""

IN_TRAINING = "in training"
"""Stands for the hash of the images where an accuracy was measured in training, and none was taken."""


@dataclass(frozen=True)
class Run:
    """What one run folder says."""

    name: str
    folder: Path
    recipe: Recipe | None
    """None when this version does not understand it; ``raw`` has it all the same."""
    raw: dict[str, Any]
    """The recipe as written."""
    data: str
    val_data: str | None
    init: str | None
    teacher: str | None
    pixels: str
    """How its images were made ready: "exact", the only way there was at first, or "fast"."""
    pretraining: str
    """What the weights started from: "mae", "scratch", ...; for a pre-training run its own method."""
    start: str
    """What tells starts apart: the settings of the pre-training but its seed, or the hash of the weights."""
    status: dict[str, Any]
    starts: list[dict[str, Any]]
    """provenance.json: one entry for each start."""
    rows: list[dict[str, Any]]
    """metrics.jsonl."""
    evaluations: list[dict[str, Any]]
    """eval/*.json, the newest last."""
    previews: list[tuple[int, Path]]
    """(step, PNG), in order."""
    bad_files: int
    problems: list[str] = field(default_factory=list)
    """Files that could not be read."""
    mean_labels: int | None = None
    """Labels per class on average, where a list of them was written."""
    classes: int | None = None
    """How many, where its training images have labels."""
    images: int | None = None
    """Training images in all, those left out of few labels too."""

    @property
    def supervised(self) -> bool:
        """Whether it trains a classifier."""
        return str(self.raw.get("method", {}).get("kind", "")) == "supervised"

    @property
    def state(self) -> str:
        """running, stopped, paused, finished, failed, or interrupted without a word; unknown without a status."""
        return state_of(self.status)

    @property
    def seed(self) -> int:
        """Seed of the recipe."""
        return whole(self.raw.get("seed")) or 0

    @property
    def labels(self) -> int | None:
        """Labels per class, on average where a share of each is used; None for all."""
        return whole(self.raw.get("labels_per_class")) if self.raw.get("label_fraction") is None else self.mean_labels

    @property
    def updates(self) -> int | None:
        """Updates of the whole run."""
        return whole(self.status.get("total_steps"))

    def series(self, key: str) -> tuple[list[float], list[float]]:
        """Return steps and values of a number in the metrics."""
        found = [(row["step"], row[key]) for row in self.rows if number(row.get(key)) is not None]
        return [float(step) for step, _ in found], [float(value) for _, value in found]

    def accuracy(self) -> Measured | None:
        """Return the newest top-1: on test images of the run's own data before others, then on validation images."""
        measured = [item for item in self.evaluations if number(item.get("top1")) is not None]
        for split, own in (("test", True), ("test", False), ("val", True), ("val", False)):
            fitting = [i for i in measured if i.get("split") == split and (not own or i.get("data") == self.data)]
            if fitting:
                newest = fitting[-1]
                fingerprint = newest.get("fingerprint")
                sha256 = str(fingerprint.get("sha256", "")) if isinstance(fingerprint, dict) else ""
                return Measured(
                    float(newest["top1"]), split, str(newest.get("data")), sha256, whole(newest.get("images"))
                )
        values = self.series("val_top1")[1]
        return Measured(values[-1], "val", self.val_data or self.data, IN_TRAINING, None) if values else None


@dataclass(frozen=True)
class Measured:
    """An accuracy and the images it was measured on; only those of the same images can be compared."""

    top1: float
    """In 0 to 1."""
    split: str
    data: str
    sha256: str
    """Of the images, where an evaluation recorded it; :data:`IN_TRAINING` where there was none."""
    images: int | None

    @property
    def place(self) -> tuple[str, str, str]:
        """What must agree for two accuracies to be compared."""
        return self.split, self.data, self.sha256

    @property
    def text(self) -> str:
        """The images in words."""
        kind = {"val": "validation"}.get(self.split, self.split)
        return f"{kind} images of {self.data}" if self.sha256 != IN_TRAINING else "validation images, in training"


@dataclass(frozen=True)
class Baseline:
    """One number of an opponent that is no run."""

    name: str
    data: str
    labels: int | None
    seed: int
    top1: float


def find(paths: Sequence[Path]) -> list[Path]:
    """Return the run folders among ``paths`` and directly below them, each once, in order.

    Those in an analysis are its own affair: what ``mae-lite layers`` trains stands in its figure.

    Raises:
        CheckpointError: when a path holds none, and no analysis; names runs nearby.
    """
    found: list[Path] = []
    for path in paths:
        if _is_analysis(path) and not _is_run(path):
            continue
        inner = [path] if _is_run(path) else sorted(p for p in path.glob("*") if _is_run(p))
        if not inner and not find_analyses([path]):
            near = sorted(str(p.parent) for p in path.parent.glob("*/recipe.json"))[:5] if path.parent.is_dir() else []
            raise CheckpointError(
                f"no run in {str(path)!r}",
                found="no recipe.json" + ("; runs nearby: " + ", ".join(near) if near else ""),
                expected="a run folder, a folder of run folders, or what analyze, layers or probe wrote",
                fix="give the folder that --out named, e.g. runs/NAME",
            )
        found += [run for run in inner if run not in found]
    return found


def find_analyses(paths: Sequence[Path]) -> list[Path]:
    """Return the folders of analyses among ``paths`` and directly below them, each once, in order."""
    folders = (folder for path in paths for folder in (path, *sorted(path.glob("*"))))
    return list(dict.fromkeys(one for one in folders if _is_analysis(one)))


def _is_analysis(path: Path) -> bool:
    return any((path / file).is_file() for file in ANALYSES)


def _is_run(path: Path) -> bool:
    return (path / "recipe.json").is_file()


def read(folder: Path) -> Run:
    """Read one run folder; what cannot be read is listed under ``problems``."""
    problems: list[str] = []
    record = _object(folder / "recipe.json", problems)
    if (form := whole(record.get("format"))) is not None and form > rundir.FORMAT:
        problems.append(f"recipe.json: format {form} of a newer mae_lite, this one knows up to {rundir.FORMAT}")
    raw = record.get("recipe")
    raw = raw if isinstance(raw, dict) else {}
    if not isinstance(raw.get("method"), dict):
        raw = {**raw, "method": {}}
    starts = _object(folder / "provenance.json", problems).get("starts", [])
    init = record.get("init")
    return Run(
        name=folder.name.encode("utf-8", "backslashreplace").decode(),
        folder=folder,
        recipe=_recipe(raw, problems),
        raw=raw,
        data=str(record.get("data", "")),
        val_data=None if record.get("val_data") is None else str(record["val_data"]),
        init=None if init is None else str(init),
        teacher=None if record.get("teacher") is None else str(record["teacher"]),
        pixels=str(record.get("pixels", "exact")),
        pretraining=origins.pretraining(folder, raw, init),
        start=origins.start(folder, init, record),
        status=_object(folder / "status.json", problems),
        starts=[start for start in starts if isinstance(start, dict)] if isinstance(starts, list) else [],
        rows=[row for row in _rows(folder, problems) if isinstance(row, dict) and whole(row.get("step")) is not None],
        evaluations=list(_evaluations(folder, problems)),
        previews=_previews(folder),
        bad_files=max(0, _lines(folder / "bad_files.csv") - 1),
        problems=problems,
        mean_labels=_mean_labels(folder, record.get("classes")),
        classes=len(classes) if isinstance(classes := record.get("classes"), list) else None,
        images=whole(fingerprint.get("count")) if isinstance(fingerprint := record.get("fingerprint"), dict) else None,
    )


def baselines(paths: Sequence[Path]) -> list[Baseline]:
    """Return the numbers of opponents that lie in ``paths`` or beside them."""
    found = []
    for place in dict.fromkeys(place for path in paths for place in (path, path.parent)):
        try:
            items = json.loads((place / BASELINES).read_text(encoding="utf-8"))
            found += [
                Baseline(str(i["name"]), str(i["data"]), whole(i["labels_per_class"]), int(i["seed"]), float(i["top1"]))
                for i in items
                if number(i["top1"]) is not None
            ]
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found


def _object(path: Path, problems: list[str]) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return rundir.read_json(path, "a run folder")
    except MaeLiteError as error:
        problems.append(f"{path.name}: {error.found or error.what}")
        return {}


def _rows(folder: Path, problems: list[str]) -> list[Any]:
    try:
        return rundir.read_rows(folder)
    except (OSError, ValueError) as error:
        problems.append(f"metrics.jsonl: {error}")
        return []


def _recipe(raw: dict[str, Any], problems: list[str]) -> Recipe | None:
    try:
        return build(Recipe, raw)
    except ConfigError as error:
        problems.append(f"recipe.json: {error.what}")
        return None


def _evaluations(folder: Path, problems: list[str]) -> Iterator[dict[str, Any]]:
    def age(path: Path) -> float:
        return path.stat().st_mtime

    for path in sorted((folder / "eval").glob("*.json"), key=age):
        found = _object(path, problems)
        if found:
            yield found


def _previews(folder: Path) -> list[tuple[int, Path]]:
    pictures = (path for path in (folder / "previews").glob("step_*.png") if path.is_file())
    found = [(path.stem.removeprefix("step_"), path) for path in pictures]
    return sorted((int(step), path) for step, path in found if step.isdecimal())


def _mean_labels(folder: Path, classes: Any) -> int | None:
    rows = _lines(folder / "labels.csv") - 1
    return round(rows / len(classes)) if rows > 0 and isinstance(classes, list) and classes else None


def _lines(path: Path) -> int:
    try:
        return len(path.read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError):
        return 0
