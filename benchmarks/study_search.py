"""The search behind a study's learning rates: six settings for every row, scratch included, on a part of train.

A row that trains from scratch has six learning rates; one that is pre-trained has two rates of pre-training, each with
three of fine-tuning. All are multiples of what the study had before. Every setting is trained once, with the first
seed, and measured on a tenth of the training images; test images are not read. A setting that diverges is an answer.

    python benchmarks/study_search.py DATA [--study cifar10] [--scale cpu] [--rows scratch MAE ...]

writes benchmarks/results/STUDY_search_SCALE.json. Rows that are not asked for stay there as they are. Trainings that a
former call, or the study itself, has finished in the same folder are not repeated.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mae_lite import files, recipes, studies
from mae_lite.config import Recipe
from mae_lite.errors import NumericsError
from mae_lite.studies.values import Pretraining, Row, Study, Task
from mae_lite.studying import forecast, graph, stages
from mae_lite.studying.running import Pool

SCRATCH = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Multiples of the learning rate of a row that starts from random weights."""
PRETRAINING = (1.0, 2.0)
FINETUNING = (0.5, 1.0, 2.0)
AROUND: dict[tuple[str, str], tuple[float | None, float]] = {
    ("cifar10-cpu", "scratch"): (None, 1.25e-3),
    ("cifar10-cpu", "MAE"): (2e-3, 5e-3),
    ("cifar10-cpu", "D-MAE"): (2e-3, 5e-3),
    ("cifar10-cpu", "MoCo-v3"): (1.5e-4, 5e-3),
    ("cifar10-scarce-cpu", "supervised"): (1.25e-3, 5e-3),
}
"""Rates of pre-training and fine-tuning that a row's settings are multiples of: what the study had before it was
searched, for supervised pre-training scratch's; other rows have theirs of now."""
VALIDATION = 0.1
"""Share of the training images that settings are compared on."""


class Setting(NamedTuple):
    """What one training of the search, or a pair of them, is made with."""

    row: str
    pretraining: float | None
    """lr_per_256 of pre-training, where there is one; likewise that of fine-tuning."""
    finetuning: float

    @property
    def name(self) -> str:
        """Return its name as a row of a study."""
        first = "" if self.pretraining is None else f", pre-training at {self.pretraining:g}"
        return f"{self.row}{first}, fine-tuning at {self.finetuning:g}"


def settings(study: Study, row: Row) -> Iterator[tuple[Setting, Row]]:
    """Yield the settings of a row, each with the row that has them."""
    now = None if row.pretraining is None else row.pretraining.recipe.lr_per_256
    start, rate = AROUND.get((study.name, row.name), (now, row.finetuning.lr_per_256))
    if start is None:
        for factor in SCRATCH:
            yield _made(row, None, rate * factor)
        return
    for first in PRETRAINING:
        for factor in FINETUNING:
            yield _made(row, start * first, rate * factor)


def _made(row: Row, first: float | None, second: float) -> tuple[Setting, Row]:
    setting = Setting(row.name, first, second)
    start = row.pretraining
    if start is not None and first is not None:
        start = Pretraining(recipe=_at(start.recipe, first), teacher=start.teacher)
    changes = {"name": setting.name, "pretraining": start, "finetuning": _at(row.finetuning, second), "seeds": None}
    return setting, row.model_copy(update=changes)


def _at(recipe: Recipe, rate: float) -> Recipe:
    return recipes.derive(recipe, lr_per_256=rate)


def searched(study: Study, names: Sequence[str], task: str | None) -> tuple[Study, dict[str, Setting]]:
    """Return a study whose rows are the settings of the rows ``names`` (none takes all), and each row's setting.

    Raises:
        SystemExit: when the study has no such row or task.
    """
    chosen = _task(study, task)
    known = {row.name: row for row in study.rows if not row.bound and row.longer == 1.0}
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f"{study.name!r} has no row {unknown[0]!r}; it has {', '.join(known)}")
    made = [pair for name, row in known.items() if not names or name in names for pair in settings(study, row)]
    changes = {
        "rows": tuple(row for _, row in made),
        "tasks": (chosen.model_copy(update={"changes": {**chosen.changes, "validation_fraction": VALIDATION}}),),
        "seeds": study.seeds[:1],
        "analyses": (),
        "claims": (),
        "against": None,
        "runtime": {**study.runtime, "validate_every_epochs": 1e9},
    }
    return study.model_copy(update=changes), {setting.name: setting for setting, _ in made}


def _task(study: Study, name: str | None) -> Task:
    found = [task for task in study.tasks if name in (None, task.name)]
    if not found:
        sys.exit(f"{study.name!r} has no task {name!r}; it has {', '.join(task.name for task in study.tasks)}")
    return found[0]


