"""What a run meets around it: a limit of file sizes, two starts at once, a clock that jumps, odd names."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mae_lite import cli, files, rundir, training
from mae_lite.errors import DiskError
from tests import toy
from tests.figures_of import tally
from tests.test_errors import assert_contract

QUIET = "--data digits --tensorboard no --progress no --workers 0 --accelerator cpu --save-every-steps 2".split()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    Path("toy.json").write_text(toy.mae().model_dump_json())


def forked(action: Callable[[], int], said: Path) -> int:
    """Do ``action`` in a fork of its own that prints into ``said``; return the fork's id."""
    process = os.fork()
    if process:
        return process
    code = 98
    try:
        with said.open("w") as sys.stderr:
            code = action()
    finally:
        os._exit(code)


def exit_code(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def test_a_real_limit_of_file_sizes_ends_a_run_with_what_it_needs() -> None:
    """The system's own refusal: no checkpoint fits, everything else does."""
    size = 12_000

    def limited() -> int:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        return cli.main(["pretrain", "toy.json", "--out", "run", *QUIET])

    code = exit_code(forked(limited, Path("said")))
    said = Path("said").read_text()
    message = assert_contract(said, code, DiskError.exit_code, mentions=["step_6", "EFBIG", "MB are to be written"])
    needed = float(message.partition("(ulimit -f): ")[2].partition(" MB")[0])
    assert needed > size / 1e6 and said.count("training goes on") == 2
    status = json.loads(Path("run/status.json").read_text())
    assert status["state"] == "failed" and f"error: {status['message']}" in message
    assert rundir.checkpoints(Path("run")) == []
    assert cli.main(["pretrain", "toy.json", "--out", "run", *QUIET]) == 0
    assert all(files.read_folder(path) for _, path in rundir.checkpoints(Path("run")))
    tally("faults")


def test_of_two_starts_at_the_same_moment_one_gets_the_folder() -> None:
    for trial in range(3):
        out, (gate, opened) = f"run-{trial}", os.pipe()

        def start(out: str = out, gate: int = gate) -> int:
            follow = rundir.RunDir.record_start

            def slowly(self: rundir.RunDir, **facts: object) -> None:
                time.sleep(1.0)  # the winner is still there when the other asks
                follow(self, **facts)

            rundir.RunDir.record_start = slowly  # type: ignore[method-assign]
            os.read(gate, 1)
            return cli.main(["pretrain", "toy.json", "--out", out, "--stop-after-steps", "1", *QUIET])

        pair = [forked(start, Path(f"said-{trial}-{number}")) for number in range(2)]
        os.write(opened, b"go")
        codes = [exit_code(process) for process in pair]
        assert sorted(codes) == [0, DiskError.exit_code]
        loser = codes.index(DiskError.exit_code)
        winner = f"pid {pair[1 - loser]} on "
        assert_contract(
            Path(f"said-{trial}-{loser}").read_text(), 5, 5, mentions=[out, "live run", winner, "started 2"]
        )
        assert cli.main(["pretrain", "toy.json", "--out", out, "--stop-after-steps", "2", *QUIET]) == 0
        os.close(gate)
        os.close(opened)


def test_a_clock_put_back_a_day_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    training.run(toy.mae(), toy.runtime(Path("plain")))
    training.run(toy.mae(), toy.runtime(Path("run"), stop_after_steps=3))
    now, back = time.time, 86_400.0
    monkeypatch.setattr(time, "time", lambda: now() - back)
    training.run(toy.mae(), toy.runtime(Path("run"), stop_after_steps=4))
    for path in Path("run/checkpoints").iterdir():  # as a disk with that clock would date them
        if path.name == "step_4":
            os.utime(path, (now() - back, now() - back))
    found = rundir.checkpoints(Path("run"))
    assert [step for step, _ in found] == [4, 3]
    training.run(toy.mae(), toy.runtime(Path("run")))
    assert rundir.last_start(Path("run"))["resumed_at"] == 4
    plain, run = (rundir.read_rows(Path(name)) for name in ("plain", "run"))
    assert [row["loss"] for row in run] == [row["loss"] for row in plain]
    assert all(0 <= row["seconds"] < 60 for row in run)
    assert rundir.checkpoints(Path("run"))[0][0] == 6


NAMES = (
    *("with space", "tab\there", "line\nend", "percent %s %20", "hash#1", "quote'\"`", "back\\slash", "star*?[a]"),
    *("-leading", "--out", "$HOME", ";ls&", "ü-NFC", "u\u0308-NFD", "日本語", "🙂", "dots...", "=1+1", "run.json"),
    *("\x1b[31mred", "\u202egnp", "\udce9 no utf-8", "n" * 200, "<b>bold</b>"),
)


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_folder_of_any_name_is_trained_in_gone_on_with_and_reported(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = f"./{name}"
    words = ["pretrain", "toy.json", *QUIET, f"--out={out}"]
    assert cli.main([*words, "--stop-after-steps", "2"]) == 0
    assert cli.main(words) == 0
    assert rundir.last_start(Path(name))["resumed_at"] == 2
    assert cli.main(["report", out, "--out", "page.html"]) == 0
    captured = capsys.readouterr()
    assert all(sign.isprintable() or sign == "\n" for sign in captured.out + captured.err)
    page = Path("page.html").read_text(encoding="utf-8")
    assert "toy-mae" in page and "<b>bold</b>" not in page


def test_a_folder_in_a_loop_of_links_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    Path("loop").symlink_to("loop")
    code = cli.main(["pretrain", "toy.json", *QUIET, "--out", "loop/run"])
    assert_contract(
        capsys.readouterr().err, code, DiskError.exit_code, mentions=["loop/run", "a link that leads to no folder"]
    )


def test_a_name_too_long_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(["pretrain", "toy.json", *QUIET, "--out", "n" * 256])
    assert_contract(capsys.readouterr().err, code, DiskError.exit_code, mentions=["nnn", "File name too long"])
