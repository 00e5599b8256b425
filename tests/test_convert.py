"""Weights of every known layout become ours, timm's and Hugging Face's, and compute the same there."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

from mae_lite import cli, config, converting, files, recipes, training
from mae_lite.errors import CheckpointError, ConfigError
from mae_lite.evaluation import incoming, load
from mae_lite.evaluation.load import initial_tensors
from mae_lite.methods import build
from mae_lite.models import hugging_face, layouts, plain, sizes, weights
from mae_lite.models.vit import build_encoder
from tests import foreign, toy

HEADS = ["--heads", "2", "--decoder-heads", "2"]
Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def transformers() -> Any:
    return pytest.importorskip("transformers", reason="transformers is not installed: it judges its own format")


def saved(tensors: foreign.Tensors, **others: object) -> str:
    torch.save({"model": tensors, "epoch": 3, "args": argparse.Namespace(lr=0.1), **others}, "w.pth")
    return "w.pth"


def convert(*words: str) -> int:
    return cli.main(["convert", *words])


def images() -> torch.Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))


def expected_tokens(eps: float = 1e-6) -> torch.Tensor:
    return plain.tokens(foreign.ours(), images(), 2, eps)


def printed_difference(text: str) -> float:
    found = [float(number) for number in re.findall(r"largest difference from .*: ([\d.e+-]+)", text)]
    assert found
    return max(found)


@pytest.mark.parametrize("name", foreign.LAYOUTS)
def test_every_layout_becomes_ours(name: str, capsys: Captured) -> None:
    make, called, with_decoder = foreign.LAYOUTS[name]
    assert convert(saved(make()), "out", *HEADS) == 0, capsys.readouterr().err
    text = capsys.readouterr().out
    assert f"read as: {called}\n" in text and printed_difference(text) < 1e-5
    expected = foreign.ours(with_decoder=with_decoder)
    written = weights.read_file(Path("out/model.safetensors"))
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[key], value) for key, value in expected.items())
    settings = json.loads(Path("out/config.json").read_text())
    assert settings["encoder"]["num_heads"] == 2 and (settings["decoder"] is not None) == with_decoder
    lost = set(make()) - {"x"}
    merged = len(written) + 2 * sum("qkv" in key for key in written) * name.startswith("hugging_face")
    assert (f"note: {len(lost) - merged} tensors were left out" in text) == (len(lost) > merged)


@pytest.mark.parametrize("name", [name for name in foreign.LAYOUTS if name != "ours"])
def test_every_layout_is_read_by_init(name: str, caplog: pytest.LogCaptureFixture) -> None:
    make, _, with_decoder = foreign.LAYOUTS[name]
    found = initial_tensors(saved(make()), foreign.ENCODER)
    expected = foreign.ours(with_decoder=with_decoder)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert "it is taken to be 2" in caplog.text


def test_init_starts_a_method_from_a_converted_folder(caplog: pytest.LogCaptureFixture) -> None:
    assert convert(saved(foreign.mmpretrain()), "out", *HEADS) == 0
    small = recipes.derive(
        recipes.get("mae-tiny"), encoder=foreign.ENCODER.model_dump(), method=foreign.DECODER.model_dump()
    )
    method = build(small, 0)
    caplog.clear()
    load.load_initial(method, small, "out")
    assert all(torch.equal(value, foreign.ours(with_decoder=True)[key]) for key, value in method.state_dict().items())
    assert "taken to be" not in caplog.text
    with pytest.raises(CheckpointError, match="found 2, expected 4"):
        initial_tensors("out", foreign.ENCODER.model_copy(update={"num_heads": 4}))
    digest = load.init_digest("out")
    assert digest is not None
    (Path("out") / files.MANIFEST).unlink()
    assert load.init_digest("out") not in (None, digest)


@pytest.mark.parametrize("name", ["mae", "hugging_face_vit", "mocov3"])
def test_timm_loads_what_was_written_for_it(name: str) -> None:
    assert convert(saved(foreign.LAYOUTS[name][0]()), "out", "--to", "timm", *HEADS) == 0
    model: Any = timm.create_model("local-dir:out", pretrained=True).eval()
    with torch.no_grad():
        assert torch.allclose(model.forward_features(images()), expected_tokens(), atol=1e-6)
    assert model.blocks[0].attn.num_heads == 2
    assert convert("out", "back") == 0  # its config.json says the heads
    written = weights.read_file(Path("back/model.safetensors"))
    assert all(torch.equal(written[key], value) for key, value in foreign.ours().items())


@pytest.mark.parametrize("name", ["mae", "hugging_face_vit", "hugging_face_mae", "mmpretrain"])
def test_hugging_face_loads_what_was_written_for_it(name: str, transformers: Any, capsys: Captured) -> None:
    with_decoder = foreign.LAYOUTS[name][2]
    assert convert(saved(foreign.LAYOUTS[name][0]()), "out", "--to", "huggingface", *HEADS) == 0
    kind = transformers.ViTMAEForPreTraining if with_decoder else transformers.ViTModel
    more = {} if with_decoder else {"add_pooling_layer": False}
    model, info = kind.from_pretrained("out", output_loading_info=True, **more)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    settings = model.config.to_dict()
    assert torch.allclose(hugging_face.tokens(model.state_dict(), settings, images()), expected_tokens(), atol=1e-6)
    capsys.readouterr()
    assert convert("out", "back") == 0
    assert "largest difference from transformers" in capsys.readouterr().out
    written = weights.read_file(Path("back/model.safetensors"))
    assert all(torch.equal(written[key], v) for key, v in foreign.ours(with_decoder=with_decoder).items())


def test_the_decoder_paints_the_same_in_hugging_face(transformers: Any) -> None:
    assert convert(saved(foreign.mae()), "out", "--to", "huggingface", *HEADS) == 0
    theirs = transformers.ViTMAEForPreTraining.from_pretrained("out").eval()
    noise = torch.rand(2, 16, generator=torch.Generator().manual_seed(0))
    recipe = recipes.derive(
        recipes.get("mae-tiny"), encoder=foreign.ENCODER.model_dump(), method=foreign.DECODER.model_dump()
    )
    ours = build(recipe, 0).eval()
    weights.load_into(ours, foreign.ours(with_decoder=True), source="ours")
    with torch.no_grad():
        loss = ours(images(), torch.zeros(2), {"noise": noise}).loss
        assert theirs(images(), noise=noise).loss.item() == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("decoder", [False, True])
def test_what_hugging_face_itself_saved(decoder: bool, transformers: Any, capsys: Captured) -> None:
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    size |= {"image_size": 16, "patch_size": 4}
    inner = {f"decoder_{name}": value // 2 for name, value in size.items() if name[0] in "hni"}
    inner = {name: value for name, value in inner.items() if "image" not in name}
    if decoder:
        inner["decoder_num_attention_heads"] = 4
        model = transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(**size, **inner))
    else:
        model = transformers.ViTForImageClassification(transformers.ViTConfig(**size, num_labels=5))
    with torch.no_grad():
        for value in model.parameters():  # their initial values are too small to tell anything
            value.normal_(0, 0.3)
    model.eval().save_pretrained("theirs")
    capsys.readouterr()
    assert convert("theirs", "out") == 0
    text = capsys.readouterr().out
    assert "largest difference from transformers" in text and printed_difference(text) < 1e-4
    assert "LayerNorm adds 1e-06 here, 1e-12 in the source" in text
    found = incoming.read("out")
    assert found.heads == 2 and found.decoder_heads == (4 if decoder else None)
    assert ("encoder.head.weight" in found.found.tensors) is not decoder
    if not decoder:
        assert convert("theirs", "timm", "--to", "timm") == 0
        ours = timm.create_model("local-dir:timm", pretrained=True).eval()
        with torch.no_grad():
            assert torch.allclose(ours(images()), model(images()).logits, atol=1e-4)


def test_torchvision(capsys: Captured) -> None:
    from torchvision.models import VisionTransformer

    model = VisionTransformer(16, 4, 2, 2, 32, 128, num_classes=5).eval()
    state = {name: torch.randn_like(value) * 0.2 for name, value in model.state_dict().items()}
    model.load_state_dict(state)
    assert convert(saved(state), "out", "--to", "timm", "--heads", "2") == 0
    assert "read as: torchvision" in capsys.readouterr().out
    ours = timm.create_model("local-dir:out", pretrained=True).eval()
    with torch.no_grad():
        assert torch.allclose(ours(images()), model(images()), atol=1e-5)


@pytest.mark.parametrize("settings", [{"init_values": 0.3}, {"no_embed_class": True, "init_values": 0.3}])
def test_deit3_has_layer_scale_and_no_class_position(settings: dict[str, Any], capsys: Captured) -> None:
    size: dict[str, Any] = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2}
    size |= {"num_classes": 3}
    model: Any = timm.create_model("vit_tiny_patch16_224", **size, **settings).eval()
    assert convert(saved(model.state_dict()), "out", "--to", "timm", "--heads", "2") == 0
    text = capsys.readouterr().out
    assert "layer scale was folded" in text and printed_difference(text) < 1e-5
    with torch.no_grad():
        again = timm.create_model("local-dir:out", pretrained=True).eval()
        assert torch.allclose(again(images()), model(images()), atol=1e-6)


def test_beit_style_biases_and_layer_scale(capsys: Captured) -> None:
    assert convert(saved(foreign.beit_style()), "out", "--heads", "2") == 0
    text = capsys.readouterr().out
    assert "q and v biases were joined" in text and "layer scale was folded" in text
    assert printed_difference(text) < 1e-5
    bias = weights.read_file(Path("out/model.safetensors"))["encoder.blocks.0.attn.qkv.bias"]
    assert not bias[32:64].any() and torch.equal(bias[:32], foreign.encoder()["blocks.0.attn.qkv.bias"][:32])


def test_the_public_file(capsys: Captured) -> None:
    path = str(Path(__file__).parent / "fixtures" / "mae_tiny_public_format.pth.tar")
    assert convert(path, "out") == 4
    message = capsys.readouterr().err
    assert "does not say its number of attention heads" in message
    assert "--heads 12 or --heads 3" in message and not Path("out").exists()
    assert convert(path, "out", "--heads", "12", "--to", "timm") == 0
    assert "float16 became float32" in (text := capsys.readouterr().out) and printed_difference(text) < 1e-4
    reference = weights.read_file(Path(path.replace(".pth.tar", ".safetensors")))
    with torch.no_grad():
        model: Any = timm.create_model("local-dir:out", pretrained=True).eval()
        tokens = model.forward_features(reference["in.images"].float())
    assert (tokens - reference["out.tokens"]).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("width", "fix"),
    [(192, "--heads 12 or --heads 3"), (384, "--heads 12 or --heads 6"), (64, "--heads 1 or"), (7, "--heads NUMBER")],
)
def test_heads_that_shapes_cannot_tell(width: int, fix: str) -> None:
    with pytest.raises(CheckpointError, match="does not say its number") as caught:
        sizes.chosen_heads(None, None, width, "w.pth")
    assert fix in caught.value.fix
    assert sizes.chosen_heads(3, None, width, "w.pth") == 3
    assert sizes.chosen_heads(None, 3, width, "w.pth") == 3
    with pytest.raises(CheckpointError, match="expected 12"):
        sizes.chosen_heads(3, 12, width, "w.pth")


def test_heads_that_every_model_of_a_width_has() -> None:
    assert sizes.chosen_heads(None, None, 768, "w.pth") == 12
    assert sizes.chosen_heads(None, None, 96, "w.pth", "decoder-") == 3
    with pytest.raises(CheckpointError, match="decoder attention heads") as caught:
        sizes.chosen_heads(None, None, 64, "w.pth", "decoder-")
    assert "--decoder-heads" in caught.value.fix


def test_wrong_heads_compute_something_else() -> None:
    model: Any = build_encoder(foreign.ENCODER, seed=0)
    weights.load_into(model, foreign.encoder(), source="x")
    with torch.no_grad():
        tokens = model.eval().forward_features(images())
    assert (tokens - expected_tokens()).abs().max() < 1e-5
    assert (tokens - plain.tokens(foreign.ours(), images(), 4)).abs().max() > 1e-3


def test_a_conversion_that_computes_something_else_is_not_published(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    right = plain.tokens
    monkeypatch.setattr(plain, "tokens", lambda *words: right(*words) + 0.1)
    assert convert(saved(foreign.timm()), "out", "--heads", "2") == 4
    assert "computes something else" in capsys.readouterr().err and not Path("out").exists()
    monkeypatch.setattr(plain, "tokens", right)
    broken = {**foreign.timm(), "norm.bias": torch.full((32,), float("nan"))}
    assert convert(saved(broken), "out", "--heads", "2") == 4
    assert "computes something else" in capsys.readouterr().err and not Path("out").exists()


def test_positions_are_resized_aloud(capsys: Captured) -> None:
    assert convert(saved(foreign.mae()), "out", *HEADS, "--image-size", "24") == 0
    text = capsys.readouterr().out
    assert "positions resized from a 4 x 4 grid to 6 x 6" in text and "images of 24 pixels" in text
    written = weights.read_file(Path("out/model.safetensors"))
    assert written["encoder.pos_embed"].shape == (1, 37, 32) and written["decoder.pos_embed"].shape == (1, 37, 16)
    assert convert(saved(foreign.mae()), "other", *HEADS, "--image-size", "23") == 2
    assert "--image-size 20 (or 24)" in capsys.readouterr().err


def test_a_folder_that_exists_is_left_alone(capsys: Captured) -> None:
    Path("out").mkdir()
    assert convert(saved(foreign.mae()), "out", *HEADS) == 2
    assert "'out' exists already" in capsys.readouterr().err and list(Path("out").iterdir()) == []


def test_a_part_can_be_named() -> None:
    both = foreign.below("student.", foreign.timm()) | foreign.below("teacher.", foreign.timm())
    path = saved(both)
    assert convert(path, "out", "--heads", "2") == 4
    assert convert(path, "out", "--heads", "2", "--prefix", "student.") == 0
    assert torch.equal(weights.read_file(Path("out/model.safetensors"))["encoder.norm.bias"], both["student.norm.bias"])


def test_runs_checkpoints_and_their_encoders(capsys: Captured) -> None:
    from mae_lite import training

    training.run(toy.mae(), toy.runtime(Path("run")))
    for number, source in enumerate(("run", "run/checkpoints/step_6", "run/encoder")):
        assert convert(source, f"out{number}") == 0, capsys.readouterr().err
        settings = json.loads(Path(f"out{number}/config.json").read_text())
        assert settings["encoder"]["num_heads"] == 2 and len(settings["mean"]) == 1
        assert (settings["decoder"] is None) == source.endswith("encoder")
    first, last = (weights.read_file(Path(f"out{n}/model.safetensors")) for n in (0, 2))
    assert all(torch.equal(first[key], value) for key, value in last.items())
    assert convert("run", "theirs", "--to", "huggingface") == 0
    assert convert("theirs", "back") == 0
    back = weights.read_file(Path("back/model.safetensors"))
    assert back.keys() == first.keys() and all(torch.equal(first[key], value) for key, value in back.items())


@pytest.mark.parametrize("recipe", [toy.mocov3(), toy.dino()], ids=lambda recipe: recipe.name)
def test_what_a_method_trains_beside_the_model_is_left_out(recipe: config.Recipe, capsys: Captured) -> None:
    run = training.run(recipe, toy.runtime(Path("run"))).folder
    own = initial_tensors(str(run), recipe.encoder)
    kept = {name for name in own if name.startswith("encoder.")}
    for kind in ("ours", "timm"):
        assert convert(str(run), kind, "--to", kind) == 0
        found = initial_tensors(kind, recipe.encoder)
        assert found.keys() == kept
        assert all(torch.equal(found[name], own[name]) for name in kept)
    assert f"{len(own) - len(kept)} tensors were left out" in capsys.readouterr().out


def test_classifiers_keep_their_head_and_their_classes(capsys: Captured) -> None:
    from mae_lite import training

    training.run(toy.classifier(), toy.runtime(Path("run")))
    assert convert("run", "out", "--to", "timm") == 0, capsys.readouterr().err
    ours = timm.create_model("local-dir:out", pretrained=True).eval()
    theirs = timm.create_model("local-dir:run/classifier", pretrained=True).eval()
    image = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(ours(image), theirs(image))
    settings = json.loads(Path("out/config.json").read_text())
    assert settings["label_names"] == [str(digit) for digit in range(10)] and settings["num_classes"] == 10
    assert convert("run", "hf", "--to", "huggingface") == 4
    assert "averages its tokens" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("recipe", "outputs"),
    [
        (toy.mae(), 0),
        (toy.classifier(), 10),
        (toy.classifier(method={"pooling": "token"}), 10),
        (toy.classifier(method={"relative_positions": True}), 10),
        (toy.swin_classifier(start="random"), 10),
    ],
    ids=["encoder", "mean", "token", "relative", "swin"],
)
def test_transformers_wraps_the_folders_of_finished_runs(
    recipe: config.Recipe, outputs: int, transformers: Any
) -> None:
    run = training.run(recipe, toy.runtime(Path("run"))).folder
    folder = run / ("classifier" if outputs else "encoder")
    model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert model.num_classes == outputs
    image = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        if outputs:
            wrapped = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
            assert wrapped.config.id2label == {number: str(number) for number in range(10)}
            assert torch.equal(wrapped(image).logits, model(image))
        else:
            wrapped = transformers.AutoModel.from_pretrained(folder).eval()
            assert torch.equal(wrapped(image).last_hidden_state, model.forward_features(image))


# What is not a checkpoint, or not a whole one


def change(name: str) -> foreign.Tensors:
    tensors = foreign.timm()
    match name:
        case "missing":
            del tensors["blocks.1.norm1.bias"]
        case "extra":
            tensors["blocks.1.attn.q_norm.weight"] = torch.ones(16)
        case "distilled":
            tensors["dist_token"] = torch.ones(1, 1, 32)
        case "registers":
            tensors["reg_token"] = torch.ones(1, 4, 32)
        case "shape":
            tensors["blocks.0.mlp.fc1.weight"] = torch.ones(128, 31)
        case "oblong":
            tensors["pos_embed"] = torch.ones(1, 13, 32)
        case "wide":
            tensors["blocks.0.mlp.fc1.weight"] = torch.ones(100, 32)
        case "no patches":
            del tensors["patch_embed.proj.weight"]
        case "two norms":
            tensors |= {"fc_norm.weight": torch.ones(32), "fc_norm.bias": torch.ones(32)}
        case "no value":
            tensors = foreign.hugging_face_vit()
            del tensors["encoder.layer.0.attention.attention.value.weight"]
        case "other":
            tensors = {"conv1.weight": torch.ones(3), "fc.bias": torch.ones(3)}
    return tensors


@pytest.mark.parametrize(
    ("name", "mentions"),
    [
        ("missing", ["does not fit", "blocks.1.norm1.bias: missing"]),
        ("extra", ["1 of its names are unknown", "blocks.1.attn.q_norm.weight", "additional norms"]),
        ("distilled", ["dist_token", "a distillation token"]),
        ("registers", ["reg_token", "register tokens"]),
        ("shape", ["does not fit", "[128, 31] for [128, 32]"]),
        ("oblong", ["13 positions"]),
        ("wide", ["an MLP of 100 for a width of 32"]),
        ("no patches", ["not a whole Vision Transformer", "patch_embed.proj.weight"]),
        ("two norms", ["two final norms"]),
        ("no value", ["incomplete", "encoder.blocks.0.attn.v.weight"]),
        ("other", ["no known layout", "conv1.weight, fc.bias", "--prefix"]),
    ],
)
def test_checkpoints_that_are_not_plain_or_whole(name: str, mentions: list[str], capsys: Captured) -> None:
    assert convert(saved(change(name)), "out", "--heads", "2") == 4
    message = capsys.readouterr().err
    assert [mention for mention in mentions if mention not in message] == [], message
    assert message.count("error: ") == 1 and message.count("\nFix: ") == 1 and not Path("out").exists()


class Evil:
    """Touches a file when it is unpickled the careless way."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, ("touch canary",))


