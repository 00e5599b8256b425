"""Recipes against an independent table of their numbers, and the arithmetic that is done with them."""

from __future__ import annotations

import json
import math
import re
from decimal import ROUND_FLOOR, Decimal
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mae_lite import config, costs, methods, recipes
from mae_lite.config import Reading
from mae_lite.errors import ConfigError
from mae_lite.methods.teacher import Teacher
from mae_lite.models.encoders import build_classifier, build_encoder
from mae_lite.models.vit import timm_arguments
from tests import toy

MAE_PRETRAINING: dict[str, Any] = {
    "start": "random",
    "encoder.image_size": 224,
    "encoder.channels": 3,
    "encoder.patch_size": 16,
    "encoder.depth": 12,
    "encoder.num_heads": 12,
    "encoder.positions": "sincos",
    "encoder.init": "xavier",
    "encoder.drop_path": 0.0,
    "method.kind": "mae",
    "method.mask_ratio": 0.75,
    "method.normalize_target": True,
    "optimizer.kind": "adamw",
    "optimizer.betas": (0.9, 0.95),
    "optimizer.eps": 1e-8,
    "optimizer.weight_decay": 0.05,
    "optimizer.final_weight_decay": None,
    "optimizer.no_decay": ("vectors",),
    "lr_per_256": 1.5e-4,
    "warmup_start_lr": 0.0,
    "warmup_epochs": 40,
    "final_lr": 0.0,
    "global_batch_size": 4096,
    "layer_decay": 1.0,
    "clip_grad_norm": None,
    "ema_decay": None,
    "precision": "bf16",
    "labels_per_class": None,
    "label_fraction": None,
    "image_fraction": None,
    "validation_fraction": 0.0,
    "augmentation.views": 1,
    "augmentation.local_views": None,
    "augmentation.local_size": None,
    "augmentation.local_scale": None,
    "augmentation.crop_scale": (0.08, 1.0),
    "augmentation.crop_ratio": (3 / 4, 4 / 3),
    "augmentation.interpolation": "random",
    "augmentation.jitter": None,
    "augmentation.jitter_probability": 0.8,
    "augmentation.blur": (0.0,),
    "augmentation.blur_sigma": (0.1, 2.0),
    "augmentation.grey": 0.0,
    "augmentation.solarise": (0.0,),
    "augmentation.flip": 0.5,
    "augmentation.rotate_degrees": 0.0,
    "augmentation.shear_degrees": 0.0,
    "augmentation.translate": 0.0,
    "augmentation.zoom": (1.0, 1.0),
    "augmentation.randaugment": None,
    "augmentation.erasing": 0.0,
    "augmentation.eval_crop": 224 / 256,
    "augmentation.mean": (0.485, 0.456, 0.406),
    "augmentation.std": (0.229, 0.224, 0.225),
}
DISTILLED: dict[str, Any] = {
    **MAE_PRETRAINING,
    "epochs": 400,
    "encoder.width": 192,
    "method.kind": "distilled_mae",
    "method.decoder_depth": 1,
    "method.decoder_width": 96,
    "method.decoder_heads": 3,
    "method.teacher_width": 768,
    "method.teacher_depth": 12,
    "method.teacher_heads": 12,
    "method.blocks": None,
    "method.use_probabilities": False,
    "method.weight": 1.0,
}
FINETUNE: dict[str, Any] = {
    **{name: value for name, value in MAE_PRETRAINING.items() if not name.startswith("method.")},
    "start": "pretrained",
    "encoder.width": 192,
    "method.kind": "supervised",
    "method.pooling": "mean",
    "method.relative_positions": False,
    "method.keep_blocks": None,
    "method.mix_probability": 1.0,
    "optimizer.betas": (0.9, 0.999),
    "optimizer.no_decay": ("vectors", "tokens"),
    "lr_per_256": 1e-3,
    "warmup_epochs": 5,
    "final_lr": 1e-6,
    "layer_decay": 0.85,
    "global_batch_size": 1024,
    "augmentation.interpolation": "bicubic",
}
IMPROVED: dict[str, Any] = {
    **FINETUNE,
    "epochs": 300,
    "augmentation.randaugment": "rand-m10-mstd0.5-inc1",
    "method.mixup": 0.2,
    "method.cutmix": 0.0,
    "method.label_smoothing": 0.0,
}
SCRATCH: dict[str, Any] = {
    **IMPROVED,
    "start": "random",
    "encoder.positions": "learned",
    "encoder.init": "trunc_normal",
    "layer_decay": 1.0,
}
MASKED: dict[str, Any] = {
    **{name: value for name, value in MAE_PRETRAINING.items() if not name.startswith("method.")},
    "encoder.width": 192,
    "optimizer.no_decay": ("vectors", "tokens"),
    "augmentation.interpolation": "bicubic",
    "global_batch_size": 2048,
}
MASKFEAT: dict[str, Any] = {
    **MASKED,
    "method.kind": "maskfeat",
    "method.mask_ratio": 0.4,
    "augmentation.crop_scale": (0.5, 1.0),
    "optimizer.betas": (0.9, 0.999),
    "epochs": 300,
    "warmup_epochs": 30,
    "lr_per_256": 2e-4,
    "clip_grad_norm": 0.02,
}
SIMMIM: dict[str, Any] = {
    **MASKED,
    "method.kind": "simmim",
    "method.mask_ratio": 0.6,
    "method.mask_unit_px": 32,
    "augmentation.crop_scale": (0.67, 1.0),
    "optimizer.betas": (0.9, 0.99),
    "epochs": 400,
    "warmup_epochs": 10,
    "warmup_start_lr": 2e-6,
    "lr_per_256": 5e-5,
    "clip_grad_norm": 5.0,
}
SWIN: dict[str, Any] = {
    "encoder.kind": "swin",
    "encoder.image_size": 224,
    "encoder.channels": 3,
    "encoder.patch_size": 4,
    "encoder.width": 96,
    "encoder.depths": (2, 2, 6, 2),
    "encoder.num_heads": (3, 6, 12, 24),
    "encoder.window_size": 7,
    "encoder.drop_path": 0.0,
}
MOCOV3: dict[str, Any] = {
    **{name: value for name, value in MAE_PRETRAINING.items() if not name.startswith("method.")},
    "method.kind": "mocov3",
    "method.hidden_width": 4096,
    "method.output_width": 256,
    "method.temperature": 0.2,
    "method.momentum": 0.99,
    "method.freeze_patch_projection": False,
    "optimizer.betas": (0.9, 0.999),
    "optimizer.weight_decay": 0.1,
    "optimizer.no_decay": (),
    "warmup_start_lr": 1e-6,
    "global_batch_size": 1024,
    "epochs": 400,
    "augmentation.views": 2,
    "augmentation.interpolation": "bilinear",
    "augmentation.jitter": (0.4, 0.4, 0.2, 0.1),
    "augmentation.blur": (1.0, 0.1),
    "augmentation.grey": 0.2,
    "augmentation.solarise": (0.0, 0.2),
}
DINO: dict[str, Any] = {
    **{name: value for name, value in MOCOV3.items() if not name.startswith("method.")},
    "method.kind": "dino",
    "method.hidden_width": 2048,
    "method.bottleneck_width": 256,
    "method.prototypes": 65_536,
    "method.student_temperature": 0.1,
    "method.teacher_start_temperature": 0.04,
    "method.teacher_temperature": 0.07,
    "method.teacher_warmup_epochs": 30,
    "method.centre_momentum": 0.9,
    "method.momentum": 0.996,
    "method.freeze_prototypes_epochs": 1,
    "optimizer.weight_decay": 0.04,
    "optimizer.final_weight_decay": 0.4,
    "optimizer.no_decay": ("vectors",),
    "lr_per_256": 5e-4,
    "warmup_epochs": 10,
    "warmup_start_lr": 0.0,
    "final_lr": 1e-6,
    "clip_grad_norm": 3.0,
    "augmentation.interpolation": "bicubic",
    "augmentation.crop_scale": (0.4, 1.0),
    "augmentation.local_views": 8,
    "augmentation.local_size": 96,
    "augmentation.local_scale": (0.05, 0.4),
    "augmentation.blur": (1.0, 0.1, 0.5),
    "augmentation.solarise": (0.0, 0.2, 0.0),
}
FEATURES: dict[str, Any] = {
    **{name: value for name, value in MAE_PRETRAINING.items() if not name.startswith("method.")},
    "method.kind": "feature_distillation",
    "method.distance": "smooth_l1",
    "method.smooth_l1_beta": 1.0,
    "method.teacher_width": 768,
    "method.teacher_depth": 12,
    "method.teacher_heads": 12,
    "method.teacher_patch_size": 14,
    "method.teacher_prefix_tokens": 5,
    "optimizer.betas": (0.9, 0.999),
    "lr_per_256": 2.5e-4,
    "warmup_epochs": 10,
    "global_batch_size": 1024,
    "epochs": 300,
    "augmentation.crop_scale": (0.2, 1.0),
    "augmentation.interpolation": "bicubic",
}
RECIPES: dict[str, dict[str, Any]] = {
    "mae-tiny": {
        **MAE_PRETRAINING,
        "encoder.width": 192,
        "method.decoder_depth": 1,
        "method.decoder_width": 96,
        "method.decoder_heads": 3,
        "epochs": 400,
    },
    "mae-small": {
        **MAE_PRETRAINING,
        "encoder.width": 384,
        "method.decoder_depth": 1,
        "method.decoder_width": 192,
        "method.decoder_heads": 6,
        "epochs": 400,
    },
    "d-mae-tiny": {**DISTILLED, "method.target": "attention", "method.decoupled_at": None},
    "d-mae-tiny-hidden": {**DISTILLED, "method.target": "hidden", "method.decoupled_at": None},
    "d2-mae-tiny": {**DISTILLED, "method.target": "attention", "method.decoupled_at": 8},
    "d-mae-small": {
        **DISTILLED,
        "encoder.width": 384,
        "method.decoder_width": 192,
        "method.decoder_heads": 6,
        "method.target": "attention",
        "method.decoupled_at": None,
    },
    "mae-base": {
        **MAE_PRETRAINING,
        "encoder.width": 768,
        "method.decoder_depth": 8,
        "method.decoder_width": 512,
        "method.decoder_heads": 16,
        "epochs": 1600,
    },
    "mocov3-tiny": {**MOCOV3, "encoder.width": 192},
    "mocov3-small": {**MOCOV3, "encoder.width": 384, "encoder.num_heads": 6},
    "cifar10-mocov3": {
        **MOCOV3,
        "encoder.width": 192,
        "encoder.image_size": 32,
        "encoder.patch_size": 4,
        "method.freeze_patch_projection": True,
        "augmentation.crop_scale": (0.2, 1.0),
        "augmentation.blur": (0.0,),
        "augmentation.eval_crop": 1.0,
        "global_batch_size": 512,
        "warmup_epochs": 20,
    },
    "dino-tiny": {**DINO, "encoder.width": 192},
    "dino-small": {**DINO, "encoder.width": 384, "encoder.num_heads": 6},
    "cifar10-dino": {
        **DINO,
        "encoder.width": 192,
        "encoder.image_size": 32,
        "encoder.patch_size": 4,
        "method.prototypes": 4096,
        "augmentation.local_size": 16,
        "augmentation.blur": (0.0,),
        "augmentation.eval_crop": 1.0,
        "global_batch_size": 512,
    },
    "maskfeat-tiny": MASKFEAT,
    "maskfeat-small": {**MASKFEAT, "encoder.width": 384},
    "mae-hog-tiny": {
        **{name: value for name, value in MAE_PRETRAINING.items() if name != "method.normalize_target"},
        "encoder.width": 192,
        "method.kind": "mae_hog",
        "method.decoder_depth": 1,
        "method.decoder_width": 96,
        "method.decoder_heads": 3,
        "epochs": 400,
    },
    "simmim-tiny": SIMMIM,
    "simmim-swin-tiny": {
        **{name: value for name, value in SIMMIM.items() if not name.startswith("encoder.")},
        **SWIN,
    },
    "simmim-swin-base": {
        **{name: value for name, value in SIMMIM.items() if not name.startswith("encoder.")},
        **SWIN,
        "encoder.width": 128,
        "encoder.depths": (2, 2, 18, 2),
        "encoder.num_heads": (4, 8, 16, 32),
    },
    "d2-simmim-swin-tiny": {
        **{name: value for name, value in SIMMIM.items() if not name.startswith("encoder.")},
        **SWIN,
        "method.kind": "distilled_simmim",
        "method.decoupled_at": 8,
        "method.weight": 1.0,
        "method.teacher_width": 128,
        "method.teacher_depths": (2, 2, 18, 2),
        "method.teacher_heads": (4, 8, 16, 32),
    },
    "feature-distill-tiny": {**FEATURES, "encoder.width": 192},
    "feature-distill-small": {**FEATURES, "encoder.width": 384},
    "finetune-improved": IMPROVED,
    "finetune-mae-original": {
        **FINETUNE,
        "epochs": 100,
        "augmentation.randaugment": "rand-m9-mstd0.5-inc1",
        "augmentation.erasing": 0.25,
        "method.mixup": 0.8,
        "method.cutmix": 1.0,
        "method.label_smoothing": 0.1,
        "encoder.drop_path": 0.1,
    },
    "scratch": SCRATCH,
    "supervised-tiny": SCRATCH,
    "scratch-small": {**SCRATCH, "encoder.width": 384},
    "supervised-small": {**SCRATCH, "encoder.width": 384},
    "finetune-improved-mocov3": {**IMPROVED, "layer_decay": 0.75},
    "finetune-improved-100": {**IMPROVED, "epochs": 100},
    "finetune-improved-small": {**IMPROVED, "encoder.width": 384, "layer_decay": 0.75},
    "finetune-improved-small-mocov3": {
        **IMPROVED,
        "encoder.width": 384,
        "encoder.num_heads": 6,
        "layer_decay": 0.75,
    },
    "finetune-improved-rpe": {**IMPROVED, "method.relative_positions": True, "epochs": 1000},
    "transfer-cifar100": {
        **{name: value for name, value in IMPROVED.items() if not name.startswith("optimizer.")},
        "optimizer.kind": "sgd",
        "optimizer.momentum": 0.9,
        "optimizer.nesterov": True,
        "optimizer.weight_decay": 0.0,
        "optimizer.final_weight_decay": None,
        "optimizer.no_decay": ("vectors", "tokens"),
        "method.mixup": 0.0,
        "augmentation.randaugment": None,
        "clip_grad_norm": 1.0,
        "global_batch_size": 512,
        "epochs": 50,
        "warmup_epochs": 10,
        "lr_per_256": 0.05,
        "layer_decay": 0.75,
    },
    "finetune-swin-tiny": {
        **{name: value for name, value in IMPROVED.items() if not name.startswith("encoder.")},
        **SWIN,
    },
}
ALL = recipes.names()
SIZES = list({costs.step_gflops(recipes.get(name)): name for name in reversed(ALL)}.values())
"""A recipe of each cost."""


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by dotted name."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        result |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return result


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", RECIPES)
def test_every_number_of_the_paper(name: str) -> None:
    table = RECIPES[name]
    ours = flat(recipes.get(name).model_dump(exclude={"name", "note", "parent"}))
    # The architecture's name, the seed and how files are read are no numbers of the paper; all else is in the table.
    elsewhere = ("encoder.name", "seed", *(f"reading.{field}" for field in Reading.model_fields))
    assert {setting: value for setting, value in ours.items() if setting not in elsewhere} == table
    assert recipes.get(name).reading == Reading()


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("mae-tiny", 2.4e-3),
        ("mae-base", 2.4e-3),
        ("mocov3-tiny", 6e-4),
        ("dino-tiny", 2e-3),
        ("feature-distill-tiny", 1e-3),
        ("finetune-improved", 4e-3),
        ("scratch", 4e-3),
        ("transfer-cifar100", 0.1),
        ("maskfeat-tiny", 1.6e-3),
        ("simmim-swin-tiny", 4e-4),
    ],
)
def test_peak_learning_rate(name: str, rate: float) -> None:
    assert recipes.get(name).peak_lr == pytest.approx(rate, rel=1e-12)


