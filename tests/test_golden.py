"""Run folders of every version that was released go on, are measured and read by this one; newer ones are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mae_lite import __version__, cli, rundir, training
from mae_lite.errors import CheckpointError
from mae_lite.evaluation.classifier import evaluate_run
from mae_lite.evaluation.load import load_run
from mae_lite.report.read import read
from tests import golden

VERSIONS = sorted(folder.name for folder in golden.HOME.iterdir())


def near(expected: Any) -> Any:
    """Return what compares with JSON of ``expected``, numbers within what builds of PyTorch differ by."""
    if isinstance(expected, dict):
        return {key: near(value) for key, value in expected.items()}
    if isinstance(expected, list):
        return [near(value) for value in expected]
    return pytest.approx(expected, rel=1e-3, abs=1e-4) if isinstance(expected, float) else expected


@pytest.mark.parametrize("version", VERSIONS)
def test_runs_of_a_version_go_on_to_the_numbers_it_gave(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    begun = golden.HOME / version
    assert golden.continued(begun) == near(json.loads((begun / "expected.json").read_text()))
    for use in golden.RUNS:
        last = rundir.last_start(Path(use))
        assert last["resumed_at"] == golden.STOPPED_AT, "it began anew"
        run = read(Path(use))
        assert (run.state, run.problems) == ("finished", [])
    assert cli.main(["convert", "pretrain/encoder", "converted", "--to", "timm"]) == 0, capsys.readouterr().err
    assert golden.features(Path("converted")) == near(golden.features(Path("pretrain/encoder")))


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_kept_is_small_and_tells_no_machine(version: str) -> None:
    found = [path for path in (golden.HOME / version).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in found) < 60_000
    words = b"".join(path.read_bytes() for path in found if path.suffix in (".json", ".jsonl", ".csv"))
    assert b"/tmp" not in words and b"/home" not in words and str(Path.home()).encode() not in words


def test_this_format_is_among_them() -> None:
    kept = {json.loads((golden.HOME / name / "pretrain/recipe.json").read_text())["format"] for name in VERSIONS}
    assert rundir.FORMAT in kept, "python tests/golden.py VERSION adds it"
    with pytest.raises(SystemExit, match="exists"):
        golden.main(VERSIONS[0])


def test_a_run_of_a_newer_version_is_refused_by_all_that_read_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for use in golden.RUNS:
        shutil.copytree(golden.HOME / VERSIONS[-1] / use, use)
        for name, key, value in (("recipe", "format", rundir.FORMAT + 1), ("provenance", "starts", None)):
            content = json.loads((Path(use) / f"{name}.json").read_text())
            content[key] = value or [{**content[key][0], "versions": {"mae_lite": "9.8.7"}}]
            (Path(use) / f"{name}.json").write_text(json.dumps(content))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    recipe, other = golden.pretraining(), tmp_path / "other"
    for attempt in (
        lambda: training.run(recipe, golden.runtime("pretrain", None)),
        lambda: training.run(recipe, golden.runtime(str(other), "pretrain")),
        lambda: evaluate_run(Path("finetune")),
        lambda: load_run(Path("pretrain")),
    ):
        with pytest.raises(CheckpointError, match="was written by a newer version") as caught:
            attempt()
        assert f"format {rundir.FORMAT + 1} of mae_lite 9.8.7" in caught.value.found
        assert caught.value.expected == f"at most {rundir.FORMAT} of mae_lite {__version__}"
        assert caught.value.fix == "upgrade mae_lite"
    assert {path: path.read_bytes() for path in before if path.name != "run.lock"} == before
    told = f"recipe.json: format {rundir.FORMAT + 1} of a newer mae_lite, this one knows up to {rundir.FORMAT}"
    assert [read(Path(use)).problems for use in golden.RUNS] == [[told]] * len(golden.RUNS)  # shown, with this beside
