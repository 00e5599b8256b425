"""Whole batches at once, against the transform that takes one image at a time, with the same draws."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from mae_lite import draws, recipes
from mae_lite.config import Augmentation
from mae_lite.data import batched, batched_colours, colours, resampling, transforms
from mae_lite.data.batched import BatchTransform
from mae_lite.data.resampling import Crops
from mae_lite.data.transforms import DRAWS, TrainTransform
from mae_lite.errors import ConfigError

Bytes = npt.NDArray[np.uint8]
CUBIC, TRIANGLE = Image.Resampling.BICUBIC, Image.Resampling.BILINEAR
OFF: dict[str, Any] = {"crop_scale": None, "flip": 0.0}
MOCO: dict[str, Any] = {
    "views": 2,
    "interpolation": "bilinear",
    "jitter": (0.4, 0.4, 0.2, 0.1),
    "blur": (1.0, 0.1),
    "grey": 0.2,
    "solarise": (0.0, 0.2),
}
LOCAL: dict[str, Any] = {"local_views": 2, "local_size": 12, "local_scale": (0.05, 0.4)}
BOTH: dict[str, Any] = {**MOCO, **LOCAL, "blur": (1.0, 0.1, 0.5), "solarise": (0.0, 0.2, 0.3)}

# Settings and the largest mean difference from the transform of single images, in steps of 1/255.
OPERATIONS: dict[str, tuple[dict[str, Any], float]] = {
    "whole": ({**OFF}, 0.05),
    "crop bicubic": ({"flip": 0.0}, 0.05),
    "crop bilinear": ({"flip": 0.0, "interpolation": "bilinear"}, 0.05),
    "crop random": ({"flip": 0.0, "interpolation": "random"}, 0.05),
    "crop tiny": ({"crop_scale": (0.001, 0.01), "crop_ratio": (0.2, 5.0)}, 0.05),
    "crop that never fits": ({"crop_scale": (1.0, 1.0), "crop_ratio": (3.0, 4.0)}, 0.05),
    "flip": ({**OFF, "flip": 0.5}, 0.05),
    "brightness": ({**OFF, "jitter": (0.8, 0.0, 0.0, 0.0)}, 0.05),
    "contrast": ({**OFF, "jitter": (0.0, 0.8, 0.0, 0.0)}, 0.05),
    "saturation": ({**OFF, "jitter": (0.0, 0.0, 0.8, 0.0)}, 0.05),
    "hue": ({**OFF, "jitter": (0.0, 0.0, 0.0, 0.5), "jitter_probability": 1.0}, 0.05),
    "jitter": ({**OFF, "jitter": (0.4, 0.4, 0.2, 0.1)}, 0.1),
    "blur": ({**OFF, "blur": (0.7,)}, 0.1),
    "wide blur": ({**OFF, "blur": (1.0,), "blur_sigma": (3.0, 30.0)}, 0.1),
    "grey": ({**OFF, "grey": 0.5}, 0.05),
    "solarise": ({**OFF, "solarise": (0.5,)}, 0.05),
    "moco": (MOCO, 0.1),
    "local": (BOTH, 0.1),
}

# A value of every field under which BatchTransform does something, or does not read the field at all.
SUPPORTED: dict[str, dict[str, Any]] = {
    "views": {"views": 2},
    **dict.fromkeys(LOCAL, LOCAL),
    "crop_scale": {"crop_scale": (0.2, 0.9)},
    "crop_ratio": {"crop_ratio": (0.5, 2.0)},
    "interpolation": {"interpolation": "random"},
    "jitter": {"jitter": (0.1, 0.1, 0.1, 0.1)},
    "jitter_probability": {"jitter_probability": 0.5},
    "blur": {"blur": (0.5,)},
    "blur_sigma": {"blur_sigma": (0.5, 1.0)},
    "grey": {"grey": 0.5},
    "solarise": {"solarise": (0.5,)},
    "flip": {"flip": 0.1},
    "eval_crop": {"eval_crop": 1.0},
    "mean": {"mean": (0.5, 0.5, 0.5)},
    "std": {"std": (0.5, 0.5, 0.5)},
}
UNSUPPORTED: dict[str, Any] = {
    "rotate_degrees": 10.0,
    "shear_degrees": 10.0,
    "translate": 0.1,
    "zoom": (0.9, 1.1),
    "randaugment": "rand-m9-mstd0.5-inc1",
    "erasing": 0.25,
}


def uniforms(images: int, views: int = 1, seed: int = 0) -> npt.NDArray[np.float32]:
    """Return [B, V, DRAWS] draws."""
    keys = [draws.key(seed, "batched test", view) for view in range(views)]
    return np.stack([draws.uniform(key, np.arange(images), DRAWS) for key in keys], axis=1)


def picture(pixels: Bytes) -> Image.Image:
    """Return [3, H, W] as an image."""
    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def smooth(images: int, side: int, channels: int = 3) -> Bytes:
    """Return [B, C, S, S] images with edges and gradients, for tests without data."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (images, channels, 5, 5), dtype=np.uint8)
    found = [[np.asarray(Image.fromarray(part).resize((side, side), CUBIC)) for part in parts] for parts in coarse]
    return np.array(found)


