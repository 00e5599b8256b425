"""Predictions are what timm and transformers compute, from every kind of model, and bad input is told."""

from __future__ import annotations

import copy
import csv
import io
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data.config import resolve_data_config
from timm.data.transforms_factory import create_transform

import mae_lite
from mae_lite import cli, training
from mae_lite.config import Augmentation
from mae_lite.data.listed import named
from mae_lite.data.opening import open_source
from mae_lite.data.prepared import Prepare
from mae_lite.data.sources import Objects, subset
from mae_lite.errors import CheckpointError, ConfigError, DataError, NumericsError
from mae_lite.models import weights
from mae_lite.predicting.predict import Prediction
from tests import toy
from tests.test_errors import assert_contract

Captured = pytest.CaptureFixture[str]
CLASSES = ("=cat", "dog\x1b[2J", 'no, "really"')
"""A formula, an order to a terminal, and what CSV has to quote."""


def colour(seed: int, size: tuple[int, int] = (40, 25)) -> Image.Image:
    """Return a smooth random colour image, ``size`` wide and high."""
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return runs that are only read: classifiers of grey and of colour images, and pre-training."""
    folder = tmp_path_factory.mktemp("runs")
    for number in range(9):
        place = folder / "labelled" / ("train", "test", "test")[number // 3] / CLASSES[number % 3]
        place.mkdir(parents=True, exist_ok=True)
        colour(number).save(place / f"{number}.png")
    small: dict[str, Any] = {"global_batch_size": 3, "labels_per_class": None, "epochs": 2, "warmup_epochs": 1}
    seen = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25), "eval_crop": 0.875}
    encoder = {"channels": 3, "image_size": 16}
    recipes = {
        "colour": toy.classifier(encoder=encoder, augmentation=seen, **small),
        "grey": toy.classifier(),
        "swin": toy.classifier(encoder=toy.SWIN),
        "mae": toy.mae(),
    }
    for name, recipe in recipes.items():
        data = str(folder / "labelled") if name == "colour" else "digits"
        training.run(recipe, toy.runtime(folder / name, data=data))
    return {name: folder / name for name in (*recipes, "labelled")}


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Provide images of several shapes, at several depths, in an empty working folder."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("a.png", "b.jpg", "deep/er/c.png")):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        colour(20 + number, (30 + 10 * number, 50 - 10 * number)).save(path)
    return Path("photos")


def by_timm(folder: Path, image: Path, top: int) -> tuple[list[int], list[float]]:
    """Return numbers and probabilities of the best classes, with nothing but timm and Pillow."""
    model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    settings: Any = resolve_data_config({}, model=model)
    prepare: Any = create_transform(**settings)
    with Image.open(image) as opened, torch.no_grad():
        shares = model(prepare(opened.convert("RGB")).unsqueeze(0)).softmax(dim=1)[0]
    best = shares.topk(top)
    return best.indices.tolist(), best.values.tolist()


def predicted(model: Path | str, *images: Path | str, **settings: Any) -> list[Prediction]:
    return list(mae_lite.predict(model, list(images), **settings))


def run(*words: str | Path) -> int:
    return cli.main([str(word) for word in words])


def refused(capsys: Captured, code: int, *mentions: str, words: tuple[str | Path, ...]) -> None:
    """Check that a command is refused with one message, before it prints anything."""
    found, captured = run(*words), capsys.readouterr()
    assert captured.out == ""
    assert_contract(captured.err, found, code, mentions=mentions)


def test_predictions_are_timms(finished: dict[str, Path], photos: Path) -> None:
    found = predicted(finished["colour"], photos, top=3)
    assert [item.image for item in found] == ["photos/a.png", "photos/b.jpg", "photos/deep/er/c.png"]
    for item in found:
        numbers, shares = by_timm(finished["colour"] / "classifier", Path(item.image), 3)
        assert item.classes == tuple(CLASSES[number] for number in numbers)
        assert item.probabilities == pytest.approx(shares, abs=2e-6)
        assert sum(item.probabilities) == pytest.approx(1) and item.error == ""


def test_the_accuracy_is_that_of_evaluate(finished: dict[str, Path]) -> None:
    source = open_source("digits", "test")
    found = predicted(finished["grey"], "digits", top=1)
    classes = source.classes or ()
    right = [item.classes[0] == classes[label] for item, label in zip(found, source.labels.tolist(), strict=True)]
    assert np.mean(right) == mae_lite.evaluate(finished["grey"])["top1"]


@pytest.mark.parametrize("settings", [{"batch_size": 1}, {"batch_size": 2, "workers": 1}])
def test_batches_and_workers_change_nothing(finished: dict[str, Path], photos: Path, settings: dict[str, Any]) -> None:
    (photos / "b2.png").write_bytes(b"no image")
    for one, other in zip(
        predicted(finished["colour"], photos), predicted(finished["colour"], photos, **settings), strict=True
    ):
        assert (one.image, one.classes, one.error) == (other.image, other.classes, other.error)
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-6)


def converted(finished: dict[str, Path]) -> Path:
    assert run("convert", finished["colour"], "converted") == 0
    return Path("converted")


def bare_file(finished: dict[str, Path]) -> Path:
    return Path(shutil.copy(finished["colour"] / "classifier" / "model.safetensors", "bare.safetensors"))


KINDS: dict[str, Any] = {
    "run": lambda runs: runs["colour"],
    "checkpoint": lambda runs: max((runs["colour"] / "checkpoints").iterdir(), key=lambda path: int(path.name[5:])),
    "timm": lambda runs: runs["colour"] / "classifier",
    "converted": converted,
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_says_the_same(kind: str, finished: dict[str, Path], photos: Path) -> None:
    expected = predicted(finished["colour"], photos)
    for one, other in zip(predicted(KINDS[kind](finished), photos), expected, strict=True):
        assert one.classes == other.classes
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-6)


def test_a_bare_file_needs_heads_and_has_numbers_for_classes(
    finished: dict[str, Path], photos: Path, capsys: Captured
) -> None:
    file = bare_file(finished)
    refused(capsys, 4, "does not say its number of attention heads", words=("predict", file, photos))
    classifier: Any = mae_lite.load_classifier(file, heads=2)
    assert classifier.classes == ("0", "1", "2")
    known: Any = mae_lite.load_classifier(finished["colour"])
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(classifier(images), known(images))
    assert run("predict", file, photos, "--heads", "2") == 0
    captured = capsys.readouterr()
    assert "no names for its 3 classes" in captured.err and "does not say how its images are normalised" in captured.err


def test_swin(finished: dict[str, Path]) -> None:
    some = subset(open_source("digits", "test"), range(5))
    one, other = (list(mae_lite.predict(path, some)) for path in (finished["swin"], finished["swin"] / "classifier"))
    assert [item.classes for item in one] == [item.classes for item in other] and len(one) == 5


def test_other_architectures_of_timm(photos: Path) -> None:
    model: Any = timm.create_model("test_resnet", num_classes=4)
    settings = {"architecture": "test_resnet", "num_classes": 4, "label_names": ["k", "l", "m", "n"]}
    about = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.25] * 3, "crop_pct": 0.8, "num_classes": 4}
    about |= {"interpolation": "bicubic", "first_conv": "conv1.0", "classifier": "fc"}
    Path("resnet").mkdir()
    Path("resnet/config.json").write_text(json.dumps({**settings, "pretrained_cfg": about}))
    Path("resnet/model.safetensors").write_bytes(weights.to_bytes(model.state_dict()))
    for item in predicted("resnet", photos, top=2):
        numbers, shares = by_timm(Path("resnet"), Path(item.image), 2)
        assert item.classes == tuple("klmn"[number] for number in numbers)
        assert item.probabilities == pytest.approx(shares, abs=2e-6)


@pytest.mark.usefixtures("photos")
def test_a_hugging_face_classifier() -> None:
    transformers = pytest.importorskip("transformers")
    names = [f"class {number}" for number in range(12)]
    shape: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32}
    shape |= {"intermediate_size": 64, "patch_size": 8, "initializer_range": 0.3}
    settings = transformers.ViTConfig(**shape, id2label=dict(enumerate(names)))
    torch.manual_seed(0)
    theirs = transformers.ViTForImageClassification(settings).eval()
    theirs.save_pretrained("hf")
    content = json.loads(Path("hf/config.json").read_text())
    content["id2label"] = dict(sorted(content["id2label"].items()))  # as words: 0, 1, 10, 11, 2
    Path("hf/config.json").write_text(json.dumps(content))
    about = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    Path("hf/preprocessor_config.json").write_text(json.dumps(about))
    classifier: Any = mae_lite.load_classifier("hf")
    assert list(classifier.classes) == names
    square = Path("square.png")
    colour(3, (32, 32)).save(square)
    inputs = classifier.transform(square)
    with Image.open(square) as image:
        assert torch.allclose(inputs, torch.tensor(np.asarray(image)).permute(2, 0, 1) / 127.5 - 1, atol=1e-6)
    with torch.no_grad():
        scores = theirs(inputs.unsqueeze(0)).logits[0]
    (found,) = predicted("hf", square, top=12)
    assert found.classes == tuple(names[number] for number in scores.argsort(descending=True).tolist())
    assert found.probabilities == pytest.approx(scores.softmax(0).sort(descending=True).values.tolist(), abs=1e-5)


def test_models_are_plain_modules(finished: dict[str, Path]) -> None:
    classifier: Any = mae_lite.load_classifier(finished["colour"])
    encoder: Any = mae_lite.load_encoder(str(finished["mae"]))
    for model, channels, side in ((classifier, 3, 16), (encoder, 1, 8)):
        assert not model.training
        assert model.transform(colour(1)).shape == (channels, side, side)
        assert not [name for name in model.state_dict() if "transform" in name or "classes" in name]
    again: Any = copy.deepcopy(classifier.transform)
    assert torch.equal(again(colour(1)), classifier.transform(colour(1)))
    assert "short side 18 px" in repr(classifier.transform)
    assert encoder.forward_features(encoder.transform(colour(1)).unsqueeze(0)).shape == (1, 5, 16)


def test_a_loaded_classifier_is_left_as_it_was(finished: dict[str, Path], photos: Path) -> None:
    classifier: Any = mae_lite.load_classifier(finished["colour"]).train()
    results = mae_lite.predict(classifier, photos)
    first = next(iter(results))
    assert classifier.training and first == predicted(finished["colour"], photos)[0]
    with pytest.raises(ConfigError, match="Linear does not say"):
        mae_lite.predict(torch.nn.Linear(1, 1), photos)
    with pytest.raises(ConfigError, match="heads is not read here"):
        mae_lite.predict(classifier, photos, heads=2)


def test_preparing_takes_whatever_the_guard_does(tmp_path: Path) -> None:
    prepare = Prepare(Augmentation(mean=(0.0,), std=(1.0,), eval_crop=1.0), 8, 1)
    image = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    image.save(path := tmp_path / "x.png")
    pixels = np.asarray(image)
    expected = torch.from_numpy(pixels.copy()).float().div(255).unsqueeze(0)
    for given in (image, pixels, path, str(path), path.read_bytes()):
        assert torch.equal(prepare(given), expected)
    with pytest.raises(DataError, match="the bytes"):
        prepare(b"nothing")


def test_names_files_folders_and_patterns(photos: Path) -> None:
    (photos / "[odd].png").write_bytes((photos / "a.png").read_bytes())
    (photos / "notes.txt").write_text("x")

    def names(*words: str, lines: tuple[str, ...] = ()) -> list[str]:
        source = named(words, lines)
        assert source.classes is None and len(str(source.fingerprint()["sha256"])) == 64
        return [source.example(index).name for index in range(len(source))]

    every = ["photos/[odd].png", "photos/a.png", "photos/b.jpg", "photos/deep/er/c.png"]
    assert names("photos") == names("photos/") == every
    assert names("photos/*.png") == every[:2]
    assert names("photos/**/*.png") == [every[0], every[1], every[3]]
    assert names("photos/[odd].png") == every[:1], "a name that is there is no pattern"
    assert names("photos/d*") == [every[3]]
    assert names("photos/b.jpg", "photos/a.png", "photos/b.jpg") == [every[2], every[1], every[2]]
    assert names("photos/b.jpg", "-", lines=("photos/*.png\n", "\n", "photos/deep\r\n")) == [
        *("photos/b.jpg", "photos/*.png", every[3])
    ]
    with pytest.raises(ConfigError, match="twice"):
        named(["-", "-"])


def test_paths_on_standard_input(
    finished: dict[str, Path], photos: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = os.fsdecode(b"photos/\xff.png")
    shutil.copy(photos / "a.png", odd)
    listed = io.BytesIO(b"photos/b.jpg\n\nphotos/\xff.png\nnowhere.png\n")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(listed))
    assert run("predict", finished["colour"], "-", "--top", "1") == 3
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.startswith("photos/b.jpg ") and second.startswith("photos/\\udcff.png ") and "%" in second
    assert third.startswith("nowhere.png ") and "No such file" in third
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO()))
    refused(capsys, 3, "no image is named", words=("predict", finished["colour"], "-"))
    listed = io.BytesIO(b"\nphotos/b.jpg\n\nphotos/a.png\nnowhere.png\n")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(listed))
    assert run("predict", finished["colour"], "-", "--limit", "2") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["photos/b.jpg", "photos/a.png"]


def test_a_bad_image_has_the_reason_on_its_line(finished: dict[str, Path], photos: Path, capsys: Captured) -> None:
    whole = (photos / "b.jpg").read_bytes()
    (photos / "broken.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "empty.png").write_bytes(b"")
    np.save(photos / "five.npy", np.zeros((8, 8, 5), np.uint8))
    assert run("predict", finished["colour"], photos) == 3
    captured = capsys.readouterr()
    lines = {line.split()[0]: line for line in captured.out.splitlines()}
    assert len(lines) == 6 and "%" in lines["photos/a.png"] and "%" in lines["photos/deep/er/c.png"]
    assert "truncated" in lines["photos/broken.jpg"] and "0 bytes" in lines["photos/empty.png"]
    assert "another number of channels than the model: 5" in lines["photos/five.npy"]
    assert "3 of 6 images could not be read" in captured.err
    assert run("predict", finished["colour"], photos, "--on-bad", "skip") == 0
    assert capsys.readouterr().out == captured.out
    assert run("predict", finished["colour"], photos / "empty.png", "--out", "bad.csv") == 3
    (row,) = csv.DictReader(Path("bad.csv").open())
    assert row["class_1"] == row["probability_1"] == "" and "0 bytes" in row["error"]


def test_images_of_another_channel_count_are_converted(finished: dict[str, Path], photos: Path) -> None:
    colour(5).convert("L").save(photos / "grey.png")
    grey, as_colour = photos / "grey.png", photos / "again.png"
    Image.open(grey).convert("RGB").save(as_colour)
    one, other = predicted(finished["colour"], grey, as_colour)
    assert one.classes == other.classes and one.probabilities == pytest.approx(other.probabilities, abs=1e-6)
    (found,) = predicted(finished["grey"], photos / "a.png")
    assert len(found.classes) == 3


def test_terminals_and_spreadsheets_obey_no_name(finished: dict[str, Path], photos: Path, capsys: Captured) -> None:
    shutil.copytree(photos, "set")
    name = "=1+1,\x1b[31m\n\u202e.png"
    shutil.copy(photos / "a.png", Path("set") / name)
    (Path("set") / f"bad{name}").write_bytes(b"\x1b[31m")
    assert run("predict", finished["colour"], "set", "--out", "out.csv") == 3
    assert run("predict", finished["colour"], "set") == 3
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 1 + 5
    assert all(sign.isprintable() or sign == "\n" for sign in captured.out + captured.err)
    text = Path("out.csv").read_bytes().decode()
    assert all(sign.isprintable() or sign == "\n" for sign in text)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 5 and {row["image"] for row in rows} >= {"set/a.png", "set/=1+1,\\x1b[31m\\n\\u202e.png"}
    seen = {row["class_1"] for row in rows} | {row["class_2"] for row in rows} | {row["class_3"] for row in rows}
    assert seen == {"'=cat", "dog\\x1b[2J", 'no, "really"', ""}


def test_json_and_csv_hold_what_python_gives(finished: dict[str, Path], photos: Path, capsys: Captured) -> None:
    (photos / "x.png").write_bytes(b"")
    expected = predicted(finished["colour"], photos, top=2)
    assert run("predict", finished["colour"], photos, "--top", "2", "--json", "--on-bad", "skip") == 0
    printed = json.loads(capsys.readouterr().out)
    assert run("predict", finished["colour"], photos, "--top", "2", "--out", "new/out.json") == 3
    assert json.loads(Path("new/out.json").read_text()) == printed
    assert capsys.readouterr().out == "4 images: new/out.json\n"
    assert (printed["model"], printed["unreadable"]) == (str(finished["colour"]), 1)
    for item, shown in zip(expected, printed["images"], strict=True):
        assert (item.image, item.error or None) == (shown["image"], shown["error"])
        pairs = [(each["class"], each["probability"]) for each in shown["predictions"]]
        assert pairs == list(zip(item.classes, item.probabilities, strict=True))
    assert run("predict", finished["colour"], photos, "--top", "2", "--out", "out.csv") == 3
    for item, row in zip(expected, csv.DictReader(Path("out.csv").open()), strict=True):
        if not item.error:
            assert float(row["probability_2"]) == pytest.approx(item.probabilities[1], rel=1e-5)
        assert (row["image"], row["error"]) == (item.image, item.error)


def test_labels_are_shown_beside_what_is_predicted(finished: dict[str, Path], photos: Path, capsys: Captured) -> None:
    model, labelled = finished["colour"], finished["labelled"]
    source = open_source(str(labelled), "test")
    words = [(source.classes or ())[label] for label in source.labels]
    found = predicted(model, labelled, split="test")
    assert [item.label for item in found] == words and {item.label for item in predicted(model, photos)} == {None}
    right = sum(item.classes[0] == item.label for item in found)
    assert run("predict", model, labelled, "--split", "test", "--out", "out.csv") == 0
    said = f"{right} of 6 labelled images have their label first ({100 * right / 6:.1f} %)\n"
    assert capsys.readouterr().err.endswith(said)
    shown = {"=cat": "'=cat", "dog\x1b[2J": "dog\\x1b[2J", 'no, "really"': 'no, "really"'}
    assert [row["label"] for row in csv.DictReader(Path("out.csv").open())] == [shown[word] for word in words]
    assert run("predict", model, labelled, "--split", "test", "--json") == 0
    assert [image["label"] for image in json.loads(capsys.readouterr().out)["images"]] == words
    assert run("predict", model, labelled, "--split", "test", "--limit", "2") == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert len(lines) == 2 and all("  labelled =cat " in line for line in lines) and "of 2 labelled" in captured.err
    assert run("predict", model, photos, "--limit", "1") == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("photos/a.png ") and "labelled" not in captured.out + captured.err


def test_labels_that_the_model_does_not_know_are_no_mistakes(finished: dict[str, Path], capsys: Captured) -> None:
    assert run("predict", finished["grey"], finished["labelled"], "--split", "test", "--top", "1") == 0
    captured = capsys.readouterr()
    assert captured.err.endswith("6 labelled images have a label that is no class of the model\n")
    assert "label first" not in captured.err and captured.out.count("  labelled ") == 6


def test_a_limit_takes_the_first_images(finished: dict[str, Path], photos: Path) -> None:
    every = predicted(finished["colour"], photos)
    assert predicted(finished["colour"], photos, limit=2, batch_size=3) == every[:2]
    assert predicted(finished["colour"], photos, limit=100) == every
    with pytest.raises(ConfigError, match="limit: found 0, expected at least 1"):
        predicted(finished["colour"], photos, limit=0)


def test_which_part_was_taken_unasked_is_said(finished: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        predicted(finished["grey"], "digits", top=1)
        predicted(finished["grey"], "digits", split="test", top=1)
        predicted(finished["grey"], "digits#train", top=1)
        predicted(finished["colour"], finished["labelled"])
    said = [message for message in caplog.messages if "--split" in message]
    assert said == ["digits is divided: these are its test images; --split takes others"]


def test_data_sets_and_their_parts(finished: dict[str, Path], photos: Path) -> None:
    labelled, model = finished["labelled"], finished["colour"]
    assert len(predicted(model, labelled)) == 9
    assert len(predicted(model, labelled, split="test")) == len(predicted(model, f"{labelled}#test")) == 6
    assert len(predicted(model, f"folder:{labelled}", split="train")) == 3
    assert len(predicted(finished["grey"], "digits", split="train", top=1)) == 1346
    with pytest.raises(ConfigError, match="--split val is not read here"):
        predicted(model, photos / "a.png", split="val")
    with pytest.raises(DataError, match="has no val images"):
        predicted(model, labelled, split="val")
    with pytest.raises(ConfigError, match="split is not read here"):
        mae_lite.predict(model, Objects([colour(1)]), split="test")
    (found,) = mae_lite.predict(model, Objects([colour(1)]))
    assert found.image == "list object item 0" and len(found.classes) == 3


WRONG: list[tuple[tuple[str, ...], int, tuple[str, ...]]] = [
    ((), 2, ("the model is missing", "mae-lite predict runs/NAME photos")),
    (("colour",), 2, ("a file or folder of images is missing",)),
    (("nothing", "photos"), 4, ("'nothing' does not exist", "colour")),
    (("empty", "photos"), 4, ("'empty' is not a run folder",)),
    (
        ("mae", "photos"),
        4,
        ("'mae' cannot name classes", "pre-training run (mae)", "finetune RECIPE --init mae"),
    ),
    (("mae/encoder", "photos"), 4, ("without a classification head", "mae-lite finetune RECIPE")),
    (("colour", "empty"), 3, ("no images in 'empty'", "found no files")),
    (("colour", "photos/a.pnd"), 3, ("'photos/a.pnd' does not exist (nearest: 'a.png')",)),
    (("colour", "photos", "digits"), 3, ("'digits' does not exist", "is given alone")),
    (("colour", "no/where.png"), 3, ("there is no folder 'no'",)),
    (("colour", "photos/*.gif"), 3, ("'photos/*.gif' matches nothing",)),
    (("colour", "foldr:photos"), 2, ("nearest: 'folder'",)),
    (("colour", "photos", "--out", "x.txt"), 2, ("'x.txt'", ".csv or .json", "--out x.csv")),
    (("colour", "photos", "--out", "photos/a.png/x.csv"), 5, ("photos/a.png",)),
    (("colour", "photos", "--limit", "0"), 2, ("limit", "greater than or equal to 1")),
    (("colour", "photos", "--top", "0"), 2, ("top", "greater than or equal to 1")),
    (("colour", "photos", "--heads", "4"), 4, ("found --heads 4, expected 2", "drop --heads")),
    (("colour", "photos", "--on-bad", "stop"), 2, ("on_bad", "'fail' or 'skip'")),
    (("colour", "photos", "--tpo", "1"), 2, ("nearest: 'top'",)),
    (("colour", "photos/a.png", "--split", "test"), 2, ("--split test is not read here",)),
]


@pytest.mark.parametrize(("words", "code", "mentions"), WRONG, ids=[" ".join(words) for words, _, _ in WRONG])
@pytest.mark.usefixtures("photos")
def test_wrong_words(
    words: tuple[str, ...], code: int, mentions: tuple[str, ...], finished: dict[str, Path], capsys: Captured
) -> None:
    for name in ("colour", "mae"):
        Path(name).symlink_to(finished[name])
    Path("empty").mkdir()
    refused(capsys, code, *mentions, words=("predict", *words))


def test_damaged_and_contradictory_folders(finished: dict[str, Path], photos: Path) -> None:
    shutil.copytree(finished["colour"] / "classifier", "short")
    Path("short/manifest.json").unlink(missing_ok=True)
    settings = json.loads(Path("short/config.json").read_text())
    Path("short/config.json").write_text(json.dumps({**settings, "label_names": ["a", "b"]}))
    with pytest.raises(CheckpointError, match=r"do not fit its head: found 2 names, expected 3"):
        mae_lite.load_classifier("short")
    Path("short/model.safetensors").write_bytes(b"{")
    with pytest.raises(CheckpointError):
        mae_lite.load_classifier("short")
    classifier: Any = mae_lite.load_classifier(finished["colour"])
    with torch.no_grad():
        classifier.head.bias[0] = torch.nan
    with pytest.raises(NumericsError, match="not finite"):
        list(mae_lite.predict(classifier, photos))
