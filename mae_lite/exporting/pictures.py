"""The images that exported models are compared on, and those that calibrate 8-bit ones."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mae_lite import config, draws
from mae_lite.data.bad_files import BadFiles
from mae_lite.data.loader import Batch, evaluation_loader, to_device, watched
from mae_lite.data.opening import open_source
from mae_lite.data.sources import Source, Split, subset
from mae_lite.data.splits import aligned
from mae_lite.data.transforms import EvalTransform
from mae_lite.errors import ConfigError, DataError
from mae_lite.evaluation.classifier import fingerprint_of
from mae_lite.exporting.settings import CompareSettings, ExportSettings
from mae_lite.exporting.subject import Subject

_log = logging.getLogger(__name__)
_FEWEST = 10
"""Images that calibration takes at least: the range of fewer says little of what others will be."""


@dataclass(frozen=True)
class Pictures:
    """Images as the model sees them, kept as bytes."""

    batches: tuple[Batch, ...]
    """uint8 images [B, C, H, H] and their labels."""
    augmentation: config.Augmentation
    """Says how they are normalised."""
    about: dict[str, Any]
    """What they are, for the record."""
    source: Source
    """Where they come from; the batches have positions in it."""
    unmeasured: str = ""
    """Why no accuracy can be measured on them; nothing where it can."""

    @property
    def labelled(self) -> bool:
        """Whether the labels are numbers of the model's outputs."""
        return not self.unmeasured

    @property
    def labels(self) -> Tensor:
        """Numbers of the model's outputs, [n]; -1 without labels."""
        return torch.cat([batch.labels for batch in self.batches])

    def __len__(self) -> int:
        """Return the number of images."""
        return sum(len(batch.ids) for batch in self.batches)

    def normalised(self) -> Iterator[Tensor]:
        """Yield float32 images [B, C, H, H], batch by batch."""
        for batch in self.batches:
            yield to_device(batch, "cpu", self.augmentation.mean, self.augmentation.std).images

    def first(self) -> Tensor:
        """Return one normalised image [1, C, H, H]."""
        return next(self.normalised())[:1]


def to_compare(subject: Subject, settings: CompareSettings) -> Pictures:
    """Read the images to compare on.

    Raises:
        ConfigError: when nobody says which.
        DataError: when they are missing or unreadable.
    """
    spec = settings.images or subject.data
    if spec is None:
        raise _unsaid("--images", subject)
    source = open_source(spec, settings.split)
    why = _unmeasured(subject, source)
    if why and subject.output == "logits":
        _log.info("%s: no accuracy is measured, %s", spec, why)
    elif not why:
        source = aligned(source, subject.classes, subject.source)
    if not why and subject.data is not None and _seen(source, settings.split, subject.data):
        why = f"the data have no {settings.split} images of their own, and the model has seen all"
        _log.warning("%s has no %s images of its own, the model has seen all: no accuracy is measured; give others "
                     "with --images", spec, settings.split)  # fmt: skip
    return _read(subject, source, settings, spec, settings.split, settings.compare, why)


def _unmeasured(subject: Subject, source: Source) -> str:
    """Return why images say nothing of a model's accuracy; nothing where they do."""
    if subject.output != "logits":
        return "the model has no classification head"
    if source.classes is None:
        return "the images have no labels"
    if subject.classes is None:
        return "the model does not name its classes"
    if not set(source.classes) <= set(subject.classes):
        return "the images have classes that the model does not know"
    return ""


def _seen(source: Source, split: Split, trained_on: str) -> bool:
    """Say whether these are the training images, though another split was asked for."""
    try:
        fingerprint_of(source, split, trained_on)
    except DataError:
        return True
    return False


def to_calibrate(subject: Subject, settings: ExportSettings) -> Pictures:
    """Read the images that say how large activations become.

    Raises:
        ConfigError: when nobody says which.
        DataError: when they are missing, unreadable, or too few.
    """
    spec = settings.calibration or subject.data
    if spec is None:
        raise _unsaid("--calibration", subject)
    source = open_source(spec, "train")
    wanted = min(settings.calibration_images, len(source))
    if wanted < _FEWEST:
        raise DataError(
            "there are too few images to calibrate with",
            found=f"{wanted} of {spec!r}",
            expected=f"{_FEWEST} at least, better 200: they set the ranges of the 8-bit numbers",
            fix="give more with --calibration PATH --calibration-images 200",
        )
    return _read(subject, source, settings, spec, "train", settings.calibration_images, "calibration only")


def _read(
    subject: Subject,
    source: Source,
    settings: CompareSettings,
    spec: str,
    split: Split,
    count: int | None,
    unmeasured: str,
) -> Pictures:
    taken = source.split or "undivided"
    if count is not None and count < len(source):
        order = draws.permutation(draws.key(settings.seed, "export", int(split == "train")), len(source))
        source = subset(source, np.sort(order[:count]))
    channels, side = subject.shape
    loader = evaluation_loader(
        source,
        EvalTransform(subject.augmentation, side, channels),
        batch_size=settings.batch_size,
        channels=channels,
        reading=config.Reading() if subject.recipe is None else subject.recipe.reading,
        workers=settings.workers,
    )
    bad = BadFiles(split, len(source), "skip", path=None)
    batches = tuple(watched(loader, bad))
    if not batches:
        raise DataError(f"{spec!r} has no readable image", fix="give other images; mae-lite check DATA says more")
    images = sum(len(batch.ids) for batch in batches)
    about = {"data": spec, "split": taken, "images": images, "unreadable": bad.count, "seed": settings.seed}
    return Pictures(batches, subject.augmentation, about, source, unmeasured)


def _unsaid(flag: str, subject: Subject) -> ConfigError:
    return ConfigError(
        f"{flag} is missing",
        found=f"{subject.source!r}, a timm folder, which does not name the data it was trained on",
        expected="images to run the model on",
        fix=f"{flag} PATH, or give the folder of the run",
    )
