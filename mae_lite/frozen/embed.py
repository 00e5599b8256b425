"""``mae-lite embed``: the features of every image, in a file that others can read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mae_lite import files, overrides
from mae_lite.data import labels_file
from mae_lite.data.bad_files import as_row
from mae_lite.data.opening import open_source
from mae_lite.data.sources import Indices, Source
from mae_lite.engine.joining import joined
from mae_lite.errors import ConfigError
from mae_lite.frozen.kept import KEPT, FeaturePass, Values, taps_of
from mae_lite.frozen.probe import load_models, manner_of
from mae_lite.frozen.settings import EmbedSettings


@dataclass(frozen=True)
class Embedded:
    """Features of n images in the order of the data set."""

    values: Values
    """[n, D] float32; with ``blocks`` [n, L, D], after each of L blocks."""
    ids: Indices
    """[n] position of each image; images that could not be read are missing."""
    labels: Indices
    """[n] class numbers, -1 without labels."""
    source: Source
    """The images: ``source.example(id)`` has name and data, ``source.classes`` the names of the labels."""


def embed(model: str | Path, **settings: Any) -> Embedded:
    """Return the features of every image: ``mae_lite.embed("runs/a", data="photos").values``.

    Args:
        model: a run, a checkpoint, or timm:NAME.
        settings: those of :class:`mae_lite.frozen.settings.EmbedSettings`.

    Raises:
        MaeLiteError: as :func:`embedded_to`.
    """
    return _made(str(model), overrides.build(EmbedSettings, settings))[1]()


def embedded_to(model: str, settings: EmbedSettings, out: Path) -> str:
    """Write the features of every image to ``out``; under torchrun, processes share the images.

    Returns:
        What was written, in a sentence; nothing on all processes but the first.

    Raises:
        ConfigError: when ``out`` ends otherwise than .parquet or .npy, or the model has no class token to take.
        CheckpointError: for a model that cannot be read or is no plain Vision Transformer.
        DataError: for images that are missing or unreadable.
        DiskError: when the file cannot be written.
    """
    write = _WRITERS.get(out.suffix.lower())
    if write is None:
        raise ConfigError(
            "--out",
            found=repr(str(out)),
            expected=f"a file that ends in {' or '.join(_WRITERS)}",
            fix=f"--out {out.with_suffix('.parquet') if out.name else 'features.parquet'}",
        )
    rank, read = _made(model, settings)
    if rank:
        return ""
    found = read()
    write(found, out)
    shape = " x ".join(map(str, found.values.shape[1:]))
    left = len(found.source) - len(found.ids)
    missing = f"; {left} could not be read" if left else ""
    return f"{len(found.ids):,} images of {settings.data}, {shape} numbers each: {out}{missing}"


def _made(model: str, settings: EmbedSettings) -> tuple[int, Callable[[], Embedded]]:
    """Make what is missing of the features; return the rank of this process, and what reads them back."""
    (analysed,) = load_models([model], settings)
    taps = taps_of(analysed.model, settings.blocks)  # of both tokens: so a probe needs no other pass
    wanted = [tap for tap in taps if tap.token == settings.token]
    if not wanted:
        raise ConfigError(f"{model!r} has no class token", fix="take the mean of its patch tokens: --token patches")
    source = open_source(settings.data, settings.split, allow_empty=settings.allow_empty_classes)
    features = FeaturePass(analysed, source, taps, manner_of(settings), settings.split)
    with joined(KEPT) as (rank, ranks):
        features.make(rank, ranks)

    def read() -> Embedded:
        kept = features.read()
        columns = [kept.values[tap] for tap in wanted]
        values = np.stack(columns, axis=1) if settings.blocks else columns[0]
        return Embedded(values, kept.ids, source.labels[kept.ids], source)

    return rank, read


def _write_parquet(found: Embedded, out: Path) -> None:
    classes = found.source.classes or ()
    labelled = [label if label >= 0 else None for label in found.labels.tolist()]
    columns: dict[str, Any] = {
        "id": pa.array(found.ids),
        "name": pa.array([labels_file.name_of(found.source, place) for place in found.ids.tolist()], pa.string()),
        "label": pa.array(labelled, pa.int64()),
        "class": pa.array([None if label is None else classes[label] for label in labelled], pa.string()),
    }
    blocks = found.values[:, None] if found.values.ndim == 2 else found.values
    names = ["features"] if found.values.ndim == 2 else [f"block_{place + 1}" for place in range(blocks.shape[1])]
    for place, name in enumerate(names):
        flat = pa.array(np.ascontiguousarray(blocks[:, place]).ravel())
        columns[name] = pa.FixedSizeListArray.from_arrays(flat, blocks.shape[2])
    with files.published_file(out) as temporary:
        pq.write_table(pa.table(columns), temporary)


def _write_npy(found: Embedded, out: Path) -> None:
    classes = found.source.classes or ()
    rows = [as_row("id", "name", "label", "class")]
    for place, label in zip(found.ids.tolist(), found.labels.tolist(), strict=True):
        words = (label, classes[label]) if label >= 0 else ("", "")
        rows.append(as_row(place, labels_file.name_of(found.source, place), *words))
    files.make_folder(out.parent)
    files.write_text(out.with_suffix(".csv"), "\n".join(rows) + "\n")
    with files.published_file(out) as temporary, temporary.open("wb") as handle:
        np.save(handle, found.values)


_WRITERS: dict[str, Callable[[Embedded, Path], None]] = {".parquet": _write_parquet, ".npy": _write_npy}
