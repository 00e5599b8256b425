"""The data sets that torchvision knows by name: found on disk, else downloaded by torchvision, which checks them.

Only lists of files and labels, and the arrays of the small sets, come from torchvision. It never opens an image: every
encoded file passes the one guarded decoder, as those of all other sources do.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mae_lite import files
from mae_lite.data.sources import Example, Indices, Source, Split
from mae_lite.data.splits import choose_split, split_of
from mae_lite.errors import ConfigError, DataError, DiskError, nearest, shortly

_log = logging.getLogger(__name__)
_FULL_OR_CLOSED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR)


class _Set(NamedTuple):
    """What torchvision does not say about one of its data sets."""

    kind: str  # its class in torchvision.datasets
    reader: str  # how to get at the images, a case of _listed
    parts: Mapping[str, Split]  # its own parts, and what each is for, the usual one first; none when it is undivided
    files: str  # what is below the root once images are; {part} stands for the part, {half} for what GTSRB calls it
    size: str  # of the download, about
    page: str  # where a person gets it
    argument: str = "split"  # the constructor's, that takes the part
    by_hand: str = ""  # what a person does where no download may start: the links are dead, or it is too large


_TWO: Mapping[str, Split] = {"train": "train", "test": "test"}
_VAL: Mapping[str, Split] = {"train": "train", "val": "val"}
_ALL: Mapping[str, Split] = {**_VAL, "test": "test"}
_INAT: Mapping[str, Split] = {"2021_train": "train", "2021_valid": "val", "2021_train_mini": "train"}
_OLD_INAT: Mapping[str, Split] = {"2019": "train", "2018": "train", "2017": "train"}
_PET: Mapping[str, Split] = {"trainval": "train", "test": "test"}
_COUNTRY: Mapping[str, Split] = {"train": "train", "valid": "val", "test": "test"}
_STL: Mapping[str, Split] = {**_TWO, "unlabeled": "train", "train+unlabeled": "train"}
_VGG, _CIFAR = "https://www.robots.ox.ac.uk/~vgg/data", "https://www.cs.toronto.edu/~kriz/cifar.html"
_MNIST, _KMNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/", "https://github.com/rois-codh/kmnist"
_LAST = "raw/t10k-labels-idx1-ubyte"  # of four files
_CARS = "get it from a copy, its own links are dead (see {page}), and unpack it so that {files} is there"
_ONCE = 'python -c \'import torchvision; torchvision.datasets.{kind}("{root}", "{part}"{more})\''
_IMAGENET = f"get the archives of {{part}} and of the devkit from {{page}} into {{root}} and unpack them with: {_ONCE}"
# fmt: off
SETS: Mapping[str, _Set] = {
    "cifar10": _Set("CIFAR10", "pixels", _TWO, "cifar-10-batches-py", "170 MB", _CIFAR, "train"),
    "cifar100": _Set("CIFAR100", "pixels", _TWO, "cifar-100-python", "169 MB", _CIFAR, "train"),
    "flowers102": _Set("Flowers102", "paths", _ALL, "flowers-102/jpg", "345 MB", f"{_VGG}/flowers/102/"),
    "oxfordiiitpet": _Set("OxfordIIITPet", "pet", _PET, "oxford-iiit-pet/images", "810 MB", f"{_VGG}/pets/"),
    "fgvcaircraft": _Set("FGVCAircraft", "paths", {**_ALL, "trainval": "train"}, "fgvc-aircraft-2013b", "2.8 GB",
                         f"{_VGG}/fgvc-aircraft/"),
    "stanfordcars": _Set("StanfordCars", "paths", _TWO, "stanford_cars", "1.9 GB",
                         "https://github.com/pytorch/vision/issues/7545", by_hand=_CARS),
    "food101": _Set("Food101", "paths", _TWO, "food-101", "5 GB", "http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz"),
    "dtd": _Set("DTD", "paths", _ALL, "dtd/dtd", "600 MB", f"{_VGG}/dtd/"),
    "eurosat": _Set("EuroSAT", "paths", {}, "eurosat/2750", "94 MB", "https://github.com/phelber/eurosat"),
    "inaturalist": _Set("INaturalist", "listing", {**_INAT, **_OLD_INAT}, "{part}", "8 to 224 GB",
                        "https://github.com/visipedia/inat_comp", "version", f"download it once with: {_ONCE}"),
    "imagenet": _Set("ImageNet", "paths", _VAL, "{part}", "150 GB", "https://image-net.org/download-images",
                     by_hand=_IMAGENET + "; class folders without the devkit are --data folder:{root}"),
    "imagenette": _Set("Imagenette", "paths", _VAL, "imagenette2", "1.6 GB", "https://github.com/fastai/imagenette"),
    "country211": _Set("Country211", "paths", _COUNTRY, "country211", "11 GB",
                       "https://github.com/openai/CLIP/blob/main/data/country211.md"),
    "sun397": _Set("SUN397", "listing", {}, "SUN397", "37 GB", "https://vision.princeton.edu/projects/2010/SUN/"),
    "caltech101": _Set("Caltech101", "caltech", {}, "caltech101/101_ObjectCategories", "140 MB",
                       "https://data.caltech.edu/records/mzrjq-6wc02"),
    "gtsrb": _Set("GTSRB", "gtsrb", _TWO, "gtsrb/GTSRB/{half}", "280 MB", "https://benchmark.ini.rub.de/"),
    "mnist": _Set("MNIST", "pixels", _TWO, f"MNIST/{_LAST}", "12 MB", _MNIST, "train"),
    "fashionmnist": _Set("FashionMNIST", "pixels", _TWO, f"FashionMNIST/{_LAST}", "31 MB",
                         "https://github.com/zalandoresearch/fashion-mnist", "train"),
    "kmnist": _Set("KMNIST", "pixels", _TWO, f"KMNIST/{_LAST}", "21 MB", _KMNIST, "train"),
    "stl10": _Set("STL10", "planes", _STL, "stl10_binary", "2.6 GB", "https://cs.stanford.edu/~acoates/stl10/"),
    "svhn": _Set("SVHN", "planes", {**_TWO, "extra": "train"}, "{part}_32x32.mat", "64 MB to 1.3 GB",
                 "http://ufldl.stanford.edu/housenumbers/"),
}
# fmt: on


class _Place(NamedTuple):
    """A part of a set, and where it should be."""

    key: str
    part: str
    root: Path

    @property
    def files(self) -> Path:
        """What is there once the set is."""
        half = "Training" if self.part == "train" else "Final_Test"
        return self.root / SETS[self.key].files.format(part=self.part, half=half)


class TorchvisionSet(Source):
    """One of torchvision's data sets, or a part of it."""

    def __init__(
        self,
        which: str,
        split: Split = "train",
        name: str | None = None,
        *,
        part: str | None = None,
        strict: bool = False,
    ) -> None:
        """Find the files, or have torchvision download and check them, and list images and labels.

        Args:
            which: "cifar10" (case, "-" and "_" do not matter), or "cifar10@ROOT" with the folder that torchvision calls
                root; by default that is ``MAE_LITE_DATA`` or ``~/.cache/mae_lite/torchvision``.
            split: which part of a divided set; one of validation and test images stands in for the other.
            name: what the user gave.
            part: a part by the set's own name, such as "trainval" or "unlabeled", in place of ``split``.
            strict: whether nothing may stand in.

        Raises:
            ConfigError: when no set, or no part of it, has this name.
            DataError: when it lacks the split, or its files are neither there nor to be downloaded; says where to go.
            DiskError: when the download finds no room or no write access.
        """
        self.name = name or f"torchvision:{which}"
        key, self._root = _parsed(which)
        part, self.split = _chosen(key, split, part, strict, self.name)
        self.in_memory = SETS[key].reader in ("pixels", "planes")
        dataset = _opened(_Place(key, part, self._root))
        images, labels = _listed(dataset, SETS[key].reader)
        classes = _class_names(dataset, labels)
        if not len(labels) or labels.max() >= len(classes):
            found = f"{len(labels)} images, {len(classes)} classes, labels up to {labels.max(initial=-1)}"
            raise DataError(f"{self.name!r} is not whole", found=found, fix=f"unpack it anew below {str(self._root)!r}")
        prefix = f"{self._root}{os.sep}"
        paths = [] if self.in_memory else [str(path).removeprefix(prefix) for path in images]
        # Millions of Python strings would be copied into every worker by their reference counts; one buffer is shared.
        self._paths: Any = pa.array(paths, pa.large_string())
        self._pixels: npt.NDArray[np.uint8] | None = images if self.in_memory else None
        unlabelled = bool((labels < 0).any())
        if unlabelled and (labels >= 0).any():
            _log.info("%s: some of its images have no label, so that none is used", self.name)
        self.labels = np.full(len(labels), -1, dtype=np.int64) if unlabelled else labels
        self.classes = None if unlabelled else classes
        self._digest = hashlib.sha256("\n".join([key, part, *paths]).encode() + labels.tobytes()).hexdigest()

    def example(self, index: int) -> Example:
        """Return the path of image ``index``, or its pixels [H, W] or [H, W, C]."""
        if self._pixels is not None:
            return Example(f"{self.name} item {index}", np.ascontiguousarray(self._pixels[index]))
        path = self._root / self._paths[index].as_py()
        return Example(str(path), path)

    def fingerprint(self) -> dict[str, int | str]:
        """Return the count and a SHA-256 over name, part, labels and the paths below the root."""
        return {"count": len(self), "sha256": self._digest}


