"""The tests of saving and resuming, tested: each of many planted bugs is caught."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import planting
from tests.figures_of import tally
from tests.planted import Checks

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_every_planted_bug_is_caught(tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "tests" / "planted.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900)
    assert done.returncode == 0, done.stderr
    caught = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(caught, indent=1))
    assert caught.pop("") is None  # without a bug every check passes
    assert set(caught) == {bug.name for bug in planting.BUGS}
    assert [name for name, check in caught.items() if check is None] == []
    checks = {name for name in vars(Checks) if not name.startswith("_")}
    assert {name: said for name, said in caught.items() if said.partition(":")[0] not in checks} == {}
    tally("bugs", len(caught))
    assert len(caught) >= 20
