"""The image guard: golden pixels per mode, and a clear error for everything that is no whole image."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from mae_lite.data.images import decode
from mae_lite.data.sources import Example
from mae_lite.errors import DataError

Array = npt.NDArray[np.uint8]


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """Return the bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(height: int = 24, width: int = 40) -> Image.Image:
    """Return a colour image without structure."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def pixels(data: bytes, channels: int = 3) -> Array:
    """Return what the guard makes of a file."""
    image = decode(Example("golden", data), channels)
    assert isinstance(image, Image.Image) and image.mode == {1: "L", 3: "RGB"}[channels]
    return np.asarray(image)


def solid(mode: str, colour: object) -> Image.Image:
    """Return a small image of one colour."""
    return Image.new(mode, (3, 2), colour)  # type: ignore[arg-type]


def palette_with_transparency() -> bytes:
    """Return a GIF-like palette image whose entry 1 is transparent and entry 0 is (10, 20, 30)."""
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), mode="P")
    image.putpalette([10, 20, 30, 200, 210, 220])
    return encoded(image, transparency=1)


GREY_OF_10_20_30 = (10 * 19595 + 20 * 38470 + 30 * 7471 + 0x8000) >> 16


@pytest.mark.parametrize(
    ("image", "kind", "colour"),
    [
        (solid("RGB", (10, 20, 30)), "PNG", (10, 20, 30)),
        (solid("L", 77), "PNG", (77, 77, 77)),
        (solid("1", 1), "PNG", (255, 255, 255)),
        (solid("RGBA", (100, 200, 50, 255)), "PNG", (100, 200, 50)),
        (solid("RGBA", (100, 200, 50, 0)), "PNG", (0, 0, 0)),
        (solid("RGBA", (100, 200, 50, 51)), "PNG", (20, 40, 10)),
        (solid("LA", (100, 51)), "PNG", (20, 20, 20)),
        (solid("CMYK", (0, 255, 255, 0)), "TIFF", (255, 0, 0)),
        (solid("CMYK", (255, 0, 255, 0)), "JPEG", (0, 255, 1)),
        (solid("I;16", 0x7FFF), "PNG", (127, 127, 127)),
        (solid("F", 0.5), "TIFF", (128, 128, 128)),
        (solid("F", 1.0), "TIFF", (255, 255, 255)),
    ],
)
def test_golden_pixels_of_each_mode(image: Image.Image, kind: str, colour: tuple[int, int, int]) -> None:
    found = pixels(encoded(image, kind))
    assert found.shape == (2, 3, 3)
    assert np.abs(found.astype(int) - colour).max() <= (1 if kind == "JPEG" else 0)
    grey = pixels(encoded(image, kind), channels=1)
    expected = np.asarray(Image.fromarray(found).convert("L"))
    assert (grey == expected).all()


def test_palette_with_transparency_lies_over_black() -> None:
    assert pixels(palette_with_transparency()).tolist() == [[[10, 20, 30], [0, 0, 0]]]
    assert pixels(palette_with_transparency(), channels=1).tolist() == [[GREY_OF_10_20_30, 0]]


def test_transparent_colour_of_an_rgb_png_lies_over_black() -> None:
    image = Image.fromarray(np.array([[[1, 2, 3], [9, 9, 9]]], dtype=np.uint8))
    assert pixels(encoded(image, transparency=(9, 9, 9))).tolist() == [[[1, 2, 3], [0, 0, 0]]]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_ramp_keeps_256_levels(kind: str) -> None:
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    found = pixels(encoded(Image.fromarray(ramp), kind), channels=1)
    assert (found == ramp >> 8).all()
    assert len(np.unique(found)) == 256


@pytest.mark.parametrize("value", [-1.0, 300.0, float("nan"), float("inf")])
def test_float_of_unknown_range_is_an_error(value: float) -> None:
    check_error(encoded(solid("F", value), "TIFF"), "unknown range")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "I;16"])
def test_exif_orientation_is_applied(orientation: int, mode: str) -> None:
    image = noise(4, 6) if mode == "RGB" else Image.fromarray(np.arange(24, dtype=np.uint16).reshape(4, 6) * 2560)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image, exif=exif)
    with Image.open(io.BytesIO(data)) as file:
        upright = ImageOps.exif_transpose(file)
    expected = np.asarray(upright) if mode == "RGB" else np.asarray(upright) >> 8
    assert (pixels(data, 3 if mode == "RGB" else 1) == expected).all()


def test_broken_exif_leaves_the_image_as_it_is() -> None:
    data = encoded(noise(), exif=b"Exif\0\0MM\0*\0\0\xff\xff garbage")
    assert (pixels(data) == np.asarray(noise())).all()


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_first_frame_of_several(kind: str) -> None:
    frames = [solid("RGB", (200, 0, 0)), solid("RGB", (0, 200, 0))]
    data = encoded(
        frames[0], kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {})
    )
    assert (pixels(data) == (200, 0, 0)).all()


def check_error(data: bytes | Path, *words: str) -> None:
    """Assert that the guard refuses a file by the error contract."""
    with pytest.raises(DataError) as caught:
        decode(Example("album/odd name.jpg", data), 3)
    text = str(caught.value)
    assert caught.value.exit_code == 3
    assert "album/odd name.jpg" in text and "\nFix: " in text
    for word in words:
        assert word in text


FILES = {
    "jpeg": encoded(noise(), "JPEG"),
    "progressive": encoded(noise(), "JPEG", progressive=True),
    "png": encoded(noise()),
    "webp": encoded(noise(), "WEBP"),
    "bmp": encoded(noise(), "BMP"),
    "gif": encoded(noise(), "GIF"),
    "tiff": encoded(noise(), "TIFF"),
    "ppm": encoded(noise(), "PPM"),
}


@pytest.mark.parametrize("kind", FILES)
def test_truncation_is_never_silent(kind: str) -> None:
    data = FILES[kind]
    whole = pixels(data)
    assert np.asarray(whole).any()
    for percent in range(0, 96, 5):
        check_error(data[: len(data) * percent // 100])
    for cut in range(1, 40):  # the last bytes may be trailers: then every pixel must still be right
        try:
            found = pixels(data[:-cut])
        except DataError:
            continue
        assert (found == whole).all()


@given(st.binary(max_size=200), st.sampled_from(sorted(FILES)), st.integers(0, 60))
@settings(max_examples=60, deadline=None)
def test_any_bytes_give_an_image_or_a_data_error(junk: bytes, kind: str, keep: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # not even a warning reaches the user
        try:
            decode(Example("junk", FILES[kind][:keep] + junk), 3)
        except DataError as error:
            assert "'junk'" in str(error)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "0 bytes"),
        (bytes(500), "zero bytes"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html><title>404</title>", "web page"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"%PDF-1.7", "PDF"),
        (b"PK\x03\x04rest", "zip"),
        (b"just some text", "no image of a known kind"),
        (FILES["jpeg"][:20], "damaged or truncated|no image"),
    ],
)
def test_what_is_no_image_is_named(data: bytes, words: str) -> None:
    with pytest.raises(DataError, match=words):
        decode(Example("x", data), 3)


def test_paths(tmp_path: Path) -> None:
    path = tmp_path / "a b.png"
    path.write_bytes(FILES["png"])
    assert np.asarray(decode(Example(str(path), path), 3)).tolist() == np.asarray(noise()).tolist()
    check_error(tmp_path / "none.png", "No such file")
    check_error(tmp_path, "directory")
    path.write_bytes(FILES["png"][:100])
    check_error(path, "truncated")


def png_that_claims(width: int, height: int) -> bytes:
    """Return about 100 bytes that look like a huge PNG."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(10001, 10000), (30000, 30000), (1, 100_000_001)])
def test_huge_images_are_refused_from_their_header(width: int, height: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_error(png_that_claims(width, height), "too large", "100,000,000")


def test_formats_outside_the_list_are_refused() -> None:
    check_error(encoded(noise(), "TGA"), "no image of a known kind")


def test_an_image_has_the_channels_of_the_model_or_is_an_error() -> None:
    with pytest.raises(DataError, match=r"(?s)found 3, expected 4.*\nFix: --encoder.channels 3"):
        decode(Example("x", FILES["png"]), 4)


def test_the_pixels_do_not_need_the_file_any_more(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(FILES["jpeg"])
    image = decode(Example("x", path), 3)
    path.unlink()
    assert isinstance(image, Image.Image) and image.resize((2, 2)).size == (2, 2)
