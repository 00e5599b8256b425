"""The demo's road with schedules of a few updates, its table and its page."""

from __future__ import annotations

import html.parser
import json
from pathlib import Path

import pytest

from mae_lite import demo, demo_results
from mae_lite.rundir import checkpoints


class Reader(html.parser.HTMLParser):
    """Collects tags and addresses of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]


@pytest.mark.slow
def test_demo_runs_and_repeats_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    assert demo.run(out, 2, pretrain_steps=3, finetune_steps=2) == 0
    first = capfd.readouterr().out
    for name in (*demo_results.METHODS, *demo_results.BASELINES):
        assert name in first
    assert "With 5 labels per class, MAE pre-training" in first and "95 % intervals over 5 draws" in first
    assert str(out / "report.html") in first
    stages = sorted(path.parent for path in out.glob("*/status.json"))
    assert len(stages) == 1 + 3 * len(demo_results.LABELS) * len(demo_results.SEEDS)
    assert all(json.loads((run / "status.json").read_text())["state"] == "finished" for run in stages)
    reader = Reader()
    reader.feed((out / "report.html").read_text())
    assert reader.tags.count("svg") >= 5
    assert reader.tags.count("script") == 1
    assert all(address.startswith(("data:", "#")) for address in reader.addresses)

    before = {run: (checkpoints(run)[0][1] / "manifest.json").stat().st_mtime_ns for run in stages}
    assert demo.run(out, 2, pretrain_steps=3, finetune_steps=2, as_json=True) == 0
    assert {run: (checkpoints(run)[0][1] / "manifest.json").stat().st_mtime_ns for run in stages} == before
    values = json.loads(capfd.readouterr().out)
    again = {(item["method"], item["labels_per_class"], item["seed"]): item["top1_percent"] / 100 for item in values}
    assert demo_results.as_text(again) in first


def test_few_labels_and_baselines_are_the_known_ones() -> None:
    results = demo.baselines()
    nearest, logistic = (demo_results.mean(results, name, 5) for name in demo_results.BASELINES)
    assert 80 < nearest < 92
    assert 80 < logistic < 92