def test_names_are_unique_and_all_papers_recipes_exist() -> None:
    assert len(ALL) == len(set(ALL))
    assert set(RECIPES) <= set(ALL)
    assert [recipes.get(name).name for name in ALL] == ALL
    for name in ALL:
        parent = recipes.get(name).parent
        assert parent is None or parent in ALL


@pytest.mark.parametrize("name", ALL)
def test_json_round_trip(name: str, tmp_path: Path) -> None:
    recipe = recipes.get(name)
    again = config.Recipe.model_validate_json(recipe.model_dump_json())
    assert again == recipe
    assert again.digest() == recipe.digest()
    file = tmp_path / "recipe.json"
    file.write_text(recipe.model_dump_json())
    assert recipes.get(str(file)) == recipe
    file.write_text(json.dumps({"recipe": recipe.model_dump(mode="json"), "data": "x"}))
    assert recipes.get(str(file)) == recipe


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("name", ALL)
def test_digest_ignores_name_note_and_parent_only(name: str) -> None:
    recipe = recipes.get(name)
    digest = recipe.digest()
    assert re.fullmatch("[0-9a-f]{64}", digest)
    note = config.LabNote(source="a", command="b", cost="c", expected="d")
    renamed = recipes.derive(recipe, "another-name", note)
    assert renamed.parent == name
    assert renamed.digest() == digest
    backwards = dict(reversed(recipe.model_dump(mode="json").items()))
    assert config.Recipe.model_validate(backwards).digest() == digest
    digests = {digest}
    for setting in flat(recipe.model_dump(exclude={"name", "note", "parent"})):
        digests.add(_changed(recipe, setting).digest())
    assert len(digests) == 1 + len(flat(recipe.model_dump(exclude={"name", "note", "parent"})))


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("mae-tiny", "f094c41dc118ba6ab4c7815fb95b6bb264fb184f0d1685eb1b66b856f3146769"),
        ("mocov3-tiny", "0c8f2eb3d5985d1e347b6869dd320edebaeff0a0c2d7a03650978b0c653b9e53"),
        ("finetune-improved", "7fa5cd485ca35e91f55684d7d7afbd871c564837849cc6e35905f4b2577d3c19"),
    ],
)
def test_later_settings_leave_earlier_digests_as_they_were(name: str, digest: str) -> None:
    """A digest is the name of a run's folder: the same command shall find its run again."""
    assert recipes.get(name).digest() == digest


