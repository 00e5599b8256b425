"""The tables of a report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mae_lite import costs
from mae_lite.report.groups import Group, families
from mae_lite.report.read import Run
from mae_lite.report.values import number, whole


@dataclass(frozen=True)
class Cell:
    """A table cell: what it shows, and what it is sorted by."""

    text: str
    key: float | str = ""
    colour: str = ""
    """Of a dot before the text; "" for none."""
    detail: str = ""
    """Smaller text after it."""


@dataclass(frozen=True)
class Table:
    """A table whose first column names the row."""

    name: str
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    below: Sequence[tuple[str, str]] = ()
    """Commands that go with it, each after what it is for."""


def accuracies(rated: Sequence[Group], colours: Mapping[str, str]) -> Table:
    """Return families against labels per class: mean, interval, every single value."""
    columns = sorted({group.labels for group in rated}, key=lambda labels: labels or math.inf)
    rows = []
    for label, members in families(rated).items():
        by_labels = {group.labels: group for group in members}
        cells = [Cell(label, label, colours[label])]
        for labels in columns:
            group = by_labels.get(labels)
            estimate = None if group is None else group.accuracy
            if estimate is None:
                cells.append(Cell("", -1.0))
                continue
            single = " ".join(f"{value:.1f}" for value in estimate.values) if len(estimate.values) > 1 else ""
            cells.append(Cell(estimate.text(), estimate.mean, detail=single))
        rows.append(cells)
    header = ["", *("all labels" if labels is None else f"{labels} labels per class" for labels in columns)]
    several = any(len(group.by_seed) > 1 for group in rated)
    caption = "Top-1 accuracy in percent" + (": mean ± 95 % interval over seeds, then every seed" if several else "")
    return Table("accuracy", caption, header, rows)


def results(found: Sequence[Group], colours: Mapping[str, str]) -> Table:
    """Return one row for each run."""
    rows = []
    for group in found:
        for run in group.runs:
            accuracy = run.accuracy()
            step, total = whole(run.status.get("step")), run.updates
            losses = run.series("loss")[1]
            rows.append([
                Cell(run.name, run.name, colours[group.label]),
                Cell(group.label, group.label),
                _labels(run.labels, run),
                Cell(str(run.seed), run.seed),
                Cell(run.state, run.state),
                Cell(_progress(step, total), float(step or 0)),
                Cell(f"{losses[-1]:.4g}" if losses else "", losses[-1] if losses else math.inf),
                Cell(f"{100 * accuracy.top1:.2f}" if accuracy else "", accuracy.top1 if accuracy else -1.0),
                Cell(accuracy.text if accuracy else "", accuracy.text if accuracy else ""),
            ])  # fmt: skip
    header = ["run", "recipe", "labels per class", "seed", "state", "updates", "last loss", "top-1, %", "measured on"]
    return Table("runs", "Runs", header, rows)


def _labels(count: int | None, run: Run) -> Cell:
    """Return the labels per class that a run learns from."""
    if not run.supervised and run.raw.get("method"):
        return Cell("none", 0.0)
    return Cell("all" if count is None else str(count), count or math.inf)


def _progress(step: int | None, total: int | None) -> str:
    if step is None:
        return ""
    return f"{step:,}" if step == total or total is None else f"{step:,} of {total:,}"


def costs_of(found: Sequence[Group], colours: Mapping[str, str]) -> Table:
    """Return one row for each group that trains: model size, arithmetic, time, rate, memory."""
    rows = []
    for group in found:
        if not group.runs:
            continue
        recipe = group.runs[0].recipe
        seconds = [value for run in group.runs if (value := _seconds(run)) is not None]
        rates = [value for run in group.runs for value in run.series("images_per_second")[1][1:]]
        memory = [mb for run in group.runs if (mb := number(run.status.get("peak_memory_mb"))) is not None]
        parameters = None if recipe is None else costs.model_parameters(recipe) / 1e6
        use = None if recipe is None else costs.forward_gflops(recipe.encoder)
        train = None if recipe is None else costs.step_gflops(recipe)
        device = str(group.runs[0].starts[-1].get("device", "")) if group.runs[0].starts else ""
        rows.append([
            Cell(group.label, group.label, colours[group.label]),
            _labels(group.labels, group.runs[0]),
            _number(parameters, "{:.2f}"),
            _number(use, "{:.3g}"),
            _number(train, "{:.3g}"),
            _number(group.steps, "{:,}"),
            _number(sum(seconds) / len(seconds) if seconds else None, "{:,.0f}"),
            _number(sorted(rates)[len(rates) // 2] if rates else None, "{:,.0f}"),
            _number(max(memory) if memory else None, "{:,.0f}"),
            Cell(device, device),
        ])  # fmt: skip
    header = ["recipe", "labels per class", "parameters, M", "GFLOP to use", "GFLOP to train", "updates",
              "seconds a run", "images/s", "memory, MB", "device"]  # fmt: skip
    return Table("costs", "Cost: encoder parameters, arithmetic for one image, time of one run", header, rows)


def _number(value: float | None, text: str) -> Cell:
    return Cell("", -1.0) if value is None else Cell(text.format(value), float(value))


def _seconds(run: Run) -> float | None:
    total = number(run.status.get("seconds"))
    if total is not None:
        return total
    values = run.series("seconds")[1]
    return sum(values) if values else None
