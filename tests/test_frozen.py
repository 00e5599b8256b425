"""Probing and embedding: one exact pass, kept, resumed and shared; results, files, words and bad input."""

from __future__ import annotations

import csv
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier

import mae_lite
from mae_lite import cli, training
from mae_lite.analysis import loading
from mae_lite.data.digits import Digits
from mae_lite.data.loader import evaluation_loader
from mae_lite.data.splits import few_labels
from mae_lite.data.transforms import EvalTransform
from mae_lite.errors import CheckpointError, ConfigError, DataError
from mae_lite.evaluation.features import extract
from mae_lite.frozen import kept, writing
from mae_lite.frozen.kept import FeaturePass, Manner, Tap
from mae_lite.report import read
from tests import toy

CHECKPOINT = str(Path(__file__).parent / "fixtures" / "mae_tiny_public_format.pth.tar")
SHAPE = {"depth": 3, "width": 24, "num_heads": 3}
QUICK: dict[str, Any] = {"epochs": 1.0, "ks": (5, 20)}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a pre-training run of three blocks."""
    folder = tmp_path_factory.mktemp("runs") / "toy"
    training.run(toy.mae(encoder=SHAPE), toy.runtime(folder))
    return str(folder)


def forbid_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise AssertionError("a forward pass")

    monkeypatch.setattr(kept, "features_of", refused)


def a_pass(run: str, taps: list[Tap] | None = None, **manner: Any) -> FeaturePass:
    analysed = loading.load(run)
    taps = taps or kept.taps_of(analysed.model, blocks=False)
    return FeaturePass(analysed, Digits("test"), taps, Manner(**{"batch_size": 60, **manner}), "test")


# The pass


def test_features_are_those_of_a_plain_forward_pass(run: str) -> None:
    analysed, source = loading.load(run), Digits("train")
    augmentation = analysed.augmentation
    loader = evaluation_loader(source, EvalTransform(augmentation, 8, 1), batch_size=64, channels=1)
    for token in ("class", "patches"):
        found = mae_lite.embed(run, data="digits", token=token)
        expected = extract(
            analysed.model,
            loader,
            device=torch.device("cpu"),
            mean=augmentation.mean,
            std=augmentation.std,
            token=token,
        )
        assert np.array_equal(found.values, expected.values) and np.array_equal(found.labels, source.labels)
        assert found.ids.tolist() == list(range(1346))


def test_features_of_blocks_end_with_the_last(run: str) -> None:
    last, every = (mae_lite.embed(run, data="digits", split="test", blocks=blocks).values for blocks in (False, True))
    assert every.shape == (451, 3, 24)
    assert np.allclose(every[:, -1], last, atol=1e-6)
    assert not np.allclose(every[:, 0], every[:, 1], atol=1e-2)
    model: Any = loading.load(run).model
    cut = loading.load(run).model
    cut.blocks = cut.blocks[:1]
    images = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        first = kept.features_of(model, images, [Tap(1, "class"), Tap(3, "class")])[Tap(1, "class")]
        assert torch.allclose(first, cut.forward_features(images)[:, 0], atol=1e-6)


def test_a_pass_that_was_cut_off_goes_on_and_is_the_same(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "_PART", 120)
    whole = a_pass(run)
    assert whole.make() == 451 and len(list(whole.folder.glob("*.arrow"))) == 4
    expected = whole.read()
    for number in (1, 3):
        (whole.folder / f"part_{number:06d}.arrow").unlink()
    calls = 0
    genuine = kept.features_of

    def killed(*words: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:  # in the second of the two parts that are missing
            raise KeyboardInterrupt
        return genuine(*words)

    monkeypatch.setattr(kept, "features_of", killed)
    with pytest.raises(KeyboardInterrupt):
        a_pass(run).make()
    assert a_pass(run).missing() == [3]
    assert a_pass(run).make() == 451 - 360
    forbid_passes(monkeypatch)
    found = a_pass(run).read()
    assert np.array_equal(found.ids, expected.ids)
    assert all(np.array_equal(found.values[tap], expected.values[tap]) for tap in expected.values)


def test_a_damaged_part_is_made_again(run: str) -> None:
    features = a_pass(run)
    features.make()
    expected = features.read().values[Tap(3, "patches")]
    (part,) = features.folder.glob("*.arrow")
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    assert np.array_equal(features.read().values[Tap(3, "patches")], expected)


def test_what_decides_features_decides_where_they_are_kept(run: str, tmp_path: Path) -> None:
    analysed = loading.load(run)
    taps = kept.taps_of(analysed.model, blocks=False)
    place = a_pass(run).folder
    assert place == a_pass(run, workers=1, on_bad="skip").folder
    others = [a_pass(run, taps[:1]), FeaturePass(analysed, Digits("train"), taps, Manner(batch_size=60), "train")]
    with torch.no_grad():
        analysed.model.blocks[0].mlp.fc1.bias[0] += 1e-6
    others.append(FeaturePass(analysed, Digits("test"), taps, Manner(batch_size=60), "test"))
    heads = loading.load(run)
    for block in heads.model.blocks:
        block.attn.num_heads = 2
    others.append(FeaturePass(heads, Digits("test"), taps, Manner(batch_size=60), "test"))
    training.run(toy.mae(encoder=SHAPE, augmentation={"mean": (0.4,)}), toy.runtime(tmp_path / "other"))
    assert len({place, *(other.folder for other in others), a_pass(str(tmp_path / "other")).folder}) == 6


@pytest.mark.slow
def test_two_processes_give_every_image_once(run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,346 images in batches of 50 and parts of 1,000: ragged for both."""
    words = ["embed", run, "--data", "digits", "--batch-size", "50"]
    for name, launcher in (("one", []), ("two", _torchrun())):
        monkeypatch.setenv("MAE_LITE_CACHE", str(tmp_path / f"cache-{name}"))
        done = subprocess.run(
            [sys.executable, "-m", *launcher, "mae_lite", *words, "--out", str(tmp_path / f"{name}.parquet")],
            capture_output=True,
            text=True,
            timeout=300,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("1,346 images") == 1
    assert "features of 1,000 images" in done.stderr and "features of 346 images" in done.stderr
    one, two = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("one", "two"))
    assert two["id"].to_pylist() == list(range(1346))
    assert one.equals(two)


