"""Numbers computed with the public implementation, reproduced by ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor

from mae_lite import config, recipes
from mae_lite.engine.optim import LearningRate, parameter_groups
from mae_lite.methods import build
from mae_lite.methods.mae import MaskedAutoencoder, patchify, unpatchify
from mae_lite.models import layouts, weights
from mae_lite.models.vit import build_encoder, sincos_table

FIXTURES = Path(__file__).parent / "fixtures"
SCHEDULES = json.loads((FIXTURES / "schedules.json").read_text())


def relative(ours: Tensor, reference: Tensor) -> float:
    return float((ours.detach() - reference).norm() / reference.norm())


@pytest.fixture(scope="module")
def numbers() -> dict[str, Tensor]:
    return load_file(FIXTURES / "mae_forward.safetensors")


def reference_mae(numbers: dict[str, Tensor], normalize: bool) -> MaskedAutoencoder:
    with safetensors.safe_open(FIXTURES / "mae_forward.safetensors", "pt") as file:
        facts = json.loads(file.metadata()["config"])
    recipe = recipes.derive(
        recipes.get("mae-tiny"),
        encoder={
            "image_size": facts["img_size"],
            "patch_size": facts["patch_size"],
            "width": facts["embed_dim"],
            "depth": facts["depth"],
            "num_heads": facts["num_heads"],
        },
        method={
            "decoder_width": facts["decoder_embed_dim"],
            "decoder_depth": facts["decoder_depth"],
            "decoder_heads": facts["decoder_num_heads"],
            "normalize_target": normalize,
        },
    )
    model = build(recipe, 0)
    assert isinstance(model, MaskedAutoencoder)
    public = {key.removeprefix("weights."): value for key, value in numbers.items() if key.startswith("weights.")}
    weights.load_into(model, weights.canonical_names(public), source="reference")
    return model


def test_mae_forward(numbers: dict[str, Tensor]) -> None:
    model = reference_mae(numbers, normalize=True)
    order, images = numbers["in.ids_shuffle"], numbers["in.images"]
    patches = patchify(images, 16)
    assert torch.equal(patches, numbers["out.patchify"])
    assert torch.equal(unpatchify(patches, 16, 3), images)
    latent = model.encode(patches, order[:, : model.kept])
    assert relative(latent, numbers["out.latent"]) < 1e-5
    assert relative(model.decoder(latent, order), numbers["out.pred"]) < 1e-5
    mask = torch.ones_like(numbers["out.mask"]).scatter(1, order[:, : model.kept], 0.0)
    assert torch.equal(mask, numbers["out.mask"])


@pytest.mark.parametrize("target", ["norm_pix", "raw_pix"])
def test_mae_loss_and_gradients(numbers: dict[str, Tensor], target: str) -> None:
    model = reference_mae(numbers, normalize=target == "norm_pix")
    noise = torch.argsort(numbers["in.ids_shuffle"], dim=1).float()  # sorting these ranks gives the reference's shuffle
    loss = model(numbers["in.images"], torch.zeros(4), {"noise": noise}).loss
    assert loss.item() == pytest.approx(numbers[f"out.{target}.loss"].item(), rel=1e-5)
    loss.backward()
    prefix = f"out.{target}.grad_norm."
    reference = {key.removeprefix(prefix): value for key, value in numbers.items() if key.startswith(prefix)}
    norms = {
        name: parameter.grad.norm().item() for name, parameter in model.named_parameters() if parameter.grad is not None
    }
    expected = weights.canonical_names(reference)
    assert norms.keys() == expected.keys()
    for name, norm in norms.items():
        assert norm == pytest.approx(expected[name].item(), rel=1e-4), name


@pytest.mark.parametrize(
    "table", ["mae.d192_g14", "mae.d48_g4", "mae.d64_g8", "mae.d96_g14", "mocov3.d192_g14", "mocov3.d48_g4"]
)
def test_sincos_positions(table: str) -> None:
    reference = load_file(FIXTURES / "sincos_positions.safetensors")[table].float()
    family, _, shape = table.partition(".d")
    width, grid = map(int, shape.split("_g"))
    ours = sincos_table(width, grid, "mae" if family == "mae" else "mocov3")
    assert ours.shape == (1, grid**2 + 1, width)
    assert (ours[0] - reference).abs().max() < 1e-6
    assert not ours[0, 0].any()


@pytest.mark.parametrize("name", ["pretrain_mae_tiny", "finetune_improved"])
def test_learning_rates(name: str) -> None:
    facts: dict[str, Any] = SCHEDULES[name]
    recipe = recipes.get({"pretrain_mae_tiny": "mae-tiny", "finetune_improved": "finetune-improved"}[name])
    images = 1_281_167
    rate = LearningRate.of(recipe, images // recipe.global_batch_size)
    assert rate.total_steps == facts["total_steps"]
    assert rate.warmup_steps == facts["warmup_steps"]
    for step, expected in facts["lr_at_step"].items():
        assert rate(int(step)) == pytest.approx(expected, rel=1e-9, abs=1e-18), step


def test_layer_decay() -> None:
    recipe = recipes.get("finetune-improved")
    assert recipe.layer_decay == 0.85
    groups = parameter_groups(build(recipe, 1000), recipe)
    ours = {
        name.removeprefix("encoder."): (group["lr_scale"], group["weight_decay"])
        for group in groups
        for name in group["names"]
    }
    facts = SCHEDULES["layer_decay_0.85_vit_tiny"]
    assert ours.keys() == facts.keys()
    for name, fact in facts.items():
        assert ours[name] == pytest.approx((fact["lr_scale"], fact["weight_decay"])), name


@pytest.mark.parametrize(("heads", "low", "high"), [(12, 0.0, 1e-4), (3, 0.1, 10.0)])
def test_public_checkpoint_format(heads: int, low: float, high: float) -> None:
    encoder = config.Encoder(depth=2, num_heads=heads)
    tensors = layouts.recognise(weights.read_file(FIXTURES / "mae_tiny_public_format.pth.tar"), "public").tensors
    ours = {key.removeprefix("encoder."): value for key, value in tensors.items() if key.startswith("encoder.")}
    model: Any = build_encoder(encoder, seed=0)
    weights.load_into(model, ours, source="public checkpoint")
    reference = load_file(FIXTURES / "mae_tiny_public_format.safetensors")
    with torch.no_grad():
        tokens = model.eval().forward_features(reference["in.images"].float())
    difference = (tokens - reference["out.tokens"]).abs().max().item()
    assert low <= difference < high
