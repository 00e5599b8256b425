"""Which recipe for data like these: of all that are close to the best, what costs least."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from mae_lite import costs, recipes
from mae_lite.report import repeat
from mae_lite.report.groups import Estimate
from mae_lite.report.tables import Cell, Table
from mae_lite.studies.values import Pretraining, Row, Study, Task
from mae_lite.studying import forecast
from mae_lite.studying.graph import Graph, place

Values: TypeAlias = Mapping[tuple[str, str], Mapping[int, float]]
"""Top-1 in percent by seed, of every row (first name) and task (second)."""
CLOSE = 1.0
"""Points that what costs less may be behind the best, on average. Chance is no measure for that: with few seeds, what
is many points behind can be within chance."""


def why_not(study: Study) -> str:
    """Return why nothing can be advised from a study; "" where something can."""
    if study.updates is None:
        return ""
    return f"No recipe is advised: every training was cut to {study.updates} updates."


def recommended(study: Study, graph: Graph, data: str, values: Values) -> list[dict[str, Any]]:
    """Return an advice for each task and size of encoder of which two rows or more were measured, without the bounds.

    Of the best and of what is at most :data:`CLOSE` points behind it, the advice is what costs least arithmetic. What
    is within chance of the best (the interval of the difference, paired by seed, holds 0) is named beside it.
    """
    if why_not(study):
        return []
    found = []
    for task in study.tasks:
        if lacking(study, task, values):
            continue
        sizes: dict[int, list[Row]] = {}
        for row in study.rows:
            if values[row.name, task.name] and not row.bound:
                sizes.setdefault(costs.encoder_parameters(row.finetuning.encoder), []).append(row)
        found += [_advice(study, graph, data, task, rows, values) for rows in sizes.values() if len(rows) > 1]
    return found


def lacking(study: Study, task: Task, values: Values) -> list[str]:
    """Return the rows of which a seed has not been measured on a task yet."""
    return [row.name for row in study.rows if {*study.seeds[: row.seeds]} - {*values[row.name, task.name]}]


def leading(single: Mapping[str, Mapping[int, float]]) -> str:
    """Return the way with the highest mean, of those with the most seeds: means over other seeds are no rivals."""
    most = max(len(values) for values in single.values())
    means = {name: Estimate(tuple(values.values())).mean for name, values in single.items() if len(values) == most}
    return max(means, key=lambda name: means[name])


def _advice(study: Study, graph: Graph, data: str, task: Task, rows: Sequence[Row], values: Values) -> dict[str, Any]:
    single = {row.name: values[row.name, task.name] for row in rows}
    spent = {row.name: _gflops(graph, row, task) for row in rows}
    found = choice(single, spent, [row.name for row in rows if row.pretraining is None])
    row = next(row for row in rows if row.name == found["advice"])
    settings = study.finetuned(row, task, study.seeds[0])
    return {
        "task": task.name,
        "data": place(data, task.part),
        "training_images": task.images or study.images,
        "labels_per_class": settings.labels_per_class,
        "label_fraction": settings.label_fraction,
        "encoder_parameters": costs.encoder_parameters(settings.encoder),
        **found,
        "commands": list(commands(study, row, task, data)),
    }


def choice(
    single: Mapping[str, Mapping[int, float]], gflops: Mapping[str, float], scratch: Sequence[str]
) -> dict[str, Any]:
    """Return which of some ways to take, with what that rests on.

    Args:
        single: top-1 in percent by seed, for every way.
        gflops: arithmetic of all that each trains.
        scratch: those that start from nothing; the gain is over the best of them.

    Returns:
        Among others ``best`` (see :func:`leading`), ``advice``, what is ``within_chance`` of the best, and
        ``not_known``: with less than two seeds in common with it.
    """
    best = leading(single)
    gaps = {name: paired(values, single[best]) for name, values in single.items() if name != best}
    rivals = [name for name in gaps if len(single[name]) == len(single[best])]
    close = [name for name in rivals if (gap := gaps[name]) is not None and gap.mean >= -CLOSE]
    taken = min([best, *close], key=lambda name: gflops[name])
    behind = gaps.get(taken)
    opponent, gain = _gain(single, taken, scratch)
    return {
        "compared": list(single),
        "seeds": len(single[taken]),
        "best": best,
        "best_gflops": gflops[best],
        "within_chance": [name for name, gap in gaps.items() if gap is not None and _within_chance(gap)],
        "not_known": [name for name, gap in gaps.items() if gap is None or gap.half_width is None],
        "behind_best": None if behind is None else _numbers(behind),
        "advice": taken,
        "top1_percent": _numbers(Estimate(tuple(single[taken].values()))),
        "gflops": gflops[taken],
        "scratch": opponent,
        "gain_over_scratch": None if gain is None else _numbers(gain),
    }


def _gain(
    single: Mapping[str, Mapping[int, float]], taken: str, scratch: Sequence[str]
) -> tuple[str | None, Estimate | None]:
    """Return the one of ``scratch`` that ``taken`` is least ahead of, by the seeds of both, and by how much.

    It may have fewer seeds than others: a gain over a weaker one would be no gain.
    """
    found = {name: gap for name in scratch if (gap := paired(single[taken], single[name])) is not None}
    if not found:
        return None, None
    name = min(found, key=lambda one: found[one].mean)
    return (taken, None) if taken in scratch else (name, found[name])


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Estimate | None:
    """Return ours minus theirs over the seeds of both; None without any."""
    common = sorted(set(ours) & set(theirs))
    return Estimate(tuple(ours[seed] - theirs[seed] for seed in common)) if common else None


def _within_chance(gap: Estimate) -> bool:
    return gap.half_width is not None and abs(gap.mean) <= gap.half_width


def _gflops(graph: Graph, row: Row, task: Task) -> float:
    """Return the arithmetic of all stages that train for one classifier of a row."""
    folder = next(cell.folder for cell in graph.cells if (cell.row.name, cell.task.name) == (row.name, task.name))
    waiting = [stage.name for stage in graph.stages.values() if stage.folder == folder and stage.kind == "finetune"]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        seen.add(name)
        waiting += [need for need in graph.stages[name].needs if need not in seen]
    return sum(forecast.gflop(graph.stages[name]) for name in seen)


def commands(study: Study, row: Row, task: Task, data: str) -> Iterator[str]:
    """Yield the commands that do for other images what was done for a row."""
    tuned = recipes.derive(study.finetuned(row, task, study.seeds[0]), seed=0)
    init: list[str] = []
    if row.pretraining is not None:
        yield from _pretraining(study, row.pretraining, place(data, study.part))
        init = ["--init", f"runs/{row.pretraining.recipe.name}"]
    yield shlex.join(
        ["mae-lite", "finetune", tuned.name, "--data", place(data, task.part), *init, *repeat.changes(tuned)]
    )


def _pretraining(study: Study, wanted: Pretraining, data: str) -> Iterator[str]:
    recipe, taught = study.pretrained(wanted.recipe, 0), []
    if wanted.teacher is not None:
        yield from _pretraining(study, wanted.teacher, data)
        taught = ["--teacher", f"runs/{wanted.teacher.recipe.name}"]
    words = ["mae-lite", "pretrain", recipe.name, "--data", data, *taught, *repeat.changes(recipe)]
    yield shlex.join([*words, "--out", f"runs/{recipe.name}"])


def _numbers(estimate: Estimate) -> dict[str, Any]:
    return {"mean": estimate.mean, "half_width_95": estimate.half_width, "values": list(estimate.values)}


def _estimate(numbers: Mapping[str, Any]) -> Estimate:
    return Estimate(tuple(numbers["values"]))


def in_words(item: Mapping[str, Any]) -> str:
    """Return an advice as sentences."""
    gain = item["gain_over_scratch"]
    reason = f"the best of {len(item['compared'])}"
    if item["behind_best"] is not None:
        gap = _estimate(item["behind_best"]).signed()
        reason = f"which costs least of all at most {CLOSE:g} point behind the best, {item['best']} ({gap})"
    elif item["seeds"] == 1:
        reason += " (one seed, so that nothing is said of chance)"
    worth = "" if gain is None else f"; {_estimate(gain).signed()} points over {item['scratch']}"
    return f"{item['task']}: take {item['advice']}, {reason}{worth}.{chance(item)}"


def chance(item: Mapping[str, Any]) -> str:
    """Return what is to be said of chance, as sentences with a space before each; "" of one seed."""
    if item["seeds"] == 1:
        return ""
    near = [name for name in item["within_chance"] if name != item["advice"]]
    said = f" With these seeds, within chance of the best: {', '.join(near)}." if near else ""
    few = item["not_known"]
    return said + (f" Too few seeds to say of chance: {', '.join(few)}." if few else "")


def table(found: Sequence[Mapping[str, Any]], colours: Mapping[str, str]) -> Table:
    """Return the advices as a table of a page."""
    several = len({item["encoder_parameters"] for item in found}) > 1
    rows = []
    for item in found:
        labels, share, gain = item["labels_per_class"], item["label_fraction"], item["gain_over_scratch"]
        amount = f"{100 * share:g} % of each class" if share is not None else "all" if labels is None else str(labels)
        size = f" ({item['encoder_parameters'] / 1e6:.1f} M parameters)" if several else ""
        near = [*([] if item["behind_best"] is None else [f"{item['best']}{_ahead(item)}"]), *item["within_chance"]]
        near = [name for name in near if name != item["advice"]]
        unknown = [f"{name} (too few seeds to say)" for name in item["not_known"] if item["seeds"] > 1]
        shown = ", ".join([*near, *unknown]) or ("not known from one seed" if item["seeds"] == 1 else "none")
        rows.append([
            Cell(f"{item['data']}{size}", item["data"]),
            Cell(f"{item['training_images']:,}", float(item["training_images"])),
            Cell(amount, labels or math.inf),
            Cell(item["advice"], item["advice"], colours.get(item["advice"], "")),
            Cell(_estimate(item["top1_percent"]).text(), item["top1_percent"]["mean"], detail=_seeds(item["seeds"])),
            Cell("", -1e9)
            if gain is None
            else Cell(_estimate(gain).signed(), gain["mean"], detail=f"over {item['scratch']}"),
            Cell(shown, shown),
            Cell(f"{item['gflops'] / 1e3:,.3g}", item["gflops"]),
        ])  # fmt: skip
    header = ["data", "training images", "labels per class", "advice", "top-1, %", "points over scratch",
              "near the best", "TFLOP"]  # fmt: skip
    caption = (
        f"Of the best and what is at most {CLOSE:g} point behind it, the advice is what costs least arithmetic, with "
        "its pre-training and that one's teacher. Within chance: the 95 % interval of the difference to the best, "
        "paired by seed, holds 0. Rows that know more than the others are left out. The commands below do the same "
        "for your images."
    )
    below = [(f"{item['advice']} for {item['task']}", "\n".join(item["commands"])) for item in found]
    return Table("recommended", caption, header, rows, below)


def _ahead(item: Mapping[str, Any]) -> str:
    """Return how far the best is ahead of a cheaper one."""
    gap = _estimate(item["behind_best"])
    return f" (ahead by {Estimate(tuple(-value for value in gap.values)).signed()} points)"


def _seeds(count: int) -> str:
    return "one seed" if count == 1 else f"{count} seeds"
