"""Several machines: two agents of torchrun meet at one address, and train what one process trains."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mae_lite import training
from mae_lite.rundir import read_rows
from tests import toy
from tests.test_training import SGD, losses, tensors


@pytest.mark.slow
def test_two_agents_train_what_one_process_trains(tmp_path: Path) -> None:
    recipe = toy.mae(**SGD)
    training.run(recipe, toy.runtime(tmp_path / "one"))
    (tmp_path / "recipe.json").write_text(recipe.model_dump_json())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", "--rdzv-id=toy"]
    words += [f"--rdzv-endpoint=127.0.0.1:{port}", "--local-addr=127.0.0.1", "-m", "mae_lite", "pretrain"]
    words += [str(tmp_path / "recipe.json"), "--data", "digits", "--out", str(tmp_path / "two"), "--workers", "0"]
    words += ["--log-every-steps", "2", "--save-every-steps", "2", "--tensorboard", "false", "--accelerator", "cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    agents = [
        subprocess.Popen(
            [sys.executable, "-m", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        for _ in range(2)
    ]
    said = [agent.communicate(timeout=300)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], "\n".join(said)
    one, two = tmp_path / "one", tmp_path / "two"
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    ours, theirs = tensors(one), tensors(two)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert float((value - theirs[name]).abs().max()) < 1e-5 * max(float(value.abs().max()), 1e-2), name
    status = json.loads((two / "status.json").read_text())
    assert (status["state"], status["step"]) == ("finished", 6)
    assert len(read_rows(two)) == len(read_rows(one))
    assert sum("finished at step 6" in words for words in said) == 1  # the first machine speaks for both
