"""The only module that opens images: any file a user may have becomes plain 8-bit pixels, or a clear error.

Rules, the same in training and in evaluation:

* EXIF orientation is applied; an unreadable EXIF block means "not turned".
* Transparency is composited over black. ICC profiles are ignored, as the field's training sets were made so.
* 16-bit images keep their upper 8 bits, over the full range; Pillow alone would clip them to white.
* Of animations and multi-page files, the first frame counts.
* A truncated file is an error; its missing part is never filled in.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from mae_lite.errors import ConfigError, DataError

MAX_PIXELS = 100_000_000
"""Largest width x height that is decoded; the header tells, before any memory is taken."""

# An allow-list: Pillow's other readers are rarely used and have been the source of decompression bombs.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
_MODES = {1: "L", 3: "RGB"}
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LOOKS_LIKE = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself (run: git lfs pull)",
    b"<!doctype html": "a web page",
    b"<html": "a web page",
    b"<svg": "an SVG drawing",
    b"<?xml": "an XML or SVG text",
    b"%pdf": "a PDF document",
    b"pk\x03\x04": "a zip archive",
}


def decode(data: bytes | Path, channels: int, name: str) -> Image.Image:
    """Decode one image completely.

    Args:
        data: the encoded file, or where it is.
        channels: 1 for grey (mode "L"), 3 for colour (mode "RGB").
        name: what to call the image in an error, e.g. its path.

    Returns:
        The image, turned upright, in 8 bits per channel, with all pixels in memory.

    Raises:
        DataError: when the file is missing, damaged, truncated, too large or of an unknown kind; names the image.
        ConfigError: when ``channels`` is neither 1 nor 3.
    """
    if channels not in _MODES:
        raise ConfigError(
            "encoder.channels", found=str(channels), expected="1 (grey) or 3 (colour)", fix="--encoder.channels 3"
        )
    try:
        with warnings.catch_warnings():
            # Sizes are checked below, and Pillow's other warnings (odd EXIF, odd TIFF tags) leave the pixels right.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data, formats=_FORMATS) as image:
                _check_size(image.size, name)
                image.load()
                return _upright(_convert(image, _MODES[channels], name), image)
    except (DataError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(str(error), name) from error
    except Exception as error:  # damaged files make Pillow raise nearly anything: SyntaxError, struct.error, ...
        raise DataError(
            f"image {name!r} cannot be read",
            found=_reason(data, error),
            expected=f"a complete image file ({', '.join(_FORMATS)})",
            fix="replace it by an intact copy, or remove it from the data set",
        ) from error


def _check_size(size: tuple[int, int], name: str) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        raise _too_large(f"{size[0]} x {size[1]} pixels", name)


def _too_large(found: str, name: str) -> DataError:
    return DataError(
        f"image {name!r} is too large to decode",
        found=found,
        expected=f"at most {MAX_PIXELS:,} pixels",
        fix="scale it down beforehand, or remove it from the data set",
    )


def _reason(data: bytes | Path, error: Exception) -> str:
    """Say what the file is instead of an image, as far as its first bytes tell."""
    if isinstance(data, Path):
        if isinstance(error, FileNotFoundError | IsADirectoryError | PermissionError):
            return f"{error.strerror}"
        with data.open("rb") as handle:
            head = handle.read(64)
    else:
        head = data[:64]
    if not head:
        return "an empty file (0 bytes)"
    if not head.strip(b"\0"):
        return "a file of zero bytes only, at least at its start"
    for start, kind in _LOOKS_LIKE.items():
        if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(start):
            return kind
    if isinstance(error, UnidentifiedImageError):
        return f"no image of a known kind (its first bytes are {head[:12]!r})"
    return f"damaged or truncated content ({type(error).__name__}: {error})"


def _upright(image: Image.Image, original: Image.Image) -> Image.Image:
    try:
        turn = _TURNS.get(original.getexif().get(_ORIENTATION, 1))
    except Exception:  # the EXIF block is broken, the pixels are not: viewers and training sets alike ignore it
        turn = None
    return image if turn is None else image.transpose(turn)


def _convert(image: Image.Image, mode: str, name: str) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        image = _reduced(image, name)
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", colours.size, (0, 0, 0, 255)), colours).convert("RGB")
    if image.mode == mode:
        return image
    # Pillow converts every mode to RGB, but not every mode (CMYK, palettes) to grey.
    return image.convert(mode) if image.mode in ("1", "L") else image.convert("RGB").convert(mode)


def _reduced(image: Image.Image, name: str) -> Image.Image:
    """Return an image of more than 8 bits per pixel (modes I, I;16*, F) in mode L.

    The range is the one of the format (16 bits; 0 to 1 or 0 to 255 for float), never the image's own, so that
    a dark image stays dark. 16 bits keep their upper 8, which is also what Pillow does for 16-bit colour.
    """
    pixels = np.asarray(image)
    low, high = float(pixels.min()), float(pixels.max())
    if image.mode == "F" and 0 <= low and high <= 255:
        scaled = np.rint(pixels * (255.0 if high <= 1 else 1.0))
    elif image.mode != "F" and 0 <= low and high <= 65535:
        scaled = pixels >> 8
    else:
        raise DataError(
            f"image {name!r} has values of unknown range",
            found=f"{low:g} to {high:g} in Pillow's mode {image.mode!r}",
            expected="0 to 65535 for integers, 0 to 1 or 0 to 255 for floating point",
            fix="convert it to an 8-bit or 16-bit file beforehand",
        )
    return Image.fromarray(scaled.astype(np.uint8))
