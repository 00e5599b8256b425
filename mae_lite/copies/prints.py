"""What of an image is compared: a hash of its pixels, and a small copy whose cosine is its correlation.

Shapes: n images, C channels, S = 16 side of the small copy.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from mae_lite.checking.scan import examined
from mae_lite.config import Reading
from mae_lite.data import images
from mae_lite.data.bad_files import BadFile, BadFiles, bad_file
from mae_lite.data.pixels import planes
from mae_lite.data.sources import Indices, Source
from mae_lite.display import display
from mae_lite.errors import DataError

Values = npt.NDArray[np.float32]
SIDE = 16
"""Of 4 to 16 pixels this told different photographs apart best, and found re-encoded ones as well as the others."""


@dataclass(frozen=True)
class Print:
    """What is kept of one image."""

    index: int
    digest: bytes
    """SHA-256 of its size and of its pixels after decoding, the same for a file saved again without loss."""
    small: npt.NDArray[np.uint8]
    """[S, S, C]: the whole image squeezed into a square, which undoes a change of size or proportion."""


@dataclass(frozen=True)
class Prints:
    """Of all readable images of a source, in order."""

    ids: Indices
    """[n] positions."""
    digests: list[bytes]
    small: npt.NDArray[np.uint8]
    """[n, S, S, C]."""


def look(source: Source, reading: Reading, channels: int, index: int) -> Print | BadFile:
    """Return the print of image ``index``, or why it has none."""
    name = f"{source.name} image {index}"
    try:
        example = source.example(index)
        name = example.name
        parts = planes(images.decode(example, channels, reading))
    except DataError as error:
        return bad_file(index, name, error)
    digest = hashlib.sha256(repr([(part.mode, part.size) for part in parts]).encode())
    for part in parts:
        digest.update(part.tobytes())
    small = [np.asarray(part.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for part in parts]
    return Print(index, digest.digest(), np.concatenate([one.reshape(SIDE, SIDE, -1) for one in small], axis=2))


def taken(
    source: Source, name: str, channels: int, reading: Reading, workers: int, on_bad: Literal["fail", "skip"]
) -> Prints:
    """Read every image of a source once.

    Raises:
        DataError: for images that cannot be read, and not going on without them was asked for, or they are too many.
    """
    bad = BadFiles(name, len(source), on_bad, path=None)
    ids, digests, small = [], [], []
    with display(f"pixels of {name}", 0, len(source), True) as show:
        for done, found in enumerate(examined(look, source, reading, channels, workers), start=1):
            if isinstance(found, BadFile):
                bad.add([found])
                continue
            ids.append(found.index)
            digests.append(found.digest)
            small.append(found.small)
            if done % 1000 == 0:
                show(done, None)
    if not ids:
        raise DataError(f"{source.name!r} has no readable image", fix="give other images")
    return Prints(np.array(ids, dtype=np.int64), digests, np.stack(small))


def correlated(small: npt.NDArray[np.uint8]) -> Values:
    """Return vectors [n, S * S * C] of small copies [n, S, S, C]; their cosine ignores brightness and contrast."""
    values = small.astype(np.float32)
    values -= values.mean(axis=(1, 2), keepdims=True)
    return values.reshape(len(small), -1)
