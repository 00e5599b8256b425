"""Exported models compute what the model here computes, and one that does not is never published."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import mae_lite
from mae_lite import cli, config, files, training
from mae_lite.exporting import machine, proving
from mae_lite.exporting.comparing import AFTER, Comparison
from mae_lite.exporting.forms import FORMS
from mae_lite.exporting.opened import EMBEDDING, Opened, Place, borders
from mae_lite.exporting.settings import PACKAGES
from mae_lite.models import weights
from tests import toy

Captured = pytest.CaptureFixture[str]
Contents = dict[str, bytes]
TWO_BLOCKS: dict[str, Any] = {"encoder": {"depth": 2}}
RECIPES: dict[str, config.Recipe] = {
    "mean": toy.classifier(**TWO_BLOCKS),
    "token": toy.classifier(**TWO_BLOCKS, method={"pooling": "token"}),
    "relative": toy.classifier(**TWO_BLOCKS, method={"relative_positions": True}),
    "swin": toy.swin_classifier(start="random"),
    "mae": toy.mae(**TWO_BLOCKS),
    "dino": toy.dino(**TWO_BLOCKS),
}


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return what trains each run once."""
    folder = tmp_path_factory.mktemp("runs")

    def run(name: str) -> Path:
        if not (folder / name).exists():
            training.run(RECIPES[name], toy.runtime(folder / name))
        return folder / name

    return run


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def run(runs: Callable[[str], Path]) -> Callable[[str], str]:
    """Return what gives a copy of a run in the working folder."""

    def copied(name: str) -> str:
        shutil.copytree(runs(name), name)
        return name

    return copied


def require(form: str) -> None:
    for package in PACKAGES[form]:
        pytest.importorskip(package, reason=f"{package} is not installed: it judges the form {form}")


def export(*words: str) -> int:
    return cli.main(["export", *words, "--compare", "40", "--card", "false"])


def everything(folder: str = ".") -> set[str]:
    return {str(path) for path in Path(folder).rglob("*")}


def images(count: int) -> torch.Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(5))


def expected(run: str, batch: torch.Tensor) -> torch.Tensor:
    """Return what the run's own timm folder computes: logits, or tokens."""
    folder = next(path for name in ("classifier", "encoder") if (path := Path(run) / name).is_dir())
    model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.no_grad():
        output: torch.Tensor = model(batch) if model.num_classes else model.forward_features(batch)
    return output


def close(found: torch.Tensor, wanted: torch.Tensor, tolerance: float = 1e-4) -> bool:
    return bool((found - wanted).abs().max() <= tolerance * wanted.abs().max())


# Every form opens and agrees


@pytest.mark.parametrize(
    "name", [name if name in ("mean", "mae") else pytest.param(name, marks=pytest.mark.slow) for name in RECIPES]
)
@pytest.mark.parametrize("form", [*PACKAGES])
def test_every_form_of_every_kind_of_model(form: str, name: str, run: Callable[[str], str], capsys: Captured) -> None:
    require(form)
    assert export(run(name), "--to", form) == 0, capsys.readouterr().err
    text = capsys.readouterr().out
    record = json.loads(Path(name, "export", "export.json").read_text())
    itself, written = record["forms"]
    assert itself["form"] == "torch" and written["form"] == form and f"\n{form} " in text
    assert written["largest_relative_difference"] <= (1e-4 if FORMS[form].exact else 0.5)
    scored = record["output"] == "logits"
    assert scored == (name not in ("mae", "dino"))
    assert (written["agreement"] is not None) == (written["accuracy"] is not None) == scored
    assert not scored or written["agreement"] >= (1.0 if FORMS[form].exact else 0.85)
    assert written["latency_ms"] > 0 and record["processor"]["model"] and record["versions"]["torch"]
    assert record["compared_on"] == {"data": "digits", "split": "test", "images": 40, "unreadable": 0, "seed": 0}
    folder = Path(name, "export", form)
    assert {path.name for path in folder.iterdir()} == set(written["files"])
    for file, known in written["files"].items():
        data = (folder / file).read_bytes()
        assert files.sha256(data) == known["sha256"] and len(data) == known["bytes"]
    assert written["bytes"] == sum(known["bytes"] for known in written["files"].values())
    assert not [path for path in everything() if files.TEMPORARY in path]


