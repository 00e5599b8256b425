"""What a run measures on its way, and how often: validation where there are classes, else probes and previews."""

from __future__ import annotations

import logging
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mae_lite import config, draws, inputs
from mae_lite.data.sources import Indices, Source, subset
from mae_lite.engine.loop import Job, Probe
from mae_lite.evaluation import online
from mae_lite.evaluation.accuracy import measure
from mae_lite.evaluation.preview import Previews
from mae_lite.methods.mae import MaskedAutoencoder

_log = logging.getLogger(__name__)
_TIMES = 20
_SHARE = 0.05
_PICTURES = 8


def probes(job: Job, train: Source, held_out: Source | None) -> tuple[Probe, ...]:
    """Return the probes of a run; those that write files on the first rank only."""
    if isinstance(job.recipe.method, config.Supervised):
        return () if held_out is None else (validation(job, held_out, job.folder),)
    every = rhythm(job.recipe, job.runtime, len(train))
    found = []
    if job.runtime.probe_images and math.isfinite(every):
        found.append(Probe(_feature_probe(job, train), every, at_start=True))
    if isinstance(job.method, MaskedAutoencoder) and job.fabric.is_global_zero:
        if isinstance(job.recipe.method, config.Painting):
            found.append(Probe(_previews(job, train), every, at_start=math.isfinite(every)))
        else:
            _log.info("no previews: histograms of gradients are predicted, of which no picture can be painted")
    return tuple(found)


def rhythm(recipe: config.Recipe, runtime: config.Runtime, images: int) -> float:
    """Return the epochs between two probes; infinite below one epoch, where only the end is pictured.

    By default about 20 times in a run, at least an epoch apart, and so that of all images that a run reads at most one
    in 20 is a probe's: on small data a probe reads as much as an epoch of training and costs as much.
    """
    if runtime.probe_every_epochs is not None:
        return runtime.probe_every_epochs
    if recipe.epochs < 1:
        return math.inf
    return max(1.0, recipe.epochs / _TIMES, min(runtime.probe_images, images) / images / _SHARE)


def pictured(images: int, seed: int) -> Indices:
    """Return the few of a run's training images that its previews show, drawn by seed."""
    return np.sort(draws.permutation(draws.key(seed, "previews"), images)[:_PICTURES])


def _near(train: Source, images: int, seed: int) -> Source:
    """Return the images to choose ``images`` from: all, or where they lie in many far shards, those of a few."""
    return train if train.windows is None else subset(train, train.windows.few(seed, images))


def validation(job: Job, source: Source, folder: Path | None) -> Probe:
    """Return the probe that counts what is recognised of ``source``; bad images are listed in ``folder``, if any."""
    recipe, fabric = job.recipe, job.fabric
    augmentation = recipe.augmentation
    ranks = {"ranks": fabric.world_size, "rank": fabric.global_rank}

    def validate(step: int, model: Any) -> dict[str, float]:
        del step
        batches = inputs.in_order(recipe, job.runtime, source, folder, **ranks)
        mean, std = augmentation.mean, augmentation.std
        result = measure(model, batches, len(source.classes or ()), device=fabric.device, mean=mean, std=std)
        return {"val_top1": result.top1, "val_macro": result.macro}

    return Probe(validate, job.runtime.validate_every_epochs)


def _feature_probe(job: Job, train: Source) -> online.FeatureProbe:
    recipe, fabric = job.recipe, job.fabric
    train = _near(train, job.runtime.probe_images, recipe.seed)
    chosen = online.choose(train.labels, job.runtime.probe_images, recipe.seed)
    if fabric.is_global_zero:
        online.announce(chosen)
    source = subset(train, np.concatenate([chosen.bank, chosen.queries]))
    # None of their bad images is listed: training meets the same ones and lists them.
    ranks = {"ranks": fabric.world_size, "rank": fabric.global_rank}
    batches = partial(inputs.in_order, recipe, job.runtime, source, None, **ranks)
    augmentation = recipe.augmentation
    return online.FeatureProbe(batches, len(chosen.bank), fabric.device, augmentation.mean, augmentation.std)


def _previews(job: Job, train: Source) -> Previews:
    train = _near(train, _PICTURES, job.recipe.seed)
    source = subset(train, pictured(len(train), job.recipe.seed))
    method: Any = job.ema.module if job.ema is not None else job.method
    return Previews(method, job.recipe, job.folder, partial(inputs.in_order, job.recipe, job.runtime, source, None))
