"""How much is said, and in which colours: --quiet, --verbose, NO_COLOR, a terminal or none."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mae_lite import cli

COLOUR = re.compile(rb"\x1b\[(?:\d+;)*(?:3|4|9|10)\d(?:;\d+)*m")
TRAIN = "pretrain digits-mae --data digits --encoder.depth 1 --global-batch-size 64 --epochs 1".split()
TRAIN += "--warmup-epochs 0 --workers 0 --tensorboard false --stop-after-steps 3 --log-every-steps 1".split()
TRAIN += ["--probe-images", "0"]
Captured = pytest.CaptureFixture[str]


def in_a_terminal(words: list[str], folder: Path, **environment: str) -> bytes:
    """Return what a command shows in a terminal."""
    ours, theirs = pty.openpty()
    path = os.pathsep.join([str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    env = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "CI", "TTY_COMPATIBLE")}
    env |= {"TERM": "xterm-256color", "COLUMNS": "100", "PYTHONPATH": path, **environment}
    process = subprocess.Popen(
        [sys.executable, "-m", "mae_lite", *words], stdout=theirs, stderr=theirs, stdin=theirs, cwd=folder, env=env
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert process.wait() == 0, shown.decode()
    return shown


@pytest.mark.parametrize("words", [["prepare", "--help"], TRAIN])
def test_no_color_in_a_terminal(words: list[str], tmp_path: Path) -> None:
    out = ["--out", "run"] if words is TRAIN else []
    assert COLOUR.search(in_a_terminal([*words, *out], tmp_path))
    out = ["--out", "other"] if words is TRAIN else []
    assert not COLOUR.search(in_a_terminal([*words, *out], tmp_path, NO_COLOR="1"))


@pytest.mark.parametrize("words", [["--help"], ["prepare", "--help"], ["recipes"]])
def test_no_colours_outside_a_terminal(words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    try:
        assert cli.main(words) == 0
    except SystemExit as end:
        assert end.code == 0
    assert "\x1b" not in "".join(capfd.readouterr())


def test_quiet_says_results_alone(tmp_path: Path, capsys: Captured) -> None:
    assert cli.main([*TRAIN, "--out", str(tmp_path / "loud")]) == 0
    assert "step 3 of" in capsys.readouterr().err
    assert cli.main(["--quiet", *TRAIN, "--out", str(tmp_path / "quiet")]) == 0
    said = capsys.readouterr()
    assert said.err == "" and "at step 3 of" in said.out


def test_quiet_draws_no_bar(tmp_path: Path) -> None:
    shown = in_a_terminal([*TRAIN, "--quiet", "--out", "run"], tmp_path)
    assert b"\x1b" not in shown and b"at step 3 of" in shown


def test_verbose_says_when_and_where(tmp_path: Path, capsys: Captured) -> None:
    assert cli.main([*TRAIN, "--verbose", "--out", str(tmp_path / "run")]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert any(re.match(r"\d{4}-\d\d-\d\d [\d:,]+ mae_lite\.display: digits-mae: step 3 of", line) for line in lines)


def test_quiet_and_verbose_at_once_are_refused(capsys: Captured) -> None:
    assert cli.main(["recipes", "--quiet", "--verbose"]) == 2
    said = capsys.readouterr()
    assert said.err == "error: --quiet and --verbose: found both, expected one of them\nFix: drop one\n"


def test_the_package_is_typed(tmp_path: Path) -> None:
    assert (Path(cli.__file__).parent / "py.typed").is_file()
    (tmp_path / "user.py").write_text("import mae_lite.config\n\nepochs: str = mae_lite.config.Recipe.__name__.upper\n")
    checked = [sys.executable, "-m", "mypy", "--config-file", "", "--cache-dir", str(tmp_path / "cache")]
    checked += ["--follow-imports=silent", "user.py"]
    done = subprocess.run(checked, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "user.py:3: error: Incompatible types" in done.stdout, done.stdout
