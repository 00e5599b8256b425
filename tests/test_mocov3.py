"""MoCo-v3: initial values, slow formulas, BatchNorm over ranks, real images, and what is left for fine-tuning."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import spawn

from mae_lite import methods, recipes, training
from mae_lite.config import Recipe
from mae_lite.data.loader import to_device, training_loader
from mae_lite.data.opening import open_source
from mae_lite.data.plan import Plan
from mae_lite.data.transforms import TrainTransform
from mae_lite.engine.optim import LearningRate, build_optimizer, set_learning_rate
from mae_lite.errors import ConfigError
from mae_lite.evaluation.probes import feature_std
from mae_lite.methods.across_ranks import GlobalBatchNorm
from mae_lite.methods.mocov3 import MomentumContrast, contrastive_loss
from mae_lite.models.vit import sincos_table
from tests import toy
from tests.test_dino import better_than_random
from tests.test_methods import assert_normal, assert_uniform, pictures
from tests.test_training import tensors, trained

RANKS = 2


def contrast(recipe: Recipe) -> MomentumContrast:
    method = methods.build(recipe, 0)
    assert isinstance(method, MomentumContrast)
    return method


def views(count: int, seed: int = 0) -> Tensor:
    return pictures(2 * count, 1, 8, seed).reshape(count, 2, 1, 8, 8)


@pytest.fixture(scope="module")
def fresh() -> MomentumContrast:
    return contrast(recipes.derive(recipes.get("mocov3-tiny"), encoder={"depth": 2}))


def test_encoder_starts_as_mocov3s(fresh: MomentumContrast) -> None:
    encoder = fresh.encoder
    for block in encoder.blocks:
        for matrix in block.attn.qkv.weight.chunk(3):
            assert_uniform(matrix, (6 / (192 + 192)) ** 0.5)
        for layer in (block.mlp.fc1, block.mlp.fc2):
            assert_uniform(layer.weight, (6 / (192 + 768)) ** 0.5)
        for layer in (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2):
            assert not layer.bias.any()
    assert_uniform(encoder.patch_embed.proj.weight, (6 / (3 * 16 * 16 + 192)) ** 0.5)
    assert not encoder.patch_embed.proj.bias.any()
    assert_normal(encoder.cls_token, 1e-6)
    assert torch.equal(encoder.pos_embed, sincos_table(192, 14, "mocov3"))
    assert not torch.equal(encoder.pos_embed, sincos_table(192, 14, "mae"))


def test_heads_are_the_papers(fresh: MomentumContrast) -> None:
    for head, widths in ((fresh.projector, [192, 4096, 4096, 256]), (fresh.predictor, [256, 4096, 256])):
        linear = [module for module in head if isinstance(module, nn.Linear)]
        norms = [module for module in head if isinstance(module, nn.BatchNorm1d)]
        assert [linear[0].in_features, *(layer.out_features for layer in linear)] == widths
        assert all(layer.bias is None for layer in linear)
        assert [norm.affine for norm in norms] == [True] * (len(norms) - 1) + [False]
        kinds = [type(module).__name__ for module in head]
        expected = ["Linear", "GlobalBatchNorm", "ReLU"] * (len(widths) - 1)
        assert kinds == expected[:-1]
        for layer in linear:  # torch's default
            assert_uniform(layer.weight, layer.in_features**-0.5)


def test_followers_start_as_copies_and_are_not_trained(fresh: MomentumContrast) -> None:
    for follower, leader in (
        (fresh.momentum_encoder, fresh.encoder),
        (fresh.momentum_projector, fresh.projector),
    ):
        assert not any(parameter.requires_grad for parameter in follower.parameters())
        for name, value in leader.state_dict().items():
            assert torch.equal(follower.state_dict()[name], value), name
            assert follower.state_dict()[name].data_ptr() != value.data_ptr()


@pytest.mark.parametrize("frozen", [False, True])
def test_gradient_reaches_what_is_trained(frozen: bool) -> None:
    recipe = toy.mocov3(method={"freeze_patch_projection": frozen})
    method = contrast(recipe)
    method(views(6), torch.zeros(6), {}).loss.backward()
    trained_names = set()
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
            trained_names.add(name)
        else:
            assert parameter.grad is None, name
    optimizer = build_optimizer(method, recipe)
    grouped = [name for group in optimizer.param_groups for name in group["names"]]
    assert sorted(grouped) == sorted(trained_names)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.1}
    kept = {name for name, _ in method.named_parameters() if not name.startswith("momentum_")} - trained_names
    projection = {"encoder.patch_embed.proj.weight", "encoder.patch_embed.proj.bias"}
    assert kept == {"encoder.pos_embed", *(projection if frozen else ())}


def slow_contrast(queries: Tensor, keys: Tensor, temperature: float) -> float:
    q, k = queries.double().numpy(), keys.double().numpy()
    losses = []
    for i in range(len(q)):
        cosines = [float(q[i] @ key / np.linalg.norm(q[i]) / np.linalg.norm(key)) / temperature for key in k]
        losses.append(math.log(sum(math.exp(value) for value in cosines)) - cosines[i])
    return 2 * temperature * float(np.mean(losses))


def test_loss_is_the_slow_formula_over_both_directions() -> None:
    method, images = contrast(toy.mocov3()), views(6)
    output = method(images, torch.zeros(6), {})
    again = contrast(toy.mocov3())
    with torch.no_grad():
        first, second = images.unbind(dim=1)
        queries = [again.predictor(again.projector(again.encoder(view))) for view in (first, second)]
        keys = [again.momentum_projector(again.momentum_encoder(view)) for view in (first, second)]
    expected = slow_contrast(queries[0], keys[1], 0.2) + slow_contrast(queries[1], keys[0], 0.2)
    assert output.loss.item() == pytest.approx(expected, rel=1e-4)
    with torch.no_grad():
        features = torch.cat([again.encoder(view) for view in (first, second)]).numpy()
    assert output.logs["view_feature_std"].item() == pytest.approx(feature_std(features), rel=1e-4)


def test_the_collapse_watch_sees_a_collapse() -> None:
    method = contrast(toy.mocov3())
    same = views(1).expand(6, -1, -1, -1, -1)
    same = same[:, :1].expand(-1, 2, -1, -1, -1)
    assert method(same, torch.zeros(6), {}).logs["view_feature_std"].item() < 1e-3


def test_mixed_precision_changes_the_loss_by_rounding_only() -> None:
    images = views(6)
    exact = contrast(toy.mocov3())(images, torch.zeros(6), {}).loss
    method = contrast(toy.mocov3())
    with torch.autocast("cpu", torch.bfloat16):
        output = method(images, torch.zeros(6), {})
    output.loss.backward()
    assert output.loss.dtype == output.logs["view_feature_std"].dtype == torch.float32
    assert output.loss.item() == pytest.approx(exact.item(), rel=0.02)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in method.parameters() if p.requires_grad)


def test_followers_follow() -> None:
    method = contrast(toy.mocov3(method={"momentum": 0.9}))
    before = copy.deepcopy(method.state_dict())
    with torch.no_grad():
        for parameter in (*method.encoder.parameters(), *method.projector.parameters()):
            parameter.add_(1.0)
    method.after_step(3, 12)
    share = 0.1 * (1 + math.cos(math.pi / 4)) / 2
    for name, parameter in method.named_parameters():
        if name.startswith("momentum_"):
            assert torch.allclose(parameter, before[name] + share, atol=1e-6), name
    moved = copy.deepcopy(method.state_dict())
    method.after_step(12, 12)
    assert all(torch.equal(value, moved[name]) for name, value in method.state_dict().items())


def normalised(norm: nn.BatchNorm1d, rows: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """Return output, gradients and statistics of a BatchNorm after two batches, each with a loss of its own scale."""
    results: dict[str, Tensor] = {}
    for number in range(2):
        given = (rows * (number + 1)).clone().requires_grad_()
        output = norm(given)
        (output * weight).square().sum().backward()
        assert given.grad is not None
        results |= {f"output {number}": output.detach(), f"gradient {number}": given.grad}
    for name, parameter in norm.named_parameters():
        assert parameter.grad is not None
        results[name] = parameter.grad
    return results | {name: buffer.clone() for name, buffer in norm.named_buffers()}


def _rank(rank: int, folder: str, affine: bool) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS)
    rows, weight = torch.load(f"{folder}/rows.pt")
    part = slice(rank * len(rows) // RANKS, (rank + 1) * len(rows) // RANKS)
    found = normalised(GlobalBatchNorm(rows.shape[1], affine=affine), rows[part], weight[part])
    keys = torch.randn(3, 4, generator=torch.Generator().manual_seed(rank))
    found["loss"] = contrastive_loss(keys.flip(0), keys, 0.2)
    torch.save(found, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_of_two_processes_is_that_of_the_whole_batch(tmp_path: Path, affine: bool) -> None:
    random = torch.Generator().manual_seed(0)
    rows = torch.randn(10, 5, generator=random) * 3 + torch.tensor([0.0, 100.0, -5.0, 0.0, 1.0])
    weight = torch.rand(10, 5, generator=random)
    torch.save((rows, weight), tmp_path / "rows.pt")
    launch: Any = spawn
    launch(_rank, (str(tmp_path), affine), nprocs=RANKS)
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(RANKS)]
    plain = nn.BatchNorm1d(5, affine=affine)
    expected = normalised(plain, rows, weight)
    for name, value in expected.items():
        if name.startswith(("output", "gradient")):
            found = torch.cat([part[name] for part in parts])
        elif name in dict(plain.named_parameters()):
            found = parts[0][name] + parts[1][name]  # DDP averages them
        else:
            found = parts[1][name]
            assert torch.equal(found, parts[0][name])
        assert torch.allclose(found, value, rtol=1e-4, atol=1e-4), name
    keys = torch.cat([torch.randn(3, 4, generator=torch.Generator().manual_seed(rank)) for rank in range(RANKS)])
    queries = torch.cat([keys[:3].flip(0), keys[3:].flip(0)])
    assert (parts[0]["loss"] + parts[1]["loss"]) / 2 == pytest.approx(slow_contrast(queries, keys, 0.2), rel=1e-5)


def test_batch_norm_of_one_process_is_torchs() -> None:
    rows, weight = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.ones(6, 3)
    ours, theirs = normalised(GlobalBatchNorm(3), rows, weight), normalised(nn.BatchNorm1d(3), rows, weight)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_accumulation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"(?s)micro_batch_size.*found 4.*16 images.*Fix: drop --micro-batch-size"):
        training.run(toy.mocov3(), toy.runtime(tmp_path / "run", micro_batch_size=4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"global_batch_size": 1}, r"(?s)global_batch_size.*found 1.*at least 2.*Fix: --global-batch-size"),
        ({"augmentation": {"views": 1, "blur": (0.0,), "solarise": (0.0,)}}, r"(?s)views.*found 1.*Fix: .*views 2"),
        ({"augmentation": {"blur": (0.1, 0.2, 0.3)}}, r"(?s)augmentation.blur.*3 values.*Fix: "),
        ({"augmentation": {"jitter": (0.4, 0.4, 0.2, 0.1)}}, r"(?s)augmentation.jitter.*channels 1.*jitter None"),
        ({"augmentation": {"grey": 0.2}}, r"(?s)augmentation.grey.*channels 1.*grey 0.0"),
        ({"augmentation": {"blur_sigma": (2.0, 0.1)}}, r"augmentation.blur_sigma"),
        ({"encoder": {"positions": "learned"}}, r"not read in MoCo-v3 pre-training"),
        ({"encoder": {"init": "trunc_normal"}}, r"not read in MoCo-v3 pre-training"),
        ({"labels_per_class": 3}, r"not read in MoCo-v3 pre-training"),
        ({"method": {"temperature": 0.0}}, r"method.temperature"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        toy.mocov3(**changes)


@pytest.mark.parametrize("recipe", [toy.mae(), toy.classifier()], ids=lambda recipe: recipe.name)
def test_other_methods_take_one_view(recipe: Recipe) -> None:
    with pytest.raises(ConfigError, match=r"(?s)augmentation.views.*found 2.*Fix: --augmentation.views 1"):
        recipes.derive(recipe, augmentation={"views": 2})


def test_finetuning_takes_the_encoder_and_drops_the_rest_aloud(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pretrained = trained(toy.mocov3(), tmp_path / "moco")
    recipe = recipes.derive(toy.classifier(), start="pretrained", encoder={"positions": "sincos", "init": "xavier"})
    caplog.set_level("INFO")
    run = tmp_path / "fine"
    training.run(recipes.derive(recipe, lr_per_256=1e-9), toy.runtime(run, init=str(pretrained), stop_after_steps=1))
    assert "tensors not needed here were dropped" in caplog.text
    source, tuned = tensors(pretrained), tensors(run)
    assert not any(name.startswith(("momentum", "projector", "predictor")) for name in tuned)
    for name, value in tuned.items():
        if not name.startswith(("encoder.head", "encoder.fc_norm")):
            assert torch.allclose(value, source[name], atol=1e-6), name


def test_pretraining_goes_on_from_other_weights(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """From MAE the followers start where the encoder does; MAE from MoCo-v3 starts a decoder."""
    painted = trained(toy.mae(), tmp_path / "mae")
    recipe = toy.mocov3(lr_per_256=1e-9, optimizer={"weight_decay": 0.0})
    run = trained(recipe, tmp_path / "moco", init=str(painted), stop_after_steps=1)
    assert "projector and predictor start anew" in caplog.text
    found, source = tensors(run), tensors(painted)
    for name, value in source.items():
        if name.startswith("encoder."):
            assert torch.allclose(found[name], value, atol=1e-6), name
            assert torch.allclose(found[f"momentum_{name}"], value, atol=1e-6), name
    again = trained(recipe, tmp_path / "again", init=str(run), stop_after_steps=1)
    assert torch.allclose(tensors(again)["projector.0.weight"], found["projector.0.weight"], atol=1e-6)
    trained(toy.mae(), tmp_path / "back", init=str(run), stop_after_steps=1)
    assert "has no decoder" in caplog.text


@pytest.mark.slow
@pytest.mark.needs_data
def test_thirty_steps_on_photographs_learn_and_do_not_collapse(shared_data: Path, arrow_cache: Path) -> None:
    del arrow_cache
    recipe = recipes.derive(
        recipes.get("cifar10-mocov3"),
        encoder={"patch_size": 8, "width": 96, "depth": 4, "num_heads": 6},
        method={"hidden_width": 256, "output_width": 64},
        global_batch_size=64,
        lr_per_256=2e-3,
        precision="fp32",
    )
    source = open_source(str(shared_data / "cifar10" / "test.parquet"), "train")
    plan = Plan(samples=len(source), global_batch_size=64, micro_batch_size=64, seed=0)
    augmentation = recipe.augmentation
    transform = TrainTransform(augmentation, 32, 3)
    method = contrast(recipe)
    optimizer, rate = build_optimizer(method, recipe), LearningRate(recipe.peak_lr, 30, 5)
    losses, spreads = [], []
    for step, batch in enumerate(training_loader(source, transform, plan, channels=3, start_step=0, stop_step=30)):
        images = to_device(batch, "cpu", augmentation.mean, augmentation.std).images
        assert images.shape == (64, 2, 3, 32, 32)
        set_learning_rate(optimizer, rate(step))
        output = method(images, batch.labels, {})
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(step + 1, 30)
        losses.append(output.loss.item())
        spreads.append(output.logs["view_feature_std"].item())
    print(losses[::5], spreads[::5], spreads[-1])
    assert np.mean(losses[-5:]) < 0.97 * np.mean(losses[:5])
    assert min(spreads[-5:]) > 0.5


@pytest.mark.slow
@pytest.mark.needs_data
def test_features_of_photographs_get_better_and_do_not_collapse(
    shared_data: Path, arrow_cache: Path, tmp_path: Path
) -> None:
    """Nearest neighbours on images that were never trained on, with features of a random and of a trained encoder."""
    del arrow_cache
    recipe = recipes.derive(
        recipes.get("cifar10-mocov3"),
        encoder={"patch_size": 8, "width": 64, "depth": 3, "num_heads": 4},
        method={"hidden_width": 256, "output_width": 64},
        global_batch_size=32,
        epochs=300 / 150,  # 4,800 images make 150 updates
        warmup_epochs=0.25,
        lr_per_256=4e-3,
        precision="fp32",
    )
    rows, trained_std = better_than_random(recipe, contrast(recipe).encoder, shared_data, tmp_path / "run")
    assert trained_std > 0.5 and min(row["view_feature_std"] for row in rows if row["step"] > 100) > 0.5
