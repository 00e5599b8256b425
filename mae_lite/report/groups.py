"""Runs that differ in their seed alone are one row: mean, interval, single values."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mae_lite.report import origins
from mae_lite.report.read import Baseline, Measured, Run
from mae_lite.report.repeat import differences


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its uncertainty."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean."""
        return statistics.fmean(self.values)

    @property
    def half_width(self) -> float | None:
        """Half of the 95 % interval of the mean (Student's t); None below two values."""
        count = len(self.values)
        if count < 2:
            return None
        from scipy.special import stdtrit

        return float(stdtrit(count - 1, 0.975)) * statistics.stdev(self.values) / math.sqrt(count)

    @property
    def p_value(self) -> float | None:
        """Of a two-sided t-test that the mean is 0; paired, where the values are differences. None below two values."""
        half, count = self.half_width, len(self.values)
        if half is None:
            return None
        if half == 0.0:
            return 1.0 if self.mean == 0.0 else 0.0
        from scipy.special import stdtr

        error = statistics.stdev(self.values) / math.sqrt(count)
        return float(2 * stdtr(count - 1, -abs(self.mean) / error))

    def text(self, digits: int = 1) -> str:
        """Return "91.9 ± 1.2", or the value alone."""
        return f"{self.mean:.{digits}f}" + self._spread(digits)

    def signed(self, digits: int = 1) -> str:
        """Return "+1.9 ± 1.2", or the value alone."""
        return f"{self.mean:+.{digits}f}" + self._spread(digits)

    def _spread(self, digits: int) -> str:
        half = self.half_width
        return "" if half is None else f" ± {half:.{digits}f}"


@dataclass(frozen=True)
class Group:
    """Runs of one recipe, data set and start, one for each seed; or an opponent that is no run."""

    label: str
    """What to call it; unique within a report."""
    pretraining: str
    """Method behind the weights, which decides the colour."""
    data: str
    labels: int | None
    runs: tuple[Run, ...]
    numbers: tuple[Baseline, ...] = ()
    place: tuple[str, str, str] | None = None
    """The images that the groups of these data and labels are compared on; None where nothing was measured, and for
    the only one of its data where runs on other data start from it."""

    @property
    def counted(self) -> list[Run]:
        """Finished runs that were measured on :attr:`place`; of two runs of one seed the first."""
        found: dict[int, Run] = {}
        for run in self.runs:
            accuracy = run.accuracy()
            if run.state == "finished" and accuracy is not None and accuracy.place == self.place:
                found.setdefault(run.seed, run)
        return list(found.values())

    @property
    def by_seed(self) -> dict[int, float]:
        """Top-1 in percent by seed, of :attr:`counted` or of an opponent that is no run."""
        if self.numbers:
            return {number.seed: 100 * number.top1 for number in self.numbers}
        measured = {run.seed: run.accuracy() for run in self.counted}
        return {seed: 100 * accuracy.top1 for seed, accuracy in measured.items() if accuracy is not None}

    @property
    def left_out(self) -> list[tuple[str, str]]:
        """Runs with an accuracy that is not counted, and why not."""
        counted = {run.folder for run in self.counted}
        measured = [(run, run.accuracy()) for run in self.runs if run.folder not in counted]
        return [(run.name, self._why_not(run, accuracy)) for run, accuracy in measured if accuracy is not None]

    def _why_not(self, run: Run, accuracy: Measured) -> str:
        if run.state != "finished":
            return "not finished"
        if self.place is None:
            return "a start of runs on other data"
        return "measured on other images" if accuracy.place != self.place else "of a seed that another run has"

    @property
    def accuracy(self) -> Estimate | None:
        """Top-1 in percent over the seeds."""
        values = tuple(self.by_seed.values())
        return Estimate(values) if values else None

    @property
    def steps(self) -> int | None:
        """Updates of a whole run."""
        return self.runs[0].updates if self.runs else None


def difference(ours: Group, theirs: Group) -> Estimate | None:
    """Return ours minus theirs in points, paired by seed; None when no seed is in both."""
    common = sorted(set(ours.by_seed) & set(theirs.by_seed))
    if not common:
        return None
    return Estimate(tuple(ours.by_seed[seed] - theirs.by_seed[seed] for seed in common))


