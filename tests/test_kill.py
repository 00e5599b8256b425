"""SIGKILL at any moment, start again: the run ends with the same bits as one that was never interrupted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_killed_runs_end_bit_identical(tmp_path: Path, workers: int) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "tests" / "kill_harness.py"), str(tmp_path), str(workers), "50"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    print(report)
    assert report["wrong"] == [], done.stderr
    assert report["killed"] >= 50
    assert report["rows"] == 6  # three of the loss, three of the probes
