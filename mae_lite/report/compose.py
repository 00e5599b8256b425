"""From run folders to what a page shows, in order; :mod:`mae_lite.report.page` makes HTML of it."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mae_lite import costs, figures
from mae_lite.report import charts, read, repeat, sentence
from mae_lite.report.groups import Group, families, groups
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


@dataclass(frozen=True)
class Picture:
    """One state of a slider."""

    step: int
    uri: str


@dataclass(frozen=True)
class Slider:
    """The same images over time."""

    name: str
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Details:
    """Everything about one run."""

    run: Run
    colour: str
    summary: str
    command: str
    parent: str | None
    changed: Sequence[tuple[str, str, str]]
    recipe: str
    provenance: str


@dataclass(frozen=True)
class Report:
    """What a page says, in order."""

    title: str
    headline: Sequence[str]
    notes: Sequence[str]
    tables: Sequence[Table]
    figures: Sequence[charts.Figure]
    sliders: Sequence[Slider]
    costs: Table
    details: Sequence[Details]
    live: bool = False
    states: Mapping[str, int] = field(default_factory=dict)


def compose(
    paths: Sequence[Path],
    title: str | None = None,
    notes: Sequence[str] = (),
    live: bool = False,
    names: Mapping[Path, str] | None = None,
) -> Report:
    """Read the runs and say what they show.

    Args:
        paths: run folders, or folders of run folders.
        title: of the page; by default made of the data and the recipes.
        notes: sentences to go below the tables.
        live: whether the page will ask for news.
        names: what to call the run of a folder; those of one name that differ in their seed alone are one row. By
            default the recipe's name.

    Raises:
        CheckpointError: when a path holds no run.
    """
    runs = [read.read(folder) for folder in read.find(paths)]
    found = groups(runs, read.baselines(paths), names)
    colours = _colours(found)
    rated = [group for group in found if group.accuracy is not None]
    states: dict[str, int] = {}
    for run in runs:
        states[run.state] = states.get(run.state, 0) + 1
    tables = [_accuracies(rated, colours)] if rated else []
    return Report(
        title=title or _title(runs),
        headline=sentence.headline(found),
        notes=[*notes, *_notes(found)],
        tables=[*tables, _results(found, colours)],
        figures=charts.figures_of(found, colours),
        sliders=[_slider(run) for run in runs if run.previews],
        costs=_costs(found, colours),
        details=[_details(run, group, colours) for group in found for run in group.runs],
        live=live,
        states=states,
    )


def _notes(found: Sequence[Group]) -> list[str]:
    """Name the accuracies that the comparison leaves out."""
    names = [name for group in found for name in group.left_out]
    if not names:
        return []
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    why = "These runs are not finished, were measured on other images, or repeat a seed of another."
    return [f"Not compared: {shown}. {why}"]


def _colours(found: Sequence[Group]) -> dict[str, str]:
    """Return a colour for each label; a pre-training and the runs that start from it share their method's."""
    tuned = {group.label: group.pretraining for group in found if not (group.runs and not group.runs[0].supervised)}
    pre_trained = {group.label: group.pretraining for group in found if group.label not in tuned}
    return {**figures.assign_colours(pre_trained), **figures.assign_colours(tuned)}


def _title(runs: Sequence[Run]) -> str:
    if len(runs) == 1:
        return f"{runs[0].raw.get('name', runs[0].name)} on {runs[0].data}"
    return f"{len(runs)} runs on {', '.join(sorted({run.data for run in runs}))}"


def _accuracies(rated: Sequence[Group], colours: Mapping[str, str]) -> Table:
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