def _parsed(which: str) -> tuple[str, Path]:
    """Return the set and the root that ``which`` names."""
    called, mark, place = which.partition("@")
    key = re.sub("[-_ ]", "", called.lower())
    if key not in SETS or (mark and not place):
        found = f"'torchvision:{which}'{nearest(key, SETS)}"
        expected = f"one of {', '.join(SETS)}, perhaps with @ and the folder it is in"
        fix = "--data torchvision:cifar10, or --data torchvision:cifar10@/path"
        raise ConfigError("data", found=found, expected=expected, fix=fix)
    default = os.environ.get("MAE_LITE_DATA") or Path.home() / ".cache" / "mae_lite" / "torchvision"
    return key, Path(place or default).expanduser()


def _chosen(key: str, split: Split, part: str | None, strict: bool, name: str) -> tuple[str, Split | None]:
    """Return the set's own part to read, and which split it is."""
    parts = SETS[key].parts
    if part is not None and part in parts:
        return part, parts[part]
    wanted = split if part is None else split_of(part)
    if wanted is None or (part is not None and not parts):
        raise ConfigError(
            f"data torchvision:{key}",
            found=f"part {part!r}{nearest(part or '', parts)}",
            expected=f"one of {', '.join(parts)}" if parts else "no part: the set is not divided",
            fix=f"--data 'torchvision:{key}{'#' if parts else ''}{next(iter(parts), '')}'",
        )
    if not parts:
        return "", None
    taken = choose_split(dict.fromkeys(parts.values()), wanted, name, strict=strict or part is not None)
    return next(own for own, serves in parts.items() if serves == taken), taken


