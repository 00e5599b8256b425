"""Segmentation with a feature pyramid: which pixel belongs to which digit?

    python -m examples.segmentation

trains the same small decoder on two encoders, one pre-trained and one that has learnt nothing yet, with the same scenes
in the same order, and compares them on scenes of other digits. Shapes: N images, S x S pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from matplotlib import pyplot
from sklearn.metrics import jaccard_score
from torch import Tensor, nn

from examples.scenes import Result, Scenes, comparison, fit, normalised, run
from mae_lite.models.pyramid import Pyramid

CLASSES = 11


class Segmenter(nn.Module):
    """A pyramid and a decoder of one layer: all levels at the finest one's resolution, then a 1 x 1 convolution."""

    def __init__(self, pyramid: Pyramid) -> None:
        """Put a decoder, which is the same for every pyramid, on ``pyramid``."""
        super().__init__()
        self.pyramid = pyramid
        torch.manual_seed(0)
        self.decoder = nn.Conv2d(sum(pyramid.channels), CLASSES, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return scores [N, K, S, S] of images [N, C, S, S]."""
        levels = list(self.pyramid(images).values())
        finest = levels[0].shape[2:]
        together = torch.cat([nn.functional.interpolate(level, size=finest, mode="bilinear") for level in levels], 1)
        return nn.functional.interpolate(self.decoder(together), size=images.shape[2:], mode="bilinear")


def train_and_test(pyramid: Pyramid, train: Scenes, test: Scenes, steps: int, seed: int) -> Result:
    """Train a segmenter on the scenes of ``train`` and look at those of ``test``."""
    model, images = Segmenter(pyramid), normalised(train.images, pyramid)

    def loss_of(rows: list[int]) -> Tensor:
        return nn.functional.cross_entropy(model(images[rows]), train.masks[rows])

    losses = fit(model, loss_of, len(images), steps, seed)
    with torch.no_grad():
        batches = torch.split(normalised(test.images, pyramid), 50)
        predicted = torch.cat([model(batch).argmax(dim=1) for batch in batches])
    mean_iou = float(jaccard_score(test.masks.flatten(), predicted.flatten(), average="macro"))
    return Result(losses, predicted, mean_iou)


def draw(out: Path, test: Scenes, results: Mapping[str, Result], count: int = 6) -> None:
    """Write a picture: scenes, their truth, and what each encoder's segmenter sees in them."""
    rows = {"scene": test.images[:, 0], "truth": test.masks} | {name: each.predicted for name, each in results.items()}
    figure, axes = pyplot.subplots(len(rows), count, figsize=(1.3 * count, 1.35 * len(rows)), squeeze=False)
    colours = pyplot.get_cmap("tab10")
    palette = torch.tensor([(0.0, 0.0, 0.0), *(colours(digit)[:3] for digit in range(10))])
    for line, (name, pictures) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(name.removeprefix("pretrained:"))
        for axis, picture in zip(line, pictures, strict=False):
            axis.imshow((picture if name == "scene" else palette[picture]).numpy(), cmap="gray", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
    for digit in range(10):
        axes[-1][0].plot([], [], "s", color=colours(digit), label=str(digit))
    figure.legend(loc="lower center", ncols=10, frameon=False, handletextpad=0)
    figure.tight_layout(rect=(0, 0.06, 1, 1), pad=0.3)
    figure.savefig(out, dpi=80)
    pyplot.close(figure)


main = comparison("mean IoU", train_and_test, draw)

if __name__ == "__main__":
    run(main)
