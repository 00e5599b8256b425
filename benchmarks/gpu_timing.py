"""Seconds, memory and matrix products of a device."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

REPEATS = 3


def wait(device: torch.device) -> None:
    """Wait until the device has done all that it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def milliseconds(step: Callable[[], object], device: torch.device, seconds: float = 1.0) -> dict[str, float]:
    """Time ``step`` after a warm-up: the median and the range of three repeats, each ``seconds`` long or longer.

    Returns:
        ``ms``, ``ms_min`` and ``ms_max`` of one call, and ``calls`` in each repeat.
    """
    for _ in range(3):
        step()
    once = _elapsed(step, 1, device)
    calls = max(1, round(seconds / max(once, 1e-6)))
    times = [1e3 * _elapsed(step, calls, device) / calls for _ in range(REPEATS)]
    return {"ms": statistics.median(times), "ms_min": min(times), "ms_max": max(times), "calls": calls}


def _elapsed(step: Callable[[], object], calls: int, device: torch.device) -> float:
    wait(device)
    start = time.perf_counter()
    for _ in range(calls):
        step()
    wait(device)
    return time.perf_counter() - start


def forget_peak(device: torch.device) -> None:
    """Let the next :func:`peak_gb` start from what is in use now, and give the rest back."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_gb(device: torch.device) -> float | None:
    """Return the most device memory that tensors took since :func:`forget_peak`; None where it is not counted."""
    return torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None


def kernel_milliseconds(step: Callable[[], object], device: torch.device, calls: int) -> float | None:
    """Return the time of a step in which the device computes, by the profiler over ``calls`` steps; None without a GPU.

    Raises:
        RuntimeError: the profiler saw no kernel.
    """
    if device.type != "cuda":
        return None
    wait(device)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as found:
        _elapsed(step, calls, device)
    spent = sum(
        float(event.self_device_time_total)
        for event in found.key_averages()
        if event.device_type.name == "CUDA"
        and not event.is_user_annotation
        and not event.key.startswith(("Memcpy", "Memset"))
    )
    if not spent:
        raise RuntimeError("no kernel was seen")
    return spent / 1e3 / calls


def host_waits(step: Callable[[], object], device: torch.device) -> list[str] | None:
    """Return the lines of a call of ``step`` at which the host waits for the device, as PyTorch sees them.

    Events that are waited for are none of them, nor is what Python does not call. None without a GPU.
    """
    if device.type != "cuda":
        return None
    wait(device)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return [f"{Path(one.filename).name}:{one.lineno}" for one in found if "synchronizing" in str(one.message)]


def matmul_tflops(device: torch.device, dtype: torch.dtype, side: int) -> float:
    """Return the rate of a square matrix product of random numbers: what a step's rate is compared with."""
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    result = torch.empty(side, side, device=device, dtype=dtype)
    time_ms = milliseconds(lambda: torch.mm(left, right, out=result), device, seconds=0.3)["ms"]
    return 2 * side**3 / (time_ms * 1e9)