def _results(found: Sequence[Group], colours: Mapping[str, str]) -> Table:
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
                Cell("all" if run.labels is None else str(run.labels), run.labels or math.inf),
                Cell(str(run.seed), run.seed),
                Cell(run.state, run.state),
                Cell(_progress(step, total), float(step or 0)),
                Cell(f"{losses[-1]:.4g}" if losses else "", losses[-1] if losses else math.inf),
                Cell(f"{100 * accuracy.top1:.2f}" if accuracy else "", accuracy.top1 if accuracy else -1.0),
                Cell(accuracy.text if accuracy else "", accuracy.text if accuracy else ""),
            ])  # fmt: skip
    header = ["run", "recipe", "labels", "seed", "state", "updates", "last loss", "top-1, %", "measured on"]
    return Table("runs", "Runs", header, rows)


def _progress(step: int | None, total: int | None) -> str:
    if step is None:
        return ""
    return f"{step:,}" if step == total or total is None else f"{step:,} of {total:,}"


def _costs(found: Sequence[Group], colours: Mapping[str, str]) -> Table:
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
        labels = "all" if group.labels is None else str(group.labels)
        rows.append([
            Cell(group.label, group.label, colours[group.label]),
            Cell(labels, group.labels or math.inf),
            _number(parameters, "{:.2f}"),
            _number(use, "{:.3g}"),
            _number(train, "{:.3g}"),
            _number(group.steps, "{:,}"),
            _number(sum(seconds) / len(seconds) if seconds else None, "{:,.0f}"),
            _number(sorted(rates)[len(rates) // 2] if rates else None, "{:,.0f}"),
            _number(max(memory) if memory else None, "{:,.0f}"),
            Cell(device, device),
        ])  # fmt: skip
    header = ["recipe", "labels", "parameters, M", "GFLOP to use", "GFLOP to train", "updates", "seconds a run",
              "images/s", "memory, MB", "device"]  # fmt: skip
    return Table("costs", "Cost: encoder parameters, arithmetic for one image, time of one run", header, rows)


def _number(value: float | None, text: str) -> Cell:
    return Cell("", -1.0) if value is None else Cell(text.format(value), float(value))


def _seconds(run: Run) -> float | None:
    total = number(run.status.get("seconds"))
    if total is not None:
        return total
    values = run.series("seconds")[1]
    return sum(values) if values else None


def _teacher_share(run: Run) -> float | None:
    """Return the teacher's share of the time of all updates; None where none was measured."""
    rows = [(number(row.get("teacher_share")), number(row.get("seconds"))) for row in run.rows]
    known = [(share, seconds) for share, seconds in rows if share is not None and seconds]
    return sum(share * seconds for share, seconds in known) / sum(s for _, s in known) if known else None


def _slider(run: Run) -> Slider:
    pictures = [Picture(step, _data_uri(path)) for step, path in _thinned(run.previews)]
    return Slider(run.name, pictures)


def _thinned(previews: Sequence[tuple[int, Path]], most: int = 24) -> list[tuple[int, Path]]:
    """Return at most ``most`` of them, evenly, the first and the last among them."""
    if len(previews) <= most:
        return list(previews)
    chosen = sorted({round(place * (len(previews) - 1) / (most - 1)) for place in range(most)})
    return [previews[place] for place in chosen]


def _data_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def _details(run: Run, group: Group, colours: Mapping[str, str]) -> Details:
    facts = [run.state]
    accuracy = run.accuracy()
    if accuracy is not None:
        facts.append(f"{100 * accuracy.top1:.2f} % top-1 on {accuracy.text}")
    share = _teacher_share(run)
    if share is not None:
        facts.append(f"the teacher took {100 * share:.0f} % of the time")
    if run.bad_files:
        facts.append(f"{run.bad_files} bad files")
    changed = [(name, _plain(old), _plain(new)) for name, old, new in repeat.differences(run)]
    provenance = json.dumps(run.starts, indent=2, ensure_ascii=False)
    return Details(
        run=run,
        colour=colours[group.label],
        summary=", ".join(facts),
        command=repeat.command(run),
        parent=repeat.parent(run),
        changed=changed,
        recipe=json.dumps(run.raw, indent=2, ensure_ascii=False),
        provenance=provenance,
    )


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.10g}"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else str(value)
