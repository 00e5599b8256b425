"""Images that cannot be read: replaced by rule up to a limit, listed, or an error; the run stays reproducible."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import mae_lite
from mae_lite import cli, probing, recipes
from mae_lite.config import Augmentation, Recipe
from mae_lite.data.bad_files import BadFile, BadFiles, allowed, as_row
from mae_lite.data.loader import evaluation_loader, training_loader
from mae_lite.data.opening import open_source
from mae_lite.data.plan import Plan
from mae_lite.data.sources import Source
from mae_lite.data.transforms import EvalTransform, TrainTransform
from mae_lite.errors import DataError
from tests import toy

PLAIN = Augmentation(crop_scale=None, flip=0.0, mean=(0.5,), std=(0.25,), eval_crop=1.0)


def photos(root: Path, count: int = 40, bad: tuple[int, ...] = ()) -> Path:
    """Create two classes of grey images whose value is their number; those in ``bad`` are cut off."""
    for number in range(count):
        path = root / ("cat" if number % 2 else "dog") / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), number).save(path)
        if number in bad:
            path.write_bytes(path.read_bytes()[:40])
    return root


def grey(**changes: Any) -> Recipe:
    settings = {"epochs": 8, "warmup_epochs": 1, **changes}
    return recipes.derive(toy.mae(), augmentation=PLAIN.model_dump(), **settings)


@pytest.fixture
def source(tmp_path: Path, arrow_cache: Path) -> Source:
    del arrow_cache
    return open_source(str(photos(tmp_path / "photos", bad=(3, 8, 31))))


def training(source: Source, workers: int, start: int = 0) -> list[tuple[list[int], list[int], list[str]]]:
    """Return ids, pixel values and bad files of every batch of five epochs."""
    plan = Plan(samples=len(source), global_batch_size=8, micro_batch_size=8, seed=1)
    loader = training_loader(
        source, TrainTransform(PLAIN, 8, 1), plan, channels=1, start_step=start, stop_step=25, workers=workers
    )
    return [
        (batch.ids.tolist(), batch.images[:, 0, 0, 0].tolist(), [Path(item.name).name for item in batch.bad])
        for batch in loader
    ]


@pytest.mark.parametrize("workers", [0, 2])
def test_another_image_stands_in_and_always_the_same(source: Source, workers: int) -> None:
    expected = training(source, 0)
    assert training(source, workers) == expected
    assert training(source, workers, start=12) == expected[12:]
    bad_ids = {index for index in range(len(source)) if source.example(index).name[-7:-4] in ("003", "008", "031")}
    assert len(bad_ids) == 3
    for ids, values, _ in expected:
        assert len(ids) == 8 and not bad_ids & set(ids)
        # The pixels belong to the id that is told, and so does its label.
        assert values == [int(source.example(index).name[-7:-4]) for index in ids]
    found = [name for *_, bad in expected for name in bad]
    assert set(found) == {"003.png", "008.png", "031.png"} and len(found) >= 15


def test_evaluation_leaves_them_out(source: Source) -> None:
    loader = evaluation_loader(source, EvalTransform(PLAIN, 8, 1), batch_size=7, channels=1)
    batches = list(loader)
    assert sum(len(batch.ids) for batch in batches) == 37 and sum(len(batch.bad) for batch in batches) == 3
    labels = np.concatenate([batch.labels.numpy() for batch in batches])
    assert labels.tolist() == source.labels[np.concatenate([batch.ids.numpy() for batch in batches])].tolist()


@pytest.mark.usefixtures("arrow_cache")
def test_a_run_lists_them_once_over_all_its_starts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = photos(tmp_path / "photos", bad=(3, 8, 31))
    recipe = grey(global_batch_size=8)
    whole = mae_lite.run(recipe, toy.runtime(tmp_path / "whole", data=str(data)))
    for stop in (7, 16, None):
        parts = mae_lite.run(recipe, toy.runtime(tmp_path / "parts", data=str(data), stop_after_steps=stop))
    assert whole.state == parts.state == "finished"
    tables = [list(csv.reader((run.folder / "bad_files.csv").open())) for run in (whole, parts)]
    assert tables[0][0] == ["set", "index", "image", "reason"]
    for table in tables:
        assert sorted(Path(row[2]).name for row in table[1:]) == ["003.png", "008.png", "031.png"]
        assert all(row[0] == "train" and "truncated" in row[3] for row in table[1:])
    assert (whole.folder / "encoder" / "model.safetensors").read_bytes() == (
        parts.folder / "encoder" / "model.safetensors"
    ).read_bytes()
    assert "bad image 1 of at most 10" in caplog.text


@pytest.mark.usefixtures("arrow_cache")
@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: int) -> None:
    data = photos(tmp_path / "photos", 60, bad=tuple(range(0, 44, 4)))
    words = ["pretrain", "digits-mae", "--data", str(data), "--out", str(tmp_path / "run"), "--global-batch-size", "20"]
    assert cli.main([*words, "--epochs", "3", "--warmup-epochs", "1", "--workers", str(workers)]) == 3
    message = capsys.readouterr().err
    assert "too many images of the train set are bad: found 11 of 60" in message
    assert "at most 10 (10, or 0.1 %)" in message and "Fix: run mae-lite check" in message
    assert len((tmp_path / "run" / "bad_files.csv").read_text().splitlines()) == 12
    # They are known now, and still too many.
    assert cli.main([*words, "--epochs", "3", "--warmup-epochs", "1", "--workers", str(workers)]) == 3
    assert "found 11 of 60" in capsys.readouterr().err
    assert len((tmp_path / "run" / "bad_files.csv").read_text().splitlines()) == 12


@pytest.mark.usefixtures("arrow_cache")
def test_the_first_may_be_an_error(tmp_path: Path) -> None:
    data = photos(tmp_path / "photos", bad=(3,))
    with pytest.raises(DataError, match=r"(?s)003.png.*Fix: .*--on-bad skip"):
        mae_lite.run(grey(), toy.runtime(tmp_path / "run", data=str(data), on_bad="fail"))


@pytest.mark.usefixtures("arrow_cache")
def test_nothing_but_bad_files_ends_at_once(tmp_path: Path) -> None:
    data = photos(tmp_path / "photos", bad=tuple(range(40)))
    with pytest.raises(DataError, match=r"(?s)nearly all images.*cannot be read: damaged.*Fix: replace it by"):
        mae_lite.run(grey(), toy.runtime(tmp_path / "run", data=str(data)))


@pytest.mark.usefixtures("arrow_cache")
def test_validation_and_evaluation_count_without_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos(tmp_path / "set" / "train")
    photos(tmp_path / "set" / "val", 10, bad=(2,))
    recipe = recipes.derive(
        toy.classifier(labels_per_class=None, global_batch_size=20, epochs=2), augmentation=PLAIN.model_dump()
    )
    run = mae_lite.run(recipe, toy.runtime(tmp_path / "run", data=str(tmp_path / "set")))
    rows = list(csv.reader((run.folder / "bad_files.csv").open()))[1:]
    assert [(row[0], Path(row[2]).name) for row in rows] == [("val", "002.png")]
    with pytest.raises(DataError, match=r"(?s)002.png.*Fix: .*--on-bad skip"):
        mae_lite.evaluate(run.folder)
    result = mae_lite.evaluate(run.folder, on_bad="skip")
    assert (result["images"], result["unreadable"]) == (9, 1)
    assert cli.main(["evaluate", str(run.folder), "--on-bad", "skip"]) == 0
    assert "1 more could not be read" in capsys.readouterr().out


@pytest.mark.usefixtures("arrow_cache")
@pytest.mark.parametrize("fate", ["vanishes", "is cut", "becomes text", "may not be read"])
@pytest.mark.parametrize("workers", [0, 1])
def test_files_that_change_during_a_run_are_survived(tmp_path: Path, fate: str, workers: int) -> None:
    data = photos(tmp_path / "photos")
    first = mae_lite.run(
        grey(global_batch_size=8), toy.runtime(tmp_path / "run", data=str(data), stop_after_steps=3, workers=workers)
    )
    assert first.state == "paused"
    victim = data / "cat" / "005.png"
    source = open_source(str(data))
    if fate == "vanishes":
        victim.unlink()
    elif fate == "is cut":
        victim.write_bytes(victim.read_bytes()[:30])
    elif fate == "becomes text":
        victim.write_text("this was an image once")
    elif os.getuid() == 0:  # whom permissions do not stop
        victim.unlink()
        victim.symlink_to("/proc/self/mem")
    else:
        victim.chmod(0)
    recipe = grey(global_batch_size=8, epochs=2)
    run = mae_lite.run(recipe, toy.runtime(tmp_path / "again", data=str(data), workers=workers), source)
    assert run.state == "finished"
    rows = list(csv.reader((run.folder / "bad_files.csv").open()))[1:]
    assert [Path(row[2]).name for row in rows] == ["005.png"] and rows[0][3]


def test_limits() -> None:
    assert [allowed(count) for count in (1, 1000, 10000, 10999, 11000, 1_281_167)] == [10, 10, 10, 10, 11, 1281]


@given(st.text(st.characters(codec=None)), st.text())  # surrogates too, as names that are no UTF-8 have
def test_rows_of_the_list_are_harmless(name: str, reason: str) -> None:
    line = as_row("train", 1, name, reason)
    line.encode("utf-8")
    assert all(sign.isprintable() for sign in line)
    cells = next(csv.reader([line]))
    assert len(cells) == 4 and not any(cell.startswith(("=", "+", "-", "@")) for cell in cells)


def test_a_full_disk_costs_the_list_not_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad = BadFiles("train", 40, "skip", tmp_path / "missing" / "bad_files.csv")
    bad.add([BadFile(1, "a.png", "empty")])
    assert bad.count == 1 and "training goes on" in caplog.text


@pytest.mark.usefixtures("arrow_cache")
def test_bad_images_where_previews_look_do_not_end_a_run(tmp_path: Path) -> None:
    data = photos(tmp_path / "photos", 200)
    recipe = grey(global_batch_size=20, epochs=1, warmup_epochs=0)
    shown = probing.pictured(200, recipe.seed)
    source = open_source(str(data))
    for index in shown.tolist():
        Path(source.example(index).name).write_bytes(b"")
    run = mae_lite.run(recipe, toy.runtime(tmp_path / "run", data=str(data)))
    assert run.state == "finished" and (run.folder / "encoder").is_dir()


def test_half_of_a_small_set_may_be_bad(tmp_path: Path) -> None:
    source = open_source(str(photos(tmp_path / "photos", 20, bad=tuple(range(0, 20, 2)))))
    plan = Plan(samples=20, global_batch_size=20, micro_batch_size=20, seed=1)
    loader = training_loader(source, TrainTransform(PLAIN, 8, 1), plan, channels=1, start_step=0, stop_step=200)
    assert all(len(batch.ids) == 20 for batch in loader)


def test_a_list_that_somebody_edited_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "bad_files.csv"
    path.write_text("set,index,image,reason\ntrain,3,a,b\ntrain,4.0,a,b\ntrain\nval,5,a,b\n\x00\n")
    assert BadFiles("train", 40, "skip", path).count == 1
