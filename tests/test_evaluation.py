"""Accuracy against scikit-learn, and models that come back from finished runs."""

from __future__ import annotations

import io
import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, top_k_accuracy_score
from timm.data.config import resolve_data_config
from torch import Tensor, nn

from mae_lite import costs, training
from mae_lite.config import IMAGENET_MEAN, IMAGENET_STD
from mae_lite.data.loader import Batch, to_device
from mae_lite.data.opening import open_source
from mae_lite.errors import CheckpointError, ConfigError, DataError
from mae_lite.evaluation.accuracy import Accuracy, measure
from mae_lite.evaluation.classifier import as_text, evaluate_run
from mae_lite.evaluation.load import load_run
from mae_lite.evaluation.preview import reconstruction_png
from mae_lite.methods import build
from mae_lite.methods.mae import MaskedAutoencoder, patchify
from mae_lite.predicting.models import load_encoder
from mae_lite.probing import pictured
from tests import toy

CPU = torch.device("cpu")


class Replay(nn.Module):
    """A classifier that returns given scores, one row after the other."""

    def __init__(self, scores: Tensor) -> None:
        """Start at the first row."""
        super().__init__()
        self.scores, self.next = scores, 0
        self.modes: set[bool] = set()

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores of the next images."""
        self.modes.add(self.training)
        self.next += len(images)
        return self.scores[self.next - len(images) : self.next]


def measured(scores: Tensor, labels: Tensor, batch_size: int = 32) -> Accuracy:
    numbers = torch.arange(len(labels))
    batches = [
        Batch(torch.zeros(len(rows), 1, 2, 2, dtype=torch.uint8), labels[rows], rows)
        for rows in (numbers[start : start + batch_size] for start in range(0, len(labels), batch_size))
    ]
    return measure(Replay(scores), batches, scores.shape[1], device=CPU, mean=(0.0,), std=(1.0,))


@pytest.mark.parametrize("batch_size", [1, 32, 1000])
def test_accuracy_is_scikit_learns(batch_size: int) -> None:
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(9, (333,), generator=random)
    scores = torch.randn(333, 9, generator=random) + 1.5 * nn.functional.one_hot(labels, 9)
    ours, predictions = measured(scores, labels, batch_size), scores.argmax(dim=1)
    assert ours.images == 333
    assert ours.top1 == accuracy_score(labels, predictions)
    assert ours.macro == pytest.approx(balanced_accuracy_score(labels, predictions), rel=1e-12)
    assert ours.top5 == top_k_accuracy_score(labels, scores.numpy(), k=5, labels=range(9))
    assert np.array_equal(ours.confusion, confusion_matrix(labels, predictions, labels=range(9)))
    for name, share in enumerate(ours.per_class):
        assert share == pytest.approx((predictions[labels == name] == name).double().mean().item())
    assert 0.3 < ours.top1 < (ours.top5 or 0) < 1


def test_absent_classes() -> None:
    random = torch.Generator().manual_seed(1)
    labels = torch.tensor([0, 2, 5])[torch.randint(3, (100,), generator=random)]
    scores = torch.randn(100, 7, generator=random) + 2 * nn.functional.one_hot(labels, 7)
    ours, predictions = measured(scores, labels), scores.argmax(dim=1)
    assert [share is None for share in ours.per_class] == [False, True, False, True, True, False, True]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn minds predictions of absent classes
        assert ours.macro == pytest.approx(balanced_accuracy_score(labels, predictions))
    assert np.array_equal(ours.confusion, confusion_matrix(labels, predictions, labels=range(7)))


@pytest.mark.parametrize(
    ("classes", "has_top5", "rows"), [(5, False, 5), (6, True, 6), (100, True, 100), (101, True, 0)]
)
def test_what_is_reported_by_number_of_classes(classes: int, has_top5: bool, rows: int) -> None:
    ours = measured(torch.eye(classes), torch.arange(classes))
    assert (ours.top1, ours.macro) == (1.0, 1.0)
    assert (ours.top5 is not None) == has_top5
    assert len(ours.confusion) == rows


@pytest.mark.parametrize("classes", [2, 8])
@pytest.mark.parametrize("value", [0.0, math.nan, math.inf, -math.inf])
def test_equal_scores_and_nan_are_no_hits(value: float, classes: int) -> None:
    labels = torch.arange(classes).repeat(3)
    ours = measured(torch.full((len(labels), classes), value), labels)
    assert (ours.top1, ours.macro, ours.top5) == (0.0, 0.0, 0.0 if classes > 5 else None)
    assert np.trace(np.array(ours.confusion)) == 0
    assert ours.images == len(labels)


def test_one_nan_spoils_its_row_alone() -> None:
    scores = torch.eye(8)
    scores[2, 7] = math.nan  # another class's score
    scores[3, 3] = math.nan  # the label's own
    scores[4, 5] = 1.0  # a tie
    ours = measured(scores, torch.arange(8))
    assert [share == 1.0 for share in ours.per_class] == [True, True, False, False, False, True, True, True]
    assert ours.confusion[4][5] == 1
    assert ours.top5 == 6 / 8  # a tie for the first place is still among the five, NaN is not


def test_five_better_scores_or_ties_push_the_label_out() -> None:
    scores = torch.tensor([[5.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0], [5.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0]])
    assert measured(scores, torch.tensor([4, 4])).top5 == 1 / 2


@pytest.mark.parametrize("training_mode", [True, False])
def test_the_model_is_put_back_into_its_mode(training_mode: bool) -> None:
    model = Replay(torch.eye(4)).train(training_mode)
    batch = Batch(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.arange(4), torch.arange(4))
    measure(model, [batch], 4, device=CPU, mean=(0.0,), std=(1.0,))
    assert model.modes == {False}
    assert model.training == training_mode


def test_images_are_normalised() -> None:
    seen: list[Tensor] = []

    class Watch(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(images)
            return torch.eye(2)

    pixels = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).repeat(1, 3, 2, 2)
    batch = Batch(pixels, torch.arange(2), torch.arange(2))
    measure(Watch(), [batch], 2, device=CPU, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    expected = [[(value - m) / s for m, s in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)] for value in (0, 1)]
    assert torch.allclose(seen[0][:, :, 0, 0], torch.tensor(expected), atol=1e-6)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Finish one run of each kind."""
    root = tmp_path_factory.mktemp("runs")
    recipes = {
        "classifier": toy.classifier(lr_per_256=0.2),
        "average": toy.classifier(lr_per_256=0.2, ema_decay=0.5),
        "mae": toy.mae(),
    }
    for name, recipe in recipes.items():
        outcome = training.run(recipe, toy.runtime(root / name, save_every_steps=1))
        assert outcome.state == "finished"
    return {name: root / name for name in recipes}