def one_by_one(pixels: Bytes, augmentation: Augmentation, size: int, u: npt.NDArray[np.float32]) -> list[list[Bytes]]:
    """Return the views of each image by TrainTransform."""
    transform = TrainTransform(augmentation, size, 3)
    return [
        [transform(picture(image), rows[view], 0, view) for view in range(transform.views)]
        for image, rows in zip(pixels, u, strict=True)
    ]


def steps(found: Tensor, expected: object) -> npt.NDArray[np.int64]:
    """Return the differences, in steps of 1/255."""
    difference: npt.NDArray[np.int64] = np.abs(
        found.numpy().astype(np.int64) - np.asarray(expected).astype(np.int64).reshape(found.shape)
    )
    return difference


def assert_same_views(pixels: Bytes, settings: dict[str, Any], size: int, bound: float) -> None:
    augmentation = Augmentation(**settings)
    transform, views = BatchTransform(augmentation, size, 3), TrainTransform(augmentation, size, 3).views
    u, given = uniforms(len(pixels), views), torch.from_numpy(pixels.copy())
    expected, kept = one_by_one(pixels, augmentation, size, u), augmentation.views
    found = transform(given, u)
    assert found.shape == (len(pixels), *((kept,) if kept > 1 else ()), 3, size, size)
    assert found.dtype == torch.uint8
    # The share that the bounds of the mean would hide: an operation that one image lacks.
    difference = steps(found, [row[:kept] for row in expected]).reshape(len(pixels), -1)
    assert difference.mean() <= bound, difference.mean()
    assert difference.mean(1).max() <= 1, difference.mean(1).max()
    local = transform.local_views(given, u)
    if augmentation.local_views is None:
        assert local is None
    else:
        assert local is not None
        assert steps(local, [row[kept:] for row in expected]).mean() <= bound
    assert np.array_equal(given.numpy(), pixels)  # the caller's images stay as they are


@pytest.fixture(scope="module")
def cifar(shared_data: Path) -> Bytes:
    """Return [64, 3, 32, 32]."""
    rows = pq.ParquetFile(shared_data / "cifar10" / "train.parquet").read_row_group(0, columns=["image"])["image"]
    images = [Image.open(io.BytesIO(row["bytes"])).convert("RGB") for row in rows.slice(0, 64).to_pylist()]
    return np.stack([np.asarray(image) for image in images]).transpose(0, 3, 1, 2).copy()


@pytest.fixture(scope="module")
def photos(shared_data: Path) -> Bytes:
    """Return [12, 3, 256, 256]."""
    found: list[Bytes] = []
    with tarfile.open(shared_data / "imagenet-sample" / "imagenet-sample.tar", "r:") as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isfile() else None
            if file is not None and member.name.lower().endswith((".jpg", ".jpeg", ".png")):
                found.append(np.asarray(Image.open(io.BytesIO(file.read())).convert("RGB").resize((256, 256), CUBIC)))
            if len(found) == 12:
                break
    return np.stack(found).transpose(0, 3, 1, 2).copy()


