"""Every random draw, as a pure function of named keys.

A draw depends on the seed, on what it is for, and on either (epoch, sample index) or (step, row of the
global batch). There is no generator state to save: a resumed run is the same run, whatever the number
of workers, ranks or micro-batches.

Exceptions, which depend on ranks and micro-batches: drop path (see :mod:`mae_lite.engine.loop`).
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

_GOLDEN = 0x9E3779B97F4A7C15  # odd increment of SplitMix64 (Steele, Lea, Flood 2014, figure 12)
_WORD = 0xFFFFFFFFFFFFFFFF


def key(seed: int, purpose: str, *numbers: int) -> int:
    """Return a 64-bit key for one purpose, e.g. ``key(seed, "mask", step)``."""
    text = f"{seed}/{purpose}/{'/'.join(map(str, numbers))}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def uniform(draw_key: int, rows: npt.ArrayLike, count: int) -> npt.NDArray[np.float32]:
    """Draw ``count`` numbers from U[0, 1) for each row, independently of the other rows.

    The generator is SplitMix64, evaluated at any position without the ones before it, so a rank can
    draw its own rows only.

    Args:
        draw_key: from :func:`key`.
        rows: [R] sample indices, or rows of the global batch.
        count: draws per row.

    Returns:
        [R, count] float32 with 24 random bits each.
    """
    start = np.asarray(rows, dtype=np.uint64).reshape(-1, 1)
    with np.errstate(over="ignore"):
        base = _mix(start * np.uint64(_GOLDEN) + np.uint64(draw_key & _WORD))
        counters = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
        words = _mix(base + counters)
    return (words >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


def _mix(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def generator(draw_key: int) -> np.random.Generator:
    """Return a counter-based numpy generator for draws that are not per row (beta, permutation)."""
    return np.random.Generator(np.random.Philox(key=draw_key & _WORD))


def permutation(draw_key: int, count: int) -> npt.NDArray[np.int64]:
    """Return a random order of ``range(count)``."""
    return generator(draw_key).permutation(count)


@contextmanager
def seeded_globals(draw_key: int) -> Iterator[None]:
    """Seed Python's and numpy's global generators around third-party transforms, then restore them."""
    state, numpy_state = random.getstate(), np.random.get_state()
    random.seed(draw_key)
    np.random.seed(draw_key & 0xFFFFFFFF)
    try:
        yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)
