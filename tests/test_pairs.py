"""What happens to one of two ranks ends or stops both; no work is lost that was saved, and nobody waits for ever."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mae_lite.errors import EXIT_STOPPED, DataError
from tests.figures_of import tally

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
LIMIT_SECONDS = 30.0
"""What the death of a rank may take to end the others."""


def scenario(folder: Path, name: str) -> dict[str, Any]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "tests" / "pairs.py"), str(folder), name]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return scenario(tmp_path_factory.mktemp("pairs"), "interrupted")


def test_a_pair_that_nothing_happens_to(interrupted: dict[str, Any]) -> None:
    plain = interrupted["plain"]
    assert [end["code"] for end in plain["ends"]] == [0, 0] and plain["status"]["state"] == "finished"
    assert "finished at step 6" in plain["ends"][0]["said"] and "finished" not in plain["ends"][1]["said"]


def test_whatever_happens_the_same_command_ends_with_the_same_bits(interrupted: dict[str, Any]) -> None:
    expected = interrupted["plain"]["remains"]
    for name, found in interrupted.items():
        assert found["again"] == [0, 0], name
        assert found["remains"] == expected, name
        assert found["kept"], name


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_rank_stops_both_at_one_step(interrupted: dict[str, Any], rank: int) -> None:
    found = interrupted[f"SIGTERM to rank {rank}"]
    assert [end["code"] for end in found["ends"]] == [EXIT_STOPPED] * 2
    assert (found["status"]["state"], found["status"]["step"], found["kept"][0]) == ("stopped", 3, 3)


@pytest.mark.parametrize("what", ["SIGKILL of", "bug in", "error of"])
@pytest.mark.parametrize("rank", [0, 1])
def test_no_rank_waits_for_one_that_is_gone(interrupted: dict[str, Any], what: str, rank: int) -> None:
    found = interrupted[f"{what} rank {rank}"]
    assert all(end["code"] not in (None, 0) for end in found["ends"])
    slowest = max(end["seconds"] for end in found["ends"])
    tally("deaths", seconds=slowest)
    assert slowest < LIMIT_SECONDS
    assert found["kept"][0] == 2  # what was saved before it


@pytest.mark.parametrize("rank", [0, 1])
def test_the_rank_that_fails_says_why(interrupted: dict[str, Any], rank: int) -> None:
    bug, error = (interrupted[f"{what} rank {rank}"]["ends"][rank] for what in ("bug in", "error of"))
    assert "ValueError: the real one" in bug["said"]
    assert error["code"] == DataError.exit_code
    assert "bad images, the real one" in error["said"] and "Fix: replace them all" in error["said"]
    assert "Traceback" not in error["said"]


def test_other_numbers_of_ranks_continue_a_run(tmp_path: Path) -> None:
    found = scenario(tmp_path, "worlds")
    assert set(found["codes"]) == {0} and found["steps"] == [6, 6]
    alone, mixed = found["losses"]["alone"], found["losses"]["mixed"]
    assert len(alone) == 3 and mixed == pytest.approx(alone, rel=1e-4)
