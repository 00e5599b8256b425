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
        ({"mean": [float("nan")]}, "does not say .*: found mean.0: Input should be"),
        ({"std": [0.0]}, "does not say .*: found std.0: Input should be greater"),
        ({"std": [1.0, 1.0, 1.0]}, "does not say .*: found 1 numbers in mean, 3 in std"),
        (
            {"mean": [0.5] * 3, "std": [0.5] * 3},
            "does not fit it: found 3 channels, 8 x 8 px, expected 1 channels, 8 x 8",
        ),
        (
            {"centre_crop_px": 16, "resize_short_side_px": 16},
            "does not fit it: found 1 channels, 16 x 16 px, expected 1",
        ),
        ({"resize_short_side_px": 4}, "does not say .*: found a short side of 4 px, and 8 px cut from it"),
        ({"interpolation": "bilinear"}, "does not say .*: found interpolation: Input should be 'bicubic'"),
        ({"normalise": "pixel - mean"}, "does not say .*: found normalise: Input should be"),
        ({"input": {"layout": "NHWC"}}, "does not say .*: found input.layout: Input should be 'NCHW'"),
        ({"centre_crop_px": 10**9}, "does not say .*: found centre_crop_px: Input should be less than"),
        ({"classes": ["0", "1"]}, "do not fit its head: found 2 names, expected 10"),
        ({"output": "tokens"}, "cannot name classes: found an ONNX file of an encoder without a classification head"),
    ],
)
def test_a_file_that_says_what_cannot_be(network: Path, changes: dict[str, Any], words: str) -> None:
    metadata(network, **changes)
    with pytest.raises(CheckpointError, match=words) as caught:
        mae_lite.load_classifier(network)
    assert caught.value.fix


def test_classes_without_names_are_numbered(network: Path, caplog: pytest.LogCaptureFixture) -> None:
    metadata(network, classes=None)
    classifier: Any = mae_lite.load_classifier(network)
    assert "has no names for its 10 classes; they are numbered from 0" in caplog.text
    assert classifier.classes == tuple(map(str, range(10)))


def test_metadata_of_other_programs_do_not_matter(network: Path) -> None:
    """Tools of onnxruntime add such entries, which are no JSON."""
    wanted = list(mae_lite.predict(network, "digits", limit=5))
    model = onnx.load(network)
    model.metadata_props.add(key="onnx.infer", value="onnxruntime.quant")
    onnx.save(model, network)
    assert list(mae_lite.predict(network, "digits", limit=5)) == wanted


def test_metadata_that_are_no_json(network: Path) -> None:
    model = onnx.load(network)
    next(entry for entry in model.metadata_props if entry.key == "std").value = "narrow"
    onnx.save(model, network)
    with pytest.raises(CheckpointError, match="found std: JSONDecodeError: "):
        mae_lite.load_classifier(network)


@pytest.mark.parametrize("damage", [b"", b"\x08\x0a\x12nothing", None])
def test_damaged_files(network: Path, damage: bytes | None) -> None:
    whole = network.read_bytes()
    network.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    with pytest.raises(CheckpointError, match="is no ONNX file that gives scores of images"):
        mae_lite.load_classifier(network)


TYPES = {"float": 1, "float16": 10}


def small(
    nodes: list[tuple[str, list[str], list[str]]],
    entries: dict[str, tuple[str, list[Any]]],
    leaving: dict[str, tuple[str, list[Any]]],
) -> Any:
    """Return a network by hand, which describes its input of 1 channel and 8 x 8 px."""
    made = [
        [onnx.helper.make_tensor_value_info(name, TYPES[kind], shape) for name, (kind, shape) in infos.items()]
        for infos in (entries, leaving)
    ]
    parts = [onnx.helper.make_node(kind, read, written) for kind, read, written in nodes]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(parts, "small", *made), opset_imports=[onnx.helper.make_opsetid("", 18)]
    )
    model.ir_version = 8
    known = {"mean": [0.5], "std": [0.5], "output": "logits", "centre_crop_px": 8, "resize_short_side_px": 8}
    onnx.helper.set_model_props(model, {name: json.dumps(value) for name, value in known.items()})
    return model


IMAGES = {"images": ("float", ["batch", 1, 8, 8])}
FLAT = ("Flatten", ["images"], ["logits"])


