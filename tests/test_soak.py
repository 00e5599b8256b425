"""The soak and the cost of safety: that the soak sees what it looks for, and that both write what they say."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import pytest

from tests.benching import module

GREEDY = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(8)"])
kept = []
while True:
    kept.append((open("/dev/null"), bytearray(4_000_000)))
    time.sleep(0.3)
"""


def test_a_greedy_process_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soak = module("soak", monkeypatch)
    monkeypatch.setattr(soak, "ORPHANS_END_SECONDS", 0.5)
    life = soak.lived([sys.executable, "-c", GREEDY], tmp_path / "log", 5.0, signal.SIGKILL)
    assert (life.ended, life.code, life.orphans) == ("SIGKILL", -9, 1)
    found = soak.flatness(life.samples)
    assert not found["memory_mb"]["flat"]
    assert not found["descriptors"]["flat"]
    assert found["workers"]["flat"]


def test_a_run_that_ends_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soak = module("soak", monkeypatch)
    for words, ended in (("raise SystemExit(75)", "SIGTERM"), ("raise SystemExit(5)", "failed"), ("", "finished")):
        life = soak.lived([sys.executable, "-c", words], tmp_path / "log", None, signal.SIGTERM)
        assert (life.ended, life.orphans) == (ended, 0)


def test_the_page_tells_of_a_soak(monkeypatch: pytest.MonkeyPatch) -> None:
    soak, reliability = module("soak", monkeypatch), module("reliability", monkeypatch)
    samples = [soak.Sample(float(second), 900.0 + second // 100, 20, 5, 2, 600.0) for second in range(400)]
    facts = {"updates": 5000, "lives": 9, "killed": 6, "stopped": 2, "same_bits": True, "orphans": 0, "left_behind": []}
    facts |= {"long_life_seconds": 1500, "long_life": soak.flatness(samples), "minutes": 60.2, "date": "2026-01-31"}
    text = reliability.soaked({**facts, "command": "python benchmarks/soak.py", "hardware": {"cpus": 2}})
    assert "5,000 updates" in text and "6 ended by SIGKILL and 2 by SIGTERM" in text and "the same bits; 0 proc" in text
    assert "held 901 MB and 20.0 open files" in text and "903 MB" in text
    assert max(map(len, text.splitlines())) <= 125
    assert "OTHER bits" in reliability.soaked(
        {**facts, "same_bits": False, "command": "x", "hardware": {"cpus": 2}},
    )


def test_the_cost_of_safety(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "safety.json"
    safety = module("safety", monkeypatch)
    assert safety.main(["--recipes", "digits-mae", "--rounds", "2", "--folder", str(tmp_path), "--out", str(out)]) == 0
    (found,) = json.loads(out.read_text())["results"]
    assert found["checkpoint_mb"] > 1
    assert found["saves_every_seconds"] == 60
    assert 0 < found["safety_percent_of_time"] <= found["saving_percent_of_time"]
    assert all(len(values) == 2 for values in found["rounds"].values())
    assert module("reliability", monkeypatch).costs(json.loads(out.read_text())).count("| digits-mae |") == 1
