"""The limits of a device, measured: how fast it multiplies matrices, and how fast it copies."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

_SIDE = {"cpu": 2048, "mps": 4096, "cuda": 8192}
"""Of the matrices: a product takes between a millisecond and a second, and does not fit the nearest cache."""
_COPY_BYTES = 1 << 28


def matrix_rate(device: torch.device, dtype: torch.dtype = torch.float32, seconds: float = 1.0) -> float:
    """Return the FLOP/s of a product of large square matrices, the best call of about ``seconds``.

    A multiply-add counts as two. The best call, since whatever else the machine does only takes from a limit.
    """
    side = _SIDE.get(device.type, 2048)
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    result = torch.empty(side, side, device=device, dtype=dtype)
    return 2 * side**3 / _best_seconds(lambda: torch.mm(left, right, out=result), device, seconds)


def copy_bandwidth(device: torch.device, seconds: float = 1.0) -> float:
    """Return the bytes/s that one large copy inside a device's memory writes, the best call of about ``seconds``.

    It reads as many; memory moves twice this.
    """
    source = torch.ones(_COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return _COPY_BYTES / _best_seconds(lambda: target.copy_(source), device, seconds)


def _best_seconds(call: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Return the shortest of the calls that fit into ``seconds``, two at least, after one that does not count."""
    best, start, calls = float("inf"), 0.0, -1
    while calls < 2 or time.perf_counter() - start < seconds:
        before = time.perf_counter()
        call()
        _wait(device)
        if calls < 0:
            start = time.perf_counter()
        else:
            best = min(best, time.perf_counter() - before)
        calls += 1
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