@pytest.mark.parametrize("name", OPERATIONS)
def test_same_views_as_one_by_one(name: str) -> None:
    settings, bound = OPERATIONS[name]
    assert_same_views(smooth(24, 24), settings, 24, bound)


@pytest.mark.needs_data
@pytest.mark.parametrize("name", OPERATIONS)
def test_same_views_of_cifar10(cifar: Bytes, name: str) -> None:
    settings, bound = OPERATIONS[name]
    assert_same_views(cifar, settings, 32, bound)


@pytest.mark.needs_data
@pytest.mark.parametrize("name", OPERATIONS)
def test_same_views_of_photographs(photos: Bytes, name: str) -> None:
    settings, bound = OPERATIONS[name]
    assert_same_views(photos, settings, 160 if name != "moco" else 224, bound)


@pytest.mark.parametrize(("name", "size"), [("mocov3-small", 40), ("cifar10-mocov3", 32)])
def test_same_views_in_recipes(name: str, size: int) -> None:
    augmentation = recipes.get(name).augmentation
    assert batched.unsupported(augmentation) == ()
    assert_same_views(smooth(8, 48), augmentation.model_dump(), size, 0.1)


def test_each_field_is_supported_or_named() -> None:
    assert SUPPORTED.keys() | UNSUPPORTED.keys() == Augmentation.model_fields.keys()
    for settings in SUPPORTED.values():
        assert batched.unsupported(Augmentation(**settings)) == ()
    for name, value in UNSUPPORTED.items():
        assert batched.unsupported(Augmentation(**{name: value})) == (name,)
        with pytest.raises(ConfigError, match=f"augmentation.{name}"):
            BatchTransform(Augmentation(**{name: value}), 8, 3)
    assert batched.unsupported(Augmentation(**UNSUPPORTED)) == tuple(UNSUPPORTED)


