"""A folder of image files, at any depth; the folders of the first level are the classes."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mae_lite.data import scan
from mae_lite.data.listing import Listing, changes_since, listing
from mae_lite.data.scan import EXTENSIONS
from mae_lite.data.sources import Example, Indices, Source, Split, some
from mae_lite.data.splits import WORDS, choose_split, split_of
from mae_lite.errors import DataError

_log = logging.getLogger(__name__)

_TREE = "PATH/CLASS/image.jpg, or PATH/train/CLASS/image.jpg and PATH/test/CLASS/image.jpg, or PATH/image.jpg"
_UNPACK = {".zip": "unzip {0} -d FOLDER", ".rar": "unrar x {0} FOLDER/", ".7z": "7z x {0} -oFOLDER"}
_TARS = (".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".tbz", ".txz")


class Folder(Source):
    """Image files below a folder, in the order of their paths. Hidden files and other files are ignored."""

    def __init__(
        self,
        path: Path,
        split: Split = "train",
        name: str | None = None,
        *,
        strict: bool = False,
        allow_empty: bool = False,
    ) -> None:
        """List the images, or take the list kept from an earlier start, and derive the classes.

        Args:
            path: folder of images, of class folders, or of train, val and test folders.
            split: which of the latter; without such folders, or when others with images lie beside them (they are
                all classes then), everything is taken for every split.
            name: what the user gave.
            strict: whether nothing may stand in for a missing split.
            allow_empty: whether a class folder may be empty; it stays a class.

        Raises:
            DataError: when there is no image, a class folder is empty, images lie beside class folders, a split is
                missing or lies deeper down, or a folder cannot be read.
        """
        self.name = name or str(path)
        self.in_memory = False
        if path.is_file():
            raise _a_file(path, self.name)
        self._root, self.split = _split_root(path, split, self.name, strict)
        found = listing(self._root)
        if not len(found):
            raise _empty(path, self._root, found, self.name)
        self.classes, self.labels = _classes(self._root, found, self.name, allow_empty)
        if self.classes is not None and len(self.classes) == 1 and self.split in (None, "train"):
            _check_level(self._root, found, self.name)
        # One column on the disk for all paths: a list of a million strings would be copied into every worker process
        # by reference counting alone.
        self._names, self._sha256 = found.names, found.sha256

    def path(self, index: int) -> Path:
        """Return where image ``index`` is."""
        return self._root / os.fsdecode(self._names[int(index)].as_py())

    def example(self, index: int) -> Example:
        """Return image ``index``, not opened; a file that has gone since is noticed when it is decoded."""
        path = self.path(index)
        return Example(str(path), path)

    def changes_since(self, fingerprint: Mapping[str, Any]) -> str:
        """Return which images came, went and changed since ``fingerprint`` was taken; "" where that is not known."""
        return changes_since(self._root, str(fingerprint.get("whole") or fingerprint.get("sha256")))

    def fingerprint(self) -> dict[str, int | str]:
        """Return the count and a SHA-256 over relative names and sizes, as they were when the folder was opened."""
        return {"count": len(self), "sha256": self._sha256}


def _split_root(path: Path, split: Split, name: str, strict: bool) -> tuple[Path, Split | None]:
    """Return the folder of the split and which split that is; ``path`` itself when it does not name splits."""
    folders = scan.entries(path)[1]
    splits = _splits(folders, name)
    if len(folders) == 1 and not splits:
        (only,) = folders.values()  # archives often unpack into one folder more than expected
        if "train" in _splits(scan.entries(only)[1], name):
            return _split_root(only, split, name, strict)
    if not splits:
        return path, None
    chosen = choose_split(splits, split, name, strict=strict)
    return splits[chosen], chosen


def _splits(folders: dict[str, Path], name: str) -> dict[Split, Path]:
    """Return the folder of each split; none when another folder holds images too, for all of them are classes then.

    Where several folders name one split, the more usual word counts: "val" before "validation".
    """
    called = {word.lower(): folder for word, folder in folders.items()}
    splits = {split: called[word] for split, words in WORDS.items() for word in reversed(words) if word in called}
    others = [folder for word, folder in folders.items() if split_of(word) is None]
    beside = [folder.name for folder in others if splits and _has_images(folder)]
    if not beside:
        return splits
    _log.warning(
        "%s: %s is taken for a class, not for a split, because of %s beside it; if it is a split, give PATH/%s",
        name,
        some(sorted(folder.name for folder in splits.values())),
        some(beside),
        next(iter(splits.values())).name,
    )
    return {}


def _has_images(folder: Path, above: tuple[Path, ...] = ()) -> bool:
    try:
        images, folders = scan.entries(folder)
        here = (*above, folder.resolve())
        return bool(images) or any(
            _has_images(inner, here) for inner in folders.values() if inner.resolve() not in here
        )
    except (DataError, OSError):  # such as lost+found, which only the superuser may read
        return False


def _classes(root: Path, found: Listing, name: str, allow_empty: bool) -> tuple[tuple[str, ...] | None, Indices]:
    firsts = [facts.name.split("/", 1)[0] for facts in found.folders]  # "" is the root itself
    filled = {firsts[number] for number in np.unique(found.folder_of).tolist()}
    if filled == {""}:
        return None, np.full(len(found), -1, dtype=np.int64)
    classes = sorted((filled | {*firsts} if allow_empty else filled) - {""})
    if "" in filled:
        rows = np.flatnonzero(found.folder_of == firsts.index(""))
        loose = [os.fsdecode(found.names[row].as_py()) for row in rows.tolist()]
        raise DataError(
            f"{name!r} holds images both beside and inside folders, so that their classes are unclear",
            found=f"{some(loose)} beside the folders {some(classes)}",
            expected=_TREE,
            fix="move these images into a class folder, or put all of them into one folder",
        )
    empty = sorted({*firsts} - {*classes, ""})
    if empty:
        raise DataError(
            f"{name!r} has class folders without a single image",
            found=f"{some(empty)} in {str(root)!r}",
            expected=f"image files ({' '.join(EXTENSIONS)}) in every folder",
            fix="add images, remove the folder, start its name with a dot to have it ignored, or keep it as a class "
            "with --allow-empty-classes",
        )
    number = {class_name: position for position, class_name in enumerate(classes)}
    return tuple(classes), np.array([number.get(first, -1) for first in firsts], dtype=np.int64)[found.folder_of]


def _check_level(root: Path, found: Listing, name: str) -> None:
    """Say it when all images lie in several folders deeper down, which makes one class of them.

    Raises:
        DataError: when these are the splits of a data set, which must not be mixed; with the folder that was meant.
    """
    holding = [found.folders[number].name for number in np.unique(found.folder_of).tolist()]
    above = os.path.commonpath(holding)
    if above in holding:
        return
    likely = root / above
    inner = sorted({folder.removeprefix(f"{above}/").split("/", 1)[0] for folder in holding})
    if all(split_of(folder) for folder in inner):
        raise DataError(
            f"{name!r} holds the splits of a data set further down",
            found=f"the folders {some(inner)} in {str(likely)!r}",
            expected=_TREE,
            fix=f"--data {shlex.quote(str(likely))}",
        )
    _log.warning(
        "all images of %s lie below one folder, which makes it the only class; if the classes are %s, give --data %s",
        name,
        some(inner),
        shlex.quote(str(likely)),
    )


def _empty(path: Path, root: Path, found: Listing, name: str) -> DataError:
    listed = ", ".join(f"{count} x {kind}" for kind, count in found.ignored.most_common(5))
    elsewhere = [folder for folder in scan.entries(path)[1].values() if folder != root and _has_images(folder)]
    return DataError(
        f"no images in {name!r}",
        found=f"in {str(root)!r}: {listed or 'no files'}"
        + (f"; images are in {some([str(folder) for folder in elsewhere])}" if elsewhere else ""),
        expected=f"{_TREE}; image files end in {' '.join(EXTENSIONS)}",
        fix=f"--data {elsewhere[0]}"
        if elsewhere
        else "give the folder that holds the images with --data PATH (unpack archives first)",
    )


def _a_file(path: Path, name: str) -> DataError:
    suffix = path.suffix.lower()
    if suffix in EXTENSIONS:
        found, fix = "one image file", f"give the folder that it is in, --data {path.parent}"
    elif suffix in _UNPACK or suffix in _TARS:
        command = _UNPACK.get(suffix, "mkdir FOLDER && tar -xf {0} -C FOLDER").format(shlex.quote(str(path)))
        found, fix = "an archive", f"unpack it with {command} and give --data FOLDER"
    else:
        found, fix = f"a file ({suffix or 'no extension'})", "give a folder with --data PATH"
    return DataError(f"data {name!r} is no folder", found=found, expected=f"a folder of images: {_TREE}", fix=fix)
