"""The short way of colour images gives what the long way gives: the same pixels, errors and batches."""

from __future__ import annotations

import io
import tarfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image, ImageCms

from mae_lite import draws
from mae_lite.config import Augmentation, Reading
from mae_lite.data.images import decode, decode_raster
from mae_lite.data.loader import training_loader
from mae_lite.data.pixels import Picture, planes
from mae_lite.data.plan import Plan
from mae_lite.data.raster import Raster
from mae_lite.data.sources import Encoded, Example, Source
from mae_lite.data.transforms import DRAWS, TrainTransform
from mae_lite.errors import DataError

RNG = np.random.default_rng(0)
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SMALL = RNG.integers(0, 256, (9, 13, 3), dtype=np.uint8)
LOCAL = {"local_views": 2, "local_size": 16, "local_scale": (0.05, 0.4)}
CLOSE: dict[str, dict[str, Any]] = {
    "crop": {},
    "whole": {"crop_scale": None},
    "bilinear": {"interpolation": "bilinear"},
    "random filter": {"interpolation": "random"},
    "erasing": {"erasing": 1.0},
    "affine": {"rotate_degrees": 10.0, "shear_degrees": 5.0, "translate": 0.1, "zoom": (0.9, 1.1)},
    "blur and grey": {"blur": (1.0,), "grey": 1.0},
    "local views": LOCAL,
}
APART: dict[str, dict[str, Any]] = {  # thresholds and factors of colours enlarge a difference of 1
    "jitter": {"jitter": (0.4, 0.4, 0.2, 0.1), "jitter_probability": 1.0},
    "solarise": {"solarise": (1.0,)},
    "randaugment": {"randaugment": "rand-m9-mstd0.5-inc1"},
}


def smooth(width: int, height: int) -> Image.Image:
    """Return a photograph-like image."""
    return Image.fromarray(SMALL).resize((width, height), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image, turn: int = 1, **settings: Any) -> bytes:
    """Return an encoded image."""
    exif = Image.Exif()
    exif[0x0112] = turn
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **({"quality": 85} | settings), **({"exif": exif} if turn > 1 else {}))
    return buffer.getvalue()


def bytes_of(picture: Picture | Raster) -> npt.NDArray[np.uint8]:
    """Return [H, W, C], or [H, W] of a grey image."""
    return picture.pixels if isinstance(picture, Raster) else np.asarray(planes(picture)[0])


def outcome(short: bool, data: Encoded, channels: int = 3, reading: Reading = Reading()) -> object:  # noqa: B008
    """Return the bytes of an image, or its error."""
    example = Example("x", data)
    try:
        picture = decode_raster(example, channels, reading) if short else decode(example, channels, reading)
    except DataError as error:
        return str(error)
    return bytes_of(picture).shape, bytes_of(picture).tobytes()


PLAIN = {
    "baseline": jpeg(smooth(61, 43)),
    "progressive": jpeg(smooth(61, 43), progressive=True),
    "grey": jpeg(smooth(61, 43).convert("L")),
    "grey, progressive": jpeg(smooth(61, 43).convert("L"), progressive=True),
    "4:4:4": jpeg(smooth(61, 43), subsampling=0),
    "4:2:2": jpeg(smooth(61, 43), subsampling=1),
    "best quality": jpeg(smooth(61, 43), quality=100),
    "restart markers": jpeg(smooth(61, 43), restart_marker_rows=1),
    "RGB, not YCbCr": jpeg(smooth(61, 43), keep_rgb=True),
    "one pixel": jpeg(smooth(1, 1)),
    "a strip": jpeg(smooth(300, 1)),
    "junk after its end": jpeg(smooth(61, 43)) + b"junk" * 50,
    "with a profile": jpeg(smooth(61, 43), icc_profile=PROFILE),
    **{f"orientation {turn}": jpeg(smooth(61, 43), turn) for turn in range(2, 10)},
}


@pytest.mark.parametrize("turn_upright", [True, False])
@pytest.mark.parametrize("kind", PLAIN)
def test_plain_jpegs_take_the_short_way(kind: str, turn_upright: bool, tmp_path: Path) -> None:
    reading = Reading(turn_upright=turn_upright)
    (tmp_path / "x.jpg").write_bytes(PLAIN[kind])
    for data in (PLAIN[kind], tmp_path / "x.jpg"):
        found = decode_raster(Example("x", data), 3, reading)
        assert isinstance(found, Raster) and found.reduced == 1
        assert found.size == found.pixels.shape[1::-1]
        assert outcome(True, data, reading=reading) == outcome(False, data, reading=reading)


