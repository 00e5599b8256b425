"""Exported ONNX files name the classes that their run names, and files that say nothing of their input are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mae_lite
from mae_lite import cli, training
from mae_lite.errors import CheckpointError, ConfigError
from tests import toy
from tests.test_errors import assert_contract

onnx: Any = pytest.importorskip("onnx", reason="onnx is not installed: it makes the files")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: it opens the files")
Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with runs and their exports, which are only read."""
    folder = tmp_path_factory.mktemp("made")
    cut = {"augmentation": {"eval_crop": 0.8}}
    for name, recipe in {"tuned": toy.classifier(**cut), "mae": toy.mae()}.items():
        training.run(recipe, toy.runtime(folder / name))
        words = ["export", str(folder / name), "--compare", "20", "--card", "false", "--to", "onnx"]
        assert cli.main([*words, "timm", *(["onnx-int8"] if name == "tuned" else [])]) == 0
    return folder


@pytest.fixture
def network(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the classifier's file, alone in a folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(made / "tuned/export/onnx/model.onnx", "digits.onnx")
    return Path("digits.onnx")


def metadata(file: Path, **changes: Any) -> None:
    """Change what an ONNX file says of itself; None takes an entry away."""
    model = onnx.load(file)
    known = {entry.key: entry.value for entry in model.metadata_props}
    known |= {name: json.dumps(value) for name, value in changes.items() if value is not None}
    onnx.helper.set_model_props(model, {name: text for name, text in known.items() if changes.get(name, 0) is not None})
    onnx.save(model, file)


def test_it_says_what_the_run_says(made: Path, network: Path, capsys: Captured) -> None:
    wanted = list(mae_lite.predict(made / "tuned", "digits", top=10))
    for source in (network, made / "tuned/export/onnx", made / "tuned/export/onnx/model.onnx"):
        found = list(mae_lite.predict(source, "digits", top=10))
        assert [(item.image, item.label) for item in found] == [(item.image, item.label) for item in wanted]
        for one, other in zip(found, wanted, strict=True):
            shares = (dict(zip(item.classes, item.probabilities, strict=True)) for item in (one, other))
            assert next(shares) == pytest.approx(next(shares), abs=1e-5)
    eight = list(mae_lite.predict(made / "tuned/export/onnx-int8", "digits", top=1))
    assert np.mean([a.classes == b.classes[:1] for a, b in zip(eight, wanted, strict=True)]) > 0.9
    assert cli.main(["predict", str(network), "digits", "--limit", "3", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)["images"]
    assert [item["predictions"][0]["class"] for item in printed] == [item.classes[0] for item in wanted[:3]]


def test_as_a_module(network: Path, made: Path) -> None:
    classifier: Any = mae_lite.load_classifier(network)
    assert classifier.classes == tuple(map(str, range(10))) and not list(classifier.parameters())
    trained: Any = mae_lite.load_classifier(made / "tuned")
    pixels = np.random.default_rng(0).integers(0, 256, (11, 13), dtype=np.uint8)
    one, other = (model.transform(pixels).unsqueeze(0) for model in (classifier, trained))
    assert (one == other).all() and repr(classifier.transform) == repr(trained.transform)
    assert classifier(one).shape == (1, 10)


def test_the_file_beside_it_is_read_where_it_says_nothing(network: Path, made: Path) -> None:
    wanted = list(mae_lite.predict(network, "digits", limit=5))
    names = ("mean", "std", "classes", "output", "centre_crop_px", "resize_short_side_px", "input")
    metadata(network, **dict.fromkeys(names))
    with pytest.raises(CheckpointError, match="does not say how images become its input: found mean: Field required"):
        mae_lite.load_classifier(network)
    shutil.copy(made / "tuned/export/onnx/preprocessing.json", "preprocessing.json")
    assert list(mae_lite.predict(network, "digits", limit=5)) == wanted


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mean": None}, "does not say how images become its input"),
        ({"mean": "black"}, "does not say .*: found mean: Input should be a valid"),
        ({"std": [0.0]}, "does not say how images become its input"),
        ({"std": [1.0, 1.0, 1.0]}, "does not fit it: found 8 x 8 px, 1 channels"),
        ({"centre_crop_px": 16}, "does not fit it: found 16 x 16 px, 1 channels, expected 8 x 8 px, 1 channels"),
        ({"centre_crop_px": 10**9}, "does not say .*: found centre_crop_px: Input should be less than"),
        ({"classes": ["0", "1"]}, "do not fit its head: found 2 names, expected 10"),
        ({"output": "tokens"}, "cannot name classes: found an ONNX file without a classification head"),
    ],
)
def test_a_file_that_says_what_cannot_be(network: Path, changes: dict[str, Any], words: str) -> None:
    metadata(network, **changes)
    with pytest.raises(CheckpointError, match=words) as caught:
        mae_lite.load_classifier(network)
    assert caught.value.fix


def test_classes_without_names_are_numbered(network: Path) -> None:
    metadata(network, classes=None)
    classifier: Any = mae_lite.load_classifier(network)
    assert classifier.classes == tuple(map(str, range(10)))


@pytest.mark.parametrize(("damage", "words"), [(b"", "is no ONNX file"), (b"\x08\x0a\x12nothing", "is no ONNX file")])
def test_damaged_files(network: Path, damage: bytes, words: str) -> None:
    whole = network.read_bytes()
    network.write_bytes(damage)
    with pytest.raises(CheckpointError, match=words):
        mae_lite.load_classifier(network)
    network.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=words):
        mae_lite.load_classifier(network)


def test_what_needs_weights_says_so(network: Path, made: Path, capsys: Captured) -> None:
    with pytest.raises(CheckpointError, match="cannot be looked into: found an ONNX file"):
        mae_lite.load_encoder(network)
    with pytest.raises(CheckpointError, match="cannot carry a feature pyramid"):
        mae_lite.load_pyramid(network)
    with pytest.raises(CheckpointError, match="cannot name classes"):
        mae_lite.load_classifier(made / "mae/export/onnx")
    for words, told in (
        (("convert", str(network), "out"), "an ONNX file, whose weights do not have their names"),
        (("predict", str(network), "digits", "--heads", "2"), "states how its attention is made"),
        (("predict", str(made / "tuned/export"), "digits"), "found onnx, onnx-int8, timm, expected one of them"),
    ):
        code = cli.main(list(words))
        assert_contract(capsys.readouterr().err, code, 4, mentions=(told,))


def test_a_missing_package(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="found no package onnxruntime") as caught:
        mae_lite.load_classifier(network)
    assert caught.value.fix == "pip install onnxruntime"
