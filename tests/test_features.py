"""Feature distillation: slow formulas, teachers of every kind, what the teacher sees, resume, every refusal."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor

from mae_lite import recipes, training
from mae_lite.config import FeatureDistillation, Recipe
from mae_lite.errors import CheckpointError, ConfigError
from mae_lite.evaluation.teacher import load_teacher
from mae_lite.methods import build, features
from mae_lite.methods.features import FeatureDistiller, teachers_images, token_distance
from mae_lite.methods.teacher import Teacher
from mae_lite.models import weights
from mae_lite.models.vit import build_encoder
from mae_lite.predicting.models import load_encoder
from mae_lite.rundir import read_rows
from tests import toy
from tests.test_training import _equal, furthest, losses, tensors, trained

SGD: dict[str, Any] = {"optimizer": {"kind": "sgd"}, "lr_per_256": 1.0}
PHOTOS = {"channels": 3, "image_size": 32, "patch_size": 8}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any], dict[str, int]]] = {
    "registers": (
        "vit_small_patch14_reg4_dinov2",
        {"img_size": 70, "embed_dim": 24, "depth": 2, "num_heads": 3},
        {"patch_size": 14, "prefix_tokens": 5},
    ),
    "rotary": (
        "vit_small_patch16_dinov3",
        {"embed_dim": 24, "depth": 2, "num_heads": 3},
        {"patch_size": 16, "prefix_tokens": 5},
    ),
    "rotary and positions": (
        "eva02_tiny_patch14_224",
        {"img_size": 70, "embed_dim": 24, "depth": 2, "num_heads": 3},
        {"patch_size": 14, "prefix_tokens": 1},
    ),
    "no class token": (
        "vit_base_patch16_siglip_224",
        {"img_size": 96, "embed_dim": 24, "depth": 2, "num_heads": 3},
        {"patch_size": 16, "prefix_tokens": 0},
    ),
    "relative positions": (
        "beit_base_patch16_224",
        {"img_size": 64, "embed_dim": 24, "depth": 2, "num_heads": 3},
        {"patch_size": 16, "prefix_tokens": 1},
    ),
}
"""Name at timm, arguments, and what the recipe must say of it."""


def method_of(recipe: Recipe, seed: int = 7) -> FeatureDistiller:
    method = build(recipe, 0)
    assert isinstance(method, FeatureDistiller) and isinstance(recipe.method, FeatureDistillation)
    method.teacher = Teacher(build_encoder(recipe.method.teacher(recipe.plain_encoder), seed), "")
    return method


def pictures(count: int, channels: int = 1, side: int = 8) -> Tensor:
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(0))


def step(method: FeatureDistiller, count: int = 6) -> Any:
    return method(pictures(count), torch.zeros(count), {})


def photo_recipe(says: dict[str, int], **changes: Any) -> Recipe:
    """Return a recipe for photographs of 4 x 4 patches whose teacher has what ``says``."""
    teacher = {f"teacher_{name}": value for name, value in says.items()}
    pixels = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.3)}
    return recipes.derive(toy.features(encoder=PHOTOS, augmentation=pixels, method=teacher), **changes)


def timm_folder(path: Path, name: str, arguments: dict[str, Any], **changes: Any) -> Any:
    """Write a timm folder with random weights; return the model."""
    torch.manual_seed(0)
    model: Any = timm.create_model(name, num_classes=3, **arguments)
    known = {key: model.pretrained_cfg[key] for key in ("input_size", "fixed_input_size", "mean", "std")}
    known["classifier"] = "head"
    content = {"architecture": name, "num_classes": 3, "model_args": arguments, "pretrained_cfg": known | changes}
    path.mkdir()
    (path / "config.json").write_text(json.dumps(content))
    (path / "model.safetensors").write_bytes(weights.to_bytes(model.state_dict()))
    return model.eval()


def slow_distance(mapped: Tensor, target: Tensor, distance: str, beta: float) -> float:
    """Token by token, channel by channel, in float64."""
    values = []
    for own, wanted in zip(
        mapped.double().numpy().reshape(-1, 24), target.double().numpy().reshape(-1, 24), strict=True
    ):
        own, wanted = ((v - v.mean()) / math.sqrt(v.var() + 1e-6) for v in (own, wanted))
        if distance == "cosine":
            values.append(1 - own @ wanted / np.linalg.norm(own) / np.linalg.norm(wanted))
            continue
        for difference in np.abs(own - wanted):
            values.append(difference**2 / 2 / beta if difference < beta else difference - beta / 2)
    return float(np.mean(values))


@pytest.mark.parametrize(("distance", "beta"), [("smooth_l1", 0.5), ("smooth_l1", 2.0), ("cosine", 1.0)])
def test_loss_is_the_slow_formula(distance: str, beta: float) -> None:
    recipe = toy.features(method={"distance": distance, "smooth_l1_beta": beta})
    method = method_of(recipe)
    output = step(method)
    again = method_of(recipe)
    assert again.teacher is not None
    images = pictures(6)
    with torch.no_grad():
        own = again.encoder.norm(again.encoder.blocks(tokens_of(again.encoder, images)))[:, 1:]
        larger = torch.nn.functional.interpolate(images, size=12, mode="bicubic", antialias=True)
        model: Any = again.teacher.model
        target = model.norm(model.blocks(tokens_of(model, larger)))[:, 1:]
        mapped = own @ again.matching.weight.T + again.matching.bias
    assert mapped.shape == target.shape == (6, 4, 24)
    assert output.loss.item() == pytest.approx(slow_distance(mapped, target, distance, beta), rel=1e-5)
    assert output.loss.dtype == torch.float32


def tokens_of(encoder: Any, images: Tensor) -> Tensor:
    """Return what enters the first block [B, 1 + N, D]."""
    patches = encoder.patch_embed.proj(images).flatten(2).transpose(1, 2)
    first = encoder.cls_token.expand(len(images), -1, -1)
    tokens: Tensor = torch.cat([first, patches], dim=1) + encoder.pos_embed
    return tokens


def test_distance_looks_at_direction_only() -> None:
    """LayerNorm takes out each token's mean and size, so that a teacher's few huge tokens do not rule the loss."""
    settings = toy.features().method
    assert isinstance(settings, FeatureDistillation)
    mapped, target = torch.randn(2, 3, 4, 24, generator=torch.Generator().manual_seed(0)).unbind()
    expected = token_distance(mapped, target, settings)
    assert token_distance(10 * mapped + 3, 100 * target - 7, settings) == pytest.approx(expected.item(), rel=1e-4)
    assert token_distance(target, 3 * target, settings) < 1e-6


@pytest.mark.parametrize("distance", ["smooth_l1", "cosine"])
def test_gradients_reach_the_student_and_nothing_of_the_teacher(distance: str) -> None:
    method = method_of(toy.features(method={"distance": distance, "smooth_l1_beta": 1.0}))
    assert method.teacher is not None
    before = copy.deepcopy(method.teacher.model.state_dict())
    method.train()
    assert not method.teacher.model.training
    step(method).loss.backward()
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
        else:
            assert name == "encoder.pos_embed"
    owned = {id(parameter) for parameter in method.parameters()}
    for name, parameter in method.teacher.model.named_parameters():
        assert parameter.grad is None and not parameter.requires_grad and id(parameter) not in owned, name
        assert torch.equal(parameter, before[name])
    assert copy.deepcopy(method).teacher is method.teacher
    assert {name.split(".")[0] for name in method.state_dict()} == {"encoder", "matching"}
    method.double()
    assert {value.dtype for value in method.teacher.model.state_dict().values()} == {torch.float64}


def test_mixed_precision_compares_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    method, seen = method_of(toy.features()), list[Tensor]()
    exact = step(method).loss.item()

    def kept(mapped: Tensor, target: Tensor, settings: FeatureDistillation) -> Tensor:
        seen.extend((mapped, target))
        return token_distance(mapped, target, settings)

    monkeypatch.setattr(features, "token_distance", kept)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = step(method).loss
    assert {value.dtype for value in (*seen, loss)} == {torch.float32}
    assert not torch.equal(seen[0], seen[0].bfloat16().float())
    assert loss.item() == pytest.approx(exact, rel=0.05) and loss.item() != exact


def test_the_teacher_sees_the_same_picture_its_own_way() -> None:
    """Larger, and normalised as it is used to: a flat grey is the same grey to both."""
    recipe = photo_recipe({"patch_size": 14})
    teacher = Teacher(torch.nn.Identity(), "", (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    pixels, grey = recipe.augmentation, torch.tensor([0.2, 0.4, 0.9])
    images = ((grey - torch.tensor(pixels.mean)) / torch.tensor(pixels.std)).view(1, 3, 1, 1).expand(2, 3, 32, 32)
    seen = teachers_images(images, 56, pixels, teacher)
    expected = (grey - torch.tensor(teacher.mean)) / torch.tensor(teacher.std)
    assert seen.shape == (2, 3, 56, 56)
    assert torch.allclose(seen, expected.view(1, 3, 1, 1).expand_as(seen), atol=1e-5)
    same = Teacher(torch.nn.Identity(), "", pixels.mean, pixels.std)
    assert teachers_images(images, 32, pixels, same) is images
    ramp = torch.linspace(-1, 1, 32).expand(1, 3, 32, 32)
    larger = teachers_images(ramp, 64, pixels, same)
    assert torch.allclose(
        larger[..., 1::2][..., 4:-4] + larger[..., ::2][..., 4:-4], 2 * ramp[..., 4:-4].repeat(1, 1, 2, 1)
    )


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_any_vision_transformer_of_timm_teaches(tmp_path: Path, kind: str) -> None:
    """Its patch tokens are those that the model itself, set to that size, returns, in the order of the patches."""
    name, arguments, says = ARCHITECTURES[kind]
    model = timm_folder(tmp_path / "teacher", name, arguments)
    recipe = photo_recipe(says)
    teacher = load_teacher(recipe, str(tmp_path / "teacher"))
    assert teacher is not None and teacher.mean == tuple(model.pretrained_cfg["mean"])
    side = 4 * says["patch_size"]
    model.set_input_size(img_size=(side, side))
    method = build(recipe, 0)
    assert isinstance(method, FeatureDistiller)
    method.teacher = teacher
    images = pictures(2, 3, 32)
    with torch.no_grad():
        seen = teachers_images(images, side, recipe.augmentation, teacher)
        expected = model.forward_features(seen)[:, says["prefix_tokens"] :]
        found = method._targets(images)
    assert found.shape == (2, 16, 24)
    ours, theirs = (torch.nn.functional.layer_norm(tokens, (24,)) for tokens in (found, expected))
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert method(images, torch.zeros(2), {}).loss.isfinite()


def test_a_timm_folder_teaches_a_whole_run(tmp_path: Path) -> None:
    """And what decides its output, but not its weights, makes another run."""
    name, arguments, says = ARCHITECTURES["rotary"]
    says = says | {"patch_size": 16}
    timm_folder(tmp_path / "teacher", name, {**arguments, "in_chans": 1}, mean=[0.4], std=[0.3])
    recipe = toy.features(method={f"teacher_{part}": value for part, value in says.items()})
    settings = {"teacher": str(tmp_path / "teacher"), "stop_after_steps": 2}
    training.run(recipe, toy.runtime(tmp_path / "run", **settings))
    file = tmp_path / "teacher" / "config.json"
    content = json.loads(file.read_text())
    content["pretrained_cfg"]["mean"] = [0.1]
    file.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="teacher_sha256"):
        training.run(recipe, toy.runtime(tmp_path / "run", **settings))


def test_teachers_of_timm_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = photo_recipe({"patch_size": 16, "prefix_tokens": 5})
    with pytest.raises(ConfigError, match=r"nearest: 'vit_small_patch16_dinov3"):
        load_teacher(recipe, "timm:vit_smal_patch16_dinov3")
    create, (_, arguments, _) = timm.create_model, ARCHITECTURES["rotary"]

    def fetched(name: str, pretrained: bool, **rest: Any) -> Any:
        assert pretrained and rest == {"num_classes": 0}
        return create(name, **arguments, **rest)

    monkeypatch.setattr(timm, "create_model", fetched)
    found = load_teacher(recipe, "timm:vit_small_patch16_dinov3.lvd1689m")
    assert found is not None and found.mean == (0.485, 0.456, 0.406)

    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(CheckpointError, match=r"could not be fetched: found OSError: no route"):
        load_teacher(recipe, "timm:vit_small_patch16_dinov3")


def test_a_run_teaches(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By its folder and its timm folder alike; a file of weights does not say how its pixels were normalised."""
    shape = {"depth": 2, "width": 24, "num_heads": 3}
    run = trained(toy.mae(encoder=shape), tmp_path / "teacher", stop_after_steps=1)
    finished = trained(toy.mae(encoder=shape), tmp_path / "teacher")
    assert run == finished
    recipe = toy.features(method={"teacher_patch_size": 4}, encoder={"image_size": 16})
    places = (run, run / "encoder", run / "encoder" / "model.safetensors")
    found = [load_teacher(recipe, str(place)) for place in places]
    assert len({teacher.sha256 for teacher in found if teacher is not None}) == 1
    assert "positions resized" in caplog.text
    assert "does not say its mean" in caplog.text


