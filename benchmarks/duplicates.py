"""How well planted near duplicates are found, by threshold: small copies of the images, and features of models.

python benchmarks/duplicates.py --cifar10 FOLDER --photographs FILE.tar [--models RUN ...] [--planted 200]

Of each set, the first images are taken (CIFAR-10: of test; photographs at most 256 px wide and high), and of the first
of these, changed copies are planted: JPEG files of low quality, halved, brighter and darker, with less contrast, grey,
mirrored, cropped to 90 and 80 % of each side. Recall: the share of planted copies that are paired with their original.
False pairs: images of different originals; where a set has duplicates of its own, as CIFAR-10 has, they count as false.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image, ImageEnhance

from mae_lite.copies import find
from mae_lite.copies.groups import Grouped
from mae_lite.copies.settings import DuplicateSettings

THRESHOLDS = (0.8, 0.85, 0.9, 0.95, 0.97, 0.98, 0.99)


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    """Return the image as a JPEG file leaves it."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def cropped(image: Image.Image, share: float) -> Image.Image:
    """Return the part of the image that has ``share`` of each side, nearer to the lower left."""
    width, height = (round(side * share) for side in image.size)
    left, top = round((image.width - width) * 0.3), round((image.height - height) * 0.7)
    return image.crop((left, top, left + width, top + height))


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG, quality 50": lambda image: jpeg(image, 50),
    "JPEG, quality 20": lambda image: jpeg(image, 20),
    "half size": lambda image: image.resize((max(1, image.width // 2), max(1, image.height // 2))),
    "brighter, 1.3": lambda image: ImageEnhance.Brightness(image).enhance(1.3),
    "darker, 0.7": lambda image: ImageEnhance.Brightness(image).enhance(0.7),
    "contrast 0.7": lambda image: ImageEnhance.Contrast(image).enhance(0.7),
    "grey": lambda image: image.convert("L").convert("RGB"),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "90 % crop": lambda image: cropped(image, 0.9),
    "80 % crop": lambda image: cropped(image, 0.8),
}


def of_cifar10(folder: Path, count: int) -> Iterator[Image.Image]:
    """Yield test images."""
    rows = pq.read_table(folder / "test.parquet", columns=["image"]).slice(0, count)["image"].to_pylist()
    yield from (Image.open(io.BytesIO(row["bytes"])).convert("RGB") for row in rows)


def of_tar(path: Path, count: int) -> Iterator[Image.Image]:
    """Yield photographs, made smaller."""
    with tarfile.open(path) as archive:
        members = [member for member in archive if member.isfile() and member.name.lower().endswith((".jpg", ".jpeg"))]
        for member in members[:count]:
            content = archive.extractfile(member)
            assert content is not None
            opened = Image.open(content)
            opened.draft("RGB", (256, 256))
            image = opened.convert("RGB")
            image.thumbnail((256, 256))
            yield image


def planted(images: Iterator[Image.Image], count: int, folder: Path) -> list[tuple[int, str]]:
    """Write images and changed copies of the first ``count`` of them; return origin and change by place in the set."""
    about = {}
    for origin, image in enumerate(images):
        name = f"{origin:05d}.png"
        image.save(folder / name, compress_level=1)
        about[name] = (origin, "")
        for number, (change, make) in enumerate(CHANGES.items() if origin < count else ()):
            name = f"{origin:05d}-{number}.png"
            make(image).save(folder / name, compress_level=1)
            about[name] = (origin, change)
    return [about[name] for name in sorted(about, key=lambda name: os.fsencode(name))]


def measured(grouped: Grouped, about: Sequence[tuple[int, str]], count: int) -> list[dict[str, Any]]:
    """Return recall by change, and false pairs, for each threshold."""
    assert Path(grouped.parts.image(0).name).name.startswith("00000") and len(grouped.ids) == len(
        about
    )  # all, in order
    near = grouped.near
    similar = dict(
        zip(zip(near.first.tolist(), near.second.tolist(), strict=True), near.similarity.tolist(), strict=True)
    )
    kinds = grouped.kinds.tolist()
    originals = {origin: kind for (origin, change), kind in zip(about, kinds, strict=True) if not change}
    true: dict[str, list[float]] = {change: [] for change in CHANGES}
    for (origin, change), kind in zip(about, kinds, strict=True):
        if change:  # a grey copy of a grey photograph is an exact one, at 1
            pair = (min(kind, originals[origin]), max(kind, originals[origin]))
            true[change].append(1.0 if pair[0] == pair[1] else similar.get(pair, 0.0))
    same, false = list[float](), list[float]()
    for link in grouped.links:
        (same if about[link.first][0] == about[link.second][0] else false).append(link.similarity)
    rows = []
    for least in THRESHOLDS:
        hits, wrong = sum(value >= least for value in same), sum(value >= least for value in false)
        recall = {change: sum(value >= least for value in values) / count for change, values in true.items()}
        rows.append(
            {
                "threshold": least,
                "recall": {change: round(share, 3) for change, share in recall.items()},
                "mean_recall": round(sum(recall.values()) / len(recall), 3),
                "true_pairs": hits,
                "false_pairs": wrong,
                "precision": round(hits / max(1, hits + wrong), 4),
            }
        )
    return rows


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", type=Path)
    parser.add_argument("--photographs", type=Path)
    parser.add_argument("--models", nargs="*", default=[])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--planted", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/duplicates.json"))
    options = parser.parse_args(words)
    sets: dict[str, Iterator[Image.Image]] = {}
    if options.cifar10:
        sets["CIFAR-10 (JPEG q75 copy)"] = of_cifar10(options.cifar10, options.images)
    if options.photographs:
        sets["photographs"] = of_tar(options.photographs, options.images)
    results = []
    for name, images in sets.items():
        with tempfile.TemporaryDirectory() as place:
            about = planted(images, options.planted, Path(place))
            for model in (None, *options.models):
                settings = DuplicateSettings(model=model, threshold=min(THRESHOLDS))
                rows = measured(find.found(place, settings), about, options.planted)
                called = "small copies" if model is None else Path(model).name
                results.append({"set": name, "images": len(about), "compared": called, "rows": rows})
                for row in rows:
                    print(name, called, *(f"{key} {row[key]}" for key in row if key != "recall"), flush=True)
    command = ["python", *(sys.argv if words is None else ["benchmarks/duplicates.py", *words])]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    record = {"results": results, "planted": options.planted, "command": [Path(word).name for word in command]}
    options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
