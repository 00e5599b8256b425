"""How fast a model answers: forms take turns, so that what else the machine does falls on all alike.

Shapes: B images, C channels, H side in pixels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mae_lite.exporting.opened import Opened
from mae_lite.exporting.proving import threads

BATCHES = (1, 4, 16, 64)
_TURN, _LEAST_CALLS, _MOST_CALLS = 10, 20, 1000
_CALM_S = 0.005
"""Between turns: the threads of onnxruntime go on waiting for work for a while, and would take it from the next."""

Opener = Callable[[], Opened]


def thread_counts(cpus: int) -> list[int]:
    """Return 1, 2, 4, ... and all CPUs."""
    return sorted({1 << power for power in range(cpus.bit_length()) if 1 << power <= cpus} | {cpus})


def latencies(
    forms: Mapping[str, Opener], image: Tensor, counts: Sequence[int], seconds: float
) -> dict[str, list[dict[str, Any]]]:
    """Time one image with several numbers of threads.

    Args:
        forms: opens each form.
        image: [1, C, H, H], normalised.
        counts: numbers of threads.
        seconds: to spend on a form with each number, on average; all make as many calls, 20 at least.

    Returns:
        For each form, for each number of threads, ``threads``, ``p50_ms``, ``p95_ms`` and ``calls``.
    """
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in forms}
    for count in counts:
        with threads(count):
            times = _turns({name: opener() for name, opener in forms.items()}, image, seconds)
        for name, values in times.items():
            found[name].append({"threads": count, **_spread(values)})
    return found


def _turns(opened: Mapping[str, Opened], image: Tensor, seconds: float) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in opened}
    calls, end = 0, time.perf_counter() + seconds * len(opened)
    while calls < _LEAST_CALLS or (time.perf_counter() < end and calls < _MOST_CALLS):
        for name, model in opened.items():
            time.sleep(_CALM_S)
            for _ in range(3):  # the caches are this form's again
                model(image)
            times[name] += _timed(lambda model=model: model(image), _TURN)  # type: ignore[misc]
        calls += _TURN
    return times


def _timed(call: Callable[[], object], times: int) -> list[float]:
    found = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return found


def _spread(times: Sequence[float]) -> dict[str, Any]:
    middle, high = np.percentile(times, (50, 95))
    return {"p50_ms": round(1e3 * float(middle), 4), "p95_ms": round(1e3 * float(high), 4), "calls": len(times)}


def throughputs(
    forms: Mapping[str, Opener], image: Tensor, count: int, seconds: float
) -> dict[str, list[dict[str, Any]]]:
    """Time batches of 1, 4, 16 and 64 images; they stop to grow where one takes longer than a second.

    Args:
        forms: opens each form.
        image: [1, C, H, H], normalised.
        count: number of threads.
        seconds: to spend on each form with each size; 3 calls are made at least.

    Returns:
        For each form, for each size, ``batch`` and ``images_per_second``, by the median call.
    """
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in forms}
    with threads(count):
        opened = {name: opener() for name, opener in forms.items()}
        for size in BATCHES:
            batch = image.expand(size, -1, -1, -1).contiguous()
            for name in list(opened):
                time.sleep(_CALM_S)
                middle = _median(lambda name=name, batch=batch: opened[name](batch), seconds)  # type: ignore[misc]
                found[name].append({"batch": size, "images_per_second": round(size / middle, 2)})
                if middle > 1.0:
                    del opened[name]
    return found


def _median(call: Callable[[], object], seconds: float) -> float:
    call()
    times: list[float] = []
    while len(times) < 3 or (sum(times) < seconds and len(times) < _MOST_CALLS):
        times += _timed(call, 1)
    return float(np.median(times))


@torch.no_grad()
def on_device(module: nn.Module, image: Tensor, device: torch.device, seconds: float) -> list[dict[str, Any]]:
    """Time the model itself on a GPU, in float32 and in half precision.

    Args:
        module: the model, which comes back to the CPU in float32.
        image: [1, C, H, H], normalised.
        device: where to.
        seconds: to spend on each size of batch.

    Returns:
        For each precision ``numbers``, ``p50_ms`` and ``p95_ms`` of one image, and ``batches`` as in
        :func:`throughputs`.
    """
    found = []
    for name, numbers in (("float32", torch.float32), ("float16", torch.float16)):
        state = {key: value.clone() for key, value in module.state_dict().items()}
        moved, given = module.to(device, numbers), image.to(device, numbers)

        def call(size: int, moved: nn.Module = moved, given: Tensor = given) -> None:
            moved(given.expand(size, -1, -1, -1))
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        try:
            _timed(lambda call=call: call(1), 10)  # type: ignore[misc]
            one = _spread(_timed(lambda call=call: call(1), 100))  # type: ignore[misc]
            rates = [
                {"batch": size, "images_per_second": round(size / _median(lambda: call(size), seconds), 2)}  # noqa: B023
                for size in (*BATCHES, 256)
            ]
        finally:
            module.to("cpu", torch.float32).load_state_dict(state)
        found.append({"numbers": name, **one, "batches": rates})
    return found
