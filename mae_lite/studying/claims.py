"""What a source claims, beside what a study measured: a difference, its interval, and a verdict."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mae_lite.errors import shortly
from mae_lite.report.groups import Estimate
from mae_lite.report.tables import Cell, Table
from mae_lite.studies.values import Claim, Study
from mae_lite.studying.graph import Graph
from mae_lite.studying.recommending import Values, paired

_log = logging.getLogger(__name__)
_UNITS = {"accuracy": "points", "kept": "points", "similarity": "CKA", "entropy": "nats"}
_DIGITS = {"points": 1, "CKA": 3, "nats": 2}


def measured(study: Study, graph: Graph, values: Values) -> list[dict[str, Any]]:
    """Return every claim of a study with the difference that was measured, and what is to be said of it.

    Args:
        study: has the claims.
        graph: its stages.
        values: top-1 in percent by seed, of every row and task.

    Returns:
        For each what it ``says``, ``what`` was measured, in which ``unit``, the ``values`` by ``seeds``, their
        ``mean`` and ``half_width_95`` (Student's t over seeds; None for one), and the ``verdict``. A study that was cut
        has none.
    """
    if study.updates is not None:
        return []
    return [_measured(study, graph, claim, values) for claim in study.claims]


def _measured(study: Study, graph: Graph, claim: Claim, values: Values) -> dict[str, Any]:
    task = claim.task or study.tasks[0].name
    if claim.kind == "accuracy":
        gap = _ahead(values.get((claim.row, task), {}), values.get((str(claim.over), task), {}))
    elif claim.kind == "kept":
        gap = _kept(graph, claim)
    else:
        gap = dict(_looked(study, graph, claim))
    estimate = Estimate(tuple(gap.values())) if gap else None
    return {
        "says": claim.says,
        "what": _what(study, claim, task),
        "unit": _UNITS[claim.kind],
        "seeds": list(gap),
        "values": list(gap.values()),
        "mean": None if estimate is None else estimate.mean,
        "half_width_95": None if estimate is None else estimate.half_width,
        "verdict": verdict(estimate),
    }


def _ahead(ours: Mapping[int, float], theirs: Mapping[int, float]) -> dict[int, float]:
    """Return ours minus theirs by seed, of the seeds of both."""
    gap = paired(ours, theirs)
    return {} if gap is None else dict(zip(sorted(set(ours) & set(theirs)), gap.values, strict=True))


def verdict(gap: Estimate | None) -> str:
    """Return what a difference says of a claim by which it is above zero."""
    if gap is None:
        return "not measured"
    if gap.half_width is None:
        return "so with one seed" if gap.mean > 0 else "not so with one seed"
    if abs(gap.mean) <= gap.half_width:
        return "within chance"
    return "reproduced" if gap.mean > 0 else "the opposite"


def _what(study: Study, claim: Claim, task: str) -> str:
    looked = study.looked_at(claim)
    if claim.kind == "accuracy":
        return f"{claim.row} minus {claim.over}, {task}"
    if claim.kind == "kept":
        return f"{claim.row}, {study.tasks[0].name}: first half of the blocks kept minus last half"
    if claim.kind == "entropy":
        return f"entropy of the last block's attention, {claim.row} minus {claim.over}"
    reference = "" if looked is None else looked.rows[0]
    return f"CKA of the last block and that of {reference}, {claim.row} minus {claim.over}"


def _kept(graph: Graph, claim: Claim) -> dict[int, float]:
    """Return by seed the points that the first half of the blocks is worth more than the last."""
    for analysis, stage in graph.analyses:
        if analysis.kind == "layers" and analysis.rows == (claim.row,) and stage.state() == "done":
            with _damage_told(stage.folder):
                return _halves(stage.folder)
    return {}


def _halves(folder: Path) -> dict[int, float]:
    found = json.loads((folder / "layers.json").read_text(encoding="utf-8"))
    first, last = (
        next(at["top1"]["by_seed"] for at in found[side] if at["blocks"] == found["blocks"] // 2)
        for side in ("first", "last")
    )
    return {seed: one - other for seed, one, other in zip(found["seeds"], first, last, strict=True)}


def _looked(study: Study, graph: Graph, claim: Claim) -> Iterator[tuple[int, float]]:
    """Yield by seed how much more of a number of its last block a row has than the other."""
    wanted = study.looked_at(claim)
    first = [(analysis, study.seeds[0], stage) for analysis, stage in graph.analyses]
    for analysis, seed, stage in [*first, *graph.repeated]:
        both = {claim.row, str(claim.over)} <= set(analysis.rows)
        if wanted is not None and analysis.name == wanted.name and both and stage.state() == "done":
            of = _entropies if claim.kind == "entropy" else _similarities
            with _damage_told(stage.folder):
                found = of(stage.folder, analysis.rows)
                yield seed, found[claim.row] - found[str(claim.over)]


@contextmanager
def _damage_told(folder: Path) -> Iterator[None]:
    """Pass over an analysis that is damaged or cut short, aloud: its claims lack this seed."""
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, StopIteration) as error:
        _log.warning("%s cannot be read, so that claims lack its numbers: %s", folder, shortly(error))


def _entropies(folder: Path, rows: Sequence[str]) -> dict[str, float]:
    """Return the entropy of the last block of each row, the mean of its heads."""
    content = json.loads((folder / "attention.json").read_text(encoding="utf-8"))["models"]
    blocks = [model["entropy_nats"][-1] for model in content.values()]
    return {row: sum(heads) / len(heads) for row, heads in zip(rows, blocks, strict=True)}


def _similarities(folder: Path, rows: Sequence[str]) -> dict[str, float]:
    """Return CKA of the last block of each row, and that of the first row."""
    models = list(json.loads((folder / "analysis.json").read_text(encoding="utf-8"))["models"])
    found = {rows[0]: 1.0}
    for row, name in zip(rows[1:], models[1:], strict=True):
        content = json.loads((folder / f"cka-{models[0]}+{name}.json").read_text(encoding="utf-8"))
        found[row] = content["cka"][-1][-1]
    return found


def text(item: Mapping[str, Any]) -> str:
    """Return a measured difference with its interval and unit; "" where there is none."""
    if not item["values"]:
        return ""
    return f"{Estimate(tuple(item['values'])).signed(_DIGITS[item['unit']])} {item['unit']}"


def as_text(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return claims and verdicts as lines for a terminal."""
    return [
        line
        for item in found
        for line in (f"claim: {item['says']}", f"  {item['what']}: {text(item) or 'no number'}   {item['verdict']}")
    ]


def table(found: Sequence[Mapping[str, Any]]) -> Table:
    """Return the claims as a table of a page."""
    rows = [
        [
            Cell(item["says"], item["says"]),
            Cell(item["what"], item["what"]),
            Cell(text(item), -1e9 if item["mean"] is None else item["mean"], detail=_seeds(item["seeds"])),
            Cell(item["verdict"], item["verdict"]),
        ]
        for item in found
    ]
    caption = (
        "What the paper says, and whether it is so here. Each claim has one difference that is above zero where it "
        "holds: mean ± 95 % interval over seeds. Reproduced: the interval is above zero; the opposite: it is below. Of "
        "one seed it is said whether it is so there."
    )
    return Table("claims", caption, ["the paper says", "measured here", "difference", "verdict"], rows)


def _seeds(seeds: Sequence[int]) -> str:
    return "" if not seeds else "one seed" if len(seeds) == 1 else f"{len(seeds)} seeds"
