"""Batches of uint8 images, in an order that depends on seed and epoch alone.

Workers, ranks, micro-batches and the step at which a run starts change who does the work, never the result.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol, overload

import numpy as np
import torch

from mae_lite import draws
from mae_lite.config import Reading
from mae_lite.data import images
from mae_lite.data.bad_files import BadFile, BadFiles, bad_file, first_readable, none_left
from mae_lite.data.batch import Batch, to_device
from mae_lite.data.pixels import Picture
from mae_lite.data.plan import Indices, Key, Plan
from mae_lite.data.raster import Raster, Reduction
from mae_lite.data.sources import Source
from mae_lite.data.transforms import DRAWS, Pixels, TrainTransform, Uniforms, key_of_view
from mae_lite.data.workers import Loader, Samples, Slots
from mae_lite.errors import ConfigError, DataError, MaeLiteError

__all__ = ["Batch", "Loader", "Plan", "evaluation_loader", "to_device", "training_loader", "watched"]


class Plain(Protocol):
    """Makes one picture of an image, without draws."""

    sides: tuple[int, int]
    """Height and width of the picture."""

    def __call__(self, picture: Picture, out: Pixels) -> Pixels:
        """Write it to ``out`` [C, S, T]."""
        ...


@dataclass(frozen=True)
class _Keys:
    """The updates ``start`` to ``stop`` - 1 as a sampler: iterable anew, with a length."""

    plan: Plan
    start: int
    stop: int
    source: Source
    done: int = 0
    """How many keys to leave out."""

    def __iter__(self) -> Iterator[Key]:
        updates, rest = divmod(self.done, self.plan.micro_batches)
        keys = self.plan.announced_keys(self.start + updates, self.stop, self.source.expect)
        return itertools.islice(keys, rest, None)

    def __len__(self) -> int:
        return max(self.stop - self.start, 0) * self.plan.micro_batches - self.done

    def __getitem__(self, rest: slice) -> _Keys:
        return replace(self, done=self.done + rest.start)


def of_views(seed: int, epoch: int, indices: Indices, views: int) -> Uniforms:
    """Draw the uniform numbers in [0, 1) of all views of some samples in an epoch, [B, views, DRAWS]."""
    keys = [key_of_view(seed, "augment", epoch, view=view) for view in range(views)]
    return np.stack([draws.uniform(key, indices, DRAWS) for key in keys], axis=1)


class _Samples(Samples):
    """Whole batches by key. An error is returned instead of raised, for PyTorch would rebuild it from text alone."""

    def __init__(
        self, source: Source, reading: Reading, channels: int, transform: TrainTransform | Plain, seed: int
    ) -> None:
        self.source, self.reading, self.channels = source, reading, channels
        self.transform, self.seed = transform, seed
        self.slots = Slots(0)

    def __getitem__(self, key: Key) -> Batch | MaeLiteError:
        epoch, indices = key
        bad: list[BadFile] = []
        try:
            if isinstance(self.transform, TrainTransform):
                return self._augmented(self.transform, epoch, indices, bad)
            return self._plain(self.transform, indices, bad)
        except MaeLiteError as error:
            return error
        finally:
            self.slots.reading("")

    def _plain(self, transform: Plain, indices: Indices, bad: list[BadFile]) -> Batch:
        """Return the images that can be read."""
        ids: list[int] = []
        images = self._empty(len(indices), 1, *transform.sides)
        for index in indices.tolist():
            picture = self._picture(index, bad)
            if picture is not None:
                transform(picture, images[len(ids), 0])
                ids.append(index)
        return self._batch(images[: len(ids)], ids, bad, None)

    def _augmented(self, transform: TrainTransform, epoch: int, indices: Indices, bad: list[BadFile]) -> Batch:
        """Return views of as many images as asked for; for a bad one another."""
        views, count, local = range(transform.views), transform.augmentation.views, transform.local
        uniforms = of_views(self.seed, epoch, indices, transform.views)
        ids: list[int] = []
        images = self._empty(len(indices), count, transform.image_size, transform.image_size)
        smaller = None if local is None else self._empty(len(indices), local.views, *[local.image_size] * 2)
        for row, index in enumerate(indices.tolist()):
            chosen, picture = self._readable(transform, epoch, index, uniforms[row], bad)
            ids.append(chosen)
            for view in views:
                # The draws of the place in the epoch, not of the image: one that stands in twice looks different.
                place = key_of_view(self.seed, "transform", epoch, index, view=view)
                out = images[row, view] if view < count or smaller is None else smaller[row, view - count]
                transform(picture, uniforms[row, view], place, view, out)
        return self._batch(images, ids, bad, smaller)

    def _empty(self, count: int, views: int, height: int, width: int) -> Pixels:
        """Return room for images [B, V, C, H, W]; in colour, with the three bytes of a pixel side by side.

        So they come from decoding and resizing, and to part them would take a third of the time of a crop. A GPU does
        it in passing (:func:`mae_lite.data.batch.normalised`); a CPU then needs most of what was saved here.
        """
        if self.channels != 3:
            return np.empty((count, views, self.channels, height, width), np.uint8)
        return np.empty((count, views, height, width, 3), np.uint8).transpose(0, 1, 4, 2, 3)

    def _batch(self, images: Pixels, ids: list[int], bad: list[BadFile], local: Pixels | None) -> Batch:
        """Return a batch of uint8 images [B, V, C, H, W]."""
        positions = np.array(ids, dtype=np.int64)
        return Batch(
            torch.from_numpy(images[:, 0] if images.shape[1] == 1 else images),
            torch.from_numpy(self.source.labels[positions]),
            torch.from_numpy(positions),
            tuple(bad),
            None if local is None else torch.from_numpy(local),
        )

    def _readable(
        self, transform: TrainTransform, epoch: int, index: int, u: Uniforms, bad: list[BadFile]
    ) -> tuple[int, Picture | Raster]:
        """Return an image, or another in its place; ``u`` [V, DRAWS] are its draws."""
        before = len(bad)
        found: tuple[int, Picture | Raster] | None = first_readable(
            lambda chosen: self._picture(chosen, bad, lambda size: transform.reduction(size, u)),
            *(index, len(self.source), self.seed, epoch),
        )
        if found is None:
            raise none_left(self.source.name, bad[before:])
        return found

    @overload
    def _picture(self, index: int, bad: list[BadFile]) -> Picture | None: ...

    @overload
    def _picture(self, index: int, bad: list[BadFile], reduction: Reduction) -> Picture | Raster | None: ...

    def _picture(self, index: int, bad: list[BadFile], reduction: Reduction | None = None) -> Picture | Raster | None:
        name = f"{self.source.name} image {index}"
        self.slots.reading(name)
        try:
            example = self.source.example(index)
            name = example.name
            self.slots.reading(name)
            if reduction is not None:
                return images.decode_raster(example, self.channels, self.reading, reduction)
            return images.decode(example, self.channels, self.reading)
        except DataError as error:
            bad.append(bad_file(index, name, error))
            return None


def training_loader(
    source: Source,
    transform: TrainTransform,
    plan: Plan,
    *,
    channels: int,
    reading: Reading = Reading(),  # noqa: B008  # it is frozen
    start_step: int,
    stop_step: int,
    workers: int = 0,
    pin_memory: bool = False,
) -> Loader:
    """Load this rank's micro-batches of updates ``start_step`` to ``stop_step`` - 1, across epochs.

    Args:
        source: training images; ``plan.samples`` of them.
        transform: augmentation.
        plan: order and division of the samples.
        channels: of the images.
        reading: rules by which files become pixels.
        start_step: first update, counted from the start of training.
        stop_step: update before which to stop.
        workers: processes that read ahead; 0 reads in this one.
        pin_memory: whether to put batches into page-locked memory, for a GPU.

    Returns:
        ``plan.micro_batches`` batches of ``plan.micro_batch_size`` for each update.

    Raises:
        ConfigError: when the plan was made for another number of images.
    """
    if plan.samples != len(source):
        raise ConfigError(
            "plan.samples",
            found=str(plan.samples),
            expected=f"the {len(source)} images of {source.name!r}",
            fix="make the plan from the source that is loaded",
        )
    samples = _Samples(source, reading, channels, transform, plan.seed)
    return Loader(samples, _Keys(plan, start_step, stop_step, source), workers, pin_memory)


def evaluation_loader(
    source: Source,
    transform: Plain,
    *,
    batch_size: int,
    channels: int,
    reading: Reading = Reading(),  # noqa: B008  # it is frozen
    workers: int = 0,
    ranks: int = 1,
    rank: int = 0,
    pin_memory: bool = False,
) -> Loader:
    """Load every sample exactly once over all ranks, in order; the last batch may be smaller, or one with bad images.

    Each rank has a contiguous share. Shares differ by at most one sample, so that ranks may have different
    numbers of batches: wait for each other after the loop, not in it.
    """
    first, last = len(source) * rank // ranks, len(source) * (rank + 1) // ranks
    starts = range(first, last, batch_size)
    keys = [(0, np.arange(start, min(start + batch_size, last), dtype=np.int64)) for start in starts]
    return Loader(_Samples(source, reading, channels, transform, seed=0), keys, workers, pin_memory)


def watched(batches: Iterable[Batch], bad_files: BadFiles) -> Iterator[Batch]:
    """Pass on ``batches`` that have images, and tell ``bad_files`` of those that they lack.

    Raises:
        DataError: when there are more bad images than are allowed.
    """
    for batch in batches:
        bad_files.add(batch.bad)
        if len(batch.ids):
            yield batch
