"""What the source reports beside what was measured, where both are of the same thing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mae_lite.recipes import published
from mae_lite.recipes.published import Published
from mae_lite.report import repeat
from mae_lite.report.groups import Group
from mae_lite.report.lineage import Lineage
from mae_lite.report.read import IN_TRAINING, Run
from mae_lite.report.tables import Cell, Table

_NOT_DECIDING = ("seed", "precision", "reading")
"""Settings that differ between runs of the same thing."""
_SHOWN = 3


def ledger(found: Sequence[Group], colours: Mapping[str, str], lineage: Lineage) -> Table | None:
    """Return a row for each group of finished classifiers whose recipes have a published number; None without any."""
    rows = []
    for group in found:
        if group.accuracy is None or not group.runs:
            continue
        run = group.counted[0]
        start = None if run.init is None else lineage.source(run, run.init)
        expected = _expected(run, start)
        if expected is None:
            continue
        wrong = list(_unlike(expected, run, start, lineage))
        gain = group.accuracy.mean - expected.top1_percent
        rows.append([
            Cell(group.label, group.label, colours[group.label]),
            Cell(expected.pretraining or "none", expected.pretraining or ""),
            Cell(f"{expected.top1_percent:.1f}", expected.top1_percent, detail=expected.source),
            Cell(group.accuracy.text(), group.accuracy.mean, detail=_seeds(group)),
            Cell("not comparable", -1e9) if wrong else Cell(f"{gain:+.1f}", gain),
            Cell("; ".join(wrong) if wrong else "nothing, as far as is recorded", float(len(wrong))),
        ])  # fmt: skip
    header = ["recipe", "pre-training", "expected, %", "measured, %", "difference, points", "what differs"]
    caption = (
        "Expected: top-1 that the source reports on ImageNet's 50,000 validation images. Measured: here, mean ± 95 % "
        "interval over seeds. A difference stands only where recipes, teacher and number of images and classes agree."
    )
    return Table("ledger", caption, header, rows) if rows else None


def _seeds(group: Group) -> str:
    count = len(group.by_seed)
    return "one seed" if count == 1 else f"{count} seeds"


def _expected(run: Run, start: Run | None) -> Published | None:
    """Return the source's number for a run's recipe and its start's, of which the run may be a variant."""
    own, before = repeat.parent(run), None if start is None else repeat.parent(start)
    if own is None or (run.init is not None and before is None):
        return None
    return published.find(before, own)


def _unlike(expected: Published, run: Run, start: Run | None, lineage: Lineage) -> Iterator[str]:
    """Yield in words what sets a run apart from the one that the source measured."""
    yield from _measured_on(run)
    yield from _settings(run)
    if start is None:
        return
    yield from _settings(start)
    if expected.teacher is None:
        return
    teacher = None if start.teacher is None else lineage.source(start, start.teacher)
    if teacher is None:
        yield f"the teacher is not known to be {expected.teacher}: its run cannot be read"
    elif repeat.parent(teacher) != expected.teacher:
        yield f"the teacher is {teacher.raw.get('name', teacher.name)} instead of {expected.teacher}"
    else:
        yield from _settings(teacher)


def _measured_on(run: Run) -> Iterator[str]:
    measured = run.accuracy()
    if measured is None or measured.sha256 == IN_TRAINING:
        yield "measured in training only"
    elif measured.images != published.VALIDATION_IMAGES:
        count = "an unknown number of" if measured.images is None else f"{measured.images:,}"
        yield f"measured on {count} images instead of {published.VALIDATION_IMAGES:,}"
    if run.classes != published.CLASSES:
        count = "an unknown number of" if run.classes is None else f"{run.classes:,}"
        yield f"{count} classes instead of {published.CLASSES:,}"


def _settings(run: Run) -> Iterator[str]:
    """Yield the settings that decide a result and are not the recipe's, the training images, and a missing end."""
    name = repeat.parent(run)
    changed = [
        f"{setting} {_plain(value)} instead of {_plain(old)}"
        for setting, old, value in repeat.differences(run)
        if setting.split(".")[0] not in _NOT_DECIDING
    ]
    if changed:
        more = f" and {len(changed) - _SHOWN} more settings" if len(changed) > _SHOWN else ""
        yield f"{name}: {', '.join(changed[:_SHOWN])}{more}"
    if run.images is None or abs(run.images - published.TRAINING_IMAGES) > published.TRAINING_IMAGES / 1000:
        count = "an unknown number of" if run.images is None else f"{run.images:,}"
        yield f"{name} trained on {count} images instead of {published.TRAINING_IMAGES:,}"
    if run.state != "finished":
        yield f"{name} is {run.state}"


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