def digits() -> tuple[Tensor, Tensor]:
    """Return the test digits as the recipes normalise them, [B, 1, 8, 8], and their labels."""
    source, augmentation = open_source("digits", "test"), toy.classifier().augmentation
    pixels = torch.stack([torch.from_numpy(np.array(toy.picture(source, i, 1))) for i in range(len(source))]).unsqueeze(
        1
    )
    return (pixels / 255 - augmentation.mean[0]) / augmentation.std[0], torch.from_numpy(source.labels)


def stored(run: Path, step: int, file: str = "model") -> dict[str, Tensor]:
    return load_file(run / "checkpoints" / f"step_{step}" / f"{file}.safetensors")


def test_evaluate_run(finished: dict[str, Path]) -> None:
    run = finished["classifier"]
    results = [evaluate_run(run, batch_size=size) for size in (7, 256)]
    assert results[0] == results[1]
    result = results[0]
    images, labels = digits()
    with torch.no_grad():
        predictions = load_encoder(run)(images).argmax(dim=1)
    assert (result["images"], result["step"], result["split"]) == (len(labels), 6, "test")
    assert result["top1"] == accuracy_score(labels, predictions)
    assert result["macro"] == pytest.approx(balanced_accuracy_score(labels, predictions))
    assert np.array_equal(result["confusion"], confusion_matrix(labels, predictions, labels=range(10)))
    assert list(result["per_class"]) == [str(digit) for digit in range(10)]
    files = list((run / "eval").glob("*.json"))
    assert [file.name[:5] for file in files] == ["test-"]
    written = json.loads(files[0].read_text())
    assert written["fingerprint"]["count"] == len(labels)
    for name in ("top1", "top5", "macro", "per_class", "images", "step", "split"):
        assert written[name] == result[name]
    assert f"top-1          {100 * result['top1']:5.1f} %" in as_text(result)
    assert evaluate_run(run, split="train")["images"] == 1797 - len(labels)
    assert len(list((run / "eval").glob("*.json"))) == 2


