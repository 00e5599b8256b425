"""Every number of a transfer: grids and choices, accuracies with means, for a file and for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mae_lite.report.groups import Estimate
from mae_lite.studies.suites import Point, Suite
from mae_lite.studying import cells, stages
from mae_lite.studying.cells import Cell
from mae_lite.studying.starts import Model

MEASURES = {"top1": "top-1", "balanced": "balanced"}
"""What is measured, and what the table calls it; balanced accuracy is the mean over classes."""


def table(suite: Suite, models: Sequence[Model], found: Sequence[Cell]) -> dict[str, Any]:
    """Return what ``transfer.json`` holds; numbers that are not there yet are left out.

    Means have half of a 95 % interval over seeds (Student's t; None for one seed). An average over sets is that of each
    seed, and is there for models alone that have every set with every seed.
    """
    rows = [_row(cell) for cell in found]
    return {
        "suite": suite.name,
        "seeds": list(suite.seeds),
        "updates": suite.updates,
        "complete": all(_whole(suite, row) for row in rows),
        "models": [{"model": model.label, "weights": model.weights, "identity": model.identity} for model in models],
        "sets": [{"set": one.name, "data": one.data, "test_data": one.test} for one in suite.sets],
        "results": rows,
        "averages": [average for model in models for average in _average(suite, model.label, rows)],
    }


def _row(cell: Cell) -> dict[str, Any]:
    """Return the grid, the choice and the accuracies of a cell; all shares in percent."""
    point = cell.chosen()
    trials = [
        {
            **trial.point._asdict(),
            "val_top1_percent": None if trial.top1 is None else 100 * trial.top1,
            "diverged": stages.diverged(cell.trials()[trial.point]),
            "run": str(trial.run),
        }
        for trial in cell.tried()
    ]
    finals = [] if point is None else list(_finals(cell, point))
    return {
        "model": cell.model.label,
        "set": cell.set.name,
        "recipe": cell.recipe.name,
        "points": len(cell.set.points()),
        "grid": trials,
        "chosen": None if point is None else point._asdict(),
        "at_edge": [] if point is None else cells.at_edge(cell.set, point),
        "finals": finals,
        **{measure: _interval([item[f"{measure}_percent"] for item in finals]) for measure in MEASURES if finals},
    }


def _finals(cell: Cell, point: Point) -> Iterator[dict[str, Any]]:
    for final in cell.finals(point):
        found = stages.measured(final.measured)
        if final.tuned.state() == "done" and found:
            about = {"seed": final.seed, "run": str(final.tuned.folder), "images": found["images"]}
            shares = {"top1_percent": 100 * found["top1"], "balanced_percent": 100 * found["macro"]}
            yield {**about, "split": found["split"], **shares}


def _interval(values: Sequence[float]) -> dict[str, Any]:
    estimate = Estimate(tuple(values))
    return {"mean": estimate.mean, "half_width_95": estimate.half_width, "values": list(values)}


def _whole(suite: Suite, row: Mapping[str, Any]) -> bool:
    return [item["seed"] for item in row["finals"]] == list(suite.seeds)


def _average(suite: Suite, label: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    own = [row for row in rows if row["model"] == label]
    if all(_whole(suite, row) for row in own):
        means: dict[str, Any] = {}
        for measure in MEASURES:
            by_seed = zip(*(row[measure]["values"] for row in own), strict=True)
            means[measure] = _interval([sum(values) / len(own) for values in by_seed])
        yield {"model": label, "sets": len(own), **means}


def headline(found: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each set: what every model reached on its test images."""
    said = []
    for one in found["sets"]:
        rows = [row for row in found["results"] if row["set"] == one["set"] and row["finals"]]
        reached = [f"{row['model']} {_text(row['top1'])} % (balanced {_text(row['balanced'])} %)" for row in rows]
        said += [f"{one['set']}: {', '.join(reached)}."] if reached else []
    return said or ["Nothing is measured yet."]


def as_text(found: Mapping[str, Any]) -> str:
    """Return the table for a terminal, and below it what the grids have chosen."""
    several = len(found["seeds"]) > 1
    spread = f"mean ± 95 % interval over {len(found['seeds'])} seeds" if several else "one seed"
    cut = "" if found["updates"] is None else f"; every training was cut to {found['updates']} updates"
    lines = [f"Transfer, suite {found['suite']}: accuracy on test images in percent, {spread}{cut}"]
    sets = [one["set"] for one in found["sets"]]
    grid = [["", "", *sets, *(["average"] if len(sets) > 1 else [])]]
    for measure, called in MEASURES.items():
        for model in (item["model"] for item in found["models"]):
            grid.append([called, model, *_cells(found, measure, model, sets)])
    widths = [max(len(row[place]) for row in grid) for place in range(len(grid[0]))]
    for row in grid:
        names = [word.ljust(width) for word, width in zip(row[:2], widths[:2], strict=True)]
        numbers = [word.rjust(width) for word, width in zip(row[2:], widths[2:], strict=True)]
        lines.append("  ".join([*names, *numbers]).rstrip())
    return "\n".join([*lines, "", *choices(found)])


def choices(found: Mapping[str, Any]) -> list[str]:
    """Say of every model and set which settings were chosen, and why."""
    return [_choice(row) for row in found["results"]]


def _cells(found: Mapping[str, Any], measure: str, model: str, sets: Sequence[str]) -> list[str]:
    """Return a row of the table; "(1 of 3)" where seeds are missing, "-" where all are."""
    here = {row["set"]: row for row in found["results"] if row["model"] == model}
    words = []
    for name in sets:
        count = len(here[name]["finals"])
        missing = "" if count in (0, len(found["seeds"])) else f" ({count} of {len(found['seeds'])})"
        words.append(_text(here[name][measure]) + missing if count else "-")
    if len(sets) > 1:
        average = next((item for item in found["averages"] if item["model"] == model), None)
        words.append("-" if average is None else _text(average[measure]))
    return words


def _text(item: Mapping[str, Any]) -> str:
    return Estimate(tuple(item["values"])).text()


def _choice(row: Mapping[str, Any]) -> str:
    """Say which settings a cell has, and why."""
    what = f"{row['model']} on {row['set']}"
    lost = sum(trial["diverged"] for trial in row["grid"])
    diverged = f", {lost} of them diverged" if lost else ""
    if row["chosen"] is None:
        known = f"{len(row['grid'])} of {row['points']} points of the grid are known{diverged}"
        return f"{what}: nothing chosen, {known}"
    point = Point(**row["chosen"])
    text = f"{what}: lr_per_256 {point.lr_per_256:g}, layer decay {point.layer_decay:g}"
    if row["points"] == 1:
        return f"{text}, the only point"
    best = max(trial["val_top1_percent"] for trial in row["grid"] if trial["val_top1_percent"] is not None)
    text += f", best of {row['points']} points{diverged} with {best:.1f} % on validation images"
    if row["at_edge"]:
        text += f"; this is the {' and the '.join(row['at_edge'])} of the grid: a wider one may hold a better point"
    return text
