"""Opening data sets by path: folders of every shape, and errors that lead on."""

from __future__ import annotations

import os
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mae_lite.data import images
from mae_lite.data.folder import Folder
from mae_lite.data.opening import open_source
from mae_lite.data.sources import Source, Split
from mae_lite.errors import ConfigError, DataError, MaeLiteError


@pytest.fixture(autouse=True)
def kept_elsewhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep listings out of the home, and out of the trees that are listed."""
    monkeypatch.setenv("MAE_LITE_CACHE", str(tmp_path_factory.mktemp("cache")))


def plant(root: Path, *names: str) -> Path:
    """Create image files whose red value is their position in ``names``, and other files as text."""
    for position, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() in (".png", ".jpg", ".webp", ".gif", ".bmp", ".tif", ".ppm"):
            Image.new("RGB", (4, 3), (position, 0, 0)).save(path, "PNG")
        else:
            path.write_text("text")
    return root


def relative(source: object, root: Path) -> list[str]:
    """Return the paths of a folder source below ``root``."""
    assert isinstance(source, Folder)
    return [source.path(index).relative_to(root).as_posix() for index in range(len(source))]


def red(source: Source, index: int) -> int:
    """Return the red value of an image made by :func:`plant`."""
    return int(np.asarray(images.decode(source.example(index), 3))[0, 0, 0])


def fails(spec: str, *words: str, split: Split = "train", kind: type[MaeLiteError] = DataError, code: int = 3) -> str:
    """Assert that a data set is refused by the error contract; return the message."""
    with pytest.raises(kind) as caught:
        open_source(spec, split)
    text = str(caught.value)
    assert caught.value.exit_code == code and "\nFix: " in text
    for word in words:
        assert word in text, text
    return text


def test_classes_are_the_first_level_and_order_is_by_path(tmp_path: Path) -> None:
    plant(tmp_path, "b/2.png", "b/deep/er/1.PNG", "a/z.png", "a/A.png", "c d/é ü.png", "b/notes.txt", ".hidden/x.png")
    plant(tmp_path, "a/.DS_Store", "__MACOSX/a/z.png", "b/.x.png")
    source = open_source(str(tmp_path))
    assert source.classes == ("a", "b", "c d")
    assert relative(source, tmp_path) == ["a/A.png", "a/z.png", "b/2.png", "b/deep/er/1.PNG", "c d/é ü.png"]
    assert source.labels.tolist() == [0, 0, 1, 1, 2]
    assert red(source, 1) == 2
    assert source.example(1).name == str(tmp_path / "a/z.png")
    assert (source.in_memory, source.name, source.split) == (False, str(tmp_path), None)
    assert "5 images in 3 classes" in source.describe()
    again = pickle.loads(pickle.dumps(source))
    assert again.example(4) == source.example(4) and again.fingerprint() == source.fingerprint()
    assert again.example(np.int64(0)) == again.example(0)


@pytest.mark.parametrize("spec", ["{}", "folder:{}"])
def test_images_without_class_folders_have_no_labels(tmp_path: Path, spec: str) -> None:
    plant(tmp_path, "1.png", "2.png", "docs/readme.md")
    source = open_source(spec.format(tmp_path))
    assert source.classes is None and source.labels.tolist() == [-1, -1]
    assert "without labels" in source.describe()


def test_train_and_test_folders(tmp_path: Path) -> None:
    plant(tmp_path, "train/a/1.png", "train/b/1.png", "val/a/2.png", "val/b/2.png", "val/b/3.png", "notes/x.txt")
    assert relative(open_source(str(tmp_path)), tmp_path) == ["train/a/1.png", "train/b/1.png"]
    assert len(open_source(str(tmp_path), "test")) == 3
    assert open_source(str(tmp_path)).split == "train" and open_source(str(tmp_path), "test").split == "val"
    with pytest.raises(DataError, match="no test images"):
        Folder(tmp_path, "test", strict=True)
    plant(tmp_path, "Test/a/1.png")
    assert relative(open_source(str(tmp_path), "test"), tmp_path) == ["Test/a/1.png"]
    whole = open_source(str(tmp_path / "val"))  # named itself, it is taken whole
    assert len(whole) == 3 and whole.split is None
    assert open_source(str(tmp_path / "train" / "a")).classes is None


@pytest.mark.parametrize(
    ("word", "split"), [("Training", "train"), ("valid", "val"), ("dev", "val"), ("testing", "test")]
)
def test_other_words_for_splits(tmp_path: Path, word: str, split: Split) -> None:
    plant(tmp_path, f"{word}/a/1.png", f"{'test' if split == 'train' else 'train'}/a/2.png")
    assert relative(Folder(tmp_path, split, strict=True), tmp_path) == [f"{word}/a/1.png"]


def test_one_folder_too_high_is_guessed(tmp_path: Path) -> None:
    plant(tmp_path, "unpacked/train/a/1.png", "unpacked/test/a/2.png")
    assert relative(open_source(str(tmp_path), "test"), tmp_path) == ["unpacked/test/a/2.png"]


def test_a_single_class_folder_stays_a_class(tmp_path: Path) -> None:
    plant(tmp_path, "only/1.png")
    assert open_source(str(tmp_path)).classes == ("only",)


def test_a_missing_split_is_an_error(tmp_path: Path) -> None:
    plant(tmp_path, "train/a/1.png")
    fails(str(tmp_path), "'train'", "a part named test or testing", split="test")
    plant(tmp_path / "other", "val/a/1.png")
    fails(str(tmp_path / "other"), "a part named train or training")


def test_images_beside_class_folders_are_an_error(tmp_path: Path) -> None:
    fails(str(plant(tmp_path, "a/1.png", "loose.png")), "'loose.png'", "'a'")


def test_an_empty_class_is_named(tmp_path: Path) -> None:
    plant(tmp_path, "a/1.png", "b/readme.txt")
    fails(str(tmp_path), "'b'", "without a single image", "--allow-empty-classes")
    (tmp_path / "A").mkdir()
    source = open_source(str(tmp_path), allow_empty=True)
    assert source.classes == ("A", "a", "b") and source.labels.tolist() == [1]


def test_images_a_level_deeper_are_found_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plant(tmp_path / "one", "my set/images/cats/1.png", "my set/images/dogs/sitting/1.png")
    likely = tmp_path / "one/my set/images"
    assert open_source(str(tmp_path / "one")).classes == ("my set",)
    assert f"if the classes are 'cats', 'dogs', give --data '{likely}'" in caplog.text
    assert open_source(str(likely)).classes == ("cats", "dogs")
    plant(tmp_path / "two", "a/images/train/cats/1.png", "a/images/val/cats/1.png")
    assert fails(str(tmp_path / "two")).endswith(f"Fix: --data {tmp_path / 'two/a/images'}")
    plant(tmp_path / "three", "images/train/1.png")
    assert relative(open_source(str(tmp_path / "three")), tmp_path / "three") == ["images/train/1.png"]
    plant(tmp_path / "four", "train/a/1.png", "train/b/1.png", "val/a/x/1.png", "val/a/y/1.png")
    assert open_source(str(tmp_path / "four"), "val").classes == ("a",)  # a validation set may lack classes


def test_an_empty_split_says_where_images_are(tmp_path: Path) -> None:
    plant(tmp_path, "train/readme.txt", "val/a/1.png")
    fails(str(tmp_path), "1 x .txt", f"--data {tmp_path / 'val'}")


def test_no_images_says_what_is_there(tmp_path: Path) -> None:
    fails(str(tmp_path), "no files", "PATH/CLASS/image.jpg")
    plant(tmp_path, "a/1.txt", "a/2.txt", "b.csv")
    fails(str(tmp_path), "2 x .txt", "1 x .csv", "PATH/train/CLASS/image.jpg")


def test_a_wrong_path_lists_the_parent_and_the_nearest_name(tmp_path: Path) -> None:
    plant(tmp_path, "photos/1.png", "letters/1.txt")
    text = fails(str(tmp_path / "fotos"), "'letters', 'photos'", "nearest: 'photos'")
    assert str(tmp_path) in text
    fails("folder:" + str(tmp_path / "no" / "where"), "'letters', 'photos'")


def test_a_misspelt_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fails("digit", "nearest: 'digits'")
    fails("foldr:/x", "nearest: 'folder'", "--data folder:PATH", kind=ConfigError, code=2)
    fails("parket:/x", "--data parquet:PATH", kind=ConfigError, code=2)
    fails("parquet:", "expected", kind=ConfigError, code=2)


def test_a_path_with_a_colon_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plant(tmp_path, "set:one/1.png")
    assert len(open_source("set:one")) == 1


def test_a_file_instead_of_a_folder(tmp_path: Path) -> None:
    plant(tmp_path, "a b.zip", "a.tar.gz", "1.png", "notes")
    fails(str(tmp_path / "a b.zip"), "a folder of images", "an archive", f"unzip '{tmp_path}/a b.zip'")
    fails(str(tmp_path / "a.tar.gz"), "an archive", "tar -xf")
    fails(str(tmp_path / "1.png"), "a folder of images", "one image file", f"--data {tmp_path}")
    fails(str(tmp_path / "notes"), "no extension")


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="needs symbolic links")
def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    plant(tmp_path, "set/a/1.png", "elsewhere/2.png")
    (tmp_path / "set/b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set/a/up").symlink_to(tmp_path / "set")
    (tmp_path / "set/a/gone.png").symlink_to(tmp_path / "nothing.png")
    source = open_source(str(tmp_path / "set"))
    assert relative(source, tmp_path) == ["set/a/1.png", "set/b/2.png"]


def test_fingerprint_changes_with_names_and_sizes_only(tmp_path: Path) -> None:
    first = plant(tmp_path / "first", "a/1.png", "b/2.png")
    second = plant(tmp_path / "second", "a/1.png", "b/2.png")
    original = open_source(str(first)).fingerprint()
    assert original == open_source(str(second)).fingerprint()  # the place does not matter
    assert original["count"] == 2
    with (second / "a/1.png").open("ab") as handle:
        handle.write(b"x")
    resized = open_source(str(second)).fingerprint()
    (first / "a/1.png").rename(first / "a/3.png")
    renamed = open_source(str(first)).fingerprint()
    assert len({str(facts) for facts in (original, resized, renamed)}) == 3


def test_a_vanished_image_is_named_when_it_is_read(tmp_path: Path) -> None:
    source = open_source(str(plant(tmp_path, "a/1.png", "a/2.png")))
    opened = source.fingerprint()
    (tmp_path / "a/1.png").unlink()
    with pytest.raises(DataError, match=r"a/1\.png"):
        images.decode(source.example(0), 3)
    assert source.fingerprint() == opened  # what was opened stays what it was; the next start lists anew
    assert len(open_source(str(tmp_path))) == 1


def test_an_unreadable_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tmp_path, "a/1.png", "b/2.png")
    scandir = os.scandir

    def guarded(path: Any) -> Any:  # permissions would not stop the superuser, who may run the tests
        if Path(os.fsdecode(path)) == tmp_path / "b":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    fails(str(tmp_path), f"'{tmp_path / 'b'}' cannot be read", "Permission denied")


def test_ten_thousand_images(tmp_path: Path) -> None:
    """Real pictures, each in its place, before and after pickling and in a forked child."""
    for number in range(10):
        Image.new("RGB", (2, 2), (number * 20, 0, 0)).save(tmp_path / "one.jpg", quality=95)
        encoded = (tmp_path / "one.jpg").read_bytes()
        (tmp_path / f"set/{number}").mkdir(parents=True)
        for position in range(1000):
            (tmp_path / f"set/{number}/{position:04d}.jpg").write_bytes(encoded)
    source = Folder(tmp_path / "set")
    start = time.perf_counter()
    again = Folder(tmp_path / "set")
    assert time.perf_counter() - start < 2
    assert len(source) == 10_000 and again.fingerprint() == source.fingerprint()
    assert np.array_equal(source.labels, np.repeat(np.arange(10), 1000))
    carried = pickle.dumps(source)
    assert len(carried) < 10_000 * 60
    for one in (source, again, pickle.loads(carried)):
        for index in (0, 999, 1000, 7777, 9999):
            assert one.path(index) == tmp_path / f"set/{index // 1000}/{index % 1000:04d}.jpg"
            assert abs(red(one, index) - index // 1000 * 20) <= 3
    child = os.fork()
    if child == 0:
        os._exit(0 if again.path(4321) == tmp_path / "set/4/0321.jpg" and abs(red(again, 4321) - 80) <= 3 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
