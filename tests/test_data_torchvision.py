"""torchvision's data sets by name, on small stand-ins in the layout that torchvision expects; nothing is downloaded."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import pickle
import shutil
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import pytest
import scipy.io
import torch
from PIL import Image
from torchvision import datasets
from torchvision.datasets import utils

from mae_lite.data.sources import Source, Split
from mae_lite.data.torchvision_sets import SETS, TorchvisionSet
from mae_lite.errors import ConfigError, DataError, DiskError

savemat: Any = vars(scipy.io)["savemat"]  # it has no types
PIXELS = np.random.default_rng(0).integers(0, 256, (8, 3, 96, 96), dtype=np.uint8)


class Part(NamedTuple):
    """What a part of a stand-in should be read as."""

    images: list[str] | npt.NDArray[np.uint8]
    """Paths below the root, or pixels."""
    labels: list[int]
    classes: tuple[str, ...] | None
    split: Split | None


Parts = dict[str | None, Part]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every attempt to reach the network, and to decode an image, fail."""

    def refuse(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("Network is unreachable")

    def decode(*_: Any, **__: Any) -> None:
        raise AssertionError("torchvision opened an image")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(Image, "open", decode)


def write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def cifar(kind: Any, train: list[str], test: str, meta: str) -> Callable[[Path, pytest.MonkeyPatch], Parts]:
    def build(root: Path, monkeypatch: pytest.MonkeyPatch) -> Parts:
        folder = root / kind.base_folder
        folder.mkdir(parents=True)
        key, labels = ("label", "labels") if kind is datasets.CIFAR10 else ("fine_label", "fine_labels")
        pixels = PIXELS[..., :32, :32]
        for number, name in enumerate([*train, test]):
            chosen = pixels[number : number + 1].reshape(1, -1)
            (folder / name).write_bytes(pickle.dumps({"data": chosen, labels: [number % 2]}))
        (folder / meta).write_bytes(pickle.dumps({f"{key}_names": ["cat", "dog"]}))
        monkeypatch.setattr(kind, "train_list", [[name, md5(folder / name)] for name in train])
        monkeypatch.setattr(kind, "test_list", [[test, md5(folder / test)]])
        monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(folder / meta)})
        colour, count = pixels.transpose(0, 2, 3, 1), len(train)
        classes = ("cat", "dog")
        return {
            "train": Part(colour[:count], [number % 2 for number in range(count)], classes, "train"),
            "test": Part(colour[count : count + 1], [count % 2], classes, "test"),
        }

    return build


