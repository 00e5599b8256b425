"""What a classifier says of images, one after the other."""

from __future__ import annotations

import glob
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mae_lite.data.labels_file import label_of, name_of
from mae_lite.data.listed import LINES, named
from mae_lite.data.loader import evaluation_loader, to_device
from mae_lite.data.opening import is_data_set, open_source
from mae_lite.data.prepared import Prepare
from mae_lite.data.sources import Source, Split, subset
from mae_lite.errors import ConfigError, NumericsError
from mae_lite.predicting.models import load_classifier

_log = logging.getLogger(__name__)
Images = str | Path | list[str] | list[Path] | tuple[str | Path, ...] | Source
"""A file, a folder, a pattern or a data set; several files, folders and patterns; or an opened source."""


@dataclass(frozen=True)
class Prediction:
    """What is said of one image."""

    image: str
    """Its path, or its file and row."""
    classes: tuple[str, ...]
    """The most probable classes, the best first; none for an image that could not be read."""
    probabilities: tuple[float, ...]
    """Of these, in 0 to 1; all classes of the model share 1."""
    error: str = ""
    """Why the image could not be read."""
    label: str | None = None
    """The class that the data set gives it; None where it gives none."""


def predict(
    model: str | Path | nn.Module,
    images: Images,
    *,
    top: int = 3,
    split: Split | None = None,
    limit: int | None = None,
    heads: int | None = None,
    batch_size: int = 64,
    workers: int = 0,
) -> Iterator[Prediction]:
    """Say of every image which classes are most probable.

    Args:
        model: what :func:`mae_lite.load_classifier` takes, or what it returns, which then computes where it is.
        images: files, folders and patterns as :func:`mae_lite.data.listed.named` takes them, a data set as ``--data``
            does, or a source.
        top: classes for each image; all where the model has fewer.
        split: part of a data set, or of a folder that has parts; None takes all of a folder, and "test" of a data set.
        limit: only the first so many images; None takes all.
        heads: attention heads, where the model does not say.
        batch_size: images per forward pass; it changes results at most by rounding.
        workers: processes that read images.

    Returns:
        A prediction for each image, in order, made as they are asked for; one that cannot be read has ``error``.

    Raises:
        CheckpointError: when the model cannot be read, or has no classification head.
        ConfigError: for settings that do not go together.
        DataError: when no image is there.
        NumericsError: while iterating, when the model's scores are not finite.
    """
    words = [images] if isinstance(images, str | Path) else images
    for name, unread in (
        ("heads", heads is not None and isinstance(model, nn.Module)),
        ("split", split is not None and not isinstance(words, list | tuple)),
    ):
        if unread:
            raise ConfigError(f"{name} is not read here", found="it beside what is loaded already", fix=f"drop {name}")
    classifier: Any = opened(model, heads)
    source = images_of([str(word) for word in words], split) if isinstance(words, list | tuple) else words
    return answers(classifier, first(source, limit), top=top, batch_size=batch_size, workers=workers)


def opened(model: str | Path | nn.Module, heads: int | None) -> Any:
    """Return a classifier with ``transform`` and ``classes``, on the GPU where it is read here and there is one.

    Raises:
        CheckpointError: as :func:`load_classifier`.
        ConfigError: for a module that is none of ours.
    """
    if not isinstance(model, nn.Module):
        return load_classifier(model, heads=heads).to("cuda" if torch.cuda.is_available() else "cpu")
    transform, classes = (getattr(model, name, None) for name in ("transform", "classes"))
    if not (isinstance(transform, Prepare) and isinstance(classes, tuple)):
        raise ConfigError(
            f"{type(model).__name__} does not say what its input and its classes are",
            expected="a path, or what mae_lite.load_classifier returns",
            fix="give the folder that it came from",
        )
    return model


def images_of(words: Sequence[str], split: Split | None, lines: Iterable[str] = ()) -> Source:
    """Return the images that words of a command line name.

    Args:
        words: files, folders, patterns and "-" for ``lines``; or a data set alone.
        split: part of a data set, or of a folder with parts; see :func:`predict`.
        lines: paths.

    Raises:
        ConfigError: for a split of what has none.
        DataError: when nothing usable is there.
    """
    alone = words[0] if len(words) == 1 and words[0] != LINES else None
    pattern = alone is not None and glob.has_magic(alone) and bool(glob.glob(alone, recursive=True))
    if (
        alone is not None
        and not pattern
        and (is_data_set(alone) or (split is not None and Path(alone).expanduser().is_dir()))
    ):
        source = open_source(alone, split or "test", strict=split is not None)
        if split is None and source.split is not None and "#" not in alone:
            _log.info("%s is divided: these are its %s images; --split takes others", alone, source.split)
        return source
    if split is not None:
        raise ConfigError(
            f"--split {split} is not read here",
            expected="one data set or one folder beside it",
            fix="drop --split, or give the folder that has train, val or test in it",
        )
    return named(words, lines)


def first(source: Source, limit: int | None) -> Source:
    """Return the first ``limit`` images of ``source``; all where it is None.

    Raises:
        ConfigError: for less than one.
    """
    if limit is not None and limit < 1:
        raise ConfigError("limit", found=str(limit), expected="at least 1", fix="drop limit, which takes all images")
    return source if limit is None or limit >= len(source) else subset(source, range(limit))


@torch.no_grad()
def answers(model: Any, source: Source, *, top: int, batch_size: int, workers: int) -> Iterator[Prediction]:
    """Yield a prediction for each image of ``source``.

    Args:
        model: a classifier with ``transform`` and ``classes``; it is run in eval mode, and left as it was.
        source: the images.
        top: classes for each image, at most.
        batch_size: images per forward pass.
        workers: processes that read images.

    Raises:
        NumericsError: when scores are not finite.
    """
    prepare: Prepare = model.transform
    loader = evaluation_loader(
        source,
        prepare.crop,
        batch_size=batch_size,
        channels=prepare.channels,
        reading=prepare.reading,
        workers=workers,
    )
    device = next((weight.device for weight in model.parameters()), torch.device("cpu"))  # an ONNX file has none
    for host in loader:
        found = {
            item.index: Prediction(item.name, (), (), item.reason, label_of(source, item.index)) for item in host.bad
        }
        if len(host.ids):
            was_training = model.training
            scores: Tensor = model.eval()(to_device(host, device, prepare.mean, prepare.std).images)  # [B, K]
            model.train(was_training)
            best = _best(scores.float(), min(top, len(model.classes)), source)
            for index, (numbers, shares) in zip(host.ids.tolist(), best, strict=True):
                names = tuple(model.classes[number] for number in numbers)
                found[index] = Prediction(name_of(source, index), names, tuple(shares), label=label_of(source, index))
        yield from (found[index] for index in sorted(found))


def _best(scores: Tensor, top: int, source: Source) -> list[tuple[list[int], list[float]]]:
    """Return numbers and probabilities of the ``top`` classes of each image; among equals the lower number first.

    Raises:
        NumericsError: when ``scores`` [B, K] are not finite.
    """
    if not scores.isfinite().all():
        raise NumericsError(
            f"the classifier's scores of images of {source.name!r} are not finite",
            found="NaN or infinity",
            expected="numbers",
            fix="check its weights: a run that diverged has an earlier checkpoint",
        )
    shares, order = scores.softmax(dim=1).sort(dim=1, descending=True, stable=True)
    return list(zip(order[:, :top].tolist(), shares[:, :top].tolist(), strict=True))
