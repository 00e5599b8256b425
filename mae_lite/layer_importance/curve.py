"""From the accuracies of all runs to numbers, a figure and the sentence that says what it shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mae_lite import figures
from mae_lite.layer_importance.points import SIDES, Kept, Side
from mae_lite.report.groups import Estimate


@dataclass(frozen=True)
class Curves:
    """Top-1 in percent against the number of kept blocks."""

    name: str
    """Of the weights."""
    depth: int
    counts: tuple[int, ...]
    """Blocks that were kept, rising from 0 to ``depth``."""
    seeds: tuple[int, ...]
    values: Mapping[str, tuple[float, ...]]
    """By the name of what was kept, one value for each seed."""

    def at(self, side: Side, count: int) -> Estimate:
        """Return the accuracy with the first or last ``count`` blocks kept."""
        return Estimate(self.values[Kept(side, count, self.depth).name])

    def gain(self, side: Side, count: int) -> Estimate:
        """Return what these blocks carry: points above keeping none, paired by seed."""
        none = self.at(side, 0).values
        return Estimate(tuple(one - other for one, other in zip(self.at(side, count).values, none, strict=True)))

    def numbers(self) -> dict[str, Any]:
        """Return everything for a JSON file; accuracies and gains in percent and points."""
        sides: dict[str, Any] = {
            side: [
                {"blocks": count, "top1": _numbers(self.at(side, count)), "gain": _numbers(self.gain(side, count))}
                for count in self.counts
            ]
            for side in SIDES
        }
        return {"blocks": self.depth, "seeds": list(self.seeds), **sides, "sentence": self.sentence()}

    def figure(self, method: str) -> str:
        """Draw both curves as SVG; ``method`` is the kind of pre-training, which decides the colour."""
        names: dict[Side, str] = {side: f"the {side} n kept" for side in SIDES}
        values = {names[side]: [self.at(side, count).values for count in self.counts] for side in SIDES}
        colours = figures.assign_colours(dict.fromkeys(names.values(), method))
        ticks = [str(count) for count in self.counts]
        label = f"pre-trained blocks kept, n of {self.depth}"
        return figures.points(ticks, values, colours, label, "top-1 accuracy, %", self.counts)

    def sentence(self) -> str:
        """Say what pre-training is worth, and how much of that the fewest first and last blocks carry alone."""
        worth = self.gain("first", self.depth)
        text = (
            f"{self.name}: {self.at('first', self.depth).text()} % with all {self.depth} blocks kept and "
            f"{self.at('first', 0).text()} % with none"
        )
        sure = worth.mean - (worth.half_width or 0.0) > 0
        if not sure:
            return f"{text}; the difference, {worth.text()} points, is not above chance{self._seeds()}."
        inner = [count for count in self.counts if 0 < count < self.depth]
        text = f"{text}: pre-training is worth {worth.text()} points"
        if inner:
            fewest = inner[0]
            first, last = (self.gain(side, fewest).text() for side in SIDES)
            one, other = ("block", "one") if fewest == 1 else (f"{fewest} blocks", str(fewest))
            verb = "carries" if fewest == 1 else "carry"
            text += f". The first {one} alone {verb} {first} of them, the last {other} {verb} {last}"
        return f"{text}{self._seeds()}."

    def _seeds(self) -> str:
        count = len(self.seeds)
        return (
            " (one seed, so that nothing is said of chance)"
            if count == 1
            else (f" (95 % intervals over {count} seeds, paired)")
        )

    def as_text(self) -> str:
        """Return a table for a terminal: mean and interval at every point, and the sentence."""
        rows = [("blocks kept", "the first n", "the last n")]
        rows += [(str(n), self.at("first", n).text(), self.at("last", n).text()) for n in self.counts]
        lines = [f"{one:>11}  {two:>14}  {three:>14}" for one, two, three in rows]
        return "\n".join(["Test accuracy in percent", *lines, "", self.sentence()])


def _numbers(estimate: Estimate) -> dict[str, Any]:
    return {"mean": estimate.mean, "half_width": estimate.half_width, "by_seed": list(estimate.values)}


def collected(
    name: str, depth: int, counts: Sequence[int], seeds: Sequence[int], top1: Mapping[tuple[str, int], float]
) -> Curves:
    """Return the curves of accuracies, 0 to 1, that are given by what was kept and by seed."""
    kept = dict.fromkeys(what for what, _ in top1)
    values = {what: tuple(100 * top1[what, seed] for seed in seeds) for what in kept}
    return Curves(name, depth, tuple(counts), tuple(seeds), values)
