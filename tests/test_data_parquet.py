"""Parquet files: layouts, the Arrow cache, and errors that name the row."""

from __future__ import annotations

import json
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mae_lite.data.opening import open_source
from mae_lite.data.parquet import Parquet
from mae_lite.data.sources import Split
from mae_lite.errors import DataError, DiskError
from tests import toy
from tests.test_data_images import encoded, solid

pa: Any = pytest.importorskip("pyarrow")
pq: Any = pytest.importorskip("pyarrow.parquet")

NAMES = ["cat", "dog"]


def images(count: int) -> list[bytes]:
    """Return tiny PNG files whose red value is their position."""
    return [encoded(solid("RGB", (position, 0, 0))) for position in range(count)]


def write(
    path: Path,
    labels: list[int | None] | None,
    *,
    data: Any = None,
    names: list[str] | None = NAMES,
    label: str = "label",
) -> Path:
    """Write a parquet file as Hugging Face datasets does."""
    encoded_images = images(3 if labels is None else len(labels)) if data is None else data
    if not isinstance(encoded_images, pa.Array):
        encoded_images = pa.array([{"bytes": item, "path": None} for item in encoded_images], IMAGE)
    columns = {"image": encoded_images} | ({} if labels is None else {label: pa.array(labels, pa.int64())})
    table = pa.table(columns)
    if names is not None and labels is not None:
        features = {label: {"_type": "ClassLabel", "names": names}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=2)
    return path


IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def red(source: object, index: int) -> int:
    """Return the red value of an image."""
    assert isinstance(source, Parquet)
    pixel = toy.picture(source, index, 3).getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return int(pixel[0])


def fails(path: Path, *words: str, split: Split = "train") -> None:
    """Assert that a data set is refused by the error contract."""
    with pytest.raises(DataError) as caught:
        open_source(str(path), split)
    assert caught.value.exit_code == 3
    assert "\nFix: " in str(caught.value)
    for word in words:
        assert word in str(caught.value), str(caught.value)


@pytest.mark.usefixtures("arrow_cache")
@pytest.mark.parametrize("spec", ["{}", "parquet:{}"])
def test_hugging_face_layout(tmp_path: Path, spec: str) -> None:
    source = open_source(spec.format(write(tmp_path / "x.parquet", [1, 0, 1, 1, 0])))
    assert source.classes == ("cat", "dog") and source.labels.tolist() == [1, 0, 1, 1, 0]
    assert [red(source, index) for index in range(5)] == [0, 1, 2, 3, 4]
    assert (source.in_memory, source.split) == (False, None)
    assert "5 images in 2 classes" in source.describe()


@pytest.mark.usefixtures("arrow_cache")
def test_other_layouts(tmp_path: Path) -> None:
    plain = write(
        tmp_path / "plain.parquet", [2, 0], data=pa.array(images(2), pa.binary()), names=None, label="fine_label"
    )
    assert open_source(str(plain)).classes == ("0", "1", "2")
    large = write(tmp_path / "large.parquet", None, data=pa.array(images(2), pa.large_binary()))
    unlabelled = open_source(str(large))
    assert unlabelled.classes is None and unlabelled.labels.tolist() == [-1, -1]
    assert red(unlabelled, 1) == 1