def test_evaluate_refuses_what_it_cannot_measure(finished: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pre-training run"):
        evaluate_run(finished["mae"])
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / "images" / name / "0.png")
    with pytest.raises(DataError, match="classes"):
        evaluate_run(finished["classifier"], str(tmp_path / "images"))
    with pytest.raises(CheckpointError):
        evaluate_run(tmp_path / "nothing")


@pytest.mark.parametrize("kind", ["classifier", "average"])
def test_timm_folder_of_a_classifier(finished: dict[str, Path], kind: str) -> None:
    folder, images = finished[kind] / "classifier", digits()[0]
    model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.no_grad():
        assert torch.equal(model(images), load_encoder(finished[kind])(images))
    settings = json.loads((folder / "config.json").read_text())
    assert settings["label_names"] == [str(digit) for digit in range(10)]
    assert (settings["num_classes"], settings["global_pool"]) == (10, "avg")
    assert settings["model_args"]["num_heads"] == model.blocks[0].attn.num_heads == 2
    prepared = settings["pretrained_cfg"]
    assert (prepared["mean"], prepared["std"], prepared["crop_pct"]) == ([0.305], [0.376], 1.0)
    assert prepared["input_size"] == [1, 8, 8]
    resolved: Any = resolve_data_config({}, model=model)
    assert (tuple(resolved["mean"]), tuple(resolved["std"]), resolved["input_size"]) == ((0.305,), (0.376,), (1, 8, 8))
    with torch.no_grad():
        features = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()(images)
    assert features.shape == (len(images), 16)


def test_encoder_of_a_mae_run(finished: dict[str, Path]) -> None:
    run, images = finished["mae"], digits()[0]
    encoder: Any = load_encoder(run)
    assert not encoder.training
    weights = stored(run, 6)
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, weights[f"encoder.{name}"]), name
    assert sum(parameter.numel() for parameter in encoder.parameters()) == costs.encoder_parameters(toy.mae().encoder)
    model: Any = timm.create_model(f"local-dir:{run / 'encoder'}", pretrained=True).eval()
    with torch.no_grad():
        assert torch.equal(model.forward_features(images), encoder.forward_features(images))
        assert torch.equal(model(images), encoder(images))
        assert encoder(images).shape == (len(images), 16)
    assert "label_names" not in json.loads((run / "encoder" / "config.json").read_text())


def test_loading_a_run_that_has_not_begun(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"recipe\.json"):
        load_run(tmp_path)


def test_the_moving_average_is_one_and_is_what_counts(finished: dict[str, Path]) -> None:
    run = finished["average"]
    now, before = stored(run, 6, "ema"), stored(run, 5, "ema")
    weights = stored(run, 6)
    loaded = load_run(run)
    differs = 0
    for name, value in loaded.model.state_dict().items():
        average, plain = now[f"module.encoder.{name}"], weights[f"encoder.{name}"]
        assert torch.allclose(average, 0.5 * before[f"module.encoder.{name}"] + 0.5 * plain, atol=1e-7), name
        assert torch.equal(value, average), name
        differs += not torch.equal(value, plain)
    assert differs > 10
    images, labels = digits()
    with torch.no_grad():
        predictions = loaded.model(images).argmax(dim=1)
    assert evaluate_run(run)["top1"] == accuracy_score(labels, predictions)


