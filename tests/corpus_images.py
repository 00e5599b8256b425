"""Odd and bad image files, written by hand or from known pixels: (name, bytes, channels, what they must become)."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image, ImageCms

Array = npt.NDArray[Any]


class Good(NamedTuple):
    """A file that must be read."""

    data: bytes
    expected: Array
    """[H, W] or [H, W, C] values of 0 to 255."""
    channels: int = 3
    tolerance: int = 0
    """Lossy formats only."""


RGB = np.array([[[10, 20, 30], [200, 100, 50], [0, 255, 7]], [[255, 0, 0], [1, 2, 3], [90, 80, 70]]], np.uint8)
GREY = np.array([[0, 17, 85, 255], [34, 51, 170, 128]], np.uint8)
BITS = np.array([[0, 255, 255, 0, 255, 0, 0, 0], [255, 0, 0, 255, 0, 0, 255, 255]], np.uint8)
FIVE = np.random.default_rng(0).integers(0, 256, (24, 40, 5), dtype=np.uint8)
SMOOTH = np.stack([np.add.outer(np.arange(32) * 3, np.arange(48) * 2) + c for c in (0, 20, 40)], 2).astype(np.uint8)
"""What JPEG and WebP keep nearly as it is."""
# What an orientation of the EXIF standard does to stored rows and columns, by index arithmetic alone.
UPRIGHT = {
    1: RGB,
    2: RGB[:, ::-1],
    3: RGB[::-1, ::-1],
    4: RGB[::-1],
    5: RGB.swapaxes(0, 1),
    6: RGB[::-1].swapaxes(0, 1),
    7: RGB[::-1, ::-1].swapaxes(0, 1),
    8: RGB[:, ::-1].swapaxes(0, 1),
}


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, kind: int, rows: list[bytes], *extra: bytes) -> bytes:
    """Return a PNG of unfiltered rows."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + body + chunk(b"IEND", b"")


def bmp(width: int, height: int, bits: int, body: bytes, palette: bytes = b"", packing: int = 0) -> bytes:
    """Return a BMP; rows lie from bottom to top and are multiples of 4 bytes."""
    start = 54 + len(palette)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, packing, len(body), 0, 0, len(palette) // 4, 0)
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + info + palette + body


