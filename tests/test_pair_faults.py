"""Two ranks with few images, with bad numbers of one of them, beside a disk that hangs, and without training."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mae_lite.errors import ConfigError, DataError, NumericsError, PeerError

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent


def scenario(folder: Path, name: str) -> dict[str, Any]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    environment["TORCH_CPP_LOG_LEVEL"] = "ERROR"
    command = [sys.executable, str(ROOT / "tests" / "pair_faults.py"), str(folder), name]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def codes(ends: list[dict[str, Any]]) -> list[int | None]:
    """Return the exit codes; None is one that hung."""
    return [end["code"] for end in ends]


def only_message(ends: list[dict[str, Any]]) -> str:
    """Return the one message of all ranks."""
    said = "\n".join(end["said"] for end in ends)
    assert said.count("error: ") == said.count("Fix: ") == 1, said
    return "\n".join(said[said.index("error: ") + len("error: ") :].splitlines()[:2])


def test_few_images_are_shared_fairly_and_nobody_waits(tmp_path: Path) -> None:
    found = scenario(tmp_path, "uneven")
    ends = found.pop("1")["ends"]
    assert codes(ends) == [ConfigError.exit_code] * 2
    assert "global_batch_size: found 2, expected at most the 1 training images" in only_message(ends)
    for name, one in found.items():
        train, val = map(int, name.split())
        assert codes(one["ends"]) == [0, 0], one["ends"]
        first, second = one["train"]
        assert len(first) == len(second) == 2 * (train // 2), "two epochs of as many updates on both ranks"
        for epoch in (0, 1):
            seen = [*itertools.chain(*(batches[epoch * (train // 2) :][: train // 2] for batches in (first, second)))]
            ids = sorted(itertools.chain(*seen))
            assert len(ids) == len(set(ids)) == train - train % 2, "each once, but for what makes no whole batch"
        assert sorted(itertools.chain(*itertools.chain(*one["val"]))) == list(range(val)), "each exactly once"
        assert len(one["top1"]) == 1 and 0 <= one["top1"][0] <= 1


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return scenario(tmp_path_factory.mktemp("poisoned"), "poisoned")


@pytest.mark.parametrize("name", ["loss", "weight"])
def test_a_number_of_one_rank_that_is_not_finite_stops_both_before_the_update(
    poisoned: dict[str, Any], name: str
) -> None:
    found = poisoned[name]
    assert codes(found["ends"]) == [NumericsError.exit_code] * 2, found["ends"]
    message = only_message(found["ends"])
    assert "update 3: loss nan" in message and "mae-lite replay" in message
    assert found["status"]["state"] == "failed" and found["status"]["message"] == message
    assert [rank for rank, loss in found["losses"] if loss == "nan"] == [1], "the bundle says whose it was"
    assert found["same"], "the weights are those before the update"
    assert found["saved"] == [2, True]


def test_a_disk_that_hangs_silences_no_rank(tmp_path: Path) -> None:
    ends = scenario(tmp_path, "silenced")["ends"]
    assert codes(ends) == [PeerError.exit_code, -signal.SIGKILL]
    message = only_message(ends)
    assert message.startswith(f"rank 1 of 2 on {socket.gethostname()} was killed or lost\nFix: ")
    assert "what was saved cannot be read now; the same command goes on with it: torchrun --nproc-per-node 2" in message


def test_a_rank_that_is_lost_without_training_is_told_of_as_in_training(tmp_path: Path) -> None:
    found = scenario(tmp_path, "frozen")
    says = {
        "killed": "was killed or lost\nFix: look for out of memory in the system's log; ",
        "error": ": bad images, the real one\nFix: replace them all; ",
        "bug": " failed: found ValueError: the real one\nFix: report it with its traceback; ",
    }
    for name, words in says.items():
        message = only_message(found[name])
        expected = f"rank 1 of 2 on {socket.gethostname()}{' ' if name == 'killed' else ''}{words}"
        assert message.startswith(expected), message
        assert "the features made so far are kept, and the same command goes on with them: torchrun" in message
        said = "".join(end["said"] for end in found[name])
        assert said.count("Traceback") == (name == "bug") and "gloo" not in said
    assert codes(found["killed"]) == [PeerError.exit_code, -signal.SIGKILL]
    assert codes(found["error"]) == [DataError.exit_code] * 2
    assert codes(found["bug"]) == [PeerError.exit_code] * 2
    assert codes(found["again"]) == [0, 0], found["again"]
    assert len(np.load(tmp_path / "features.npy")) == 1346
