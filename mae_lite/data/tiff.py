"""TIFF files that Pillow cannot read: any number and depth of channels."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image, ImageChops

from mae_lite.config import Reading
from mae_lite.data.pixels import TURNS, Picture, check_size, from_array, turned

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what is wrong with a file is said once, by its error


def from_tiff(data: bytes | Path, channels: int, reading: Reading, name: str) -> Picture:
    """Read a TIFF by the reader that knows any number and depth of channels."""
    pixels, turn, white_is_zero = _pages(data, channels, reading, name)
    picture = from_array(pixels, channels, reading, name)
    if white_is_zero and isinstance(picture, Image.Image):
        picture = ImageChops.invert(picture)
    return turned(picture, turn if reading.turn_upright else None)


def _pages(
    data: bytes | Path, channels: int, reading: Reading, name: str
) -> tuple[npt.NDArray[Any], Image.Transpose | None, bool]:
    """Return the channels of a TIFF that Pillow cannot read, how to turn them upright, and whether 0 is white."""
    with tifffile.TiffFile(io.BytesIO(data) if isinstance(data, bytes) else data) as file:
        if not len(file.pages):
            raise ValueError("its directory lies beyond its end")  # told by decode as what is wrong with the file
        page: Any = file.pages[0]
        check_size((page.imagewidth, page.imagelength), reading, name)
        turn = TURNS.get(int(page.tags.valueof(274, 1)))
        white_is_zero = int(page.photometric) == 0 and page.samplesperpixel == 1
        if page.ndim == 2 and len(file.pages) == channels:
            pages: list[Any] = [file.pages[number].asarray() for number in range(channels)]
            return np.stack(pages, axis=2), turn, white_is_zero
        pixels: npt.NDArray[Any] = page.asarray()
        if page.ndim == 3 and "S" in page.axes:
            pixels = np.moveaxis(pixels, page.axes.index("S"), 2)
        return pixels, turn, white_is_zero
