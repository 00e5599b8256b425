"""Few labels: shares and numbers of each class by seed, and the list of them that a run leaves."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from mae_lite import cli, config, recipes, training
from mae_lite.data.digits import Digits
from mae_lite.data.labels_file import as_csv
from mae_lite.data.sources import subset
from mae_lite.data.splits import few_labels, image_share, label_share
from mae_lite.errors import ConfigError, DataError
from mae_lite.report import read
from mae_lite.rundir import read_rows
from tests import toy

LABELS = np.repeat(np.arange(3), [100, 40, 3])


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


@pytest.mark.parametrize(("fraction", "counts"), [(0.01, [1, 1, 1]), (0.1, [10, 4, 1]), (0.5, [50, 20, 2])])
def test_a_share_of_each_class_and_at_least_one(fraction: float, counts: list[int]) -> None:
    chosen = label_share(LABELS, fraction, seed=0)
    assert np.bincount(LABELS[chosen]).tolist() == counts
    assert (np.diff(chosen) > 0).all()


def test_choices_lie_within_each_other_and_the_seed_decides() -> None:
    one, ten = (set(label_share(LABELS, fraction, seed=5).tolist()) for fraction in (0.01, 0.1))
    two, three = (set(few_labels(LABELS, count, seed=5).tolist()) for count in (2, 3))
    assert one < two < three
    assert {place for place in two if LABELS[place] < 2} < ten
    assert ten != set(label_share(LABELS, 0.1, seed=6).tolist())


def test_a_class_without_an_image_has_no_share() -> None:
    with pytest.raises(DataError, match=r"(?s)'c' cannot be drawn: found no image.*Fix: add images"):
        label_share(np.array([0, 1, 1]), 0.5, 0, ("a", "b", "c"))
    with pytest.raises(DataError, match="label_fraction needs labels"):
        label_share(np.array([-1, -1]), 0.5, 0)


def test_one_answer_to_how_many_labels() -> None:
    with pytest.raises(ConfigError, match=r"(?s)labels_per_class and label_fraction: found 2 and 0.1.*Fix: drop"):
        toy.classifier(label_fraction=0.1)
    with pytest.raises(ConfigError, match="label_fraction is not read in MAE pre-training"):
        toy.mae(label_fraction=0.1)
    for value in (0, 1, 1.5):
        with pytest.raises(ConfigError, match="label_fraction"):
            toy.classifier(labels_per_class=None, label_fraction=value)


def test_a_share_of_the_images_for_pre_training(tmp_path: Path) -> None:
    one, ten = image_share(1000, 0.01, seed=5), image_share(1000, 0.1, seed=5)
    assert one is not None and ten is not None and (len(one), len(ten)) == (10, 100)
    assert set(one) < set(ten) and (np.diff(ten) > 0).all()
    assert image_share(1000, None, seed=5) is None
    least = image_share(3, 0.01, seed=0)
    assert least is not None and len(least) == 1
    with pytest.raises(
        ConfigError, match=r"(?s)image_fraction is not read where labels are.*Fix: drop it; --label-fraction"
    ):
        toy.classifier(image_fraction=0.5)
    with pytest.raises(ConfigError, match="use --image-fraction"):
        toy.mae(label_fraction=0.5)
    whole = toy.mae()
    some = toy.mae(image_fraction=0.1)
    assert "image_fraction" in whole.model_dump() and whole.digest() != some.digest()
    training.run(some, toy.runtime(tmp_path / "run"))
    seen = json.loads((tmp_path / "run" / "provenance.json").read_text())["starts"][0]["data"]
    assert "135 images" in seen, seen  # a tenth of 1,346
    (status,) = [read.read(tmp_path / "run").status]
    assert status["total_steps"] == round(6 / 84 * (135 // 16))


def test_the_setting_changes_a_digest_only_where_it_is_used() -> None:
    recipe = toy.classifier(labels_per_class=None)
    dumped = json.loads(recipe.model_dump_json())
    del dumped["label_fraction"]
    assert config.Recipe.model_validate(dumped).digest() == recipe.digest()
    assert recipes.derive(recipe, label_fraction=0.1).digest() != recipe.digest()
    # As it was before the setting came.
    assert recipes.get("finetune-improved").digest().startswith("7fa5cd485ca3")


def test_a_list_names_images_by_their_place_in_the_whole() -> None:
    whole = Digits("train")
    part = subset(subset(whole, np.arange(100, 200)), [3, 50])
    assert part.positions().tolist() == [103, 150]
    rows = rows_of(as_csv(part))
    assert [row["position"] for row in rows] == ["103", "150"]
    assert [row["name"] for row in rows] == [whole.example(103).name, whole.example(150).name]
    assert [row["class"] for row in rows] == [str(whole.labels[103]), str(whole.labels[150])]


def test_a_run_leaves_the_list_of_its_labels(tmp_path: Path) -> None:
    """With a part held out first, so that positions are not those of what remains."""
    recipe = toy.classifier(labels_per_class=None, label_fraction=0.02, validation_fraction=0.5)
    runtime = toy.runtime(tmp_path / "run", stop_after_steps=1)
    training.run(recipe, runtime)
    rows = rows_of((tmp_path / "run" / "labels.csv").read_text())
    whole = Digits("train")
    assert 10 <= len(rows) <= 20 and max(int(row["position"]) for row in rows) > len(whole) // 2
    for row in rows:
        assert re.fullmatch(r"digit \d+", row["name"]) and row["class"] == str(whole.labels[int(row["position"])])
    assert len({row["class"] for row in rows}) == 10
    (found,) = [read.read(folder) for folder in read.find([tmp_path / "run"])]
    assert found.labels == 1
    training.run(toy.classifier(labels_per_class=None), toy.runtime(tmp_path / "all", stop_after_steps=1))
    assert not (tmp_path / "all" / "labels.csv").exists()


def test_images_that_choose_the_best_epoch_are_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have labels too, and are not counted by --labels-per-class."""
    monkeypatch.chdir(tmp_path)
    small = (
        "--encoder.width 16 --encoder.depth 1 --encoder.num-heads 2 --epochs 1 --warmup-epochs 0 --tensorboard False"
    )
    words = f"finetune digits-scratch --data digits --labels-per-class 2 --global-batch-size 20 {small} --out run"
    assert cli.main([*words.split(), "--validation-fraction", "0.1"]) == 0
    told = capsys.readouterr()
    kept = [row["val_top1"] for row in read_rows(Path("run")) if "val_top1" in row]
    assert "136 labelled images (--validation-fraction 0.1) are set aside for validation" in told.err
    assert f"at best {100 * max(kept):.1f} % of the validation images were recognised" in told.out
    assert cli.main([*words.replace("--out run", "--out plain").split(), "--validation-fraction", "0"]) == 0
    told = capsys.readouterr()
    assert "set aside" not in told.err and "at best" not in told.out
