"""``mae-lite prepare``: what is in a pack, how it goes on, what it refuses, and that training on it is the same."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mae_lite import cli, files, training
from mae_lite.config import Reading
from mae_lite.data.images import decode
from mae_lite.data.opening import open_source
from mae_lite.data.pack import Pack, contents
from mae_lite.data.sources import Source
from mae_lite.errors import DataError, DiskError, SplitError, Stopped
from mae_lite.preparing import parts, sample
from mae_lite.preparing.prepare import Order, dry_run, prepare
from mae_lite.preparing.verifying import verified
from mae_lite.rundir import read_rows
from tests import toy
from tests.faulty_disk import FaultyDisk, at
from tests.prepare_kills import tree
from tests.test_errors import assert_contract

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.usefixtures("arrow_cache")


@pytest.fixture(autouse=True)
def own_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the disk back after every test, and spare it the flushing: no test here pulls the plug."""
    monkeypatch.setattr(files, "disk", files.Disk())
    monkeypatch.setattr(os, "fsync", lambda _: None)


def photo(seed: int, size: tuple[int, int] = (40, 30), mode: str = "RGB") -> Image.Image:
    """Return smooth noise of ``size`` (width, height)."""
    rng = np.random.default_rng(seed)
    shape = (5, 5) if mode == "L" else (5, 5, len(mode))
    return Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).resize(size)


def encoded(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, **{"format": "JPEG", "quality": 85, **options})
    return buffer.getvalue()


def folder(root: Path, count: int = 70, size: tuple[int, int] = (40, 30)) -> Path:
    """Write images of two classes, JPEG and PNG in turns."""
    for number in range(count):
        path = root / ("cat" if number % 3 else "dog") / f"{number:03d}.{'png' if number % 2 else 'jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(photo(number, size), format="PNG" if number % 2 else "JPEG"))
    return root


def pixels(source: Source, index: int, channels: int = 3) -> Any:
    return np.asarray(decode(source.example(index), channels))


def run(*words: str | Path | int) -> int:
    return cli.main(["prepare", *map(str, words)])


def refused(capsys: pytest.CaptureFixture[str], code: int, *words: str | Path, mentions: tuple[str, ...]) -> None:
    capsys.readouterr()
    exit_code = run(*words)
    assert_contract(capsys.readouterr().err, exit_code, code, mentions=mentions)


def test_a_folder_becomes_jpegs(tmp_path: Path) -> None:
    """Order, labels, classes and names stay; JPEGs that fit stay byte for byte, all others have their short side."""
    data = folder(tmp_path / "photos", size=(80, 60))
    (data / "cat" / "200.jpg").write_bytes(small := encoded(photo(1, (33, 50))))
    prepare(Order(str(data), tmp_path / "pack", side=48))
    source, pack = open_source(str(data)), open_source(str(tmp_path / "pack"))
    assert isinstance(pack, Pack) and pack.split is None and pack.classes == source.classes == ("cat", "dog")
    assert pack.labels.tolist() == source.labels.tolist()
    for index in range(len(source)):
        name, kept = source.example(index).name, pack.example(index)
        assert kept.name.endswith(f" image {name}")
        image = Image.open(io.BytesIO(kept.data))  # type: ignore[arg-type]
        if name.endswith("200.jpg"):
            assert kept.data == small
        else:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (64, 48))
            reference = Image.fromarray(pixels(source, index)).resize((64, 48), Image.Resampling.BICUBIC)
            assert np.abs(np.asarray(reference).astype(int) - np.asarray(image)).mean() < 5
    assert contents(tmp_path / "pack").splits["all"].left_out == 0
    assert "71 images in 2 classes, JPEG of 48 pixels" in pack.describe()


