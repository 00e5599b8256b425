"""Hugging Face data sets: folders that save_to_disk wrote, splits, columns, labels, and what is said offline."""

from __future__ import annotations

import errno
import io
import json
import logging
import multiprocessing
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from mae_lite.data.hub import HubSet
from mae_lite.data.sources import Source
from mae_lite.errors import ConfigError, DataError, DiskError

datasets = pytest.importorskip("datasets")
Image, ClassLabel, Value = datasets.Image, datasets.ClassLabel, datasets.Value


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep progress bars away, and have every use of the network or of torchvision's and Pillow's readers fail."""

    def offline(name: str, *_: Any, **__: Any) -> None:
        raise ConnectionError(f"Couldn't reach '{name}' on the Hub (LocalEntryNotFoundError)")

    def decode(*_: Any, **__: Any) -> None:
        raise AssertionError("datasets opened an image")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    monkeypatch.setattr(Pillow, "open", decode)
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def encoded(value: int) -> bytes:
    handle = io.BytesIO()
    Pillow.new("L", (value + 1, 2), value).save(handle, "PNG")
    return handle.getvalue()


PNGS = [encoded(value) for value in range(6)]


def made(labels: list[Any], feature: Any, *, low: int = 0, column: str = "label", **more: Any) -> Any:
    """Return a Dataset with an image per label."""
    rows = {"image": [{"bytes": PNGS[low + n], "path": f"{low + n}.png"} for n in range(len(labels))], column: labels}
    features = datasets.Features({"image": Image(), column: feature, **{name: item[1] for name, item in more.items()}})
    return datasets.Dataset.from_dict(rows | {name: item[0] for name, item in more.items()}, features=features)


def saved(path: Path, dataset: Any) -> Path:
    dataset.save_to_disk(str(path))
    return path


def data(source: Source) -> list[Any]:
    return [source.example(index).data for index in range(len(source))]


PETS = ClassLabel(names=["cat", "dog"])


@pytest.fixture
def divided(tmp_path: Path) -> Path:
    """Save three splits: two cats and a dog, a dog, and two without labels."""
    splits = {
        "train": made([0, 0, 1], PETS),
        "validation": made([1], PETS, low=3),
        "test": made([-1, -1], PETS, low=4),
        "extra": made([0], PETS, low=5),
    }
    return saved(tmp_path / "pets", datasets.DatasetDict(splits))


def test_splits_of_a_saved_dictionary(divided: Path) -> None:
    train = HubSet(str(divided), "train")
    assert (train.labels.tolist(), train.classes, train.split) == ([0, 0, 1], ("cat", "dog"), "train")
    assert data(train) == PNGS[:3] and train.labels.dtype == np.int64 and not train.in_memory
    assert train.name == f"hf:{divided}" and train.example(2).name == f"hf:{divided} train row 2"
    val = HubSet(str(divided), "val", "hf:mine", strict=True)
    assert (val.name, val.split, val.labels.tolist(), data(val)) == ("hf:mine", "val", [1], PNGS[3:4])
    test = HubSet(str(divided), "test")
    assert (test.classes, test.labels.tolist(), test.split, data(test)) == (None, [-1, -1], "test", PNGS[4:])
    extra = HubSet(str(divided), "train", part="extra")
    assert (extra.split, extra.labels.tolist(), data(extra)) == (None, [0], PNGS[5:])
    for part in ("val", "validation"):
        assert HubSet(str(divided), part=part).fingerprint() == val.fingerprint()


def test_a_missing_split_has_a_stand_in_unless_strict(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = str(saved(tmp_path / "x", datasets.DatasetDict(train=made([0], PETS), test=made([1, 0], PETS, low=1))))
    caplog.set_level(logging.INFO, "mae_lite")
    assert HubSet(path, "val").split == "test" and "its test images are taken" in caplog.text
    for options in ({"strict": True}, {"part": "val"}):
        with pytest.raises(DataError, match="has no val images"):
            HubSet(path, "val", **options)
    with pytest.raises(ConfigError, match=r"found split 'tset' \(nearest: 'test'\), expected one of train, test"):
        HubSet(path, part="tset")


def test_a_single_data_set_is_the_same_for_every_split(tmp_path: Path) -> None:
    path = str(saved(tmp_path / "x", made([1, 0], PETS)))
    for split in ("train", "val"):
        source = HubSet(path, split)
        assert (source.split, source.labels.tolist(), data(source)) == (None, [1, 0], PNGS[:2])
    with pytest.raises(ConfigError, match="not divided"):
        HubSet(path, part="train")
    alone = str(saved(tmp_path / "y", datasets.DatasetDict(everything=made([1, 0], PETS))))
    assert HubSet(alone, "test").split is None and HubSet(alone, part="everything").split is None


def test_other_processes_read_the_same(divided: Path) -> None:
    source = HubSet(str(divided))
    raw = pickle.dumps(source)
    assert PNGS[0] not in raw and data(pickle.loads(raw)) == PNGS[:3]  # a memory map, not a copy
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            assert [example.data for example in pool.map(source.example, range(3))] == PNGS[:3]


@pytest.mark.parametrize(
    ("labels", "feature", "numbers", "classes"),
    [
        ([1, 0, 1], Value("int32"), [1, 0, 1], ("0", "1")),
        ([2, 0], Value("uint8"), [2, 0], ("0", "1", "2")),
        (["owl", "ape", "owl"], Value("string"), [1, 0, 1], ("ape", "owl")),
        (["owl", "ape"], Value("large_string"), [1, 0], ("ape", "owl")),
        ([1, 1], ClassLabel(names=["a", "b", "c"]), [1, 1], ("a", "b", "c")),
        ([-1, -1], Value("int64"), [-1, -1], None),
        ([None, None], PETS, [-1, -1], None),
    ],
)
def test_labels(labels: list[Any], feature: Any, numbers: list[int], classes: Any, tmp_path: Path) -> None:
    source = HubSet(str(saved(tmp_path / "x", made(labels, feature))))
    assert (source.labels.tolist(), source.classes) == (numbers, classes)


@pytest.mark.parametrize(
    ("labels", "feature", "words"),
    [
        ([0, -1, 1, -1], PETS, "2 of 4 rows outside 0 to 1, the first is row 1 (-1)"),
        (["a", None], Value("string"), "1 of 2 rows outside 0 to 0, the first is row 1"),
        ([0, -2], Value("int64"), "row 1 (-2)"),
        ([0, 10**12], Value("int64"), "outside 0 to 999999"),
        ([0.5, 1.5], Value("float32"), "float32"),
    ],
)
def test_wrong_labels_are_told(labels: list[Any], feature: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no class numbers") as caught:
        HubSet(str(saved(tmp_path / "x", made(labels, feature))))
    assert words in str(caught.value) and "'label'" in str(caught.value)


def test_columns_are_chosen_aloud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mae_lite")
    coarse = ([0, 0], ClassLabel(names=["animal"]))
    source = HubSet(str(saved(tmp_path / "x", made([1, 0], PETS, column="fine_label", coarse_label=coarse))))
    assert source.classes == ("cat", "dog") and "column fine_label, not of 'coarse_label'" in caplog.text
    source = HubSet(str(saved(tmp_path / "y", made([1, 0], PETS, coarse_label=coarse))))
    assert source.classes == ("cat", "dog")
    source = HubSet(str(saved(tmp_path / "z", made([5, 6], Value("int64"), column="age"))))
    assert source.classes is None and source.labels.tolist() == [-1, -1]


def test_paths_bytes_and_missing_images(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNGS[0])
    paths = datasets.Dataset.from_dict({"img": [str(tmp_path / "a.png")], "label": [0]})
    assert data(HubSet(str(saved(tmp_path / "x", paths)))) == [tmp_path / "a.png"]
    for number, kind in enumerate((Value("binary"), Value("large_binary"))):
        raw = datasets.Dataset.from_dict({"image": PNGS[:2]}, features=datasets.Features({"image": kind}))
        assert data(HubSet(str(saved(tmp_path / f"y{number}", raw)))) == PNGS[:2]
    plain = {"bytes": Value("binary"), "path": Value("string")}
    pairs = made([0, 1], PETS).cast(datasets.Features({"image": plain, "label": PETS}))
    assert data(HubSet(str(saved(tmp_path / "y", pairs)))) == PNGS[:2]
    rows = [{"bytes": PNGS[0], "path": None}, None]
    holes = datasets.Dataset.from_dict({"image": rows}, features=datasets.Features({"image": Image()}))
    source = HubSet(str(saved(tmp_path / "z", holes)))
    assert source.example(0).data == PNGS[0] and source.fingerprint()["count"] == 2
    with pytest.raises(DataError, match="row 1' has no image"):
        source.example(1)


@pytest.mark.parametrize("columns", [{"text": ["a"], "label": [0]}, {"image": [[[1, 2], [3, 4]]]}, {"image": [3]}])
def test_data_without_images_are_told(columns: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no images") as caught:
        HubSet(str(saved(tmp_path / "x", datasets.Dataset.from_dict(columns))))
    assert next(iter(columns)) in str(caught.value)


def test_no_rows_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: made([], PETS))
    with pytest.raises(DataError, match="has no rows"):
        HubSet("user/name")


def test_the_fingerprint_knows_labels_images_and_split_and_not_the_place(tmp_path: Path) -> None:
    def digest(name: str, dataset: Any, **options: Any) -> object:
        return HubSet(str(saved(tmp_path / name, dataset)), **options).fingerprint()["sha256"]

    one = digest("a", made([0, 1], PETS))
    assert one == digest("b", made([0, 1], PETS)) == digest("c", made([0, 1], PETS).select([0, 1]))
    assert one != digest("d", made([1, 0], PETS)) and one != digest("e", made([0, 1], PETS, low=2))
    assert one != digest("f", datasets.DatasetDict(train=made([0, 1], PETS)))


def test_without_the_package_the_fix_installs_it(divided: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"Fix: pip install 'mae_lite\[hub\]'"):
        HubSet(str(divided))


def test_names_go_to_the_hub_with_their_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load(*arguments: Any) -> Any:
        asked.append(arguments)
        return datasets.DatasetDict(train=made([0, 1], PETS))

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert data(HubSet("uoft-cs/cifar10")) == PNGS[:2] and HubSet("a/b:plain_text").classes == ("cat", "dog")
    assert asked == [("uoft-cs/cifar10", None), ("a/b", "plain_text")]


@pytest.mark.parametrize("which", ["uoft-cs/cifar10", "mnist:plain_text"])
def test_offline_the_ways_around_are_named(which: str) -> None:
    with pytest.raises(DataError, match="Couldn't reach") as caught:
        HubSet(which)
    assert f"'hf:{which}'" in str(caught.value)
    assert "save_to_disk" in caught.value.fix and "--data parquet:" in caught.value.fix


def test_a_full_disk_is_not_a_missing_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(datasets, "load_dataset", full)
    with pytest.raises(DiskError, match="HF_HOME"):
        HubSet("user/name")


def test_other_folders_are_told(divided: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    with pytest.raises(DataError, match=r"cannot be opened: found 'a.jpg'.*save_to_disk"):
        HubSet(str(tmp_path / "photos"))
    with pytest.raises(DataError, match=r"cannot be opened: found FileNotFoundError"):
        HubSet(str(tmp_path / "absent"))
    (divided / "train" / "state.json").write_text(json.dumps({}))
    with pytest.raises(DataError, match="cannot be opened"):
        HubSet(str(divided))
