"""From run folders to what a page shows, in order; :mod:`mae_lite.report.page` makes HTML of it."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mae_lite import figures
from mae_lite.report import analyses, charts, ledger, read, repeat, sentence, tables
from mae_lite.report.groups import Group, groups
from mae_lite.report.lineage import Lineage
from mae_lite.report.read import Run
from mae_lite.report.tables import Table
from mae_lite.report.values import number

_PREVIEWS_BYTES = 1e6
"""Of a page's previews, before their encoding adds a third."""


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
    on_the_way: Sequence[str]
    """Settings that later starts changed."""
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
    findings: analyses.Findings
    sliders: Sequence[Slider]
    costs: Table
    details: Sequence[Details]
    live: bool = False
    states: Mapping[str, int] = field(default_factory=dict)
    colours: Mapping[str, str] = field(default_factory=dict)
    """Of all names."""


def compose(
    paths: Sequence[Path],
    title: str | None = None,
    notes: Sequence[str] = (),
    live: bool = False,
    names: Mapping[Path, str] | None = None,
    models: Mapping[Path, Mapping[str, str]] | None = None,
) -> Report:
    """Read the runs and say what they show.

    Args:
        paths: folders of runs and of analyses, or folders of such folders.
        title: of the page; by default made of the data and the recipes.
        notes: sentences to go below the tables.
        live: whether the page will ask for news.
        names: what to call the run of a folder; those of one name that differ in their seed alone are one row. By
            default the recipe's name.
        models: further folders of analyses, of which no runs are shown, with what to call the models of each by the
            names that they have there.

    Raises:
        CheckpointError: when a path holds neither.
    """
    runs = [read.read(folder) for folder in read.find(paths)]
    found = groups(runs, read.baselines(paths), names)
    colours = _colours(found)
    rated = [group for group in found if group.accuracy is not None]
    states: dict[str, int] = {}
    for run in runs:
        states[run.state] = states.get(run.state, 0) + 1
    looked = dict.fromkeys([*read.find_analyses(paths), *(models or {})])
    findings = analyses.read({one: (models or {}).get(one, {}) for one in looked})
    lineage = Lineage(runs)
    shown = [tables.accuracies(rated, colours)] if rated else []
    expected = ledger.ledger(rated, colours, lineage)
    shown += [] if expected is None else [expected]
    return Report(
        title=title or _title(runs),
        headline=sentence.headline(found) if runs else [f"{len(findings.figures)} figures, and no run."],
        notes=[*notes, *_notes(found)],
        tables=[*shown, tables.results(found, colours)],
        figures=charts.figures_of(found, colours, lineage),
        findings=findings,
        sliders=_sliders(runs),
        costs=tables.costs_of(found, colours),
        details=[_details(run, group, colours) for group in found for run in group.runs],
        live=live,
        states=states,
        colours=colours,
    )


def _notes(found: Sequence[Group]) -> list[str]:
    """Name the accuracies that the comparison leaves out, those of one reason together."""
    names: dict[str, list[str]] = {}
    for group in found:
        for name, why in group.left_out:
            names.setdefault(why, []).append(name)
    shown = [
        f"{', '.join(some[:5])}{f' and {len(some) - 5} more' if len(some) > 5 else ''} ({why})"
        for why, some in names.items()
    ]
    return [f"Not compared: {'; '.join(shown)}."] if shown else []


def _colours(found: Sequence[Group]) -> dict[str, str]:
    """Return a colour for each label; a pre-training and the runs that start from it share their method's."""
    tuned = {group.label: group.pretraining for group in found if not (group.runs and not group.runs[0].supervised)}
    pre_trained = {group.label: group.pretraining for group in found if group.label not in tuned}
    return {**figures.assign_colours(pre_trained), **figures.assign_colours(tuned)}


def _title(runs: Sequence[Run]) -> str:
    if not runs:
        return "What the encoders compute"
    if len(runs) == 1:
        return f"{runs[0].raw.get('name', runs[0].name)} on {runs[0].data}"
    return f"{len(runs)} runs on {', '.join(sorted({run.data for run in runs}))}"


def _teacher_share(run: Run) -> float | None:
    """Return the teacher's share of the time of all updates; None where none was measured."""
    rows = [(number(row.get("teacher_share")), number(row.get("seconds"))) for row in run.rows]
    known = [(share, seconds) for share, seconds in rows if share is not None and seconds]
    return sum(share * seconds for share, seconds in known) / sum(s for _, s in known) if known else None


def _unusual(run: Run) -> list[str]:
    """Return what a run's rows were marked with: updates left out, jumps of a number, features that collapsed."""
    marked = [
        (number(row["step"]), name) for row in run.rows for name, value in row.items() if number(value) is not None
    ]
    said = []
    for ending, words in (("_spike", "{} far above its median"), ("_collapsed", "{} near 0: collapsed features")):
        for name in sorted({name for _, name in marked if name.endswith(ending)}):
            steps = [step for step, other in marked if other == name]
            often = f" and {len(steps) - 1} more rows" if len(steps) > 1 else ""
            said.append(f"{words.format(name.removesuffix(ending))} at step {steps[0]:g}{often}")
    lost = [f"{step - 1:g}" for step, name in marked if name == "left_out" and step]
    return said + ([f"update {', '.join(lost)} left out, since it was not finite"] if lost else [])


def _sliders(runs: Sequence[Run]) -> list[Slider]:
    """Return the previews of all runs that have any: so many of each that a page can still be sent to somebody."""
    shown = [run for run in runs if run.previews]
    sizes = [path.stat().st_size for run in shown for _, path in run.previews]
    most = int(_PREVIEWS_BYTES * len(sizes) / max(1, sum(sizes)) / max(1, len(shown)))
    return [
        Slider(run.name, [Picture(step, _data_uri(path)) for step, path in _thinned(run.previews, max(2, most))])
        for run in shown
    ]


def _thinned(previews: Sequence[tuple[int, Path]], most: int) -> list[tuple[int, Path]]:
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
    facts += _unusual(run)
    changed = [(name, _plain(old), _plain(new)) for name, old, new in repeat.differences(run)]
    provenance = json.dumps(run.starts, indent=2, ensure_ascii=False)
    return Details(
        run=run,
        colour=colours[group.label],
        summary=", ".join(facts),
        command=repeat.command(run),
        parent=repeat.parent(run),
        changed=changed,
        on_the_way=list(repeat.on_the_way(run)),
        recipe=json.dumps(run.raw, indent=2, ensure_ascii=False),
        provenance=provenance,
    )


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.10g}"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else str(value)
