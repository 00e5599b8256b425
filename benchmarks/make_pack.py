"""Make a small folder of data to carry to a machine without network: JPEGs with 256 px short side, and CIFAR-10.

    python benchmarks/make_pack.py --images FOLDER_OR_TAR [--cifar10 FOLDER] [--out data-pack] [--limit-mb 20]

Of the images, as many as fit the limit are taken, in an order drawn at random with seed 0. The class folders stay.
"""

from __future__ import annotations

import argparse
import io
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mae_lite.data.images import decode
from mae_lite.data.opening import open_source
from mae_lite.data.sources import Source
from mae_lite.errors import DataError


def as_jpeg(source: Source, index: int, side: int, quality: int) -> bytes:
    """Return one image with its short side at most ``side``, as JPEG."""
    image = decode(source.example(index), 3)
    assert isinstance(image, Image.Image)  # of 3 channels it always is
    scale = min(1.0, side / min(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    buffer = io.BytesIO()
    image.resize(size, Image.Resampling.BICUBIC).save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()


def write_images(source: Source, out: Path, options: argparse.Namespace) -> tuple[int, int, int]:
    """Write images until the limit; return how many, their bytes, and how many could not be read."""
    count = total = bad = 0
    for index in np.random.default_rng(0).permutation(len(source)).tolist():
        try:
            content = as_jpeg(source, index, options.side, options.quality)
        except DataError as error:
            print(f"left out: {error.what}")
            bad += 1
            continue
        if total + len(content) > options.limit_mb * 1e6:
            break
        label = "all" if source.classes is None else source.classes[int(source.labels[index])]
        folder = out / label
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{index:06d}.jpg").write_bytes(content)
        count, total = count + 1, total + len(content)
    return count, total, bad


def main(argv: Sequence[str] | None = None) -> int:
    """Convert and copy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, help="folder, tar or anything else that --data takes")
    parser.add_argument("--cifar10", type=Path, help="folder with train.parquet and test.parquet")
    parser.add_argument("--out", type=Path, default=Path("data-pack"))
    parser.add_argument("--limit-mb", type=float, default=20, help="of the images")
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--quality", type=int, default=90)
    options = parser.parse_args(argv)
    images = options.out / "images"
    if images.exists():
        raise SystemExit(f"{str(images)!r} exists; remove it, or give another --out")
    source = open_source(options.images)
    count, total, bad = write_images(source, images, options)
    print(f"{count} of {len(source)} images, {total / 1e6:.1f} MB, in {images}; {bad} could not be read")
    if options.cifar10 is not None:
        (options.out / "cifar10").mkdir(parents=True, exist_ok=True)
        for name in ("train.parquet", "test.parquet"):
            shutil.copy2(options.cifar10 / name, options.out / "cifar10" / name)
        print(f"CIFAR-10 copied to {options.out / 'cifar10'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
