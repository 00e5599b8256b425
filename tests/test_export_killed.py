"""What an export that was killed leaves behind goes at the next start; one that lives keeps what it has."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mae_lite import cli, files

MODEL = "pretrained:digits-mae-finetuned"
WORDS = ("export", MODEL, "--images", "digits", "--to", "timm", "--out", "out", "--card", "false")
SCRATCH = f"{files.TEMPORARY}scratch-out"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def wait_for(path: Path) -> None:
    limit = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < limit, f"no {path}"
        time.sleep(0.02)


@contextmanager
def exporting() -> Iterator[subprocess.Popen[bytes]]:
    """Start an export and stop it while it has its scratch folder; it is killed at the end."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    child = subprocess.Popen([sys.executable, "-m", "mae_lite", *WORDS], env=environment, stderr=subprocess.DEVNULL)
    try:
        wait_for(Path(SCRATCH, "timm"))
        child.send_signal(signal.SIGSTOP)
        yield child
    finally:
        child.kill()
        child.wait()


def test_a_killed_export_is_swept_at_the_next_start(capsys: pytest.CaptureFixture[str]) -> None:
    with exporting():
        assert cli.main(WORDS) == 5  # it lives
        message = capsys.readouterr().err
        assert "in use by a live run" in message and "an export by pid" in message
    assert Path(SCRATCH, "timm").is_dir() and not Path("out").exists()
    older, half, other = (f"{files.TEMPORARY}{name}" for name in ("12-scratch-out", "12-out", "12-scratch-my-out"))
    for name in (older, half, other):
        Path(name).mkdir()
    assert cli.main(WORDS) == 0
    assert {path.name for path in Path().iterdir()} == {"out", other}  # that is of another export
