"""SIGKILL at any moment, start again: the run ends with the same bits as one that was never interrupted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.figures_of import tally

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
FEWEST = {
    ("mae", "mae alone"): 205,
    ("mocov3", "distilled"): 270,
    ("finetune", "maskfeat"): 235,
    ("features", "dino", "simmim", "distilled_swin"): 240,
    ("rollback",): 20,
    ("mae, 2 workers", "mocov3, 2 workers", "distilled, 2 workers", "finetune, 2 workers"): 38,
}
"""Trials that share a process, and how many kills they must have had: in all, 1,000 with those of two ranks."""
PAIRS = 26
DEATH_SECONDS = 30.0
"""What the death of a rank may take to end the other."""


def told_by(script: str, folder: Path, *words: str) -> dict[str, Any]:
    """Run a script of kills; return what it reports."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "tests" / script), str(folder), *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1800)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(report)
    return report


@pytest.mark.parametrize("names", FEWEST, ids=", ".join)
def test_killed_runs_end_bit_identical(tmp_path: Path, names: tuple[str, ...]) -> None:
    report = told_by("kill_harness.py", tmp_path, *names)
    assert list(report) == list(names)
    for name, found in report.items():
        tally("kills", found["killed"], len(found["wrong"]))
        assert found["wrong"] == [], name
        # Three of the loss, three of the probes or of validation; or two of the loss and one of an update left out.
        assert found["rows"] == (3 if name == "rollback" else 6), name
    assert sum(found["killed"] for found in report.values()) >= FEWEST[names]


def test_killed_pairs_end_bit_identical(tmp_path: Path) -> None:
    report = told_by("pair_kills.py", tmp_path)
    tally("kills", report["killed"], len(report["wrong"]))
    for seconds in report["seconds"]:  # a rank that was killed; what it and the other started is looked for, too
        tally("deaths", seconds=seconds)
    assert report["wrong"] == []
    assert report["killed"] == PAIRS and len(report["seconds"]) == 20 and max(report["seconds"]) < DEATH_SECONDS


def test_kills_are_a_thousand() -> None:
    assert sum(FEWEST.values()) + PAIRS >= 1_000