@pytest.mark.parametrize("name", ["mean", "relative", "mae"])
def test_timm_and_torch_open_what_was_published(name: str, run: Callable[[str], str]) -> None:
    assert export(run(name), "--to", "timm,timm-half", "torch-export", "--out", "out") == 0
    batch = images(3)
    wanted = expected(name, batch)
    stored = torch.export.load("out/torch-export/model.pt2")
    ((traced_with,), _) = stored.example_inputs
    assert not traced_with.any() and len(traced_with) == 2  # the file holds no image of anybody
    program = stored.module()
    assert close(program(batch), wanted) and close(program(batch[:1]), wanted[:1])
    assert close(expected_of("out/timm", batch), wanted, 1e-6)
    assert close(expected_of("out/timm-half", batch), wanted, 1e-2)
    half = weights.read_file(Path("out/timm-half/model.safetensors"))
    assert {value.dtype for value in half.values() if value.is_floating_point()} == {torch.float16}
    assert set(files.read_folder(Path("out"))) == {
        str(path.relative_to("out")) for path in Path("out").rglob("*") if path.is_file()
    } - {files.MANIFEST}


def expected_of(folder: str, batch: torch.Tensor) -> torch.Tensor:
    model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.no_grad():
        output: torch.Tensor = model(batch) if model.num_classes else model.forward_features(batch)
    return output


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("mean", "TimmWrapperForImageClassification"),
        ("relative", "TimmWrapperForImageClassification"),
        ("token", "ViTForImageClassification"),
        ("mae", "ViTMAEForPreTraining"),
        ("dino", "ViTModel"),
    ],
)
def test_transformers_opens_what_was_published(
    name: str, kind: str, run: Callable[[str], str], capsys: Captured
) -> None:
    transformers: Any = pytest.importorskip("transformers", reason="transformers is not installed")
    assert export(run(name), "--to", "huggingface", "--out", "out") == 0, capsys.readouterr().err
    assert ("wraps timm's" in capsys.readouterr().out) == kind.startswith("Timm")
    folder = "out/huggingface"
    settings = json.loads(Path(folder, "config.json").read_text())
    assert kind.startswith("Timm") or settings["architectures"] == [kind]
    more = {"add_pooling_layer": False} if kind == "ViTModel" else {}
    model, info = getattr(transformers, kind).from_pretrained(folder, output_loading_info=True, **more)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    batch = images(3)
    if kind == "ViTMAEForPreTraining":
        encoder = transformers.ViTMAEModel.from_pretrained(folder, mask_ratio=0.0).eval()
        output = encoder(batch, noise=torch.arange(4.0).expand(3, -1)).last_hidden_state
    else:
        output = model.eval()(batch)
        output = output.last_hidden_state if kind == "ViTModel" else output.logits
    assert close(output.detach(), expected(name, batch))
    if name == "token":
        assert model.config.id2label == {number: str(number) for number in range(10)}


@pytest.mark.parametrize("name", ["mean", "mae"])
def test_onnxruntime_opens_what_was_published(name: str, run: Callable[[str], str]) -> None:
    require("onnx")
    import onnx
    import onnxruntime

    assert export(run(name), "--to", "onnx", "onnx-int8", "--out", "out") == 0
    batch = images(3)
    wanted = expected(name, batch)
    for form, tolerance in (("onnx", 1e-4), ("onnx-int8", 0.5)):
        session = onnxruntime.InferenceSession(f"out/{form}/model.onnx", providers=["CPUExecutionProvider"])
        for count in (1, 3):
            (found,) = session.run(None, {"images": batch[:count].numpy()})
            assert close(torch.from_numpy(found), wanted[:count], tolerance)
        known = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
        assert known == json.loads(Path(f"out/{form}/preprocessing.json").read_text())
        assert known["mean"] == [0.305] and known["std"] == [0.376] and known["centre_crop_px"] == 8
        assert known["resize_short_side_px"] == 8 and known["input"]["shape"] == ["batch", 1, 8, 8]
        classes = [str(digit) for digit in range(10)] if name == "mean" else None
        assert known["classes"] == classes and [value.name for value in session.get_outputs()] == [known["output"]]
    whole, quantised = (onnx.load(f"out/{form}/model.onnx") for form in ("onnx", "onnx-int8"))
    onnx.checker.check_model(whole)
    assert [entry.version for entry in whole.opset_import if not entry.domain] == [20]
    matrices = [tensor for tensor in quantised.graph.initializer if tensor.data_type == onnx.TensorProto.INT8]
    assert sum(len(tensor.dims) > 1 for tensor in matrices) == 2 * 4 + 1 + (name == "mean")  # projection, head
    shares = {node.output[0] for node in quantised.graph.node if node.op_type == "Softmax"}
    readers = [node.op_type for node in quantised.graph.node if shares & set(node.input)]
    assert readers == ["MatMul"] * 2  # what attention multiplies stays in float32


