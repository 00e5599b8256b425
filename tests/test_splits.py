"""Which images are taken for training, validation and test, and what guards against mixing them up."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any, cast

import pytest
from lightning_fabric import Fabric
from PIL import Image

from mae_lite import inputs, training
from mae_lite.config import Runtime
from mae_lite.data.opening import open_source
from mae_lite.data.sources import Source, Split, subset
from mae_lite.data.splits import split_in
from mae_lite.errors import ConfigError, DataError, SplitError
from mae_lite.evaluation.classifier import evaluate_run
from tests import toy
from tests.test_data_folder import fails, plant, relative
from tests.test_data_parquet import write


@pytest.mark.parametrize(
    ("folders", "split", "taken", "told"),
    [
        (("train", "val", "validation", "test"), "train", "train", False),
        (("train", "val", "validation", "test"), "val", "val", False),
        (("train", "val", "validation", "test"), "test", "test", False),
        (("train", "validation", "test"), "val", "validation", False),
        (("train", "test"), "val", "test", True),
        (("train", "val", "validation"), "test", "val", True),
        (("train", "Validation"), "test", "Validation", True),
    ],
)
def test_each_split_has_its_folder(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    folders: tuple[str, ...],
    split: Split,
    taken: str,
    told: bool,
) -> None:
    plant(tmp_path, *(f"{folder}/a/1.png" for folder in folders))
    with caplog.at_level(logging.INFO, "mae_lite"):
        assert relative(open_source(str(tmp_path), split), tmp_path) == [f"{taken}/a/1.png"]
    assert [record.levelname for record in caplog.records] == ["INFO"] * told
    if told:
        assert f"{tmp_path} has no {split} images of its own: its {split_in(taken)} images are taken" in caplog.text


@pytest.mark.usefixtures("arrow_cache")
def test_each_split_has_its_parquet_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "train.parquet", [0] * 2)
    write(tmp_path / "test.parquet", [0] * 3)
    with caplog.at_level(logging.INFO, "mae_lite"):
        assert len(open_source(str(tmp_path), "val")) == 3
        assert "has no val images of its own: its test images are taken" in caplog.text
        write(tmp_path / "validation-0.parquet", [0] * 4)
        caplog.clear()
        assert [len(open_source(str(tmp_path), split)) for split in ("train", "val", "test")] == [2, 4, 3]
        assert "of its own" not in caplog.text
        (tmp_path / "test.parquet").unlink()
        assert len(open_source(str(tmp_path), "test")) == 4
    assert "has no test images of its own: its val images are taken" in caplog.text


def test_digits_validate_on_their_test_images() -> None:
    assert open_source("digits", "val").fingerprint() == open_source("digits", "test").fingerprint()


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("name", ["train", "test", "val"])
def test_a_class_may_be_called_like_a_split(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, split: Split
) -> None:
    plant(tmp_path, "bus/1.png", "car/1.png", "car/2.png", f"{name}/1.png")
    source = open_source(str(tmp_path), split)
    assert source.classes == tuple(sorted(("bus", "car", name))) and len(source) == 4
    assert f"'{name}' is taken for a class" in caplog.text and f"PATH/{name}" in caplog.text
    caplog.clear()
    plant(tmp_path / "unpacked" / "deep", "bus/1.png", f"{name}/1.png")
    assert open_source(str(tmp_path / "unpacked"), split).classes == ("deep",)


def test_folders_without_images_do_not_make_splits_classes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(tmp_path, "train/a/1.png", "test/a/2.png", "notes/x.txt", ".cache/1.png", "__MACOSX/train/1.png")
    (tmp_path / "lost+found").mkdir()
    scandir = os.scandir

    def guarded(path: Any) -> Any:
        if Path(os.fsdecode(path)).name == "lost+found":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    assert relative(open_source(str(tmp_path)), tmp_path) == ["train/a/1.png"]
    assert relative(open_source(str(tmp_path), "test"), tmp_path) == ["test/a/2.png"]
    assert not caplog.records


def test_a_missing_validation_split_is_an_error(tmp_path: Path) -> None:
    data = str(plant(tmp_path, "train/a/1.png"))
    message = fails(data, "no val images", "val or validation", split="val", kind=SplitError)
    assert "found only 'train'" in message


def test_validation_data_are_the_validation_split(tmp_path: Path) -> None:
    plant(tmp_path, *(f"{split}/{name}/1.png" for split in ("train", "val", "test") for name in "ab"))
    _, held_out = inputs.images(toy.classifier(labels_per_class=1), both(tmp_path, val_data=str(tmp_path)))
    assert held_out is not None
    assert relative(held_out, tmp_path) == ["val/a/1.png", "val/b/1.png"]


def both(data: Path, **changes: Any) -> Runtime:
    return toy.runtime(data / "out", data=str(data), **changes)


def test_nothing_to_validate_on_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = toy.classifier(labels_per_class=None, validation_fraction=0.2)
    plant(tmp_path / "single", "a/1.png", "b/1.png")
    with pytest.raises(DataError, match=r"(?s)2 images, one of each class.*Fix: .*--validation-fraction 0"):
        inputs.images(recipe, both(tmp_path / "single"))
    plant(tmp_path / "single", "a/2.png")
    train, held_out = inputs.images(recipe, both(tmp_path / "single"))
    assert held_out is not None and (len(train), len(held_out)) == (2, 1)

    def emptied(spec: str, split: Split = "train", **_: Any) -> Source:
        source = open_source(spec)
        return subset(source, []) if split != "train" else source

    monkeypatch.setattr(inputs, "open_source", emptied)
    with pytest.raises(DataError, match=r"(?s)are empty.*Fix: .*--val-data"):
        inputs.images(recipe, both(tmp_path / "single", val_data=str(tmp_path / "single")))


def test_validation_data_in_pre_training_are_refused() -> None:
    runtime = toy.runtime(Path("out"), val_data="digits")
    with pytest.raises(ConfigError, match=r"(?s)val_data.*'toy-mae'.*Fix: drop --val-data"):
        inputs.images(toy.mae(), runtime)
    assert inputs.images(toy.classifier(), runtime)[1] is not None


@pytest.mark.parametrize(
    ("usable", "ranks", "local", "workers"),
    [(6, 1, None, 6), (6, 2, None, 3), (2, 4, None, 1), (64, 1, None, 16), (12, 8, "4", 3)],
)
def test_workers_share_the_cpus_this_process_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, usable: int, ranks: int, local: str | None, workers: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(usable)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 1000)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if local is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
    asked: list[int] = []

    def loader(*_: Any, workers: int, **__: Any) -> list[Any]:
        asked.append(workers)
        return []

    monkeypatch.setattr(inputs, "training_loader", loader)
    monkeypatch.setattr(inputs, "evaluation_loader", loader)
    source = open_source(str(plant(tmp_path, "a/1.png")))

    class Ranks:
        world_size, global_rank = ranks, 0
        device = type("Device", (), {"type": "cpu"})

    for runtime in (toy.runtime(tmp_path, workers=None), toy.runtime(tmp_path, workers=5)):
        inputs.batches(toy.mae(), runtime, source, cast("Any", None), cast("Fabric", Ranks()), tmp_path, 0, 1)
        inputs.in_order(toy.mae(), runtime, source, None, ranks=ranks)
        inputs.in_order(toy.mae(), runtime, open_source("digits"), None, ranks=ranks)
    assert asked == [workers, workers, 0, 5, 5, 5]


def photos(root: Path, count: int, side: int = 8) -> Path:
    """Create a class folder, or a parquet file where the name says so."""
    if root.suffix == ".parquet":
        return write(root, [number % 2 for number in range(count)])
    for number in range(count):
        folder = root / ("cat" if number % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("L", (side, side), number).save(folder / f"{number}.png")
    return root


@pytest.mark.usefixtures("arrow_cache")
@pytest.mark.parametrize("name", ["photos", "photos.parquet"])
def test_training_images_are_not_measured_as_test_images(tmp_path: Path, name: str) -> None:
    data, run = photos(tmp_path / name, 8), tmp_path / "run"
    recipe = toy.classifier(labels_per_class=None, global_batch_size=4, epochs=2)
    assert training.run(recipe, toy.runtime(run, data=str(data))).state == "finished"
    held_out: tuple[Split, ...] = ("test", "val")
    for split in held_out:
        with pytest.raises(DataError, match=r"(?s)images the run was trained on.*8 images.*Fix: .*--split train") as e:
            evaluate_run(run, split=split)
        assert e.value.exit_code == 3
    assert not (run / "eval").exists()
    assert evaluate_run(run, split="train")["images"] == 8
    fresh = photos(tmp_path / f"fresh-{name}", 6)
    assert evaluate_run(run, str(fresh))["images"] == 6
    if data.is_dir():  # a parquet file is known by its name too
        shutil.copytree(data, tmp_path / "copy")
        with pytest.raises(DataError, match="images the run was trained on"):
            evaluate_run(run, str(tmp_path / "copy"))
    data.rename(tmp_path / f"away-{name}")
    assert evaluate_run(run, str(fresh))["images"] == 6  # nothing left to compare with


def test_training_images_set_apart_by_name_are_measured(tmp_path: Path) -> None:
    photos(tmp_path / "set" / "train", 8)
    photos(tmp_path / "set" / "test", 6)
    recipe = toy.classifier(labels_per_class=None, validation_fraction=0.25, global_batch_size=2, epochs=1)
    training.run(recipe, toy.runtime(tmp_path / "run", data=str(tmp_path / "set")))
    assert evaluate_run(tmp_path / "run")["images"] == 6
    with pytest.raises(DataError, match="images the run was trained on"):
        evaluate_run(tmp_path / "run", str(tmp_path / "set" / "train"))


def test_training_images_do_not_validate(tmp_path: Path) -> None:
    data = photos(tmp_path / "photos", 8)
    recipe = toy.classifier(labels_per_class=None)
    with pytest.raises(DataError, match=r"(?s)are the training images.*Fix: .*--val-data"):
        inputs.images(recipe, both(data, val_data=str(data)))
    with pytest.raises(SplitError, match=r"(?s)is not divided.*part 'val'.*Fix: "):
        inputs.images(recipe, both(data, val_data=f"{data}#val"))


def test_the_datas_own_validation_images_are_used_and_must_be_sound(tmp_path: Path) -> None:
    photos(tmp_path / "set" / "train", 8)
    recipe = toy.classifier(labels_per_class=None, validation_fraction=0.25)
    train, held_out = inputs.images(recipe, both(tmp_path / "set"))
    assert held_out is not None and (len(train), len(held_out)) == (6, 2)  # none of its own: a part of train
    photos(tmp_path / "set" / "val", 4)
    train, held_out = inputs.images(recipe, both(tmp_path / "set"))
    assert held_out is not None and (len(train), len(held_out)) == (8, 4)
    (tmp_path / "set" / "val" / "hamster").mkdir()
    with pytest.raises(DataError, match="hamster"):  # not passed over in silence
        inputs.images(recipe, both(tmp_path / "set"))
    photos(tmp_path / "set" / "test", 6)
    (tmp_path / "set" / "val" / "hamster").rmdir()
    (tmp_path / "set" / "val").rename(tmp_path / "gone")
    train, held_out = inputs.images(recipe, both(tmp_path / "set"))
    assert held_out is not None and (len(train), len(held_out)) == (6, 2)  # test images never validate


def test_what_stands_in_is_called_what_it_is(tmp_path: Path) -> None:
    photos(tmp_path / "set" / "train", 8)
    photos(tmp_path / "set" / "val", 6)
    recipe = toy.classifier(labels_per_class=None, global_batch_size=4, epochs=1, warmup_epochs=0)
    training.run(recipe, toy.runtime(tmp_path / "run", data=str(tmp_path / "set")))
    assert evaluate_run(tmp_path / "run", split="test")["split"] == "val"
    assert [path.name.split("-")[0] for path in (tmp_path / "run" / "eval").iterdir()] == ["val"]
