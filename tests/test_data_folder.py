"""Opening data sets by path: folders of every shape, and errors that lead on."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
from PIL import Image

from mae_lite.data.folder import Folder
from mae_lite.data.sources import Split, open_source
from mae_lite.errors import ConfigError, DataError, MaeLiteError


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
    assert source.image(1, 3).getpixel((0, 0)) == (2, 0, 0)
    assert source.image(1, 1).mode == "L"
    assert (source.channels, source.in_memory, source.name) == (3, False, str(tmp_path))
    assert "5 images in 3 classes" in source.describe()
    again = pickle.loads(pickle.dumps(source))
    assert again.image(4, 3).tobytes() == source.image(4, 3).tobytes()


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
    plant(tmp_path, "Test/a/1.png")
    assert relative(open_source(str(tmp_path), "test"), tmp_path) == ["Test/a/1.png"]
    assert len(open_source(str(tmp_path / "val"))) == 3  # named itself, it is taken whole


def test_one_folder_too_high_is_guessed(tmp_path: Path) -> None:
    plant(tmp_path, "unpacked/train/a/1.png", "unpacked/test/a/2.png")
    assert relative(open_source(str(tmp_path), "test"), tmp_path) == ["unpacked/test/a/2.png"]


def test_a_single_class_folder_stays_a_class(tmp_path: Path) -> None:
    plant(tmp_path, "only/1.png")
    assert open_source(str(tmp_path)).classes == ("only",)


def test_a_missing_split_is_an_error(tmp_path: Path) -> None:
    plant(tmp_path, "train/a/1.png")
    fails(str(tmp_path), "'train'", "test or val or validation", split="test")
    plant(tmp_path / "other", "val/a/1.png")
    fails(str(tmp_path / "other"), "a folder named train")


def test_images_beside_class_folders_are_an_error(tmp_path: Path) -> None:
    fails(str(plant(tmp_path, "a/1.png", "loose.png")), "'loose.png'", "'a'")


def test_an_empty_class_is_named(tmp_path: Path) -> None:
    plant(tmp_path, "a/1.png", "b/readme.txt")
    fails(str(tmp_path), "'b'", "without a single image")


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
    plant(tmp_path, "a.zip", "1.png")
    fails(str(tmp_path / "a.zip"), "a folder of images")
    fails(str(tmp_path / "1.png"), "a folder of images")


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


def test_a_vanished_image_is_named(tmp_path: Path) -> None:
    source = open_source(str(plant(tmp_path, "a/1.png", "a/2.png")))
    (tmp_path / "a/1.png").unlink()
    for action in (lambda: source.image(0, 3), source.fingerprint):
        with pytest.raises(DataError, match=r"a/1\.png"):
            action()
