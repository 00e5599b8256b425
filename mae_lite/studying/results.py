"""Every number of a study, its means and its differences, for a file and for people."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from mae_lite.report import read
from mae_lite.report.groups import Estimate
from mae_lite.report.tables import Cell, Table
from mae_lite.studies.values import Study, Task
from mae_lite.studying import claims, recommending
from mae_lite.studying.graph import Graph

Values: TypeAlias = dict[tuple[str, str], dict[int, float]]
"""Top-1 in percent by seed, of every row (first name) and task (second)."""


def table(study: Study, graph: Graph, data: str) -> dict[str, Any]:
    """Return what ``table.json`` holds; numbers that are not there yet are left out.

    ``means`` and ``differences`` have half of a 95 % interval over seeds (Student's t; None for one seed). Differences
    are paired by seed, and those of rows that share a seed in all. ``recommended`` has an advice for each task, and
    ``claims`` what a source says beside what was measured (see :mod:`~mae_lite.studying.claims`), unless the study was
    cut.
    """
    numbers: list[dict[str, Any]] = []
    values = _empty(study)
    for cell in graph.cells:
        measured = read.read(cell.folder).accuracy() if cell.folder.is_dir() else None
        if measured is None or measured.sha256 == read.IN_TRAINING:
            continue
        values[cell.row.name, cell.task.name][cell.seed] = 100 * measured.top1
        about: dict[str, Any] = {
            "method": cell.row.name,
            "task": cell.task.name,
            "data": measured.data,
            "split": measured.split,
        }
        labels = study.finetuned(cell.row, cell.task, cell.seed).labels_per_class
        about |= {"images": measured.images, "labels_per_class": labels, "seed": cell.seed, "run": str(cell.folder)}
        numbers.append({**about, "top1_percent": 100 * measured.top1, "published_percent": cell.row.published})
    means = [
        {"method": row, "task": task, "seeds": list(found), **_interval(Estimate(tuple(found.values())))}
        for (row, task), found in values.items()
        if found
    ]
    return {
        "study": study.name,
        "data": data,
        "complete": len(numbers) == len(graph.cells),
        "numbers": numbers,
        "means": means,
        "differences": list(_differences(study, values)),
        "recommended": recommending.recommended(study, graph, data, values),
        "claims": claims.measured(study, graph, values),
    }


def _empty(study: Study) -> Values:
    return {(row.name, task.name): {} for task in study.tasks for row in study.rows}


def _differences(study: Study, values: Values) -> Iterator[dict[str, Any]]:
    names = [row.name for row in study.rows]
    pairs = (
        list(itertools.combinations(reversed(names), 2))
        if study.against is None
        else [(name, study.against) for name in names if name != study.against]
    )
    for task in study.tasks:
        for one, other in pairs:
            ours, theirs = values[one, task.name], values[other, task.name]
            gain = recommending.paired(ours, theirs)
            if gain is not None:
                half, common = gain.half_width, sorted(set(ours) & set(theirs))
                beyond = None if half is None else abs(gain.mean) > half
                about = {"task": task.name, "method": one, "minus": other, "seeds": common}
                yield {**about, **_interval(gain), "p_value": gain.p_value, "beyond_chance": beyond}


def _interval(estimate: Estimate) -> dict[str, Any]:
    return {"mean": estimate.mean, "half_width_95": estimate.half_width, "values": list(estimate.values)}


def headline(study: Study, found: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each task: the best row, how far the others are behind, and what bounds them.

    A study that was cut has a sentence that says so, and none on who is best.
    """
    if found["means"] and study.updates is not None:
        return [f"Every training was cut to {study.updates} updates: all of it runs, and its numbers mean nothing."]
    said = []
    for task in dict.fromkeys(item["task"] for item in found["means"]):
        here = {item["method"]: item for item in found["means"] if item["task"] == task}
        rivals = [row.name for row in study.rows if row.name in here and not row.bound]
        if not rivals:
            continue
        best = recommending.leading({name: _by_seed(here[name]) for name in rivals})
        behind = [f"{name} {_behind(here[best], here[name])}" for name in rivals if name != best]
        bounds = [f"{row.name} {_mean(here[row.name])} %" for row in study.rows if row.bound and row.name in here]
        waiting = recommending.lacking(study, _task(study, task), _values(found))
        so_far = " so far" if waiting else ""
        text = f"{task}{so_far}: {best} is best with {_mean(here[best])} % on the {_split(found, task)} images"
        text += f"; the others beside it, in points and paired by seed: {', '.join(behind)}" if behind else ""
        text += " (one seed, so that nothing is said of chance)" if behind and len(here[best]["seeds"]) == 1 else ""
        said.append(text + (f". Bound from above: {', '.join(bounds)}." if bounds else "."))
    return said or ["Nothing is measured yet."]


def _by_seed(item: Mapping[str, Any]) -> dict[int, float]:
    return dict(zip(item["seeds"], item["values"], strict=True))


def _values(found: Mapping[str, Any]) -> Values:
    values: Values = collections.defaultdict(dict)
    for item in found["means"]:
        values[item["method"], item["task"]] = _by_seed(item)
    return values


def _task(study: Study, name: str) -> Task:
    return next(task for task in study.tasks if task.name == name)


def _split(found: Mapping[str, Any], task: str) -> str:
    """Return what the images of a task are: test, unless validation images stood in."""
    splits = {item["split"] for item in found["numbers"] if item["task"] == task}
    return "test" if splits == {"test"} else "validation" if splits == {"val"} else " and ".join(sorted(splits))


def _mean(item: Mapping[str, Any]) -> str:
    return Estimate(tuple(item["values"])).text()


def _behind(best: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    gain = recommending.paired(_by_seed(other), _by_seed(best))
    if gain is None:
        return "no seed in common"
    half = gain.half_width
    spread = "" if half is None else f" ± {half:.1f}"
    return f"{gain.mean:+.1f}{spread}" + (" (within chance)" if half is not None and abs(gain.mean) <= half else "")


def as_text(found: Mapping[str, Any]) -> str:
    """Return the table for a terminal: means with intervals and every number, then the differences."""
    if not found["means"]:
        return "Nothing is measured yet."
    several = any(len(item["values"]) > 1 for item in found["means"])
    lines = []
    for task in dict.fromkeys(item["task"] for item in found["means"]):
        what = "mean ± 95 % interval over seeds  (each seed)" if several else "one seed"
        lines.append(f"{task}: {_split(found, task)} accuracy in percent, {what}")
        here = [item for item in found["means"] if item["task"] == task]
        width = max(len(item["method"]) for item in here)
        for item in here:
            single = "  (" + " ".join(f"{value:.1f}" for value in item["values"]) + ")" if several else ""
            lines.append(f"  {item['method']:<{width}}  {Estimate(tuple(item['values'])).text():>12}{single}")
        if several:
            lines += ["", f"{task}: difference in points, paired by seed", *_paired(found, task)]
        lines.append("")
    lines += [recommending.in_words(item) for item in found["recommended"]]
    lines += ["", *claims.as_text(found["claims"])]
    return "\n".join(lines).rstrip()


def _paired(found: Mapping[str, Any], task: str) -> Iterator[str]:
    for item in found["differences"]:
        if item["task"] == task:
            half = "" if item["half_width_95"] is None else f" ± {item['half_width_95']:.1f}"
            verdict = "" if item["beyond_chance"] or item["beyond_chance"] is None else "   within chance"
            yield f"  {item['method']} minus {item['minus']}: {item['mean']:+.1f}{half}{verdict}"


def differences(found: Mapping[str, Any], colours: Mapping[str, str]) -> Table:
    """Return the differences of ``table.json`` as a table of a page."""
    several = len({item["task"] for item in found["differences"]}) > 1
    rows = []
    for item in found["differences"]:
        single = Estimate(tuple(item["values"]))
        p, verdict = item["p_value"], {None: "one seed", True: "beyond chance", False: "within chance"}
        each = "" if p is None else " ".join(f"{value:+.1f}" for value in single.values)
        rows.append([
            Cell(item["method"], item["method"], colours.get(item["method"], "")),
            Cell(item["minus"], item["minus"], colours.get(item["minus"], "")),
            *([Cell(item["task"], item["task"])] if several else []),
            Cell(single.signed(), single.mean, detail=each),
            Cell("" if p is None else f"{p:.2g}", 2.0 if p is None else p),
            Cell(verdict[item["beyond_chance"]], verdict[item["beyond_chance"]]),
        ])  # fmt: skip
    header = ["method", "minus", *(["task"] if several else []), "points", "p", "verdict"]
    caption = "Differences, paired by seed: mean ± 95 % interval, every seed; p of a paired t-test of this pair alone"
    return Table("differences", caption, header, rows)
