"""``mae-lite probe``: what the features of frozen encoders are worth to nearest neighbours and a linear classifier."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mae_lite import config, overrides
from mae_lite.analysis import loading
from mae_lite.data.sources import Indices, subset
from mae_lite.data.splits import stratified_split
from mae_lite.engine.joining import joined
from mae_lite.errors import ConfigError, DataError
from mae_lite.evaluation import heads
from mae_lite.evaluation.probes import weighted_knns
from mae_lite.frozen import writing
from mae_lite.frozen.images import Divided, Part, divided
from mae_lite.frozen.kept import KEPT, FeaturePass, Kept, Manner, Values, taps_of
from mae_lite.frozen.settings import FrozenSettings, ProbeSettings

_log = logging.getLogger(__name__)


def probe(*models: str | Path, out: str | Path | None = None, **settings: Any) -> dict[str, Any]:
    """Measure frozen encoders: ``mae_lite.probe("runs/a", data="digits", labels_per_class=5)``.

    Args:
        models: runs, checkpoints, or timm:NAME.
        out: folder for results; None writes nothing but the kept features.
        settings: those of :class:`mae_lite.frozen.settings.ProbeSettings`.

    Returns:
        What ``probe.json`` holds: the images, and ``features`` for each of ``models`` with accuracies in 0 to 1.

    Raises:
        MaeLiteError: as :func:`probed`.
    """
    order = overrides.build(ProbeSettings, settings)
    summary = probed([str(model) for model in models], order, None if out is None else Path(out))
    return {} if summary is None else summary


def probed(models: Sequence[str], settings: ProbeSettings, out: Path | None) -> dict[str, Any] | None:
    """Probe every model, and write it down where ``out`` is given; under torchrun, processes share the images.

    Returns:
        The summary; None on all processes but the first.

    Raises:
        ConfigError: for settings that cannot be, or that nothing reads.
        CheckpointError: for a model that cannot be read or is no plain Vision Transformer.
        DataError: for images that are missing, unreadable or have no labels.
    """
    config.check_labels(settings.labels_per_class, settings.label_fraction)
    loaded = load_models(models, settings)
    images = divided(settings)
    manner = manner_of(settings)
    passes = [_passes(model, images, settings, manner) for model in loaded]  # before any process makes something
    with joined(KEPT) as (rank, ranks):
        for found in (found for pair in passes for found in pair):
            found.features.make(rank, ranks)
    if rank:
        return None
    results = [
        _measured(model, images, settings, *(found.read() for found in pair))
        for model, pair in zip(loaded, passes, strict=True)
    ]
    return writing.written(loaded, results, images, settings, out)


def load_models(models: Sequence[str], settings: FrozenSettings) -> list[loading.Analysed]:
    """Load models.

    Raises:
        ConfigError: when --random is for nobody, or there is no model.
        CheckpointError: as :func:`mae_lite.analysis.loading.load`.
    """
    if not models:
        raise ConfigError("the model is missing", fix="give a run, a checkpoint or timm:NAME")
    if settings.random and not any(name.startswith("timm:") for name in models):
        raise ConfigError("--random", found="no model of timm", expected="timm:NAME", fix="drop --random")
    return [loading.load(name, heads=settings.heads, random=settings.random, seed=settings.seed) for name in models]


def manner_of(settings: FrozenSettings) -> Manner:
    """Return how images are read."""
    return Manner(settings.batch_size, settings.workers, settings.on_bad, settings.reading)


@dataclass(frozen=True)
class _OfPart:
    """The pass that has the features of a part: over the whole data set, or over what is needed of it."""

    features: FeaturePass
    part: Part
    passed: Indices
    """Positions in the data set of the images that it passes over."""

    def read(self) -> Kept:
        """Return the features; ids are places in the part."""
        kept = self.features.read()
        return replace(kept, ids=self.passed[kept.ids]).rows(self.part.positions)


def _passes(
    model: loading.Analysed, images: Divided, settings: ProbeSettings, manner: Manner
) -> tuple[_OfPart, _OfPart]:
    taps = taps_of(model.model, settings.blocks)

    def of(part: Part) -> _OfPart:
        whole = FeaturePass(model, part.source, taps, manner, part.split)
        if len(part.needed) == len(part.source) or not whole.missing():
            return _OfPart(whole, part, np.arange(len(part.source), dtype=np.int64))
        some = FeaturePass(model, subset(part.source, part.needed), taps, manner, part.split)
        return _OfPart(some, part, part.needed)

    return of(images.train), of(images.measured)


def _measured(
    model: loading.Analysed, images: Divided, settings: ProbeSettings, train: Kept, measured: Kept
) -> list[dict[str, Any]]:
    """Return the numbers of each tap; labels are those of the images that could be read."""
    labels, wanted = images.train.labels[train.ids], images.measured.labels[measured.ids]
    found = []
    for tap, values in train.values.items():
        knn = weighted_knns(
            *(values, labels, measured.values[tap], wanted),
            ks=settings.ks,
            temperature=settings.temperature,
            device="cuda" if torch.cuda.is_available() else "cpu",
        )
        linear = linear_probe(values, labels, measured.values[tap], wanted, len(images.classes), settings)
        found.append({**asdict(tap), "knn_top1": {str(k): top1 for k, top1 in knn.items()}, **linear})
        top1 = 100 * linear["linear_top1"]
        _log.info("%s, %s after block %d: linear %.1f %%", model.source, writing.TOKENS[tap.token], tap.block, top1)
    return found


def linear_probe(
    train: Values, labels: Indices, measured: Values, wanted: Indices, classes: int, settings: ProbeSettings
) -> dict[str, Any]:
    """Choose the learning rate on a part of the training features, train with it on all of them, and measure once.

    Args:
        train: [n, D] features to learn from.
        labels: [n] their classes.
        measured: [m, D] features to measure on.
        wanted: [m] their classes.
        classes: how many there are.
        settings: rates, epochs, seed and the part.

    Returns:
        ``linear_top1``, ``learning_rate``, and ``validation_top1`` for each rate where there was a choice.

    Raises:
        DataError: when there is a choice and no image to choose with.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    schedule = heads.Schedule(epochs=settings.epochs)
    rate, choice = settings.rates[0], None
    if len(settings.rates) > 1:
        kept, aside = stratified_split(labels, settings.validation_fraction, settings.seed, "probe validation")
        if not len(aside):
            raise DataError(
                "no image can be set aside to choose the learning rate with",
                found=f"{len(labels)} training images, one of each class",
                expected="a class with two at least",
                fix="give one rate, --rates 0.05, or two labels per class",
            )
        tried = heads.train(
            *(train[kept], labels[kept], classes, settings.rates), seed=settings.seed, schedule=schedule, device=device
        )
        scores = tried.measured(train[aside], labels[aside])
        rate = settings.rates[heads.chosen(scores)]
        choice = {f"{rate:g}": top1 for rate, (top1, _) in zip(settings.rates, scores, strict=True)}
        if len(settings.rates) > 2 and rate in (min(settings.rates), max(settings.rates)):
            _log.warning(
                "the chosen learning rate %g is the first or last of --rates: a better one may lie beyond", rate
            )
    final = heads.train(train, labels, classes, [rate], seed=settings.seed, schedule=schedule, device=device)
    ((top1, _),) = final.measured(measured, wanted)
    return {"linear_top1": top1, "learning_rate": rate, "validation_top1": choice}