def wrong_kind(name: str) -> None:
    path = Path("w.pth")
    match name:
        case "tensorflow":
            path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
        case "jax":
            with path.open("wb") as handle:
                np.savez(handle, kernel=np.ones(3))
        case "zip":
            Path("folder").mkdir()
            Path("folder/a.txt").write_text("x")
            shutil.move(shutil.make_archive("w", "zip", "folder"), path)
        case "html":
            path.write_text("<!doctype html><title>Sign in</title>")
        case "text":
            path.write_text("epoch 1: loss 0.4\n")
        case "gzip":
            path.write_bytes(b"\x1f\x8b\x08" + bytes(20))
        case "optimizer":
            torch.save({"optimizer": {"state": {}, "param_groups": []}, "epoch": 1}, path)
        case "code":
            torch.save({"model": foreign.timm(), "more": Evil()}, path)
        case "old code":
            torch.save({"model": Evil()}, path, _use_new_zipfile_serialization=False)
        case "bare code":
            path.write_bytes(pickle.dumps(Evil()))


@pytest.mark.parametrize(
    ("name", "mention"),
    [
        ("tensorflow", "an HDF5 file"),
        ("jax", "a NumPy archive"),
        ("zip", "not a PyTorch checkpoint"),
        ("html", "an HTML page"),
        ("text", "a text file"),
        ("gzip", "a gzip archive"),
        ("optimizer", "an optimizer's state only"),
        ("code", "code inside a checkpoint is never run"),
        ("old code", "a bare pickle"),
        ("bare code", "a bare pickle"),
        ("nothing", "does not exist"),
    ],
)
def test_what_is_no_checkpoint(name: str, mention: str, capsys: Captured) -> None:
    wrong_kind(name)
    assert convert("w.pth", "out") == 4
    message = capsys.readouterr().err
    assert mention in message and "'w.pth'" in message and not Path("canary").exists()
    assert message.count("error: ") == 1 and message.count("\nFix: ") == 1 and not Path("out").exists()


