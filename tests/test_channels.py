"""Images of any number of channels on the same road, and weights made for another number of them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import mae_lite
from mae_lite import recipes
from mae_lite.config import Recipe
from mae_lite.data.images import decode
from mae_lite.data.pixels import planes
from mae_lite.data.sources import Example
from mae_lite.data.transforms import DRAWS, EvalTransform, TrainTransform
from mae_lite.errors import DataError
from mae_lite.models.vit import adapted_projection
from tests import toy

Array = npt.NDArray[Any]


def bands(count: int, height: int = 12, width: int = 9, kind: str = "uint8") -> Array:
    """Return [H, W, count] noise over the full range of ``kind``."""
    top = np.iinfo(kind).max
    return np.random.default_rng(count).integers(0, top + 1, (height, width, count)).astype(kind)


def npy(array: Array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def tiff(array: Array, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


def stacked(data: Any, channels: int, **reading: Any) -> Array:
    """Return [H, W, C] of what the guard makes of a file."""
    picture = decode(Example("x", data), channels, mae_lite.config.Reading(**reading))
    return np.stack([np.asarray(part) for part in planes(picture)], axis=2)


@pytest.mark.parametrize("count", [2, 4, 5, 13])
def test_every_format_gives_the_same_channels(count: int, tmp_path: Path) -> None:
    array = bands(count)
    path = tmp_path / "x.tif"
    path.write_bytes(tiff(array, photometric="minisblack", planarconfig="contig"))
    last = np.ascontiguousarray(array.transpose(2, 0, 1))
    forms: dict[str, Any] = {
        "array": array,
        "npy": npy(array),
        "channels first": npy(last),
        "tiff": path,
        "planar tiff": tiff(last, photometric="minisblack", planarconfig="separate"),
        "pages": tiff(last, photometric="minisblack"),
    }
    for name, data in forms.items():
        assert (stacked(data, count) == array).all(), name


def test_sixteen_bits_keep_all_levels_that_fit() -> None:
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    five = np.stack([ramp] * 5, axis=2)
    for data in (npy(five), tiff(five, photometric="minisblack", planarconfig="contig")):
        assert (stacked(data, 5)[..., 3] == ramp >> 8).all()
    assert (np.asarray(toy_picture(npy(ramp), 1)) == ramp >> 8).all()


def toy_picture(data: bytes, channels: int) -> Image.Image:
    picture = decode(Example("x", data), channels)
    assert isinstance(picture, Image.Image)
    return picture


def test_a_known_range_is_spread_over_all_levels_and_cut_at_its_ends() -> None:
    values = np.array([[0, 5000, 10000, 12000]], dtype=np.uint16)
    assert stacked(npy(values), 1, value_range=(0, 10000))[0, :, 0].tolist() == [0, 128, 255, 255]
    floats = np.array([[-1.0, 0.0, 1.0]])
    assert stacked(npy(floats), 1, value_range=(-1, 1))[0, :, 0].tolist() == [0, 128, 255]
    with pytest.raises(DataError, match=r"(?s)-1 to 1 in numbers of type float64.*Fix: .*--reading.value-range"):
        stacked(npy(floats), 1)


@pytest.mark.parametrize(
    ("data", "channels", "words"),
    [
        (npy(bands(5)), 3, r"found 5, expected 3 .*Fix: --encoder.channels 5"),
        (npy(bands(3)), 5, r"found 3, expected 5"),
        (tiff(bands(6), photometric="minisblack", planarconfig="contig"), 3, "found 6, expected 3"),
        (npy(np.zeros((2, 3, 4, 5), np.uint8)), 3, r"shape \[2, 3, 4, 5\]"),
        (npy(np.zeros(7, np.uint8)), 1, r"shape \[7\]"),
        (npy(np.zeros((0, 4), np.uint8)), 1, "too small"),
        (npy(np.full((2, 2), np.nan)), 1, "no finite numbers"),
        (npy(np.zeros((2, 2), np.complex64)), 1, "type complex64"),
        (npy(np.array([[object()]], dtype=object)), 1, "Python objects"),
        (npy(bands(5))[:-1], 5, "bytes for shape"),
        (npy(np.zeros((2, 2), np.uint8)).replace(b"(2, 2)", b"(9**9,)"), 1, "damaged"),
        (npy(np.zeros((20000, 20000), np.uint8))[:500], 1, "too large"),
        (tiff(bands(5), photometric="minisblack", planarconfig="contig")[:200], 5, "damaged"),
    ],
)
def test_what_does_not_fit_is_one_clear_error(data: bytes, channels: int, words: str) -> None:
    with pytest.raises(DataError, match=rf"(?s){words}") as caught:
        stacked(data, channels)
    assert "'x'" in str(caught.value) and "\nFix: " in str(caught.value)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([8, 16]))
def test_channels_move_together(seed: int, size: int) -> None:
    """Equal channels stay equal, and a colour image is treated like its three channels."""
    rng = np.random.default_rng(seed)
    grey = rng.integers(0, 256, (20, 30), dtype=np.uint8)
    augmentation = mae_lite.config.Augmentation(
        rotate_degrees=20, shear_degrees=10, translate=0.2, zoom=(0.8, 1.2), mean=(0.5,) * 5, std=(0.2,) * 5
    )
    u = rng.random(DRAWS, dtype=np.float32)
    picture = decode(Example("x", np.stack([grey] * 5, axis=2)), 5)
    for pixels in (TrainTransform(augmentation, size, 5)(picture, u, 1), EvalTransform(augmentation, size, 5)(picture)):
        assert pixels.shape == (5, size, size) and (pixels == pixels[:1]).all()
    colours = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    five = decode(Example("x", np.concatenate([colours, colours[..., :2]], axis=2)), 5)
    three = decode(Example("x", colours), 3)
    rgb = augmentation.model_copy(update={"mean": (0.5,) * 3, "std": (0.2,) * 3})
    assert (TrainTransform(augmentation, size, 5)(five, u, 1)[:3] == TrainTransform(rgb, size, 3)(three, u, 1)).all()


def test_a_projection_reads_other_channels(caplog: pytest.LogCaptureFixture) -> None:
    weight = torch.randn(4, 3, 2, 2)
    grey = torch.randn(4, 1, 2, 2)
    assert adapted_projection(weight, 3) is weight and not caplog.records
    as_colours = torch.nn.functional.conv2d(grey.expand(4, 3, 2, 2), weight)
    assert torch.allclose(torch.nn.functional.conv2d(grey, adapted_projection(weight, 1)), as_colours, atol=1e-5)
    five = adapted_projection(weight, 5)
    assert torch.allclose(five, weight[:, [0, 1, 2, 0, 1]] * 3 / 5)
    assert "added up" in caplog.text and "repeated in turn" in caplog.text


def multispectral(**changes: Any) -> Recipe:
    encoder = {"channels": 5}
    augmentation = {"mean": (0.5,) * 5, "std": (0.25,) * 5}
    return recipes.derive(toy.mae(), encoder=encoder, augmentation=augmentation, global_batch_size=4, **changes)


def plant_bands(root: Path, count: int = 5) -> Path:
    for number in range(8):
        folder = root / ("field" if number % 2 else "forest")
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{number}.npy", bands(count, 10, 10, "uint16"))
    return root


@pytest.mark.usefixtures("arrow_cache")
def test_pre_training_and_fine_tuning_on_five_channels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = plant_bands(tmp_path / "bands")
    colour = recipes.derive(toy.mae(), encoder={"channels": 3}, augmentation={"mean": (0.5,) * 3, "std": (0.25,) * 3})
    first = mae_lite.run(
        recipes.derive(colour, epochs=2 / 84, warmup_epochs=1 / 84), toy.runtime(tmp_path / "rgb", data="digits")
    )
    recipe = multispectral(epochs=2, warmup_epochs=1)
    run = mae_lite.run(recipe, toy.runtime(tmp_path / "mae", data=str(data), init=str(first.folder)))
    assert run.state == "finished" and (run.folder / "previews" / "step_4.png").exists()
    assert "repeated in turn" in caplog.text and "last layer starts anew" in caplog.text
    tune = recipes.derive(
        toy.classifier(labels_per_class=None, global_batch_size=4, epochs=1, warmup_epochs=0),
        encoder={"channels": 5, "positions": "sincos", "init": "xavier"},
        augmentation={"mean": (0.5,) * 5, "std": (0.25,) * 5},
        start="pretrained",
    )
    tuned = mae_lite.run(tune, toy.runtime(tmp_path / "tuned", data=str(data), init=str(run.folder)))
    assert tuned.state == "finished"
    assert mae_lite.evaluate(tuned.folder, split="train")["images"] == 8
