"""Parameter groups, layer decay and the learning rate, against formulas written down again."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from mae_lite import recipes
from mae_lite.config import Recipe
from mae_lite.engine.optim import (
    LearningRate,
    WeightDecay,
    build_optimizer,
    parameter_groups,
    set_learning_rate,
    set_weight_decay,
)
from mae_lite.methods import build
from mae_lite.methods.base import Method
from tests import toy

FINETUNE: dict[str, Any] = {"encoder": {"depth": 3, "width": 24}, "layer_decay": 0.65}


def finetune(**changes: Any) -> Recipe:
    return recipes.derive(recipes.get("digits-finetune"), **{**FINETUNE, **changes})


def groups_by_name(method: Method, recipe: Recipe) -> dict[str, tuple[float, float]]:
    """Return (lr_scale, weight_decay) by name, having checked that names and parameters belong together."""
    parameters = dict(method.named_parameters())
    result: dict[str, tuple[float, float]] = {}
    for group in parameter_groups(method, recipe):
        assert len(group["names"]) == len(group["params"])
        for name, parameter in zip(group["names"], group["params"], strict=True):
            assert parameter is parameters[name]
            assert name not in result
            result[name] = group["lr_scale"], group["weight_decay"]
    return result


@pytest.mark.parametrize(
    "recipe", [toy.mae(), toy.distilled(), toy.classifier(), finetune()], ids=lambda recipe: recipe.name
)
def test_each_trainable_parameter_once_and_no_frozen_one(recipe: Recipe) -> None:
    method = build(recipe, 10)
    trainable = {name for name, parameter in method.named_parameters() if parameter.requires_grad}
    frozen = {name for name, _ in method.named_parameters()} - trainable
    mae = recipe.method.kind != "supervised"
    assert frozen == ({"encoder.pos_embed", "decoder.pos_embed"} if mae else set())
    assert groups_by_name(method, recipe).keys() == trainable
    optimizer = build_optimizer(method, recipe)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(trainable)
    wanted: Any = recipe.optimizer
    for group in optimizer.param_groups:
        assert (group["betas"], group["eps"]) == (wanted.betas, wanted.eps)


def test_mae_decays_all_but_vectors() -> None:
    recipe = toy.mae()
    method = build(recipe, 0)
    groups = groups_by_name(method, recipe)
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            assert groups[name] == (1.0, 0.0 if parameter.ndim == 1 else 0.05), name
    assert groups["encoder.cls_token"][1] == groups["decoder.mask_token"][1] == 0.05
    assert groups["encoder.norm.weight"][1] == groups["decoder.pred.bias"][1] == 0.0


def test_finetuning_exempts_positions_and_class_token() -> None:
    recipe = finetune()
    method = build(recipe, 10)
    exempt = {name for name, (_, decay) in groups_by_name(method, recipe).items() if decay == 0}
    vectors = {name for name, parameter in method.named_parameters() if parameter.ndim == 1}
    assert exempt == vectors | {"encoder.pos_embed", "encoder.cls_token"}
    everything = finetune(optimizer={"no_decay": ()})
    assert {decay for _, decay in groups_by_name(build(everything, 10), everything).values()} == {0.05}


def test_layer_decay_by_hand() -> None:
    recipe = finetune()
    scales = {name: scale for name, (scale, _) in groups_by_name(build(recipe, 10), recipe).items()}
    decay = 0.65
    for name, scale in scales.items():
        inner = name.removeprefix("encoder.")
        if inner.startswith(("patch_embed.", "cls_token", "pos_embed")):
            expected = decay * decay * decay * decay
        elif inner.startswith("blocks."):
            expected = {"0": decay * decay * decay, "1": decay * decay, "2": decay}[inner.split(".")[1]]
        else:
            assert inner.startswith(("fc_norm.", "head."))
            expected = 1.0
        assert scale == pytest.approx(expected, rel=1e-12), name
    assert len(set(scales.values())) == 5


def test_token_pooling_puts_the_final_norm_on_top() -> None:
    recipe = finetune(method={"pooling": "token"})
    groups = groups_by_name(build(recipe, 10), recipe)
    assert groups["encoder.norm.weight"] == (1.0, 0.0)
    assert not any(name.startswith("encoder.fc_norm") for name in groups)


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_sgd(momentum: float) -> None:
    recipe = toy.classifier(optimizer={"kind": "sgd", "momentum": momentum})
    method = build(recipe, 10)
    optimizer = build_optimizer(method, recipe)
    assert isinstance(optimizer, torch.optim.SGD)
    for group in optimizer.param_groups:
        assert (group["momentum"], group["weight_decay"]) == (momentum, 0.0)
    weight: Any = method.get_parameter("encoder.head.weight")
    start, velocity = weight.detach().clone(), 0.0
    expected = start.clone()
    for update in range(3):
        set_learning_rate(optimizer, 0.1)
        gradient = torch.full_like(weight, update + 1.0)
        weight.grad = gradient.clone()
        optimizer.step()
        velocity = momentum * velocity + (update + 1.0)
        expected -= 0.1 * ((update + 1.0) + momentum * velocity)  # Nesterov looks one momentum step ahead
    assert torch.allclose(weight.detach(), expected, atol=1e-6)


def test_transfer_recipe_of_the_paper() -> None:
    """CIFAR-100: SGD, Nesterov, no weight decay, rate 0.1 at batch 512."""
    recipe = recipes.derive(
        recipes.get("finetune-improved"),
        encoder={"depth": 1, "width": 24},
        optimizer={"kind": "sgd"},
        global_batch_size=512,
        lr_per_256=0.05,
        layer_decay=0.75,
    )
    optimizer = build_optimizer(build(recipe, 100), recipe)
    set_learning_rate(optimizer, recipe.peak_lr)
    assert recipe.peak_lr == pytest.approx(0.1)
    assert {(group["momentum"], group["nesterov"], group["weight_decay"]) for group in optimizer.param_groups} == {
        (0.9, True, 0.0)
    }
    rates = sorted({round(group["lr"], 12) for group in optimizer.param_groups})
    assert rates == pytest.approx([0.1 * 0.75**2, 0.1 * 0.75, 0.1])


def test_learning_rate_by_hand() -> None:
    recipe = recipes.derive(recipes.get("finetune-improved"), epochs=10, warmup_epochs=2, final_lr=1e-4)
    rate = LearningRate.of(recipe, 25)
    peak = 1e-3 * 1024 / 256
    assert (rate.total_steps, rate.warmup_steps) == (250, 50)
    assert rate(0) == 0.0
    assert rate(1) == pytest.approx(peak / 50)
    assert rate(49) == pytest.approx(peak * 49 / 50)
    assert rate(50) == peak
    assert max(rate(step) for step in range(250)) == peak
    assert rate(150) == pytest.approx((peak + 1e-4) / 2)  # half-way down
    assert rate(250) == pytest.approx(1e-4)
    assert rate(249) > 1e-4
    falling = [rate(step) for step in range(50, 251)]
    assert falling == sorted(falling, reverse=True)
    for step in range(50, 251):
        assert rate(step) == pytest.approx(1e-4 + (peak - 1e-4) * (math.cos(math.pi * (step - 50) / 200) + 1) / 2)


def test_warm_up_from_above_zero() -> None:
    recipe = recipes.derive(recipes.get("mae-tiny"), warmup_start_lr=1e-6)
    rate = LearningRate.of(recipe, 10)
    assert rate(0) == 1e-6
    assert rate(200) == pytest.approx((1e-6 + recipe.peak_lr) / 2)
    assert rate(400) == recipe.peak_lr


@pytest.mark.parametrize(
    ("epochs", "warmup", "per_epoch", "expected"),
    [(0.5, 0.1, 100, (50, 10)), (6 / 84, 2 / 84, 84, (6, 2)), (1e-6, 0.0, 10, (1, 0)), (2.0, 2.0, 3, (6, 6))],
)
def test_fractional_epochs(epochs: float, warmup: float, per_epoch: int, expected: tuple[int, int]) -> None:
    recipe = recipes.derive(recipes.get("mae-tiny"), epochs=epochs, warmup_epochs=warmup)
    rate = LearningRate.of(recipe, per_epoch)
    assert (rate.total_steps, rate.warmup_steps) == expected
    assert all(0 <= rate(step) <= recipe.peak_lr for step in range(rate.total_steps + 1))


def test_without_warm_up_the_first_update_has_the_peak_rate() -> None:
    rate = LearningRate(peak=2.0, total_steps=10, warmup_steps=0, final=1.0)
    assert rate(0) == 2.0
    assert rate(10) == pytest.approx(1.0)


def test_layer_decay_scales_the_floor_too() -> None:
    recipe = finetune(epochs=10, warmup_epochs=1, final_lr=1e-3)
    optimizer = build_optimizer(build(recipe, 10), recipe)
    rate = LearningRate.of(recipe, 7)
    for step in (0, 7, 40, 70):
        set_learning_rate(optimizer, rate(step))
        for group in optimizer.param_groups:
            assert group["lr"] == pytest.approx(rate(step) * group["lr_scale"])
    assert min(group["lr"] for group in optimizer.param_groups) == pytest.approx(1e-3 * 0.65**4)
    assert max(group["lr"] for group in optimizer.param_groups) == pytest.approx(1e-3)


def test_weight_decay_rises_along_half_a_cosine() -> None:
    recipe = recipes.derive(toy.dino(), epochs=10)
    decay = WeightDecay.of(recipe, 20)
    for step in range(201):
        assert decay(step) == pytest.approx(0.04 + 0.36 * (1 - math.cos(math.pi * step / 200)) / 2, rel=1e-12)
    assert (decay(0), decay(100), decay(200)) == pytest.approx((0.04, 0.22, 0.4))


def test_without_an_end_the_weight_decay_stays_exactly() -> None:
    decay = WeightDecay.of(recipes.derive(toy.mae(), epochs=10, optimizer={"weight_decay": 0.1}), 7)
    assert {decay(step) for step in range(71)} == {0.1}


def test_scheduled_weight_decay_leaves_the_exempt_alone() -> None:
    recipe = toy.dino(optimizer={"weight_decay": 0.0, "final_weight_decay": 0.4})
    optimizer = build_optimizer(build(recipe, 0), recipe)
    set_weight_decay(optimizer, 0.3)
    decays = {name: group["weight_decay"] for group in optimizer.param_groups for name in group["names"]}
    parameters = dict(build(recipe, 0).named_parameters())
    assert {name for name, decay in decays.items() if decay == 0} == {
        name for name in decays if parameters[name].ndim == 1
    }
    assert set(decays.values()) == {0.0, 0.3}


def test_layer_decay_follows_the_encoder_that_is_trained() -> None:
    recipe = toy.dino(layer_decay=0.5, encoder={"depth": 2}, optimizer={"no_decay": ("tokens",)})
    groups = groups_by_name(build(recipe, 0), recipe)
    assert groups["student.cls_token"] == (0.125, 0.0)
    assert groups["student.blocks.0.norm1.weight"] == (0.25, 0.04)
    assert groups["student.blocks.1.norm1.weight"] == (0.5, 0.04)
    assert groups["student.norm.weight"] == groups["student_head.prototypes"] == (1.0, 0.04)
    assert not any(name.startswith(("encoder.", "teacher_")) for name in groups)
