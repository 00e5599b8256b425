"""A corpus of odd and bad inputs: each is right to the pixel or one clear error; no traceback, no hang, no silence."""

from __future__ import annotations

import csv
import faulthandler
import os
import resource
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mae_lite import cli, files
from mae_lite.config import Reading
from mae_lite.data.bad_files import BadFiles, bad_file
from mae_lite.data.folder import Folder
from mae_lite.data.images import decode, facts
from mae_lite.data.pixels import planes
from mae_lite.data.sources import Example, Split
from mae_lite.data.splits import STAND_INS, choose_split, few_labels, stratified_split
from mae_lite.errors import DataError
from tests import toy
from tests.corpus_bad import BAD, HUGE
from tests.corpus_images import GOOD, RGB, Good, tiff
from tests.corpus_sets import SETS, Case
from tests.test_errors import assert_contract

QUIET = "--tensorboard no --progress no --workers 0 --accelerator cpu".split()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work in an empty folder without network and without waiting for the disk; end a case that hangs."""

    def offline(*_: Any, **__: Any) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(files, "disk", files.Disk())
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(socket.socket, "connect", offline)
    monkeypatch.setattr(socket, "getaddrinfo", offline)
    faulthandler.dump_traceback_later(60, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


def test_the_corpus_is_large() -> None:
    total = len(GOOD) + len(BAD) + len(SETS)
    print(f"{total} inputs: {len(GOOD)} odd images, {len(BAD)} bad images, {len(SETS)} data sets and settings")
    assert total >= 150


@pytest.mark.parametrize("case", GOOD.values(), ids=GOOD)
def test_odd_images_are_right_to_the_pixel(case: Good) -> None:
    parts = [np.asarray(part) for part in planes(decode(Example("x", case.data), case.channels))]
    found = parts[0] if len(parts) == 1 else np.stack(parts, axis=2)
    assert found.shape == case.expected.shape
    assert np.abs(found.astype(int) - case.expected.astype(int)).max() <= case.tolerance


@pytest.mark.parametrize("name", [name for name in GOOD if name.startswith("tiff") and "orientation" in name])
def test_a_tiff_stays_as_stored_where_told_so(name: str) -> None:
    lying = decode(Example("x", GOOD[name].data), 3, Reading(turn_upright=False))
    assert isinstance(lying, Image.Image) and (np.asarray(lying) == RGB).all()


def test_a_damaged_second_page_does_not_hurt_the_first() -> None:
    data = tiff(np.stack([RGB, RGB]), photometric="rgb")
    first = int.from_bytes(data[4:8], "little")
    entries = int.from_bytes(data[first : first + 2], "little")
    link = first + 2 + 12 * entries
    broken = data[:link] + (len(data)).to_bytes(4, "little") + data[link + 4 :] + b"\1\0" + bytes(16)
    example = Example("x", broken)
    assert (np.asarray(decode(example, 3)) == RGB).all()
    found = facts(example, 3, Reading())
    assert (found.width, found.height) == (3, 2)


@pytest.mark.parametrize("name", BAD)
def test_bad_images_are_one_clear_error(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    data, word = BAD[name]
    path = Path("odd name.jpg")
    path.write_bytes(data)
    for given_as in (data, path):
        with pytest.raises(DataError) as caught:
            decode(Example("album/odd name.jpg", given_as), 3)
        text = str(caught.value)
        assert "album/odd name.jpg" in text and word in text and "\nFix: " in text
        assert "IndexError" not in text and "TypeError" not in text
    captured = capsys.readouterr()
    assert captured.out == captured.err == "", "nothing is said beside the error"


def test_check_lists_every_bad_and_takes_every_odd_image(capsys: pytest.CaptureFixture[str]) -> None:
    """The whole corpus as a folder; what a name ends in is never trusted."""
    Path("set").mkdir()
    cases = {name: data for name, (data, _) in BAD.items()} | {n: c.data for n, c in GOOD.items() if c.channels != 5}
    for number, data in enumerate(cases.values()):
        Path("set", f"{number:03d}.jpg").write_bytes(data)
    Path("toy.json").write_text(toy.mae().model_dump_json())
    assert cli.main(["check", "set", "--recipe", "toy.json", "--workers", "0", "--channels", "3"]) == 3
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    rows = list(csv.reader(Path("runs/check/bad_files.csv").open()))[1:]
    assert [int(row[1]) for row in rows] == list(range(len(BAD)))
    assert all(row[3] for row in rows)


@pytest.mark.parametrize("name", HUGE)
def test_huge_claims_take_no_memory(name: str) -> None:
    child = os.fork()
    if child == 0:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            decode(Example("x", HUGE[name]), 3)
        except DataError:
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            os._exit(0 if grown < 50 * 1024 else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("case", SETS.values(), ids=SETS)
def test_data_sets(case: Case, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    case.make()
    if case.words.startswith("hf:"):  # it would try again and again

        def offline(*_: Any, **__: Any) -> None:
            raise ConnectionError("Couldn't reach the Hub")

        monkeypatch.setattr("datasets.load_dataset", offline)
    data, *rest = case.words.split(" ")
    short = {"global_batch_size": 4, "epochs": 1, "warmup_epochs": 0}
    if case.command == "finetune":
        recipe = toy.classifier(labels_per_class=None, validation_fraction=0.25, **short)
    else:
        recipe = toy.mae(**short)
    Path("toy.json").write_text(recipe.model_dump_json())
    words = ["check", data, "--recipe", "toy.json", "--workers", "0"]
    if case.command != "check":
        words = [case.command, "toy.json", "--data", data, "--out", "run", *QUIET]
    code = cli.main([*words, *rest])
    error = capsys.readouterr().err.replace("https://", "")  # what a torchvision set is downloaded from is named
    if case.code:
        assert_contract(error, code, case.code, mentions=case.mentions)
    else:
        assert code == 0 and "Traceback" not in error and "error:" not in error, error


LABELS = st.lists(st.integers(0, 5), min_size=1, max_size=60).map(lambda values: np.array(values, dtype=np.int64))


@given(LABELS, st.floats(0.01, 0.99), st.integers(0, 99))
@settings(deadline=None, max_examples=50)
def test_a_split_keeps_every_image_once_and_every_class_on_both_sides(labels: Any, share: float, seed: int) -> None:
    kept, aside = stratified_split(labels, share, seed)
    assert sorted([*kept, *aside]) == list(range(len(labels)))
    for label in np.unique(labels):
        count = (labels == label).sum()
        assert (labels[kept] == label).any()
        assert (labels[aside] == label).any() == (count > 1)


@given(LABELS, st.integers(1, 8), st.integers(0, 99))
@settings(deadline=None, max_examples=50)
def test_few_labels_are_as_many_of_each_class_or_an_error(labels: Any, count: int, seed: int) -> None:
    present, counts = np.unique(labels, return_counts=True)
    if counts.min() < count:
        with pytest.raises(DataError, match="Fix: --labels-per-class"):
            few_labels(labels, count, seed)
        return
    chosen = few_labels(labels, count, seed)
    assert np.bincount(labels[chosen])[present].tolist() == [count] * len(present)
    assert count == 1 or {*few_labels(labels, count - 1, seed).tolist()} < {*chosen.tolist()}


SPLITS: st.SearchStrategy[Split] = st.sampled_from(("train", "val", "test"))


@given(st.lists(SPLITS, max_size=3), SPLITS, st.booleans())
def test_a_split_is_the_one_asked_for_or_its_stand_in(present: list[Split], wanted: Split, strict: bool) -> None:
    possible = [split for split in (wanted, *(() if strict else STAND_INS[wanted])) if split in present]
    if possible:
        assert choose_split(present, wanted, "x", strict=strict) == possible[0]
    else:
        with pytest.raises(DataError, match=f"no {wanted} images"):
            choose_split(present, wanted, "x", strict=strict)


@given(st.binary(min_size=1, max_size=60).filter(lambda name: not {0, 47} & {*name} and name[:1] != b"."))
@settings(deadline=None, max_examples=40)
def test_any_name_goes_from_the_folder_to_the_list(name: bytes) -> None:
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        path = os.path.join(os.fsencode(root), name + b".png")
        Path(os.fsdecode(path)).write_bytes(b"")
        example = Folder(root).example(0)
        assert os.fsencode(example.name) == path
        with pytest.raises(DataError) as caught:
            decode(example, 3)
        bad = BadFiles("train", 1, "skip", root / "bad_files.csv")
        bad.add([bad_file(0, example.name, caught.value)])
        rows = list(csv.reader((root / "bad_files.csv").open(encoding="utf-8", newline="")))
        assert len(rows) == 2 and rows[1][3].startswith("cannot be read: an empty file")
        assert all(sign.isprintable() for cell in rows[1] for sign in cell)
        assert BadFiles("train", 1, "skip", root / "bad_files.csv").count == 1