Sheet = npt.NDArray[np.uint8]


def cut(png: bytes, side: int, zoom: int, columns: int) -> Sheet:
    """Return the cells of a preview at their original size, [3, columns, side, side, ...]."""
    sheet, cell = np.asarray(Image.open(io.BytesIO(png))), side * zoom + 2
    assert sheet.shape[:2] == (3 * cell, columns * cell)
    rows = []
    for y in range(3):
        large = [sheet[y * cell : (y + 1) * cell, x * cell : (x + 1) * cell] for x in range(columns)]
        assert all((part[-2:] == 255).all() and (part[:, -2:] == 255).all() for part in large)  # the gap is white
        small = [part[: side * zoom : zoom, : side * zoom : zoom] for part in large]
        for part, image in zip(large, small, strict=True):
            assert np.array_equal(part[:-2, :-2], image.repeat(zoom, axis=0).repeat(zoom, axis=1))
        rows.append(np.stack(small))
    return np.stack(rows)


def visible_pixels(method: MaskedAutoencoder, seed: int, images: int, side: int) -> npt.NDArray[np.bool_]:
    """Return [images, side, side], True in visible patches."""
    noise = method.draw(seed, 0, range(images))["noise"].numpy()
    visible, size = np.zeros((images, side, side), dtype=bool), method.patch_size
    for image, row in enumerate(noise):
        for patch in np.argsort(row, kind="stable")[: method.kept]:
            top, left = patch // (side // size) * size, patch % (side // size) * size
            visible[image, top : top + size, left : left + size] = True
    return visible


def near(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> bool:
    return bool((np.abs(first.astype(int) - second.astype(int)) <= 1).all())


def test_preview_of_a_finished_run(finished: dict[str, Path]) -> None:
    (file,) = (finished["mae"] / "previews").iterdir()
    assert file.name == "step_6.png"
    original, seen, painted = cut(file.read_bytes(), side=8, zoom=8, columns=8)
    source, recipe = open_source("digits"), toy.mae()
    shown = pictured(len(source), recipe.seed).tolist()
    pixels = np.stack([np.asarray(toy.picture(source, index, 1)) for index in shown])
    method = build(recipe, 0)
    assert isinstance(method, MaskedAutoencoder)
    visible = visible_pixels(method, recipe.seed, 8, 8)
    assert visible.mean() == 0.5
    assert near(original, pixels)
    assert near(seen[visible], pixels[visible])
    assert near(painted[visible], pixels[visible])
    assert near(seen[~visible], np.full_like(seen[~visible], 128))
    assert not near(painted[~visible], pixels[~visible])


@pytest.mark.parametrize("normalize", [True, False])
def test_preview_shows_the_prediction_in_colour(normalize: bool) -> None:
    recipe = toy.mae(
        encoder={"image_size": 16, "channels": 3},
        augmentation={"mean": IMAGENET_MEAN, "std": IMAGENET_STD},
        method={"normalize_target": normalize},
    )
    method = build(recipe, 0)
    assert isinstance(method, MaskedAutoencoder)
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (3, 3, 16, 16), generator=random, dtype=torch.uint8)
    batch = Batch(pixels, torch.full((3,), -1), torch.arange(3))
    images = to_device(batch, CPU, IMAGENET_MEAN, IMAGENET_STD).images
    answer = method.target(patchify(images, 4))

    class Oracle(nn.Module):
        def forward(self, *_: Tensor) -> Tensor:
            return answer

    method.decoder = Oracle()  # type: ignore[assignment]
    original, seen, painted = cut(reconstruction_png(method.train(), batch, recipe), side=16, zoom=4, columns=3)
    assert method.training
    expected = pixels.permute(0, 2, 3, 1).numpy()
    visible = visible_pixels(method, recipe.seed, 3, 16)
    assert near(original, expected)
    assert near(painted, expected)  # a decoder that knows the answer paints the original, normalised or not
    assert near(seen[visible], expected[visible])
    assert near(seen[~visible], np.full_like(seen[~visible], 128))
