"""The figures of a report: every run of the report in one picture for each number worth looking at."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mae_lite import figures
from mae_lite.report.groups import Group, families
from mae_lite.report.lineage import Lineage
from mae_lite.report.read import Run

_POINTS = 300


@dataclass(frozen=True)
class Figure:
    """A drawing or a picture with its caption."""

    name: str
    caption: str
    svg: str
    uri: str = ""
    """Of a picture, which then stands in place of a drawing."""


def figures_of(found: Sequence[Group], colours: Mapping[str, str], lineage: Lineage) -> list[Figure]:
    """Return the figures for which there are numbers."""
    return [
        *_accuracy(found, colours),
        *_against_cost(found, colours, lineage),
        *_probes(found, colours),
        *_curves(found, colours, lambda run: not run.supervised, "pre-training", "loss"),
        *_curves(found, colours, lambda run: run.supervised, "classification", "cross-entropy"),
        *_validation(found, colours),
        *_rates(found, colours, lambda run: not run.supervised, "pre-training"),
        *_rates(found, colours, lambda run: run.supervised, "classification"),
    ]


def _accuracy(found: Sequence[Group], colours: Mapping[str, str]) -> Iterator[Figure]:
    rated = [group for group in found if group.accuracy is not None and group.labels is not None]
    labels = sorted({group.labels for group in rated if group.labels is not None})
    if len(labels) < 2:
        return
    values = {
        label: [[v for g in members if g.labels == count for v in g.by_seed.values()] for count in labels]
        for label, members in families(rated).items()
    }
    names = [f"{count}" for count in labels]
    svg = figures.points(names, values, colours, "labels per class", "top-1 accuracy, %")
    yield Figure("accuracy", "Accuracy against labels per class. Dots are single seeds, lines their means.", svg)


def _against_cost(found: Sequence[Group], colours: Mapping[str, str], lineage: Lineage) -> Iterator[Figure]:
    """Yield a figure for each data set and number of labels with two groups or more."""
    rated = [group for group in found if group.accuracy is not None and group.runs]
    places = sorted({(group.data, group.labels) for group in rated}, key=lambda one: (one[0], one[1] or math.inf))
    for number, place in enumerate(places):
        here = [group for group in rated if (group.data, group.labels) == place]
        spent = {group.label: _spent(group, lineage) for group in here}
        known = {label: gflops for label, gflops in spent.items() if gflops is not None}
        if len(known) < 2:
            continue
        factor, unit = next((f, u) for f, u in _UNITS if max(known.values()) >= f or f == 1.0)
        values = {
            group.label: (known[group.label] / factor, group.accuracy.mean, group.accuracy.half_width)
            for group in here
            if group.label in known and group.accuracy is not None
        }
        svg = figures.against(values, colours, f"arithmetic of all training, {unit}", "top-1 accuracy, %")
        yield Figure(f"cost-{number}", _told(place, values, [label for label in spent if label not in known]), svg)


_UNITS = ((1e9, "EFLOP"), (1e6, "PFLOP"), (1e3, "TFLOP"), (1.0, "GFLOP"))
"""In GFLOP, the largest first."""


def _spent(group: Group, lineage: Lineage) -> float | None:
    """Return the mean arithmetic, GFLOP, behind the accuracies of a group; None where some of it is not known."""
    spent = [lineage.past(run).gflops() for run in group.counted]
    known = [gflops for gflops in spent if gflops]
    return sum(known) / len(known) if known and len(known) == len(spent) else None


def _told(
    place: tuple[str, int | None], values: Mapping[str, tuple[float, float, float | None]], unknown: Sequence[str]
) -> str:
    where = "all labels" if place[1] is None else f"{place[1]} labels per class"
    text = (
        f"Accuracy against cost on {place[0]} with {where}: all updates of the classifier, of the pre-training that it "
        "starts from, and of that one's teacher. What was trained once for several seeds counts in full for each."
    )
    if any(half is not None for _, _, half in values.values()):
        text += " Bars are 95 % intervals over seeds."
    if unknown:
        text += f" Left out, since not all of what was trained for them can be read: {', '.join(unknown)}."
    return text


def _probes(found: Sequence[Group], colours: Mapping[str, str]) -> Iterator[Figure]:
    for key, name, scale, unit in (
        ("knn_top1", "nearest neighbours", 100.0, ", %"),
        ("linear_top1", "a linear classifier", 100.0, ", %"),
        ("rankme", "RankMe", 1.0, ""),
        ("feature_std", "feature spread", 1.0, ""),
        ("view_feature_std", "feature spread of views", 1.0, ""),
    ):
        series = _series(found, key, lambda _: True, scale)
        if not series:
            continue
        captions = {
            "knn_top1": "Is it learning? Weighted nearest neighbours on frozen features; bank and queries are training "
            "images.",
            "linear_top1": "A linear classifier on frozen features; both its parts are training images.",
            "rankme": "RankMe: how many dimensions the features really use.",
            "feature_std": "Spread of the normalised features: near 0 they have collapsed.",
            "view_feature_std": "Spread of the normalised features of the augmented views, in training: near 0 they "
            "have collapsed.",
        }
        label = f"{name}: top-1{unit}" if scale > 1 else name
        yield Figure(key, captions[key], figures.curves(series, colours, "update", label))


def _curves(
    found: Sequence[Group], colours: Mapping[str, str], wanted: Callable[[Run], bool], what: str, label: str
) -> Iterator[Figure]:
    """Yield one figure of the loss; with several numbers of labels, of the middle one."""
    series = _series(found, "loss", wanted)
    if not series:
        return
    counts = sorted({group.labels for group in found if group.labels is not None and any(map(wanted, group.runs))})
    caption = f"Loss of {what}."
    if len(counts) > 1:
        middle = counts[len(counts) // 2]
        series = _series([group for group in found if group.labels == middle], "loss", wanted)
        caption = f"Loss of {what} with {middle} labels per class."
    values = [value for runs in series.values() for _, y in runs for value in y if value > 0]
    log_y = bool(values) and max(values) > 20 * min(values)
    yield Figure(f"loss-{what}", caption, figures.curves(series, colours, "update", label, log_y=log_y))


def _validation(found: Sequence[Group], colours: Mapping[str, str]) -> Iterator[Figure]:
    series = _series(found, "val_top1", lambda _: True, 100.0)
    if any(len(x) > 1 for runs in series.values() for x, _ in runs):
        svg = figures.curves(series, colours, "update", "validation top-1, %")
        yield Figure("validation", "Accuracy on validation images during training.", svg)


def _rates(
    found: Sequence[Group], colours: Mapping[str, str], wanted: Callable[[Run], bool], what: str
) -> Iterator[Figure]:
    series = {label: runs[:1] for label, runs in _series(found, "lr", wanted).items()}
    if series:
        svg = figures.curves(series, colours, "update", "learning rate")
        yield Figure(f"lr-{what}", f"Learning rate of {what}.", svg)


def _series(
    found: Sequence[Group], key: str, wanted: Callable[[Run], bool], scale: float = 1.0
) -> dict[str, list[figures.Series]]:
    """Return the curves of a number by label; at most some hundred points each."""
    result: dict[str, list[figures.Series]] = {}
    for group in found:
        for run in group.runs:
            x, y = run.series(key)
            if x and wanted(run):
                every = max(1, len(x) // _POINTS)
                keep = [*range(0, len(x) - 1, every), len(x) - 1]
                curve = [x[place] for place in keep], [scale * y[place] for place in keep]
                result.setdefault(group.label, []).append(curve)
    return result
