"""MaskFeat, MAE on gradients and SimMIM against slow formulas, and what is predicted for hidden places alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from mae_lite import recipes, training
from mae_lite.config import Recipe
from mae_lite.data.loader import to_device, training_loader
from mae_lite.data.opening import open_source
from mae_lite.data.plan import Plan
from mae_lite.data.transforms import TrainTransform
from mae_lite.engine.optim import LearningRate, build_optimizer, set_learning_rate
from mae_lite.errors import ConfigError
from mae_lite.methods import build
from mae_lite.methods.hog import hog_targets
from mae_lite.methods.mae import patchify
from mae_lite.methods.mae_hog import GradientAutoencoder
from mae_lite.methods.mask_tokens import MaskTokenMethod, encode_masked
from mae_lite.rundir import read_rows
from tests import toy
from tests.test_methods import assert_normal, pictures
from tests.test_training import tensors, trained

Floats = npt.NDArray[np.float64]
COLOUR: dict[str, Any] = {"augmentation": {"mean": (0.5,) * 3, "std": (0.5,) * 3}}


def masked(recipe: Recipe) -> MaskTokenMethod:
    method = build(recipe, 0)
    assert isinstance(method, MaskTokenMethod)
    return method


def photographs(count: int, channels: int = 3, side: int = 16) -> Tensor:
    """Return 8-bit pixels, in 0 to 1, with edges and empty places."""
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, channels, side, side), generator=random)
    images[:, :, : side // 2, : side // 2] = 77
    images[:, 0, side // 2 :, side // 2 :] = torch.arange(side // 2, 0, -1)  # falls to the right: exactly 180 degrees
    return images / 255


def slow_hog(image: Floats, patch: int) -> Floats:
    """Return [N, 4 cells · channels · 9 bins], pixel by pixel."""
    channels, side, _ = image.shape
    cell = patch // 2
    histograms = np.zeros((side // cell, side // cell, channels, 9))
    for c in range(channels):
        for y in range(side):
            for x in range(side):
                across = image[c, y, x + 1] - image[c, y, x - 1] if 0 < x < side - 1 else 0.0
                down = image[c, y + 1, x] - image[c, y - 1, x] if 0 < y < side - 1 else 0.0
                degrees = math.degrees(math.atan2(down, across)) % 180
                histograms[y // cell, x // cell, c, int(degrees // 20) % 9] += math.hypot(across, down)
    patches = []
    for row in range(side // patch):
        for column in range(side // patch):
            numbers: list[float] = []
            for y in (2 * row, 2 * row + 1):
                for x in (2 * column, 2 * column + 1):
                    for c in range(channels):
                        length = math.sqrt(sum(value**2 for value in histograms[y, x, c]))
                        numbers += [value / length if length else 0.0 for value in histograms[y, x, c]]
            patches.append(numbers)
    return np.array(patches)


@pytest.mark.parametrize(("channels", "side", "patch"), [(3, 16, 8), (1, 24, 4), (2, 8, 2)])
def test_hog_is_the_slow_formula(channels: int, side: int, patch: int) -> None:
    images = photographs(2, channels, side)
    found = hog_targets(images, patch)
    assert found.shape == (2, (side // patch) ** 2, 36 * channels)
    for image in range(2):
        expected = slow_hog(images[image].double().numpy(), patch)
        assert np.allclose(found[image].numpy(), expected, atol=1e-5)
        assert expected.any(axis=0).sum() > 20 and not expected.all()  # many bins, and empty ones


def test_a_patch_of_the_paper_has_108_numbers_of_length_1() -> None:
    found = hog_targets(photographs(1, 3, 32), 16)
    assert found.shape == (1, 4, 108)
    lengths = found.reshape(1, 4, 4, 3, 9).norm(dim=-1)
    assert (((lengths - 1).abs() < 1e-5) | (lengths == 0)).all()
    assert (lengths == 0).any()


def test_hog_is_that_of_the_pixels_whatever_they_were_normalised_with() -> None:
    images = photographs(3)
    mean, std = torch.tensor([0.485, 0.4, 0.1]).view(1, 3, 1, 1), torch.tensor([0.229, 0.05, 3.0]).view(1, 3, 1, 1)
    assert torch.allclose(hog_targets((images - mean) / std, 8), hog_targets(images, 8), atol=1e-4)
    assert not torch.allclose(hog_targets(images * torch.linspace(1, 2, 16), 8), hog_targets(images, 8), atol=0.01)


def test_directions_of_hog() -> None:
    """An edge that rises along an angle votes for the bin of that angle, and falling for the same."""
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    for degrees in range(10, 180, 20):
        slope = math.cos(math.radians(degrees)) * x + math.sin(math.radians(degrees)) * y
        for sign in (1, -1):
            cell = hog_targets(sign * slope.expand(1, 1, 8, 8), 4).reshape(4, 2, 2, 9)[0, 1, 1]  # no border there
            assert cell.tolist() == pytest.approx([float(bin_ == degrees // 20) for bin_ in range(9)], abs=1e-6)


def mask_of(method: MaskTokenMethod, hidden: Tensor, side: int) -> npt.NDArray[np.bool_]:
    """Return [B, side, side], true at hidden pixels."""
    mask = np.zeros((len(hidden), side, side), dtype=bool)
    grid = side // method.unit
    for image, numbers in enumerate(hidden.tolist()):
        for number in numbers:
            top, left = number // grid * method.unit, number % grid * method.unit
            mask[image, top : top + method.unit, left : left + method.unit] = True
    return mask


def test_maskfeat_loss_is_the_slow_formula() -> None:
    recipe = toy.maskfeat(encoder={"image_size": 16, "channels": 3, "depth": 2}, **COLOUR)
    method, images = masked(recipe), photographs(3)
    drawn = method.draw(0, 0, range(3))
    hidden = method.hidden(drawn)
    assert hidden.shape == (3, 16 - 9)  # floor(16 * 0.6) stay visible
    with torch.no_grad():
        loss, predicted = method(images, torch.zeros(3), drawn).loss, method.predict(images, hidden).double().numpy()
    errors = []
    for image in range(3):
        target = slow_hog(images[image].double().numpy(), 4)
        for patch in hidden[image].tolist():
            errors += [(predicted[image, patch, i] - target[patch, i]) ** 2 for i in range(108)]
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(float(np.mean(errors)), rel=1e-4)


def test_loss_of_mae_on_gradients_is_the_slow_formula() -> None:
    method = build(toy.mae_hog(encoder={"image_size": 16, "channels": 3, "depth": 2}, **COLOUR), 0)
    assert isinstance(method, GradientAutoencoder)
    images, drawn = photographs(3), method.draw(0, 0, range(3))
    order = torch.argsort(drawn["noise"], dim=1)
    with torch.no_grad():
        loss = method(images, torch.zeros(3), drawn).loss
        predicted = method.decoder(method.encode(patchify(images, 4), order[:, : method.kept]), order)
    errors = []
    for image in range(3):
        target = slow_hog(images[image].double().numpy(), 4)
        for patch in order[image, method.kept :].tolist():
            errors += [(float(predicted[image, patch, i]) - target[patch, i]) ** 2 for i in range(108)]
    assert loss.item() == pytest.approx(float(np.mean(errors)), rel=1e-4)


SIMMIM = [
    (toy.simmim(encoder={"image_size": 16, "channels": 3}, **COLOUR), 2),
    (toy.simmim_swin(encoder={"image_size": 16, "channels": 3, "patch_size": 2}, **COLOUR), 4),
    (
        toy.simmim_swin(
            encoder={"image_size": 16, "channels": 3, "patch_size": 1}, method={"mask_unit_px": 1}, **COLOUR
        ),
        2,
    ),
]


@pytest.mark.parametrize(("recipe", "stride"), SIMMIM, ids=["plain", "swin", "squares smaller than a token"])
def test_simmim_loss_is_the_slow_formula(recipe: Recipe, stride: int) -> None:
    method, images = masked(recipe), pictures(3)
    drawn = method.draw(0, 0, range(3))
    hidden = method.hidden(drawn)
    units = (16 // method.unit) ** 2
    assert hidden.shape == (3, units - math.floor(units * 0.4))
    with torch.no_grad():
        loss, predicted = method(images, torch.zeros(3), drawn).loss, method.predict(images, hidden).numpy()
    assert predicted.shape == (3, (16 // stride) ** 2, stride * stride * 3)
    errors = []
    for image, y, x in np.argwhere(mask_of(method, hidden, 16)).tolist():
        token, inside = y // stride * (16 // stride) + x // stride, (y % stride * stride + x % stride) * 3
        errors += [abs(predicted[image, token, inside + c] - float(images[image, c, y, x])) for c in range(3)]
    assert loss.item() == pytest.approx(float(np.mean(errors)), rel=1e-5)


METHODS = [toy.maskfeat(), toy.simmim(), toy.simmim_swin()]


@pytest.mark.parametrize("recipe", METHODS, ids=lambda recipe: recipe.name)
def test_hidden_pixels_do_not_reach_the_encoder(recipe: Recipe) -> None:
    method, images = masked(recipe), pictures(4, 1, 8)
    drawn = method.draw(0, 0, range(4))
    hidden = method.hidden(drawn)
    by_noise = [sorted(range(method.units), key=lambda unit: float(noise[unit])) for noise in drawn["noise"]]
    assert hidden.tolist() == [numbers[method.kept :] for numbers in by_noise]
    mask = torch.from_numpy(mask_of(method, hidden, 8)).unsqueeze(1)
    with torch.no_grad():
        before = method.predict(images, hidden)
        assert torch.equal(method.predict(torch.where(mask, 9.0, images), hidden), before)
        assert not torch.allclose(method.predict(torch.where(mask, images, 9.0), hidden), before)
        method.painter.mask_token[:2].add_(1.0)  # all alike would be what LayerNorm takes away
        assert not torch.allclose(method.predict(images, hidden), before)


@pytest.mark.parametrize("recipe", METHODS, ids=lambda recipe: recipe.name)
def test_with_nothing_hidden_the_tokens_are_timms(recipe: Recipe) -> None:
    method, images = masked(recipe).eval(), pictures(2, 1, 8)
    mask = torch.zeros(2, recipe.encoder.grid, recipe.encoder.grid, dtype=torch.bool)
    with torch.no_grad():
        expected = method.encoder.forward_features(images)
        expected = expected.flatten(1, 2) if expected.ndim == 4 else expected[:, 1:]
        assert torch.allclose(encode_masked(method.encoder, images, mask, method.painter), expected, atol=1e-6)


def test_positions_are_added_to_the_mask_token() -> None:
    """Else a token could not know where it is, and all would predict the same."""
    method, images = masked(toy.simmim()), pictures(1, 1, 8)
    with torch.no_grad():
        predicted = method.predict(images, torch.arange(method.units).unsqueeze(0))
    assert predicted[0].std(dim=0).max() > 1e-3


def test_painter_starts_from_a_normal_distribution_and_its_token_does_not_decay() -> None:
    recipe = recipes.derive(recipes.get("maskfeat-tiny"), encoder={"depth": 1})
    method = masked(recipe)
    assert_normal(method.painter.mask_token, 0.02)
    assert_normal(method.painter.pred.weight, 0.02)
    assert method.painter.pred.weight.shape == (108, 192)
    assert not method.painter.pred.bias.any()
    free = {
        n for group in build_optimizer(method, recipe).param_groups if not group["weight_decay"] for n in group["names"]
    }
    assert {"painter.mask_token", "painter.pred.bias", "encoder.cls_token"} <= free
    assert "painter.pred.weight" not in free


def test_mixed_precision_changes_the_loss_by_rounding_only() -> None:
    for recipe in (*METHODS, toy.mae_hog()):
        method, images = build(recipe, 0), pictures(4, 1, 8)
        drawn = method.draw(0, 0, range(4))
        exact = method(images, torch.zeros(4), drawn).loss
        with torch.autocast("cpu", torch.bfloat16):
            loss = method(images, torch.zeros(4), drawn).loss
        loss.backward()
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(exact.item(), rel=0.02)


def test_micro_batches_add_up_to_the_batch(tmp_path: Path) -> None:
    for recipe in (toy.mae_hog(), toy.maskfeat(), toy.simmim_swin()):
        runs = [
            trained(
                recipe, tmp_path / f"{recipe.name}-{size}", micro_batch_size=size, probe_images=0, stop_after_steps=2
            )
            for size in (16, 4)
        ]
        losses = [[row["loss"] for row in read_rows(run) if "loss" in row] for run in runs]
        assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_gradients_are_not_painted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    run = trained(toy.mae_hog(), tmp_path / "run")
    assert "no previews: histograms of gradients are predicted" in caplog.text
    assert not (run / "previews").exists()


@pytest.mark.parametrize("recipe", [toy.mae_hog(), *METHODS], ids=lambda recipe: recipe.name)
def test_finetuning_takes_the_encoder_and_drops_the_rest_aloud(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, recipe: Recipe
) -> None:
    pretrained = trained(recipe, tmp_path / "pretrained", stop_after_steps=2)
    fine = recipes.derive(toy.classifier(), start="pretrained", encoder=recipe.encoder.model_dump(), lr_per_256=1e-9)
    caplog.set_level("INFO")
    training.run(fine, toy.runtime(tmp_path / "fine", init=str(pretrained), stop_after_steps=1))
    assert "tensors not needed here were dropped" in caplog.text
    source, tuned = tensors(pretrained), tensors(tmp_path / "fine")
    assert not any(name.startswith(("painter", "decoder")) for name in tuned)
    carried = [name for name in tuned if not name.startswith(("encoder.head", "encoder.fc_norm"))]
    assert len(carried) > 10
    assert all(torch.allclose(tuned[name], source[name], atol=1e-6) for name in carried)


def test_pretraining_goes_on_from_other_methods(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    runs: dict[str, Path] = {}
    still: Mapping[str, Any] = {"lr_per_256": 1e-9, "warmup_start_lr": 0.0, "optimizer": {"weight_decay": 0.0}}
    simmim = toy.simmim(encoder={"patch_size": 4}, **still)
    for name, recipe, init, said in (
        ("mae", toy.mae(), None, ""),
        ("hog", toy.mae_hog(**still), "mae", "predicted something else: the decoder's last layer starts anew"),
        ("maskfeat", toy.maskfeat(**still), "mae", "has no mask token and no layer behind the encoder"),
        ("simmim", simmim, "maskfeat", "predicted something else: the layer behind the encoder starts anew"),
        ("again", simmim, "simmim", ""),
    ):
        caplog.clear()
        runs[name] = tmp_path / name
        start = None if init is None else str(runs[init])
        training.run(recipe, toy.runtime(runs[name], init=start, stop_after_steps=1))
        assert said in caplog.text
        assert ("anew" in caplog.text) == bool(said)
        if init is not None:
            found, source = tensors(runs[name]), tensors(runs[init])
            shared = [key for key in found if key in source and found[key].shape == source[key].shape]
            assert len(shared) > 10
            assert all(torch.allclose(found[key], source[key], atol=1e-6) for key in shared if "pred" not in key)
    assert torch.allclose(tensors(runs["again"])["painter.pred.weight"], tensors(runs["simmim"])["painter.pred.weight"])


@pytest.mark.parametrize(
    ("recipe", "changes", "message"),
    [
        (
            toy.maskfeat(),
            {"method": {"mask_ratio": 0.0}},
            r"(?s)method.mask_ratio.*found 0.*Fix: --method.mask-ratio 0.4",
        ),
        (toy.maskfeat(), {"encoder": {"patch_size": 1}}, r"(?s)encoder.patch_size.*found 1.*2 cells.*Fix: .*size 2"),
        (toy.mae_hog(), {"encoder": {"patch_size": 1}}, r"(?s)encoder.patch_size.*found 1.*2 cells.*Fix: .*size 2"),
        (toy.mae_hog(), {"method": {"normalize_target": True}}, r"unknown field 'method.normalize_target'"),
        (toy.maskfeat(), {"method": {"decoder_depth": 1}}, r"unknown field 'method.decoder_depth'"),
        (toy.simmim(), {"method": {"mask_unit_px": 3}}, r"(?s)mask_unit_px.*found 3.*patch_size 2.*Fix: .*unit-px 2"),
        (toy.simmim(), {"method": {"mask_unit_px": 6}}, r"(?s)mask_unit_px.*found 6.*image_size 8.*Fix: .*unit-px 4"),
        (toy.simmim(), {"method": {"mask_unit_px": 8}}, r"(?s)mask_ratio.*more than one square.*smaller mask_unit_px"),
        (toy.simmim(), {"labels_per_class": 3}, r"not read in SimMIM pre-training"),
        (toy.simmim(), {"encoder": {"positions": "learned"}}, r"not read in SimMIM pre-training"),
        (toy.maskfeat(), {"validation_fraction": 0.1}, r"not read in MaskFeat pre-training"),
        (toy.maskfeat(), {"augmentation": {"views": 2}}, r"augmentation.views"),
    ],
)
def test_what_does_not_fit_is_refused(recipe: Recipe, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipes.derive(recipe, **changes)


@pytest.fixture(scope="module")
def photographed(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Tensor]:
    """Return 30 batches of 32 normalised photographs, augmented as for MaskFeat."""
    augmentation = recipes.get("cifar10-maskfeat-tiny").augmentation
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAE_LITE_CACHE", str(tmp_path_factory.mktemp("cache")))
        source = open_source(str(shared_data / "cifar10" / "test.parquet"), "train")
        plan = Plan(samples=len(source), global_batch_size=32, micro_batch_size=32, seed=0)
        transform = TrainTransform(augmentation, 32, 3)
        loader = training_loader(source, transform, plan, channels=3, start_step=0, stop_step=30)
        return [to_device(batch, "cpu", augmentation.mean, augmentation.std).images for batch in loader]


_SMALL = {"width": 48, "depth": 2, "num_heads": 6}


@pytest.mark.slow
@pytest.mark.needs_data
@pytest.mark.parametrize(
    ("name", "encoder", "share"),
    [
        ("cifar10-maskfeat-tiny", _SMALL, 0.85),
        ("cifar10-mae-hog-tiny", _SMALL, 0.5),
        ("cifar10-simmim", _SMALL, 0.9),
        ("cifar10-simmim-swin", {"width": 16, "num_heads": (2, 4, 8)}, 0.9),
    ],
)
def test_thirty_steps_on_photographs_lower_the_loss(
    photographed: list[Tensor], name: str, encoder: dict[str, Any], share: float
) -> None:
    recipe = recipes.derive(
        recipes.get(name), encoder=encoder, global_batch_size=32, lr_per_256=1.6e-2, precision="fp32"
    )
    method = build(recipe, 0)
    optimizer, rate = build_optimizer(method, recipe), LearningRate(recipe.peak_lr, 30, 5)
    losses = []
    for step, images in enumerate(photographed):
        set_learning_rate(optimizer, rate(step))
        loss = method(images, torch.full((32,), -1), method.draw(0, step, range(32))).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    print(name, losses[::5])
    assert np.mean(losses[-5:]) < share * np.mean(losses[:5])
