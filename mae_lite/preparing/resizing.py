"""One image of a data set becomes the bytes that a pack keeps."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from mae_lite.data import images
from mae_lite.data.pack import Form
from mae_lite.data.pixels import Picture, planes
from mae_lite.data.sources import Example

_JPEG_LONGEST = 65_500
"""Pixels of a side that the library writes."""
_GAP = 3.0
"""Images this many times too large, and the filter's own reach, are averaged in whole blocks first."""
_BASELINE, _TABLES = 0xC0, 0xC4
_FRAMES = range(0xC0, 0xD0)
"""Markers that begin a frame, and those of tables among them."""


def converted(example: Example, form: Form) -> bytes:
    """Return an image as the pack keeps it.

    A JPEG has its short side at most ``form.side``; one that is no larger, baseline, in three colours, and upright,
    without a colour profile, stays as it is, byte for byte. Pixels [side, side, C] are those of the largest square in
    the middle.

    Raises:
        DataError: when it cannot be read; names the image.
    """
    picture = decoded(example, form)
    if form.kind == "uint8":
        return _square(picture, form.side)
    image = planes(picture)[0]
    if min(image.size) <= form.side:
        plain = _plain(example, form)
        if plain is not None:
            return plain
    buffer = io.BytesIO()
    assert form.quality is not None  # a JPEG has one
    _within(image, form.side).save(buffer, format="JPEG", quality=form.quality)
    return buffer.getvalue()


def decoded(example: Example, form: Form) -> Picture:
    """Return an image with all its pixels."""
    return images.decode(example, form.channels, form.reading)


def _within(image: Image.Image, side: int) -> Image.Image:
    scale = min(1.0, side / min(image.size), _JPEG_LONGEST / max(image.size))
    if scale == 1.0:
        return image
    width, height = (max(1, round(length * scale)) for length in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=_GAP)


def _square(picture: Picture, side: int) -> bytes:
    parts = [np.asarray(_centre(part, side)) for part in planes(picture)]
    return (parts[0] if len(parts) == 1 else np.stack(parts, axis=2)).tobytes()


def _centre(image: Image.Image, side: int) -> Image.Image:
    if image.size == (side, side):
        return image
    width, height = image.size
    short = min(width, height)
    left, top = (width - short) / 2, (height - short) / 2
    box = (left, top, left + short, top + short)
    return image.resize((side, side), Image.Resampling.BICUBIC, box, reducing_gap=_GAP)


def _plain(example: Example, form: Form) -> bytes | None:
    """Return the file of an image that any reader takes as it is; None for any other.

    Another one would be turned or recoloured again in training, or take longer to decode there.
    """
    data = example.data
    if isinstance(data, Path):
        data = data.read_bytes()
    if not isinstance(data, bytes) or not data.startswith(b"\xff\xd8") or not _is_baseline(data):
        return None
    facts = images.facts(Example(example.name, data), form.channels, form.reading)
    return data if facts.kind == "JPEG RGB" and not facts.notes else None


def _is_baseline(jpeg: bytes) -> bool:
    """Say whether the first frame of a JPEG is baseline, by its markers (ITU-T T.81, B.1.1)."""
    return next((marker == _BASELINE for marker in _markers(jpeg) if marker in _FRAMES and marker != _TABLES), False)


def _markers(jpeg: bytes) -> Iterator[int]:
    """Yield the markers before the first scan, each of which begins a segment with a length."""
    place = 2
    while place + 4 <= len(jpeg) and jpeg[place] == 0xFF:
        marker = jpeg[place + 1]
        yield marker
        place += 1 if marker == 0xFF else 2 + int.from_bytes(jpeg[place + 2 : place + 4])  # 0xFF fills