@pytest.mark.parametrize(
    ("change", "copied"),
    [
        ({}, True),
        ({"progressive": True}, False),
        ({"icc_profile": b"x" * 200}, False),
        ({"exif": 6}, False),
        ({"exif": 1}, True),
        ({"comment": b"\xff\xc2"}, True),
        ({"mode": "L"}, False),
        ({"mode": "CMYK"}, False),
        ({"size": (41, 40)}, True),
        ({"size": (41, 43)}, False),
    ],
)
def test_plain_jpegs_alone_are_copied(tmp_path: Path, change: dict[str, Any], copied: bool) -> None:
    options = {key: value for key, value in change.items() if key not in ("mode", "size", "exif")}
    if "exif" in change:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = change["exif"]
    image = photo(0, change.get("size", (40, 30))).convert(change.get("mode", "RGB"))
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.jpg").write_bytes(data := encoded(image, **options))
    prepare(Order(str(tmp_path / "x"), tmp_path / "pack", side=40))
    kept = open_source(str(tmp_path / "pack")).example(0).data
    expected = (30, 40) if change.get("exif") == 6 else (40, 42) if change.get("size") == (41, 43) else image.size
    assert isinstance(kept, bytes) and (kept == data) is copied
    with Image.open(io.BytesIO(kept)) as found:
        assert found.mode == "RGB" and not {"progressive", "icc_profile"} & set(found.info)
        assert found.size == (expected)


def test_pixels_are_the_square_in_the_middle(tmp_path: Path) -> None:
    gradient = np.tile(np.arange(90, dtype=np.uint8)[None, :, None], (30, 1, 3))
    (tmp_path / "x").mkdir()
    Image.fromarray(gradient).save(tmp_path / "x" / "wide.png")
    Image.fromarray(gradient.transpose(1, 0, 2)).save(tmp_path / "x" / "high.png")
    photo(3, (7, 9)).save(tmp_path / "x" / "small.png")
    prepare(Order(str(tmp_path / "x"), tmp_path / "pack", kind="uint8", side=15))
    pack = open_source(f"pack:{tmp_path / 'pack'}")
    high, small, wide = (np.asarray(pack.example(index).data) for index in range(3))
    assert wide.shape == small.shape == (15, 15, 3) and wide.dtype == np.uint8
    assert (high == wide.transpose(1, 0, 2)).all()
    assert np.abs(wide[7, :, 0].astype(int) - (30.5 + 2 * np.arange(15))).max() <= 1
    reference = np.asarray(photo(3, (7, 9)).crop((0, 1, 7, 8)).resize((15, 15), Image.Resampling.BICUBIC))
    assert np.abs(small.astype(int) - reference)[3:-3].mean() < 3  # its edges see the pixels beyond them


def test_a_table(tmp_path: Path) -> None:
    data = folder(tmp_path / "photos", 12)
    names = sorted(path.relative_to(tmp_path) for path in data.rglob("*.*"))
    with (tmp_path / "list.csv").open("w", newline="") as handle:
        rows = csv.writer(handle)
        rows.writerow(["path", "label", "split"])
        rows.writerows([name, name.parent.name, ("train", "val", "test")[n % 3]] for n, name in enumerate(names))
    assert run(f"csv:{tmp_path / 'list.csv'}", tmp_path / "pack", "--kind", "uint8", "--side", 30) == 0
    assert list(contents(tmp_path / "pack").splits) == ["train", "val", "test"]
    for split in ("train", "val", "test"):
        source = open_source(f"{tmp_path / 'list.csv'}#{split}")
        pack = open_source(f"{tmp_path / 'pack'}#{split}")
        assert (pack.classes, pack.split, pack.labels.tolist()) == (source.classes, split, source.labels.tolist())
    assert (pixels(pack, 0) == pixels(source, 0)[:, 5:35]).all()


