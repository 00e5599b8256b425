"""What the runs show, in sentences computed from their numbers."""

from __future__ import annotations

from collections.abc import Sequence

from mae_lite.report.groups import Estimate, Group, difference
from mae_lite.report.read import Run

_NAMES = {
    "mae": "MAE pre-training",
    "distilled_mae": "MAE pre-training with distillation",
    "mae_hog": "MAE pre-training on gradients",
    "maskfeat": "MaskFeat pre-training",
    "feature_distillation": "feature distillation",
    "mocov3": "MoCo-v3 pre-training",
    "supervised": "supervised pre-training",
    "dino": "DINO pre-training",
    "simmim": "SimMIM pre-training",
    "distilled_simmim": "SimMIM pre-training with distillation",
    "pre-trained": "pre-training",
}
_ARCHITECTURE = ("kind", "image_size", "channels", "patch_size", "width", "depth", "depths", "num_heads", "window_size")
_STATES = {
    "failed": ("failed", "failed"),
    "interrupted": ("ended without a word and can be resumed", "ended without a word and can be resumed"),
    "stopped": ("was stopped and can be resumed", "were stopped and can be resumed"),
    "paused": ("is paused and can be continued", "are paused and can be continued"),
    "running": ("is running", "are running"),
}


def headline(found: Sequence[Group]) -> list[str]:
    """Return one sentence, or a few: what was gained, else how far the runs are, and what failed."""
    runs = [run for group in found for run in group.runs]
    said = _gain(found) or _best(found) or _learning(runs)
    return [*said, *_unfinished(runs)] or ["No run has measured anything yet."]


def _gain(found: Sequence[Group]) -> list[str]:
    """Compare pre-training with its opponents, at the middle number of labels of those that both have."""
    tuned = {_place(group) for group in found if _tuned(group)}
    places = sorted(tuned, key=lambda place: (place[1] or 10**9, place[0]))
    rated = [place for place in places if any(_place(g) == place and _is_scratch(g) and g.accuracy for g in found)]
    if not rated:
        return []
    place = rated[len(rated) // 2]
    here = [group for group in found if _place(group) == place and group.accuracy is not None]
    candidates = [group for group in here if _tuned(group)]
    ours = max(candidates, key=_mean)
    gains = [_against(ours, group) for group in _opponents(ours, here)]
    numbers = [group for group in here if group.numbers]
    if numbers:
        best = max(numbers, key=_mean)
        better = ", the better of the plain baselines" if len(numbers) > 1 else ""
        gains.append((difference(ours, best), best.label + better))
    told = [(gain, what) for gain, what in gains if gain is not None]
    name = _NAMES.get(ours.pretraining, f"{ours.pretraining} pre-training")
    where = f"With {place[1]} labels per class" if place[1] else "With all labels"
    chosen = f" ({ours.label}, the best of {len(candidates)} by this very score)" if len(candidates) > 1 else ""
    measured = ours.runs[0].accuracy()
    images = place[0] if measured is None else f"the {measured.text}"
    text = f"{where}, {name} reaches {_mean(ours):.1f} % on {images}{chosen}"
    if not told:
        return [f"{text}."]
    return [f"{text}: {_listed([_points(*item) for item in told])}{_certainty([gain for gain, _ in told])}."]


def _opponents(ours: Group, here: Sequence[Group]) -> list[Group]:
    """Return the runs from scratch, those with the same number of updates first."""
    return sorted((group for group in here if _is_scratch(group)), key=lambda group: group.steps != ours.steps)


def _against(ours: Group, theirs: Group) -> tuple[Estimate | None, str]:
    """Return the gain, and what it is a gain over."""
    same = [_architecture(group.runs[0]) for group in (ours, theirs)]
    what = "the same network from scratch" if same[0] == same[1] else f"another network from scratch ({theirs.label})"
    batches = [group.runs[0].raw.get("global_batch_size") for group in (ours, theirs)]
    if ours.steps and theirs.steps:
        times = theirs.steps / ours.steps
        if times == 1:
            what += " with the same number of updates"
        else:
            what += (
                f" with {times:.3g} times the updates" if times > 1 else f" with {1 / times:.3g} times fewer updates"
            )
    if batches[0] != batches[1]:
        what += f" in batches of {batches[1]} instead of {batches[0]}"
    return difference(ours, theirs), what


def _points(gain: Estimate, what: str) -> str:
    half = "" if gain.half_width is None else f" ± {gain.half_width:.1f}"
    return f"{gain.mean:+.1f}{half} points against {what}"


def _certainty(gains: Sequence[Estimate]) -> str:
    """Say what the intervals are, or that there is none."""
    draws = {len(gain.values) for gain in gains}
    if draws == {1}:
        return " (one seed, so that nothing is said of chance)"
    several = sorted(draws - {1})
    return f" (95 % intervals over {_listed([str(count) for count in several])} draws, paired)"


def _architecture(run: Run) -> list[object]:
    encoder = run.raw.get("encoder")
    return [encoder.get(name) if isinstance(encoder, dict) else None for name in _ARCHITECTURE]


def _best(found: Sequence[Group]) -> list[str]:
    """Return the best accuracy of each data set and number of labels."""
    rated = [group for group in found if group.accuracy is not None and group.runs]
    said = []
    for place in dict.fromkeys(map(_place, rated)):
        here = [group for group in rated if _place(group) == place]
        best = max(here, key=_mean)
        measured = best.runs[0].accuracy()
        assert best.accuracy is not None
        where = f" on the {measured.text}" if measured else ""
        among = f", the best of {len(here)}" if len(here) > 1 else ""
        said.append(f"{best.label} reaches {best.accuracy.text()} % top-1{where}{among}.")
    return said[:3]


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
    for state, (one, many) in _STATES.items():
        names = [run.name for run in runs if run.state == state]
        if len(names) == 1:
            said.append(f"{names[0]} {one}.")
        elif names:
            said.append(f"{len(names)} runs {many}.")
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
