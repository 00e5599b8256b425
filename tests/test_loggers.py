"""Loggers beside metrics.jsonl: the same rows, each once, whatever happens; and nothing else told to anybody."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from mae_lite import cli, rundir, training
from mae_lite.loggers import Loggers
from tests import toy
from tests.test_readme import ROOT, blocks, with_override, workplace

__all__ = ["workplace"]

Rows = list[tuple[int, float]]
"""Update and loss."""
SECRETS = ("u5er", "pa55word", "51gnature", "a1" * 20)
VARIABLES = ("WANDB_MODE", "WANDB_API_KEY", "WANDB_PROJECT", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME")


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is set up."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def trained(folder: Path, *loggers: str, **changes: Any) -> training.Outcome:
    settings = {"log_every_steps": 1, "tensorboard": True, "loggers": loggers, **changes}
    return training.run(toy.mae(), toy.runtime(folder, **settings))


def written(folder: Path) -> Rows:
    return [(row["step"], row["loss"]) for row in rundir.read_rows(folder)]


def in_event_files(folder: Path) -> tuple[Rows, None]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return [(event.step, event.value) for event in events.Scalars("loss")], None


def in_wandb(folder: Path) -> tuple[Rows, dict[str, Any]]:
    """Read the one offline file: blocks of 32 KiB, in each records with checksum, length and kind (LevelDB's log)."""
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    data, place, record = path.read_bytes(), 7, b""
    rows, config = Rows(), {}
    while place + 7 <= len(data):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind not in (1, 4):  # whole, or its last part
            continue
        message: Any = wandb_internal_pb2.Record()
        message.ParseFromString(record)
        record = b""
        if message.HasField("run"):
            config = {item.key: json.loads(item.value_json) for item in message.run.config.update}
        if message.HasField("history"):
            row = {item.key or ".".join(item.nested_key): item.value_json for item in message.history.item}
            rows.append((message.history.step.num, float(row["loss"])))
    return rows, config


def in_mlflow(folder: Path) -> tuple[Rows, dict[str, Any]]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("mae_lite")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED" and run.info.run_name == folder.name
    history = client.get_metric_history(run.info.run_id, "loss")
    return [(point.step, point.value) for point in history], {**run.data.params, **run.data.tags}


READERS: Mapping[str, Callable[[Path], tuple[Rows, Any]]] = {
    "tensorboard": in_event_files,
    "wandb": in_wandb,
    "mlflow": in_mlflow,
}


def check(folder: Path, name: str) -> Any:
    """Compare what a logger has with metrics.jsonl, in which every update stands once; return its configuration."""
    rows, config = READERS[name](folder)
    assert [step for step, _ in written(folder)] == [1, 2, 3, 4, 5, 6]
    assert [step for step, _ in rows] == [1, 2, 3, 4, 5, 6]
    assert [loss for _, loss in rows] == pytest.approx([loss for _, loss in written(folder)], rel=1e-6)
    return config


def test_a_killed_run_goes_on_as_the_same_one_in_every_logger(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert trained(run, *READERS, stop_after_steps=4).state == "paused"
    shutil.rmtree(run / "checkpoints" / "step_4")  # as killed between the row and the checkpoint of update 4
    assert trained(run, *READERS).state == "finished"
    check(run, "tensorboard")
    config = check(run, "wandb")
    assert config["recipe"] == json.loads((run / "recipe.json").read_text())["recipe"]
    assert config["provenance"]["resumed_at"] == 2 and config["provenance"]["versions"]["torch"]
    config = check(run, "mlflow")
    assert (config["recipe.method.mask_ratio"], config["recipe.name"]) == ("0.5", "toy-mae")
    assert config["provenance.resumed_at"] == "2" and config["provenance.versions.torch"]


def test_a_run_from_before_loggers_gets_one_with_all_rows(tmp_path: Path) -> None:
    run = tmp_path / "run"
    trained(run, stop_after_steps=4)
    provenance = json.loads((run / "provenance.json").read_text())
    del provenance["starts"][0]["id"]
    (run / "provenance.json").write_text(json.dumps(provenance))
    trained(run, *READERS)
    for name in READERS:
        check(run, name)


def test_nobody_there_costs_rows_until_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and listens to nobody
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://u5er:pa55word@127.0.0.1:{taken.getsockname()[1]}")
        monkeypatch.setenv("WANDB_MODE", "nonsense")
        assert trained(run, "wandb", "mlflow", stop_after_steps=4).state == "paused"
    for name in ("wandb", "mlflow"):
        assert caplog.text.count(f"{name} gets no more rows of this start") == 1
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert trained(run, "wandb", "mlflow").state == "finished"
    check(run, "wandb")
    check(run, "mlflow")


class Breaking:
    """Has rows up to the second update and fails at the fourth."""

    last = 2

    def __init__(self) -> None:
        self.heard: list[tuple[int, float]] = []
        self.closed: list[str] = []

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        if step == 4:
            raise RuntimeError("https://u5er:pa55word@host is lost")
        self.heard.append((step, numbers["loss"]))

    def close(self, state: str) -> None:
        self.closed.append(state)


def test_one_that_breaks_is_let_go_alone(caplog: pytest.LogCaptureFixture) -> None:
    first, second = Breaking(), Breaking()
    second.last = 4
    with Loggers({"first": lambda: first, "second": lambda: second}, [{"step": 2, "loss": 0.2}]) as loggers:
        for step in (3, 4, 5):
            loggers.log({"step": step, "loss": step / 10, "note": "no number"})
        loggers.state = "stopped"
    assert (first.heard, first.closed) == ([(3, 0.3)], [])
    assert (second.heard, second.closed) == ([(5, 0.5)], ["stopped"])
    assert caplog.text.count("first gets no more rows of this start: RuntimeError") == 1


def test_a_failure_is_told_to_loggers() -> None:
    logger = Breaking()
    with pytest.raises(KeyboardInterrupt), Loggers({"one": lambda: logger}):
        raise KeyboardInterrupt
    assert logger.closed == ["failed"]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_library_that_is_not_installed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    words = ["pretrain", "digits-mae", "--data", "digits", "--out", str(tmp_path / "run"), "--loggers", name]
    assert cli.main(words) == 2
    message = capsys.readouterr().err
    assert f"--loggers {name}: found no package {name}" in message
    assert "\nFix: pip install 'mae_lite[loggers]'" in message and not (tmp_path / "run").exists()


PROGRAM = """
import sys
from pathlib import Path
from tests import toy
from mae_lite import training
def run(*loggers):
    settings = {"tensorboard": True, "loggers": loggers, "stop_after_steps": 2}
    return training.run(toy.mae(), toy.runtime(Path(sys.argv[1]), **settings))
if __name__ == "__main__":
    run()
    assert not {"mlflow", "sqlalchemy"} & set(sys.modules)  # timm imports wandb wherever it is installed
    run("tensorboard", "wandb", "mlflow")
    assert {"mlflow", "sqlalchemy"} <= set(sys.modules)
"""


def test_no_connection_no_secret_and_no_import_that_nobody_asked_for(tmp_path: Path) -> None:
    """Keys in the environment, and addresses in the command; a proxy counts who wants to leave the machine."""
    asked: list[Any] = []
    with socket.create_server(("127.0.0.1", 0)) as proxy:

        def count() -> None:
            while True:
                try:
                    connection, peer = proxy.accept()
                except OSError:
                    return
                asked.append(peer)
                connection.close()

        threading.Thread(target=count, daemon=True).start()
        address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        proxies = {name: address for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}
        keys = {"WANDB_API_KEY": SECRETS[3], "WANDB_MODE": "offline", "MLFLOW_TRACKING_PASSWORD": SECRETS[1]}
        ours = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "NO_", "no_", "CI"))}
        script = tmp_path / "program.py"
        script.write_text(PROGRAM)
        secret = "https://u5er:pa55word@example.com/x?sig=51gnature"
        done = subprocess.run(
            [sys.executable, str(script), str(tmp_path / "run"), secret],
            env={**ours, **proxies, **keys, "PYTHONPATH": os.pathsep.join(sys.path), "HOME": str(tmp_path / "home")},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=600,
        )
    assert done.returncode == 0, done.stderr
    assert asked == []
    found = {"output": (done.stdout + done.stderr).encode()}
    found |= {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path != script}
    assert any(name.endswith(".wandb") for name in found) and any(name.endswith("mlflow.db") for name in found)
    assert [(name, secret) for name, data in found.items() for secret in SECRETS if secret.encode() in data] == []


def test_the_page_runs(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = [
        line for block in blocks("bash", (ROOT / "docs" / "loggers.md").read_text()) for line in block.splitlines()
    ]
    words = with_override(line)
    words[words.index("--tensorboard") + 1] = "true"
    assert cli.main(words) == 0, capsys.readouterr().err
    assert {"tensorboard", "wandb", "mlflow"} <= {path.name for path in (workplace / "runs" / "logged").iterdir()}


def test_the_interface_is_short() -> None:
    import mae_lite.loggers

    assert len(Path(str(mae_lite.loggers.__file__)).read_text().splitlines()) <= 60