def test_parquet_keeps_its_size_and_its_splits(tmp_path: Path) -> None:
    features = {"label": {"names": ["a", "b"], "_type": "ClassLabel"}}
    data = tmp_path / "data"
    data.mkdir()
    for split, count in (("train", 20), ("test", 9)):
        images = [{"bytes": encoded(photo(n, (32, 32)), format="PNG"), "path": None} for n in range(count)]
        table = pa.table({"image": images, "label": [n % 2 for n in range(count)]})
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        pq.write_table(table, data / f"{split}.parquet")
    for kind in ("uint8", "jpeg"):
        prepare(Order(f"parquet:{data}", tmp_path / kind / "pack", kind=kind))
        assert contents(tmp_path / kind / "pack").side == 32  # their own, not 256
    pack = open_source(str(tmp_path / "uint8" / "pack"))
    source = open_source(f"parquet:{data}")
    assert len(pack) == 20 and pack.classes == ("a", "b") and pack.labels.tolist() == source.labels.tolist()
    assert all((pixels(pack, index) == pixels(source, index)).all() for index in range(20))
    with pytest.raises(SplitError):
        open_source(f"{tmp_path / 'uint8' / 'pack'}#val")
    assert len(open_source(str(tmp_path / "jpeg" / "pack"), "val")) == 9  # test images stand in, as with any data


def test_training_on_a_pack_is_training_on_the_data(tmp_path: Path) -> None:
    assert run("digits", tmp_path / "pack", "--kind", "uint8", "--channels", 1) == 0
    pack, source = open_source(str(tmp_path / "pack"), "test"), open_source("digits", "test")
    assert pack.split == "test" and pack.labels.tolist() == source.labels.tolist()
    assert all((pixels(pack, index, 1) == pixels(source, index, 1)).all() for index in range(len(source)))
    losses = []
    for name, data in (("a", "digits"), ("b", str(tmp_path / "pack"))):
        training.run(toy.mae(), toy.runtime(tmp_path / name, data=data))
        losses.append([row["loss"] for row in read_rows(tmp_path / name) if "loss" in row])
    assert losses[0] == losses[1] and len(losses[0]) == 3


def test_channels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bands").mkdir()
    arrays = [np.random.default_rng(n).integers(0, 256, (9, 9, 4)).astype(np.uint8) for n in range(3)]
    for number, array in enumerate(arrays):
        np.save(tmp_path / "bands" / f"{number}.npy", array)
    refused(capsys, 2, tmp_path / "bands", tmp_path / "p", "--channels", "4", mentions=("--kind uint8", "channels"))
    refused(capsys, 3, tmp_path / "bands", tmp_path / "p", mentions=("--kind uint8 --channels 4",))
    assert not (tmp_path / "p" / "pack.json").exists()
    assert run(tmp_path / "bands", tmp_path / "pack", "--channels", 4, "--kind", "uint8") == 0
    pack = open_source(str(tmp_path / "pack"))
    assert all((np.asarray(pack.example(n).data) == array).all() for n, array in enumerate(arrays))


def test_reading_rules_are_heeded_and_kept(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    values = np.arange(400, dtype=np.uint16).reshape(20, 20)
    Image.fromarray(values).save(tmp_path / "x" / "deep.png")
    words = ("--reading.value-range", "0", "399", "--kind", "uint8", "--channels", "1")
    assert run(tmp_path / "x", tmp_path / "pack", *words) == 0
    found = np.asarray(open_source(str(tmp_path / "pack")).example(0).data)[..., 0]
    assert (found == np.rint(values * 255.0 / 399)).all()
    assert contents(tmp_path / "pack").reading == Reading(value_range=(0, 399))


def test_a_strip_too_long_for_a_jpeg_is_made_shorter(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    Image.new("L", (70_000, 2)).save(tmp_path / "x" / "strip.png")
    prepare(Order(str(tmp_path / "x"), tmp_path / "pack"))
    assert pixels(open_source(str(tmp_path / "pack")), 0).shape == (2, 65_500, 3)


def test_processes_and_no_processes_write_the_same(tmp_path: Path) -> None:
    data = folder(tmp_path / "photos", 200)
    for workers in (0, 2):
        prepare(Order(str(data), tmp_path / f"pack-{workers}", side=16, workers=workers))
    assert tree(tmp_path / "pack-0") == tree(tmp_path / "pack-2")
    assert "part-00003.bin" in str(list(tree(tmp_path / "pack-0")))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["jpeg", "uint8"])
def test_killed_at_any_operation_it_goes_on_to_the_same_bytes(tmp_path: Path, kind: str) -> None:
    data = folder(tmp_path / "photos", 66, (12, 10))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "tests" / "prepare_kills.py"), str(data), str(tmp_path), kind, "8"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["wrong"] == [] and report["killed"] == 8, done.stderr


