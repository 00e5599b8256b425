"""What a scan adds up to: counts, sizes, copies, colours. A million images take 200 MB, with hashes 340."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mae_lite.checking.scan import Seen
from mae_lite.data.bad_files import BadFile, allowed
from mae_lite.data.sources import Source


@dataclass
class Tally:
    """Running sums over the images of one set."""

    source: Source
    kinds: Counter[str] = field(default_factory=Counter)
    """Images by file format and colour mode."""
    notes: Counter[str] = field(default_factory=Counter)
    """Images by what is done to them on reading."""
    bad: list[BadFile] = field(default_factory=list)
    widths: array[int] = field(default_factory=lambda: array("l"))
    heights: array[int] = field(default_factory=lambda: array("l"))
    grey: int = 0
    first: dict[bytes, int] = field(default_factory=dict)
    """Position of the first image of each content."""
    copies: list[tuple[int, int]] = field(default_factory=list)
    """(image, the earlier one it is a copy of)."""
    looked_at: int = 0
    """Images, bad ones among them; fewer than the set has where a sample is drawn."""
    digests: list[tuple[str, bytes]] = field(default_factory=list)
    """Name and SHA-256 of every image; kept only when they are to be written or compared."""
    keep_digests: bool = False
    _mean: Any = 0.0
    _square: Any = 0.0

    def add(self, seen: Seen | BadFile) -> None:
        """Take note of one image."""
        self.looked_at += 1
        if isinstance(seen, BadFile):
            self.bad.append(seen)
            return
        self.kinds[seen.facts.kind] += 1
        self.notes.update(seen.facts.notes)
        self.widths.append(seen.facts.width)
        self.heights.append(seen.facts.height)
        self.grey += seen.grey
        self._mean, self._square = self._mean + seen.mean, self._square + seen.square
        if seen.digest in self.first:
            self.copies.append((seen.index, self.first[seen.digest]))
        else:
            self.first[seen.digest] = seen.index
        if self.keep_digests:
            self.digests.append((seen.name, seen.digest))

    @property
    def readable(self) -> int:
        """Images that could be decoded."""
        return len(self.widths)

    def summary(self) -> dict[str, Any]:
        """Return everything as plain values."""
        short = np.minimum(self.widths, self.heights) if self.readable else np.zeros(1)
        long = np.maximum(self.widths, self.heights) if self.readable else np.ones(1)
        mean = np.asarray(self._mean / max(self.readable, 1)).reshape(-1)
        std = np.sqrt(np.maximum(np.asarray(self._square / max(self.readable, 1)).reshape(-1) - mean**2, 0))
        return {
            "data": self.source.name,
            "split": self.source.split,
            "images": len(self.source),
            "looked_at": self.looked_at,
            "readable": self.readable,
            "bad": [
                {"image": item.name, "index": item.index, "reason": item.reason, "fix": item.fix} for item in self.bad
            ],
            "bad_allowed": allowed(len(self.source)),
            "classes": self._classes(),
            "kinds": dict(self.kinds.most_common()),
            "treated": dict(self.notes.most_common()),
            "grey": self.grey,
            "short_side_px": {"min": int(short.min()), "median": float(np.median(short)), "max": int(short.max())},
            "sizes": len(set(zip(self.widths, self.heights, strict=True))),
            "longest_to_shortest": round(float((long / np.maximum(short, 1)).max()), 2),
            "copies": len(self.copies),
            "copies_across_classes": sum(self._labels_differ(pair) for pair in self.copies),
            "mean": [round(float(value), 4) for value in mean],
            "std": [round(float(value), 4) for value in std],
        }

    def _classes(self) -> dict[str, int] | None:
        if self.source.classes is None:
            return None
        counts = np.bincount(self.source.labels, minlength=len(self.source.classes))
        return {name: int(count) for name, count in zip(self.source.classes, counts, strict=True)}

    def _labels_differ(self, pair: Iterable[int]) -> bool:
        return len({int(self.source.labels[index]) for index in pair}) > 1


def overlap(train: Tally, held_out: Tally) -> list[tuple[int, int]]:
    """Return pairs (held-out image, training image) of the same content."""
    return [(index, train.first[digest]) for digest, index in held_out.first.items() if digest in train.first]