def groups(runs: Iterable[Run], numbers: Sequence[Baseline], names: Mapping[Path, str] | None = None) -> list[Group]:
    """Return the groups in the order of their first run; opponents that are no runs come last.

    ``names`` says what to call the group of a folder, where the reader knows better than its recipe's name does.
    """
    found: dict[str, list[Run]] = {}
    given = names or {}
    for run in runs:
        settings = {key: value for key, value in run.raw.items() if key not in ("seed", "note")}
        what = [settings, run.data, run.val_data, run.pretraining, run.start, given.get(run.folder)]
        found.setdefault(json.dumps(what, sort_keys=True, default=str), []).append(run)
    members = list(found.values())
    labels = [given.get(runs[0].folder, label) for runs, label in zip(members, _labels(members), strict=True)]
    places = _places(members)
    result = [
        Group(label, runs[0].pretraining, runs[0].data, runs[0].labels, tuple(runs), place=places.get(_where(runs[0])))
        for label, runs in zip(labels, members, strict=True)
    ]
    sets = {runs[0].data for runs in members}
    opponents: dict[tuple[str, str, int | None], list[Baseline]] = {}
    for number in numbers:
        if number.data in sets:
            opponents.setdefault((number.name, number.data, number.labels), []).append(number)
    for (name, data, count), single in opponents.items():
        label = f"{name} on {data}" if len(sets) > 1 else name
        result.append(Group(label, name, data, count, (), tuple(single)))
    return _without_lone_starts(result)


def _without_lone_starts(found: Sequence[Group]) -> list[Group]:
    """Take what runs on other data start from out of the comparison, where nothing else of its data is in it.

    What a pre-training with labels does on its own classes is another question than what it is worth elsewhere.
    """
    measured = {run.folder.resolve(): run for group in found for run in group.runs if run.accuracy() is not None}
    starts = set()
    for run in measured.values():
        place = None if run.init is None else origins.place(run.folder, run.init)
        start = None if place is None else measured.get(place.resolve())
        if start is not None and start.data != run.data:
            starts.add(start.folder.resolve())
    rated = Counter(group.data for group in found if group.accuracy is not None)
    return [
        replace(group, place=None)
        if rated[group.data] == 1 and any(run.folder.resolve() in starts for run in group.runs)
        else group
        for group in found
    ]


def _where(run: Run) -> tuple[str, int | None]:
    return run.data, run.labels


def _places(members: Sequence[Sequence[Run]]) -> dict[tuple[str, int | None], tuple[str, str, str]]:
    """Return the images on which most finished runs of the same data and labels were measured; test images first."""
    votes: dict[tuple[str, int | None], Counter[tuple[str, str, str]]] = {}
    for run in (run for runs in members for run in runs if run.state == "finished"):
        accuracy = run.accuracy()
        if accuracy is not None:
            votes.setdefault(_where(run), Counter())[accuracy.place] += 1
    return {where: max(count, key=lambda place: (place[0] == "test", count[place])) for where, count in votes.items()}


def _labels(members: Sequence[Sequence[Run]]) -> list[str]:
    """Return the recipe's name of each group, and what sets it apart from others of the same name."""
    names = [str(runs[0].raw.get("name", runs[0].name)) for runs in members]
    places = [(name, runs[0].data, runs[0].labels) for name, runs in zip(names, members, strict=True)]
    sets = {runs[0].data for runs in members}
    labels = []
    for name, place, runs in zip(names, places, members, strict=True):
        label = f"{name} on {runs[0].data}" if len(sets) > 1 else name
        if places.count(place) > 1:
            own = ", ".join(f"{setting} {value}" for setting, _, value in differences(runs[0])[:3] if setting != "seed")
            start = "" if runs[0].init is None else f"from {Path(runs[0].init).name}"
            label = f"{label} ({', '.join(part for part in (own, start) if part) or runs[0].name})"
        labels.append(label if label not in labels or len(places) == len(set(places)) else f"{label}, {runs[0].name}")
    return labels


def families(found: Sequence[Group]) -> dict[str, list[Group]]:
    """Return groups that differ in labels per class alone, by their label."""
    result: dict[str, list[Group]] = {}
    for group in found:
        result.setdefault(group.label, []).append(group)
    return result
