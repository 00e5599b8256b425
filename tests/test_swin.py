"""Hierarchical encoders: built, fine-tuned with layer decay, probed, written for timm, and refused where none fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mae_lite import costs, recipes, training
from mae_lite.cli import main
from mae_lite.config import Recipe, Supervised, Swin
from mae_lite.data.loader import Batch
from mae_lite.engine.optim import parameter_groups
from mae_lite.errors import CheckpointError, ConfigError
from mae_lite.evaluation.classifier import evaluate_run
from mae_lite.evaluation.features import extract
from mae_lite.evaluation.teacher import load_teacher
from mae_lite.methods import build
from mae_lite.models.encoders import build_classifier, build_encoder
from mae_lite.predicting.models import load_encoder
from mae_lite.rundir import checkpoints, read_rows
from tests import toy
from tests.test_methods import assert_normal, assert_uniform, pictures
from tests.test_training import tensors, trained

SMALL = Swin(image_size=32, patch_size=2, width=24, depths=(2, 1, 2), num_heads=(2, 4, 8), window_size=4)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(toy.simmim_swin(), tmp_path_factory.mktemp("swin") / "run")


def test_it_starts_as_swins_do() -> None:
    model: Any = build_encoder(SMALL, seed=0)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            assert_normal(module.weight, 0.02)
            assert module.bias is None or not module.bias.any(), name
        elif isinstance(module, nn.LayerNorm):
            assert bool((module.weight == 1).all()) and not module.bias.any()
    assert_uniform(model.patch_embed.proj.weight, 12**-0.5)
    assert_normal(model.layers[2].blocks[1].attn.relative_position_bias_table, 0.02)
    assert [len(stage.blocks) for stage in model.layers] == [2, 1, 2]
    assert [stage.blocks[0].attn.num_heads for stage in model.layers] == [2, 4, 8]
    assert [model.layers[0].blocks[place].shift_size for place in (0, 1)] == [(0, 0), (2, 2)]
    assert (SMALL.stride, SMALL.last_width) == (8, 96)
    assert model.forward_features(pictures(2, 3, 32)).shape == (2, 4, 4, 96)


def test_drop_path_is_that_of_the_recipe_and_not_timms() -> None:
    """Left alone, timm drops paths of a Swin transformer."""
    assert not [m for m in build_encoder(SMALL, 0).modules() if getattr(m, "drop_prob", 0) > 0]
    dropping = Swin.model_validate(SMALL.model_dump() | {"drop_path": 0.4})
    model: Any = build_encoder(dropping, 0)
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for stage in model.layers for block in stage.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


def test_the_head_reads_the_mean_after_the_final_norm() -> None:
    model: Any = build_classifier(SMALL, 10, "mean", seed=0).eval()
    nn.init.normal_(model.norm.weight, 1.0, 0.3)
    with torch.no_grad():
        pooled = model.forward_features(pictures(3, 3, 32)).mean(dim=(1, 2))
        assert torch.allclose(model(pictures(3, 3, 32)), model.head.fc(pooled), atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"image_size": 40, "window_size": 3},  # maps of 20, 10 and 5 are filled up to 21, 12 and 6
        {"window_size": 7, "channels": 1},  # wider than the last map of 4
        {"depths": (3,), "num_heads": (3,), "patch_size": 4},
    ],
)
def test_costs_of_other_sizes(changes: dict[str, Any]) -> None:
    encoder = Swin.model_validate(SMALL.model_dump() | changes)
    with torch.device("meta"):
        model = build_encoder(encoder, seed=0)
        images = torch.empty(2, encoder.channels, encoder.image_size, encoder.image_size)
    assert costs.encoder_parameters(encoder) == sum(parameter.numel() for parameter in model.parameters())
    with FlopCounterMode(display=False) as counter:
        model(images)
    assert costs.forward_gflops(encoder) == pytest.approx(counter.get_total_flops() / 2 / 1e9, rel=1e-9)


def test_layer_decay_by_hand() -> None:
    recipe = recipes.derive(toy.swin_classifier(), encoder={"depths": (2, 3), "num_heads": (2, 2)}, layer_decay=0.5)
    method = build(recipe, 10)
    found = {
        name.removeprefix("encoder."): (group["lr_scale"], group["weight_decay"])
        for group in parameter_groups(method, recipe)
        for name in group["names"]
    }
    assert len(found) == len(list(method.parameters()))
    for name, (scale, decay) in found.items():
        parts = name.split(".")
        if parts[0] == "patch_embed":
            layer = 0
        elif parts[0] == "layers":
            first = 1 if parts[1] == "0" else 3
            layer = first if parts[2] == "downsample" else first + int(parts[3])
        else:
            assert parts[0] in ("norm", "head")
            layer = 6
        assert scale == 0.5 ** (6 - layer), name
        table = name.endswith("relative_position_bias_table")
        assert (decay == 0) == (table or method.encoder.get_parameter(name).ndim == 1), name
    everything = recipes.derive(recipe, optimizer={"no_decay": ()})
    assert {group["weight_decay"] for group in parameter_groups(method, everything)} == {0.05}


def test_finetuning_starts_from_a_run_a_checkpoint_and_a_folder_and_is_evaluated(
    tmp_path: Path, pretrained: Path
) -> None:
    before = tensors(pretrained)
    recipe = toy.swin_classifier()
    for source in (pretrained, checkpoints(pretrained)[0][1], pretrained / "encoder"):
        out = tmp_path / f"fine-{source.name}"
        training.run(recipe, toy.runtime(out, init=str(source), stop_after_steps=1))  # its rate is 0 under warm-up
        after = tensors(out)
        carried = [name for name in after if not name.startswith("encoder.head.")]
        assert len(carried) > 40
        assert all(torch.equal(after[name], before[name]) for name in carried)
    run = trained(recipe, tmp_path / "whole", init=str(pretrained))
    result = evaluate_run(run)
    assert 0 <= result["top1"] <= 1
    images = pictures(2, 1, 8)
    with torch.no_grad():
        for ours, folder in (
            (load_encoder(run), run / "classifier"),
            (load_encoder(pretrained), pretrained / "encoder"),
        ):
            theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
            assert torch.allclose(theirs(images), ours(images), atol=1e-6)


def test_finetuning_larger_images_needs_no_other_positions(tmp_path: Path, pretrained: Path) -> None:
    recipe = recipes.derive(toy.swin_classifier(), encoder={"image_size": 16})
    training.run(recipe, toy.runtime(tmp_path / "run", init=str(pretrained), stop_after_steps=1))
    name = "encoder.layers.1.blocks.0.attn.relative_position_bias_table"
    assert torch.equal(tensors(tmp_path / "run")[name], tensors(pretrained)[name])


def test_weights_of_another_encoder_are_refused(tmp_path: Path, pretrained: Path) -> None:
    plain = trained(toy.simmim(), tmp_path / "plain", stop_after_steps=1)
    with pytest.raises(CheckpointError, match="does not fit the model"):
        training.run(toy.swin_classifier(), toy.runtime(tmp_path / "a", init=str(plain)))
    fine = recipes.derive(toy.classifier(), start="pretrained")
    for source in (pretrained, pretrained / "encoder"):
        with pytest.raises(CheckpointError, match="does not fit the model"):
            training.run(fine, toy.runtime(tmp_path / "b", init=str(source)))
    other = recipes.derive(toy.swin_classifier(), encoder={"num_heads": (1, 2)})
    with pytest.raises(CheckpointError, match="relative_position_bias_table"):
        training.run(other, toy.runtime(tmp_path / "c", init=str(pretrained)))
    with pytest.raises(CheckpointError, match="is not a Vision Transformer"):
        load_teacher(toy.distilled(), str(pretrained))
    assert main(["convert", str(pretrained), str(tmp_path / "d")]) != 0
    assert not (tmp_path / "d").exists()


def test_what_convert_says(pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for source in (pretrained, pretrained / "encoder"):
        main(["convert", str(source), str(tmp_path / "out")])
        assert "is a Swin transformer" in capsys.readouterr().err


def test_a_decoder_of_gradients_is_left_out_of_a_conversion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(toy.mae_hog(), tmp_path / "run", stop_after_steps=2)
    assert main(["convert", str(run), str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "the decoder, which predicts no pixels, was left out" in said
    assert "decoder: none" in said


def test_features_are_the_mean_of_the_last_map(pretrained: Path) -> None:
    encoder: Any = load_encoder(pretrained)
    pixels = torch.randint(256, (5, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    batch = Batch(pixels, torch.arange(5), torch.arange(5))
    arguments: dict[str, Any] = {"device": torch.device("cpu"), "mean": (0.3,), "std": (0.4,)}
    found = extract(encoder, [batch], **arguments)
    with torch.no_grad():
        expected = encoder.forward_features((pixels / 255 - 0.3) / 0.4).mean(dim=(1, 2))
    assert found.values.shape == (5, 8)
    assert np.allclose(found.values, expected.numpy(), atol=1e-5)
    with pytest.raises(ConfigError, match="no class token"):
        extract(encoder, [batch], **arguments, token="class")


def test_a_run_is_probed_on_its_way(tmp_path: Path) -> None:
    run = trained(toy.simmim_swin(), tmp_path / "run", probe_every_epochs=3 / 84, probe_images=60)
    probed = [row for row in read_rows(run) if "knn_top1" in row]
    assert [row["step"] for row in probed] == [0, 3, 6]
    assert main(["report", str(run), "--out", str(tmp_path / "report.html")]) == 0
    assert "toy-simmim-swin" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("recipe", [toy.mae(), toy.distilled(), toy.mae_hog(), toy.maskfeat(), toy.mocov3()])
def test_other_methods_refuse_it(recipe: Recipe) -> None:
    with pytest.raises(
        ConfigError, match=rf"(?s)encoder.kind: found swin.*the method {recipe.method.kind} needs.*Fix: "
    ):
        recipes.derive(recipe, encoder=toy.SWIN)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "swin_teeny"}, r"nearest: 'swin_.*a Swin transformer of timm"),
        ({"name": "vit_tiny_patch16_224"}, r"a Swin transformer of timm"),
    ],
)
def test_unknown_architectures(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_encoder(Swin.model_validate(SMALL.model_dump() | changes), seed=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 36}, r"(?s)encoder.image_size: found 36.*stride.* 8.*Fix: --encoder.image-size 40"),
        ({"depths": (2, 2)}, r"(?s)encoder.num_heads: found 3 values.*2 stages"),
        ({"depths": ()}, r"encoder.num_heads"),
        ({"num_heads": (5, 4, 8)}, r"(?s)encoder.width: found 24.*5 heads in stage 1.*Fix: --encoder.width 25"),
        ({"num_heads": (2, 4, 20)}, r"(?s)encoder.width: found 24.*20 heads in stage 3.*Fix: --encoder.width 25"),
        ({"depths": (2, 0, 2)}, r"encoder.depths"),
        ({"positions": "learned"}, r"unknown field 'encoder.positions'"),
        ({"kind": "resnet"}, r"encoder: found .*of kind swin"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    recipe = recipes.derive(recipes.get("cifar10-simmim-swin"), encoder=SMALL.model_dump())
    with pytest.raises(ConfigError, match=message):
        recipes.derive(recipe, encoder=SMALL.model_dump() | changes)


def test_it_has_no_class_token_to_pool() -> None:
    with pytest.raises(ConfigError, match=r"(?s)method.pooling.*no class token.*Fix: --method.pooling mean"):
        recipes.derive(toy.swin_classifier(), method=Supervised(pooling="token").model_dump())


def test_flags_change_its_shape_and_a_plain_one_into_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Recipe] = []

    def run(recipe: Recipe, runtime: object) -> training.Outcome:
        del runtime
        seen.append(recipe)
        return training.Outcome(tmp_path, "finished", 1, 1)

    monkeypatch.setattr(training, "run", run)
    depths = ["--encoder.depths", "1", "3", "--encoder.num-heads", "2", "4"]
    assert main(["pretrain", "simmim-swin-tiny", "--data", "digits", *depths]) == 0
    assert main(["pretrain", "simmim-tiny", "--data", "digits", "--encoder.kind", "swin"]) == 0
    assert isinstance(seen[0].encoder, Swin)
    assert (seen[0].encoder.depths, seen[0].encoder.num_heads) == ((1, 3), (2, 4))
    assert seen[1].digest() == recipes.get("simmim-swin-tiny").digest()


def test_help_lists_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["pretrain", "simmim-swin-tiny", "--help"])
    said = capsys.readouterr().out
    assert "--encoder.window-size" in said
    assert "--method.mask-unit-px" in said
