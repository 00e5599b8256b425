"""The only module that opens images: any file a user may have becomes plain 8-bit pixels, or a clear error.

Rules, the same in training and in evaluation, set by :class:`mae_lite.config.Reading`:

* EXIF orientation is applied; an unreadable EXIF block means "not turned".
* Transparency is composited over black. ICC profiles are ignored, as the field's training sets were made so.
* 16-bit images keep their upper 8 bits, over the full range; Pillow alone would clip them to white.
* Of animations and multi-page files, the first frame counts.
* A truncated file is an error; its missing part is never filled in. Rot inside a JPEG that still decodes cannot be seen
  here; only hashes of a good copy tell (``mae-lite check --compare-hashes``).
* Other than 1 or 3 channels come from NumPy files and TIFF; there, as many pages as channels are one image.
"""

from __future__ import annotations

import errno
import io
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image, UnidentifiedImageError

from mae_lite.config import Reading
from mae_lite.data.pixels import UNDO, Picture, check_size, from_array, from_pillow, key_of_png, orientation, too_large
from mae_lite.data.raster import JPEG, Raster, Reduction, of_jpeg, size_of_bare
from mae_lite.data.sources import Encoded, Example
from mae_lite.data.tiff import from_tiff
from mae_lite.errors import DataError

# An allow-list: Pillow's other readers are rarely used and have been the source of decompression bombs.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
_NUMPY = b"\x93NUMPY"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BITS, _PLANAR = 258, 284  # TIFF tags
_IMAGES = (JPEG, b"\x89PNG", b"GIF8", *_TIFF)
_LOOKS_LIKE = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself (run: git lfs pull)",
    b"<!doctype html": "a web page",
    b"<html": "a web page",
    b"<svg": "an SVG drawing",
    b"<?xml": "an XML or SVG text",
    b"%pdf": "a PDF document",
    b"pk\x03\x04": "a zip archive",
}


def decode(example: Example, channels: int, reading: Reading = Reading()) -> Picture:  # noqa: B008  # it is frozen
    """Decode one image completely.

    Args:
        example: the encoded file, where it is, or its pixels.
        channels: 1 for grey, 3 for colour; another number takes the file's own channels, which must be as many.
        reading: rules of conversion.

    Returns:
        The image, turned upright, in 8 bits per channel, with all pixels in memory.

    Raises:
        DataError: when the file is missing, damaged, truncated, too large, too small, of an unknown kind, or has other
            channels; names the image.
    """
    with _told(example):
        return _decode(example.data, channels, reading, example.name)


def decode_raster(
    example: Example, channels: int, reading: Reading, reduction: Reduction | None = None
) -> Picture | Raster:
    """Decode one image, as an array where it is colour and plain: a JPEG file, or pixels of 8 bits.

    Args:
        example: as in :func:`decode`, which tells the same errors.
        channels: as there.
        reading: rules of conversion.
        reduction: says how much smaller than it is a JPEG may be decoded; None for not at all.
    """
    data, name = example.data, example.name
    if channels == 3 and isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.shape[2:] == (3,):
        check_size(data.shape[:2], reading, name)  # there is nothing to decode, and nothing else to go wrong
        return Raster(data, (data.shape[1], data.shape[0]))
    with _told(example):
        if channels == 3 and isinstance(data, bytes | Path):
            head = _head(data, whole=JPEG)
            if head.startswith(JPEG):
                data = data if isinstance(data, bytes) else head
                raster = _jpeg(data, reading, name, reduction)
                if raster is not None:
                    return raster
        return _decode(data, channels, reading, name)


def _jpeg(encoded: bytes, reading: Reading, name: str, reduction: Reduction | None) -> Raster | None:
    """Return a plain JPEG; None for what must go the long way, where errors of the header are told, too."""
    size, turn = size_of_bare(encoded), None
    if size is None:
        try:
            with Image.open(io.BytesIO(encoded), formats=("JPEG",)) as image:
                profile = reading.apply_profile and "icc_profile" in image.info
                if image.format != "JPEG" or image.mode not in ("L", "RGB") or profile:
                    return None
                size, turn = image.size, orientation(image) if reading.turn_upright else None
        except (UnidentifiedImageError, Image.DecompressionBombError):
            return None
    check_size(size, reading, name)
    return of_jpeg(encoded, size, turn, reduction)


