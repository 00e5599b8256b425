"""Features of every image of a data set, made once and kept: an exact pass that goes on where it was cut off.

They lie in the cache (:mod:`mae_lite.data.cache`), in parts of about 1,024 images each. A part is always made of the
same batches, whatever process makes it and whenever, so that a resumed pass, or one of several processes, is the same.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from mae_lite import config, files
from mae_lite.analysis.loading import Analysed, labels_of
from mae_lite.data import cache
from mae_lite.data.bad_files import BadFile, BadFiles
from mae_lite.data.loader import Batch, evaluation_loader, to_device
from mae_lite.data.sources import Indices, Source, subset
from mae_lite.data.transforms import EvalTransform
from mae_lite.display import display
from mae_lite.errors import ConfigError, DataError
from mae_lite.models.taps import tapped

_log = logging.getLogger(__name__)
KEPT = "the features made so far are kept, and the same command goes on with them"
"""What is left of a pass that ended early."""
_FORMAT = 1
_PART = 1024
Values = npt.NDArray[np.float32]
Token = Literal["class", "patches"]


@dataclass(frozen=True, order=True)
class Tap:
    """Where a feature is taken: after a block, counted from 1, and after the model's final norm."""

    block: int
    token: Token
    """The class token, or the mean of the patch tokens."""

    @property
    def column(self) -> str:
        """Name of its column."""
        return f"{self.token}_{self.block}"


@dataclass(frozen=True)
class Manner:
    """How images are read."""

    batch_size: int = 64
    workers: int = 0
    on_bad: Literal["fail", "skip"] = "fail"
    reading: config.Reading = config.Reading()  # noqa: RUF009  # it is frozen


@dataclass(frozen=True)
class Kept:
    """Features of n images in the order of their positions."""

    values: dict[Tap, Values]
    """[n, D] float32 each."""
    ids: Indices
    """[n] position of each image in its source; images that could not be read are missing."""

    def rows(self, positions: Indices) -> Kept:
        """Return those images of ``positions`` that are here; their ids become places in ``positions``."""
        where = np.searchsorted(positions, self.ids)
        inside = np.flatnonzero(positions[np.minimum(where, len(positions) - 1)] == self.ids)
        return Kept({tap: values[inside] for tap, values in self.values.items()}, where[inside])


def taps_of(model: Any, blocks: bool) -> list[Tap]:
    """Return the taps of a model: of all its blocks or of the last; the class token's where it has one."""
    depth = len(model.blocks)
    known: tuple[Token, ...] = ("patches",) if model.cls_token is None else ("class", "patches")
    return [Tap(block, token) for block in range(1 if blocks else depth, depth + 1) for token in known]


def digest(model: Any) -> str:
    """Return the SHA-256 of all that decides what a Vision Transformer of timm computes: modules, heads, tensors."""
    heads = [block.attn.num_heads for block in model.blocks]
    found = hashlib.sha256(json.dumps([repr(model), heads, model.num_prefix_tokens, model.no_embed_class]).encode())
    for name, value in sorted({**dict(model.named_parameters()), **dict(model.named_buffers())}.items()):
        found.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