def mnist(folder: str) -> Callable[[Path, pytest.MonkeyPatch], Parts]:
    def build(root: Path, _: pytest.MonkeyPatch) -> Parts:
        raw = root / folder / "raw"
        raw.mkdir(parents=True)
        grey, parts = PIXELS[:, 0, :28, :28], Parts()
        classes = tuple(getattr(datasets, folder).classes)
        for part, word, low in (("train", "train", 0), ("test", "t10k", 4)):
            images, labels = grey[low : low + 4], np.arange(low, low + 4, dtype=np.uint8)
            header = np.array([0x803, 4, 28, 28], dtype=">i4").tobytes()
            (raw / f"{word}-images-idx3-ubyte").write_bytes(header + images.tobytes())
            header = np.array([0x801, 4], dtype=">i4").tobytes()
            (raw / f"{word}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())
            parts[part] = Part(images, labels.tolist(), classes, "train" if part == "train" else "test")
        return parts

    return build


def stl10(root: Path, monkeypatch: pytest.MonkeyPatch) -> Parts:
    folder = root / "stl10_binary"
    write(folder, "class_names.txt", "ape\nbee\n")
    for name, low, high in (("train_X", 0, 2), ("test_X", 2, 4), ("unlabeled_X", 4, 8)):
        (folder / f"{name}.bin").write_bytes(PIXELS[low:high].tobytes())
    (folder / "train_y.bin").write_bytes(bytes([1, 2]))
    (folder / "test_y.bin").write_bytes(bytes([2, 1]))
    for name in ("train_list", "test_list"):
        files = [file for file, _ in getattr(datasets.STL10, name)]
        monkeypatch.setattr(datasets.STL10, name, [[file, md5(folder / file)] for file in files])
    colour = PIXELS.transpose(0, 3, 2, 1)  # its files keep columns before rows
    return {
        "train": Part(colour[:2], [0, 1], ("ape", "bee"), "train"),
        "test": Part(colour[2:4], [1, 0], ("ape", "bee"), "test"),
        "unlabeled": Part(colour[4:], [-1] * 4, None, "train"),
        "train+unlabeled": Part(colour[[0, 1, 4, 5, 6, 7]], [-1] * 6, None, "train"),
    }


def svhn(root: Path, monkeypatch: pytest.MonkeyPatch) -> Parts:
    splits, parts = {}, Parts()
    for part, split in (("train", "train"), ("test", "test"), ("extra", "train")):
        pixels, file = PIXELS[:3, :, :32, :32].transpose(2, 3, 1, 0), f"{part}_32x32.mat"
        savemat(root / file, {"X": pixels, "y": np.array([[10], [1], [2]], dtype=np.uint8)})
        splits[part] = ["http://example.invalid", file, md5(root / file)]
        parts[part] = Part(pixels.transpose(3, 0, 1, 2), [0, 1, 2], ("0", "1", "2"), split)  # type: ignore[arg-type]
    monkeypatch.setattr(datasets.SVHN, "split_list", splits)
    return parts


def stanfordcars(root: Path, _: pytest.MonkeyPatch) -> None:
    folder = root / "stanford_cars"
    savemat(folder / "devkit/cars_meta.mat", {"class_names": np.array(["Audi", "BMW"], dtype=object)})
    rows = np.array([("1.jpg", 2), ("2.jpg", 1)], dtype=[("fname", object), ("class", object)])
    savemat(folder / "devkit/cars_train_annos.mat", {"annotations": rows})
    savemat(folder / "cars_test_annos_withlabels.mat", {"annotations": rows})


def flowers102(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, kept = root / "flowers-102", datasets.Flowers102._file_dict
    savemat(folder / "imagelabels.mat", {"labels": np.array([[1, 2, 3, 102, 5, 1]], dtype=np.uint8)})
    savemat(folder / "setid.mat", {"trnid": [[3, 1]], "valid": [[2, 4]], "tstid": [[5, 6]]})
    found = {key: (file, md5(folder / file) if file.endswith(".mat") else old) for key, (file, old) in kept.items()}
    monkeypatch.setattr(datasets.Flowers102, "_file_dict", found)


def imagenet(root: Path, _: pytest.MonkeyPatch) -> None:
    torch.save(({"n01": ("crane",), "n02": ("crane", "hoist")}, ["n01"]), root / "meta.bin")


def parts(key: str, form: str, names: str, labels: list[int], classes: tuple[str, ...]) -> Parts:
    """Return all parts of a set, with the same names in each."""
    found = Parts()
    divided: list[tuple[str | None, Split | None]] = [*SETS[key].parts.items()]
    for part, split in divided or [(None, None)]:
        found[part] = Part([form.format(part=part, name=name) for name in names.split()], labels, classes, split)
    return found


_AIR, _PET, _INAT = "fgvc-aircraft-2013b/data", "oxford-iiit-pet", ("00000_A_C_A_O_F_G_s", "00001_A_A_I_O_F_G_s")
_FLOWERS, _TWO, _BREEDS = tuple(datasets.Flowers102.classes), ("a", "b"), ("Birman", "Great Dane")
_FLOWER = "flowers-102/jpg/image_{name}.jpg"
TEXTS = {
    "oxfordiiitpet": dict.fromkeys(
        [f"{_PET}/annotations/{part}.txt" for part in ("trainval", "test")], "great_dane_7 2 2 1\nBirman_2 1 1 1\n"
    ),
    "fgvcaircraft": {f"{_AIR}/variants.txt": "707-320\nA300 B4\n"}
    | {f"{_AIR}/images_variant_{part}.txt": f"{part}0 A300 B4\n" for part in SETS["fgvcaircraft"].parts},
    "stanfordcars": {"stanford_cars/devkit/README": ""},
    "food101": {
        f"food-101/meta/{part}.json": json.dumps({"pho": [f"pho/{part}"], "cake": []}) for part in ("train", "test")
    },
    "dtd": {f"dtd/dtd/labels/{part}1.txt": f"b/{part}.jpg\na/{part}.jpg\n" for part in ("train", "val", "test")},
    "sun397": {"SUN397/ClassName.txt": "/b/barn\n/a/abbey\n"},
    "caltech101": {"caltech101/101_ObjectCategories/BACKGROUND_Google/image_0001.jpg": ""},
    "gtsrb": {"gtsrb/GT-final_test.csv": "Filename;ClassId\n00000.ppm;1\n00001.ppm;0\n"},
}
PATHS: dict[str, Parts] = {
    "oxfordiiitpet": parts("oxfordiiitpet", _PET + "/images/{name}.jpg", "great_dane_7 Birman_2", [1, 0], _BREEDS),
    "fgvcaircraft": parts("fgvcaircraft", _AIR + "/images/{part}{name}.jpg", "0", [1], ("707-320", "A300 B4")),
    "stanfordcars": parts("stanfordcars", "stanford_cars/cars_{part}/{name}.jpg", "1 2", [1, 0], ("Audi", "BMW")),
    "food101": parts("food101", "food-101/images/{name}/{part}.jpg", "pho", [1], ("cake", "pho")),
    "dtd": parts("dtd", "dtd/dtd/images/{name}/{part}.jpg", "b a", [1, 0], _TWO),
    "eurosat": parts("eurosat", "eurosat/2750/{name}.jpg", "a/1 a/2 b/1", [0, 0, 1], _TWO),
    "imagenet": parts("imagenet", "{part}/{name}/1.JPEG", "n01 n02", [0, 1], ("n01", "n02")),
    "imagenette": parts("imagenette", "imagenette2/{part}/{name}/1.jpeg", "n01440764", [0], ("n01440764",)),
    "country211": parts("country211", "country211/{part}/{name}.jpg", "a/1 a/2 b/1", [0, 0, 1], _TWO),
    "sun397": parts("sun397", "SUN397/{name}.jpg", "a/abbey/sun_1 b/barn/sun_2", [1, 0], ("barn", "abbey")),
    "caltech101": parts(
        "caltech101",
        "caltech101/101_ObjectCategories/{name}.jpg",
        "a/image_0001 a/image_0002 b/image_0001",
        [0, 0, 1],
        _TWO,
    ),
    "inaturalist": {
        **parts("inaturalist", f"{{part}}/{_INAT[0]}/{{name}}.jpg", "1 2 3 4 5", [0] * 5, _INAT[:1]),
        **{
            part: Part([f"{part}/Birds/0/{n}.jpg" for n in (1, 2)], [0, 0], ("Birds/0",), "train")
            for part in ("2017", "2018", "2019")
        },
    },
    "gtsrb": {
        "train": Part([f"gtsrb/GTSRB/Training/0000{n}/0.ppm" for n in (0, 1)], [0, 1], ("0", "1"), "train"),
        "test": Part([f"gtsrb/GTSRB/Final_Test/Images/0000{n}.ppm" for n in (0, 1)], [1, 0], ("0", "1"), "test"),
    },
    "flowers102": {
        "train": Part([_FLOWER.format(name=n) for n in ("00003", "00001")], [2, 0], _FLOWERS, "train"),
        "val": Part([_FLOWER.format(name=n) for n in ("00002", "00004")], [1, 101], _FLOWERS, "val"),
        "test": Part([_FLOWER.format(name=n) for n in ("00005", "00006")], [4, 0], _FLOWERS, "test"),
    },
}
ARRAYS: dict[str, Callable[[Path, pytest.MonkeyPatch], Parts]] = {
    "cifar10": cifar(datasets.CIFAR10, ["data_batch_1", "data_batch_2"], "test_batch", "batches.meta"),
    "cifar100": cifar(datasets.CIFAR100, ["train"], "test", "meta"),
    "mnist": mnist("MNIST"),
    "fashionmnist": mnist("FashionMNIST"),
    "kmnist": mnist("KMNIST"),
    "stl10": stl10,
    "svhn": svhn,
}
FINISH: dict[str, Callable[[Path, pytest.MonkeyPatch], None]] = {
    "stanfordcars": stanfordcars,
    "flowers102": flowers102,
    "imagenet": imagenet,
}


def stand_in(key: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> Parts:
    """Lay a small set out below ``root``, the files in the wrong order."""
    root.mkdir(exist_ok=True)
    if key in ARRAYS:
        return ARRAYS[key](root, monkeypatch)
    for name in [name for part in PATHS[key].values() for name in reversed(part.images)]:
        write(root, name, name)
    for name, text in TEXTS.get(key, {}).items():
        write(root, name, text)
    if key in FINISH:
        FINISH[key](root, monkeypatch)
    return PATHS[key]


def check(source: Source, root: Path, expected: Part) -> None:
    assert (source.labels.tolist(), source.classes) == (expected.labels, expected.classes)
    assert source.labels.dtype == np.int64 and len(source) == len(expected.images)
    assert source.split == expected.split
    for index, image in enumerate(expected.images):
        data = source.example(index).data
        if isinstance(image, str):
            assert data == root / image and (root / image).read_text() == image and not source.in_memory
        else:
            assert isinstance(data, np.ndarray) and data.dtype == np.uint8 and np.array_equal(data, image)


@pytest.mark.parametrize("key", SETS)
def test_every_set_is_read_part_by_part(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "root"
    parts = stand_in(key, root, monkeypatch)
    assert set(SETS[key].parts) == parts.keys() - {None}
    digests = []
    for part, expected in parts.items():
        source = TorchvisionSet(f"{key}@{root}", part=part)
        check(source, root, expected)
        check(pickle.loads(pickle.dumps(source)), root, expected)
        assert source.fingerprint() == TorchvisionSet(f"{key}@{root}", "test", "other", part=part).fingerprint()
        digests.append(source.fingerprint()["sha256"])
    assert len(set(digests)) == len(parts)
    for split in get_args(Split):
        usual = [part for part, expected in parts.items() if expected.split in (split, None)]
        if usual:
            check(TorchvisionSet(f"{key}@{root}", split, strict=True), root, parts[usual[0]])
        else:
            with pytest.raises(DataError, match=f"has no {split} images"):
                TorchvisionSet(f"{key}@{root}", split, strict=True)
            assert TorchvisionSet(f"{key}@{root}", split).split not in ("train", split)


def test_names_are_forgiving_and_the_root_has_a_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = stand_in("cifar10", tmp_path, monkeypatch)
    monkeypatch.setenv("MAE_LITE_DATA", str(tmp_path))
    for spelling in ("cifar10", "CIFAR-10", "cifar_10"):
        check(TorchvisionSet(spelling), tmp_path, expected["train"])
    assert TorchvisionSet("cifar10", name="mine").name == "mine"
    caplog.set_level(logging.INFO, "mae_lite")
    check(TorchvisionSet("cifar10", "val"), tmp_path, expected["test"])
    check(TorchvisionSet("cifar10", "val", part="testing"), tmp_path, expected["test"])
    assert caplog.messages == ["torchvision:cifar10 has no val images of its own: its test images are taken"]


@pytest.mark.parametrize(
    ("which", "part", "words"),
    [
        ("cifar11", None, ["'torchvision:cifar11'", "(nearest: 'cifar10')", *SETS]),
        ("cifar10@", None, ["'torchvision:cifar10@'"]),
        ("oxfordiiitpet", "trainvl", ["'trainvl'", "(nearest: 'trainval')", "one of trainval, test", "#trainval"]),
        ("stl10", "all", ["one of train, test, unlabeled, train+unlabeled"]),
        ("eurosat", "train", ["not divided", "Fix: --data 'torchvision:eurosat'"]),
    ],
)
def test_unknown_names_and_parts_are_told(which: str, part: str | None, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        TorchvisionSet(which, part=part)
    assert [word for word in words if word not in str(caught.value)] == []


def test_a_part_that_is_asked_for_has_no_stand_in(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no val images"):
        TorchvisionSet(f"cifar10@{tmp_path}", part="val")


@pytest.mark.parametrize("key", SETS)
def test_absent_files_say_where_to_get_them(key: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    with pytest.raises(DataError) as caught:
        TorchvisionSet(f"{key}@{root}")
    message, row = str(caught.value), SETS[key]
    assert row.size in message and f"'{root}'" in message and f"torchvision:{key}@" in message and "{" not in message
    if row.by_hand:
        assert "unreachable" not in message and not root.exists()
        assert row.page in message or "download=True" in message
    else:
        assert "Network is unreachable" in message and row.page in message and not list(root.glob(".*unfinished"))


def test_damaged_pickles_are_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in("cifar10", tmp_path, monkeypatch)
    (tmp_path / "cifar-10-batches-py/data_batch_2").write_bytes(b"cbuiltins\nexit\n(tR.")  # it would end the process
    with pytest.raises(DataError, match="corrupted"):
        TorchvisionSet(f"cifar10@{tmp_path}")


def archived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Parts:
    """Have torchvision find CIFAR-10's archive behind its link."""
    expected = stand_in("cifar10", tmp_path / "there", monkeypatch)
    with tarfile.open(tmp_path / "archive", "w:gz") as tar:
        tar.add(tmp_path / "there" / "cifar-10-batches-py", "cifar-10-batches-py")
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", md5(tmp_path / "archive"))
    monkeypatch.setattr(utils, "_get_redirect_url", lambda url, **_: url)
    monkeypatch.setattr(utils, "_urlretrieve", lambda _, to: shutil.copy(tmp_path / "archive", to))
    return expected


def test_a_download_is_announced_checked_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected, root = archived(tmp_path, monkeypatch), tmp_path / "new" / "root"
    caplog.set_level(logging.INFO, "mae_lite")
    check(TorchvisionSet(f"cifar10@{root}"), root, expected["train"])
    assert len(caplog.messages) == 1 and "170 MB" in caplog.text and str(root) in caplog.text
    check(TorchvisionSet(f"cifar10@{root}", "test"), root, expected["test"])
    assert len(caplog.messages) == 1 and not list(root.glob(".*"))
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", "0" * 32)
    with pytest.raises(DataError, match="the download failed: RuntimeError: File not found or corrupted"):
        TorchvisionSet(f"cifar10@{tmp_path / 'other'}")


def test_an_interrupted_download_is_not_taken_for_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: str, download_root: str, **__: str) -> None:
        stand_in("dtd", Path(download_root).parent, monkeypatch)
        raise KeyboardInterrupt

    monkeypatch.setattr(datasets.dtd, "download_and_extract_archive", interrupted)
    with pytest.raises(KeyboardInterrupt):
        TorchvisionSet(f"dtd@{tmp_path}")
    with pytest.raises(DataError, match="did not finish") as caught:
        TorchvisionSet(f"dtd@{tmp_path}")
    assert f"delete '{tmp_path / 'dtd/dtd'}'" in caught.value.fix
    (tmp_path / ".dtd.unfinished").unlink()
    check(TorchvisionSet(f"dtd@{tmp_path}"), tmp_path, PATHS["dtd"]["train"])


def test_no_room_and_no_access_are_the_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(utils, "_get_redirect_url", lambda url, **_: url)
    monkeypatch.setattr(utils, "_urlretrieve", full)
    with pytest.raises(DiskError, match="No space left on device") as caught:
        TorchvisionSet(f"eurosat@{tmp_path}")
    assert "MAE_LITE_DATA" in caught.value.fix and "94 MB" in caught.value.fix
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match="MAE_LITE_DATA"):
        TorchvisionSet(f"eurosat@{tmp_path / 'file' / 'root'}")


def test_a_set_without_images_or_classes_is_not_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in("fgvcaircraft", tmp_path, monkeypatch)
    write(tmp_path, f"{_AIR}/images_variant_train.txt", "")
    with pytest.raises(DataError, match="not whole"):
        TorchvisionSet(f"fgvc-aircraft@{tmp_path}")


def test_half_a_set_with_labels_counts_as_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = stand_in("stl10", tmp_path, monkeypatch)
    caplog.set_level(logging.INFO, "mae_lite")
    check(TorchvisionSet(f"stl10@{tmp_path}", part="train+unlabeled"), tmp_path, expected["train+unlabeled"])
    assert "have no label" in caplog.text
