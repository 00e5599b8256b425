"""Transforms against torchvision and timm, and against golden values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms
from torchvision.transforms import functional

from mae_lite import draws
from mae_lite.config import Augmentation
from mae_lite.data.transforms import DRAWS, EvalTransform, TrainTransform, crop_box, erase
from mae_lite.errors import ConfigError
from tests.test_data_images import noise

tv: Any = transforms  # the annotations of torchvision leave out Pillow images
tvf: Any = functional
PLAIN: dict[str, object] = {"crop_scale": None, "flip": 0.0}


def uniforms(index: int = 0, **fixed: Any) -> npt.NDArray[np.float32]:
    """Return the draws of one sample, some of them fixed by name."""
    import mae_lite.data.transforms as module

    u: npt.NDArray[np.float32] = draws.uniform(draws.key(0, "test"), [index], DRAWS)[0]
    for name, value in fixed.items():
        u[getattr(module, f"_{name.upper()}")] = value
    return u


def chw(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Return the pixels of a colour image, channels first."""
    return np.asarray(image).transpose(2, 0, 1)


def boxes(
    count: int, size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]
) -> npt.NDArray[np.float64]:
    """Return crops as [count, 4]: left, top, width, height."""
    table = draws.uniform(draws.key(1, "test"), np.arange(count), 40)
    return np.array([crop_box(size, scale, ratio, row) for row in table], dtype=np.float64)


