"""Images that stay in the memory of the device: decoded once, then cropped and augmented there, whole batches at once.

Order, draws and the rule for bad images are those of :mod:`mae_lite.data.loader`, and so are the batches, but for
single steps of 1/255; see :mod:`mae_lite.data.batched`. There is nothing to read ahead, and hence no worker.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from mae_lite.config import Augmentation, Reading
from mae_lite.data import images
from mae_lite.data.bad_files import BadFile, bad_file, first_readable, none_left
from mae_lite.data.batch import Batch
from mae_lite.data.batched import BatchTransform, unsupported
from mae_lite.data.batched_colours import on_device
from mae_lite.data.loader import evaluation_loader, of_views
from mae_lite.data.pixels import Picture, planes
from mae_lite.data.plan import Indices, Plan
from mae_lite.data.sources import Source
from mae_lite.data.transforms import Pixels, write
from mae_lite.errors import ConfigError, DataError

_LOOKED_AT = 64  # images whose size is compared before all are decoded
_AT_ONCE = 256


def check_settings(augmentation: Augmentation, pixels: str, device: torch.device) -> None:
    """Refuse what whole batches on the device cannot do; raises ConfigError."""
    if names := unsupported(augmentation):
        raise _refused(
            " and ".join(f"augmentation.{name} {getattr(augmentation, name)!r}" for name in names),
            "no such changes, for they are made image by image",
        )
    if pixels == "exact":
        raise _refused("pixels 'exact'", "pixels 'fast', for whole batches are not resized by Pillow", "--pixels fast")
    if device.type not in ("cpu", "cuda"):
        raise _refused(f"the device {device.type}", "cuda or cpu")


class Resident:
    """All images of a source, of one size, on a device."""

    def __init__(
        self,
        source: Source,
        device: torch.device,
        *,
        channels: int,
        limit_bytes: int,
        reading: Reading = Reading(),  # noqa: B008  # it is frozen
        workers: int = 0,
    ) -> None:
        """Decode them and copy them there.

        Args:
            source: the images.
            device: where they are to stay.
            channels: of the images.
            limit_bytes: memory that they may take.
            reading: rules by which files become pixels.
            workers: processes that decode.

        Raises:
            ConfigError: when they differ in size, or need more memory.
            DataError: when none of those looked at can be read.
        """
        self.name, self.labels = source.name, torch.from_numpy(source.labels).to(device)
        sides = _common_sides(source, channels, reading)
        needed = len(source) * channels * sides[0] * sides[1]
        if needed > limit_bytes:
            raise _refused(
                f"{needed / 1e9:.3g} GB for {len(source):,} images of {_size(sides)} pixels and {channels} channels",
                f"at most {limit_bytes / 1e9:.3g} GB of the memory of {device}",
                "--loading workers, or make them smaller: mae-lite prepare DATA PACK --kind uint8 --side PIXELS",
            )
        self.images = torch.empty(len(source), channels, *sides, dtype=torch.uint8, device=device)
        """[N, C, S, T] uint8; without meaning where an image is bad."""
        self.bad: Mapping[int, BadFile] = self._fill(source, _AsStored(sides), channels, reading, workers)

    def _fill(
        self, source: Source, transform: _AsStored, channels: int, reading: Reading, workers: int
    ) -> dict[int, BadFile]:
        loader = evaluation_loader(
            source, transform, batch_size=_AT_ONCE, channels=channels, reading=reading, workers=workers
        )
        bad = {}
        for batch in loader:
            self.images[batch.ids.to(self.images.device)] = batch.images.to(self.images.device)
            bad.update({item.index: item for item in batch.bad})
        return bad

    def batches(self, transform: BatchTransform, plan: Plan, start_step: int, stop_step: int) -> Iterator[Batch]:
        """Make this rank's micro-batches of updates ``start_step`` to ``stop_step`` - 1, across epochs.

        Raises:
            DataError: when no image was found to replace a bad one.
        """
        for epoch, indices in plan.keys(start_step, stop_step):
            bad: list[BadFile] = []
            rows = on_device(self._readable(indices, plan.seed, epoch, bad), self.images.device)
            pixels, u = self.images.index_select(0, rows), of_views(plan.seed, epoch, indices, transform.views)
            made, local = transform(pixels, u), transform.local_views(pixels, u)
            yield Batch(made, self.labels.index_select(0, rows), rows, tuple(bad), local)

    def _readable(self, indices: Indices, seed: int, epoch: int, bad: list[BadFile]) -> Indices:
        """Return the positions of the images, or of others in the place of bad ones, which are added to ``bad``."""
        if not self.bad:
            return indices

        def read(index: int) -> Tensor | None:
            if index in self.bad:
                bad.append(self.bad[index])
                return None
            return self.images[index]

        rows = []
        for index in indices.tolist():
            before = len(bad)
            found = first_readable(read, index, len(self.images), seed, epoch)
            if found is None:
                raise none_left(self.name, bad[before:])
            rows.append(found[0])
        return np.array(rows, dtype=np.int64)


class _AsStored:
    """Leaves images as they are, all of one size."""

    def __init__(self, sides: tuple[int, int]) -> None:
        self.sides = sides

    def __call__(self, picture: Picture, out: Pixels) -> Pixels:
        parts = planes(picture)
        _check_alike(parts[0].size[::-1], self.sides)
        write(parts, out)
        return out


def _common_sides(source: Source, channels: int, reading: Reading) -> tuple[int, int]:
    """Return height and width of some images, spread over the source."""
    places = np.linspace(0, len(source) - 1, min(_LOOKED_AT, len(source))).astype(np.int64)
    sides: tuple[int, int] | None = None
    bad: list[BadFile] = []
    for index in places.tolist():
        name = f"{source.name} image {index}"
        try:
            example = source.example(index)
            name = example.name
            found = planes(images.decode(example, channels, reading))[0].size[::-1]
        except DataError as error:
            bad.append(bad_file(index, name, error))
            continue
        sides = sides or found
        _check_alike(found, sides)
    if sides is None:
        raise none_left(source.name, bad)
    return sides


def _check_alike(sides: tuple[int, int], others: tuple[int, int]) -> None:
    if sides != others:
        raise _refused(
            f"images of {_size(others)} and of {_size(sides)} pixels",
            "images of one size",
            "--loading workers, or make them alike: mae-lite prepare DATA PACK --kind uint8",
        )


def _size(sides: tuple[int, int]) -> str:
    return f"{sides[1]} x {sides[0]}"


def _refused(found: str, expected: str, fix: str = "--loading workers") -> ConfigError:
    return ConfigError("loading", found=f"'resident' with {found}", expected=expected, fix=fix)