def _changed(recipe: config.Recipe, setting: str) -> config.Recipe:
    """Return ``recipe`` with one setting changed, valid or not."""
    parent, _, leaf = setting.rpartition(".")
    page = getattr(recipe, parent) if parent else recipe
    old = getattr(page, leaf)
    new: Any
    match old:
        case bool():
            new = not old
        case int() | float():
            new = old + 0.5
        case str():
            new = old + "x"
        case tuple():
            new = (*old[1:], "0.25")
        case _:
            new = 3
    changed: Any = type(page).model_construct(**{**dict(page), leaf: new})
    return config.Recipe.model_construct(**{**dict(recipe), parent: changed}) if parent else changed


def test_recipes_are_frozen() -> None:
    recipe: Any = recipes.get("mae-tiny")
    for page, field in ((recipe, "epochs"), (recipe.encoder, "depth"), (recipe.method, "mask_ratio")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(page, field, 1)
    assert recipe.epochs == 400


def test_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'mae-tinny' \(nearest: 'mae-tiny'\)"):
        recipes.get("mae-tinny")


def test_derive_merges_nested_settings() -> None:
    base = recipes.get("finetune-improved")
    derived = recipes.derive(base, "shallow", encoder={"depth": 3}, epochs=7)
    assert (derived.name, derived.parent, derived.epochs, derived.plain_encoder.depth) == ("shallow", base.name, 7, 3)
    assert recipes.derive(derived, encoder={"depth": 12}, epochs=300).digest() == base.digest()
    sgd = recipes.derive(base, optimizer={"kind": "sgd", "momentum": 0.8})
    assert sgd.optimizer == config.SGD(momentum=0.8)  # nothing of AdamW is left


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": {"width": 190}}, "encoder.width"),
        ({"encoder": {"widht": 192}}, r"encoder.widht.*nearest: 'encoder.width'"),
        ({"encoder": {"image_size": 225}}, "encoder.image_size"),
        ({"encoder": {"depth": 0}}, "encoder.depth"),
        ({"method": {"mask_ratio": 1.0}}, "method.mask_ratio"),
        ({"method": {"mask_ratio": math.nan}}, "method.mask_ratio"),
        ({"method": {"decoder_heads": 5}}, "method.decoder_width"),
        ({"method": {"kind": "moco"}}, "moco"),
        ({"optimizer": {"betas": (0.9, "x")}}, "optimizer.betas"),
        ({"optimizer": {"betas": (0.9, 1.0)}}, "optimizer.betas"),
        ({"optimizer": {"betas": (-0.1, 0.9)}}, "optimizer.betas"),
        ({"augmentation": {"mean": (0.5,)}}, "augmentation.mean"),
        ({"augmentation": {"crop_scale": (1.0, 0.5)}}, "augmentation.crop_scale"),
        ({"warmup_epochs": 500}, "warmup_epochs"),
        ({"lr_per_256": 0.0}, "lr_per_256"),
        ({"epoch": 3}, "nearest: 'epochs'"),
    ],
)
def test_derive_validates(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipes.derive(recipes.get("mae-tiny"), **changes)


@pytest.mark.parametrize(("patches", "ratio", "kept"), [(196, 0.75, 49), (100, 0.9, 10), (10, 0.9, 1), (4, 0.5, 2)])
def test_kept_patches(patches: int, ratio: float, kept: int) -> None:
    assert config.MAE(mask_ratio=ratio).kept(patches) == kept


@given(patches=st.integers(1, 5000), thousandths=st.integers(0, 1000))
@settings(max_examples=300, deadline=None)
def test_kept_patches_are_exact_decimal_arithmetic(patches: int, thousandths: int) -> None:
    exact = (patches * (1 - Decimal(thousandths) / 1000)).to_integral_value(ROUND_FLOOR)
    assert config.MAE(mask_ratio=thousandths / 1000).kept(patches) == exact


@pytest.mark.parametrize("name", ALL)
def test_encoder_parameters(name: str) -> None:
    encoder = recipes.get(name).encoder
    with torch.device("meta"):
        assert costs.encoder_parameters(encoder) == parameters(build_encoder(encoder, seed=0))


@pytest.mark.parametrize(
    ("name", "encoder", "with_head"),
    [
        ("mae-tiny", 5_524_416, 5_717_416),
        ("mae-small", 21_665_664, 22_050_664),  # "22 M"
        ("mae-base", 85_798_656, 86_567_656),  # "86 M"; timm's own number with a head
        ("simmim-swin-tiny", 27_519_354, 28_288_354),  # "28 M" (Liu et al. 2021, table 1)
    ],
)
def test_published_parameter_counts(name: str, encoder: int, with_head: int) -> None:
    settings = recipes.get(name).encoder
    assert costs.encoder_parameters(settings) == encoder
    with torch.device("meta"):
        assert parameters(build_classifier(settings, 1000, "mean", seed=0)) == with_head


def test_architecture_is_the_papers() -> None:
    with torch.device("meta"):
        model: Any = build_encoder(recipes.get("mae-tiny").plain_encoder, seed=0)
    block = model.blocks[0]
    assert (len(model.blocks), block.attn.num_heads, block.attn.qkv.bias is not None) == (12, 12, True)
    assert block.mlp.fc1.weight.shape == (4 * 192, 192)
    assert {module.eps for module in model.modules() if isinstance(module, nn.LayerNorm)} == {1e-6}
    assert model.cls_token.shape == (1, 1, 192)
    assert model.pos_embed.shape == (1, 197, 192)


def counted_gflops(recipe: config.Recipe) -> tuple[float, float]:
    """Count a training step and a forward pass of the encoder, per image, without computing anything."""
    encoder, images = recipe.encoder, 2
    with torch.device("meta"):
        method: Any = methods.build(recipe, num_classes=10)
        models: list[Any] = [method]
        if isinstance(recipe.method, config.DistilledMAE | config.FeatureDistillation):
            guide: Any = build_encoder(recipe.method.teacher(recipe.plain_encoder), seed=0)
            registers = getattr(recipe.method, "teacher_prefix_tokens", 1) - 1
            if registers:
                shape = timm_arguments(recipe.method.teacher(recipe.plain_encoder))
                guide = timm.create_model("vit_small_patch14_reg4_dinov2", **shape, reg_tokens=registers, num_classes=0)
            method.teacher = Teacher(guide, "")
            models.append(guide)
        if isinstance(recipe.method, config.DistilledSimMIM):
            guide = methods.build(toy.painter(recipe), num_classes=0)
            method.teacher = Teacher(guide, "")
            models.append(guide)
        method.to("meta")
        views = () if recipe.augmentation.views == 1 else (recipe.augmentation.views,)
        batch = torch.empty(images, *views, encoder.channels, encoder.image_size, encoder.image_size)
        local, side = recipe.augmentation.local_views, recipe.augmentation.local_size or 0
        more = () if local is None else (torch.empty(images, local, encoder.channels, side, side),)
        labels = torch.zeros(images, dtype=torch.long)
    for module in (module for model in models for module in model.modules()):
        if hasattr(module, "fused_attn"):
            module.fused_attn = False  # torch's counter does not know the fused attention of every device
    draws = {name: value.to("meta") for name, value in method.draw(0, 0, range(images)).items()}
    with FlopCounterMode(display=False) as step:
        method(batch, labels, draws, *more).loss.backward()
    with FlopCounterMode(display=False) as forward:
        method.encoder(batch[:, 0] if views else batch)
    return step.get_total_flops() / images / 1e9, forward.get_total_flops() / images / 1e9


@pytest.mark.parametrize(
    "name",
    [
        "mae-tiny",
        "mocov3-tiny",
        "dino-tiny",
        "finetune-improved",
        "d-mae-tiny",
        "feature-distill-tiny",
        "maskfeat-tiny",
        "mae-hog-tiny",
        "simmim-swin-tiny",
        "d2-simmim-swin-tiny",
    ],
)
def test_gflops_of_the_paper_size(name: str) -> None:
    """What is left out: the head, and that backward needs no gradient of the images, 1 % of a step."""
    recipe = recipes.get(name)
    step, forward = counted_gflops(recipe)
    assert costs.step_gflops(recipe) == pytest.approx(step, rel=0.03)
    assert costs.forward_gflops(recipe.encoder) == pytest.approx(forward, rel=0.001)


@pytest.mark.parametrize("name", SIZES)
def test_gflops(name: str) -> None:
    recipe = recipes.get(name)
    shallow: dict[str, Any] = {"teacher_depth": 3} if hasattr(recipe.method, "teacher_depth") else {}
    shallow |= {"decoupled_at": None} if recipe.method.kind == "distilled_mae" else {}
    if isinstance(recipe.encoder, config.Encoder):
        recipe = recipes.derive(recipe, encoder={"depth": 2}, method=shallow)
    encoder = recipe.encoder
    seen = recipe.method.kept(encoder.patches) if isinstance(recipe.method, config.Masking) else encoder.patches
    # In a shallow model the images' own gradient, which nobody needs, would be several per cent of a step.
    seen *= recipe.augmentation.views * (not getattr(recipe.method, "freeze_patch_projection", False))
    seen += (recipe.augmentation.local_views or 0) * ((recipe.augmentation.local_size or 0) // encoder.patch_size) ** 2
    spared = 2 * seen * encoder.channels * encoder.patch_size**2 * encoder.width / 1e9
    step, forward = counted_gflops(recipe)
    assert costs.step_gflops(recipe) - spared == pytest.approx(step, rel=0.005)
    assert costs.forward_gflops(encoder) == pytest.approx(forward, rel=0.005)


@pytest.mark.parametrize("name", ALL)
def test_notes_agree_with_the_counts(name: str) -> None:
    recipe = recipes.get(name)
    for number in re.findall(r"([\d.]+) GFLOP per image", recipe.note.cost):
        assert f"{costs.step_gflops(recipe):.1f}" == number
    for number, other in re.findall(r"about ([\d.]+) times ([\w-]+)", recipe.note.cost):
        assert f"{costs.step_gflops(recipe) / costs.step_gflops(recipes.get(other)):.1f}" == number
    command = recipe.note.command.split()
    assert command[0] == "mae-lite"
    assert command[1] in recipes.commands_for(recipe)
    assert command[1] == "pretrain" or "supervised" not in name
    assert command[2] == name
    assert ("--init" in command) == (recipe.start == "pretrained")
    assert ("--teacher" in command) == (recipe.method.kind.startswith("distilled") or "distill" in name)