def test_other_networks(tmp_path: Path) -> None:
    """What runs but gives no scores of a batch is refused, in words; what gives them is taken."""
    file = tmp_path / "odd.onnx"

    def told(model: Any) -> str:
        onnx.save(model, file)
        with pytest.raises(CheckpointError) as caught:
            mae_lite.load_classifier(file)
        assert "is no ONNX file that gives scores of images" in caught.value.what and caught.value.fix
        return str(caught.value)

    scores = ("float", ["batch", 64])
    onnx.save(small([FLAT], IMAGES, {"logits": scores}), file)
    (found,) = mae_lite.predict(file, "digits", limit=1, top=1)
    assert len(mae_lite.load_classifier(file).classes) == 64 and found.classes
    onnx.save(small([FLAT, ("Neg", ["logits"], ["other"])], IMAGES, {"other": scores, "logits": scores}), file)
    assert next(iter(mae_lite.predict(file, "digits", limit=1, top=1))) == found
    both = {"other": scores, "third": scores}
    parts = [FLAT, ("Neg", ["logits"], ["other"]), ("Abs", ["logits"], ["third"])]
    assert "found outputs other: tensor(float), third" in told(small(parts, IMAGES, both))
    fixed = {"images": ("float", [4, 1, 8, 8])}
    assert "found batches of 4, expected batches of any size" in told(
        small([FLAT], fixed, {"logits": ("float", [4, 64])})
    )
    half = {"images": ("float16", ["batch", 1, 8, 8])}
    assert "found inputs tensor(float16)" in told(small([FLAT], half, {"logits": ("float16", ["batch", 64])}))
    two = {**IMAGES, "more": ("float", ["batch", 1, 8, 8])}
    added = [("Add", ["images", "more"], ["sum"]), ("Flatten", ["sum"], ["logits"])]
    assert "found inputs tensor(float)" in told(small(added, two, {"logits": scores}))
    deep = ("float", ["batch", 1, 8, 8])
    assert "found an output [1, 1, 8, 8] for 1 images" in told(
        small([("Neg", ["images"], ["logits"])], IMAGES, {"logits": deep})
    )


def test_weights_beside_the_file(network: Path) -> None:
    """They are looked for beside the file, wherever the command is given."""
    wanted = list(mae_lite.predict(network, "digits", limit=5))
    Path("apart").mkdir()
    onnx.save(
        onnx.load(network), "apart/model.onnx", save_as_external_data=True, location="weights", size_threshold=512
    )
    assert Path("apart/weights").exists()
    assert list(mae_lite.predict("apart/model.onnx", "digits", limit=5)) == wanted


def test_a_folder_with_other_weights_is_read_as_before(network: Path, made: Path) -> None:
    folder = Path("hub")
    shutil.copytree(made / "tuned/export/timm", folder)
    shutil.copy(network, folder / "model.onnx")
    assert type(mae_lite.load_encoder(folder)).__name__ == "VisionTransformer"


def test_what_needs_weights_says_so(network: Path, made: Path, capsys: Captured) -> None:
    with pytest.raises(CheckpointError, match="cannot be looked into: found an ONNX file"):
        mae_lite.load_encoder(network)
    with pytest.raises(CheckpointError, match="cannot be looked into"):
        mae_lite.load_pyramid(network)
    with pytest.raises(CheckpointError, match="cannot name classes"):
        mae_lite.load_classifier(made / "mae/export/onnx")
    onto = ("--data", "digits", "--out", "out.npy")
    for words, told in (
        (("convert", str(network), "out"), "is an ONNX file, in which weights have lost their names"),
        (("predict", str(network), "digits", "--heads", "2"), "states how its attention is made"),
        (("predict", str(made / "tuned/export"), "digits"), "found onnx, onnx-int8, timm, expected one of them"),
        (("embed", str(network), *onto), "that it was exported from"),
        (("embed", str(made / "tuned/export/onnx"), *onto), "the timm folder that it was exported from"),
        (("probe", str(made / "tuned/export/onnx"), *onto[:2]), "the timm folder that it was exported from"),
        (("analyze", str(made / "tuned/export"), *onto[:2]), "found onnx, onnx-int8, timm, expected one of them"),
        (("finetune", "digits-finetune", "--init", str(made / "mae/export/onnx"), *onto[:2]), "the timm folder"),
        (("evaluate", str(made / "tuned/export"), *onto[:2]), "Fix: give the run that they were exported from"),
        (("evaluate", str(made / "tuned/export/onnx"), *onto[:2]), "Fix: give the run that it was exported from"),
    ):
        code = cli.main(list(words))
        assert_contract(capsys.readouterr().err, code, 4, mentions=(told,))


def test_a_missing_package(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="found no package onnxruntime") as caught:
        mae_lite.load_classifier(network)
    assert caught.value.fix == "pip install onnxruntime"
