"""Pixels of any mode, depth and number of channels become 8-bit planes; nothing is clipped or guessed silently.

Shapes: H height, W width, C channels.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

from mae_lite.config import Reading
from mae_lite.errors import DataError

Picture = Image.Image | tuple[Image.Image, ...]
"""A decoded image: mode "L" for 1 channel, "RGB" for 3, else one mode-"L" image for each channel."""

_MODES = {1: "L", 3: "RGB"}
_DEEP = ("I", "F")
_ORIENTATION = 0x0112
_PHOTOMETRIC = 262  # TIFF tag
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image upright, by its EXIF orientation."""
UNDO = {
    Image.Transpose.ROTATE_90: Image.Transpose.ROTATE_270,
    Image.Transpose.ROTATE_270: Image.Transpose.ROTATE_90,
}
"""The turns that are not their own inverse."""


def planes(picture: Picture) -> tuple[Image.Image, ...]:
    """Return the parts of a picture that are transformed alike: itself, or its channels."""
    return picture if isinstance(picture, tuple) else (picture,)


def from_pillow(image: Image.Image, channels: int, reading: Reading, name: str) -> Picture:
    """Return a loaded Pillow image as a picture of ``channels`` channels.

    Raises:
        DataError: when its values have no known range, or it cannot have that many channels.
    """
    turn = orientation(image) if reading.turn_upright else None
    deep = image.mode.startswith(_DEEP)
    flat = _eight_bits(image, reading, name) if deep else image
    if reading.apply_profile and not deep:
        flat = _in_srgb(image, name)
    result = _with_channels(flat, channels, reading, name)
    return turned(result, turn)


def turned(picture: Picture, turn: Image.Transpose | None) -> Picture:
    """Return a picture turned as a whole; None leaves it."""
    if turn is None:
        return picture
    return tuple(part.transpose(turn) for part in picture) if isinstance(picture, tuple) else picture.transpose(turn)


