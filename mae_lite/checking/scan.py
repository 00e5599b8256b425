"""Every image of a source decoded once, in several processes, and reduced to a few numbers."""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.process
import hashlib
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from mae_lite.config import Reading
from mae_lite.data import images
from mae_lite.data.bad_files import BadFile, bad_file
from mae_lite.data.pixels import Picture, planes
from mae_lite.data.sources import Encoded, Source
from mae_lite.engine.signals import ctrl_c_held_back
from mae_lite.errors import DataError, DiskError
from mae_lite.handover import Handed

Values = npt.NDArray[np.float64]
T = TypeVar("T")
Look = Callable[[Source, Reading, int, int], T]
"""Takes a source, rules of reading, channels and a position."""
_CHUNK = 64
_SAMPLED = 64
"""Pixels along each side that a channel's mean is taken from; a regular grid of them."""


@dataclass(frozen=True)
class Seen:
    """What is known of one readable image."""

    index: int
    name: str
    facts: images.Facts
    digest: bytes
    """SHA-256 of the encoded file, or of the pixels where there is none."""
    mean: Values
    """[C] mean of pixels in 0 to 1."""
    square: Values
    """[C] mean of their squares."""
    grey: bool
    """Whether all channels are nearly equal."""


def scan(
    source: Source, reading: Reading, channels: int, workers: int, indices: Sequence[int] | None = None
) -> Iterator[Seen | BadFile]:
    """Look at images, in order; arguments and errors are those of :func:`examined`."""
    return examined(_one, source, reading, channels, workers, indices)


def examined(
    look: Look[T],
    source: Source,
    reading: Reading,
    channels: int,
    workers: int,
    indices: Sequence[int] | None = None,
) -> Iterator[T]:
    """Yield what ``look`` finds in each image, in order.

    Args:
        look: a function of a module, for other processes import it.
        source: the images.
        reading: rules by which files become pixels.
        channels: of the model.
        workers: processes; 0 looks in this one.
        indices: which images; None takes all.

    Raises:
        DiskError: when a process died.
    """
    chosen = range(len(source)) if indices is None else list(indices)
    chunks = [chosen[start : start + _CHUNK] for start in range(0, len(chosen), _CHUNK)]
    if workers == 0 or len(chunks) < 2:
        for chunk in chunks:
            yield from _looked(look, source, reading, channels, chunk)
        return
    context = multiprocessing.get_context("spawn")  # Arrow's threads do not survive a fork
    handed = Handed((look, source, reading, channels))
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, _start_worker, (handed,))
    try:
        waiting: deque[concurrent.futures.Future[list[Any]]] = deque()
        for chunk in chunks:
            with ctrl_c_held_back():  # this is where processes start; the parent decides for them
                waiting.append(pool.submit(_look_here, chunk))
            if len(waiting) > 2 * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    except concurrent.futures.process.BrokenProcessPool as error:
        raise DiskError(
            "a process that looks at images died",
            found=str(error),
            expected="enough memory",
            fix="use fewer of them with --workers 1, or none with --workers 0 to see the cause",
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        handed.close()


_job: tuple[Look[Any], Source, Reading, int]


def _start_worker(job: Any) -> None:
    global _job
    _job = job


def _look_here(chunk: Sequence[int]) -> list[Any]:
    return _looked(*_job, chunk)


def _looked(look: Look[T], source: Source, reading: Reading, channels: int, chunk: Sequence[int]) -> list[T]:
    return [look(source, reading, channels, index) for index in chunk]


def _one(source: Source, reading: Reading, channels: int, index: int) -> Seen | BadFile:
    name = f"{source.name} image {index}"
    try:
        example = source.example(index)
        name = example.name
        picture = images.decode(example, channels, reading)
        facts = images.facts(example, channels, reading)
        digest = _digest(example.data)
    except DataError as error:
        return bad_file(index, name, error)
    except OSError as error:  # it went away between two looks
        return BadFile(index, name, f"cannot be read: {error.strerror or error}")
    pixels = _grid(picture)
    grey = bool((pixels.max(axis=0) - pixels.min(axis=0)).max() < 0.03)
    return Seen(index, name, facts, digest, pixels.mean(axis=1), (pixels**2).mean(axis=1), grey)


def _digest(data: Encoded) -> bytes:
    if isinstance(data, Path):
        with data.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").digest()
    if isinstance(data, Image.Image):
        data = np.asarray(data)
    if isinstance(data, np.ndarray):
        data = f"{data.dtype}{data.shape}".encode() + np.ascontiguousarray(data).tobytes()
    return hashlib.sha256(data).digest()


def _grid(picture: Picture) -> Values:
    """Return a regular grid of pixels, [C, n] in 0 to 1; resizing would narrow the spread of the values."""
    channels = []
    for part in planes(picture):
        pixels = np.asarray(part)
        rows, columns = (max(1, side // _SAMPLED) for side in pixels.shape[:2])
        sampled = pixels[::rows, ::columns].reshape(-1, 1 if pixels.ndim == 2 else pixels.shape[2])
        channels.append(sampled.T)
    return np.concatenate(channels) / 255.0
