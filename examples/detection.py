"""Detection with a feature pyramid: where is a digit, and which one?

    python -m examples.detection

trains torchvision's FCOS (Tian et al. 2019, arXiv:1904.01355) on two encoders, one pre-trained and one that has learnt
nothing yet, with the same scenes in the same order, and compares them on scenes of other digits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot
from matplotlib.patches import Rectangle
from sklearn.metrics import average_precision_score
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOS, FCOSHead
from torchvision.ops import box_iou, nms

from examples.scenes import SIDE, Result, Scenes, comparison, fit, run
from mae_lite.models.pyramid import Pyramid

CLASSES = 10
Boxes = dict[str, Tensor]
"""Of one scene: "boxes" [K, 4] and "labels" [K], and "scores" [K], highest first, where they are predicted."""


def detector(pyramid: Pyramid) -> Any:
    """Return FCOS on a pyramid; its head is the same for every pyramid."""
    torch.manual_seed(0)
    sizes = tuple((2 * stride,) for stride in pyramid.strides)  # an anchor of 1 pixel would be rounded to nothing
    return FCOS(
        pyramid,
        CLASSES,
        min_size=SIDE,
        max_size=SIDE,
        size_divisible=max(pyramid.patch_size, *pyramid.strides),
        image_mean=pyramid.transform.mean,
        image_std=pyramid.transform.std,
        anchor_generator=AnchorGenerator(sizes, ((1.0,),) * len(sizes)),  # type: ignore[no-untyped-call]
        head=FCOSHead(pyramid.out_channels, 1, CLASSES, num_convs=2),
        score_thresh=0.05,
    )


def average_precision(predicted: Sequence[Boxes], truth: Sequence[Boxes], threshold: float = 0.5) -> float:
    """Return the mean over classes of the area under precision and recall.

    A predicted box is right when its intersection over union with a box of its class, which no box of a higher score
    has taken, is at least ``threshold``.
    """
    found: list[float] = []
    for label in range(CLASSES):
        scores: list[float] = []
        right: list[bool] = []
        wanted = 0
        for guess, real in zip(predicted, truth, strict=True):
            boxes, own = guess["boxes"][guess["labels"] == label], real["boxes"][real["labels"] == label]
            scores += guess["scores"][guess["labels"] == label].tolist()
            right += _right(box_iou(boxes, own), threshold)
            wanted += len(own)
        if wanted:  # scikit-learn knows only boxes that were predicted: what was missed lowers recall
            area = average_precision_score(right, scores) if any(right) else 0.0
            found.append(float(area) * sum(right) / wanted)
    return float(np.mean(found))


def _right(overlaps: Tensor, threshold: float) -> list[bool]:
    """Say of each predicted box (rows, highest score first) whether it takes a true one (columns)."""
    free, right = overlaps.clone(), []
    for row in range(len(free)):
        best = int(free[row].argmax()) if free.shape[1] else -1
        right.append(best >= 0 and float(free[row, best]) >= threshold)
        if right[-1]:
            free[:, best] = -1.0
    return right


def train_and_test(pyramid: Pyramid, train: Scenes, test: Scenes, steps: int, seed: int) -> Result:
    """Train a detector on the scenes of ``train`` and look at those of ``test``."""
    model, channels = detector(pyramid), len(pyramid.transform.mean)

    def loss_of(rows: list[int]) -> Tensor:
        images = [train.images[row].expand(channels, -1, -1) for row in rows]
        parts: dict[str, Tensor] = model(images, [truth_of(train, row) for row in rows])
        return torch.stack(list(parts.values())).sum()

    losses = fit(model, loss_of, len(train.images), steps, seed)
    with torch.no_grad():
        batches = torch.split(test.images.expand(-1, channels, -1, -1), 50)
        predicted: list[Boxes] = [boxes for batch in batches for boxes in model(list(batch))]
    truth = [truth_of(test, row) for row in range(len(test.images))]
    return Result(losses, predicted, average_precision(predicted, truth))


def truth_of(found: Scenes, row: int) -> Boxes:
    """Return the boxes of a scene as torchvision takes them."""
    return {"boxes": found.boxes[row], "labels": found.labels[row]}


def draw(out: Path, test: Scenes, results: Mapping[str, Result], count: int = 5) -> None:
    """Write a picture: scenes with their boxes, and with those that each detector finds.

    Of predictions that share most of their place, the one with the highest score is drawn, if it has 0.3 or more.
    """
    lines: dict[str, list[Boxes]] = {"truth": [truth_of(test, row) for row in range(len(test.images))]}
    lines |= {name.removeprefix("pretrained:"): result.predicted for name, result in results.items()}
    figure, axes = pyplot.subplots(len(lines), count, figsize=(1.6 * count, 1.62 * len(lines)), squeeze=False)
    for line, (name, found) in zip(axes, lines.items(), strict=True):
        line[0].set_ylabel(name)
        for axis, image, boxes in zip(line, test.images, found, strict=False):
            axis.imshow(image[0].numpy(), cmap="gray", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
            scores = boxes.get("scores", torch.ones(len(boxes["boxes"])))
            drawn = nms(boxes["boxes"], scores, 0.4)
            drawn = drawn[scores[drawn] >= 0.3]
            edges = boxes["boxes"][drawn] - 0.5  # pixel 0 is drawn from -0.5 to 0.5
            for (left, top, right, bottom), label in zip(edges.tolist(), boxes["labels"][drawn].tolist(), strict=True):
                frame = Rectangle((left, top), right - left, bottom - top, fill=False, color="#56B4E9", clip_on=True)
                axis.add_patch(frame)
                words = axis.text(left + 0.3, top + 0.3, str(label), color="#E69F00", va="top", clip_on=True)
                words.set_bbox({"facecolor": "black", "edgecolor": "none", "alpha": 0.7, "pad": 0.6})
    figure.tight_layout(pad=0.3)
    figure.savefig(out, dpi=80)
    pyplot.close(figure)


main = comparison("AP50", train_and_test, draw)

if __name__ == "__main__":
    run(main)
