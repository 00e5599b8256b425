"""Every command that prints a table prints JSON with --json, and nothing else on standard output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mae_lite.cli import main
from mae_lite.commands import COMMANDS

PLACES: dict[str, list[str]] = {
    "demo": [],
    "recipes": ["mae"],
    "check": ["digits"],
    "replay": ["bundle"],
    "bench": ["digits-mae"],
    "plan": ["digits-mae"],
    "evaluate": ["run"],
    "predict": ["run", "photos"],
    "export": ["run"],
    "card": ["run"],
    "push": ["run", "me/mine"],
    "analyze": ["run"],
    "probe": ["run"],
    "duplicates": ["digits"],
    "layers": ["run", "digits-finetune"],
    "transfer": ["run"],
    "study": ["digits"],
}
NO_TABLE: dict[str, list[str]] = {
    "prepare": ["digits", "pack"],
    "pretrain": ["digits-mae"],
    "finetune": ["digits-finetune"],
    "convert": ["weights.pth", "out"],
    "embed": ["run"],
    "report": ["run"],
    "watch": ["run"],
    "completion": ["bash"],
}


def test_every_command_is_asked() -> None:
    assert sorted([*PLACES, *NO_TABLE]) == sorted(COMMANDS)


@pytest.mark.parametrize("command", [*PLACES, *NO_TABLE])
def test_whoever_prints_a_table_knows_json(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    places = PLACES.get(command) or NO_TABLE.get(command, [])
    assert main([command, *places, "--json", "--nonsense", "1"]) == 2
    unknown = "--nonsense" if command in PLACES else "--json"
    assert f"unknown option {unknown}" in capsys.readouterr().err


def answered(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    """Return what is printed on standard output, which is JSON."""
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_dry_run_is_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "runs")]
    found = answered(capsys, "study", "digits", "--seeds", "1", *out, "--dry-run", "--processes", "2")
    assert len(found["stages"]) == 19 and found["processes"] == 2 and found["seconds_left"] > 0
    first = found["stages"][0]
    assert first["command"][0] in ("pretrain", "finetune") and first["state"] == "new" and first["seconds"] > 0
    assert answered(capsys, "study", "digits", *out, "--only-report")["complete"] is False


def test_a_run_and_its_encoder_are_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = ["--data", "digits", "--epochs", "0.1", "--warmup-epochs", "0", "--progress", "no", "--tensorboard", "no"]
    encoder, run = str(tmp_path / "encoder"), str(tmp_path / "run")
    assert main(["pretrain", "digits-mae", *tiny, "--out", encoder]) == 0
    assert main(["finetune", "digits-finetune", *tiny, "--init", encoder, "--labels-per-class", "5", "--out", run]) == 0
    assert 0 <= answered(capsys, "evaluate", run, "--data", "digits")["top1"] <= 1
    planned = answered(capsys, "transfer", encoder, "--suite", "digits", "--out", str(tmp_path / "moved"), "--dry-run")
    assert planned["stages"]
    looked = answered(capsys, "analyze", encoder, "--data", "digits", "--images", "20", "--out", str(tmp_path / "look"))
    assert looked
    assert answered(capsys, "card", run, "--out", str(tmp_path / "card"))["out"] == str(tmp_path / "card")