def area_and_ratio(crops: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return [count, 2]: area, and logarithm of width / height."""
    return np.stack([crops[:, 2] * crops[:, 3], np.log(crops[:, 2] / crops[:, 3])], axis=1)


@pytest.mark.parametrize(("size", "scale"), [((60, 40), (0.08, 1.0)), ((30, 90), (0.5, 1.0)), ((32, 32), (0.2, 1.0))])
def test_crops_are_distributed_as_torchvisions(size: tuple[int, int], scale: tuple[float, float]) -> None:
    count, ratio = 3000, (3 / 4, 4 / 3)
    ours = boxes(count, size, scale, ratio)
    torch.manual_seed(0)
    image = Image.new("L", size)
    theirs = np.array(
        [tv.RandomResizedCrop.get_params(image, list(scale), list(ratio)) for _ in range(count)], dtype=np.float64
    )
    theirs = theirs[:, [1, 0, 3, 2]]
    for a, b in ((ours, theirs), (area_and_ratio(ours), area_and_ratio(theirs))):
        error = np.sqrt((a.var(0) + b.var(0)) / count) + 1e-9
        assert (np.abs(a.mean(0) - b.mean(0)) < 4.5 * error).all()
        assert (np.abs(a.std(0) - b.std(0)) < 0.08 * b.std(0) + 1e-9).all()
    assert (ours[:, 0] + ours[:, 2]).max() == size[0] and ours[:, :2].min() == 0  # borders are reached


@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 50))
@settings(max_examples=80, deadline=None)
def test_crops_lie_within_the_image(width: int, height: int, index: int) -> None:
    u = draws.uniform(draws.key(2, "test"), [index], 40)[0]
    left, top, w, h = crop_box((width, height), (0.08, 1.0), (3 / 4, 4 / 3), u)
    assert 0 <= left and 0 <= top and w >= 1 and h >= 1 and left + w <= width and top + h <= height


@pytest.mark.parametrize("size", [(500, 10), (10, 500), (1, 10000), (10000, 1)])
def test_fallback_is_torchvisions_central_crop(size: tuple[int, int]) -> None:
    left, top, w, h = crop_box(size, (0.9, 1.0), (3 / 4, 4 / 3), np.full(40, 0.5, dtype=np.float32))
    expected = tv.RandomResizedCrop.get_params(Image.new("L", size), [0.9, 1.0], [3 / 4, 4 / 3])
    assert (top, left, h, w) == expected


@pytest.mark.parametrize(("interpolation", "mode"), [("bicubic", "BICUBIC"), ("bilinear", "BILINEAR")])
def test_crop_and_resize_equal_torchvision_to_the_pixel(interpolation: str, mode: str) -> None:
    image = noise(50, 70)
    transform = TrainTransform(Augmentation.model_validate({"flip": 0.0, "interpolation": interpolation}), 24, 3)
    for index in range(5):
        u = uniforms(index)
        left, top, w, h = crop_box(image.size, (0.08, 1.0), (3 / 4, 4 / 3), u[:40])
        expected = tvf.resized_crop(image, top, left, h, w, [24, 24], tv.InterpolationMode[mode])
        assert (transform(image, u, 0) == chw(expected)).all()


def test_random_interpolation_uses_both() -> None:
    image = noise(50, 50)
    results = {
        name: TrainTransform(Augmentation.model_validate({**PLAIN, "interpolation": name}), 24, 3)
        for name in ("random", "bilinear", "bicubic")
    }
    for value, name in ((0.2, "bilinear"), (0.7, "bicubic")):
        u = uniforms(interpolation=value)
        assert (results["random"](image, u, 0) == results[name](image, u, 0)).all()


def test_without_crop_the_whole_image_is_resized_only_when_needed() -> None:
    transform = TrainTransform(Augmentation.model_validate(PLAIN), 24, 3)
    same = noise(24, 24)
    assert (transform(same, uniforms(), 0) == chw(same)).all()
    other = transform(noise(24, 40), uniforms(), 0)
    assert (other == chw(noise(24, 40).resize((24, 24), Image.Resampling.BICUBIC))).all()


def test_flip_happens_with_its_probability() -> None:
    image = noise(8, 8)
    transform = TrainTransform(Augmentation.model_validate({**PLAIN, "flip": 0.3}), 8, 3)
    assert (transform(image, uniforms(flip=0.29), 0) == chw(image)[:, :, ::-1]).all()
    assert (transform(image, uniforms(flip=0.31), 0) == chw(image)).all()


def grey(**settings: object) -> TrainTransform:
    """Return a transform of 9 x 9 grey images without crop and flip."""
    values = {**PLAIN, "mean": (0.5,), "std": (0.25,), **settings}
    return TrainTransform(Augmentation.model_validate(values), 9, 1)


def dot(x: int, y: int) -> Image.Image:
    """Return a black 9 x 9 image with one white pixel."""
    image = Image.new("L", (9, 9))
    image.putpixel((x, y), 255)
    return image


def where(pixels: npt.NDArray[np.uint8]) -> tuple[int, int]:
    """Return column and row of the brightest pixel."""
    row, column = np.unravel_index(pixels[0].argmax(), (9, 9))
    return int(column), int(row)


def test_affine_moves_as_asked_about_the_centre() -> None:
    middle: dict[str, Any] = {"rotate": 0.5, "shift_x": 0.5, "shift_y": 0.5, "zoom": 0.5}  # 0.5 means none of each
    turn = grey(rotate_degrees=90.0)
    assert where(turn(dot(6, 4), uniforms(**{**middle, "rotate": 1.0}), 0)) == (4, 6)  # clockwise in the image
    assert where(turn(dot(6, 4), uniforms(**{**middle, "rotate": 0.0}), 0)) == (4, 2)
    assert where(turn(dot(4, 4), uniforms(**{**middle, "rotate": 0.3}), 0)) == (4, 4)
    shift = grey(translate=1 / 3)
    moved = shift(dot(4, 4), uniforms(**{**middle, "shift_x": 1.0, "shift_y": 0.0}), 0)
    assert where(moved) == (7, 1) and moved.max() >= 250
    assert moved[0, :, :2].max() == 0  # filled with black
    grow = grey(zoom=(2.0, 2.0))
    assert where(grow(dot(5, 4), uniforms(**middle), 0))[0] in (6,)
    slant = grey(shear_degrees=45.0)
    upright = {**middle, "shear": 0.5}
    assert where(slant(dot(4, 2), uniforms(**{**upright, "shear": 1.0}), 0)) == (2, 2)  # two above: two to the left
    assert where(slant(dot(4, 6), uniforms(**{**upright, "shear": 1.0}), 0)) == (6, 6)
    assert where(slant(dot(4, 2), uniforms(**upright), 0)) == (4, 2)
    same = grey(rotate_degrees=10.0, translate=0.1)
    image = Image.fromarray(np.asarray(noise(9, 9))[..., 0].copy())
    assert (same(image, uniforms(**middle), 0)[0] == np.asarray(image)).all()


def test_randaugment_is_timms_and_leaves_global_generators_alone() -> None:
    import random

    from timm.data.auto_augment import rand_augment_transform

    image, text = noise(32, 32), "rand-m9-mstd0.5-inc1"
    transform = TrainTransform(Augmentation.model_validate({**PLAIN, "randaugment": text}), 32, 3)
    hparams = {"translate_const": 14, "img_mean": (124, 116, 104), "interpolation": Image.Resampling.BICUBIC}
    reference = rand_augment_transform(text, hparams)
    changed = 0
    for key in range(12):
        random.seed(5)
        np.random.seed(5)
        found = transform(image, uniforms(), key)
        after = random.random(), np.random.random()
        random.seed(5)
        np.random.seed(5)
        assert after == (random.random(), np.random.random())
        with draws.seeded_globals(key):
            expected = reference(image)
        assert (found == chw(expected)).all()
        changed += int((found != chw(image)).any())
    assert changed >= 6


@pytest.mark.parametrize("text", ["rand-m10-mstd0.5-inc1", "rand-m0-n6", "rand-m10-n6-inc1", "rand-m9-tweights"])
def test_randaugment_survives_every_operation_at_the_ends_of_its_range(text: str) -> None:
    transform = TrainTransform(Augmentation.model_validate({**PLAIN, "randaugment": text}), 16, 3)
    results = [transform(noise(16, 16), uniforms(), key) for key in range(150)]
    assert all(found.shape == (3, 16, 16) for found in results)


def test_posterize_to_no_bits_is_black() -> None:
    from mae_lite.data.rand_augment import _posterize

    assert not np.asarray(_posterize(noise(4, 4), 0)).any()
    assert (np.asarray(_posterize(noise(4, 4), 3)) == np.asarray(noise(4, 4)) & 0xE0).all()


@pytest.mark.parametrize("text", ["rand-x9", "augmix", "rand-m", "rand-m9.5", "rand-mstd", "rand-tnone", ""])
def test_randaugment_errors(text: str) -> None:
    with pytest.raises(ConfigError, match=r"(?s)randaugment.*Fix: "):
        TrainTransform(Augmentation(randaugment=text), 32, 3)
    with pytest.raises(ConfigError, match=r"(?s)channels 1.*Fix: "):
        TrainTransform(Augmentation(randaugment="rand-m9", mean=(0.5,), std=(0.5,)), 32, 1)


def test_erasing_puts_noise_of_the_right_statistics_into_one_rectangle() -> None:
    mean, std, areas = (0.4, 0.5, 0.6), (0.1, 0.05, 0.2), []
    for key in range(60):
        pixels = np.zeros((3, 64, 48), dtype=np.uint8)
        erase(pixels, mean, std, draws.generator(key))
        rows, columns = np.flatnonzero(pixels.any((0, 2))), np.flatnonzero(pixels.any((0, 1)))
        inside = pixels[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        areas.append(inside[0].size / (64 * 48))
        if inside[0].size > 400:
            assert np.allclose(inside.mean((1, 2)) / 255, mean, atol=0.03)
            assert np.allclose(inside.std((1, 2)) / 255, std, rtol=0.15)
    assert 0.015 < min(areas) and max(areas) < 0.36
    assert np.mean(areas) == pytest.approx((0.02 + 1 / 3) / 2, abs=0.03)


def test_erasing_happens_with_its_probability_and_by_key() -> None:
    image = noise(32, 32)
    transform = TrainTransform(Augmentation.model_validate({**PLAIN, "erasing": 0.25}), 32, 3)
    assert (transform(image, uniforms(erase=0.26), 7) == chw(image)).all()
    erased = transform(image, uniforms(erase=0.24), 7)
    assert (erased != chw(image)).any()
    assert (erased == transform(image, uniforms(erase=0.24), 7)).all()
    assert (erased != transform(image, uniforms(erase=0.24), 8)).any()


@pytest.mark.parametrize("eval_crop", [0.875, 1.0, 0.9])
@pytest.mark.parametrize("size", [(70, 50), (50, 71), (37, 37), (32, 32), (33, 47), (20, 90)])
def test_eval_equals_torchvision_to_the_pixel(size: tuple[int, int], eval_crop: float) -> None:
    image = noise(size[1], size[0])
    found = EvalTransform(Augmentation(eval_crop=eval_crop), 32, 3)(image)
    short = round(32 / eval_crop)
    reference = tv.Compose([tv.Resize(short, tv.InterpolationMode.BICUBIC), tv.CenterCrop(32)])
    assert found.dtype == np.uint8 and (found == chw(reference(image))).all()


def test_eval_of_a_strip_takes_its_centre_within_bounded_memory() -> None:
    strip = Image.new("RGB", (10000, 1), (9, 8, 7))
    assert (EvalTransform(Augmentation(), 224, 3)(strip) == np.array([9, 8, 7])[:, None, None]).all()


def test_shortcut_for_strips_equals_the_long_way(monkeypatch: pytest.MonkeyPatch) -> None:
    image, transform = noise(40, 300), EvalTransform(Augmentation(), 32, 3)
    expected = transform(image).astype(int)
    monkeypatch.setattr("mae_lite.data.transforms._MAX_RESIZED", 0)
    assert np.abs(transform(image).astype(int) - expected).max() <= 8
    assert np.abs(transform(image).astype(int) - expected).mean() < 0.5


def test_outputs_are_writable_copies_of_one_shape() -> None:
    for channels, mode in ((1, "L"), (3, "RGB")):
        augmentation = Augmentation(mean=(0.5,) * channels, std=(0.5,) * channels)
        image = noise(9, 9).convert(mode)
        for pixels in (
            TrainTransform(augmentation, 8, channels)(image, uniforms(), 0),
            EvalTransform(augmentation, 8, channels)(image),
        ):
            assert pixels.shape == (channels, 8, 8) and pixels.dtype == np.uint8
            assert pixels.flags.writeable and pixels.flags.c_contiguous


def test_the_draws_have_no_overlap() -> None:
    import mae_lite.data.transforms as module

    single = [
        module._INTERPOLATION,
        module._FLIP,
        module._ROTATE,
        module._SHIFT_X,
        module._SHIFT_Y,
        module._ZOOM,
        module._SHEAR,
        module._ERASE,
    ]
    assert len(set(single)) == len(single) and min(single) >= module._CROP.stop and max(single) < DRAWS
    assert math.isclose(module._CROP.stop, 40)
