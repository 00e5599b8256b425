"""Images that are there twice: planted copies, exact and changed, are found, told apart, grouped and written."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

import mae_lite
from mae_lite import cli
from mae_lite.copies import near
from mae_lite.copies.settings import FEATURES_AT_LEAST, PIXELS_AT_LEAST
from mae_lite.errors import ConfigError, DataError
from tests.test_readme import ROOT, blocks

PAGE = (ROOT / "docs" / "duplicates.md").read_text()
MODEL = "pretrained:digits-mae"


def scene(seed: int, side: int = 48) -> Image.Image:
    """Return a random image with large forms, unlike that of any other seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Write eight training and four test images of two classes: four copies are planted among them.

    test/cat/exact.bmp has the pixels of train/cat/0.png, test/dog/jpeg.jpg is train/cat/2.png as a JPEG of low quality,
    train/dog/mirrored.png is train/dog/1.png from right to left, test/cat/darker.png is another test image, darker.
    """
    root = tmp_path / "labelled"
    for name in ("train/cat", "train/dog", "test/cat", "test/dog"):
        (root / name).mkdir(parents=True)
    for seed in range(7):
        scene(seed).save(root / "train" / ("dog" if seed % 2 else "cat") / f"{seed}.png")
    scene(1).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(root / "train" / "dog" / "mirrored.png")
    scene(0).save(root / "test" / "cat" / "exact.bmp")
    scene(2).save(root / "test" / "dog" / "jpeg.jpg", quality=30)
    scene(20).save(root / "test" / "cat" / "other.png")
    ImageEnhance.Brightness(scene(20)).enhance(0.7).save(root / "test" / "cat" / "darker.png")
    return root


def names(found: dict[str, object]) -> dict[frozenset[str], str]:
    """Return the kind of each pair of file names."""
    assert isinstance(found["pairs"], list)
    return {
        frozenset(Path(pair[f"{side}_name"]).name for side in ("first", "second")): pair["kind"]
        for pair in found["pairs"]
    }


def test_planted_copies_are_found_and_told_apart(labelled: Path) -> None:
    found = mae_lite.duplicates(labelled)
    assert names(found) == {
        frozenset(("0.png", "exact.bmp")): "exact",
        frozenset(("2.png", "jpeg.jpg")): "near",
        frozenset(("1.png", "mirrored.png")): "near",
        frozenset(("other.png", "darker.png")): "near",
    }
    assert (found["exact_copies"], found["near_pairs"], found["groups"]) == (1, 3, 4)
    assert found["shared"] == [{"part": "test", "other": "train", "exact": 1, "near": 1}]
    assert found["labels_differ"] == {"exact": 0, "near": 1}
    (differing,) = [pair for pair in found["pairs"] if pair["labels_differ"]]
    assert {differing["first_label"], differing["second_label"]} == {"cat", "dog"}


def test_a_split_and_another_set(labelled: Path, tmp_path: Path) -> None:
    alone = mae_lite.duplicates(labelled, split="train")
    assert alone["images"] == {"train": 8} and alone["shared"] == [] and alone["near_pairs"] == 1
    other = tmp_path / "photos"
    other.mkdir()
    scene(4).save(other / "a.png")
    scene(4).save(other / "b.bmp")  # two copies of one training image
    found = mae_lite.duplicates(labelled, against=str(other))
    assert found["images"] == {"train": 8, "against": 2}
    assert found["shared"] == [{"part": "against", "other": "train", "exact": 2, "near": 0}]
    with pytest.raises(DataError, match="are the images of"):
        mae_lite.duplicates(other, against=str(other))


def test_near_copies_of_exact_copies_are_counted_with_all_their_images(tmp_path: Path) -> None:
    for name in ("train", "test"):
        (tmp_path / "set" / name).mkdir(parents=True)
    scene(0).save(tmp_path / "set" / "train" / "a.png")
    ImageEnhance.Brightness(scene(0)).enhance(0.7).save(tmp_path / "set" / "test" / "b.png")
    ImageEnhance.Brightness(scene(0)).enhance(0.7).save(tmp_path / "set" / "test" / "c.png")
    found = mae_lite.duplicates(tmp_path / "set")
    assert found["shared"] == [{"part": "test", "other": "train", "exact": 0, "near": 2}]
    assert (found["exact_copies"], found["near_pairs"], found["groups"]) == (1, 1, 1)


def test_features_of_a_model_are_compared(tmp_path: Path) -> None:
    folder = tmp_path / "grey"
    folder.mkdir()
    for seed in range(12):
        scene(seed, 8).convert("L").save(folder / f"{seed:02d}.png")
    scene(3, 8).convert("L").point(lambda value: min(255, value + 3)).save(folder / "near.png")
    found = mae_lite.duplicates(folder, model=MODEL)
    assert names(found) == {frozenset(("03.png", "near.png")): "near"}
    loose = mae_lite.duplicates(folder, model=MODEL, threshold=0.6)
    assert loose["near_pairs"] < 20  # of 78: without their common part, features of unlike images are not alike
    with pytest.raises(ConfigError, match="--token is read with a model alone"):
        mae_lite.duplicates(folder, token="class")


def test_blocks_find_what_one_product_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    mirrored = np.random.default_rng(1).normal(size=(50, 6)).astype(np.float32)
    one, other = near.unit(values), near.unit(mirrored)
    similarity = np.maximum(one @ one.T, one @ other.T)
    expected = {(i, j) for i in range(50) for j in range(i + 1, 50) if similarity[i, j] >= 0.7}
    monkeypatch.setattr(near, "_BLOCK", 16)
    found = near.pairs(values, 0.7, mirrored)
    assert expected and set(zip(found.first.tolist(), found.second.tolist(), strict=True)) == expected
    assert np.allclose(found.similarity, similarity[found.first, found.second], atol=1e-6)
    monkeypatch.setattr(near, "_MOST_PAIRS", 10)
    with pytest.raises(ConfigError, match="more than 10 pairs reach"):
        near.pairs(values, 0.1)
    assert len(near.pairs(np.zeros((3, 4), np.float32), 0.5).first) == 0  # nothing but one colour


def test_files_and_unreadable_images(labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (labelled / "train" / "cat" / "broken.png").write_bytes(b"\x89PNG")
    out = tmp_path / "out"
    words = ["duplicates", str(labelled), "--out", str(out)]
    assert cli.main(words) == 3
    assert "broken.png" in capsys.readouterr().err and not out.exists()
    assert cli.main([*words, "--on-bad", "skip", "--workers", "2", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((out / "duplicates.json").read_text()) and printed["readable"] == 12
    rows = list(csv.DictReader(io.StringIO((out / "duplicates.csv").read_text())))
    assert [row["kind"] for row in rows].count("near") == 3 and len(rows) == 4
    with Image.open(out / "duplicates.png") as sheet:
        assert sheet.height == 4 * 218  # a row for each group
    (labelled / "train" / "dog" / "mirrored.png").unlink()
    assert cli.main([*words, "--on-bad", "skip", "--split", "train"]) == 0
    assert not (out / "duplicates.png").exists()  # there is nothing to show


def test_the_commands_and_the_code_of_the_page_run(labelled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(labelled.parent)
    (labelled.parent / "photos").mkdir()
    for seed in range(30, 34):
        scene(seed).save(labelled.parent / "photos" / f"{seed}.png")
    lines = [line for block in blocks("bash", PAGE) for line in block.splitlines()]
    assert len(lines) == 3
    for line in lines:
        assert cli.main(line.split()[1:]) == 0, line
    (block,) = blocks("python", PAGE)
    values: dict[str, object] = {}
    exec(compile(block, "duplicates.md", "exec"), values)  # the page is ours
    assert values["leaks"] == 2


def test_the_thresholds_are_those_of_the_measurement() -> None:
    """From the default on, nine tenths of every re-encoded or lightened copy are found, and hardly a pair is false."""
    results = json.loads((ROOT / "benchmarks" / "results" / "duplicates.json").read_text())["results"]
    assert len(results) == 4
    for result in results:
        copies = result["compared"] == "small copies"
        least = PIXELS_AT_LEAST if copies else FEATURES_AT_LEAST
        (row,) = [row for row in result["rows"] if row["threshold"] == least]
        assert row["precision"] > (0.999 if copies else 0.95)
        changes = {
            change: share for change, share in row["recall"].items() if "crop" not in change and change != "grey"
        }
        assert not copies or min(changes.values()) > 0.9
        cells = next(line for line in PAGE.splitlines() if line.startswith("| 90 % crop |"))
        assert f" {100 * row['recall']['90 % crop']:.1f} " in cells
