"""Numbers computed with the public implementation, reproduced by ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mae_lite import config, recipes
from mae_lite.engine.optim import LearningRate, parameter_groups
from mae_lite.methods import build
from mae_lite.methods.comparing import momentum_at
from mae_lite.methods.mae import MaskedAutoencoder, patchify, unpatchify
from mae_lite.methods.mocov3 import MomentumContrast, contrastive_loss
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


@pytest.fixture(scope="module")
def contrast() -> dict[str, Tensor]:
    return load_file(FIXTURES / "mocov3.safetensors")


class Trunk(nn.Linear):
    """The encoder of the reference."""

    def forward(self, values: Tensor) -> Tensor:
        """Return [B, 24] features of [B, 12] values."""
        return torch.relu(super().forward(values))


def reference_mocov3(numbers: dict[str, Tensor]) -> MomentumContrast:
    """Return MoCo-v3 with the reference's weights and its toy encoder, a linear layer of 12 values and ReLU."""
    encoder = {"image_size": 4, "patch_size": 4, "width": 24, "depth": 1, "num_heads": 2}
    heads = {"hidden_width": 32, "output_width": 16}
    model = build(recipes.derive(recipes.get("mocov3-tiny"), encoder=encoder, method=heads), 0)
    assert isinstance(model, MomentumContrast)
    model.encoder, model.momentum_encoder = Trunk(12, 24), Trunk(12, 24).requires_grad_(False)
    public = {key: value for key, value in numbers.items() if key.startswith("weights_before.")}
    ours = {_ours(key.removeprefix("weights_before.")): value for key, value in public.items()}
    weights.load_into(model, ours, source="reference")
    return model


def _ours(name: str) -> str:
    for public, own in (
        ("base_encoder.trunk.", "encoder."),
        ("base_encoder.head.", "projector."),
        ("momentum_encoder.trunk.", "momentum_encoder."),
        ("momentum_encoder.head.", "momentum_projector."),
    ):
        if name.startswith(public):
            return own + name.removeprefix(public)
    return name


def test_mocov3_step(contrast: dict[str, Tensor]) -> None:
    """The followers move first (step 10 of 100), then the keys of step 10 are computed with them."""
    model = reference_mocov3(contrast)
    model.after_step(10, 100)
    views = torch.stack([contrast["in.view1"], contrast["in.view2"]], dim=1)
    loss = model(views, torch.zeros(8), {}).loss
    assert loss.item() == pytest.approx(contrast["out.loss"].item(), rel=1e-5)
    loss.backward()
    norms = {name: p.grad.norm().item() for name, p in model.named_parameters() if p.grad is not None}
    prefix = "out.grad_norm."
    expected = {_ours(key.removeprefix(prefix)): v for key, v in contrast.items() if key.startswith(prefix)}
    assert norms.keys() == expected.keys()
    for name, norm in norms.items():
        assert norm == pytest.approx(expected[name].item(), rel=1e-5, abs=1e-7), name
    state, prefix = model.state_dict(), "momentum_after."
    followers = {key.removeprefix(prefix): value for key, value in contrast.items() if key.startswith(prefix)}
    assert len(followers) == 18
    for name, value in followers.items():  # parameters, and the statistics of their own two batches
        assert (state[_ours(f"momentum_encoder.{name}")] - value).abs().max() < 1e-5, name


def test_mocov3_schedule_and_loss(contrast: dict[str, Tensor]) -> None:
    assert momentum_at(10, 100, 0.99) == pytest.approx(contrast["out.momentum"].item(), rel=1e-12)
    ours = [momentum_at(step, 100, 0.99) for step in range(0, 101, 10)]
    assert ours == pytest.approx(contrast["out.momentum_every_10_of_100"].tolist(), rel=1e-12)
    loss = contrastive_loss(contrast["in.q"], contrast["in.k"], 0.2)
    assert loss.item() == pytest.approx(contrast["out.contrastive_loss"].item(), rel=1e-5)


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