@pytest.mark.parametrize(
    ("data", "channels", "reading"),
    [
        (jpeg(smooth(20, 10).convert("CMYK")), 3, Reading()),
        (PLAIN["baseline"], 1, Reading()),
        (PLAIN["with a profile"], 3, Reading(apply_profile=True)),
        (smooth(20, 10), 3, Reading()),
        (SMALL[:, :, 0], 3, Reading()),
        (SMALL.transpose(2, 0, 1).copy(), 3, Reading()),
        (SMALL / 255.0, 3, Reading()),
        (SMALL, 1, Reading()),
    ],
)
def test_others_take_the_long_way(data: Encoded, channels: int, reading: Reading) -> None:
    assert not isinstance(decode_raster(Example("x", data), channels, reading), Raster)
    assert outcome(True, data, channels, reading) == outcome(False, data, channels, reading)


@pytest.mark.parametrize("reading", [Reading(max_pixels=100), Reading(smallest_side=50)])
def test_sizes_are_refused_alike(reading: Reading) -> None:
    for data in (PLAIN["orientation 6"], np.asarray(smooth(61, 43))):
        assert isinstance(outcome(True, data, reading=reading), str)
        assert outcome(True, data, reading=reading) == outcome(False, data, reading=reading)


@pytest.mark.parametrize("kind", ["baseline", "progressive", "grey", "orientation 6"])
def test_damage_is_judged_alike(kind: str) -> None:
    whole = PLAIN[kind]
    refused = 0
    for keep in [*range(3, len(whole), 23), len(whole) - 2, len(whole) - 1]:
        refused += isinstance(outcome(True, whole[:keep]), str)
        assert outcome(True, whole[:keep]) == outcome(False, whole[:keep]), keep
    assert refused > 20
    for place, value in zip(RNG.integers(2, len(whole), 150).tolist(), RNG.integers(0, 256, 150).tolist(), strict=True):
        rotten = whole[:place] + bytes([value]) + whole[place + 1 :]
        assert outcome(True, rotten) == outcome(False, rotten), (place, value)


@pytest.mark.parametrize("name", CLOSE | APART)
def test_exact_is_bit_for_bit_what_it_was(name: str) -> None:
    transform = TrainTransform(Augmentation.model_validate((CLOSE | APART)[name]), 24, 3)
    picture = decode(Example("x", PLAIN["baseline"]), 3)
    raster = decode_raster(Example("x", PLAIN["baseline"]), 3, Reading())
    for view in range(transform.views):
        for number, u in enumerate(draws.uniform(1, np.arange(5), DRAWS)):
            assert (transform(picture, u, number, view) == transform(raster, u, number, view)).all()