class FeaturePass:
    """The features of one model on one data set, as far as they are kept."""

    def __init__(self, analysed: Analysed, source: Source, taps: Sequence[Tap], manner: Manner, split: str) -> None:
        """Look up where they are kept; nothing is read yet.

        Args:
            analysed: the model.
            source: the images.
            taps: where features are taken.
            manner: how images are read.
            split: what to call the images in messages.
        """
        self._analysed, self._source, self._taps, self._manner = analysed, source, sorted(taps), manner
        self._split = split
        self._bad_files = BadFiles(split, len(source), manner.on_bad, path=None)
        self._length = manner.batch_size * max(1, _PART // manner.batch_size)
        augmentation = analysed.augmentation
        facts = {
            "format": _FORMAT,
            "model": digest(analysed.model),
            "data": source.fingerprint(),
            "pixels": [
                analysed.side_px,
                analysed.channels,
                augmentation.eval_crop,
                augmentation.mean,
                augmentation.std,
            ],
            "reading": manner.reading.model_dump(mode="json"),
            "taps": [tap.column for tap in self._taps],
            "part": self._length,
        }
        self.folder = cache.place("features", facts).with_suffix("")
        self._parts = range(-(-len(source) // self._length))

    def missing(self) -> list[int]:
        """Return the numbers of parts that have not been made."""
        return [part for part in self._parts if not self._path(part).exists()]

    def make(self, rank: int = 0, ranks: int = 1) -> int:
        """Make and keep a rank's share of what is missing; return how many images that were.

        Raises:
            DataError: when images cannot be read, and not going on without them was asked for, or they are too many.
            DiskError: when there is no room for features.
        """
        mine = [part for part in self.missing() if part % ranks == rank]
        if not mine:
            return 0
        positions = np.concatenate([self._positions(part) for part in mine])
        (name,) = labels_of([self._analysed.source])
        here = len(self._parts) - len(mine)
        _log.info("%s: features of %s images%s", name, f"{len(positions):,}", ", others are kept" if here else "")
        device = _device(rank)
        model = self._analysed.model.to(device)
        batches = iter(self._loader(subset(self._source, positions)))
        with display(f"features of {name}", 0, len(positions), rank == 0) as show:
            done = 0
            for part in mine:
                expected = -(-len(self._positions(part)) // self._manner.batch_size)
                self._make(part, itertools.islice(batches, expected), positions, model, device)
                done += len(self._positions(part))
                show(done, None)
        return len(positions)

    def read(self) -> Kept:
        """Return the features of all images, making what is missing.

        Raises:
            DataError: as :meth:`make`; also when no image can be read.
        """
        found = [self._load(part) or self._again(part) for part in self._parts]
        for _, about in found:
            self._bad_files.add([BadFile(**item) for item in about["bad"]])
        ids = np.concatenate([np.asarray(table["id"]) for table, _ in found])
        if not len(ids):
            raise DataError(f"{self._source.name!r} has no readable image", fix="give other images")
        values = {tap: np.concatenate([_matrix(table[tap.column]) for table, _ in found]) for tap in self._taps}
        for tap, matrix in values.items():
            if not np.isfinite(matrix).all():
                raise ConfigError(
                    f"{self._analysed.source!r} gives features that are not finite",
                    found=f"in {int((~np.isfinite(matrix)).any(axis=1).sum())} images, after block {tap.block}",
                    expected="numbers",
                    fix="give another checkpoint",
                )
        return Kept(values, ids)

    def _again(self, part: int) -> tuple[Any, dict[str, Any]]:
        """Make a part that is missing or damaged."""
        files.remove(self._path(part))
        self.make()
        found = self._load(part)
        if found is None:
            raise DataError(
                f"kept features {str(self._path(part))!r} cannot be read back",
                fix="set MAE_LITE_CACHE to a folder on a sound disk",
            )
        return found

    def _load(self, part: int) -> tuple[Any, dict[str, Any]] | None:
        return cache.load(self._path(part))

    def _path(self, part: int) -> Path:
        return self.folder / f"part_{part:06d}.arrow"

    def _positions(self, part: int) -> Indices:
        start = part * self._length
        return np.arange(start, min(start + self._length, len(self._source)), dtype=np.int64)

    def _loader(self, source: Source) -> Iterator[Batch]:
        analysed = self._analysed
        loader = evaluation_loader(
            source,
            EvalTransform(analysed.augmentation, analysed.side_px, analysed.channels),
            batch_size=self._manner.batch_size,
            channels=analysed.channels,
            reading=self._manner.reading,
            workers=self._manner.workers,
        )
        return iter(loader)

    @torch.inference_mode()  # the model is in eval mode since it was loaded
    def _make(
        self,
        part: int,
        batches: Iterator[Batch],
        positions: Indices,
        model: Any,
        device: torch.device,
    ) -> None:
        ids, bad, values = list[Indices](), list[BadFile](), list[dict[Tap, Tensor]]()
        for batch in batches:
            found = [replace(item, index=int(positions[item.index])) for item in batch.bad]
            self._bad_files.add(found)
            bad += found
            ids.append(positions[batch.ids.numpy()])
            if len(batch.ids):
                augmentation = self._analysed.augmentation
                images = to_device(batch, device, augmentation.mean, augmentation.std).images
                values.append(features_of(model, images, self._taps))
        width = model.embed_dim
        columns: dict[str, Any] = {"id": pa.array(np.concatenate(ids))}
        for tap in self._taps:
            joined = torch.cat([torch.empty(0, width), *(of_batch[tap] for of_batch in values)])
            columns[tap.column] = pa.FixedSizeListArray.from_arrays(pa.array(joined.flatten().numpy()), width)
        cache.save(self._path(part), columns, {"bad": [asdict(item) for item in bad]})


def features_of(model: Any, images: Tensor, taps: Sequence[Tap]) -> dict[Tap, Tensor]:
    """Return features [B, D] float32 on the CPU of normalised images [B, C, H, H]; ``model`` is in eval mode."""
    depth, prefix = len(model.blocks), int(model.num_prefix_tokens)
    if all(tap.block == depth for tap in taps):
        tokens = {depth: model.forward_features(images)}
    else:
        seen = tapped(model, images)
        tokens = {block: model.norm(state) for block, state in enumerate(seen.states[1:], start=1)}
    found = {}
    for tap in taps:
        state = tokens[tap.block].float()
        found[tap] = (state[:, 0] if tap.token == "class" else state[:, prefix:].mean(dim=1)).cpu()
    return found


def _matrix(column: Any) -> Values:
    width = column.type.list_size
    parts = [np.asarray(chunk.flatten()).reshape(-1, width) for chunk in column.chunks]
    return np.concatenate([np.empty((0, width), np.float32), *parts])


def _device(rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", rank % torch.cuda.device_count())
