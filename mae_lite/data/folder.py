"""A folder of image files, at any depth; the folders of the first level are the classes."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from mae_lite.data import images
from mae_lite.data.sources import Source, Split, some
from mae_lite.errors import DataError

_log = logging.getLogger(__name__)

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
SPLITS: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "val": ("val", "validation", "test"),
    "test": ("test", "val", "validation"),
}
"""Folder names of each split; the first one that exists is taken."""

_TREE = "PATH/CLASS/image.jpg, or PATH/train/CLASS/image.jpg and PATH/test/CLASS/image.jpg, or PATH/image.jpg"
_IGNORED = ("__MACOSX",)


class Folder(Source):
    """Image files below a folder, in the order of their paths. Hidden files and other files are ignored."""

    channels = 3
    in_memory = False

    def __init__(self, path: Path, split: Split = "train", name: str | None = None) -> None:
        """List the images and derive the classes.

        Args:
            path: folder of images, of class folders, or of train, val and test folders.
            split: which of the latter; without such folders, or when others with images lie beside them (they are
                all classes then), everything is taken for every split.
            name: what the user gave.

        Raises:
            DataError: when there is no image, a class folder is empty, images lie beside class folders, or the
                split is missing.
        """
        self.name = name or str(path)
        self._root = _split_root(path, split, self.name)
        names = sorted(_scan(self._root, ""), key=os.fsencode)
        if not names:
            raise _empty(self._root, self.name)
        self.classes, self.labels = _classes(self._root, names, self.name)
        # One buffer for all paths: a list of a million strings would be copied into every worker process by
        # reference counting alone.
        encoded = [os.fsencode(name) for name in names]
        self._buffer = b"".join(encoded)
        self._ends: npt.NDArray[np.int64] = np.cumsum([len(name) for name in encoded], dtype=np.int64)

    def path(self, index: int) -> Path:
        """Return where image ``index`` is."""
        start = int(self._ends[index - 1]) if index > 0 else 0
        return self._root / os.fsdecode(self._buffer[start : int(self._ends[index])])

    def image(self, index: int, channels: int) -> Image.Image:
        """Return image ``index`` decoded.

        Raises:
            DataError: when it cannot be read; names the file.
        """
        path = self.path(index)
        return images.decode(path, channels, str(path))

    def fingerprint(self) -> dict[str, int | str]:
        """Return the count and a SHA-256 over relative names and sizes; asks the file system for every size.

        Raises:
            DataError: when a file has gone since.
        """
        digest = hashlib.sha256()
        for index in range(len(self)):
            path = self.path(index)
            try:
                size = path.stat().st_size
            except OSError as error:
                raise DataError(
                    f"image {str(path)!r} has gone since the folder was read",
                    found=str(error.strerror),
                    fix="put it back, or run the same command again",
                ) from error
            digest.update(os.fsencode(path.relative_to(self._root)) + b"\0" + str(size).encode() + b"\0")
        return {"count": len(self), "sha256": digest.hexdigest()}


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if not entry.name.startswith(".") and entry.name not in _IGNORED]
    except OSError as error:
        raise DataError(
            f"folder {str(folder)!r} cannot be read",
            found=str(error.strerror),
            expected="a folder of images",
            fix="give a folder you may read, with --data PATH",
        ) from error
    return sorted(found, key=lambda entry: entry.name)


def _folders(folder: Path) -> dict[str, Path]:
    return {entry.name.lower(): Path(entry.path) for entry in _visible(folder) if entry.is_dir()}


def _split_root(path: Path, split: Split, name: str) -> Path:
    """Return the folder of the split; ``path`` itself when it does not name splits."""
    folders = _folders(path)
    if len(folders) == 1 and not _splits(folders, name):
        (only,) = folders.values()  # archives often unpack into one folder more than expected
        if "train" in _splits(_folders(only), name):
            return _split_root(only, split, name)
    splits = _splits(folders, name)
    if not splits:
        return path
    first = SPLITS[split][0]
    for option in SPLITS[split]:
        if option in splits:
            if option != first:
                _log.info("%s has no folder %s: its %s images are those in %s", name, first, split, splits[option])
            return splits[option]
    raise DataError(
        f"{name!r} has no {split} images",
        found=f"the folders {some(sorted(folders))}",
        expected=f"a folder named {' or '.join(SPLITS[split])}",
        fix=f"add that folder, or name the folder with the {split} images itself, e.g. --data {path}/FOLDER",
    )


def _splits(folders: dict[str, Path], name: str) -> dict[str, Path]:
    """Return the folders of splits; none when another folder holds images too, for all of them are classes then."""
    words = {option for options in SPLITS.values() for option in options}
    splits = {word: folder for word, folder in folders.items() if word in words}
    others = [folder.name for word, folder in folders.items() if word not in words and splits and _has_images(folder)]
    if not others:
        return splits
    _log.warning(
        "%s: %s is taken for a class, not for a split, because of %s beside it; if it is a split, give PATH/%s",
        name,
        some(sorted(folder.name for folder in splits.values())),
        some(sorted(others)),
        next(iter(splits.values())).name,
    )
    return {}


def _has_images(folder: Path) -> bool:
    try:
        return any(True for _ in _scan(folder, ""))
    except (DataError, OSError):  # such as lost+found, which only the superuser may read
        return False


def _scan(folder: Path, prefix: str, above: tuple[tuple[int, int], ...] = ()) -> Iterator[str]:
    """Yield the paths of images relative to the first ``folder``."""
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:  # a symbolic link that leads back up
        return
    for entry in _visible(folder):
        if entry.is_dir():
            yield from _scan(Path(entry.path), f"{prefix}{entry.name}/", (*above, here))
        elif entry.name.lower().endswith(EXTENSIONS) and entry.is_file():
            yield prefix + entry.name


def _classes(root: Path, names: list[str], name: str) -> tuple[tuple[str, ...] | None, npt.NDArray[np.int64]]:
    firsts = [image.split("/", 1)[0] if "/" in image else "" for image in names]
    classes = sorted({*firsts} - {""})
    if not classes:
        return None, np.full(len(names), -1, dtype=np.int64)
    if "" in firsts:
        loose = [image for image, first in zip(names, firsts, strict=True) if not first]
        raise DataError(
            f"{name!r} holds images both beside and inside folders, so that their classes are unclear",
            found=f"{some(loose)} beside the folders {some(classes)}",
            expected=_TREE,
            fix="move these images into a class folder, or put all of them into one folder",
        )
    empty = sorted({entry.name for entry in _visible(root) if entry.is_dir()} - {*classes})
    if empty:
        raise DataError(
            f"{name!r} has class folders without a single image",
            found=f"{some(empty)} in {str(root)!r}",
            expected=f"image files ({' '.join(EXTENSIONS)}) in every folder",
            fix="add images, remove the folder, or start its name with a dot to have it ignored",
        )
    number = {class_name: position for position, class_name in enumerate(classes)}
    return tuple(classes), np.array([number[first] for first in firsts], dtype=np.int64)


def _empty(root: Path, name: str) -> DataError:
    kinds: Counter[str] = Counter()
    for _, _, files in os.walk(root):
        kinds.update(Path(file).suffix.lower() or "no extension" for file in files)
    listed = ", ".join(f"{count} x {kind}" for kind, count in kinds.most_common(5))
    return DataError(
        f"no images in {name!r}",
        found=f"in {str(root)!r}: {listed or 'no files'}",
        expected=f"{_TREE}; image files end in {' '.join(EXTENSIONS)}",
        fix="give the folder that holds the images with --data PATH (unpack archives first)",
    )