def photographs(shared_data: Path, count: int) -> list[bytes]:
    """Return JPEG files spread over the sample of ImageNet."""
    with tarfile.open(shared_data / "imagenet-sample" / "imagenet-sample.tar", "r:") as tar:
        members = [member for member in tar if member.isfile()]
        chosen = members[:: len(members) // count][:count]
        return [file.read() for member in chosen if (file := tar.extractfile(member)) is not None]


@pytest.mark.needs_data
def test_fast_differs_by_rounding(shared_data: Path) -> None:
    """200 photographs: mean 0.05 of 255, on the worst one below 0.5."""
    exact, fast = (TrainTransform(Augmentation(), 224, 3, rounding) for rounding in ("exact", "fast"))
    apart = []
    for data, u in zip(photographs(shared_data, 200), draws.uniform(2, np.arange(200), DRAWS), strict=True):
        picture, raster = decode(Example("x", data), 3), decode_raster(Example("x", data), 3, Reading())
        if isinstance(raster, Raster):
            assert (np.asarray(planes(picture)[0]) == raster.pixels).all()
        apart.append(np.abs(exact(picture, u, 0).astype(int) - fast(raster, u, 0)).mean())
    assert 0 < np.mean(apart) < 0.1 and max(apart) < 0.5


@pytest.mark.needs_data
@pytest.mark.parametrize("name", CLOSE | APART)
def test_fast_differs_little_with_every_augmentation(name: str, shared_data: Path) -> None:
    augmentation = Augmentation.model_validate((CLOSE | APART)[name])
    exact, fast = (TrainTransform(augmentation, 64, 3, rounding) for rounding in ("exact", "fast"))
    apart = []
    for number, data in enumerate(photographs(shared_data, 8)):
        picture, raster = decode(Example("x", data), 3), decode_raster(Example("x", data), 3, Reading())
        for view, u in enumerate(draws.uniform(3, np.arange(exact.views), DRAWS)):
            views = [way(picture if way is exact else raster, u, number, view).astype(int) for way in (exact, fast)]
            apart.append(np.abs(views[0] - views[1]).mean())
    assert np.mean(apart) < (0.5 if name in CLOSE else 3.0)


@pytest.mark.needs_data
@pytest.mark.parametrize(("turn", "odd"), [(1, 0), (1, 3), (6, 0), (3, 3)])
def test_reduced_decoding_stays_close(turn: int, odd: int, shared_data: Path) -> None:
    exact, fast = (TrainTransform(Augmentation(), 96, 3, rounding) for rounding in ("exact", "fast"))
    apart, factors = [], set()
    for data in photographs(shared_data, 4):
        large = Image.open(io.BytesIO(data)).convert("RGB").resize((1600 + odd, 1200 + odd), Image.Resampling.LANCZOS)
        example = Example("x", jpeg(large, turn))
        for u in draws.uniform(4, np.arange(4), DRAWS):
            raster = decode_raster(example, 3, Reading(), lambda size, u=u: fast.reduction(size, u[None]))  # type: ignore[misc]
            assert isinstance(raster, Raster)
            factors.add(raster.reduced)
            apart.append(np.abs(exact(decode(example, 3), u, 0).astype(int) - fast(raster, u, 0)).mean())
    assert np.mean(apart) < 1 and max(apart) < 2
    assert factors == {1} if odd and turn > 1 else max(factors) > 1


def test_never_decoded_smaller_than_the_crops_need() -> None:
    transform = TrainTransform(Augmentation.model_validate(LOCAL | {"local_size": 32}), 96, 3, "fast")
    assert transform.local is not None
    factors = []
    for u in draws.uniform(5, np.arange(300), 3 * DRAWS).reshape(-1, 3, DRAWS):
        size = (1500, 1100)
        factors.append(transform.reduction(size, u))
        need = [(transform, 96, u[0]), (transform.local, 32, u[1]), (transform.local, 32, u[2])]
        shortest = [min(own._box(size, row)[2:]) / (2 * side) for own, side, row in need]
        assert factors[-1] in (1, 2, 4, 8)
        assert factors[-1] <= max(1, min(shortest))
        assert factors[-1] == 8 or 2 * factors[-1] > min(shortest)
    assert len(set(factors)) > 2
    assert transform.reduction((999, 999), u) == 1
    assert TrainTransform(Augmentation(), 32, 3).reduction((4000, 4000), u) == 1


def test_arrays_and_images_give_the_same_whatever_their_memory() -> None:
    image = smooth(50, 40)
    pixels = np.asarray(image)
    kinds: list[Picture | Raster] = [
        image,
        *(Raster(view, (50, 40)) for view in (pixels, np.asfortranarray(pixels), pixels[::-1].copy()[::-1])),
    ]
    for settings, side in (({}, 24), ({"crop_scale": None}, 24), ({"grey": 1.0}, 8)):
        transform = TrainTransform(Augmentation.model_validate(settings), side, 3, "fast")
        for u in draws.uniform(6, np.arange(10), DRAWS):
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # torch's of memory that may not be written
                found = [transform(kind, u, 0) for kind in kinds]
            assert all((other == found[0]).all() for other in found)
    same_size = TrainTransform(Augmentation.model_validate({"crop_scale": None, "flip": 0.0}), 40, 3, "fast")
    square = image.crop((0, 0, 40, 40))
    assert (same_size(square, np.zeros(DRAWS, np.float32), 0) == np.asarray(square).transpose(2, 0, 1)).all()


class Jpegs(Source):
    """Small JPEG files, one of them cut off."""

    name, classes, in_memory, split = "jpegs", None, False, None

    def __init__(self) -> None:
        self.labels = np.full(24, -1, dtype=np.int64)

    def example(self, index: int) -> Example:
        data = jpeg(smooth(40 + index, 50))
        return Example(str(index), data[:300] if index == 5 else data)

    def fingerprint(self) -> dict[str, int | str]:
        return {"images": 24}


@pytest.mark.parametrize("rounding", ["exact", "fast"])
def test_batches_do_not_depend_on_workers_or_division(rounding: Any) -> None:
    augmentation = Augmentation.model_validate({**LOCAL, "views": 2})
    transform = TrainTransform(augmentation, 32, 3, rounding)
    found = []
    for workers, micro in ((0, 8), (2, 8), (1, 4)):
        plan = Plan(samples=24, global_batch_size=8, micro_batch_size=micro, seed=3)
        batches = list(
            training_loader(Jpegs(), transform, plan, channels=3, start_step=0, stop_step=6, workers=workers)
        )
        assert sum(len(batch.bad) for batch in batches) == 2  # once an epoch
        local = [batch.local_images for batch in batches if batch.local_images is not None]
        found.append((torch.cat([b.images for b in batches]), torch.cat([b.ids for b in batches]), torch.cat(local)))
    assert found[0][0].shape == (48, 2, 3, 32, 32) and found[0][2].shape == (48, 2, 3, 16, 16)
    for other in found[1:]:
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(found[0], other, strict=True))
