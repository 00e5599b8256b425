"""What happens to one of two ranks ends or stops both; no work is lost that was saved, and nobody waits for ever."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mae_lite.errors import EXIT_STOPPED, DataError, PeerError
from tests.figures_of import tally

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
LIMIT_SECONDS = 30.0
"""What the death of a rank may take to end the others."""


def scenario(folder: Path, name: str) -> dict[str, Any]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    environment["TORCH_CPP_LOG_LEVEL"] = "ERROR"  # as the command line sets it before torch is imported
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
    seconds = [end["seconds"] for end in found["ends"]]
    tally("deaths", seconds=max(seconds) - min(seconds))
    assert max(seconds) < LIMIT_SECONDS
    assert found["kept"][0] == 2  # what was saved before it


def only_message(found: dict[str, Any]) -> str:
    """Return the one message of all ranks; the first rank's status says the same."""
    said = "\n".join(end["said"] for end in found["ends"])
    assert said.count("error: ") == said.count("Fix: ") == 1 and "gloo/" not in said, said
    message = "\n".join(said[said.index("error: ") + len("error: ") :].splitlines()[:2])
    if found["ends"][0]["code"] > 0:
        assert found["status"]["state"] == "failed" and found["status"]["message"] == message
    return message


GOES_ON = (
    "the checkpoint of step 2 is whole, and the run goes on with: torchrun --nproc-per-node 2 -m mae_lite pretrain "
)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_was_killed_is_named_with_what_is_left(interrupted: dict[str, Any], rank: int) -> None:
    found = interrupted[f"SIGKILL of rank {rank}"]
    message = only_message(found)
    assert message.startswith(f"rank {rank} of 2 on {socket.gethostname()} was killed or lost\nFix: ")
    assert GOES_ON in message
    assert "Traceback" not in "".join(end["said"] for end in found["ends"])
    assert {end["code"] for end in found["ends"]} == {PeerError.exit_code, -signal.SIGKILL}


@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_of_one_rank_is_everyones_with_its_words_and_code(interrupted: dict[str, Any], rank: int) -> None:
    found = interrupted[f"error of rank {rank}"]
    message = only_message(found)
    assert message.startswith(f"rank {rank} of 2 on {socket.gethostname()}: bad images, the real one\n")
    assert "Fix: replace them all; " + GOES_ON in message
    assert "Traceback" not in "".join(end["said"] for end in found["ends"])
    assert {end["code"] for end in found["ends"]} == {DataError.exit_code}
    assert found["status"]["error"] == "DataError"


def test_an_error_that_all_ranks_meet_is_told_once_and_is_no_ranks_own(interrupted: dict[str, Any]) -> None:
    found = interrupted["error of both"]
    assert only_message(found) == "bad images, the real one\nFix: replace them all"
    assert {end["code"] for end in found["ends"]} == {DataError.exit_code}


def test_a_bug_shows_its_traceback_once(interrupted: dict[str, Any]) -> None:
    first, second = (interrupted[f"bug in rank {rank}"] for rank in (0, 1))
    for found, rank in ((first, 0), (second, 1)):
        said = [end["said"] for end in found["ends"]]
        assert [text.count("Traceback") for text in said] == [int(rank == 0), int(rank == 1)]
        assert "ValueError: the real one" in said[rank] and "gloo/" not in "".join(said)
    assert first["status"]["message"] == "the real one"
    message = only_message(second)
    assert message.startswith(f"rank 1 of 2 on {socket.gethostname()} failed: found ValueError: the real one\n")
    assert GOES_ON in message


def test_a_signal_in_any_phase_ends_the_run_and_blocks_no_other(tmp_path: Path) -> None:
    found = scenario(tmp_path, "stops")
    assert len(found.pop("whole")["rows"]) == 6
    assert len(found) == 14
    for name, (end, status, again, same) in found.items():
        hangs, saves = name.endswith("hangs"), name.startswith(("first", "save"))
        print(name, end["code"], round(end["seconds"], 1), status.get("state"), status.get("step"))
        assert same, (name, again)
        if name == "publishing, goes on":  # too late to stop
            assert (end["code"], status["state"]) == (0, "finished")
            continue
        assert end["code"] == EXIT_STOPPED and "Traceback" not in end["said"], (name, end)
        if hangs:
            assert "error: stopped by SIGTERM: found no update" in end["said"] and "Fix: give the same" in end["said"]
            assert end["seconds"] < LIMIT_SECONDS, name
        else:
            assert status["state"] == "stopped" and (status["step"] > 0) == saves, (name, status)


def test_other_numbers_of_ranks_continue_a_run(tmp_path: Path) -> None:
    found = scenario(tmp_path, "worlds")
    assert set(found["codes"]) == {0} and found["steps"] == [6, 6]
    assert ["bits may differ" in said for said in found["said"]] == [False, True, True]
    alone, mixed = found["losses"]["alone"], found["losses"]["mixed"]
    assert len(alone) == 3 and mixed == pytest.approx(alone, rel=1e-4)
