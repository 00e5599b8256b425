"""The feature pyramid: maps of the right sizes from every kind of model, what they are made of, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

import mae_lite
from mae_lite import config, shipped, training
from mae_lite.errors import CheckpointError, ConfigError, MaeLiteError
from mae_lite.models.pyramid import Pyramid, oddity
from mae_lite.models.vit import build_encoder
from mae_lite.rundir import checkpoints
from tests import toy

DIGITS = "pretrained:digits-mae"
RECIPES: dict[str, Callable[[], config.Recipe]] = {
    "mae": toy.mae,
    "mean": toy.classifier,
    "relative": lambda: toy.classifier(method={"relative_positions": True}),
    "swin": toy.simmim_swin,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return what trains each run once."""
    folder = tmp_path_factory.mktemp("runs")

    def trained(name: str) -> Path:
        if not (folder / name).exists():
            training.run(RECIPES[name](), toy.runtime(folder / name))
        return folder / name

    return trained


def batch(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def small(patch: int, **more: Any) -> Pyramid:
    """Return a pyramid of random weights on an encoder for 2 x 2 patches."""
    size = config.Encoder(image_size=2 * patch, patch_size=patch, channels=2, width=8, depth=1, num_heads=2)
    return Pyramid(build_encoder(size, seed=0), 6, **more).eval()


@pytest.mark.parametrize(
    ("patch", "scales", "strides"),
    [
        (16, None, (4, 8, 16, 32)),
        (4, None, (1, 2, 4, 8)),
        (2, None, (1, 2, 4)),
        (14, None, (7, 14, 28)),
        (16, (2, 0.5), (8, 32)),
    ],
)
def test_levels_have_the_sizes_that_the_strides_say(
    patch: int, scales: tuple[float, ...] | None, strides: tuple[int, ...]
) -> None:
    pyramid = small(patch, scales=scales)
    assert pyramid.strides == strides and pyramid.channels == (6,) * len(strides) and pyramid.out_channels == 6
    for down, across in ((2, 2), (4, 6), (3, 1)):  # grids; an odd one does not lose its last row
        levels = pyramid(batch(3, 2, down * patch, across * patch))
        assert list(levels) == [str(number) for number in range(len(strides))]
        sizes = [(-(-down * patch // stride), -(-across * patch // stride)) for stride in strides]
        assert [tuple(level.shape) for level in levels.values()] == [(3, 6, *size) for size in sizes]


def channel_norm(values: Tensor, norm: Any) -> Tensor:
    mean, variance = values.mean(dim=1, keepdim=True), values.var(dim=1, keepdim=True, correction=0)
    scaled = (values - mean) / (variance + norm.eps).sqrt()
    shifted: Tensor = scaled * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)
    return shifted


@torch.no_grad()
def test_levels_are_those_of_the_paper() -> None:
    """Written out from appendix A.2: 1 x 1 and 3 x 3 convolutions, each with a norm over channels."""
    pyramid = small(4)
    for parameter in pyramid.levels.parameters():
        parameter.add_(0.1 * batch(*parameter.shape))
    images = batch(2, 2, 16, 24)
    last = pyramid.last_map(images)
    layers: list[Any] = [list(level.children()) for level in pyramid.levels]
    four, two, _, half = layers
    hidden = functional.conv_transpose2d(last, four[0].weight, four[0].bias, stride=2)
    hidden = functional.gelu(channel_norm(hidden, four[1]))
    entering = (
        functional.conv_transpose2d(hidden, four[3].weight, four[3].bias, stride=2),
        functional.conv_transpose2d(last, two[0].weight, two[0].bias, stride=2),
        last,
        last.reshape(2, 8, 2, 2, 3, 2).amax(dim=(3, 5)),
    )
    assert len(half) == 5 and [len(values[0]) for values in entering] == [2, 4, 8, 8]
    for values, level, found in zip(entering, layers, pyramid(images).values(), strict=True):
        reduce, first, smooth, second = level[-4:]
        wanted = channel_norm(functional.conv2d(values, reduce.weight), first)
        wanted = channel_norm(functional.conv2d(wanted, smooth.weight, padding=1), second)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_map_is_the_encoders_and_positions_follow_the_size() -> None:
    pyramid, encoder = mae_lite.load_pyramid(DIGITS, channels=8), mae_lite.load_encoder(DIGITS)
    folder = f"local-dir:{shipped.resolved(DIGITS)}"
    for height, width in ((8, 8), (12, 8), (32, 20)):
        images = batch(2, 1, height, width)
        model: Any = timm.create_model(folder, pretrained=True, dynamic_img_size=True).eval()
        tokens = model.forward_features(images)[:, 1:]
        if height == width == 8:
            assert torch.equal(tokens, encoder.forward_features(images)[:, 1:])
        assert torch.equal(pyramid.last_map(images).flatten(2).transpose(1, 2), tokens)
    assert pyramid.transform.mean == (0.305,) and pyramid.transform.std == (0.376,)


def test_every_kind_of_source_gives_the_same(run: Callable[[str], Path], tmp_path: Path) -> None:
    folder, images = run("mae"), batch(2, 1, 12, 20)
    mae_lite.export(folder, out=tmp_path / "out", to=("timm",))
    (newest, *_) = checkpoints(folder)
    found = [
        mae_lite.load_pyramid(place, channels=8, heads=heads, freeze=True)(images)
        for place, heads in (
            (folder, None),
            (str(folder / "encoder"), None),
            (tmp_path / "out" / "timm", None),
            (newest[1] / "model.safetensors", 2),
        )
    ]
    for levels in found[1:]:
        for name, level in levels.items():
            torch.testing.assert_close(level, found[0][name])
    classifier = mae_lite.load_pyramid(run("mean"), channels=8)
    assert {level.shape[1] for level in classifier(images).values()} == {8}


def test_the_seed_decides_the_levels_and_nothing_else() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, same, other = (small(4, seed=seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(value, same[name]) for name, value in first.items())
    differing = {name for name, value in first.items() if not torch.equal(value, other[name])}
    assert differing and all(name.startswith("levels.") for name in differing)


@pytest.mark.parametrize("freeze", [True, False])
def test_a_frozen_encoder_stays(freeze: bool) -> None:
    pyramid = mae_lite.load_pyramid(DIGITS, channels=4, freeze=freeze)
    assert not pyramid.training
    pyramid.train()
    assert pyramid.training and pyramid.levels.training and pyramid.encoder.training is not freeze
    sum(level.square().sum() for level in pyramid(batch(2, 1, 8, 8)).values()).backward()
    for name, parameter in pyramid.named_parameters():
        moves = name.startswith("levels.") or (not freeze and name != "encoder.head")
        assert (parameter.grad is not None) is moves, name


def test_torchvision_takes_it() -> None:
    pyramid = mae_lite.load_pyramid(DIGITS, channels=8)
    sizes = tuple((4 * stride,) for stride in pyramid.strides)
    anchors: Any = AnchorGenerator(sizes, ((1.0,),) * len(sizes))  # type: ignore[no-untyped-call]
    detector: Any = FasterRCNN(  # type: ignore[no-untyped-call]
        pyramid,
        num_classes=3,
        rpn_anchor_generator=anchors,
        box_roi_pool=MultiScaleRoIAlign(["0", "1", "2"], output_size=3, sampling_ratio=2),
        **{"min_size": 32, "max_size": 32, "image_mean": [0.3], "image_std": [0.4], "box_detections_per_img": 5},
    )
    truth = {"boxes": torch.tensor([[4.0, 4.0, 12.0, 14.0]]), "labels": torch.tensor([1])}
    losses = detector.train()([batch(1, 32, 32)], [truth])
    assert len(losses) == 4 and all(bool(loss.isfinite()) for loss in losses.values())
    sum(losses.values()).backward()
    assert pyramid.encoder.patch_embed.proj.weight.grad.abs().sum() > 0
    (found,) = detector.eval()([batch(1, 32, 32)])
    assert found["boxes"].shape[1] == 4 and len(found["scores"]) <= 5


def refused(kind: type[MaeLiteError], call: Callable[[], object], *mentions: str) -> None:
    with pytest.raises(kind) as caught:
        call()
    text = str(caught.value)
    assert all(mention in text for mention in mentions) and "\nFix: " in text, text


def test_images_that_do_not_fit_are_refused() -> None:
    pyramid = mae_lite.load_pyramid(DIGITS, channels=4)
    refused(ConfigError, lambda: pyramid(batch(1, 1, 9, 16)), "9 x 16", "multiples of the patch, 2", "to 10 x 16")
    refused(ConfigError, lambda: pyramid(batch(1, 1, 8, 5)), "8 x 5", "to 8 x 6")
    refused(ConfigError, lambda: pyramid(batch(1, 1, 0, 16)), "0 x 16", "to 2 x 16")
    refused(ConfigError, lambda: pyramid(batch(1, 3, 8, 8)), "[1, 3, 8, 8]", "[B, 1, H, W]")
    refused(ConfigError, lambda: pyramid(batch(1, 8, 8)), "[1, 8, 8]", "unsqueeze(0)")


def test_settings_that_cannot_be_are_refused() -> None:
    refused(ConfigError, lambda: mae_lite.load_pyramid(DIGITS, channels=0), "channels", "found 0")
    for scales in ((4, 1), (1, 2), (1, 1), (), (3,)):
        refused(ConfigError, partial(mae_lite.load_pyramid, DIGITS, scales=scales), str(scales), "(2.0, 1.0, 0.5)")


def test_models_without_a_map_are_refused(run: Callable[[str], Path], tmp_path: Path) -> None:
    for name, word in (("swin", "SwinTransformer"), ("relative", "relative positions")):
        refused(CheckpointError, partial(mae_lite.load_pyramid, run(name)), str(run(name)), word)
    refused(CheckpointError, lambda: mae_lite.load_pyramid(run("relative") / "classifier"), "Beit")
    refused(CheckpointError, lambda: mae_lite.load_pyramid("pretrained:digit-mae"), "nearest: 'digits-mae'")
    refused(CheckpointError, lambda: mae_lite.load_pyramid(tmp_path / "nothing"), "nothing")
    oblong = timm.create_model("vit_tiny_patch16_224", img_size=(32, 16), patch_size=(16, 8), depth=1)
    assert oddity(oblong) == "patches of 16 x 8 pixels"
