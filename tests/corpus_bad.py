"""Files that are no whole image, and what the error says of each."""

from __future__ import annotations

import struct

import numpy as np

from tests.corpus_images import FIVE, GOOD, GREY, RGB, SMOOTH, bmp, chunk, npy, png, saved, tiff

_WHOLE = {
    "jpeg": saved(SMOOTH, "JPEG"),
    "jpeg progressive": saved(SMOOTH, "JPEG", progressive=True),
    "png": saved(SMOOTH, "PNG"),
    "gif": saved(SMOOTH[:, :, 0], "GIF"),
    "webp": saved(SMOOTH, "WEBP"),
    "webp lossless": saved(SMOOTH, "WEBP", lossless=True),
    "bmp": saved(SMOOTH, "BMP"),
    "tiff": tiff(SMOOTH, photometric="rgb"),
    "tiff LZW": saved(SMOOTH, "TIFF", compression="tiff_lzw"),
    "tiff float": tiff((SMOOTH / 255).astype(np.float32), photometric="rgb"),
    "ppm": b"P6\n48 32\n255\n" + SMOOTH.tobytes(),
    "npy": npy(SMOOTH),
}


def _claims() -> dict[str, bytes]:
    """Return small files that claim 30,000 pixels on each side."""
    side = 30_000
    entries = [(256, 4, side), (257, 4, side), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1)]
    table = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in [*entries, (279, 4, side**2)])
    array = npy(np.zeros((1, 1), np.uint8)).replace(b"(1, 1), }     ", b"(30000, 30000), }")[:128]
    return {
        "png": png(side, side, 8, 2, []),
        "gif": b"GIF89a" + struct.pack("<HHBBB", side, side, 0, 0, 0) + b",\0\0\0\0"
        + struct.pack("<HHB", side, side, 0) + b"\x02\x02\x4c\x01\0;",
        "bmp": bmp(side, side, 24, b""),
        "tiff": b"II*\0" + struct.pack("<IH", 8, 8) + table + bytes(4),
        "ppm": b"P6 30000 30000 255\n",
        "npy": array,
    }  # fmt: skip


HUGE = _claims()


def _flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :]


BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "0 bytes"),
    "zero bytes": (bytes(500), "zero bytes"),
    "text": (b"just some text", "no image of a known kind"),
    "web page": (b"\n<!DOCTYPE html><title>404</title>", "a web page"),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
    "PDF": (b"%PDF-1.7\n%\xe2\xe3", "a PDF document"),
    "zip": (b"PK\x03\x04rest", "a zip archive"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
    "png wrong check sum": (_flipped(_WHOLE["png"], 29), "damaged"),
    "png damaged data": (_flipped(_WHOLE["png"], 60), "damaged"),
    "png no data": (png(2, 2, 8, 0, []), "damaged"),
    "png unknown colours": (png(2, 2, 8, 5, [b"\0\0"] * 2), "damaged"),
    "gif damaged header": (_flipped(_WHOLE["gif"], 3), "no image"),
    "bmp damaged header": (_flipped(_WHOLE["bmp"], 14), "Unsupported BMP header"),
    "webp damaged header": (_flipped(_WHOLE["webp"], 12), "no image"),
    "ppm no numbers": (b"P6\nmany rows\n255\n", "cannot be read"),
    "ppm plain too short": (b"P3\n2 2\n255\n1 2 3\n", "damaged"),
    "tiff lying offset": (tiff(RGB, photometric="rgb")[:4] + struct.pack("<I", 1 << 30), "cannot be read"),
    "npy objects": (npy(np.array([[None]]), allow_pickle=True), "Python objects"),
    "npy lying shape": (npy(GREY).replace(b"(2, 4)", b"(2, 9)"), "for shape [2, 9]"),
    "npy complex": (npy(GREY.astype(complex)), "complex128"),
    "npy NaN": (npy(np.full((2, 2), np.nan)), "no finite numbers"),
    "npy text": (npy(np.array([["a"]])), "<U1"),
    "npy 32 bits": (npy(GREY.astype(np.uint32) * 257), "type uint32"),
    "npy 64 bits up to 255": (npy(GREY.astype(np.int64)), "--reading.value-range 0 255"),
    "npy float up to 255": (npy(GREY.astype(float)), "0 to 255 in numbers of type float64"),
    "npy below 0": (npy(np.full((2, 2), -1)), "-1 to -1"),
    "npy single number": (npy(np.array(3.0)), "shape []"),
    "npy without pixels": (npy(np.zeros((0, 4), np.uint8)), "4 x 0 pixels"),
    "npy four axes": (npy(np.zeros((2, 2, 2, 2), np.uint8)), "shape [2, 2, 2, 2]"),
    "npy too many channels": (npy(FIVE), "another number of channels"),
    "png chunk of lies": (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", b"\0" * 5), "damaged"),
    **{f"{name} claims 900 Mpx": (data, "too large to decode") for name, data in HUGE.items()},
    **{f"{name} header alone": (data[:20], "cannot be read") for name, data in _WHOLE.items()},
    **{
        f"{name} cut at {percent} %": (
            data[: len(data) * percent // 100],
            "cannot be read" if name != "npy" else "bytes",
        )
        for name, data in _WHOLE.items()
        for percent in (30, 60, 80)
    },
}
assert not set(BAD) & set(GOOD)
