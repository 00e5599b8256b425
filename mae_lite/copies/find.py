"""``mae-lite duplicates``: hashes and features of every image, what is the same, and where it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mae_lite import overrides
from mae_lite.analysis import loading
from mae_lite.copies import groups, near, parts, prints, writing
from mae_lite.copies.settings import DuplicateSettings
from mae_lite.data.sources import Indices
from mae_lite.errors import ConfigError
from mae_lite.frozen.kept import FeaturePass, Manner, Tap, taps_of


def duplicates(data: str | Path, out: str | Path | None = None, **settings: Any) -> dict[str, Any]:
    """Find images that are there more than once: ``mae_lite.duplicates("photos")["pairs"]``.

    Args:
        data: the images, with labels or without.
        out: folder for the list, the picture and the summary; None writes nothing.
        settings: those of :class:`mae_lite.copies.settings.DuplicateSettings`.

    Returns:
        The summary, with all ``pairs``.

    Raises:
        MaeLiteError: as :func:`found`.
    """
    order = overrides.build(DuplicateSettings, settings)
    grouped = found(str(data), order)
    if out is not None:
        writing.written(grouped, str(data), order, Path(out))
    return {**writing.summary(grouped, str(data), order), "pairs": writing.rows(grouped)}


def found(data: str, settings: DuplicateSettings) -> groups.Grouped:
    """Compare all images with each other.

    Raises:
        ConfigError: for a threshold that tells nothing apart, or a class token that the model does not have.
        CheckpointError: for a model that cannot be read or is no plain Vision Transformer.
        DataError: for images that are missing or unreadable.
    """
    model = None if settings.model is None else loading.load(settings.model, heads=settings.heads)
    if model is None and (settings.heads is not None or settings.token != "patches"):
        flag = "--heads" if settings.heads is not None else "--token"
        raise ConfigError(f"{flag} is read with a model alone", fix=f"drop {flag}, or give --model")
    images = parts.opened(data, settings)
    channels = settings.channels or (3 if model is None or model.channels == 1 else model.channels)
    taken = [
        prints.taken(source, name, channels, settings.reading, settings.workers, settings.on_bad)
        for name, source in images.sources.items()
    ]
    ids = np.concatenate([part.ids + start for part, start in zip(taken, images.starts, strict=False)])
    digests = [digest for part in taken for digest in part.digests]
    small = np.concatenate([part.small for part in taken])
    if model is not None:  # it may see other images than the hashes did where files come and go
        known, values = _features(model, images, settings)
        both, rows, places = np.intersect1d(ids, known, return_indices=True)
        ids, digests = both, [digests[row] for row in rows.tolist()]
        values = values[places] - values[places].mean(axis=0)  # features of any image share a large part
    kinds, first = groups.kinds_of(digests)
    if model is None:
        turned = prints.correlated(small[first][:, :, ::-1])
        pairs = near.pairs(prints.correlated(small[first]), settings.least, turned)
    else:
        pairs = near.pairs(values[first], settings.least)
    return groups.Grouped(images, ids, kinds, first, pairs, channels)


def _features(model: loading.Analysed, images: parts.Parts, settings: DuplicateSettings) -> tuple[Indices, near.Values]:
    tap = Tap(len(model.model.blocks), settings.token)
    taps = taps_of(model.model, blocks=False)  # those of embed and probe: a pass over the same images is shared
    if tap not in taps:
        raise ConfigError(f"{settings.model!r} has no class token", fix="take the mean of its patch tokens")
    manner = Manner(settings.batch_size, settings.workers, settings.on_bad, settings.reading)
    ids, values = [], []
    for (name, source), start in zip(images.sources.items(), images.starts, strict=False):
        features = FeaturePass(model, source, taps, manner, name)
        features.make()
        kept = features.read()
        ids.append(kept.ids + start)
        values.append(kept.values[tap])
    return np.concatenate(ids), np.concatenate(values)
