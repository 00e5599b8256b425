"""The page on reliability is what its numbers say, and the numbers are no less than was promised."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def reliability(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("reliability")


def test_the_page_is_what_the_counts_make(reliability: Any) -> None:
    content = json.loads(reliability.RESULT.read_text())
    assert reliability.PAGE.read_text() == reliability.page(content), "python benchmarks/reliability.py --only-page"


def test_nothing_went_wrong_and_enough_was_tried(reliability: Any) -> None:
    figures = json.loads(reliability.RESULT.read_text())["figures"]
    assert [name for name, one in figures.items() if one["wrong"]] == []
    least = {"kills": 1_000, "faults": 350, "corrupted": 10_000, "bugs": 20, "bad inputs": 300, "malicious": 100}
    least |= {"payloads": 400, "deaths": 6, "signals": 15}
    assert {name: one["tried"] for name, one in figures.items() if one["tried"] < least[name]} == {}
    assert figures["deaths"]["seconds"] < 30


def test_the_page_owns_up_to_what_was_not_reached(reliability: Any) -> None:
    content = json.loads(reliability.RESULT.read_text())
    content["figures"] = {name: {"tried": 20_000, "wrong": 0, "seconds": None} for name in reliability.FIGURES}
    assert "Not reached yet" not in reliability.page(content)
    content["figures"]["kills"]["tried"] = 999
    assert "- Not reached yet: 1,000 kills.\n" in reliability.page(content)


def test_counts_are_summed(reliability: Any) -> None:
    lines = [{"what": name, "tried": 2, "wrong": 0, "seconds": None} for name in reliability.FIGURES]
    found = reliability.summed([*lines, {"what": "deaths", "tried": 1, "wrong": 1, "seconds": 2.34}])
    assert found["deaths"] == {"tried": 3, "wrong": 1, "seconds": 2.3, "seconds_p95": 2.3}
    assert found["kills"] == {"tried": 2, "wrong": 0, "seconds": None, "seconds_p95": None}
    deaths = [{"what": "deaths", "tried": 1, "wrong": 0, "seconds": float(number)} for number in range(1, 101)]
    found = reliability.summed([*lines, *deaths])
    assert (found["deaths"]["seconds"], found["deaths"]["seconds_p95"]) == (100.0, 95.0)
    with pytest.raises(SystemExit, match="expected"):
        reliability.summed(lines[1:])
    with pytest.raises(SystemExit, match="expected"):
        reliability.summed([*lines, {"what": "wishes", "tried": 1, "wrong": 0, "seconds": None}])