def test_a_classifier_teaches(tmp_path: Path) -> None:
    """It has no LayerNorm after its last block, and the comparison brings its own."""
    run = trained(toy.classifier(encoder={"depth": 2, "width": 24, "num_heads": 3}), tmp_path / "teacher")
    recipe = toy.features(method={"teacher_patch_size": 4})
    found = [load_teacher(recipe, str(place)) for place in (run, run / "classifier")]
    method = method_of(recipe)
    outputs = []
    for teacher in found:
        assert teacher is not None and isinstance(teacher.model.norm, torch.nn.Identity)
        method.teacher = teacher
        outputs.append(step(method).loss.item())
    assert outputs[0] == outputs[1]


def test_a_resumed_run_is_the_same_run(tmp_path: Path) -> None:
    recipe = toy.features(ema_decay=0.9, encoder={"depth": 2, "drop_path": 0.3})
    teacher = toy.teacher_weights(tmp_path / "teacher.safetensors", recipe)
    whole = trained(recipe, tmp_path / "whole", teacher=teacher)
    for stop, workers in ((1, 0), (3, 1)):
        training.run(recipe, toy.runtime(tmp_path / "parts", teacher=teacher, stop_after_steps=stop, workers=workers))
    parts = trained(recipe, tmp_path / "parts", teacher=teacher)
    for name in ("model", "optimizer", "ema"):
        assert _equal(tensors(parts, name), tensors(whole, name)), name
    rows = [[{k: v for k, v in row.items() if k not in toy.TIMES} for row in read_rows(run)] for run in (parts, whole)]
    assert rows[0] == rows[1]
    assert all(0 < row["teacher_share"] < 1 for row in read_rows(whole) if "loss" in row)