def _torchrun() -> list[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return ["torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1", f"--master-port={port}", "-m"]


# The probe


def test_a_probe_of_a_run(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, words = tmp_path / "out", ["probe", run, "--data", "digits", "--ks", "1", "20", "--out"]
    assert cli.main([*words, str(out)]) == 0
    text = capsys.readouterr().out
    found = json.loads((out / "probe.json").read_text())
    assert found["images"] == 451 and found["train"]["images"] == 1346
    rows = found["models"]["toy"]["features"]
    assert [(row["block"], row["token"]) for row in rows] == [(3, "class"), (3, "patches")]
    train, test = (mae_lite.embed(run, data="digits", split=split) for split in ("train", "test"))
    near = KNeighborsClassifier(1, metric="cosine").fit(train.values.astype(np.float64), train.labels)
    assert rows[1]["knn_top1"]["1"] == near.score(test.values.astype(np.float64), test.labels)
    assert rows[1]["linear_top1"] > 0.75
    choice = rows[1]["validation_top1"]
    assert len(choice) == 10 and choice[f"{rows[1]['learning_rate']:g}"] == max(choice.values())
    assert f"{100 * rows[1]['linear_top1']:.1f}" in text and not (out / "labels.csv").exists()
    (of_run,) = (Path(run) / "eval").glob("probe-test-*.json")
    assert json.loads(of_run.read_text())["features"] == rows
    assert read.read(Path(run)).accuracy() is None  # a probe is no accuracy of the run's own classifier
    assert cli.main([*words, str(tmp_path / "again"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["models"] == found["models"]


def test_a_second_probe_runs_no_model(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = mae_lite.probe(run, data="digits", **QUICK)
    forbid_passes(monkeypatch)
    assert mae_lite.probe(run, data="digits", **QUICK) == first
    for settings in ({"labels_per_class": 3}, {"label_fraction": 0.1}, {"seed": 1}):
        assert mae_lite.probe(run, data="digits", **QUICK, **settings) != first


def test_few_labels_are_those_of_fine_tuning_and_listed(run: str, tmp_path: Path) -> None:
    settings = {**QUICK, "labels_per_class": 3, "seed": 4, "split": "test"}
    found = mae_lite.probe(run, data="digits", out=tmp_path, **settings)
    rows = list(csv.DictReader((tmp_path / "labels.csv").read_text().splitlines()))
    labels = Digits("train").labels
    assert [int(row["position"]) for row in rows] == few_labels(labels, 3, 4).tolist()
    assert [row["class"] for row in rows] == [str(labels[int(row["position"])]) for row in rows]
    assert found["train"]["images"] == 30 and list(found["models"]["toy"]["features"][0]["knn_top1"]) == ["5", "20"]
    alone = found["models"]
    mae_lite.embed(run, data="digits")  # then the whole data set has features, which serve
    assert mae_lite.probe(run, data="digits", **settings)["models"] == alone


def test_only_needed_images_are_passed_over(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few labels and a part of train to measure on are one pass; it is the same as one over everything."""
    seen, genuine = [0], kept.features_of

    def counted(model: Any, images: torch.Tensor, taps: Any) -> Any:
        seen[0] += len(images)
        return genuine(model, images, taps)

    monkeypatch.setattr(kept, "features_of", counted)
    settings = {**QUICK, "data": "digits#train", "test_fraction": 0.2, "labels_per_class": 4}
    found = mae_lite.probe(run, **settings)
    assert seen[0] == found["images"] + 40 and found["images"] == pytest.approx(269, abs=3)
    mae_lite.embed(run, data="digits")
    seen[0] = 0
    again = mae_lite.probe(run, **settings)
    assert seen[0] == 0 and again["models"] == found["models"]


def test_blocks_make_figures_with_a_sentence(tmp_path: Path) -> None:
    """Of a run, and of a checkpoint in another format with fewer blocks."""
    data = photos(tmp_path / "photos", 6)
    settings = {**QUICK, "blocks": True, "heads": 12, "test_fraction": 0.5, "rates": (0.05,), "ks": (3,)}
    training.run(toy.mae(encoder={**SHAPE, "channels": 3}, augmentation=COLOUR), toy.runtime(tmp_path / "run"))
    found = mae_lite.probe(tmp_path / "run", CHECKPOINT, data=data, out=tmp_path / "out", **settings)
    assert [len(one["features"]) for one in found["models"].values()] == [6, 4]
    assert found["images"] == 6 and found["split"] == "part of train"
    for kind, words in (("linear", "linear probe"), ("knn", "kNN vote (k = 3)")):
        for token, called in (("class", "class token"), ("patches", "mean patch token")):
            said = found["figures"][f"probe-{kind}-{token}.svg"]
            assert len(said) == 2 and f"run, {called}: the {words} is right for" in said[0]
            svg = (tmp_path / "out" / f"probe-{kind}-{token}.svg").read_text()
            assert "mae_tiny_public_format.pth.tar<" in svg and ">3<" in svg and called in svg
    assert (tmp_path / "out" / "probe-mae_tiny_public_format.pth.tar.json").exists()
    assert list((tmp_path / "run" / "eval").glob("probe-part-*.json"))


def test_the_sentence_says_where_it_is_best() -> None:
    assert writing.sentence("m", "class token", "linear probe", [0.1, 0.5, 0.4]) == (
        "m, class token: the linear probe is right for 10.0 % after block 1 and 40.0 % after block 3; best is block 2 "
        "(50.0 %)."
    )
    assert writing.sentence("m", "t", "l", [0.1, 0.5]).endswith("best is the last.")


COLOUR: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.25,) * 3}


def photos(folder: Path, count: int, classes: tuple[str, ...] = ("bus", "car")) -> str:
    """Write ``count`` images of each class, brighter from class to class; return the folder."""
    random = np.random.default_rng(0)
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = (random.integers(0, 100, (8, 8, 3)) + 100 * label).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return str(folder)


# Files of embed


def test_embedded_files_hold_names_and_labels(run: str, tmp_path: Path) -> None:
    del run
    data = photos(tmp_path / "photos", 3)
    training.run(toy.mae(encoder={**SHAPE, "channels": 3}, augmentation=COLOUR), toy.runtime(tmp_path / "run"))
    (tmp_path / "photos" / "car" / "1.png").write_bytes(b"no image")
    words = ["embed", str(tmp_path / "run"), "--data", data, "--on-bad", "skip", "--out"]
    for name in ("x.parquet", "x.npy"):
        assert cli.main([*words, str(tmp_path / "deep" / name)]) == 0
    table = pq.read_table(tmp_path / "deep" / "x.parquet")
    assert table["id"].to_pylist() == [0, 1, 2, 3, 5]
    assert table["class"].to_pylist() == ["bus"] * 3 + ["car"] * 2 and table["label"].to_pylist() == [0, 0, 0, 1, 1]
    assert table["name"].to_pylist()[3].endswith("car/0.png")
    values = np.load(tmp_path / "deep" / "x.npy")
    assert values.shape == (5, 24) and np.array_equal(values, np.array(table["features"].to_pylist(), np.float32))
    rows = list(csv.DictReader((tmp_path / "deep" / "x.csv").read_text().splitlines()))
    assert [row["name"] for row in rows] == table["name"].to_pylist() and rows[4]["label"] == "1"
    assert cli.main([*words[:-1], "--blocks", "--out", str(tmp_path / "b.parquet")]) == 0
    assert pq.read_table(tmp_path / "b.parquet").column_names[4:] == ["block_1", "block_2", "block_3"]
    with pytest.raises(DataError, match=r"car/1\.png(.|\n)*--on-bad skip"):  # although its features are kept
        mae_lite.embed(tmp_path / "run", data=data)


def test_images_without_labels_are_embedded(tmp_path: Path, run: str) -> None:
    (tmp_path / "grey").mkdir()
    for number in range(3):
        Image.fromarray(np.full((8, 8), 60 * number, np.uint8)).save(tmp_path / "grey" / f"{number}.png")
    assert cli.main(["embed", run, "--data", str(tmp_path / "grey"), "--out", str(tmp_path / "x.parquet")]) == 0
    table = pq.read_table(tmp_path / "x.parquet")
    assert table["label"].to_pylist() == table["class"].to_pylist() == [None] * 3
    with pytest.raises(DataError, match=r"(?s)cannot be probed: found no labels.*Fix: give labelled images"):
        mae_lite.probe(run, data=str(tmp_path / "grey"))


# Bad input


def test_refusals(run: str, tmp_path: Path) -> None:
    one, two, three = (
        photos(tmp_path / str(count), 2, classes) for count, classes in enumerate((("a",), ("a", "b"), ("a", "b", "c")))
    )
    cases: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (DataError, "found one class, 'a'", {"data": one}),
        (DataError, r"(?s)these are the training images.*Fix: .*--test-fraction", {"data": two}),
        (DataError, r"classes of .* differ(.|\n)*extra 'c'", {"data": two, "test_data": three}),
        (
            ConfigError,
            r"(?s)one place to measure on.*Fix: drop",
            {"data": two, "test_data": three, "test_fraction": 0.5},
        ),
        (DataError, r"(?s)no image can be set aside.*Fix: give one rate", {"data": "digits", "labels_per_class": 1}),
        (DataError, "5000 labels per class are not possible", {"data": "digits", "labels_per_class": 5000}),
        (ConfigError, "labels_per_class and label_fraction", {"labels_per_class": 2, "label_fraction": 0.1}),
        (ConfigError, "rates", {"rates": ()}),
        (ConfigError, r"rates\.0: found -1", {"rates": (-1,)}),
        (ConfigError, "ks", {"ks": (0,)}),
        (ConfigError, "nearest: 'labels_per_class'", {"labels_per_clas": 3}),
        (ConfigError, "drop --random", {"random": True}),
    ]
    for error, words, settings in cases:
        with pytest.raises(error, match=words):
            mae_lite.probe(run, out=tmp_path / "out", **{"data": "digits", **settings})
    with pytest.raises(CheckpointError, match="does not exist"):
        mae_lite.probe("nowhere", data="digits")
    with pytest.raises(ConfigError, match="the model is missing"):
        mae_lite.probe(data="digits")
    assert not (tmp_path / "out").exists()


def test_a_class_without_training_images_is_named(tmp_path: Path, run: str) -> None:
    for split, classes in (("train", ("a", "b")), ("test", ("a", "b", "c"))):
        photos(tmp_path / "data" / split, 2, classes)
    (tmp_path / "data" / "train" / "c").mkdir()
    with pytest.raises(DataError, match=r"(?s)1 classes .* no training image .*found 'c'.*Fix: add training images"):
        mae_lite.probe(run, data=str(tmp_path / "data"), allow_empty_classes=True)


@pytest.mark.parametrize(("name", "fix"), [("x.csv", r"--out .*x\.parquet"), ("x", r"--out .*x\.parquet")])
def test_other_endings_are_refused(
    name: str, fix: str, run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["embed", run, "--data", "digits", "--out", str(tmp_path / name)]) == 2
    assert re.search(rf"(?s)ends in \.parquet or \.npy.*Fix: {fix}", capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_one_rate_needs_no_choice(run: str) -> None:
    found = mae_lite.probe(run, data="digits", labels_per_class=1, rates=(0.05,), **QUICK)
    row = found["models"]["toy"]["features"][0]
    assert row["learning_rate"] == 0.05 and row["validation_top1"] is None


@pytest.mark.parametrize("command", ["probe", "embed"])
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    assert f"mae-lite {command} MODEL" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main([command, "runs/x", "--help"])
    assert "--batch-size" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.needs_data
def test_cifar10_classes_are_seen_by_colour_alone(shared_data: Path, tmp_path: Path) -> None:
    """Random features of photographs are worth more than chance, and labels of a tenth of a percent less than more."""
    test = str(shared_data / "cifar10" / "test.parquet")
    tiny = {"patch_size": 8, "width": 24, "depth": 2, "num_heads": 3, "image_size": 32, "channels": 3}
    training.run(toy.mae(encoder=tiny, augmentation=COLOUR), toy.runtime(tmp_path / "run"))
    settings = {"data": test, "test_fraction": 0.5, "label_fraction": 0.02, "epochs": 20.0}
    found = mae_lite.probe(tmp_path / "run", **settings)
    assert found["images"] == 5000 and found["train"]["images"] == 100
    for row in found["models"]["run"]["features"]:
        assert 0.12 < row["linear_top1"] < 0.6 and 0.12 < row["knn_top1"]["10"] < 0.6