def saved(pixels: Array | Image.Image, kind: str, **options: Any) -> bytes:
    """Return pixels as Pillow writes them."""
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.ascontiguousarray(pixels))
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(pixels: Array, **options: Any) -> bytes:
    """Return pixels as tifffile writes them."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


def npy(pixels: Array, **options: Any) -> bytes:
    """Return pixels as NumPy writes them."""
    buffer = io.BytesIO()
    np.save(buffer, pixels, **options)
    return buffer.getvalue()


def over_black(pixels: Array, alpha: Array) -> Array:
    """Return colours under an alpha of 0 to 255, rounded."""
    return np.rint(pixels * (alpha / 255)).astype(np.uint8)


def exif(orientation: int) -> Image.Exif:
    block = Image.Exif()
    block[0x0112] = orientation
    return block


def ycck(value: bool) -> bytes:
    """Return a JPEG of red in four channels: CMYK, or with its marker set to YCCK and the colours of that."""
    stored = (0, 255, 255, 0) if not value else (255 - 179, 255 - 171, 255, 0)
    data = saved(Image.new("CMYK", (16, 16), stored), "JPEG", quality=100, subsampling=0)
    at = data.index(b"Adobe") + 11  # the last byte of the Adobe marker tells the colour transform
    return data[:at] + bytes([2 if value else 0]) + data[at + 1 :]


def _pngs() -> dict[str, Good]:
    rows = {depth: [np.packbits(_spread(row, depth)).tobytes() for row in GREY] for depth in (2, 4)}
    steps = {depth: (GREY >> (8 - depth)) * np.uint8(255 // (2**depth - 1)) for depth in (2, 4)}
    wide = (RGB.astype(">u2") * 256 + 99).astype(">u2")
    grey16 = (GREY.astype(">u2") * 256 + 3).astype(">u2")
    alpha = np.array([[255, 0, 51, 255], [0, 102, 255, 204]], np.uint8)
    both = np.stack([GREY, alpha], 2)
    palette, pair = chunk(b"PLTE", bytes([10, 20, 30, 200, 100, 50])), np.array([[[10, 20, 30], [0, 0, 0]]])
    found = {
        "1 bit": Good(png(8, 2, 1, 0, [np.packbits(row > 0).tobytes() for row in BITS]), BITS, 1),
        "2 bits": Good(png(4, 2, 2, 0, rows[2]), steps[2], 1),
        "4 bits": Good(png(4, 2, 4, 0, rows[4]), steps[4], 1),
        "2 bits transparent": Good(png(4, 2, 2, 0, rows[2], chunk(b"tRNS", b"\0\1")), steps[2] * (steps[2] != 85), 1),
        "4 bits transparent": Good(png(4, 2, 4, 0, rows[4], chunk(b"tRNS", b"\0\2")), steps[4] * (steps[4] != 34), 1),
        "grey": Good(png(4, 2, 8, 0, [row.tobytes() for row in GREY]), GREY, 1),
        "grey as colour": Good(png(4, 2, 8, 0, [row.tobytes() for row in GREY]), np.stack([GREY] * 3, 2)),
        "grey with alpha": Good(png(4, 2, 8, 4, [row.tobytes() for row in both]), over_black(GREY, alpha), 1),
        "colour": Good(png(3, 2, 8, 2, [row.tobytes() for row in RGB]), RGB),
        "palette": Good(png(2, 1, 1, 3, [b"\x40"], palette), np.array([[[10, 20, 30], [200, 100, 50]]])),
        "palette with tRNS": Good(png(2, 1, 1, 3, [b"\x40"], palette, chunk(b"tRNS", b"\xff\0")), pair),
        "16 bits": Good(png(4, 2, 16, 0, [row.tobytes() for row in grey16]), GREY, 1),
        "16 bits transparent": Good(
            png(4, 2, 16, 0, [row.tobytes() for row in grey16], chunk(b"tRNS", b"\x55\3")), GREY * (GREY != 85), 1
        ),
        "16 bits colour": Good(png(3, 2, 16, 2, [row.tobytes() for row in wide]), RGB),
        "16 bits colour transparent": Good(
            png(3, 2, 16, 2, [row.tobytes() for row in wide], chunk(b"tRNS", wide[0, 1].tobytes())),
            RGB * (RGB != RGB[0, 1]).any(axis=2, keepdims=True),
        ),
        "16 bits with alpha": Good(
            png(4, 2, 16, 4, [(row.astype(">u2") * 256).astype(">u2").tobytes() for row in both]),
            over_black(GREY, alpha),
            1,
        ),
        "animated": Good(saved(RGB, "PNG", save_all=True, append_images=[Image.new("RGB", (3, 2))]), RGB),
        "EXIF broken": Good(saved(RGB, "PNG", exif=b"Exif\0\0MM\0*\0\0\xff\xff"), RGB),
        "colour profile": Good(
            saved(RGB, "PNG", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()), RGB
        ),
    }
    return {f"png {name}": case for name, case in found.items()}


def _spread(row: Array, depth: int) -> Array:
    """Return the upper ``depth`` bits of bytes, one bit each."""
    return np.unpackbits((row >> (8 - depth)).astype(np.uint8)[:, None], axis=1)[:, -depth:].reshape(-1)


def _tiffs() -> dict[str, Good]:
    wide, part = RGB.astype(np.uint16) * 257, (RGB / 255).astype(np.float32)
    planar = {"photometric": "rgb", "planarconfig": "separate"}
    ink = np.array([[[0, 255, 255, 0], [255, 0, 0, 0], [0, 0, 0, 255]]], np.uint8)
    inked = np.array([[[255, 0, 0], [0, 255, 255], [0, 0, 0]]], np.uint8)
    found = {
        "uint8": Good(tiff(RGB, photometric="rgb"), RGB),
        "planes": Good(tiff(np.moveaxis(RGB, 2, 0), **planar), RGB),
        "uint16": Good(tiff(wide, photometric="rgb"), RGB),
        "uint16 planes": Good(tiff(np.moveaxis(wide, 2, 0), **planar), RGB),
        "uint16 big-endian": Good(tiff(wide, photometric="rgb", byteorder=">"), RGB),
        "float32": Good(tiff(part, photometric="rgb"), RGB),
        "float32 planes": Good(tiff(np.moveaxis(part, 2, 0), **planar), RGB),
        "BigTIFF": Good(tiff(RGB, photometric="rgb", bigtiff=True), RGB),
        "CMYK": Good(tiff(ink, photometric="separated"), inked),
        "CMYK uint16": Good(tiff(ink.astype(np.uint16) * 257, photometric="separated"), inked),
        "pages": Good(tiff(np.stack([RGB, RGB // 2]), photometric="rgb"), RGB),
        "tiles": Good(tiff(FIVE[:, :, :3], photometric="rgb", tile=(16, 16)), FIVE[:, :, :3]),
        "5 bands": Good(tiff(FIVE, photometric="minisblack", planarconfig="contig"), FIVE, 5),
        "5 bands tiled": Good(tiff(FIVE, photometric="minisblack", planarconfig="contig", tile=(16, 16)), FIVE, 5),
        "5 planes": Good(tiff(np.moveaxis(FIVE, 2, 0), photometric="minisblack", planarconfig="separate"), FIVE, 5),
        "5 pages": Good(tiff(np.moveaxis(FIVE, 2, 0), photometric="minisblack"), FIVE, 5),
        "bilevel": Good(saved(Image.fromarray(BITS).convert("1"), "TIFF", compression="group4"), BITS, 1),
    }
    for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
        found[name] = Good(saved(RGB, "TIFF", compression=name), RGB)
    for kind in ("u1", "u2", "f2", "f4"):
        grey = GREY.astype(kind) * 257 if kind == "u2" else GREY if kind == "u1" else (GREY / 255).astype(kind)
        found[f"{kind} white is 0"] = Good(tiff(grey, photometric="miniswhite"), 255 - GREY, 1)
    for number, upright in UPRIGHT.items():
        tag = [(274, "H", 1, number, True)]
        found[f"orientation {number}"] = Good(tiff(RGB, photometric="rgb", extratags=tag), upright)
        found[f"float32 orientation {number}"] = Good(tiff(part, photometric="rgb", extratags=tag), upright)
    return {f"tiff {name}": case for name, case in found.items()}


def _lossy() -> dict[str, Good]:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    red = np.full((16, 16, 3), (255, 0, 0))
    options = {"quality": 98, "subsampling": 0}
    found = {
        "jpeg grey": Good(saved(SMOOTH[:, :, 0], "JPEG", quality=98), SMOOTH[:, :, 0], 1, 3),
        "jpeg": Good(saved(SMOOTH, "JPEG", **options), SMOOTH, 3, 4),
        "jpeg progressive": Good(saved(SMOOTH, "JPEG", progressive=True, **options), SMOOTH, 3, 4),
        "jpeg colour profile": Good(saved(SMOOTH, "JPEG", icc_profile=profile, **options), SMOOTH, 3, 4),
        "jpeg EXIF broken": Good(saved(SMOOTH, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff", **options), SMOOTH, 3, 4),
        "jpeg CMYK": Good(ycck(False), red, 3, 3),
        "jpeg YCCK": Good(ycck(True), red, 3, 3),
        "webp": Good(saved(SMOOTH, "WEBP", quality=100), SMOOTH, 3, 16),
        "webp lossless": Good(saved(RGB, "WEBP", lossless=True), RGB),
        "webp alpha": Good(saved(np.full((4, 4, 4), (100, 200, 50, 51), np.uint8), "WEBP", lossless=True, exact=True),
                           np.full((4, 4, 3), (20, 40, 10))),
        "webp animated": Good(
            saved(RGB, "WEBP", lossless=True, save_all=True, append_images=[Image.new("RGB", (3, 2))]), RGB
        ),
    }  # fmt: skip
    for number in UPRIGHT:
        block = np.kron(UPRIGHT[number][:, :, :1], np.ones((16, 16, 1), np.uint8))[:, :, 0]
        stored = np.kron(RGB[:, :, :1], np.ones((16, 16, 1), np.uint8))[:, :, 0]
        found[f"jpeg orientation {number}"] = Good(saved(stored, "JPEG", quality=98, exif=exif(number)), block, 1, 4)
    return found


def _plain() -> dict[str, Good]:
    padded = b"".join(row[:, ::-1].tobytes() + b"\0" * 3 for row in RGB[::-1])
    clear = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    clear.putpalette([10, 20, 30, 200, 100, 50])
    two = np.array([[[10, 20, 30], [200, 100, 50]]])
    ramp = b"".join(bytes([v, v, v, 0]) for v in range(256))
    grey16 = (GREY.astype(">u2") * 257).tobytes()
    text = b" ".join(b"%d" % value for value in RGB.ravel())
    found = {
        "gif": Good(saved(clear, "GIF"), two),
        "gif transparent": Good(saved(clear, "GIF", transparency=1), np.array([[[10, 20, 30], [0, 0, 0]]])),
        "gif animated": Good(saved(clear, "GIF", save_all=True, append_images=[Image.new("P", (2, 1), 1)]), two),
        "bmp 1": Good(bmp(8, 2, 1, b"".join(np.packbits(r > 0).tobytes() + b"\0\0\0" for r in BITS[::-1]),
                          bytes(4) + b"\xff\xff\xff\0"), BITS, 1),
        "bmp 4": Good(bmp(2, 1, 4, b"\x01\0\0\0", b"\x1e\x14\x0a\0\x32\x64\xc8\0"), two),
        "bmp 8": Good(bmp(4, 2, 8, GREY[::-1].tobytes(), ramp), GREY, 1),
        "bmp 8 run lengths": Good(bmp(4, 1, 8, b"\4\x2a\0\0\0\1", ramp, 1), np.full((1, 4), 42), 1),
        "bmp 24": Good(bmp(3, 2, 24, padded), RGB),
        "bmp 24 top down": Good(bmp(3, -2, 24, b"".join(row[:, ::-1].tobytes() + b"\0" * 3 for row in RGB)), RGB),
        "bmp 32": Good(bmp(3, 2, 32, np.pad(RGB[::-1, :, ::-1], ((0, 0), (0, 0), (0, 1))).tobytes()), RGB),
        "ppm P1": Good(b"P1\n# note\n2 1\n1 0\n", np.array([[0, 255]]), 1),
        "ppm P2": Good(b"P2 2 1 15\n0 15\n", np.array([[0, 255]]), 1),
        "ppm P3": Good(b"P3\n3 2\n255\n" + text + b"\n", RGB),
        "ppm P4": Good(b"P4\n8 1\n\xaa", np.array([[0, 255] * 4]), 1),
        "ppm P5": Good(b"P5\n4 2\n255\n" + GREY.tobytes(), GREY, 1),
        "ppm P5 16 bits": Good(b"P5\n4 2\n65535\n" + grey16, GREY, 1),
        "ppm P6": Good(b"P6\n3 2\n255\n" + RGB.tobytes(), RGB),
        "ppm P6 16 bits": Good(b"P6\n3 2\n65535\n" + (RGB.astype(">u2") * 257).tobytes(), RGB),
        "1 x 1": Good(png(1, 1, 8, 0, [b"\x2a"]), np.array([[42]]), 1),
        "1 x 10000": Good(png(1, 10000, 8, 0, [b"\x2a"] * 10000), np.full((10000, 1), 42), 1),
        "10000 x 1": Good(png(10000, 1, 8, 0, [b"\x2a" * 10000]), np.full((1, 10000), 42), 1),
    }  # fmt: skip
    fractions = np.linspace(0, 1, 4096)[None]
    for kind in ("u1", "<u2", ">u2", "<f2", ">f2", "<f4", ">f4", "<f8"):
        values = fractions.astype(kind) if "f" in kind else GREY.astype(kind) * (1 if kind == "u1" else 257)
        values = values.astype(kind)
        expected = np.rint(values.astype(float) * 255) if "f" in kind else GREY
        found[f"npy {kind}"] = Good(npy(values), expected, 1)
    found["npy bool"] = Good(npy(BITS > 0), BITS, 1)
    found["npy Fortran order"] = Good(npy(np.asfortranarray(RGB)), RGB)
    found["npy channels first"] = Good(npy(np.ascontiguousarray(np.moveaxis(FIVE, 2, 0))), FIVE, 5)
    found["npy 5 channels"] = Good(npy(FIVE), FIVE, 5)
    return found


GOOD = {**_pngs(), **_tiffs(), **_lossy(), **_plain()}