def test_micro_batches_add_up(tmp_path: Path) -> None:
    recipe = toy.features(**SGD)
    teacher = toy.teacher_weights(tmp_path / "teacher.safetensors", recipe)
    whole = trained(recipe, tmp_path / "whole", teacher=teacher)
    parts = trained(recipe, tmp_path / "parts", teacher=teacher, micro_batch_size=4)
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-6)
    assert furthest(tensors(parts), tensors(whole)) < 1e-5


def test_what_a_run_leaves(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No teacher, no map; fine-tuning and other pre-training go on from it."""
    recipe = toy.features()
    teacher = toy.teacher_weights(tmp_path / "teacher.safetensors", recipe)
    run = trained(recipe, tmp_path / "run", teacher=teacher)
    Path(teacher).rename(tmp_path / "other.safetensors")
    plain = build_encoder(recipe.plain_encoder, seed=0).state_dict()
    assert load_file(run / "encoder" / "model.safetensors").keys() == load_encoder(run).state_dict().keys()
    assert load_encoder(run).state_dict().keys() == plain.keys()
    fine = recipes.derive(toy.classifier(), start="pretrained", encoder={"positions": "sincos", "init": "xavier"})
    for goal, more in ((fine, None), (toy.mae(), None), (recipe, str(tmp_path / "other.safetensors"))):
        out = tmp_path / f"from-{goal.name}"
        training.run(goal, toy.runtime(out, init=str(run), teacher=more, stop_after_steps=1))  # the first rate is 0
        kept = [name for name in tensors(out) if name in tensors(run)]
        assert len(kept) >= 15 and all(torch.equal(tensors(out)[name], tensors(run)[name]) for name in kept)
        assert ("matching.weight" in kept) == (goal is recipe)
    other = toy.features(method={"teacher_width": 12})
    wide = toy.teacher_weights(tmp_path / "wide.safetensors", other)
    training.run(other, toy.runtime(tmp_path / "wide", init=str(run), teacher=wide, stop_after_steps=1))
    assert "no map to tokens of width 12" in caplog.text


def test_refused_teachers(tmp_path: Path) -> None:
    recipe = toy.features()
    with pytest.raises(ConfigError, match=r"no --teacher(.|\n)*Fix: add --teacher RUN"):
        load_teacher(recipe, None)
    with pytest.raises(ConfigError, match="has no teacher"):
        step(build(recipe, 0))  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="--teacher 'nowhere' does not exist"):
        load_teacher(recipe, "nowhere")
    other = {"width": 12, "depth": 1, "patch_size": 4}
    path = toy.teacher_weights(tmp_path / "other.safetensors", recipe, **other, image_size=8)
    flags = "--method.teacher-width 12 --method.teacher-depth 1 --method.teacher-patch-size 4"
    with pytest.raises(CheckpointError, match=f"width 12, depth 1, patch_size 4, expected width 24(.|\n)*Fix: {flags}"):
        load_teacher(recipe, path)
    path = toy.teacher_weights(tmp_path / "colour.safetensors", recipe, channels=3)
    with pytest.raises(
        CheckpointError, match=r"number of channels: found 3, expected 1(.|\n)*Fix: --encoder.channels 3"
    ):
        load_teacher(recipe, path)
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "config.json").write_text('{"architecture": "vit_tiny_patch16_224", "pretrained_cfg": {}}')
    with pytest.raises(CheckpointError, match="has no weights"):
        load_teacher(recipe, str(tmp_path / "alone"))
    (tmp_path / "alone" / "config.json").write_text('{"architecture": "vit_nowhere", "pretrained_cfg": {}}')
    with pytest.raises(CheckpointError, match="timm cannot build"):
        load_teacher(recipe, str(tmp_path / "alone"))


@pytest.mark.parametrize(
    ("name", "arguments", "changes", "message"),
    [
        ("resnet18", {}, {}, r"has no grid of tokens: found ResNet"),
        (
            "swin_tiny_patch4_window7_224",
            {"embed_dim": 24, "depths": (1, 1, 1, 1)},
            {},
            "has no grid of tokens: found Swin",
        ),
        (
            "vit_small_patch16_dinov3",
            {"embed_dim": 24, "depth": 2, "num_heads": 2},
            {},
            r"found heads 2, expected heads 3\nFix: --method.teacher-heads 2",
        ),
        (*ARCHITECTURES["rotary"][:2], {"mean": [0.5]}, "was trained with other channels"),
    ],
    ids=["ConvNet", "windows", "heads", "means"],
)
def test_refused_timm_folders(
    tmp_path: Path, name: str, arguments: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    timm_folder(tmp_path / "teacher", name, arguments, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_teacher(photo_recipe({"patch_size": 16, "prefix_tokens": 5}), str(tmp_path / "teacher"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": {"distance": "cosine"}}, "smooth_l1_beta is not read"),
        ({"method": {"smooth_l1_beta": 0.0}}, "smooth_l1_beta"),
        ({"method": {"teacher_width": 25}}, "teacher_width"),
        ({"method": {"teacher_prefix_tokens": -1}}, "teacher_prefix_tokens"),
        ({"labels_per_class": 3}, "not read in feature distillation pre-training"),
        ({"encoder": {"positions": "learned"}}, "not read in feature distillation pre-training"),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        toy.features(**changes)


@pytest.mark.slow
@pytest.mark.needs_data
@pytest.mark.parametrize("distance", ["smooth_l1", "cosine"])
def test_thirty_steps_on_photographs_lower_the_loss(tmp_path: Path, shared_data: Path, distance: str) -> None:
    """A tiny student of a random teacher with registers, rotary positions and larger patches, on CIFAR-10."""
    timm_folder(tmp_path / "teacher", *ARCHITECTURES["rotary"][:2])
    recipe = recipes.derive(
        recipes.get("cifar10-feature-distill-tiny"),
        encoder={"patch_size": 8, "width": 48, "depth": 2, "num_heads": 4},
        method={
            "distance": distance,
            **{"teacher_width": 24, "teacher_depth": 2, "teacher_heads": 3},
            **{"teacher_patch_size": 16, "teacher_prefix_tokens": 5},
        },
        global_batch_size=32,
        epochs=30 / 312,
        warmup_epochs=0,
        lr_per_256=4e-2,
        precision="fp32",
    )
    data = str(shared_data / "cifar10" / "test.parquet")
    settings = {"data": data, "teacher": str(tmp_path / "teacher"), "log_every_steps": 5}
    outcome = training.run(recipe, toy.runtime(tmp_path / "run", **settings))
    found = losses(outcome.folder)
    print(found)
    assert outcome.step == 30 and len(found) == 6
    assert found[-1] < 0.8 * found[0]
