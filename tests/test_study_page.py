"""What is published of a study: tables on pages are those of the numbers, and no page tells where it was made."""

from __future__ import annotations

import importlib
import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from mae_lite import recipes, studies
from tests import stored

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PUBLISHED = sorted((ROOT / "docs" / "studies").glob("*"))
LARGEST_PAGE = 3e6


@pytest.fixture
def study_page(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("study_page")


@pytest.mark.parametrize("page", [ROOT / "README.md", *(place / "index.md" for place in PUBLISHED)], ids=str)
def test_tables_are_those_of_the_numbers(study_page: Any, page: Path) -> None:
    text = page.read_text()
    assert text.count("<!-- end -->") >= 1 and study_page.filled(text, RESULTS) == text


@pytest.mark.parametrize("place", PUBLISHED, ids=lambda place: place.name)
def test_a_study_is_published_whole(place: Path) -> None:
    html = unescape((place / "report.html").read_text())
    assert len(html.encode()) < LARGEST_PAGE
    numbers = json.loads((RESULTS / f"study_{place.name}-cpu.json").read_text())
    study = studies.get(place.name, "cpu")
    assert numbers["complete"] and [one["says"] for one in numbers["claims"]] == [one.says for one in study.claims]
    assert all(one["values"] and one["verdict"] in html and one["says"] in html for one in numbers["claims"])
    summary = (place / "index.md").read_text()
    assert all(one["says"] in summary for one in numbers["claims"])
    for text in (*(page.read_text() for page in place.iterdir()), json.dumps(numbers)):
        assert not re.search(r"[\"'\s=](/tmp|/home|/work|/root|/private)/", text)


def test_publishing_leaves_out_where_it_was_made(study_page: Any, tmp_path: Path) -> None:
    runs, results, docs = tmp_path / "runs", tmp_path / "results", tmp_path / "docs"
    results.mkdir()
    start = stored.run(runs, "start", recipes.get("digits-mae"), losses=())
    tuned = stored.run(runs, "tuned", recipes.get("digits-finetune"), losses=(), init=str(start), top1=0.5)
    for name in ("start", "tuned"):
        status = json.loads((runs / name / "status.json").read_text())
        stored.write(runs / name / "status.json", {**status, "seconds": 1800.0})
    mean = {"method": "MAE", "task": "all labels", "seeds": [0], "values": [50.0]}
    claim = {
        "says": "A.",
        "what": "MAE minus scratch",
        "unit": "points",
        "values": [1.0, 2.0],
        "verdict": "within chance",
    }
    table = {
        "data": "../some/place",
        "numbers": [{"run": str(tuned), "data": "../some/place"}],
        "means": [mean],
        "claims": [claim],
    }
    stored.write(runs / "cifar10-cpu" / "table.json", table)
    (runs / "cifar10-cpu" / "report.html").write_text(
        f"<p>{tuned}, ../some/place of /somewhere/else/mae_lite/__main__.py</p>"
    )
    page = docs / "cifar10" / "index.md"
    page.parent.mkdir(parents=True)
    names = ("accuracies", "claims", "cost", "readme")
    page.write_text("".join(f"Words.\n<!-- {name} study_cifar10-cpu -->\nold\n<!-- end -->\n" for name in names))
    words = ["cifar10", "--study", str(runs / "cifar10-cpu"), "--results", str(results), "--docs", str(docs), "--pages"]
    study_page.main(words)
    assert (page.parent / "report.html").read_text() == "<p>runs/tuned, place of mae_lite/__main__.py</p>"
    found = json.loads((results / "study_cifar10-cpu.json").read_text())
    assert found["numbers"] == [{"run": "runs/tuned", "data": "place"}] and (found["runs"], found["core_seconds"]) == (
        2,
        3600,
    )
    text = page.read_text()
    assert (
        "old" not in text
        and text.count("Words.") == 4
        and "2 runs of pre-training and fine-tuning, 1.0 hours of one core;" in text
    )
    assert "| MAE | 50.0 | 1 |" in text and "| MAE | 50.0 | 1 | 78.0 |" in text
    assert "| A. | MAE minus scratch | +1.5 ± 6.4 points | **within chance** |" in text


def test_a_network_beside_a_study_is_shown_when_it_is_measured(study_page: Any) -> None:
    rows = [{"measured_on": "validation", "rate": rate, "top1": top1, "seconds": 1800} for rate, top1 in ((0.1, 30.0),)]
    tests = [
        {"measured_on": "test", "task": task, "top1": top1, "seconds": 900}
        for task, top1 in (("all", 40.0), ("few", 20.0), ("all", 42.0), ("few", 22.0))
    ]
    content = {"model": "a network", "rows": [*rows, *tests], "command": ["python", "x"], "hardware": {"cpus": 2}}
    lines = study_page.ceiling(content)
    assert lines[0] == "| network | all | few | seeds |" and "| a network | 41.0 ± 12.7 | 21.0 ± 12.7 | 2 |" in lines
    assert "the best is 0.1. `python x`, 2 cores: 1.5 hours." in lines[-1]
    assert study_page.ceiling({**content, "rows": [*rows, *tests[:3]]}) == ["Not measured yet."]


def test_a_run_made_anew_is_compared_bit_by_bit(study_page: Any, tmp_path: Path) -> None:
    folders = [stored.run(tmp_path, name, recipes.get("digits-finetune"), losses=(), top1=0.5) for name in "ab"]
    for folder, content in zip(folders, (b"x", b"y"), strict=True):
        (folder / "classifier").mkdir()
        (folder / "classifier" / "model.safetensors").write_bytes(content)
    assert study_page.again(folders[0], folders[0])["same_weights"]
    found = study_page.again(*folders)
    assert not found["same_weights"] and found["top1_percent"] == [50.0, 50.0]
    assert "the weights differ" in study_page.repeated(found)[0]
    other = stored.run(tmp_path, "c", recipes.get("digits-scratch"), losses=(), top1=0.5)
    with pytest.raises(SystemExit, match="not of one recipe"):
        study_page.again(folders[0], other)
