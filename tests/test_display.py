"""What a run says of itself on its way, where there is no terminal."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mae_lite import cli, rundir
from mae_lite.display import display


def row(seconds: float) -> dict[str, float]:
    return {"loss": 2.0, "images_per_second": 100.0, "seconds": seconds}


def told(caplog: pytest.LogCaptureFixture, *shown: tuple[int, Mapping[str, Any] | None]) -> list[str]:
    """Return the lines about updates 10 to 50."""
    caplog.clear()
    with caplog.at_level(logging.INFO, "mae_lite"), display("run", 10, 50, enabled=True) as show:
        for step, said in shown:
            show(step, said)
    return caplog.messages


def test_the_time_left_is_that_of_all_rows_but_the_first(caplog: pytest.LogCaptureFixture) -> None:
    lines = told(caplog, (15, None), (20, row(100.0)), (30, row(10.0)), (40, row(30.0)))
    assert [line.split(", ")[-1] for line in lines] == ["0:05:00 left", "0:00:20 left", "0:00:20 left"]


def test_validation_is_told_and_probes_are_not(caplog: pytest.LogCaptureFixture) -> None:
    lines = told(caplog, (20, {"val_top1": 0.351, "val_macro": 0.3}), (20, {"knn_top1": 0.5}))
    assert lines == ["run: step 20 of 50, 35.1 % of the validation images recognised"]


def test_a_classifier_tells_what_it_recognises(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--epochs", "1", "--warmup-epochs", "0", "--labels-per-class", "5", "--validation-fraction", "0.2"]
    assert cli.main(["finetune", "digits-scratch", "--data", "digits", *words, "--out", str(tmp_path / "run")]) == 0
    (measured,) = (item["val_top1"] for item in rundir.read_rows(tmp_path / "run") if "val_top1" in item)
    assert f"step 1 of 1, {100 * measured:.1f} % of the validation images recognised\n" in capsys.readouterr().err
