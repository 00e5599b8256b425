"""The search behind a study's learning rates, and the network that it is measured beside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mae_lite import studies
from tests.benching import BENCHMARKS, module, write_cifar


def searched(monkeypatch: pytest.MonkeyPatch, *rows: str) -> Any:
    """Return the search of the smallest study of photographs, cut to one update, for some of its rows."""
    return module("study_search", monkeypatch).searched(studies.get("cifar10", "smoke"), rows, None)


def test_search_has_as_many_settings_for_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    study, asked = searched(monkeypatch)
    names = ("scratch", "MoCo-v3", "MAE", "D-MAE")
    counted = {row: [one for one in asked.values() if one.row == row] for row in names}
    assert {row: len(set(found)) for row, found in counted.items()} == dict.fromkeys(counted, 6)
    assert len(study.rows) == 24 and len(study.seeds) == 1 and not study.analyses
    task = study.tasks[0]
    for row in study.rows:
        tuned = study.finetuned(row, task, 0)
        assert tuned.validation_fraction == 0.1
        assert tuned.lr_per_256 == pytest.approx(asked[row.name].finetuning)
        first = asked[row.name].pretraining
        assert (row.pretraining is None) == (first is None)
        assert row.pretraining is None or row.pretraining.recipe.lr_per_256 == pytest.approx(first)


def test_search_keeps_rows_that_are_not_searched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search = module("study_search", monkeypatch)
    study, _ = searched(monkeypatch)
    plain = {"pretraining_lr": None, "val_top1": 1.0, "diverged": False}
    scratch = [{**plain, "row": "scratch", "finetuning_lr": rate, "val_top1": rate} for rate in (1.0, 2.0, 3.0)]
    mae = [{**plain, "row": "MAE", "finetuning_lr": 1.0, "diverged": True, "val_top1": None}]
    out = tmp_path / "search.json"
    search.write(out, study, "few", scratch, ["a"])
    found = search.write(out, study, "few", mae, ["b"])
    assert found["settings"] == [*scratch, *mae] and found["commands"] == [["a"], ["b"]]
    assert found["best"] == {"scratch": {**scratch[2], "at_an_edge_of": ["finetuning_lr"]}}
    assert search.write(out, study, "others", mae, ["b"])["settings"] == mae


def test_a_search_can_be_repeated_after_its_rates_were_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    _, asked = module("study_search", monkeypatch).searched(
        studies.get("cifar10", "cpu"), ["scratch", "MAE", "MoCo-v3", "D-MAE"], None
    )
    found = json.loads((BENCHMARKS / "results" / "cifar10_search_cpu.json").read_text())["settings"]
    tried = [(row["row"], row["pretraining_lr"], row["finetuning_lr"]) for row in found]
    assert {tuple(one) for one in asked.values()} == set(tried) and len(tried) == 24


def test_the_study_has_the_rates_that_the_search_found() -> None:
    study = studies.get("cifar10", "cpu")
    found = json.loads((BENCHMARKS / "results" / "cifar10_search_cpu.json").read_text())
    assert found["study"] == study.name and found["settings_per_row"] == 6
    rows = {row.name: row for row in study.rows}
    assert {"scratch", "MAE", "MoCo-v3", "D-MAE"} <= set(found["best"])
    for name, best in found["best"].items():
        assert len([one for one in found["settings"] if one["row"] == name]) == 6
        row = rows[name]
        first = None if row.pretraining is None else row.pretraining.recipe.lr_per_256
        assert (first, row.finetuning.lr_per_256) == (best["pretraining_lr"], best["finetuning_lr"])


@pytest.mark.slow
def test_search_runs_and_repeats_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search = module("study_search", monkeypatch)
    monkeypatch.setattr(search, "SCRATCH", (1.0, 2.0))
    monkeypatch.setattr(search, "PRETRAINING", (1.0,))
    monkeypatch.setattr(search, "FINETUNING", (1.0,))
    write_cifar(tmp_path / "data", images=1000)
    root, out = tmp_path / "runs", tmp_path / "search.json"
    words = [str(tmp_path / "data"), "--scale", "smoke", "--updates", "1", "--root", str(root), "--out", str(out)]
    assert search.main([*words, "--rows", "scratch", "MAE"]) == 0
    found = json.loads(out.read_text())
    assert [row["row"] for row in found["settings"]] == ["scratch", "scratch", "MAE"]
    assert all(0 <= row["val_top1"] <= 100 for row in found["settings"])
    assert str(tmp_path) not in json.dumps(found)
    assert not list(root.glob("*/eval"))  # the test images are not read
    stamps = {path: path.stat().st_mtime_ns for path in root.glob("*/recipe.json")}
    assert len(stamps) == 4
    assert search.main([*words, "--rows", "scratch", "MAE"]) == 0
    assert {path: path.stat().st_mtime_ns for path in root.glob("*/recipe.json")} == stamps
    with pytest.raises(SystemExit, match="no row 'BYOL'"):
        search.main([*words, "--rows", "BYOL"])


@pytest.mark.slow
def test_the_ceiling_is_searched_and_measured_as_the_rows_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ceiling = module("ceiling", monkeypatch)
    write_cifar(tmp_path / "data", images=300)
    out = tmp_path / "ceiling.json"
    words = [str(tmp_path / "data"), "--scale", "smoke", "--rates", "0.05", "1e9", "--out", str(out)]
    assert ceiling.main(words) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [(row["measured_on"], row["rate"]) for row in rows] == [
        ("validation", 0.05),
        ("validation", 1e9),
        ("test", 0.05),
    ]
    assert len({row["updates"] for row in rows}) == 1 and rows[0]["updates"] > 0
    assert rows[0]["top1"] > rows[1]["top1"]
    assert str(tmp_path) not in out.read_text()
    before = out.read_bytes()
    assert ceiling.main(words) == 0 and out.read_bytes() == before
