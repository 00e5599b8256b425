"""Data sets of Hugging Face's ``datasets``, an extra: a folder that ``save_to_disk`` wrote, or a name on the hub.

``datasets`` finds, downloads and memory-maps them. It decodes no image: the guard gets bytes or paths.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mae_lite.data.sources import Example, Indices, Source, Split, some
from mae_lite.data.splits import choose_split, split_of
from mae_lite.errors import ConfigError, DataError, DiskError, nearest, shortly

_log = logging.getLogger(__name__)

_FULL_OR_CLOSED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "labels", "fine_label")
_MAX_CLASSES = 1_000_000  # labels above are numbers of something else
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?(:[^/]+)?")
_ELSE = (
    "where there is a network, save it with datasets.load_dataset(NAME).save_to_disk(FOLDER) and give "
    "--data hf:FOLDER; or copy its parquet files and give --data parquet:FOLDER"
)


class HubSet(Source):
    """One split of a data set that ``datasets`` opens."""

    in_memory = False

    def __init__(
        self,
        which: str,
        split: Split = "train",
        name: str | None = None,
        *,
        part: str | None = None,
        strict: bool = False,
    ) -> None:
        """Open the data set, and find its images and labels.

        Args:
            which: a folder that ``save_to_disk`` wrote, or a name on the hub, "user/name" or "user/name:config".
            split: which split of a divided set; one of validation and test images stands in for the other.
            name: what the user gave.
            part: a split by the set's own name, in place of ``split``.
            strict: whether nothing may stand in.

        Raises:
            ConfigError: when ``datasets`` is not installed, or no split is called ``part``.
            DataError: when the data set cannot be reached or read, has no images, or some labels are missing.
            DiskError: when a download finds no room or no write access.
        """
        self.name = name or f"hf:{which}"
        opened = _opened(which, self.name)
        self._part, self.split, dataset = _chosen(opened, split, part, strict, self.name)
        if not len(dataset):
            raise DataError(f"{self.name!r} has no rows", found=f"split {self._part!r}", fix="give another data set")
        self._column = _image_column(dataset.features, self.name)
        self.labels, self.classes = _labels(dataset, self.name)
        self._rows = _undecoded(dataset, self._column)

    def example(self, index: int) -> Example:
        """Return the encoded bytes of row ``index``, or the path of its file.

        Raises:
            DataError: when the row has no image.
        """
        name = f"{self.name} {self._part} row {index}"
        cell = self._rows[index][self._column] or {}
        if cell.get("bytes"):
            return Example(name, bytes(cell["bytes"]))
        if not cell.get("path"):
            raise DataError(f"{name!r} has no image", found="an empty cell", fix="remove the row from the data set")
        return Example(f"{name} ({cell['path']})", Path(cell["path"]))

    def fingerprint(self) -> dict[str, int | str]:
        """Return the count and a SHA-256 over split, classes, labels and the encoded size or file name of each image.

        The fingerprint that ``datasets`` keeps is left out: it differs between versions and ways of saving.
        """
        column = self._rows.with_format("arrow")[:][self._column]
        sizes = pc.fill_null(pc.binary_length(pc.struct_field(column, "bytes")), -1).to_numpy().astype(np.int64)
        paths = pc.filter(pc.struct_field(column, "path"), pa.array(sizes < 0)).to_pylist()
        facts = json.dumps([self._part, self.classes, [path and Path(path).name for path in paths]])
        digest = hashlib.sha256(facts.encode() + self.labels.tobytes() + sizes.tobytes())
        return {"count": len(self), "sha256": digest.hexdigest()}


def _opened(which: str, name: str) -> Any:
    """Return a Dataset, or a DatasetDict with one per split."""
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(
            "data",
            found=f"{name!r}, but the package datasets is not installed",
            expected="Hugging Face's datasets, an extra of mae_lite",
            fix="pip install 'mae_lite[hub]'",
        ) from error
    folder = Path(which).expanduser()
    if folder.exists() or not _HUB_NAME.fullmatch(which):
        return _from_disk(datasets, folder, name)
    hub_name, _, config = which.partition(":")
    try:
        return datasets.load_dataset(hub_name, config or None)
    except MemoryError:
        raise
    except Exception as error:  # no network, no such name, a configuration to choose, a script, ...
        found = shortly(error)
        if isinstance(error, OSError) and error.errno in _FULL_OR_CLOSED:
            fix = "set HF_HOME to a folder with room and write access"
            raise DiskError(f"{name!r} cannot be downloaded", found=found, fix=fix) from error
        raise DataError(
            f"{name!r} cannot be had",
            found=f"no such folder, and as a name on the hub: {found}",
            expected="a folder that save_to_disk wrote, USER/NAME or USER/NAME:CONFIG of an image data set",
            fix=_ELSE,
        ) from error


def _from_disk(datasets: Any, folder: Path, name: str) -> Any:
    try:
        return datasets.load_from_disk(str(folder))
    except MemoryError:
        raise
    except Exception as error:  # not written by save_to_disk, or damaged
        here = some(sorted(entry.name for entry in folder.iterdir())) if folder.is_dir() else shortly(error)
        raise DataError(
            f"{name!r} cannot be opened",
            found=f"{here}; {shortly(error)}" if folder.is_dir() else here,
            expected="a folder that save_to_disk of Hugging Face's datasets wrote",
            fix="give such a folder with --data hf:FOLDER, parquet files with --data parquet:FOLDER, images with "
            "--data folder:FOLDER",
        ) from error


def _chosen(opened: Any, split: Split, part: str | None, strict: bool, name: str) -> tuple[str, Split | None, Any]:
    """Return the name of the split to read, which split that is, and its Dataset."""
    divided = isinstance(opened, dict)
    own = [str(word) for word in opened] if divided else [str(opened.split)] if opened.split else []
    wanted = split if part is None else split_of(part)
    if part is not None and part not in own and (wanted is None or not divided):
        raise ConfigError(
            f"data {name}",
            found=f"split {part!r}{nearest(part, own)}",
            expected=f"one of {', '.join(own)}" if own else "no split: the data set is not divided",
            fix=f"--data '{name.partition('#')[0]}{'#' if own else ''}{next(iter(own), '')}'",
        )
    if not divided:
        return next(iter(own), "all"), None, opened
    if part in own:
        return str(part), split_of(str(part)), opened[part]
    named = {known: word for word in reversed(own) if (known := split_of(word)) is not None}
    if not named and len(own) == 1 and part is None:
        return own[0], None, opened[own[0]]
    taken = choose_split(named, wanted or split, name, strict=strict or part is not None)
    return named[taken], taken, opened[named[taken]]


def _image_column(features: Any, name: str) -> str:
    from datasets import Image

    of_type = [column for column, feature in features.items() if isinstance(feature, Image)]
    named = [column for column in _IMAGE_COLUMNS if _holds_images(features.get(column))]
    if not of_type and not named:
        raise DataError(
            f"{name!r} has no images",
            found="; ".join(f"{column}: {feature}" for column, feature in list(features.items())[:10])[:500],
            expected=f"a column of type Image, or one named {' or '.join(_IMAGE_COLUMNS)} with files or paths",
            fix="give an image data set, or save this one with its images cast to datasets.Image",
        )
    candidates = of_type or named
    if len(candidates) > 1:
        _log.info("%s: images are those of column %s, not of %s", name, candidates[0], some(candidates[1:]))
    return candidates[0]


def _undecoded(dataset: Any, column: str) -> Any:
    """Return the data set with its images only, as {"bytes": ..., "path": ...}."""
    from datasets import Image

    return dataset.select_columns([column]).cast_column(column, Image(decode=False)).with_format(None)


def _holds_images(feature: Any) -> bool:
    # datasets would turn columns of numbers into images too: all at once, in memory, and with a guess at their range.
    if isinstance(feature, dict):
        return {"bytes", "path"} <= feature.keys()
    return getattr(feature, "dtype", None) in ("binary", "large_binary", "string", "large_string")


def _label_column(features: Any, name: str) -> str | None:
    from datasets import ClassLabel, Value

    classes = [column for column, feature in features.items() if isinstance(feature, ClassLabel)]
    plain = [column for column in _LABEL_COLUMNS if isinstance(features.get(column), Value)]
    candidates = sorted(classes, key=lambda column: column not in _LABEL_COLUMNS) or plain
    if len(candidates) > 1:
        _log.info("%s: labels are those of column %s, not of %s", name, candidates[0], some(candidates[1:]))
    return candidates[0] if candidates else None


def _labels(dataset: Any, name: str) -> tuple[Indices, tuple[str, ...] | None]:
    """Return the class number of every row, and the class names; -1 and None without labels."""
    column = _label_column(dataset.features, name)
    if column is None:
        return np.full(len(dataset), -1, dtype=np.int64), None
    feature = dataset.features[column]
    values = dataset.with_format("arrow", columns=[column])[:][column].combine_chunks()
    names = getattr(feature, "names", None)
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        names = sorted(set(values.drop_null().to_pylist()))
        values = pc.index_in(values, pa.array(names, values.type))
    if not pa.types.is_integer(values.type):
        raise _wrong_labels(column, f"{feature}", name)
    labels: Indices = pc.fill_null(values.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
    if (labels == -1).all():  # how hidden labels of a test split are given
        return labels, None
    classes = tuple(names) if names else tuple(map(str, range(min(int(labels.max()) + 1, _MAX_CLASSES))))
    wrong = np.flatnonzero((labels < 0) | (labels >= len(classes)))
    if len(wrong):
        rows = f"{len(wrong)} of {len(labels)} rows outside 0 to {len(classes) - 1}, the first is row {wrong[0]}"
        raise _wrong_labels(column, f"{rows} ({labels[wrong[0]]})", name)
    return labels, classes


def _wrong_labels(column: str, found: str, name: str) -> DataError:
    return DataError(
        f"column {column!r} of {name!r} has labels that are no class numbers",
        found=found,
        expected="a class number or name in every row, or in none",
        fix="remove these rows, or the whole column to use the images without labels, and save the data set anew",
    )