def test_a_timm_folder_by_itself(run: Callable[[str], str], capsys: Captured) -> None:
    shutil.move(f"{run('mean')}/classifier", "model")
    assert export("model", "--to", "timm", "--images", "digits") == 0, capsys.readouterr().err
    assert "written: model-export" in capsys.readouterr().out
    record = json.loads(Path("model-export/export.json").read_text())
    assert record["forms"][1]["accuracy"] is not None
    assert record["weights_sha256"] == files.sha256(Path("model/model.safetensors").read_bytes())


def test_from_python(run: Callable[[str], str]) -> None:
    record = mae_lite.export(run("mean"), to=("timm",), compare=10)
    assert record["out"] == "mean/export" and record["compared_on"]["images"] == 10


def test_json(run: Callable[[str], str], capsys: Captured) -> None:
    assert export(run("mean"), "--to", "timm", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed.pop("out") == "mean/export"
    assert printed == json.loads(Path("mean/export/export.json").read_text())


@pytest.mark.parametrize("labels", [("0", "1"), ("cat", "dog"), ()], ids=["known", "others", "none"])
def test_images_of_ones_own(labels: tuple[str, ...], run: Callable[[str], str], capsys: Captured) -> None:
    for number in range(12):
        folder = Path("photos", labels[number % 2]) if labels else Path("photos")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (9, 9), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    assert export(run("mean"), "--to", "timm", "--images", "photos") == 0, capsys.readouterr().err
    (_, written) = json.loads(Path("mean/export/export.json").read_text())["forms"]
    assert (written["accuracy"] is not None) == (labels == ("0", "1")) and written["agreement"] == 1.0
    command = json.loads(Path("mean/export/export.json").read_text())["command"]
    assert command == ["mae-lite", "export", "mean", "--images", "photos", "--compare", "40", "--to", "timm"]


def test_training_images_measure_no_accuracy(capsys: Captured) -> None:
    """A folder without parts is taken whole, whatever split is asked for: the model has seen these."""
    for number in range(24):
        folder = Path("photos", str(number % 2))
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (9, 9), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    training.run(toy.classifier(**TWO_BLOCKS, labels_per_class=None), toy.runtime(Path("own"), data="photos"))
    assert export("own", "--to", "timm") == 0
    assert "has no test images of its own" in capsys.readouterr().err
    record = json.loads(Path("own/export/export.json").read_text())
    assert record["compared_on"]["split"] == "undivided"
    assert [form["accuracy"] for form in record["forms"]] == [None, None]


def test_a_folder_where_one_stands(run: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(run("mean"), "classifier"))
    assert export(".", "--to", "timm", "--images", "digits") == 0
    assert Path("../classifier-export/timm/config.json").exists()


def test_a_model_that_comes_along() -> None:
    assert export("pretrained:digits-mae-finetuned", "--to", "timm", "--images", "digits") == 0
    assert Path("digits-mae-finetuned-export/timm/config.json").exists()


# A planted fault is found and named, and leaves nothing behind


def shifted(name: str, of: str, by: float) -> Callable[[Contents], Contents]:
    """Return what shifts one value of a tensor in a safetensors file."""

    def change(contents: Contents) -> Contents:
        tensors = weights.from_bytes(contents[of], of)
        tensors[name].view(-1)[0] += by
        return {**contents, of: weights.to_bytes(tensors)}

    return change


def shifted_program(name: str) -> Callable[[Contents], Contents]:
    def change(contents: Contents) -> Contents:
        program = torch.export.load(io.BytesIO(contents["model.pt2"]))
        program.state_dict[name].data.view(-1)[0] += 1
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
        return {**contents, "model.pt2": buffer.getvalue()}

    return change


def shifted_network(name: str, by: float) -> Callable[[Contents], Contents]:
    def change(contents: Contents) -> Contents:
        import onnx

        model = onnx.load_from_string(contents["model.onnx"])
        (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name.endswith(name))
        values = onnx.numpy_helper.to_array(tensor).copy()
        values.reshape(-1)[0] += by
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        return {**contents, "model.onnx": model.SerializeToString()}

    return change


SAFE = "model.safetensors"
INNER, HEAD = "blocks.1.mlp.fc2.bias", "head.bias"
FAULTS: dict[str, tuple[str, str, Callable[[Contents], Contents], str]] = {
    "timm": ("timm", "mean", shifted(INNER, SAFE, 1), "blocks.1"),
    "timm, first block": ("timm", "mean", shifted("blocks.0.attn.proj.bias", SAFE, 1), "blocks.0"),
    "timm, positions": ("timm", "mean", shifted("pos_embed", SAFE, 1), EMBEDDING),
    "timm, head": ("timm", "mean", shifted(HEAD, SAFE, 1), AFTER),
    "timm, encoder": ("timm", "mae", shifted(INNER, SAFE, 1), "blocks.1"),
    "timm, swin": ("timm", "swin", shifted("layers.0.blocks.1.mlp.fc2.bias", SAFE, 1), "layers.0.blocks.1"),
    "timm-half": ("timm-half", "mean", shifted(INNER, SAFE, 1), "blocks.1"),
    "wrapped": ("huggingface", "mean", shifted(INNER, SAFE, 1), "blocks.1"),
    "ViT": ("huggingface", "token", shifted("vit.encoder.layer.1.output.dense.bias", SAFE, 1), "blocks.1"),
    "ViTModel": ("huggingface", "dino", shifted("encoder.layer.0.output.dense.bias", SAFE, 1), "blocks.0"),
    "ViTMAE": ("huggingface", "mae", shifted("vit.encoder.layer.1.output.dense.bias", SAFE, 1), "encoder.blocks.1"),
    "decoder": (
        *("huggingface", "mae"),
        shifted("decoder.decoder_layers.0.output.dense.bias", SAFE, 1),
        "decoder.blocks.0",
    ),
    "torch-export": ("torch-export", "mean", shifted_program(INNER), "blocks.1"),
    "torch-export, encoder": ("torch-export", "mae", shifted_program(f"model.{INNER}"), "blocks.1"),
    "onnx": ("onnx", "mean", shifted_network(INNER, 1), "blocks.1"),
    "onnx, encoder": ("onnx", "mae", shifted_network(INNER, 1), "blocks.1"),
    "onnx, positions": ("onnx", "mean", shifted_network("pos_embed", 1), EMBEDDING),
    "onnx, head": ("onnx", "mean", shifted_network(HEAD, 1), AFTER),
    "onnx-int8": ("onnx-int8", "mean", shifted_network(INNER, 50), "blocks.1"),
    "onnx-int8, first block": ("onnx-int8", "mean", shifted_network("blocks.0.attn.proj.bias", 50), "blocks.0"),
}


@pytest.mark.parametrize(("form", "name", "fault", "part"), FAULTS.values(), ids=FAULTS)
def test_a_planted_fault_is_found_and_named(
    form: str,
    name: str,
    fault: Callable[[Contents], Contents],
    part: str,
    run: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:
    require(form)
    right = FORMS[form]
    monkeypatch.setitem(FORMS, form, replace(right, write=lambda work: fault(right.write(work))))
    source = run(name)
    before = everything()
    assert export(source, "--to", "timm-half" if form == "timm" else "timm", form) == 4
    message = capsys.readouterr().err
    assert f"the form {form} computes something else than the model" in message
    assert f"{'the error grows most in' if form == 'onnx-int8' else 'it begins in'} {part}, expected" in message
    assert message.count("\nFix: ") == 1 and everything() == before


@pytest.mark.parametrize("stage", ["write", "reopen"])
def test_a_library_that_fails_is_named(
    stage: str, run: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    def fail(*_: object) -> Any:
        raise RuntimeError("no kernel for this")

    changes: dict[str, Any] = {stage: fail}
    monkeypatch.setitem(FORMS, "torch-export", replace(FORMS["torch-export"], **changes))
    source = run("mean")
    before = everything()
    assert export(source, "--to", "timm", "torch-export") == 4
    message = capsys.readouterr().err
    assert "RuntimeError: no kernel for this" in message and "Fix: leave torch-export out of --to" in message
    assert everything() == before


def test_outputs_of_another_shape(run: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    right = FORMS["timm"]

    class Cut:
        def __init__(self, opened: Opened) -> None:
            self._opened = opened

        def __call__(self, images: torch.Tensor) -> torch.Tensor:
            return self._opened(images)[:, :3]

        def states(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            return self._opened.states(images)

    monkeypatch.setitem(FORMS, "timm", replace(right, reopen=lambda folder, work: Cut(right.reopen(folder, work))))
    assert export(run("mean"), "--to", "timm") == 4
    assert f"outputs of [1, 3] in place of [1, 10]; it begins in {AFTER}" in capsys.readouterr().err


def test_weights_that_are_no_numbers(run: Callable[[str], str], capsys: Captured) -> None:
    folder = Path(run("mean"), "classifier")
    tensors = weights.read_file(folder / SAFE)
    tensors["blocks.0.norm1.bias"][0] = torch.nan
    files.publish_folder(
        folder, {"config.json": (folder / "config.json").read_bytes(), SAFE: weights.to_bytes(tensors)}
    )
    assert export("mean", "--to", "timm") == 4
    message = capsys.readouterr().err
    assert "outputs that are not finite; it begins in blocks.0" in message and not Path("mean/export").exists()


# Verdicts


def comparison(**changes: Any) -> Comparison:
    facts = {"images": 1000, "difference": 0.1, "relative": 0.05, "cosine": 0.99, "agreement": 0.98}
    return Comparison(**{**facts, "hits": 900, "reference_hits": 905, **changes})


@pytest.mark.parametrize(
    ("form", "changes", "words"),
    [
        ("onnx-int8", {}, ""),
        ("onnx-int8", {"hits": 895}, ""),
        ("onnx-int8", {"hits": 894}, "1.1 points of accuracy lost, more than 1"),
        ("onnx-int8", {"images": 20, "hits": 15, "reference_hits": 16}, ""),
        ("onnx-int8", {"images": 20, "hits": 14, "reference_hits": 16}, "10.0 points"),
        ("onnx-int8", {"hits": 950}, ""),
        ("onnx-int8", {"hits": None, "reference_hits": None}, ""),
        ("onnx-int8", {"cosine": 0.89}, "cosine similarity is 0.89"),
        ("onnx-int8", {"cosine": float("nan")}, "cosine similarity is nan"),
        ("onnx-int8", {"relative": float("nan")}, "not finite"),
        ("onnx", {"relative": 1e-4, "hits": 0}, ""),
        ("onnx", {"relative": 1.1e-4}, "a difference of 1.1e-04"),
        ("onnx", {"relative": float("inf")}, "not finite"),
        ("timm-half", {"relative": 9e-3}, ""),
        ("timm-half", {"relative": 9e-3, "hits": 800}, "10.5 points"),
        ("timm-half", {"relative": 2e-2}, "more than 0.01"),
    ],
)
def test_verdicts(form: str, changes: dict[str, Any], words: str) -> None:
    verdict = proving._verdict(FORMS[form], comparison(**changes), 1.0)
    assert words in verdict if words else verdict == ""


def test_borders_of_a_graph() -> None:
    graph = [
        Place("patch_embed.proj", "images", "a"),
        Place("layers.0.blocks.0.norm1", "b", "c"),
        Place("layers.0.blocks.0", "c", "d"),
        Place("layers.0.blocks.1", "d", "e"),
        Place("layers.0.downsample", "e", "f"),
        Place("layers.1.blocks.0.mlp", "f", "g"),
        Place("head", "g", "h"),
    ]
    blocks = {"layers.0.blocks.0": "d", "layers.0.blocks.1": "e", "layers.1.blocks.0": "g"}
    assert borders(graph) == {EMBEDDING: "b", **blocks}


# The processor


@pytest.mark.parametrize(
    ("name", "text", "reduced", "words"),
    [
        ("x86_64", "model name\t: A\nflags\t\t: avx2 avx512f avx512_vnni\n\nprocessor: 1", False, "avx512_vnni"),
        ("x86_64", "model name\t: A\nflags\t\t: avx2 avx_vnni", False, "avx_vnni"),
        ("x86_64", "model name\t: B\nflags\t\t: avx2 avx512f\n", True, "no VNNI"),
        ("AMD64", None, True, "no VNNI"),
        ("aarch64", "Features\t: asimd asimddp\n", False, "aarch64"),
    ],
)
def test_what_the_processor_means_for_the_range_of_weights(
    name: str, text: str | None, reduced: bool, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "CPUINFO", Path("cpuinfo"))
    monkeypatch.setattr(platform, "machine", lambda: name)
    if text is not None:
        Path("cpuinfo").write_text(text)
    found, why = machine.reduced_range()
    assert found is reduced and words in why


def test_weights_of_seven_bits(run: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    require("onnx-int8")
    import onnx

    monkeypatch.setattr(machine, "reduced_range", lambda: (True, "weights of 7 bits: a reason"))
    assert export(run("mean"), "--to", "onnx-int8") == 0, capsys.readouterr().err
    assert "note: onnx-int8: weights of 7 bits: a reason" in capsys.readouterr().out
    model = onnx.load("mean/export/onnx-int8/model.onnx")
    tensors = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) > 1]
    assert tensors and max(abs(onnx.numpy_helper.to_array(t).astype(int)).max() for t in tensors) <= 64


# What cannot be exported


@pytest.mark.parametrize(
    ("words", "code", "mentions"),
    [
        (("--to", "onyx"), 2, ("--to: found 'onyx' (nearest: 'onnx')", "timm-half", "Fix: --to timm onnx")),
        (("--to", "timm,tflite"), 2, ("found 'tflite'",)),
        (("--to",), 2, ("found no form",)),
        (("--to", "timm", "--out", "file/below"), 5, ("a file is where a folder should be",)),
        (("--to", "timm", "--out", "full"), 2, ("'full' exists already", "--out")),
        (("--to", "timm", "--images", "nowhere"), 3, ("'nowhere' does not exist",)),
        (("--to", "onnx-int8", "--calibration-images", "9"), 3, ("too few images to calibrate", "found 9", "200")),
        (("--to", "onnx-int8", "--calibration", "few"), 3, ("too few images to calibrate", "found 3 of 'few'")),
    ],
)
def test_what_cannot_be_asked_for(
    words: tuple[str, ...], code: int, mentions: tuple[str, ...], run: Callable[[str], str], capsys: Captured
) -> None:
    if "onnx-int8" in words:
        require("onnx-int8")
    Path("file").write_text("here")
    Path("full").mkdir()
    Path("few").mkdir()
    for number in range(3):
        Image.new("L", (8, 8), 80 * number).save(f"few/{number}.png")
    source = run("mean")
    before = everything()
    assert export(source, *words) == code
    message = capsys.readouterr().err
    assert [mention for mention in mentions if mention not in message] == [], message
    assert message.count("error: ") == 1 and message.count("\nFix: ") == 1 and everything() == before


def test_an_existing_export_is_left_alone(run: Callable[[str], str], capsys: Captured) -> None:
    assert export(run("mean"), "--to", "timm") == 0
    before = Path("mean/export/export.json").read_bytes()
    assert export("mean", "--to", "timm-half") == 2
    assert "'mean/export' exists already" in capsys.readouterr().err
    assert Path("mean/export/export.json").read_bytes() == before


def test_runs_that_are_not_finished(capsys: Captured) -> None:
    training.run(RECIPES["mean"], toy.runtime(Path("paused"), stop_after_steps=2))
    assert export("paused", "--to", "timm") == 4
    message = capsys.readouterr().err
    assert "the run 'paused' is not finished: found paused" in message and "mae-lite convert paused FOLDER" in message
    assert not Path("paused/export").exists()
    assert cli.main(["convert", "paused", "now", "--to", "timm"]) == 0  # the way that the message shows
    assert export("now", "--to", "timm", "--images", "digits") == 0


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("bytes", "is damaged: its SHA-256 differs"),
        ("gone", "cannot be read"),
        ("folder", "neither encoder/ nor classifier/"),
        ("recipe", "cannot be read"),
        ("size", "images of [1, 8, 6]"),
        ("mean", "does not say how images are normalised"),
        ("other size", "input_size 12 and a model for 8 pixels"),
        ("names", "2 names, expected 10"),
        ("crop", "in a way that is not possible"),
    ],
)
def test_runs_that_are_damaged(damage: str, words: str, run: Callable[[str], str], capsys: Captured) -> None:
    folder = Path(run("mean"), "classifier")
    settings = json.loads((folder / "config.json").read_text())
    match damage:
        case "bytes":
            (folder / SAFE).write_bytes((folder / SAFE).read_bytes()[:-1] + b"?")
        case "gone":
            (folder / SAFE).unlink()
        case "folder":
            shutil.rmtree(folder)
        case "recipe":
            Path("mean/recipe.json").write_text("{")
        case "size":
            settings["pretrained_cfg"]["input_size"] = [1, 8, 6]
        case "mean":
            settings["pretrained_cfg"]["mean"] = []
        case "other size":
            settings["pretrained_cfg"]["input_size"] = [1, 12, 12]
        case "names":
            settings["label_names"] = ["a", "b"]
        case "crop":
            settings["pretrained_cfg"]["crop_pct"] = 1.5
    if damage in ("size", "mean", "other size", "names", "crop"):
        contents = {"config.json": json.dumps(settings).encode(), SAFE: (folder / SAFE).read_bytes()}
        files.publish_folder(folder, contents)
    assert export("mean", "--to", "timm") == 4
    message = capsys.readouterr().err
    assert words in message and message.count("\nFix: ") == 1 and not Path("mean/export").exists()


@pytest.mark.parametrize(
    ("source", "words"), [("nowhere", "'nowhere' is no folder"), ("empty", "'empty' is not a run folder")]
)
def test_what_is_no_run(source: str, words: str, capsys: Captured) -> None:
    Path("empty").mkdir()
    assert export(source, "--to", "timm") == 4
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(("form", "flag"), [("timm", "--images"), ("onnx-int8", "--calibration")])
def test_a_timm_folder_names_no_images(form: str, flag: str, run: Callable[[str], str], capsys: Captured) -> None:
    require(form)
    words = () if flag == "--images" else ("--images", "digits")
    assert export(f"{run('mean')}/classifier", "--to", form, *words) == 2
    assert f"{flag} is missing" in (message := capsys.readouterr().err) and f"Fix: {flag} PATH" in message
    assert not Path("mean/classifier-export").exists()


@pytest.mark.parametrize(
    ("form", "package", "fix"),
    [
        ("onnx", "onnxscript", "pip install 'mae_lite[export]'"),
        ("huggingface", "transformers", "pip install transformers"),
    ],
)
def test_a_missing_package(
    form: str,
    package: str,
    fix: str,
    run: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:
    right: Callable[..., Any] = importlib.util.find_spec
    known = lambda name, *more: None if name == package else right(name, *more) or name  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", known)
    assert export(run("mean"), "--to", "timm", form) == 2
    message = capsys.readouterr().err
    assert f"--to {form}: found no package {package}" in message and f"Fix: {fix}" in message
    assert not Path("mean/export").exists()