def started(data: Path, out: Path) -> subprocess.Popen[str]:
    """Start the command with two processes, in a group of its own; hold all of them still when two parts are there."""
    command = [sys.executable, "-m", "mae_lite", "prepare", str(data), str(out), "--side", "100", "--workers", "2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, env=environment, start_new_session=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 60
    while not (out / "all" / "part-00001.arrow").exists() and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGSTOP)  # or a busy machine lets them finish before the signal comes
    return process


def members(group: int) -> list[int]:
    """Return the living processes of a process group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of_group = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(of_group) == group and state != "Z":
            found.append(int(path.parent.name))
    return found


@pytest.mark.slow
def test_signals_stop_every_process_and_lose_only_the_parts_in_hand(tmp_path: Path) -> None:
    data = folder(tmp_path / "photos", 400, (750, 600))  # parts that take long enough to be interrupted
    prepare(Order(str(data), tmp_path / "reference", side=100, workers=0))
    expected = tree(tmp_path / "reference")
    ways: dict[str, Callable[[int], None]] = {
        "ctrl-c": lambda pid: os.killpg(pid, signal.SIGINT),
        "term": lambda pid: os.kill(pid, signal.SIGTERM),
        "term to all": lambda pid: os.killpg(pid, signal.SIGTERM),
        "kill": lambda pid: os.kill(pid, signal.SIGKILL),
    }
    for name, send in ways.items():
        process = started(data, tmp_path / name)
        send(process.pid)
        os.killpg(process.pid, signal.SIGCONT)
        said = process.communicate(timeout=30)[1]
        if name == "kill":
            assert process.returncode == -signal.SIGKILL
        else:
            assert_contract(said, process.returncode, 75, mentions=("stopped", "same command"))
        deadline = time.monotonic() + 20
        while members(process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert members(process.pid) == [], name
        assert not (tmp_path / name / "pack.json").exists()
        whole = [path.with_suffix(".bin") for path in (tmp_path / name).glob("*/part-*.arrow")]  # the list comes last
        before = {path: path.stat().st_mtime_ns for path in whole}
        lines = prepare(Order(str(data), tmp_path / name, side=100, workers=0))
        assert "400 images (all)" in lines[0]
        assert tree(tmp_path / name) == expected, name
        assert before and all(path.stat().st_mtime_ns == then for path, then in before.items())  # not made twice


def test_a_stop_leaves_nothing_half_done(tmp_path: Path) -> None:
    making = parts.Making({"all": open_source("digits")}, tmp_path, contents_form(), "plan")
    calls = iter([False] * 5 + [True] * 9)
    with pytest.raises(Stopped):
        parts.make(making, parts.Job("all", 0, range(50)), lambda: next(calls))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def contents_form() -> Any:
    from mae_lite.data.pack import Form

    return Form(kind="uint8", side=8, channels=1, quality=None, reading=Reading())


@pytest.fixture
def finished(tmp_path: Path) -> tuple[Order, Path, dict[str, str]]:
    """A pack of two parts."""
    order = Order(str(folder(tmp_path / "photos", 80)), tmp_path / "pack", side=16)
    prepare(order)
    return order, tmp_path / "pack", tree(tmp_path / "pack")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "part truncated": lambda pack: os.truncate(pack / "all" / "part-00001.bin", 100),
    "part missing": lambda pack: (pack / "all" / "part-00001.bin").unlink(),
    "index missing": lambda pack: (pack / "all" / "index.arrow").unlink(),
    "index truncated": lambda pack: os.truncate(pack / "all" / "index.arrow", 200),
    "bit of the index": lambda pack: flip(pack / "all" / "index.arrow", 300),
}


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_told_and_mended(
    finished: tuple[Order, Path, dict[str, str]], damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    order, pack, expected = finished
    DAMAGES[damage](pack)
    with pytest.raises(DataError, match=r"Fix: .*mae-lite prepare"):
        open_source(str(pack))
    refused(capsys, 3, order.data, pack, "--verify", mentions=("part-00001" if "part" in damage else "index.arrow",))
    assert "(all)" in prepare(order)[0] and tree(pack) == expected
    assert len(open_source(str(pack))) == 80


def test_a_flipped_bit_is_an_error_on_reading_and_in_verify(
    finished: tuple[Order, Path, dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    order, pack, expected = finished
    assert verified(pack, 0) == [f"{pack}: 80 images and 2 parts are as written"]
    flip(pack / "all" / "part-00000.bin", 700)
    source, wrong = open_source(str(pack)), []
    for index in range(80):
        try:
            source.example(index)
        except DataError as error:
            wrong.append(str(error))
    assert len(wrong) == 1 and "CRC-32" in wrong[0] and "--verify" in wrong[0] and "photos" in wrong[0]
    refused(capsys, 3, order.data, pack, "--verify", mentions=("part-00000.bin", "SHA-256", "delete the files named"))
    assert prepare(order)[0].startswith(f"{pack} is finished already")  # sizes are as they were
    (pack / "all" / "part-00000.bin").unlink()
    prepare(order)
    assert tree(pack) == expected


def test_verify_reads_every_image(
    finished: tuple[Order, Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files as they were written, but a sum or a JPEG that never was right."""
    _, pack, _ = finished
    monkeypatch.setattr("mae_lite.preparing.verifying.verify", lambda _: [])
    flip(pack / "all" / "part-00000.bin", 700)
    with pytest.raises(DataError, match=r"1 faults: .*photos.*CRC-32"):
        verified(pack, 0)