@pytest.mark.parametrize("side", [24, 72])  # two ways of resampling
def test_row_depends_on_itself_alone(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    augmentation = Augmentation(**{**BOTH, "interpolation": "random"})
    transform, pixels, u = BatchTransform(augmentation, side, 3), torch.from_numpy(smooth(9, side)), uniforms(9, 4)
    whole, local = transform(pixels, u), transform.local_views(pixels, u)
    assert local is not None
    for row in range(9):
        alone = slice(row, row + 1)
        assert torch.equal(transform(pixels[alone], u[alone]), whole[alone])
        found = transform.local_views(pixels[alone], u[alone])
        assert found is not None and torch.equal(found, local[alone])
    order = np.array([4, 1, 7])
    assert torch.equal(transform(pixels[order], u[order]), whole[order])
    monkeypatch.setitem(batched._CHUNK_VALUES, "cpu", 2 * 3 * side * side)
    assert torch.equal(transform(pixels, u), whole)


@pytest.mark.parametrize("size", [(32, 32), (224, 160), (1, 40), (500, 2)])
def test_crop_boxes_are_those_of_one_image(size: tuple[int, int]) -> None:
    u = uniforms(3000)[:, 0, transforms._CROP]
    for scale, ratio in (((0.08, 1.0), (3 / 4, 4 / 3)), ((0.9, 1.0), (0.1, 8.0)), ((1.0, 1.0), (3.0, 4.0))):
        expected = [transforms.crop_box(size, scale, ratio, row) for row in u]
        assert np.array_equal(batched.crop_boxes(size, scale, ratio, u), expected)


SIZES = [(24, 24, 24), (24, 40, 32), (33, 17, 8), (90, 64, 40), (7, 5, 30), (1, 1, 4), (120, 130, 1)]


@pytest.mark.parametrize(("height", "width", "size"), SIZES)
def test_all_ways_of_resampling_are_pillows(height: int, width: int, size: int) -> None:
    u = uniforms(20)[:, 0]
    pixels = smooth(20, 130)[:, :, :height, :width].copy()
    boxes = batched.crop_boxes((width, height), (0.05, 1.0), (0.5, 2.0), u[:, transforms._CROP])
    crops = Crops(boxes, np.arange(20) % 2 > 0, np.arange(20) % 3 > 0)
    expected = []
    for image, (x, y, w, h), flipped, cubic in zip(pixels, boxes.tolist(), crops.flipped, crops.cubic, strict=True):
        found = picture(image).crop((x, y, x + w, y + h)).resize((size, size), CUBIC if cubic else TRIANGLE)
        found = found.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flipped else found
        expected.append(np.asarray(found).transpose(2, 0, 1))
    given = torch.from_numpy(pixels)
    products, taps = resampling.by_products(given, crops, size), resampling.by_taps(given, crops, size)
    assert torch.equal(products, taps)  # sums that are exact do not depend on their order
    for way in (products, resampling.one_by_one(given, crops, size)):
        assert steps(way, expected).mean() < 0.05
        assert steps(way, expected).max() <= 3
    half = resampling.by_products(given, crops, size, torch.float16)
    assert steps(half, expected).mean() < 0.3


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_any_number_of_channels(channels: int) -> None:
    settings = {"blur": (0.5,), "solarise": (0.5,)}
    pixels, u = smooth(10, 24, channels), uniforms(10)
    found = BatchTransform(Augmentation(**settings), 20, channels)(torch.from_numpy(pixels), u)
    assert found.shape == (10, channels, 20, 20)
    for channel in range(channels):
        colour = torch.from_numpy(pixels[:, channel : channel + 1]).expand(-1, 3, -1, -1).contiguous()
        alone = BatchTransform(Augmentation(**settings), 20, 3)(colour, u)
        assert torch.equal(found[:, channel], alone[:, 0])


def test_every_colour_turns_its_hue_as_in_pillow() -> None:
    levels = np.arange(0, 256, 5)
    pixels = np.stack(np.meshgrid(levels, levels, levels)).reshape(3, 52, -1).astype(np.uint8)
    for share in (-0.5, -0.07, 0.0, 0.1, 0.5):
        expected = np.asarray(colours.turned_hue(picture(pixels), share)).transpose(2, 0, 1)
        turn = torch.tensor([float(int(share * 255))])
        found = batched_colours.turned_hue(torch.from_numpy(pixels)[None].float(), turn)[0]
        assert steps(found, expected).mean() < 0.02


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 1.9, 4.0, 20.0])
def test_blur_is_pillows(sigma: float) -> None:
    pixels = smooth(1, 30)
    weights = batched_colours.box_weights(np.array([sigma, 2 * sigma]))  # the wider one adds zeros only
    assert np.allclose(weights[:, 0] + 2 * weights[:, 1:].sum(1), 1 << 24, rtol=1e-6)
    found = batched_colours.blurred(torch.from_numpy(pixels).float(), torch.from_numpy(weights[:1]))
    expected = np.asarray(picture(pixels[0]).filter(ImageFilter.GaussianBlur(sigma))).transpose(2, 0, 1)
    assert np.array_equal(found[0].numpy(), expected)


def test_device_is_never_waited_for() -> None:
    # Tensors of this device have no values: whatever would read one back raises.
    pixels = torch.empty(6, 3, 24, 24, dtype=torch.uint8, device="meta")
    for settings in (BOTH, OFF | {"flip": 0.5}):
        augmentation = Augmentation(**settings)
        transform = BatchTransform(augmentation, 24, 3, torch.float16)
        u = uniforms(6, 4)
        shape = (6, 3, 24, 24) if augmentation.views == 1 else (6, 2, 3, 24, 24)
        assert transform(pixels, u).shape == shape
        local = transform.local_views(pixels, u)
        assert local is None or (local.shape == (6, 2, 3, 12, 12) and local.device.type == "meta")
