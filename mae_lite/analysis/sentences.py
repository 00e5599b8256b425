"""What a figure shows, in one sentence made of its numbers; blocks and heads count from 1."""

from __future__ import annotations

from collections.abc import Sequence

from mae_lite.analysis.gallery import Painted
from mae_lite.analysis.importance import Importance

Matrix = Sequence[Sequence[float | None]]
PerHead = Sequence[Sequence[float]]


def within(name: str, matrix: Matrix) -> str:
    """Say how much a model changes from its first block to its last (CKA of its blocks with each other)."""
    ends = _number(matrix[0][-1])
    steps = [(value, place) for place in range(len(matrix) - 1) if (value := matrix[place][place + 1]) is not None]
    if not steps:
        return f"{name}: CKA of the first block and the last {ends}."
    least, place = min(steps)
    return (
        f"{name}: CKA of the first block and the last {ends}; neighbours {_mean([v for v, _ in steps]):.2f} on "
        f"average, and most changes from block {place + 1} to block {place + 2} ({least:.2f})."
    )


def between(name: str, other: str, matrix: Matrix) -> str:
    """Say where two models are alike (CKA, a row for each block of the first)."""
    known = [(value, row, column) for row, line in enumerate(matrix) for column, value in enumerate(line)]
    cells = [(value, row, column) for value, row, column in known if value is not None]
    if not cells:
        return f"{name} and {other}: no CKA, since one of them gives all images the same tokens."
    best, row, column = max(cells)
    last = [(value, place) for place, value in enumerate(matrix[-1]) if value is not None]
    nearest = f"; the last block of {name} is most like block {max(last)[1] + 1} ({max(last)[0]:.2f})" if last else ""
    return (
        f"{name} and {other}: CKA of the last blocks {_number(matrix[-1][-1])}, {_mean([v for v, _, _ in cells]):.2f} "
        f"on average over all pairs; most alike are block {row + 1} and block {column + 1} ({best:.2f}){nearest}."
    )


def distance(name: str, per_head: PerHead, uniform_px: float) -> str:
    """Say how far heads look, beside attention that looks everywhere alike, which looks ``uniform_px`` far."""
    return (
        f"{name}: heads look {_mean(per_head[0]):.3g} px far in the first block and {_mean(per_head[-1]):.3g} px in "
        f"the last (everywhere alike: {uniform_px:.3g} px); {_extreme(per_head, 'shortest', ' px')}."
    )


def entropy(name: str, per_head: PerHead, uniform_nats: float) -> str:
    """Say how widely heads look, beside attention that looks everywhere alike, of ``uniform_nats``."""
    return (
        f"{name}: attention has {_mean(per_head[0]):.2f} nats in the first block and {_mean(per_head[-1]):.2f} in the "
        f"last (everywhere alike: {uniform_nats:.2f}); {_extreme(per_head, 'narrowest', ' nats')}."
    )


def importance(name: str, found: Importance, words: str) -> str:
    """Say which block is missed most when each alone is ``words`` ("skipped")."""
    drops = found.drops()
    most, least = drops.index(max(drops)), drops.index(min(drops))
    return (
        f"{name}: nearest neighbours are right for {_percent(found.whole)}; when a block is {words} they lose most, "
        f"{_points(drops[most])}, with block {most + 1}, and least, {_points(drops[least])}, with block {least + 1}."
    )


def colours(name: str, share: float) -> str:
    """Say how much of the tokens a picture in three colours can show."""
    return (
        f"{name}: below each image its patch tokens after the last block; three principal components, as red, green "
        f"and blue, hold {_percent(share)} of their variance."
    )


def looking(name: str, blocks: Sequence[int], first: float, last: float) -> str:
    """Say what the rows of a picture are, and which share of the class token's attention goes to patches.

    Args:
        name: of the model.
        blocks: shown below the images, from 1.
        first: share in the first block.
        last: share in the last.
    """
    shown = _listed([str(block) for block in blocks])
    return (
        f"{name}: below each image where its class token looks in {'block' if len(blocks) == 1 else 'blocks'} {shown}, "
        f"the brightest patch most; {_percent(first)} of its attention goes to patches in the first block, "
        f"{_percent(last)} in the last."
    )


def painting(name: str, painted: Sequence[Painted], trained_with: float) -> str:
    """Say how well hidden patches are painted, beside what the mean of each patch alone would reach."""
    parts = [f"{one.loss:.3f} with {_share(one.mask_ratio)} hidden" for one in painted]
    flat = _mean([one.flat_loss for one in painted])
    return (
        f"{name}: the mean squared error of hidden patches is {_listed(parts)}, beside {flat:.3f} for painting each "
        f"flat in its right mean; it was trained with {_share(trained_with)} hidden."
    )


def no_painting(name: str, why: str) -> str:
    """Say why there are no reconstructions."""
    return f"{name}: no reconstructions, since {why}."


def nothing_left(name: str, ratios: Sequence[float], patches: int) -> str:
    """Say which mask ratios a grid of so many patches does not have."""
    return (
        f"{name}: nothing is painted with {_listed([_share(ratio) for ratio in ratios])} hidden, which of {patches} "
        "patches leaves none to see or none to paint."
    )


def _listed(parts: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(parts[:-1]), parts[-1]) if part)


def _share(ratio: float) -> str:
    return f"{100 * ratio:g} %"


def _extreme(per_head: PerHead, word: str, unit: str) -> str:
    value, block, head = min((value, b, h) for b, row in enumerate(per_head) for h, value in enumerate(row))
    return f"{word} is head {head + 1} of block {block + 1} ({value:.3g}{unit})"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _number(value: float | None) -> str:
    return "not known" if value is None else f"{value:.2f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _points(share: float) -> str:
    return f"{100 * share:.1f} points"
