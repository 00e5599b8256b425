"""What holds for every method alike; a new kind of method that is not listed in ``toy.EVERY`` fails here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from mae_lite import config, methods, recipes, training
from mae_lite.config import Recipe
from mae_lite.data.opening import open_source
from mae_lite.data.sources import subset
from mae_lite.evaluation.teacher import load_teacher
from mae_lite.methods.teacher import Taught
from mae_lite.rundir import read_rows
from tests import toy
from tests.test_training import SGD, losses, tensors

KINDS = {kind.model_fields["kind"].default for kind in get_args(get_args(config.Method)[0])}
STEPS = 20
ROOT = Path(__file__).parent.parent
PHOTOGRAPHS = {
    "mae": "cifar10-mae-tiny",
    "distilled_mae": "cifar10-d-mae-tiny",
    "feature_distillation": "cifar10-feature-distill-tiny",
    "mae_hog": "cifar10-mae-hog-tiny",
    "maskfeat": "cifar10-maskfeat-tiny",
    "simmim": "cifar10-simmim",
    "distilled_simmim": "cifar10-d2-simmim-swin",
    "mocov3": "cifar10-mocov3",
    "dino": "cifar10-dino",
    "supervised": "cifar10-supervised",
}
SMALL: dict[str, dict[str, Any]] = {
    "distilled_mae": {"teacher_width": 96, "teacher_depth": 2, "teacher_heads": 6},
    "feature_distillation": {"teacher_width": 96, "teacher_depth": 2, "teacher_heads": 6, "teacher_patch_size": 8},
    "distilled_simmim": {
        "decoupled_at": 2,
        "teacher_width": 24,
        "teacher_depths": (1, 1, 1),
        "teacher_heads": (2, 4, 8),
    },
    "mocov3": {"hidden_width": 256, "output_width": 64},
    "dino": {"hidden_width": 256, "bottleneck_width": 64, "prototypes": 256, "freeze_prototypes_epochs": 0.0},
}
"""Heads and teachers small enough for a test."""
SMALL_SWIN: dict[str, Any] = {"width": 16, "depths": (1, 1, 1), "num_heads": (2, 4, 8)}


def test_every_kind_is_listed() -> None:
    assert set(toy.EVERY) == set(PHOTOGRAPHS) == KINDS
    assert {name: recipes.get(recipe).method.kind for name, recipe in PHOTOGRAPHS.items()} == {k: k for k in KINDS}


def method_of(recipe: Recipe, folder: Path) -> Any:
    method = methods.build(recipe, 10)
    teacher = load_teacher(recipe, toy.teacher_of(recipe, folder).get("teacher"))
    if isinstance(method, Taught):
        method.teacher = teacher
    return method


def given(recipe: Recipe, count: int) -> tuple[Any, ...]:
    """Return images, labels and local images, as far as the recipe has them."""
    encoder, augmentation, random = recipe.encoder, recipe.augmentation, torch.Generator().manual_seed(0)

    def images(side: int, *views: int) -> torch.Tensor:
        return torch.randn(count, *views, encoder.channels, side, side, generator=random)

    large = images(encoder.image_size, *(() if augmentation.views == 1 else (augmentation.views,)))
    local = () if augmentation.local_size is None else (images(augmentation.local_size, augmentation.local_views or 0),)
    return large, torch.arange(count) % 10, *local


@pytest.mark.parametrize("kind", sorted(toy.EVERY))
def test_gradients_reach_what_is_trained_and_nothing_else(kind: str, tmp_path: Path) -> None:
    recipe = toy.EVERY[kind]()
    method = method_of(recipe, tmp_path)
    images, labels, *local = given(recipe, 6)
    method.before_step(0.0)
    method(images, labels, method.draw(0, 0, range(6)), *local).loss.backward()
    trained = 0
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
            trained += 1
        else:
            assert parameter.grad is None, name
    assert trained > 10


@pytest.mark.parametrize("kind", sorted(toy.EVERY))
def test_a_stopped_run_ends_with_the_same_bits(kind: str, tmp_path: Path) -> None:
    recipe = toy.EVERY[kind]()
    teacher = toy.teacher_of(recipe, tmp_path)
    training.run(recipe, toy.runtime(tmp_path / "whole", **teacher))
    training.run(recipe, toy.runtime(tmp_path / "parts", stop_after_steps=3, **teacher))
    training.run(recipe, toy.runtime(tmp_path / "parts", **teacher))
    for part in ("model", "optimizer"):
        whole, parts = (tensors(tmp_path / run, part) for run in ("whole", "parts"))
        assert whole.keys() == parts.keys() and all(torch.equal(value, parts[name]) for name, value in whole.items())
    rows = [
        [{key: value for key, value in row.items() if key not in toy.TIMES} for row in read_rows(tmp_path / run)]
        for run in ("whole", "parts")
    ]
    assert rows[0] == rows[1] and len(rows[0]) > 2


def of_two(kind: str, folder: Path) -> tuple[list[str], Path, Path]:
    """Train in one process; return the command line that does it in two, and where each leaves its run."""
    epoch = 84 if kind != "supervised" else 2  # of 16 of 1,346 digits; of 10 of 20
    schedule: dict[str, Any] = {**SGD, "lr_per_256": 0.05, "epochs": STEPS / epoch, "warmup_epochs": 2 / epoch}
    recipe, one, two = toy.EVERY[kind](**schedule), folder / "one", folder / "two"
    folder.mkdir()
    teacher = toy.teacher_of(recipe, folder)
    training.run(recipe, toy.runtime(one, **teacher))
    (folder / "recipe.json").write_text(recipe.model_dump_json())
    words = ["pretrain", str(folder / "recipe.json"), "--data", "digits"]
    words += ["--out", str(two), "--workers", "0", "--log-every-steps", "2", "--save-every-steps", "2"]
    words += ["--tensorboard", "false", "--accelerator", "cpu", *(w for k, v in teacher.items() for w in (f"--{k}", v))]
    return words, one, two


@pytest.mark.slow
def test_two_processes_make_the_same_twenty_steps(tmp_path: Path) -> None:
    """All methods in one process that forks pairs: imports take longer than these runs."""
    runs = {kind: of_two(kind, tmp_path / kind) for kind in sorted(toy.EVERY)}
    (tmp_path / "lines.json").write_text(json.dumps({kind: words for kind, (words, *_) in runs.items()}))
    script = [str(ROOT / "tests" / "pairs.py"), str(tmp_path / "logs"), "commands", str(tmp_path / "lines.json")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *script], capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr
    ended = json.loads(done.stdout.splitlines()[-1])
    for kind, (_, one, two) in runs.items():
        assert [end["code"] for end in ended[kind]] == [0, 0], (kind, ended[kind])
        assert len(losses(one)) == STEPS / 2, kind
        assert losses(two) == pytest.approx(losses(one), rel=1e-4), kind
        ours, theirs = tensors(one), tensors(two)
        assert ours.keys() == theirs.keys(), kind
        for name, value in ours.items():  # what BatchNorm takes out again, a bias before it, is rounding alone
            furthest = float((value - theirs[name]).abs().max())
            assert furthest < 1e-4 * max(float(value.abs().max()), 1e-2), (kind, name)


@pytest.mark.slow
@pytest.mark.needs_data
@pytest.mark.parametrize("kind", sorted(PHOTOGRAPHS))
def test_thirty_steps_on_photographs_lower_the_loss(
    kind: str, tmp_path: Path, shared_data: Path, arrow_cache: Path
) -> None:
    """Of DINO what the loss has beyond the teacher's entropy: the part that agreement of the views can lower."""
    del arrow_cache
    recipe = recipes.derive(
        recipes.get(PHOTOGRAPHS[kind]),
        encoder=SMALL_SWIN
        if kind == "distilled_simmim"
        else {"patch_size": 8, "width": 96, "depth": 3, "num_heads": 6},
        method=SMALL.get(kind, {}),
        augmentation={"local_views": 1} if recipes.get(PHOTOGRAPHS[kind]).augmentation.local_views else {},
        global_batch_size=64,
        epochs=30 / 40,  # 2,560 images make 40 updates
        warmup_epochs=5 / 40,
        lr_per_256=8e-3,
        validation_fraction=0.0,
        precision="fp32",
    )
    images = subset(open_source(str(shared_data / "cifar10" / "test.parquet"), "train"), np.arange(2560))
    teacher = toy.teacher_of(recipe, tmp_path)
    runtime = toy.runtime(tmp_path / "run", log_every_steps=5, save_every_steps=1000, probe_images=0, **teacher)
    training.run(recipe, runtime, images=images)
    found = [row["loss"] - row.get("teacher_entropy", 0.0) for row in read_rows(tmp_path / "run") if "loss" in row]
    print(kind, found)
    assert len(found) == 6
    assert found[-1] < 0.98 * found[0]
