"""``mae-lite analyze``: what models have learned, layer by layer, as numbers, figures and one sentence each."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from mae_lite import config, draws, files
from mae_lite.analysis import loading, writing
from mae_lite.analysis.cka import MinibatchCKA
from mae_lite.analysis.importance import How
from mae_lite.analysis.observing import Observer
from mae_lite.data.bad_files import BadFiles
from mae_lite.data.loader import Batch, evaluation_loader, watched
from mae_lite.data.opening import open_source
from mae_lite.data.sources import Indices, Source, Split, subset
from mae_lite.data.transforms import EvalTransform
from mae_lite.errors import ConfigError, DataError
from mae_lite.evaluation.online import choose

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Order:
    """What to look into, and with which images; the fields are those of the command."""

    models: tuple[str, ...]
    data: str
    out: Path
    images: int = 1000
    split: Split = "test"
    importance: Literal["skip", "reinitialise", "none"] = "skip"
    pictures: int = 8
    mask_ratios: tuple[float, ...] = (0.5, 0.75, 0.9)
    heads: int | None = None
    random: bool = False
    seed: int = 0
    batch_size: int = 64
    workers: int = 0
    on_bad: Literal["fail", "skip"] = "fail"
    reading: config.Reading = config.Reading()  # noqa: RUF009  # it is frozen

    @property
    def how(self) -> How | None:
        """What is done to one block at a time; None for nothing."""
        return None if self.importance == "none" else self.importance


def analyze(order: Order) -> dict[str, Any]:
    """Look into every model, compare each with itself and the first with each of the others, and write it all down.

    Args:
        order: says which and how.

    Returns:
        What ``analysis.json`` says: models, images, and a sentence for every figure.

    Raises:
        ConfigError: for settings that nothing reads.
        CheckpointError: for a model that cannot be read or is no plain Vision Transformer.
        DataError: for images that are missing or unreadable, or have no labels where they are needed.
    """
    if order.random and not any(name.startswith("timm:") for name in order.models):
        raise ConfigError("--random", found="no model of timm", expected="timm:NAME", fix="drop --random")
    models = [loading.load(name, heads=order.heads, random=order.random, seed=order.seed) for name in order.models]
    source = open_source(order.data, order.split)
    source = subset(source, _chosen(source, order))
    _log.info("looking at %s images of %s with %d models", f"{len(source):,}", order.data, len(models))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    asked = (order.pictures, order.how, order.seed, order.mask_ratios)
    observers = [Observer(model, device, *asked) for model in models]
    pairs = [(number, number) for number in range(len(models))] + [(0, number) for number in range(1, len(models))]
    sums = {pair: MinibatchCKA() for pair in pairs}
    labels: list[Indices] = []
    for batches in _together(models, source, order):
        grams = [observer.add(batch) for observer, batch in zip(observers, batches, strict=True)]
        for (one, other), cka in sums.items():
            cka.add(grams[one], grams[other])
        labels.append(batches[0].labels.numpy())
    if not labels:
        raise DataError(f"{order.data!r} has no readable image", fix="give other images")
    matrices = {pair: cka.matrix() for pair, cka in sums.items()}
    about = {"data": order.data, "split": source.split, "batch_size": order.batch_size, "seed": order.seed}
    contents = writing.contents(observers, matrices, np.concatenate(labels), order.how, about)
    files.make_folder(order.out)
    for name, data in contents.files.items():
        files.write_bytes(order.out / name, data)
    files.write_json(order.out / "analysis.json", contents.summary)
    return contents.summary


def _chosen(source: Source, order: Order) -> Indices:
    """Return the images to look at, by seed: of each class as many where nearest neighbours are to be asked."""
    if order.how is None:
        return np.sort(draws.permutation(draws.key(order.seed, "analysis"), len(source))[: order.images])
    chosen = choose(source.labels, order.images, order.seed)
    if chosen.reason:
        raise DataError(
            f"{order.data!r} cannot say how much each block matters",
            found=chosen.reason,
            expected="labelled images, two classes at least and two images of each",
            fix="give labelled images, or leave that out: --importance none",
        )
    return np.sort(np.concatenate([chosen.bank, chosen.queries]))


def _together(models: list[loading.Analysed], source: Source, order: Order) -> Iterator[tuple[Batch, ...]]:
    """Yield for each batch of images what each model is to see of it; models that want the same read it once."""
    wanted = [(model.side_px, model.channels, model.augmentation.eval_crop) for model in models]
    augmentations = dict(zip(wanted, (model.augmentation for model in models), strict=True))
    loaders = [_loader(source, key[0], key[1], augmentation, order) for key, augmentation in augmentations.items()]
    places = {key: place for place, key in enumerate(augmentations)}
    for batches in zip(*loaders, strict=True):
        if any(batch.ids.tolist() != batches[0].ids.tolist() for batch in batches):
            raise DataError(
                f"an image of {order.data!r} can be read for one model and not for another",
                fix="run mae-lite check DATA to list the bad ones, then replace or remove them",
            )
        yield tuple(batches[places[key]] for key in wanted)


def _loader(
    source: Source, side: int, channels: int, augmentation: config.Augmentation, order: Order
) -> Iterable[Batch]:
    loader = evaluation_loader(
        source,
        EvalTransform(augmentation, side, channels),
        batch_size=order.batch_size,
        channels=channels,
        reading=order.reading,
        workers=order.workers,
    )
    return watched(loader, BadFiles(order.split, len(source), order.on_bad, path=None))


def as_text(summary: dict[str, Any]) -> str:
    """Return the sentences, and where the figures are."""
    lines = [f"{summary['images']:,} images of {summary['data']}"]
    for name, sentences in summary["figures"].items():
        lines += [f"{name}", *(f"  {sentence}" for sentence in sentences)]
    lines += summary["not_shown"]
    return "\n".join(lines)