@contextmanager
def _told(example: Example) -> Iterator[None]:
    """Turn whatever is raised in decoding into a DataError that names the image."""
    data, name = example.data, example.name
    try:
        with warnings.catch_warnings():
            # Sizes are checked, and Pillow's other warnings (odd EXIF, odd TIFF tags) leave the pixels right.
            warnings.simplefilter("ignore")
            yield
    except (DataError, MemoryError):
        raise
    except Exception as error:  # damaged files make the libraries raise nearly anything: SyntaxError, struct.error, ...
        packed = "imagecodecs" in str(error)  # an extra package of tifffile's for rarer compressions
        raise DataError(
            f"image {name!r} cannot be read",
            found="a compression that needs another package" if packed else _reason(data, error),
            expected=f"a complete image file ({', '.join(_FORMATS)}, npy)",
            fix="pip install imagecodecs, or save it without compression"
            if packed
            else "replace it by an intact copy, or remove it from the data set",
        ) from error


def _decode(data: Encoded, channels: int, reading: Reading, name: str) -> Picture:
    if isinstance(data, np.ndarray):
        check_size(data.shape[:2] if data.ndim > 1 else (1, data.size), reading, name)
        return from_array(data, channels, reading, name)
    if isinstance(data, Image.Image):
        check_size(data.size, reading, name)
        return from_pillow(data, channels, reading, name)
    head = _head(data)
    if head.startswith(_NUMPY):
        return from_array(_numpy(data, reading, name), channels, reading, name)
    if head.startswith(_TIFF) and channels not in (1, 3):
        return from_tiff(data, channels, reading, name)
    try:
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data, formats=_FORMATS) as image:
            check_size(image.size, reading, name)
            if _deep_planes(image):
                return from_tiff(data, channels, reading, name)
            if "transparency" in image.info and image.format == "PNG":
                image.info["transparency"] = key_of_png(image.info["transparency"], head[24], image.mode)
            undo = _loaded(image)
            if undo is not None and not reading.turn_upright:
                return from_pillow(image.transpose(undo), channels, reading, name)
            return from_pillow(image, channels, reading, name)
    except Image.DecompressionBombError as error:
        raise too_large(str(error), reading, name) from error
    except UnidentifiedImageError:
        if not head.startswith(_TIFF):
            raise
    return from_tiff(data, channels, reading, name)


def _deep_planes(image: Image.Image) -> bool:
    """Say whether a TIFF has a plane for each colour and more than 8 bits, which Pillow reads in the wrong order."""
    tags = getattr(image, "tag_v2", {})
    return tags.get(_PLANAR, 1) == 2 and len(image.getbands()) > 1 and max(tags.get(_BITS, (8,))) > 8


def _loaded(image: Image.Image) -> Image.Transpose | None:
    """Load an image; return what undoes the turn where Pillow has turned it already, as it does with every TIFF."""
    turn = orientation(image) if image.format == "TIFF" else None
    image.load()
    return None if turn is None else UNDO.get(turn, turn)


def _head(data: bytes | Path, whole: bytes | None = None) -> bytes:
    """Return the first bytes of a file; all of a file on the disk that begins with ``whole``."""
    if isinstance(data, bytes):
        return data[:64]
    mode = data.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # a pipe would be waited for without end; folders say it
        raise OSError(errno.EINVAL, "a pipe, socket or device, no file")
    with data.open("rb") as handle:
        if whole is not None and handle.peek(len(whole)).startswith(whole):
            return handle.read()
        return handle.read(64)


def _numpy(data: bytes | Path, reading: Reading, name: str) -> npt.NDArray[Any]:
    """Return the array of a NumPy file; its header is checked before memory is taken, and objects are refused."""
    if isinstance(data, Path):
        with data.open("rb") as handle:
            return _array_in(handle, data.stat().st_size, reading, name)
    return _array_in(io.BytesIO(data), len(data), reading, name)


