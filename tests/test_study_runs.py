"""Studies that run: stages as processes, failures, signals, and a kill after which nothing is repeated."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mae_lite import studies
from mae_lite.rundir import read_rows
from mae_lite.studying import graph
from mae_lite.studying.running import Pool
from mae_lite.studying.stages import STATES, Stage

TOLD = "told"
"""A kind of stage that is done when it has printed into its log."""


@pytest.fixture
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "logs"
    monkeypatch.setitem(STATES, TOLD, lambda stage: "done" if (folder / f"{stage.name}.log").exists() else "new")
    yield folder


def stage(name: str, *words: str, needs: tuple[str, ...] = ()) -> Stage:
    return Stage(name, TOLD, Path(name), words or ("recipes",), needs)


def test_stages_run_in_order_and_a_failure_stops_its_followers_alone(logs: Path) -> None:
    told: list[str] = []
    stages = [stage("a"), stage("bad", "pretrain", "mae-tinny"), stage("b", needs=("a",)), stage("c", needs=("bad",))]
    stages.append(stage("d", needs=("c", "b")))
    outcome = Pool(2, logs, tell=told.append).run({one.name: one for one in stages})
    assert (outcome.finished, outcome.failed, outcome.skipped) == (["a", "b"], {"bad": 2}, ["c", "d"])
    assert not outcome.stopped
    (failure,) = [text for text in told if "failed" in text]
    assert "command  mae-lite pretrain mae-tinny" in failure and "| error: unknown recipe 'mae-tinny'" in failure
    assert "mae-tiny" in (logs / "a.log").read_text()
    assert not (logs / "c.log").exists()
    again = Pool(2, logs, tell=told.append).run({"a": stage("a"), "b": stage("b", needs=("a",))})
    assert again.finished == []


def test_a_stage_that_leaves_no_result_has_failed(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STATES, TOLD, lambda _: "new")
    told: list[str] = []
    assert Pool(1, logs, tell=told.append).run({"a": stage("a")}).failed == {"a": 0}
    assert "exit code 0" in told[0]


def test_each_stage_has_its_share_of_the_machine(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processors are divided; GPUs are those that the user named, and free ones are taken again."""
    seen: list[dict[str, str]] = []

    class Quick:
        returncode = 0

        def __init__(self, _: object, **settings: Any) -> None:
            seen.append(settings["env"])

        def poll(self) -> int:
            return 0

    monkeypatch.setattr(subprocess, "Popen", Quick)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)))
    stages = {name: stage(name) for name in "abcd"}
    assert len(Pool(2, logs, ("5", "7"), tell=lambda _: None).run(stages).finished) == 4
    assert [(env["OMP_NUM_THREADS"], env["CUDA_VISIBLE_DEVICES"]) for env in seen] == [("6", "5"), ("6", "7")] * 2


def command(out: Path, *more: str) -> list[str]:
    words = ["study", "digits", "--seeds", "1", "--updates", "2", "--processes", "2", "--out", str(out), *more]
    return [sys.executable, "-m", "mae_lite", *words]


def trainings(out: Path, state: str) -> list[Path]:
    found = []
    for path in out.glob("*/status.json"):
        try:
            found += [path.parent] if json.loads(path.read_text())["state"] == state else []
        except (OSError, ValueError):
            continue
    return found


def until(out: Path, finished: int, running: int = 0) -> None:
    """Wait for so many finished, and running, trainings."""
    end = time.monotonic() + 240
    while len(trainings(out, "finished")) < finished or len(trainings(out, "running")) < running:
        assert time.monotonic() < end
        time.sleep(0.05)


def until_updated(out: Path) -> None:
    """Wait until each training has made an update, before which there is nothing to save."""
    end = time.monotonic() + 240
    while any(read_rows(run)[-1:] == [] or not read_rows(run)[-1]["step"] for run in trainings(out, "running")):
        assert time.monotonic() < end
        time.sleep(0.05)


def stamps(out: Path) -> dict[Path, int]:
    """Return when each finished model was written."""
    models = [*out.glob("*/encoder/manifest.json"), *out.glob("*/classifier/manifest.json")]
    return {path: path.stat().st_mtime_ns for path in models}


def gone(out: Path) -> bool:
    """Whether no process works below ``out`` any more."""
    lines = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return str(out) not in lines


@pytest.mark.slow
def test_digits_is_killed_and_repeats_nothing(tmp_path: Path) -> None:
    out = tmp_path / "studies"
    with subprocess.Popen(command(out), stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT) as study:
        until(out, 3)
        study.kill()
    end = time.monotonic() + 20
    while not gone(out):  # the stages end with it
        assert time.monotonic() < end
        time.sleep(0.05)
    before = stamps(out)
    assert 3 <= len(before) < 10
    done = subprocess.run(command(out), capture_output=True, text=True, check=True)
    assert "5 labels per class: test accuracy in percent" in done.stdout
    after = stamps(out)
    assert before.items() <= after.items() and len(after) == 10
    made = graph.build(studies.get("digits").shorter(2, 1), out, "digits")
    assert {one.state() for one in made.stages.values()} == {"done"}
    table = json.loads((out / "digits" / "table.json").read_text())
    assert table["complete"] and [item["method"] for item in table["numbers"]] == [
        r.name for r in studies.get("digits").rows
    ]
    page = (out / "digits" / "report.html").read_text()
    assert "D-MAE" in page and "cut to 2 updates" in page and page.count("<svg") > 10 and "block of supervised" in page
    again = subprocess.run(command(out, "--json"), capture_output=True, text=True, check=True)
    assert "19 stages, 19 done" in again.stderr and stamps(out) == after and json.loads(again.stdout) == table


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_stages_save_and_stop(tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "studies"
    words = command(out)
    words[words.index("--updates") + 1] = "100000"
    study = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    until(out, 0, running=2)
    until_updated(out)
    os.kill(study.pid, number)
    _, printed = study.communicate(timeout=60)
    assert study.returncode == 75
    assert f"{number.name}: 2 stages save and stop" in printed and "the same command continues" in printed
    stopped = trainings(out, "stopped")
    assert len(stopped) == 2 and all(list(run.glob("checkpoints/step_*")) for run in stopped)
    assert gone(out)


@pytest.mark.slow
def test_two_studies_do_not_share_a_folder(tmp_path: Path) -> None:
    out = tmp_path / "studies"
    with subprocess.Popen(command(out), stderr=subprocess.PIPE, text=True) as study:
        assert study.stderr is not None and "19 stages" in study.stderr.readline()
        second = subprocess.run(command(out), capture_output=True, text=True, check=False)
        study.kill()
    assert second.returncode == 5 and "in use by a live run" in second.stderr
