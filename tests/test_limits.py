"""The limits of a device: plausible, repeatable, and in the units they say."""

from __future__ import annotations

import time

import pytest
import torch

from mae_lite.measuring import limits

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_SIDE", {"cpu": 256})
    monkeypatch.setattr(limits, "_COPY_BYTES", 1 << 20)


def test_rates_are_what_a_clock_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call takes 0.5 s by a clock that only calls move."""
    now = [0.0]

    def slow(*_: object, **__: object) -> None:
        now[0] += 0.5

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(torch, "mm", slow)
    assert limits.matrix_rate(CPU, seconds=2.0) == 2 * 256**3 / 0.5
    assert now[0] == pytest.approx(0.5 + 2.0)
    monkeypatch.setattr(torch.Tensor, "copy_", slow)
    assert limits.copy_bandwidth(CPU, seconds=1.0) == (1 << 20) / 0.5


def test_the_best_call_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    now, durations = [0.0], iter([9.0, 0.4, 0.1, 0.3])

    def call(*_: object, **__: object) -> None:
        now[0] += next(durations)

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(torch, "mm", call)
    assert limits.matrix_rate(CPU, seconds=0.6) == pytest.approx(2 * 256**3 / 0.1)


def test_a_real_device() -> None:
    assert 1e8 < limits.matrix_rate(CPU, seconds=0.05) < 1e14
    assert 1e8 < limits.copy_bandwidth(CPU, seconds=0.05) < 1e13
