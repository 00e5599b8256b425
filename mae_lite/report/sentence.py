"""What the runs show, in sentences computed from their numbers."""

from __future__ import annotations

from collections.abc import Sequence

from mae_lite.report.groups import Group, difference
from mae_lite.report.read import Run

_NAMES = {
    "mae": "MAE pre-training",
    "mocov3": "MoCo-v3 pre-training",
    "supervised": "supervised pre-training",
    "dino": "DINO pre-training",
    "simmim": "SimMIM pre-training",
}


def headline(found: Sequence[Group]) -> list[str]:
    """Return one sentence, or a few: what was gained, else how far the runs are, and what failed."""
    runs = [run for group in found for run in group.runs]
    said = _gain(found) or _best(found) or _learning(runs)
    return [*said, *_unfinished(runs)] or ["No run has measured anything yet."]


def _gain(found: Sequence[Group]) -> list[str]:
    """Compare pre-training with its opponents, at the middle number of labels of those that both have."""
    places = sorted(
        {_place(group) for group in found if _tuned(group)}, key=lambda place: (place[1] or 10**9, place[0])
    )
    rated = [place for place in places if any(_place(g) == place and _is_scratch(g) and g.accuracy for g in found)]
    if not rated:
        return []
    place = rated[len(rated) // 2]
    here = [group for group in found if _place(group) == place and group.accuracy is not None]
    ours = max((group for group in here if _tuned(group)), key=_mean)
    accuracy = ours.accuracy
    assert accuracy is not None
    name = _NAMES.get(ours.pretraining, f"{ours.pretraining} pre-training")
    where = f"With {place[1]} labels per class" if place[1] else "With all labels"
    parts = [_against(ours, group, "the same network from scratch") for group in _opponents(ours, here)]
    numbers = [group for group in here if group.numbers]
    if numbers:
        best = max(numbers, key=_mean)
        better = ", the better of the plain baselines" if len(numbers) > 1 else ""
        parts.append(_against(ours, best, best.label + better))
    draws = len(accuracy.values)
    interval = f" (95 % intervals over {draws} draws, paired)" if draws > 1 else ""
    gains = _listed([part for part in parts if part])
    text = f"{where}, {name} reaches {accuracy.mean:.1f} % on {place[0]}: {gains}{interval}."
    return [text]


def _opponents(ours: Group, here: Sequence[Group]) -> list[Group]:
    """Return the runs from scratch, those with the same number of updates first."""
    return sorted((group for group in here if _is_scratch(group)), key=lambda group: group.steps != ours.steps)


def _against(ours: Group, theirs: Group, what: str) -> str:
    gain = difference(ours, theirs)
    if gain is None:
        return ""
    if ours.steps and theirs.steps and theirs.runs:
        times = theirs.steps / ours.steps
        what += " with the same number of updates" if times == 1 else f" with {times:g} times the updates"
    half = "" if gain.half_width is None else f" ± {gain.half_width:.1f}"
    return f"{gain.mean:+.1f}{half} points against {what}"


def _best(found: Sequence[Group]) -> list[str]:
    rated = [group for group in found if group.accuracy is not None and group.runs]
    if not rated:
        return []
    best = max(rated, key=_mean)
    assert best.accuracy is not None
    measured = best.runs[0].accuracy()
    where = f" on the {measured[1]}" if measured else ""
    among = f", the best of {len(rated)}" if len(rated) > 1 else ""
    return [f"{best.label} reaches {best.accuracy.text()} % top-1{where}{among}."]


def _learning(runs: Sequence[Run]) -> list[str]:
    """Say of pre-training runs whether they learn: the loss, and the probes where there are some."""
    said = []
    for run in runs[:3]:
        steps, losses = run.series("loss")
        if len(losses) < 2:
            continue
        text = f"{run.name}: the loss went from {losses[0]:.3g} to {losses[-1]:.3g} in {steps[-1]:,.0f} updates"
        _, knn = run.series("knn_top1")
        if len(knn) > 1:
            text += f", and nearest neighbours in its features from {100 * knn[0]:.1f} to {100 * knn[-1]:.1f} % right"
        said.append(f"{text}.")
    return said


def _unfinished(runs: Sequence[Run]) -> list[str]:
    said = []
    for state, words in (
        ("failed", "failed"),
        ("stopped", "was stopped and can be resumed"),
        ("running", "is running"),
    ):
        names = [run.name for run in runs if run.state == state]
        if len(names) == 1:
            said.append(f"{names[0]} {words}.")
        elif names:
            said.append(f"{len(names)} runs: {words.replace('was ', 'were ').replace('is ', 'are ')}.")
    return said


def _place(group: Group) -> tuple[str, int | None]:
    return group.data, group.labels


def _tuned(group: Group) -> bool:
    return bool(group.runs) and group.runs[0].supervised and not _is_scratch(group) and group.accuracy is not None


def _is_scratch(group: Group) -> bool:
    return bool(group.runs) and group.runs[0].supervised and group.pretraining == "scratch"


def _mean(group: Group) -> float:
    return group.accuracy.mean if group.accuracy is not None else 0.0


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + f", and {parts[-1]}"