def _array_in(handle: BinaryIO, size: int, reading: Reading, name: str) -> npt.NDArray[Any]:
    version = np.lib.format.read_magic(handle)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, kind = header(handle)
    sides = sorted(shape, reverse=True)[:2] if len(shape) > 1 else [1, *shape, 1]
    check_size((sides[0], sides[1]), reading, name)
    expected = handle.tell() + int(np.prod(shape, dtype=object)) * kind.itemsize
    if kind.hasobject or expected != size:
        raise DataError(
            f"image {name!r} is not an array of numbers",
            found="Python objects" if kind.hasobject else f"{size} bytes for shape {list(shape)} of {kind}",
            expected="numbers only" if kind.hasobject else f"{expected} bytes",
            fix="save it again with numpy.save, or remove it from the data set",
        )
    handle.seek(0)
    array: npt.NDArray[Any] = np.load(handle, allow_pickle=False)
    return array


def _reason(data: Encoded, error: Exception) -> str:
    """Say what the file is instead of an image, as far as its first bytes tell."""
    if isinstance(error, OSError) and error.errno is not None and isinstance(data, Path):
        return str(error.strerror)
    if not isinstance(data, bytes | Path):
        return f"{type(error).__name__}: {error}"
    head = _head(data)
    if not head:
        return "an empty file (0 bytes)"
    if not head.strip(b"\0"):
        return "a file of zero bytes only, at least at its start"
    for start, kind in _LOOKS_LIKE.items():
        if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(start):
            return kind
    if isinstance(error, UnidentifiedImageError) and not head.startswith(_IMAGES):
        return f"no image of a known kind (its first bytes are {head[:12]!r})"
    detail = (
        "its header breaks off" if isinstance(error, UnidentifiedImageError) else f"{type(error).__name__}: {error}"
    )
    return f"damaged or truncated content ({detail})"


@dataclass(frozen=True)
class Facts:
    """What the header of an image file says."""

    kind: str
    """File format and colour mode, e.g. "JPEG RGB"."""
    width: int
    height: int
    notes: tuple[str, ...]
    """What is done to it on reading, e.g. "turned upright"."""


def facts(example: Example, channels: int, reading: Reading) -> Facts:
    """Return what the header says; call it for images that :func:`decode` could read."""
    data = example.data
    if isinstance(data, np.ndarray) or (not isinstance(data, Image.Image) and _head(data).startswith(_NUMPY)):
        array = data if isinstance(data, np.ndarray) else _numpy(data, reading, example.name)
        height, width = array.shape[:2] if array.ndim == 2 or array.shape[0] != channels else array.shape[1:]
        return Facts(f"array {array.dtype}", width, height, ())
    if isinstance(data, Image.Image):
        return Facts(f"pixels {data.mode}", *data.size, ())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data, formats=_FORMATS) as image:
                return Facts(f"{image.format} {image.mode}", *image.size, tuple(_notes(image, channels, reading)))
        except UnidentifiedImageError:
            with tifffile.TiffFile(io.BytesIO(data) if isinstance(data, bytes) else data) as file:
                page: Any = file.pages[0]
                return Facts(f"TIFF {page.dtype} x {page.samplesperpixel}", page.imagewidth, page.imagelength, ())


def _notes(image: Image.Image, channels: int, reading: Reading) -> Iterator[str]:
    if orientation(image) is not None:
        yield "turned upright" if reading.turn_upright else "left lying as stored"
    if image.mode.startswith(("I", "F")):
        yield "reduced to 8 bits"
    if image.has_transparency_data and channels in (1, 3):
        yield f"put on a background of {reading.background}"
    if image.info.get("icc_profile"):
        yield "colour profile applied" if reading.apply_profile else "colour profile ignored"
    if _frames(image) > 1:
        yield "only its first frame taken"


def _frames(image: Image.Image) -> int:
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # the first frame is whole, and that is the one that counts; a later one is damaged
        return 1
