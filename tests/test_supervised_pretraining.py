"""Pre-training with the labels of another set: a folder or a CSV, then fine-tuning on few labels."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from mae_lite import cli, recipes, training
from mae_lite.report.groups import groups
from mae_lite.report.read import read
from mae_lite.rundir import read_rows
from tests import toy
from tests.test_check import photo
from tests.test_training import tensors


def labelled(folder: Path, table: bool) -> Path:
    """Write 24 grey images of three classes as class folders, or with a CSV that names their labels."""
    rows = []
    for number in range(24):
        label = ("left", "middle", "right")[number % 3]
        path = folder / ("images" if table else label) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo(number, (9, 9), "L").save(path)
        rows.append((path.relative_to(folder).as_posix(), label))
    if not table:
        return folder
    with (folder / "labels.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([("path", "label"), *rows])
    return folder / "labels.csv"


@pytest.mark.parametrize("table", [False, True], ids=["folder", "csv"])
def test_other_labels_pretrain_and_their_head_stays_behind(tmp_path: Path, table: bool) -> None:
    recipe = tmp_path / "recipe.json"
    settings = toy.classifier(labels_per_class=None, global_batch_size=12, epochs=2)
    recipe.write_text(settings.model_dump_json())
    before = tmp_path / "runs" / "pretrained"
    words = ["pretrain", str(recipe), "--data", str(labelled(tmp_path / "images", table)), "--out", str(before)]
    words += ["--workers", "0", "--accelerator", "cpu", "--progress", "false", "--log-every-steps", "1"]
    assert cli.main(words) == 0
    assert len(read_rows(before)) == 4
    source = tensors(before)
    assert source["encoder.head.weight"].shape == (3, 16)

    after = tmp_path / "runs" / "tuned"
    tuning = recipes.derive(toy.classifier(), start="pretrained", lr_per_256=1e-9)
    training.run(tuning, toy.runtime(after, init=str(before), stop_after_steps=1))
    tuned = tensors(after)
    assert tuned["encoder.head.weight"].shape == (10, 16)
    for name, value in tuned.items():
        if not name.startswith("encoder.head."):
            assert torch.allclose(value, source[name], atol=1e-6), name


def test_the_report_calls_it_by_its_name(tmp_path: Path) -> None:
    before, after = tmp_path / "pretrained", tmp_path / "tuned"
    training.run(toy.classifier(), toy.runtime(before))
    tuning = recipes.derive(toy.classifier(), "toy-tuning", start="pretrained")
    training.run(tuning, toy.runtime(after, init=str(before)))
    found = {group.label: group.pretraining for group in groups([read(before), read(after)], ())}
    assert found == {"toy-classifier": "scratch", "toy-tuning": "supervised"}
