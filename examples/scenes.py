"""What both examples share: scenes of digits on photographs, an encoder that learnt nothing yet, and the training.

A scene is a grey cut-out of a photograph with one to three digits on it, each 8 to 10 pixels high, at random places and
of random brightness. Training scenes are made of the training digits and the left halves of two photographs, test
scenes of the test digits and the right halves, so nothing of a test scene was seen before. All images come with
scikit-learn.

Shapes: N scenes, S = 24 their side in pixels, K digits of a scene.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import tyro
from sklearn.datasets import load_sample_image
from torch import Tensor, nn

import mae_lite
from mae_lite.errors import ConfigError, MaeLiteError
from mae_lite.models import sizes
from mae_lite.models.encoders import build_encoder
from mae_lite.models.pyramid import Pyramid

SIDE, BATCH, CHANNELS = 24, 8, 64
_TEST_SCENES = 100
_PHOTOGRAPHS = ("china.jpg", "flower.jpg")
_INK = 0.4
"""Share of ink from which on a pixel belongs to a digit."""


@dataclass(frozen=True)
class Scenes:
    """Images and their truth."""

    images: Tensor
    """[N, 1, S, S] float32 from 0 to 1."""
    masks: Tensor
    """[N, S, S] int64: 0 for the background, 1 + d for a pixel of digit d."""
    boxes: list[Tensor]
    """[K, 4] float32 each: left, top, right, bottom of the pixels of each digit."""
    labels: list[Tensor]
    """[K] int64 each: the digits."""


@dataclass(frozen=True)
class Result:
    """What one encoder came to."""

    losses: list[float]
    """Of each update."""
    predicted: Any
    """Of the test scenes."""
    score: float
    """From 0 to 1, of these."""


TrainAndTest = Callable[[Pyramid, Scenes, Scenes, int, int], Result]
"""Trains on the first scenes, for so many updates and with a seed, and looks at the second."""
Draw = Callable[[Path, Scenes, Mapping[str, Result]], None]
"""Writes a picture of test scenes, their truth, and each encoder's predictions."""


def scenes(split: Literal["train", "test"], count: int, seed: int) -> Scenes:
    """Make ``count`` scenes; the same ones for the same seed."""
    rng = np.random.default_rng([seed, len(split)])
    digits = mae_lite.open_source("digits", split)
    backgrounds = _backgrounds(split)
    images = np.empty((count, SIDE, SIDE), dtype=np.float32)
    masks = np.zeros((count, SIDE, SIDE), dtype=np.int64)
    boxes: list[Tensor] = []
    labels: list[Tensor] = []
    for number in range(count):
        images[number] = 0.6 * _cut_out(rng, backgrounds[number % len(backgrounds)])
        placed = []
        for place in _places(rng, int(rng.integers(1, 4))):
            index = int(rng.integers(0, len(digits)))
            label = int(digits.labels[index])
            box = _draw(images[number], masks[number], digits.example(index).data, label, place, rng.uniform(0.7, 1.0))
            placed.append((box, label))
        boxes.append(torch.tensor([box for box, _ in placed], dtype=torch.float32))
        labels.append(torch.tensor([label for _, label in placed]))
    return Scenes(torch.from_numpy(images).unsqueeze(1), torch.from_numpy(masks), boxes, labels)


def _backgrounds(split: str) -> list[npt.NDArray[np.float32]]:
    """Return the halves of the photographs that belong to ``split``, grey from 0 to 1, at half the resolution."""
    photographs = [load_sample_image(name)[::2, ::2].mean(axis=2) / 255 for name in _PHOTOGRAPHS]
    return [np.hsplit(each, 2)[0 if split == "train" else 1].astype(np.float32) for each in photographs]