def trials(built: graph.Graph) -> dict[str, stages.Stage]:
    """Return the trainings of a graph as tries; what follows a pre-training that diverged is left out."""
    tries = {n: dataclasses.replace(s, kind="try") for n, s in built.stages.items() if s.trains}
    return {n: s for n, s in tries.items() if not any(stages.diverged(tries[need]) for need in s.needs)}


def outcome(built: graph.Graph, asked: dict[str, Setting]) -> list[dict[str, Any]]:
    """Return each setting with its validation accuracy in percent; None where it, or its pre-training, diverged."""
    found = []
    for cell in built.cells:
        setting = asked[cell.row.name]
        status = cell.folder / "status.json"
        content = json.loads(status.read_text()) if status.exists() else {}
        top1 = 100 * content["val_top1"] if content.get("state") == "finished" else None
        about = {"row": setting.row, "pretraining_lr": setting.pretraining, "finetuning_lr": setting.finetuning}
        found.append({**about, "val_top1": top1, "diverged": top1 is None})
    return found


def best(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the best setting of each row, and which of its rates are the lowest or highest that was tried."""
    found: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(row["row"] for row in rows):
        here = [row for row in rows if row["row"] == name and not row["diverged"]]
        if here:
            top = max(here, key=lambda row: row["val_top1"])
            edges = [key for key in ("pretraining_lr", "finetuning_lr") if _at_an_edge(top[key], key, rows, name)]
            found[name] = {**top, "at_an_edge_of": edges}
    return found


def _at_an_edge(rate: float | None, key: str, rows: Sequence[dict[str, Any]], name: str) -> bool:
    tried = sorted({row[key] for row in rows if row["row"] == name and row[key] is not None})
    return rate is not None and rate in (tried[0], tried[-1])


def write(path: Path, study: Study, task: str, rows: list[dict[str, Any]], command: list[str]) -> dict[str, Any]:
    """Write the settings, with those of other rows that the file has already; return what it holds."""
    before = json.loads(path.read_text()) if path.exists() else {}
    same = before.get("study") == study.name and before.get("task") == task
    now = {row["row"] for row in rows}
    kept = [row for row in before["settings"] if row["row"] not in now] if same else []
    commands = [*(line for line in before["commands"] if line != command), command] if same else [command]
    everything = [*kept, *rows]
    content = {
        "study": study.name,
        "task": task,
        "validation_fraction": VALIDATION,
        "settings_per_row": len(SCRATCH),
        "seed": study.seeds[0],
        "settings": everything,
        "best": best(everything),
        "hardware": {"cpus": os.cpu_count(), "machine": platform.machine(), "torch": torch.__version__},
        "commands": commands,
    }
    files.make_folder(path.parent)
    files.write_json(path, content)
    return content


def _command(options: argparse.Namespace) -> list[str]:
    """Return the command with what decides its result, without places of this machine."""
    words = ["python", "benchmarks/study_search.py", "DATA", "--study", options.study, "--scale", options.scale]
    words += ["--task", options.task] if options.task else []
    words += ["--updates", str(options.updates)] if options.updates else []
    return words + (["--rows", *options.rows] if options.rows else [])


def main(arguments: Sequence[str] | None = None) -> int:
    """Try what is not tried yet, print the settings and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--study", default="cifar10")
    parser.add_argument("--scale", default="cpu")
    parser.add_argument("--rows", nargs="+", default=[])
    parser.add_argument("--task")
    parser.add_argument("--root", type=Path, default=Path("runs/studies"))
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--updates", type=int, help="cut every training to so many, for a quick look")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--dry-run", action="store_true", help="say what there is to do, and how long it takes")
    options = parser.parse_args(arguments)
    if options.updates and options.out is None:
        parser.error("--updates makes a quick look, which needs a file of its own: add --out FILE")
    study, asked = searched(
        studies.get(options.study, options.scale).shorter(options.updates, None), options.rows, options.task
    )
    built = graph.build(study, options.root, options.data)
    wanted = trials(built)
    planned = forecast.of_stages(study, list(wanted.values()))
    if options.dry_run:
        images = f"{study.images:,} training images"
        print(forecast.Plan(study, planned, options.processes, images).as_text())
        return 0
    ended = Pool(options.processes, options.root / "search-logs").run(forecast.in_order(planned))
    broken = {name: code for name, code in ended.failed.items() if code != NumericsError.exit_code}
    if ended.stopped or broken:
        print("stopped; the same command goes on" if ended.stopped else f"failed: {', '.join(broken)}")
        return 1
    path = options.out or Path("benchmarks/results") / f"{options.study}_search_{options.scale}.json"
    content = write(path, study, study.tasks[0].name, outcome(built, asked), _command(options))
    for row in content["settings"]:
        first = "" if row["pretraining_lr"] is None else f"{row['pretraining_lr']:.2g}"
        top1 = "diverged" if row["diverged"] else f"{row['val_top1']:.1f}"
        print(f"{row['row']:<10} pre-training {first:<8} fine-tuning {row['finetuning_lr']:<8.2g} {top1:>8}")
    print(f"-> {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
