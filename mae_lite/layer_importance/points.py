"""The runs behind the curves: how many blocks are kept, on which side, with which seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from mae_lite import config, recipes
from mae_lite.errors import ConfigError

Side = Literal["first", "last"]
SIDES: tuple[Side, Side] = ("first", "last")


@dataclass(frozen=True)
class Kept:
    """What is kept of the pre-trained blocks; none and all have no side, so that both curves share their ends."""

    side: Side
    count: int
    depth: int

    @property
    def name(self) -> str:
        """Part of a run folder's name."""
        if self.count in (0, self.depth):
            return "none" if self.count == 0 else "all"
        return f"{self.side}-{self.count}"

    @property
    def setting(self) -> tuple[Side, int] | None:
        """What ``method.keep_blocks`` is given; where all are kept that is fine-tuning as it always is."""
        return None if self.count == self.depth else (self.side, self.count)


def counts(depth: int, asked: Sequence[int] | None) -> tuple[int, ...]:
    """Return the numbers of blocks to keep, rising, with none and all among them.

    Args:
        depth: blocks of the encoder.
        asked: by the user; None takes quarters of the depth.

    Raises:
        ConfigError: for more blocks than there are.
    """
    chosen = [round(depth * quarter / 4) for quarter in range(5)] if asked is None else asked
    if beyond := [count for count in chosen if not 0 <= count <= depth]:
        raise ConfigError(
            "keep",
            found=str(beyond[0]),
            expected=f"0 to encoder.depth {depth}",
            fix=f"--keep {' '.join(str(count) for count in counts(depth, None))}",
        )
    return tuple(sorted({0, *chosen, depth}))


def kept(depth: int, numbers: Sequence[int]) -> Iterator[Kept]:
    """Yield what is kept at every point of both curves, each once: the ends first, which belong to both."""
    yield Kept("first", depth, depth)
    yield Kept("first", 0, depth)
    yield from (Kept(side, count, depth) for count in numbers if 0 < count < depth for side in SIDES)


def recipe_of(base: config.Recipe, point: Kept, seed: int) -> config.Recipe:
    """Return ``base`` with only ``point`` of its starting weights, and another seed."""
    return recipes.derive(base, seed=seed, method={"keep_blocks": point.setting})
