"""Jumps of a number and collapsed features are noticed, said once, marked in the row and shown in the report."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mae_lite import rundir, training
from mae_lite.advice import Collapsing, Spiking
from mae_lite.evaluation.probes import feature_std
from mae_lite.methods.comparing import spread
from mae_lite.methods.mae import MaskedAutoencoder
from mae_lite.report.compose import compose
from tests import stored, toy

ROWS: dict[str, list[dict[str, Any]]] = json.loads(
    (Path(__file__).parent / "fixtures" / "watched_rows.json").read_text()
)
"""Of five runs of the digits study: steps, losses, norms of gradients, deviations of features."""


def heard(rows: list[dict[str, Any]]) -> tuple[list[dict[str, float]], list[str]]:
    """Return what each row is marked with, and all that is said."""
    watches = Spiking(), Collapsing()
    answers = [[watch.heard(row) for watch in watches] for row in rows]
    marks = [{name: value for found, _ in answer for name, value in found.items()} for answer in answers]
    return marks, [words for answer in answers for _, words in answer if words]


@pytest.mark.parametrize("name", ROWS)
def test_good_runs_are_left_in_peace(name: str) -> None:
    assert len(ROWS[name]) > 30
    assert heard(ROWS[name]) == ([{}] * len(ROWS[name]), [])


def test_a_dip_is_said_once() -> None:
    rows = [dict(row) for row in ROWS["digits-mocov3"]]
    losses = [place for place, row in enumerate(rows) if "loss" in row]
    for place in losses[60:63]:
        rows[place]["grad_norm"] *= 40
    rows[losses[61]]["loss"] *= 5
    marks, words = heard(rows)
    assert [place for place, mark in enumerate(marks) if mark] == losses[60:63]
    assert marks[losses[61]].keys() == {"loss_spike", "grad_norm_spike"} and marks[losses[60]]["grad_norm_spike"] > 10
    (said,) = words
    assert f"step {rows[losses[60]]['step']}: grad_norm is" in said and "--clip-grad-norm" in said


def test_numbers_that_scatter_are_no_jump() -> None:
    """A loss near 0 goes up and down by factors; a number of one height jumps at a tenth of that."""
    generator = np.random.default_rng(0)
    wide = [{"step": step, "loss": float(value)} for step, value in enumerate(np.exp(generator.normal(-4, 1, 200)))]
    flat = [{"step": step, "loss": 1.0 if step != 100 else 3.5} for step in range(200)]
    assert sum(map(bool, heard(wide)[0])) <= 4
    assert [place for place, mark in enumerate(heard(flat)[0]) if mark] == [100]
    broken = [{"step": step, "loss": None if step % 2 else float("nan")} for step in range(50)]
    assert heard(broken) == ([{}] * 50, [])


@pytest.mark.parametrize("name", ["feature_std", "view_feature_std"])
def test_constant_features_have_collapsed(name: str) -> None:
    same, different = np.ones((50, 8)), np.random.default_rng(0).normal(size=(50, 8))
    collapsed, fine = feature_std(same), spread(torch.from_numpy(different)).item()
    values = [collapsed, fine, collapsed, fine, collapsed, collapsed, collapsed]
    marks, words = heard([{"step": step, name: value} for step, value in enumerate(values)])
    assert [place for place, mark in enumerate(marks) if mark] == [5, 6], "twice in a row"
    assert len(words) == 1 and "collapsed" in words[0] and f"step 5: {name} " in words[0]


def test_a_run_marks_its_rows_also_when_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain = MaskedAutoencoder.forward

    def jumping(self: Any, *arguments: Any) -> Any:
        output = plain(self, *arguments)
        return output._replace(loss=output.loss * 50) if self.step == 14 else output

    def count(self: Any, step: int, total: int) -> None:
        del total
        self.step = step

    monkeypatch.setattr(MaskedAutoencoder, "forward", jumping)
    monkeypatch.setattr(MaskedAutoencoder, "after_step", count)
    monkeypatch.setattr(MaskedAutoencoder, "step", 0, raising=False)
    settings = {"log_every_steps": 1, "probe_images": 0}
    recipe = toy.mae(epochs=18 / 84, clip_grad_norm=1.0)
    training.run(recipe, toy.runtime(tmp_path / "whole", **settings))
    assert caplog.text.count("Training is unstable here") == 1
    training.run(recipe, toy.runtime(tmp_path / "parts", stop_after_steps=12, **settings))
    with caplog.at_level(logging.WARNING):
        caplog.clear()
        monkeypatch.setattr(MaskedAutoencoder, "step", 12)
        training.run(recipe, toy.runtime(tmp_path / "parts", **settings))
    rows = [
        {row["step"]: row["loss_spike"] for row in rundir.read_rows(tmp_path / name) if "loss_spike" in row}
        for name in ("whole", "parts")
    ]
    assert rows[0] == rows[1] and rows[0].keys() == {15} and rows[0][15] > 40
    assert caplog.text.count("Training is unstable here") == 1
    assert "loss far above its median at step 15" in compose([tmp_path / "whole"]).details[0].summary


def test_the_report_says_what_was_left_out(tmp_path: Path) -> None:
    collapsed = {"feature_std": 0.0, "feature_std_collapsed": 1.0}
    rows = [{"left_out": 1}, {"left_out": 1}, {"loss_spike": 3.0}, collapsed, collapsed]
    stored.run(tmp_path, "run", toy.mae(), probes=rows)
    summary = compose([tmp_path / "run"]).details[0].summary
    assert "update 9, 19 left out, since it was not finite" in summary
    assert "loss far above its median at step 30" in summary
    assert "feature_std near 0: collapsed features at step 40 and 1 more rows" in summary
