"""``mae-lite check``: what it counts, what it advises, what it writes."""

from __future__ import annotations

import csv
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mae_lite import cli, recipes
from mae_lite.checking import check as checking
from mae_lite.checking import scan, words
from mae_lite.checking.check import Order, check

pytestmark = pytest.mark.usefixtures("arrow_cache")


def photo(seed: int, size: tuple[int, int] = (40, 30), mode: str = "RGB") -> Image.Image:
    """Return noise of ``size`` (width, height)."""
    rng = np.random.default_rng(seed)
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], len(mode))
    return Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))


def collection(root: Path) -> Path:
    """Create 21 images of two classes with one oddity each where there are any; two are bad."""
    for folder in ("cat", "dog"):
        (root / folder).mkdir(parents=True)
    for number in range(12):
        photo(number).save(root / "cat" / f"{number:02d}.png")
    photo(99, (300, 30)).save(root / "dog" / "long.jpg")
    photo(98, mode="RGBA").save(root / "dog" / "clear.png")
    photo(97, mode="L").save(root / "dog" / "grey.png")
    Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40)).save(root / "dog" / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(96).save(root / "dog" / "turned.jpg", exif=exif)
    photo(95).save(root / "dog" / "moving.gif", save_all=True, append_images=[photo(94)])
    (root / "dog" / "copy.png").write_bytes((root / "cat" / "03.png").read_bytes())
    (root / "dog" / "empty.jpg").write_bytes(b"")
    (root / "dog" / "half.png").write_bytes((root / "cat" / "04.png").read_bytes()[:500])
    (root / "dog" / "notes.txt").write_text("x")
    return root


def die(chunk: object) -> None:
    """End the process that should look at images."""
    del chunk
    os._exit(9)


def run(*arguments: str | Path) -> int:
    return cli.main(["check", *map(str, arguments)])


def test_everything_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = collection(tmp_path / "photos"), tmp_path / "out"
    assert run(data, "--out", out) == 3
    shown = capsys.readouterr()
    text = shown.out
    for expected in (
        "21 images in 2 classes, 19 readable",
        "13 x PNG RGB",
        "1 x PNG RGBA",
        "1 x PNG I;16",
        "1 x GIF",
        "short side  30 to 30 px, median 30; longest to shortest side at most 10 : 1",
        "1 x turned upright",
        "1 x put on a background of 0",
        "1 x only its first frame taken",
        "1 x reduced to 8 bits",
        "9 ('dog') to 12 ('cat') images",
        "1 images repeat the content of another, 1 of them under another label",
        "2 cannot be read; training goes on with up to 10",
        "an empty file (0 bytes)",
        "All images have a short side of 30 px or less and are enlarged to 224. cifar10-mae-tiny is made for",
        "10 times as long as wide",
        "smaller than the batch of mae-tiny, 4,096: give --global-batch-size 16",
    ):
        assert expected in text, expected
    assert "ignored 1 x .txt" in shown.err
    summary = json.loads((out / "check.json").read_text())
    assert (summary["images"], summary["readable"], summary["classes"]) == (21, 19, {"cat": 12, "dog": 9})
    rows = list(csv.reader((out / "bad_files.csv").open()))
    assert [Path(row[2]).name for row in rows[1:]] == ["empty.jpg", "half.png"]
    with Image.open(out / "preview.png") as sheet:
        assert sheet.size[0] > 1000 and sheet.size[1] > 800
    assert sorted(summary["files"]) == sorted(map(str, out.iterdir()))


def test_the_time_that_is_left_leaves_out_the_start(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Processes that take a minute to start, then four images a second."""
    now = [0.0]

    def slow() -> Iterator[int]:
        for number in range(100):
            now[0] += 0.25 if number else 60.0
            yield number

    monkeypatch.setattr(checking, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with caplog.at_level(logging.INFO):
        assert list(checking._told(slow(), 100, "images")) == list(range(100))
    assert caplog.messages[:2] == [
        "22 of 100 images, 4 per second, 20 s left",
        "43 of 100 images, 4 per second, 14 s left",
    ]


def test_json_is_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = collection(tmp_path / "photos"), tmp_path / "out"
    assert run(data, "--out", out, "--json", "--on-bad", "skip") == 0
    assert json.loads(capsys.readouterr().out) == json.loads((out / "check.json").read_text())


def test_processes_and_no_processes_find_the_same(tmp_path: Path) -> None:
    data = tmp_path / "many"
    data.mkdir()
    for number in range(300):
        photo(number % 290, (9, 8), "L").save(data / f"{number:03d}.png")
    found = []
    for workers in (0, 2):
        order = Order(str(data), recipes.get("mae-tiny"), tmp_path / f"out-{workers}", workers=workers)
        summary = check(order)
        found.append({name: value for name, value in summary.items() if name != "files"})
    assert found[0] == found[1] and found[0]["copies"] == 10 and found[0]["classes"] is None
    assert any("no labels" in sentence for sentence in found[0]["advice"])
    assert any("300 images are grey: --encoder.channels 1" in sentence for sentence in found[0]["advice"])


def test_mean_and_deviation_are_those_of_all_pixels(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    images = [photo(number, (50, 50)) for number in range(6)]
    for number, image in enumerate(images):
        image.save(tmp_path / "x" / f"{number}.png")
    summary = check(Order(str(tmp_path / "x"), recipes.get("mae-tiny"), tmp_path / "out"))
    pixels = np.stack([np.asarray(image) for image in images]) / 255
    assert np.allclose(summary["mean"], pixels.mean(axis=(0, 1, 2)), atol=1e-4)
    assert np.allclose(summary["std"], pixels.std(axis=(0, 1, 2)), atol=1e-4)


def test_images_shared_by_train_and_validation_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split, seeds in (("train", range(6)), ("val", range(4, 8))):
        for seed in seeds:
            folder = tmp_path / "set" / split / ("a" if seed % 2 else "b")
            folder.mkdir(parents=True, exist_ok=True)
            photo(seed).save(folder / f"{split}{seed}.png")
    assert run(tmp_path / "set", "--out", tmp_path / "out") == 0
    assert "2 of the 4 val images are training images too" in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "check.json").read_text())["val"]
    assert found["shared_with_train"] == 2
    pairs = sorted([Path(name).name for name in pair] for pair in found["shared"])
    assert pairs == [["val4.png", "train4.png"], ["val5.png", "train5.png"]]


def test_hashes_find_what_decoding_cannot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out, hashes = tmp_path / "photos", tmp_path / "out", tmp_path / "photos.sha256"
    data.mkdir()
    for number in range(5):
        photo(number, (64, 64)).save(data / f"{number} a\nb.jpg", quality=90)
    assert run(data, "--out", out, "--save-hashes", hashes) == 0
    assert len(hashes.read_text().splitlines()) == 5
    assert run(data, "--out", out, "--compare-hashes", hashes) == 0
    victim = data / "3 a\nb.jpg"
    broken = bytearray(victim.read_bytes())
    broken[-300] ^= 4  # in the scan data: it still decodes
    victim.write_bytes(broken)
    (data / "4 a\nb.jpg").unlink()
    capsys.readouterr()
    assert run(data, "--out", out, "--compare-hashes", hashes) == 3
    assert "2 images differ from" in capsys.readouterr().out
    changed = json.loads((out / "check.json").read_text())["changed"]
    assert changed == ["3 a\nb.jpg", "4 a\nb.jpg (missing or unreadable)"]
    assert run(data, "--out", out, "--compare-hashes", data) == 3
    assert "is not a file of hashes" in capsys.readouterr().err


def test_an_earlier_list_of_bad_files_goes_with_them(tmp_path: Path) -> None:
    data, out = collection(tmp_path / "photos"), tmp_path / "out"
    run(data, "--out", out)
    for name in ("empty.jpg", "half.png"):
        (data / "dog" / name).unlink()
    assert run(data, "--out", out) == 0
    assert sorted(path.name for path in out.iterdir()) == ["check.json", "preview.png"]


def test_a_sample_of_a_large_set(tmp_path: Path) -> None:
    summary = check(Order("digits", recipes.get("digits-mae"), tmp_path, sample=100))
    assert (summary["images"], summary["looked_at"], summary["readable"]) == (1346, 100, 100)
    assert summary["test"]["looked_at"] == 100 and min(summary["classes"].values()) > 100
    said = checking.as_text(check(Order("digits", recipes.get("mae-tiny"), tmp_path, sample=100)))
    assert "- All images looked at have a short side of 8 px" in said


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_other_channels(tmp_path: Path, channels: int, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bands").mkdir()
    for number in range(4):
        values = np.random.default_rng(number).integers(0, 65536, (20, 20, channels)).astype(np.uint16)
        np.save(tmp_path / "bands" / f"{number}.npy", values)
    assert run(tmp_path / "bands", "--channels", str(channels), "--out", tmp_path / "out") == 0
    text = capsys.readouterr().out
    assert "4 x array uint16" in text and ("Use --augmentation.mean" in text) == (channels != 1)
    assert len(json.loads((tmp_path / "out" / "check.json").read_text())["mean"]) == channels


def test_advice_on_classes() -> None:
    def told(**classes: int) -> str:
        summary: dict[str, Any] = {"classes": classes, "bad": [], "bad_allowed": 10, "readable": 0, "images": 10**6}
        return " ".join(words.advice(summary, recipes.get("mae-tiny")))

    assert "20 times the images of the smallest" in told(a=100, b=5)
    assert "1 classes have one image, e.g. 'b'" in told(a=3, b=1)
    assert "Every class has one image" in told(a=1, b=1)
    assert "one class only" in told(a=4)
    assert "1 classes have no image, e.g. 'b'" in told(a=4, b=0, c=4)
    assert told(a=4, b=5) == ""


def test_names_do_nothing_to_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "\x1b[31mred\n"
    data.mkdir()
    (data / "\x1b]0;owned\x07.jpg").write_bytes(b"junk")
    photo(1).save(data / "ok.png")
    assert run(data, "--out", tmp_path / "out") == 3
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out and "\x07" not in shown.out


@pytest.mark.needs_data
@pytest.mark.slow
def test_the_real_sets(shared_data: Path, tmp_path: Path) -> None:
    photographs = check(
        Order(
            f"shards:{shared_data}/imagenet-sample/imagenet-sample.tar", recipes.get("mae-tiny"), tmp_path, sample=300
        )
    )
    assert photographs["readable"] == 300 and not photographs["bad"]
    assert 0.4 < photographs["mean"][0] < 0.55 and 0.2 < photographs["std"][0] < 0.35
    small = check(
        Order(str(shared_data / "cifar10" / "test.parquet"), recipes.get("cifar10-mae-tiny"), tmp_path, sample=2000)
    )
    assert small["kinds"] == {"JPEG RGB": 2000} and small["short_side_px"]["max"] == 32
    assert np.allclose(small["mean"], (0.494, 0.485, 0.451), atol=0.01)


def test_ctrl_c_and_a_dead_process_end_it_quietly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "many"
    data.mkdir()
    for number in range(600):
        photo(number, (9, 8), "L").save(data / f"{number:03d}.png")
    command = [sys.executable, "-m", "mae_lite", "check", str(data), "--out", str(tmp_path / "out"), "--workers", "2"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        while not (tmp_path / "out").exists() and process.poll() is None:  # it has begun
            time.sleep(0.1)
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGINT)
        assert process.stderr is not None
        told = process.stderr.read()
        assert process.wait(60) in (130, 0) and "Traceback" not in told
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "_look_here", die)
        assert run(data, "--out", tmp_path / "out", "--workers", "2") == 5
    message = capsys.readouterr().err
    assert "a process that looks at images died" in message and "Fix: " in message


def test_copied_rules_of_reading(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bands").mkdir()
    for number in range(4):
        np.save(tmp_path / "bands" / f"{number}.npy", np.full((20, 20, 5), 2500 * number, np.int32))
    assert run(tmp_path / "bands", "--channels", "5", "--out", tmp_path / "out") == 3
    told = capsys.readouterr().out
    assert "to mend them: say which values are black and white, e.g. --reading.value-range" in told
