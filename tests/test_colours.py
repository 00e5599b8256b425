"""What happens to colours, against torchvision and slow formulas, and views as functions of named draws."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional

from mae_lite import config, draws
from mae_lite.config import Augmentation
from mae_lite.data import colours
from mae_lite.data.loader import Batch, to_device, training_loader
from mae_lite.data.opening import open_source
from mae_lite.data.plan import Plan
from mae_lite.data.transforms import DRAWS, TrainTransform
from tests import toy
from tests.test_data_images import noise

tvf: Any = functional
OFF: dict[str, Any] = {"crop_scale": None, "flip": 0.0}


def drawn(**fixed: float) -> npt.NDArray[np.float32]:
    """Return draws under which nothing happens, but for those given by name."""
    u = np.full(colours.DRAWS, 0.999, dtype=np.float32)
    for name, value in fixed.items():
        u[getattr(colours, f"_{name.upper()}")] = value
    return u


def augmented(**settings: Any) -> Augmentation:
    return Augmentation.model_validate({**OFF, **settings})


@pytest.mark.parametrize("order", range(24))
def test_jitter_is_torchvisions_in_every_order(order: int) -> None:
    image, strengths = noise(9, 12), (0.4, 0.3, 0.2, 0.1)
    factors = draws.uniform(draws.key(0, "jitter test"), [order], 4)[0]
    named = dict(zip(("brightness", "contrast", "saturation", "hue"), factors.tolist(), strict=True))
    u = drawn(jittered=0.79, order=(order + 0.5) / 24, **named)
    expected = image
    operations = (tvf.adjust_brightness, tvf.adjust_contrast, tvf.adjust_saturation, tvf.adjust_hue)
    for number in list(itertools.permutations(range(4)))[order]:
        change = strengths[number] * (2 * float(factors[number]) - 1)
        expected = operations[number](expected, change if number == 3 else 1 + change)
    found = colours.recoloured(image, augmented(jitter=strengths), u, 0)
    assert np.array_equal(np.asarray(found), np.asarray(expected))
    assert np.abs(np.asarray(found).astype(int) - np.asarray(image)).mean() > 1
    untouched = colours.recoloured(image, augmented(jitter=strengths), drawn(jittered=0.81), 0)
    assert np.array_equal(np.asarray(untouched), np.asarray(image))


@pytest.mark.parametrize("share", [-0.5, -0.1, -0.001, 0.0, 0.07, 0.5])
def test_hue_is_torchvisions(share: float) -> None:
    image = noise(20, 20)
    assert np.array_equal(np.asarray(colours.turned_hue(image, share)), np.asarray(tvf.adjust_hue(image, share)))


def test_no_strength_changes_nothing() -> None:
    image = noise(9, 9)
    u = drawn(jittered=0.0, order=0.3, brightness=0.9, contrast=0.1, saturation=0.2, hue=0.7)
    found = colours.recoloured(image, augmented(jitter=(0.0, 0.0, 0.0, 0.0)), u, 0)
    assert np.array_equal(np.asarray(found), np.asarray(image))


def test_grey_is_the_weighted_sum_in_all_channels() -> None:
    image = noise(9, 9)
    found = np.asarray(colours.recoloured(image, augmented(grey=0.2), drawn(greyed=0.19), 0))
    slow = np.asarray(image).astype(float) @ [0.299, 0.587, 0.114]
    assert np.abs(found - slow[..., None]).max() <= 1
    assert (found == found[..., :1]).all()
    assert np.array_equal(found, np.asarray(tvf.to_grayscale(image, 3)))
    assert np.array_equal(
        np.asarray(colours.recoloured(image, augmented(grey=0.2), drawn(greyed=0.21), 0)), np.asarray(image)
    )


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("draw", [0.0, 0.3, 0.999])
def test_blur_is_a_gaussian(mode: str, draw: float) -> None:
    image = noise(10, 10).resize((32, 32), Image.Resampling.BICUBIC).convert(mode)  # without much that blur removes
    found = np.asarray(colours.recoloured(image, augmented(blur=(0.5,)), drawn(blurred=0.49, sigma=draw), 0))
    sigma = 0.1 + 1.9 * draw
    offsets = np.arange(-8, 9)
    kernel = np.exp(-(offsets**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    slow = np.pad(np.asarray(image).astype(float), [(8, 8), (8, 8), (0, 0)][: found.ndim], mode="edge")
    for axis in (0, 1):
        slow = np.apply_along_axis(lambda line: np.convolve(line, kernel, mode="valid"), axis, slow)
    inner = (slice(6, -6), slice(6, -6))
    assert np.abs(found[inner] - slow[inner]).mean() < 1.5  # Pillow's is made of three boxes
    assert found.std() == pytest.approx(slow.std(), rel=0.15)
    assert np.array_equal(
        np.asarray(colours.recoloured(image, augmented(blur=(0.5,)), drawn(blurred=0.51), 0)), np.asarray(image)
    )


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_solarising_inverts_the_upper_half(mode: str) -> None:
    image = noise(16, 16).convert(mode)
    pixels = np.asarray(image)
    found = np.asarray(colours.solarised(image, augmented(solarise=(0.2,)), drawn(solarised=0.19), 0))
    assert np.array_equal(found, np.where(pixels >= 128, 255 - pixels, pixels))
    assert np.array_equal(found, np.asarray(tvf.solarize(image, 128)))
    assert np.array_equal(np.asarray(colours.solarised(image, augmented(solarise=(0.2,)), drawn(), 0)), pixels)


def test_each_view_has_its_own_probability() -> None:
    image = noise(16, 16)
    augmentation = augmented(views=2, blur=(1.0, 0.1), solarise=(0.0, 0.2))
    u = drawn(blurred=0.5, sigma=0.9, solarised=0.1)
    assert not np.array_equal(np.asarray(colours.recoloured(image, augmentation, u, 0)), np.asarray(image))
    assert np.array_equal(np.asarray(colours.recoloured(image, augmentation, u, 1)), np.asarray(image))
    assert np.array_equal(np.asarray(colours.solarised(image, augmentation, u, 0)), np.asarray(image))
    assert not np.array_equal(np.asarray(colours.solarised(image, augmentation, u, 1)), np.asarray(image))
    assert [colours.of_view((0.3,), view) for view in (0, 1)] == [0.3, 0.3]


def test_operations_come_in_the_papers_order() -> None:
    """Crop; jitter; blur; grey; flip; solarise."""
    image = noise(30, 40)
    settings = {"jitter": (0.4, 0.4, 0.2, 0.1), "blur": (1.0,), "grey": 1.0, "flip": 1.0, "solarise": (1.0,)}
    transform = TrainTransform(Augmentation.model_validate(settings), 16, 3)
    u = draws.uniform(draws.key(0, "test"), [4], DRAWS)[0]
    u[48 + colours._JITTERED] = 0.0
    cropped = TrainTransform(augmented(crop_scale=(0.08, 1.0)), 16, 3)(image, u, 0)
    step = Image.fromarray(cropped.transpose(1, 2, 0))
    step = colours.recoloured(step, augmented(jitter=settings["jitter"]), u[48:], 0)
    step = colours.recoloured(step, augmented(blur=(1.0,)), u[48:], 0)
    step = colours.recoloured(step, augmented(grey=1.0), u[48:], 0)
    step = step.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    step = tvf.solarize(step, 128)
    assert np.array_equal(transform(image, u, 0), np.asarray(step).transpose(2, 0, 1))


def test_draws_are_distinct_and_the_first_ones_are_the_old_ones() -> None:
    names = "JITTERED ORDER BRIGHTNESS CONTRAST SATURATION HUE BLURRED SIGMA GREYED SOLARISED".split()
    assert sorted(getattr(colours, f"_{name}") for name in names) == list(range(colours.DRAWS))
    key = draws.key(0, "augment", 3)
    assert np.array_equal(draws.uniform(key, [1, 9], DRAWS)[:, :48], draws.uniform(key, [1, 9], 48))


def loaded(augmentation: Augmentation, workers: int = 0, ranks: int = 1, start: int = 0, epoch: int = 0) -> list[Batch]:
    """Return the batches of two updates of 8 digits, over all ranks."""
    source = open_source("digits", "train")
    found = []
    for rank in range(ranks):
        plan = Plan(
            samples=len(source), global_batch_size=8, micro_batch_size=8 // ranks, seed=0, ranks=ranks, rank=rank
        )
        first = epoch * plan.steps_per_epoch + start
        stop = epoch * plan.steps_per_epoch + 2
        transform = TrainTransform(augmentation, 8, 1)
        found += [
            *training_loader(source, transform, plan, channels=1, start_step=first, stop_step=stop, workers=workers)
        ]
    return found


def test_views_are_functions_of_seed_epoch_sample_and_view() -> None:
    two = toy.mocov3().augmentation
    reference = loaded(two)
    assert [tuple(batch.images.shape) for batch in reference] == [(8, 2, 1, 8, 8)] * 2
    assert not torch.equal(reference[0].images[:, 0], reference[0].images[:, 1])
    for other in (loaded(two, workers=1), loaded(two)):
        assert all(torch.equal(a.images, b.images) for a, b in zip(other, reference, strict=True))
    assert torch.equal(loaded(two, start=1)[0].images, reference[1].images)
    parts = loaded(two, ranks=2)
    assert torch.equal(torch.cat([parts[0].images, parts[2].images]), reference[0].images)
    assert not torch.equal(loaded(two, epoch=1)[0].images, reference[0].images)


def test_the_first_view_is_that_of_a_single_view() -> None:
    two = toy.mocov3().augmentation
    one = config.Augmentation.model_validate({**two.model_dump(), "views": 1, "blur": (1.0,), "solarise": (0.0,)})
    for single, double in zip(loaded(one), loaded(two), strict=True):
        assert single.images.shape == (8, 1, 8, 8)
        assert torch.equal(single.images, double.images[:, 0])


def with_local(augmentation: Augmentation, **changes: Any) -> Augmentation:
    local = {"local_views": 3, "local_size": 4, "local_scale": (0.05, 0.4)}
    return Augmentation.model_validate({**augmentation.model_dump(), **local, **changes})


def local_images(batch: Batch) -> torch.Tensor:
    assert batch.local_images is not None
    return batch.local_images


def test_local_views_leave_the_others_as_they_are() -> None:
    one = Augmentation.model_validate({"mean": (0.5,), "std": (0.25,), "erasing": 0.5})
    for plain in (one, config.Augmentation.model_validate({**toy.mocov3().augmentation.model_dump(), "blur": (0.1,)})):
        changes = {"solarise": (*plain.solarise, 0.5)} if len(plain.solarise) > 1 else {}
        for alone, beside in zip(loaded(plain), loaded(with_local(plain, **changes)), strict=True):
            assert torch.equal(alone.images, beside.images) and alone.local_images is None
            assert local_images(beside).shape == (8, 3, 1, 4, 4) and local_images(beside).dtype == torch.uint8


def test_local_views_are_functions_of_seed_epoch_sample_and_view() -> None:
    augmentation = toy.dino().augmentation
    reference = loaded(augmentation)
    assert not torch.equal(local_images(reference[0])[:, 0], local_images(reference[0])[:, 1])
    for other in (loaded(augmentation, workers=1), loaded(augmentation)):
        for a, b in zip(other, reference, strict=True):
            assert torch.equal(local_images(a), local_images(b))
    assert torch.equal(local_images(loaded(augmentation, start=1)[0]), local_images(reference[1]))
    parts = loaded(augmentation, ranks=2)
    assert torch.equal(torch.cat([local_images(parts[0]), local_images(parts[2])]), local_images(reference[0]))
    assert not torch.equal(local_images(loaded(augmentation, epoch=1)[0]), local_images(reference[0]))


def test_a_local_view_is_a_view_of_its_own_size_and_probabilities() -> None:
    image = noise(40, 30)
    settings = {"views": 2, "crop_scale": (0.4, 1.0)}
    shares = {"blur": (0.0, 1.0, 0.6), "solarise": (0.0, 0.0, 0.7)}
    transform = TrainTransform(with_local(Augmentation.model_validate(settings), local_size=12, **shares), 16, 3)
    assert transform.views == 5
    own = {**settings, "views": 1, "crop_scale": (0.05, 0.4), "blur": (0.6,), "solarise": (0.7,)}
    expected = TrainTransform(Augmentation.model_validate(own), 12, 3)
    for view in (2, 3, 4):
        u = draws.uniform(draws.key(view, "test"), [0], DRAWS)[0]
        assert np.array_equal(transform(image, u, 0, view), expected(image, u, 0))
    assert transform(image, u, 0, 1).shape == (3, 16, 16)


def test_pixels_of_local_views_are_normalised_and_pinned_alike() -> None:
    batch = loaded(toy.dino().augmentation)[0]
    moved = to_device(batch, "cpu", (0.3,), (0.4,))
    expected = (local_images(batch).double() / 255 - 0.3) / 0.4
    assert torch.allclose(local_images(moved).double(), expected, atol=1e-6)
    assert moved.images.shape == (8, 2, 1, 8, 8) and moved.ids.tolist() == batch.ids.tolist()
