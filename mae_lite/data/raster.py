"""The short way of colour images: JPEG files become arrays, and arrays are resized, without Pillow in between.

Decoding gives the pixels that Pillow gives, for both use libjpeg-turbo with its accurate transform; whatever is not
plain goes the long way (:mod:`mae_lite.data.images`), so that the same files are refused. Resizing is torch's for
bytes: the antialiased filters of Pillow, whose weights have fewer bits.

Shapes: H height, W width, S side of the output.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import simplejpeg
import torch
from PIL import Image

Bytes = npt.NDArray[np.uint8]
Box = tuple[int, int, int, int]
"""Left, top, width, height in pixels."""
Reduction = Callable[[tuple[int, int]], int]
"""By how much an image of a width and height may be made smaller in decoding: 1, 2, 4 or 8."""

JPEG = b"\xff\xd8\xff"

_SCAN = 0xDA
_BARE = frozenset((0xC0, 0xC2, 0xC4, 0xDB, 0xDD, 0xE0, 0xFE))
"""Kinds of segments: baseline, progressive, tables of Huffman and of quantisation, restart interval, JFIF, comment."""

_TURNED: dict[Image.Transpose, Callable[[Bytes], Bytes]] = {
    Image.Transpose.FLIP_LEFT_RIGHT: lambda pixels: pixels[:, ::-1],
    Image.Transpose.ROTATE_180: lambda pixels: pixels[::-1, ::-1],
    Image.Transpose.FLIP_TOP_BOTTOM: lambda pixels: pixels[::-1],
    Image.Transpose.TRANSPOSE: lambda pixels: pixels.transpose(1, 0, 2),
    Image.Transpose.ROTATE_270: lambda pixels: pixels[::-1].transpose(1, 0, 2),
    Image.Transpose.TRANSVERSE: lambda pixels: pixels[::-1, ::-1].transpose(1, 0, 2),
    Image.Transpose.ROTATE_90: lambda pixels: pixels[:, ::-1].transpose(1, 0, 2),
}
_SIDEWAYS = (
    Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
)


@dataclass(frozen=True, slots=True)
class Raster:
    """A colour image as an array, perhaps smaller than its file says."""

    pixels: Bytes
    """[H, W, 3] after division by ``reduced``, rounded up; a view of any strides, perhaps read-only."""
    size: tuple[int, int]
    """Width and height of the whole image, in which crops are given."""
    reduced: int = 1
    """By how much it was made smaller in decoding."""


def size_of_bare(encoded: bytes) -> tuple[int, int] | None:
    """Return width and height of a JPEG file of which nothing but its pixels matters, without Pillow's reading.

    Returns:
        None for a file that says how to turn it, has a profile, is in no colours of these, or is odd: Pillow decides.
    """
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(encoded)
    except ValueError:
        return None
    return (width, height) if colours in ("Gray", "YCbCr") and _is_bare(encoded) else None


def _is_bare(encoded: bytes) -> bool:
    """Say whether no segment comes before the pixels that may matter: EXIF, a profile, several pictures, ..."""
    place = 2
    while encoded[place : place + 1] == b"\xff":
        if (kind := encoded[place + 1]) == _SCAN:
            return True
        if kind not in _BARE:
            return False
        place += 2 + int.from_bytes(encoded[place + 2 : place + 4])
    return False


def of_jpeg(
    encoded: bytes, size: tuple[int, int], turn: Image.Transpose | None, reduction: Reduction | None
) -> Raster | None:
    """Decode a JPEG file of 8 bits, in grey or colour, without a profile to apply.

    Args:
        encoded: the file.
        size: width and height of what is stored.
        turn: what makes it upright.
        reduction: asked with the upright size; None decodes all pixels.

    Returns:
        The image, upright; None for damage, or even an oddity that libjpeg warns of.
    """
    upright = size[::-1] if turn in _SIDEWAYS else size
    factor = 1 if reduction is None else reduction(upright)
    if turn is not None and any(side % factor for side in size):
        factor = 1  # the last pixel is narrower than the others, and after turning it may come first
    width, height = (-(-side // factor) for side in size)
    try:
        pixels = simplejpeg.decode_jpeg(encoded, "RGB", min_height=height, min_width=width, min_factor=factor)
    except ValueError:
        return None
    if pixels.shape != (height, width, 3):
        return None
    return Raster(pixels if turn is None else _TURNED[turn](pixels), upright, factor)


def resize_into(picture: Image.Image | Raster, box: Box, name: str, out: Bytes, flip: bool = False) -> None:
    """Crop, resize and mirror a colour image.

    Args:
        picture: any size.
        box: what to take of it, in pixels of the whole image.
        name: "bicubic" or "bilinear".
        out: [3, S, S], where to write it: planes, or a view of [S, S, 3].
        flip: whether to mirror left to right.
    """
    left, top, width, height = box
    planes = torch.from_numpy(out)
    sides = planes.shape[1:]
    if isinstance(picture, Image.Image):
        pixels = np.asarray(picture.crop((left, top, left + width, top + height)))
    elif picture.reduced > 1:
        pixels = _from_reduced(picture, box, len(out[0]), name)
    else:
        pixels = picture.pixels[top : top + height, left : left + width]
    # A copy, for torch takes neither negative strides nor read-only memory, and is fast on contiguous pixels alone.
    crop = torch.from_numpy(np.array(pixels, order="C")).permute(2, 0, 1)
    if crop.shape[1:] == sides:
        planes.copy_(crop)
    else:
        # What functional.interpolate calls, but that cannot write to a place, and a copy costs a tenth of the rest.
        resize = torch.ops.aten._upsample_bicubic2d_aa if name == "bicubic" else torch.ops.aten._upsample_bilinear2d_aa
        resize.out(crop[None], sides, False, None, out=planes[None])
    if flip:
        planes.copy_(planes.flip(-1))


def _from_reduced(raster: Raster, box: Box, side: int, name: str) -> Bytes:
    """Resize a crop whose edges lie between pixels; Pillow can do that, and decoding has taken more time anyway."""
    left, top, width, height = (value / raster.reduced for value in box)
    x, y = math.floor(left), math.floor(top)
    part = np.ascontiguousarray(raster.pixels[y : math.ceil(top + height), x : math.ceil(left + width)])
    within = (left - x, top - y, left - x + width, top - y + height)
    resampling = Image.Resampling[name.upper()]
    return np.asarray(Image.fromarray(part).resize((side, side), resampling, within))