def test_many_files_and_chunks_are_one_sequence(
    tmp_path: Path, arrow_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mae_lite.data.arrow_cache._BATCH_ROWS", 2)
    everything = images(12)
    write(tmp_path / "set/data/train-00001-of-2.parquet", [1] * 7, data=everything[5:])
    write(tmp_path / "set/data/train-00000-of-2.parquet", [0] * 5, data=everything[:5])
    write(tmp_path / "set/data/test-00000.parquet", [0] * 3)
    source = open_source(str(tmp_path / "set"))
    assert source.labels.tolist() == [0] * 5 + [1] * 7
    assert [red(source, index) for index in range(12)] == list(range(12))
    assert len(open_source(str(tmp_path / "set"), "test")) == 3
    assert len(list(arrow_cache.glob("*.arrow"))) == 2


@pytest.mark.usefixtures("arrow_cache")
def test_splits_by_file_name(tmp_path: Path) -> None:
    write(tmp_path / "latest.parquet", [0] * 2)
    assert len(open_source(str(tmp_path), "test")) == 2  # no name says a split: taken whole
    write(tmp_path / "cifar_train.parquet", [0] * 3)
    assert len(open_source(str(tmp_path))) == 3
    fails(tmp_path, "only 'train'", "test or testing", split="test")
    write(tmp_path / "validation-0.parquet", [0] * 4)
    assert len(open_source(str(tmp_path), "test")) == 4
    write(tmp_path / "test.parquet", [0] * 5)
    assert len(open_source(str(tmp_path), "test")) == 5  # test and validation are never mixed


def test_conversion_happens_once_and_again_after_a_change(tmp_path: Path, arrow_cache: Path) -> None:
    path = write(tmp_path / "x.parquet", [0, 1])
    first = open_source(str(path))
    (cached,) = arrow_cache.iterdir()
    stamp = cached.stat().st_mtime_ns
    assert open_source(str(path)).fingerprint() == first.fingerprint()
    assert cached.stat().st_mtime_ns == stamp
    write(path, [0, 1, 1])
    changed = open_source(str(path))
    assert len(changed) == 3 and changed.fingerprint() != first.fingerprint()
    assert len(list(arrow_cache.iterdir())) == 2


def test_a_damaged_cache_is_made_anew(tmp_path: Path, arrow_cache: Path) -> None:
    path = write(tmp_path / "x.parquet", [0, 1])
    open_source(str(path))
    (cached,) = arrow_cache.iterdir()
    cached.write_bytes(cached.read_bytes()[:200])
    assert red(open_source(str(path)), 1) == 1


def test_an_unwritable_cache_names_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MAE_LITE_CACHE", str(tmp_path / "file"))
    with pytest.raises(DiskError, match=r"Fix: set MAE_LITE_CACHE"):
        open_source(str(write(tmp_path / "x.parquet", [0])))


@pytest.mark.usefixtures("arrow_cache")
def test_pickling_leaves_the_memory_map_out(tmp_path: Path) -> None:
    source = open_source(str(write(tmp_path / "x.parquet", [0, 1])))
    red(source, 0)
    data = pickle.dumps(source)
    assert images(1)[0] not in data
    assert red(pickle.loads(data), 1) == 1


@pytest.mark.parametrize(
    ("labels", "names", "words"),
    [
        ([0, 1, 2], NAMES, ("row 2", "label 2", "0 to 1")),
        ([0, -1, 1], NAMES, ("row 1", "label -1")),
        ([0, 1, None], NAMES, ("row 2", "null")),
        ([0, -5, 1], None, ("row 1", "label -5")),
        ([0, 1, 10**9], None, ("row 2", "label 1000000000")),
    ],
)
def test_wrong_labels_name_the_row(
    tmp_path: Path, arrow_cache: Path, labels: list[int | None], names: list[str] | None, words: tuple[str, ...]
) -> None:
    fails(write(tmp_path / "x.parquet", labels, names=names), "x.parquet", *words)
    assert not list(arrow_cache.iterdir())  # nothing half made is left


@pytest.mark.usefixtures("arrow_cache")
def test_missing_images_name_the_row(tmp_path: Path) -> None:
    one = images(1)[0]
    fails(write(tmp_path / "a.parquet", [0, 0, 0], data=[one, one, None]), "row 2", "no image bytes")
    null_struct = pa.array([{"bytes": one, "path": None}, None], IMAGE)
    fails(write(tmp_path / "b.parquet", [0, 0], data=null_struct), "row 1", "no image bytes")


@pytest.mark.usefixtures("arrow_cache")
def test_an_undecodable_image_names_file_and_row(tmp_path: Path) -> None:
    one = images(1)[0]
    write(tmp_path / "train-0.parquet", [0, 0, 0])
    write(tmp_path / "train-1.parquet", [0, 0], data=[one, one[:30]])
    source = open_source(str(tmp_path))
    with pytest.raises(DataError, match=r"train-1\.parquet row 1'"):
        toy.picture(source, 4, 3)


@pytest.mark.usefixtures("arrow_cache")
def test_wrong_columns_and_files(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"], "label": [0]}), tmp_path / "text.parquet")
    fails(tmp_path / "text.parquet", "text: string", "a column 'image'")
    pq.write_table(pa.table({"image": images(1), "label": ["cat"]}), tmp_path / "words.parquet")
    fails(tmp_path / "words.parquet", "not integers", "string")
    (tmp_path / "page.parquet").write_text("<html>")
    fails(tmp_path / "page.parquet", "page.parquet", "cannot be read")
    write(tmp_path / "none.parquet", [])
    fails(tmp_path / "none.parquet", "no rows")
    write(tmp_path / "two/train-0.parquet", [0])
    write(tmp_path / "two/train-1.parquet", [0], names=["other"])
    fails(tmp_path / "two", "differ in their labels")
    with pytest.raises(DataError, match="no parquet files"):
        (tmp_path / "empty").mkdir()
        open_source(f"parquet:{tmp_path / 'empty'}")


def test_corruption_inside_is_an_error(tmp_path: Path, arrow_cache: Path) -> None:
    path = write(tmp_path / "x.parquet", [0, 1, 0, 1], names=None)
    data = bytearray(path.read_bytes())
    data[40:400] = bytes(360)
    path.write_bytes(data)
    fails(path, "x.parquet", "cannot be read")
    assert not list(arrow_cache.iterdir())
    path.write_bytes(data[:-20])
    fails(path, "x.parquet")


@pytest.mark.needs_data
@pytest.mark.usefixtures("arrow_cache")
def test_cifar10_equals_its_parquet_rows(shared_data: Path) -> None:
    source, test = open_source(str(shared_data / "cifar10")), open_source(f"parquet:{shared_data / 'cifar10'}", "test")
    assert (len(source), len(test)) == (50000, 10000)
    assert source.classes == test.classes and source.classes is not None and len(source.classes) == 10
    assert np.bincount(source.labels).tolist() == [5000] * 10
    rows = pq.ParquetFile(shared_data / "cifar10" / "train.parquet").read_row_group(7)
    group = 1000 * 7
    assert isinstance(source, Parquet)
    for index in (0, 511, 999):
        assert source._encoded(group + index) == rows["image"][index].as_py()["bytes"]
        assert source.labels[group + index] == rows["label"][index].as_py()
    assert toy.picture(source, 49999, 3).size == (32, 32)
    start = time.perf_counter()
    for index in range(0, 50000, 50):
        source._encoded(index)
    assert (time.perf_counter() - start) / 1000 < 1e-3  # measured about 10 us; reading a row group takes 10 ms