@pytest.mark.parametrize("content", ['{"hidden_size": 32}', '{"model_args": 3}', '{"kind": "mae_lite"}', "{"])
def test_folders_with_an_odd_description(content: str, capsys: Captured) -> None:
    Path("odd").mkdir()
    Path("odd/config.json").write_text(content)
    Path("odd/model.safetensors").write_bytes(weights.to_bytes(foreign.timm()))
    assert convert("odd", "out") == 4
    assert "odd/config.json" in capsys.readouterr().err


def test_of_two_models_in_a_file_the_one_taken_is_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="mae_lite"):
        weights.read_file(Path(saved(foreign.timm(), model_ema=foreign.timm())))
    assert "the weights under 'model' are taken, not those under 'model_ema'" in caplog.text


def test_the_table_of_layouts_is_known_to_the_page() -> None:
    page = (Path(__file__).parent.parent / "docs" / "weights.md").read_text()
    assert [row.name for row in layouts.LAYOUTS if f"| {row.name} |" not in page] == []


def test_python_gets_the_lines_too() -> None:
    lines = converting.convert(converting.Order(saved(foreign.timm()), Path("out"), heads=2))
    assert lines[-1] == "written for ours: out"
    with pytest.raises(ConfigError, match="exists already"):
        converting.convert(converting.Order("w.pth", Path("out")))
    assert config.Encoder.model_validate(json.loads(Path("out/config.json").read_text())["encoder"]).depth == 2