@pytest.mark.parametrize("which", ["part-00000.arrow", "part-00001.bin"])
def test_a_damaged_part_is_made_anew_on_going_on(finished: tuple[Order, Path, dict[str, str]], which: str) -> None:
    order, pack, expected = finished
    (pack / "pack.json").unlink()
    flip(pack / "all" / which, 200)
    other = pack / "all" / "part-00001.bin" if which == "part-00000.arrow" else pack / "all" / "part-00000.bin"
    then = other.stat().st_mtime_ns
    prepare(order)
    assert tree(pack) == expected and other.stat().st_mtime_ns == then


def test_a_part_of_another_plan_is_not_taken(finished: tuple[Order, Path, dict[str, str]]) -> None:
    order, pack, _ = finished
    shutil.rmtree(pack / "all")
    os.remove(pack / "pack.json")
    os.remove(pack / "prepare.json")
    other = Order(order.data, pack.with_name("other"), side=20)
    prepare(other)
    shutil.copytree(other.folder / "all", pack / "all")
    (pack / "prepare.json").write_text((other.folder / "prepare.json").read_text().replace('"side": 20', '"side": 16'))
    prepare(order)
    assert min(Image.open(io.BytesIO(open_source(str(pack)).example(3).data)).size) == 16  # type: ignore[arg-type]


