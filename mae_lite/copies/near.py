"""Pairs of vectors whose cosine similarity is high, found in blocks so that memory does not grow with their square."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from mae_lite.data.sources import Indices
from mae_lite.errors import ConfigError

Values = npt.NDArray[np.float32]
_BLOCK = 4096
"""Rows and columns of a block: 64 MiB of similarities."""
_MOST_PAIRS = 5_000_000
_SMALLEST = 1e-6


@dataclass(frozen=True)
class Pairs:
    """p pairs of rows, the first of each pair before the second."""

    first: Indices
    """[p]."""
    second: Indices
    """[p]."""
    similarity: Values
    """[p] cosine, -1 to 1."""


def unit(values: Values) -> Values:
    """Return rows [n, D] at length 1; a row of nearly zeros stays so, and is like no other."""
    length = np.linalg.norm(values, axis=1, keepdims=True)
    found: Values = np.where(length > _SMALLEST, values / np.maximum(length, _SMALLEST), 0).astype(np.float32)
    return found


def pairs(values: Values, least: float, mirrored: Values | None = None) -> Pairs:
    """Return all pairs of rows with a cosine similarity of at least ``least``.

    Args:
        values: [n, D].
        least: the threshold.
        mirrored: [n, D] of the same images from right to left; then the greater of both similarities counts.

    Raises:
        ConfigError: when these are more than 5 million.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = torch.from_numpy(unit(values)).to(device)
    turned = None if mirrored is None else torch.from_numpy(unit(mirrored)).to(device)
    found: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    count = 0
    for top in range(0, len(rows), _BLOCK):
        for left in range(top, len(rows), _BLOCK):
            similarity = rows[top : top + _BLOCK] @ rows[left : left + _BLOCK].T
            if turned is not None:
                torch.maximum(similarity, rows[top : top + _BLOCK] @ turned[left : left + _BLOCK].T, out=similarity)
            if top == left:
                similarity = similarity.triu_(1)  # each pair once, and nothing with itself; 0 is below any threshold
            first, second = (similarity >= least).nonzero(as_tuple=True)
            found.append(((first + top).cpu(), (second + left).cpu(), similarity[first, second].cpu()))
            count += len(first)
            if count > _MOST_PAIRS:
                raise ConfigError(
                    "--threshold",
                    found=f"{least:g}, which more than {_MOST_PAIRS:,} pairs reach",
                    expected="one that tells images apart",
                    fix="give a higher --threshold, or another --model",
                )
    return Pairs(*(torch.cat(column).numpy() for column in zip(*found, strict=True)))
