"""From equal hashes and near pairs to links between images, groups of them, and counts of what splits share.

Shapes: n images, r different contents ("kinds"), P parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mae_lite.copies.near import Pairs
from mae_lite.copies.parts import Parts
from mae_lite.data.sources import Indices


@dataclass(frozen=True)
class Link:
    """Two images that are the same, exactly or nearly."""

    group: int
    first: int
    """Numbers in :class:`Parts`."""
    second: int
    similarity: float
    exact: bool


@dataclass(frozen=True)
class Shared:
    """How many images of one part are in another, too."""

    part: str
    other: str
    exact: int
    near: int
    """Those that have no exact copy there."""


def kinds_of(digests: Sequence[bytes]) -> tuple[Indices, Indices]:
    """Return the kind of each image [n], by equal digests, and the row of the first image of each kind [r]."""
    numbers: dict[bytes, int] = {}
    kinds = np.array([numbers.setdefault(digest, len(numbers)) for digest in digests], dtype=np.int64)
    return kinds, np.unique(kinds, return_index=True)[1].astype(np.int64)


@dataclass(frozen=True)
class Grouped:
    """All that was found."""

    parts: Parts
    ids: Indices
    """[n] number of each readable image."""
    kinds: Indices
    """[n] images of a kind have equal pixels."""
    first: Indices
    """[r] row of the first image of each kind."""
    near: Pairs
    """Of kinds."""
    channels: int
    """That the images were read with."""

    @cached_property
    def links(self) -> list[Link]:
        """Every further exact copy with the first, and every near pair of kinds by their first images."""
        count = len(self.first)
        edges = coo_array((np.ones(len(self.near.first), bool), (self.near.first, self.near.second)), (count, count))
        of_kind = connected_components(edges, directed=False)[1]
        copies = np.flatnonzero(self.first[self.kinds] != np.arange(len(self.kinds)))
        raw = [(self.first[self.kinds[row]], row, 1.0, True) for row in copies.tolist()]
        columns = (self.first[self.near.first], self.first[self.near.second], self.near.similarity)
        raw += [(one, other, value, False) for one, other, value in zip(*(c.tolist() for c in columns), strict=True)]
        numbers: dict[int, int] = {}
        links = []
        for one, other, value, exact in sorted((int(a), int(b), float(c), d) for a, b, c, d in raw):
            group = numbers.setdefault(int(of_kind[self.kinds[one]]), len(numbers))
            links.append(Link(group, int(self.ids[one]), int(self.ids[other]), value, exact))
        return sorted(links, key=lambda link: link.group)

    @cached_property
    def members(self) -> dict[int, list[int]]:
        """Numbers of the images of each group, in order."""
        found: dict[int, set[int]] = {}
        for link in self.links:
            found.setdefault(link.group, set()).update((link.first, link.second))
        return {group: sorted(numbers) for group, numbers in found.items()}

    def differ(self, link: Link) -> bool:
        """Say whether both images have a class, and not the same."""
        labels = {self.parts.label(link.first), self.parts.label(link.second)} - {None}
        return len(labels) > 1

    def shared(self) -> list[Shared]:
        """Count, for each part and each before it, the images that are in both."""
        part = np.searchsorted(self.parts.starts, self.ids, side="right") - 1
        counts = np.zeros((len(self.first), len(self.parts.names)), dtype=np.int64)
        np.add.at(counts, (self.kinds, part), 1)
        here = counts > 0
        beside: npt.NDArray[np.bool_] = np.zeros_like(here)
        np.logical_or.at(beside, self.near.first, here[self.near.second])
        np.logical_or.at(beside, self.near.second, here[self.near.first])
        found = []
        for place, name in enumerate(self.parts.names):
            for before, other in enumerate(self.parts.names[:place]):
                exact, near = here[:, before], beside[:, before] & ~here[:, before]
                found.append(Shared(name, other, int(counts[exact, place].sum()), int(counts[near, place].sum())))
        return found