def _opened(place: _Place) -> Any:
    """Return torchvision's object for the files that are there, or else for those it downloads."""
    row, unfinished = SETS[place.key], place.root / f".{place.key}.unfinished"
    found = f"no {place.files.name!r}"
    if place.files.exists():
        if unfinished.exists():
            raise DataError(
                f"the download of {row.kind} to {str(place.root)!r} did not finish",
                found=f"{unfinished.name!r}: images may be missing, or another process is still at it",
                fix=f"delete {str(place.files)!r} to download it again; if it is whole, delete {str(unfinished)!r}",
            )
        try:
            return _built(place)
        except MemoryError:
            raise
        except Exception as error:  # torchvision raises all kinds; its download may repair what is damaged
            found = shortly(error)
    if row.by_hand:
        raise _absent(place, found)
    _log.info("%s: found %s in %s; torchvision downloads %s to it", row.kind, found, place.root, row.size)
    try:
        return _downloaded(place, unfinished)
    except Exception as error:  # no network, a dead link, a wrong MD5, a damaged archive, ...
        cause = error.__cause__ if isinstance(error, DiskError) else error
        if isinstance(cause, OSError) and cause.errno in _FULL_OR_CLOSED:
            fix = f"set MAE_LITE_DATA to a folder with {row.size} of room and write access"
            raise DiskError(f"cannot put {row.kind} into {str(place.root)!r}", found=shortly(cause), fix=fix) from error
        raise _absent(place, f"{found}, and the download failed: {shortly(error)}") from error