def test_what_is_refused(
    finished: tuple[Order, Path, dict[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    order, pack, before = finished
    same = ("--side", "16")
    refused(capsys, 3, order.data, pack, mentions=("other settings", "form.side 16 -> 30"))
    refused(capsys, 3, order.data, pack, *same, "--quality", "80", mentions=("form.quality 90 -> 80",))
    refused(capsys, 2, order.data, pack, "--kind", "uint8", "--quality", "80", mentions=("quality", "drop"))
    refused(capsys, 3, folder(tmp_path / "more", 90), pack, *same, mentions=("from other data", "fingerprints.all"))
    refused(capsys, 2, order.data, f"{order.data}/pack", mentions=("in the data set itself",))
    refused(capsys, 3, order.data, tmp_path / "more", mentions=("holds other files", "'cat'"))
    (tmp_path / "file").write_text("x")
    refused(capsys, 3, order.data, tmp_path / "file", mentions=("is a file",))
    (tmp_path / "empty").mkdir()
    refused(capsys, 3, tmp_path / "empty", tmp_path / "p", mentions=("no images",))
    refused(capsys, 3, order.data, tmp_path / "none", "--verify", mentions=("is no pack",))
    refused(capsys, 2, order.data, tmp_path / "p", "--side", "0", mentions=("side",))
    assert tree(pack) == before
    known = json.loads((pack / "pack.json").read_text())
    (pack / "pack.json").write_text(json.dumps(known | {"version": 99}))
    with pytest.raises(DataError, match="another version: found 99, expected 1"):
        open_source(str(pack))
    (pack / "pack.json").write_text("{")
    with pytest.raises(DataError, match="is damaged"):
        open_source(str(pack))
    (pack / "pack.json").unlink()
    with pytest.raises(DataError, match="not finished"):
        open_source(str(pack))
    (pack / "prepare.json").write_text("{")
    refused(capsys, 3, order.data, pack, *same, mentions=("prepare.json", "damaged"))


@pytest.mark.usefixtures("finished")
def test_another_spelling_of_the_same_data_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert "finished already" in prepare(Order("folder:photos", Path("pack"), side=16))[0]


def test_two_at_once(finished: tuple[Order, Path, dict[str, str]], capsys: pytest.CaptureFixture[str]) -> None:
    order, pack, _ = finished
    lock = files.Lock(pack / ".lock", "pid 1 on elsewhere")
    try:
        refused(capsys, 5, order.data, pack, "--side", "16", mentions=("in use", "pid 1 on elsewhere"))
    finally:
        lock.release()
    assert "finished already" in prepare(order)[0]


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    data, pack = folder(tmp_path / "photos", 70), tmp_path / "pack"
    real = os.statvfs
    with monkeypatch.context() as patch:
        patch.setattr(os, "statvfs", lambda path: os.statvfs_result((*real(path)[:4], 1, *real(path)[5:])))
        refused(capsys, 5, data, pack, "--kind", "uint8", mentions=("too little room", "MB free", "about 0.203 MB"))
    assert not list(pack.glob("*/part-*"))
    monkeypatch.setattr(files, "disk", disk := FaultyDisk(at(12, errno.ENOSPC, always=True)))
    refused(capsys, 5, data, pack, "--workers", "0", mentions=("ENOSPC", "free space"))
    assert len(disk.operations) >= 12
    monkeypatch.setattr(files, "disk", files.Disk())
    assert run(data, pack) == 0
    prepare(Order(str(data), tmp_path / "reference"))
    assert tree(pack) == tree(tmp_path / "reference")


def test_every_refusal_of_the_disk_leaves_something_to_go_on_from(tmp_path: Path) -> None:
    order = Order(str(folder(tmp_path / "photos", 66, (9, 8))), tmp_path / "reference", workers=0)
    files.disk = healthy = FaultyDisk(lambda *_: 0)
    prepare(order)
    expected = tree(order.folder)
    for position in range(1, len(healthy.operations) + 1, 3):
        again = Order(order.data, tmp_path / f"pack-{position}", workers=0)
        files.disk = FaultyDisk(at(position, errno.EIO), torn=True)
        try:
            prepare(again)
        except DiskError as error:
            assert "--out" not in str(error)
        files.disk = files.Disk()
        prepare(again)
        assert tree(again.folder) == expected, (position, healthy.operations[position - 1])


def test_bad_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, pack = folder(tmp_path / "photos", 70), tmp_path / "pack"
    (data / "cat" / "004.jpg").write_bytes(b"")
    (data / "dog" / "006.jpg").write_bytes((data / "dog" / "006.jpg").read_bytes()[:400])
    refused(capsys, 3, data, pack, mentions=("2 of 70 images (all)", "cat/004.jpg", "bad_files.csv", "--on-bad skip"))
    assert not (pack / "pack.json").exists()
    rows = list(csv.reader((pack / "bad_files.csv").open()))
    assert [(row[0], Path(row[2]).name) for row in rows[1:]] == [("all", "004.jpg"), ("all", "006.jpg")]
    made = {path: path.stat().st_mtime_ns for path in pack.glob("*/part-*.bin")}
    assert run(data, pack, "--on-bad", "skip") == 0
    assert {path: path.stat().st_mtime_ns for path in pack.glob("*/part-*.bin")} == made
    assert "2 left out, see bad_files.csv" in capsys.readouterr().out
    source, packed = open_source(str(data)), open_source(str(pack))
    kept = [n for n in range(70) if not source.example(n).name.endswith(("004.jpg", "006.jpg"))]
    assert packed.labels.tolist() == source.labels[kept].tolist() and contents(pack).splits["all"].left_out == 2
    assert all(packed.example(n).name.endswith(source.example(old).name) for n, old in enumerate(kept))
    verified(pack, 0)
    for path in sorted(data.rglob("*.png"))[:12]:
        path.write_bytes(b"junk")
    refused(capsys, 3, data, tmp_path / "p", "--on-bad", "skip", mentions=("14 of 70", "at most 10"))


def test_names_of_any_kind_and_no_labels(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    names = [b"a\nb.png", "h\u00e9.png".encode(), b"no\xffutf8.png", b"=1+1.png"]
    for number, name in enumerate(sorted(names)):
        Path(os.fsdecode(os.fsencode(tmp_path / "x") + b"/" + name)).write_bytes(
            encoded(photo(number, (9, 9)), format="PNG")
        )
    prepare(Order(str(tmp_path / "x"), tmp_path / "pack \u2603", kind="uint8"))
    source, pack = open_source(str(tmp_path / "x")), open_source(str(tmp_path / "pack \u2603"))
    assert pack.classes is None and pack.labels.tolist() == [-1] * 4
    assert all((pixels(pack, n) == pixels(source, n)).all() for n in range(4))
    assert any("no\\udcffutf8.png" in pack.example(n).name for n in range(4))


def test_none_readable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x").mkdir()
    for number in range(3):
        (tmp_path / "x" / f"{number}.jpg").write_bytes(b"<html>")
    refused(capsys, 3, tmp_path / "x", tmp_path / "p", "--on-bad", "skip", mentions=("none of 3", "a web page"))
    assert not (tmp_path / "p" / "pack.json").exists()


def test_dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = folder(tmp_path / "photos", 70, (90, 60))
    assert run(data, tmp_path / "pack", "--dry-run", "--workers", "3") == 0
    text = capsys.readouterr().out
    for expected in ("70 images in 2 classes", "70 images tried, 0", "with 3 processes", "MB as jpeg, side 60"):
        assert expected in text, text
    assert f"about {70 * 60 * 60 * 3 / 1e6:.3g} MB as uint8" in text
    assert not (tmp_path / "pack").exists()
    lines = dry_run(Order("digits", tmp_path / "pack", kind="uint8", channels=1))
    assert any("as uint8, side 8" in line for line in lines) and not any("as jpeg" in line for line in lines)


def test_the_side_is_the_images_own_only_where_they_share_it(tmp_path: Path) -> None:
    data = folder(tmp_path / "photos", 4, (50, 60))
    form = contents_form()
    assert sample.own_side({"all": open_source(str(data))}, form) == 50
    (data / "dog" / "x.png").write_bytes(encoded(photo(1, (70, 70)), format="PNG"))
    assert sample.own_side({"all": open_source(str(data))}, form) == 256
    shutil.rmtree(data)
    assert sample.own_side({"all": open_source(str(folder(data, 2, (400, 300))))}, form) == 256


def test_check_reads_a_pack(finished: tuple[Order, Path, dict[str, str]], capsys: pytest.CaptureFixture[str]) -> None:
    _, pack, _ = finished
    assert cli.main(["check", f"pack:{pack}", "--out", str(pack.with_name("checked"))]) == 0
    assert "80 images in 2 classes, 80 readable" in capsys.readouterr().out


def test_a_list_that_goes_meanwhile(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="has gone"):
        parts.rows_of(parts.Job("all", 0, range(3)), tmp_path)


def test_a_disk_that_lies_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "sha256_of", lambda _: "another")
    with pytest.raises(DiskError, match="read back differently"):
        prepare(Order("digits", tmp_path / "pack", kind="uint8", channels=1, workers=0))
    assert not list(tmp_path.rglob("part-*.bin"))


@pytest.mark.slow
@pytest.mark.needs_data
def test_photographs(tmp_path: Path, shared_data: Path) -> None:
    """A part of the ImageNet sample: as small as said, close to a fair reduction, readable as any other data."""
    source = open_source(f"shards:{shared_data}/imagenet-sample/imagenet-sample.tar")
    root = tmp_path / "photos"
    for index in range(0, 1000, 8):
        path = root / source.classes[index] / f"{index}.jpg"  # type: ignore[index]
        path.parent.mkdir(parents=True)
        path.write_bytes(source.example(index).data)  # type: ignore[arg-type]
    prepare(Order(str(root), tmp_path / "pack", workers=0))
    photos, pack = open_source(str(root)), open_source(str(tmp_path / "pack"))
    differences = []
    for index in range(len(pack)):
        image, small = decode(photos.example(index), 3), decode(pack.example(index), 3)
        assert isinstance(image, Image.Image) and isinstance(small, Image.Image)
        assert min(small.size) == min(256, min(image.size))
        fair = image.resize(small.size, Image.Resampling.BICUBIC)
        differences.append(np.abs(np.asarray(fair).astype(int) - np.asarray(small)).mean())
    assert np.mean(differences) < 3 and len(differences) == 125
    size = sum(path.stat().st_size for path in (tmp_path / "pack").glob("*/part-*.bin"))
    assert 15_000 < size / 125 < 40_000
    verified(tmp_path / "pack", 0)


DYING = """
import os
from pathlib import Path

from mae_lite.checking import scan
from mae_lite.config import Reading
from mae_lite.data.opening import open_source
from mae_lite.errors import DiskError
from mae_lite.preparing import pool


class Deadly:
    def __reduce__(self):
        return os._exit, (1,)


if __name__ == "__main__":
    source = open_source("digits")
    source.extra = Deadly(), bytes(1_000_000)  # more than a pipe holds, behind what ends the process that reads it
    for look in (
        lambda: list(pool.each(print, source, [1, 2, 3], 2, lambda: False)),
        lambda: list(scan.scan(source, Reading(), 1, workers=2)),
    ):
        try:
            look()
        except DiskError as error:
            print(error.what)
"""


def test_processes_that_die_at_their_start_are_told_of(tmp_path: Path) -> None:
    (tmp_path / "dying.py").write_text(DYING)
    command = [sys.executable, str(tmp_path / "dying.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)  # it would wait forever
    assert done.stdout.splitlines() == ["a process that converts images died", "a process that looks at images died"]