def _cut_out(rng: np.random.Generator, photograph: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the most varied of five random squares [S, S]: much of a photograph is sky."""
    corners = [tuple(int(rng.integers(0, length - SIDE)) for length in photograph.shape) for _ in range(5)]
    return max((photograph[top : top + SIDE, left : left + SIDE] for top, left in corners), key=np.std)


def _places(rng: np.random.Generator, wanted: int) -> list[tuple[int, int, int]]:
    """Return top, left and side of squares that do not overlap: as many as wanted, if a hundred tries find room."""
    found: list[tuple[int, int, int]] = []
    for _ in range(100):
        side = int(rng.integers(8, 11))
        top, left = (int(rng.integers(0, SIDE - side + 1)) for _ in range(2))
        free = all(top + side <= t or t + s <= top or left + side <= x or x + s <= left for t, x, s in found)
        if free and len(found) < wanted:
            found.append((top, left, side))
    return found


def _draw(
    image: npt.NDArray[np.float32],
    mask: npt.NDArray[np.int64],
    digit: Any,
    label: int,
    place: tuple[int, int, int],
    brightness: float,
) -> tuple[int, int, int, int]:
    """Draw a digit into a scene and its mask; return its box."""
    top, left, side = place
    small = torch.from_numpy(np.asarray(digit, dtype=np.float32) / 255)[None, None]
    ink = nn.functional.interpolate(small, size=(side, side), mode="bilinear")[0, 0].numpy()
    window = (slice(top, top + side), slice(left, left + side))
    image[window] = (1 - ink) * image[window] + ink * brightness
    mask[window][ink >= _INK] = 1 + label
    rows, columns = np.nonzero(ink >= _INK)
    edges = (left + columns.min(), top + rows.min(), left + columns.max() + 1, top + rows.max() + 1)
    return tuple(map(int, edges))  # type: ignore[return-value]


def pyramids(model: str, channels: int, *, freeze: bool, seed: int) -> dict[str, Pyramid]:
    """Return the pyramid of ``model`` and one that differs in its encoder alone, which starts as pre-training does."""
    trained, random = (mae_lite.load_pyramid(model, channels=channels, freeze=freeze, seed=seed) for _ in range(2))
    state: Any = random.encoder.state_dict()
    heads = random.encoder.blocks[0].attn.num_heads
    size = sizes.encoder_size({f"encoder.{name}": value for name, value in state.items()}, heads, model)
    random.encoder.load_state_dict({**state, **build_encoder(size, seed).state_dict()})
    return {"random": random, model: trained}


def normalised(images: Tensor, pyramid: Pyramid) -> Tensor:
    """Return scenes as the encoder has seen its images: with its channels, mean and deviation."""
    mean, std = (torch.tensor(value).view(-1, 1, 1) for value in (pyramid.transform.mean, pyramid.transform.std))
    return (images - mean) / std


def fit(model: nn.Module, loss_of: Callable[[list[int]], Tensor], count: int, steps: int, seed: int) -> list[float]:
    """Train what is not frozen, ``BATCH`` of ``count`` scenes at a time; return the loss of each step.

    AdamW, the rate of learning rising to 1e-3 and falling to zero. The seed alone decides which scenes come when.
    """
    rng, losses = np.random.default_rng(seed), []
    trained = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.05)
    length = max(steps, 20)  # the rise takes a tenth of it, and needs two steps
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=length, pct_start=0.1)
    model.train()
    for _ in range(steps):
        loss = loss_of(rng.choice(count, min(BATCH, count), replace=False).tolist())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    model.eval()
    return losses


def comparison(measure: str, train_and_test: TrainAndTest, draw: Draw) -> Callable[..., dict[str, Result]]:
    """Return an example's command; ``measure`` names its score."""

    def main(
        model: str = "pretrained:digits-mae",
        steps: int = 400,
        images: int = 1000,
        seed: int = 0,
        freeze: bool = False,
        out: Path | None = None,
    ) -> dict[str, Result]:
        """Compare a pre-trained encoder with a random one on scenes of digits.

        Args:
            model: a run folder, an export, a file or pretrained:NAME.
            steps: updates, of 8 scenes each.
            images: training scenes.
            seed: decides scenes, order and initial values.
            freeze: train the pyramid and what stands on it alone.
            out: where to write a picture of predictions beside the truth.
        """
        for name, number in (("steps", steps), ("images", images)):
            if number < 1:
                raise ConfigError(f"--{name}", found=str(number), expected="1 or more", fix=f"drop --{name}")
        train, test = scenes("train", images, seed), scenes("test", _TEST_SCENES, seed)
        results: dict[str, Result] = {}
        print(f"{'encoder':<24}{measure:>9}{'loss':>7}{'CPU s':>8}", flush=True)
        for name, pyramid in pyramids(model, CHANNELS, freeze=freeze, seed=seed).items():
            start = time.process_time()
            found = results[name] = train_and_test(pyramid, train, test, steps, seed)
            took = time.process_time() - start
            print(f"{name:<24}{found.score:9.3f}{found.losses[-1]:7.3f}{took:8.0f}", flush=True)
        if out is not None:
            draw(out, test, results)
        return results

    return main


def run(main: Callable[..., object]) -> None:
    """Run an example from the command line; an error that says what to do ends it without a traceback."""
    try:
        tyro.cli(main)
    except MaeLiteError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