def _downloaded(place: _Place, unfinished: Path) -> Any:
    files.make_folder(place.root)
    was_there = place.files.exists()
    # An interrupted unpacking would later pass for a smaller data set: this file tells, even after a crash.
    files.write_text(unfinished, "mae_lite writes this before a download and deletes it after\n")
    try:
        dataset = _built(place, download=True)
    except Exception:
        if was_there or not place.files.exists():
            files.remove(unfinished)
        raise
    files.remove(unfinished)
    return dataset


def _built(place: _Place, **arguments: Any) -> Any:
    from torchvision import datasets  # takes a second

    row = SETS[place.key]
    if row.parts:
        arguments[row.argument] = place.part == "train" if row.argument == "train" else place.part
    if row.reader in ("paths", "listing"):
        arguments["loader"] = Path  # in place of a decoder: what it "loads" is where the file is
    return getattr(datasets, row.kind)(str(place.root), **arguments)


def _listed(dataset: Any, reader: str) -> tuple[Any, Indices]:
    """Return the images of torchvision's object, none decoded: paths, or pixels [N, H, W(, C)]; and labels [N]."""
    match reader:
        case "pixels":  # [N, H, W] or [N, H, W, C]
            return np.asarray(dataset.data), np.asarray(dataset.targets).astype(np.int64)
        case "planes":  # [N, C, H, W]
            return dataset.data.transpose(0, 2, 3, 1), np.asarray(dataset.labels).astype(np.int64)
        case "pet":  # this one and the next two have no loader to replace
            items = list(zip(dataset._images, dataset._labels, strict=True))
        case "gtsrb":
            items = dataset._samples
        case "caltech":
            folder = Path(dataset.root, "101_ObjectCategories")
            numbers = zip(dataset.y, dataset.index, strict=True)
            items = [(folder / dataset.categories[y] / f"image_{number:04d}.jpg", y) for y, number in numbers]
        case _:
            items = [dataset[index] for index in range(len(dataset))]
            if reader == "listing":  # in the order of the disk, which differs between machines
                items.sort()
    return [path for path, _ in items], np.array([label for _, label in items], dtype=np.int64)


def _class_names(dataset: Any, labels: Indices) -> tuple[str, ...]:
    # WordNet ids before names: names repeat ("crane"), and the folders of ImageNet are called by the ids.
    known = (getattr(dataset, name, None) for name in ("wnids", "all_categories", "categories", "classes"))
    return tuple(map(str, next(filter(None, known), range(int(labels.max(initial=-1)) + 1))))


def _absent(place: _Place, found: str) -> DataError:
    row = SETS[place.key]
    more = ", download=True" if row.kind == "INaturalist" else ""
    by_hand = row.by_hand or "get it from {page} and unpack it so that {files} is there"
    facts = row._asdict() | {"files": place.files, "root": place.root, "part": place.part, "more": more}
    return DataError(
        f"{row.kind} ({row.size}) is not in {str(place.root)!r}",
        found=found,
        expected=f"{place.files.name!r} as torchvision lays it out",
        fix=f"{by_hand.format(**facts)}; if it is elsewhere: --data torchvision:{place.key}@FOLDER_IT_IS_IN",
    )