def key_of_png(key: object, bits: int, mode: str) -> object:
    """Return the transparent colour of a PNG in the values that its pixels have after reading; Pillow leaves it as is.

    Args:
        key: a grey value, three of a colour, or alpha values of a palette, which stay.
        bits: of the file, for each channel.
        mode: of the image; "I;16" keeps all bits.
    """
    if isinstance(key, tuple):
        return tuple(value >> 8 for value in key) if bits == 16 else key
    if isinstance(key, int) and mode == "L":
        return key * (255 // (2**bits - 1)) if bits < 8 else key
    return key


def from_array(pixels: npt.NDArray[Any], channels: int, reading: Reading, name: str) -> Picture:
    """Return pixels [H, W], [H, W, C] or, where C = ``channels`` comes first, [C, H, W] as a picture.

    Raises:
        DataError: for another shape, another number of channels, or values of unknown range.
    """
    stack = pixels[:, :, None] if pixels.ndim == 2 else pixels
    if stack.ndim == 3 and stack.shape[2] != channels and stack.shape[0] == channels:
        stack = stack.transpose(1, 2, 0)
    if stack.ndim != 3 or 0 in stack.shape:
        raise DataError(
            f"image {name!r} is not an array of pixels",
            found=f"shape {list(pixels.shape)}",
            expected="[height, width] or [height, width, channels]",
            fix="save it in that shape, or remove it from the data set",
        )
    bytes_ = to_bytes(stack, reading, name)
    count = stack.shape[2]
    if channels in _MODES and count in _MODES:
        flat = Image.fromarray(bytes_[:, :, 0] if count == 1 else np.ascontiguousarray(bytes_))
        return flat if flat.mode == _MODES[channels] else flat.convert(_MODES[channels])
    if count != channels:
        raise _other_channels(count, channels, name)
    return tuple(Image.fromarray(np.ascontiguousarray(bytes_[:, :, channel])) for channel in range(channels))


def to_bytes(values: npt.NDArray[Any], reading: Reading, name: str) -> npt.NDArray[np.uint8]:
    """Scale values of any numeric type to 0 to 255.

    The range is the one of the format or of ``reading.value_range``, never the image's own, so that a dark image
    stays dark. Whole numbers of 16 bits keep their upper 8, which is also what Pillow does for 16-bit colour.

    Raises:
        DataError: for values that are no numbers, or lie outside the range of their format.
    """
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    whole = np.issubdtype(values.dtype, np.integer)
    if not whole and not np.issubdtype(values.dtype, np.floating):
        raise _unknown_range(f"values of type {values.dtype}", name)
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise _unknown_range("values that are no finite numbers", name)
    if reading.value_range is not None and values.dtype != np.uint8:
        bottom, top = reading.value_range
        scaled = np.rint((values.astype(np.float64) - bottom) * 255.0 / (top - bottom))
        return np.clip(scaled, 0, 255).astype(np.uint8)
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        return (values >> 8).astype(np.uint8)
    if not whole and low >= 0 and high <= 1:
        wide = values.astype(np.float32) if values.dtype.itemsize < 4 else values  # 16 bits would round twice
        rounded: npt.NDArray[np.uint8] = np.rint(wide * 255.0).astype(np.uint8)
        return rounded
    raise _unknown_range(f"{low:g} to {high:g} in numbers of type {values.dtype}", name)


def _unknown_range(found: str, name: str) -> DataError:
    return DataError(
        f"image {name!r} has values of unknown range",
        found=found,
        expected="whole numbers of 8 or 16 bits without sign, or floating point from 0 to 1",
        fix="say which values are black and white, e.g. --reading.value-range 0 255, or convert the file",
    )


def _other_channels(count: int, channels: int, name: str) -> DataError:
    return DataError(
        f"image {name!r} has another number of channels than the model",
        found=str(count),
        expected=f"{channels} (encoder.channels)",
        fix=f"--encoder.channels {count}, with --augmentation.mean and --augmentation.std for each",
    )


def check_size(size: tuple[int, ...], reading: Reading, name: str) -> None:
    """Refuse an image of more pixels, or shorter sides, than allowed; raises DataError."""
    if size[0] * size[1] > reading.max_pixels:
        raise too_large(f"{size[0]} x {size[1]} pixels", reading, name)
    if min(size[:2]) < reading.smallest_side:
        raise DataError(
            f"image {name!r} is too small",
            found=f"{size[0]} x {size[1]} pixels",
            expected=f"sides of at least {reading.smallest_side} pixels (reading.smallest_side)",
            fix="remove it from the data set, or have it enlarged with --reading.smallest-side 1",
        )


def too_large(found: str, reading: Reading, name: str) -> DataError:
    """Return the error of an image of too many pixels."""
    return DataError(
        f"image {name!r} is too large to decode",
        found=found,
        expected=f"at most {reading.max_pixels:,} pixels",
        fix="scale it down beforehand, remove it, or raise --reading.max-pixels",
    )


def orientation(image: Image.Image) -> Image.Transpose | None:
    """Return how the EXIF block says to turn the image; None for not at all."""
    try:
        return TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # the EXIF block is broken, the pixels are not: viewers and training sets alike ignore it
        return None


def _eight_bits(image: Image.Image, reading: Reading, name: str) -> Image.Image:
    """Return an image of more than 8 bits per pixel (modes I, I;16*, F) in mode L."""
    values = np.asarray(image)
    if image.format == "PPM" and reading.value_range is None:  # Pillow spreads these over 16 bits
        values = values.astype(np.uint16)
    result = to_bytes(values, reading, name)
    if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0:  # 0 is white; Pillow heeds it up to 8 bits only
        result = 255 - result
    key = image.info.get("transparency")
    if isinstance(key, int):
        result = np.where(values == key, np.uint8(reading.background), result)
    return Image.fromarray(result)


def _in_srgb(image: Image.Image, name: str) -> Image.Image:
    """Return the image in sRGB, as its ICC profile says; without one it stays as it is."""
    profile = image.info.get("icc_profile")
    if not profile:
        return image
    colours = image if image.mode in ("RGB", "CMYK", "L") else image.convert("RGBA" if _transparent(image) else "RGB")
    alpha = colours.getchannel("A") if colours.mode == "RGBA" else None
    try:
        target = ImageCms.createProfile("sRGB")
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        plain = colours.convert("RGB") if alpha is not None else colours
        converted = ImageCms.profileToProfile(plain, source, target, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        raise DataError(
            f"image {name!r} has a colour profile that cannot be applied",
            found=f"{type(error).__name__}: {error}",
            fix="save it without the profile, or leave profiles alone with --reading.apply-profile False",
        ) from error
    if converted is None:
        return image
    if alpha is not None:
        converted.putalpha(alpha)
    return converted


def _transparent(image: Image.Image) -> bool:
    return bool(image.has_transparency_data)


def _with_channels(image: Image.Image, channels: int, reading: Reading, name: str) -> Picture:
    if channels not in _MODES:
        bands = image.split()
        if len(bands) != channels:
            raise _other_channels(len(bands), channels, name)
        return bands
    if _transparent(image):
        colours = image.convert("RGBA")
        behind = Image.new("RGBA", colours.size, (reading.background,) * 3 + (255,))
        image = Image.alpha_composite(behind, colours).convert("RGB")
    mode = _MODES[channels]
    if image.mode == mode:
        return image
    # Pillow converts every mode to RGB, but not every mode (CMYK, palettes) to grey.
    return image.convert(mode) if image.mode in ("1", "L") else image.convert("RGB").convert(mode)
