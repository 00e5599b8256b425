"""SIGKILL at any moment, start again: the run ends with the same bits as one that was never interrupted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.figures_of import tally

ROOT = Path(__file__).parent.parent


KINDS = [
    *(("mae", 0, 50), ("mae", 2, 50), ("mocov3", 0, 20), ("finetune", 0, 20), ("rollback", 0, 40)),
    *((kind, 0, 10) for kind in ("distilled", "features", "dino", "maskfeat", "simmim", "distilled_swin")),
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "workers", "kills"), KINDS)
def test_killed_runs_end_bit_identical(tmp_path: Path, kind: str, workers: int, kills: int) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "tests" / "kill_harness.py"), str(tmp_path)]
    command += [str(workers), str(kills), kind]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    print(report)
    tally("kills", report["killed"], len(report["wrong"]))
    assert report["wrong"] == [], done.stderr
    assert report["killed"] >= kills
    # Three of the loss, three of the probes or of validation; or two of the loss and one of an update left out.
    assert report["rows"] == (3 if kind == "rollback" else 6)
