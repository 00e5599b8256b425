"""The kept listing of a folder: what it holds, when it is used again, and every change that it notices."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mae_lite.data import listing as module
from mae_lite.data import scan
from mae_lite.data.listing import Listing, listing
from mae_lite.errors import DataError

NAMES = (
    "b\u00e9.png",  # composed, and the same letter decomposed: two files
    "be\u0301.png",
    "two\nlines.jpg",
    "x" * 251 + ".jpg",
    "with space .gif",
    " .png",
    "\U0001f600.webp",
    "-rf.jpg",
    "100%d %s.png",
    "UPPER.JPEG",
    "array.npy",
)


TICKS_NS = 20_000_000


def settle() -> None:
    """Wait until folders changed just now are trusted."""
    time.sleep(1.5 * TICKS_NS / 1e9)


@pytest.fixture(autouse=True)
def kept(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep listings in a folder of the test's own, and trust folders left alone for some ticks of the clock."""
    place = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("MAE_LITE_CACHE", str(place))
    monkeypatch.setattr(scan, "RACY_NS", TICKS_NS)
    monkeypatch.setattr(module, "_warned", set())
    return place / "listings"


def grow(root: Path, *names: str | bytes, size: int = 1) -> Path:
    """Create files of ``size`` bytes and their folders."""
    for name in names:
        path = root / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
    return root


def names(found: Listing) -> list[str]:
    """Return the relative paths of a listing."""
    return [os.fsdecode(name) for name in found.names.to_pylist()]


def plain(root: Path) -> list[tuple[bytes, int, int, str]]:
    """List images with os.walk, as slowly as one likes: name, size, time, folder."""
    rows = []
    for folder, inner, files in os.walk(os.fsencode(root)):
        inner[:] = [name for name in inner if not name.startswith(b".") and name != b"__MACOSX"]
        for name in files:
            if not name.startswith(b".") and os.fsdecode(name).lower().endswith(scan.EXTENSIONS):
                path = os.path.join(folder, name)
                status = os.stat(path)
                above = os.path.relpath(folder, os.fsencode(root))
                rows.append((os.path.relpath(path, os.fsencode(root)), status.st_size, status.st_mtime_ns, above))
    return sorted((name, size, when, "" if above == b"." else os.fsdecode(above)) for name, size, when, above in rows)


def rows(found: Listing) -> list[tuple[bytes, int, int, str]]:
    """Return a listing in the form of :func:`plain`."""
    folders = [found.folders[number].name for number in found.folder_of.tolist()]
    return list(zip(found.names.to_pylist(), found.sizes.tolist(), found.mtimes_ns.tolist(), folders, strict=True))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return a list that grows by every folder that is read."""
    found: list[bytes] = []

    def counted(path: bytes, read: Callable[[bytes], Any] = scan.read) -> Any:
        found.append(path)
        return read(path)

    monkeypatch.setattr(scan, "read", counted)
    return found


def test_ten_thousand_files_are_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: Path) -> None:
    grow(tmp_path, *(f"{number % 100:02d}/{number:05d}.jpg" for number in range(10_000)))
    settle()
    first = listing(tmp_path)
    assert rows(first) == plain(tmp_path) and len(first) == 10_000 and len(first.folders) == 101
    files = list(kept.iterdir())
    assert len(files) == 1 and files[0].suffix == ".arrow"
    written = files[0].stat().st_mtime_ns

    def refuse(*_: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(scan, "read", refuse)
    monkeypatch.setattr(scan, "stat_all", refuse)
    monkeypatch.setattr(module, "_digest", refuse)
    start = time.perf_counter()
    again = listing(tmp_path)
    assert time.perf_counter() - start < 2
    assert rows(again) == rows(first) and again.sha256 == first.sha256 and again.folders == first.folders
    assert files[0].stat().st_mtime_ns == written


def test_names_of_every_kind(tmp_path: Path) -> None:
    odd = [b"not utf-8 \xff.png", *map(os.fsencode, NAMES)]
    grow(tmp_path, *odd, *(b"\xfe folder/" + name for name in odd), "\u00e9/1.png", "e\u0301/1.png")
    expected = sorted(
        [*odd, *(b"\xfe folder/" + name for name in odd), "\u00e9/1.png".encode(), "e\u0301/1.png".encode()]
    )
    for _ in range(2):
        found = listing(tmp_path)
        assert found.names.to_pylist() == expected and rows(found) == plain(tmp_path)
    assert len(found.folders) == 4


def test_what_is_ignored_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    grow(tmp_path, "a/1.png", "a/2.jpg", "a/notes.TXT", "more.txt", "nested.zip", "README", "b/x.tar.gz")
    grow(tmp_path, ".hidden.png", ".git/1.png", "__MACOSX/1.png", "a/Thumbs.db", "a/desktop.ini", "a/.DS_Store")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "self.png").symlink_to(tmp_path / "self.png")
    (tmp_path / "a/up").symlink_to(tmp_path)
    (tmp_path / "folder.jpg").mkdir()
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.INFO, "mae_lite"):
            found = listing(tmp_path)
        assert names(found) == ["a/1.png", "a/2.jpg"]
        expected = {".txt": 2, ".zip": 1, "no extension": 1, ".gz": 1}
        assert found.ignored == expected | {"special file": 1, "dangling link": 2, "link in a circle": 1}
        assert [facts.name for facts in found.folders] == ["", "a", "b", "folder.jpg"]
        assert [record.getMessage() for record in caplog.records] == [
            f"{tmp_path}: 2 images; ignored 2 x .txt, 2 x dangling link, 1 x .gz, 1 x .zip, 1 x link in a circle, "
            "1 x no extension, 1 x special file"
        ]
    caplog.clear()
    with caplog.at_level(logging.INFO, "mae_lite"):
        listing(tmp_path / "folder.jpg")
    assert caplog.records == []


def rewrite(path: Path, data: bytes) -> None:
    """Write into a file in place, so that its folder stays as it was."""
    with path.open("r+b") as handle:
        handle.truncate()
        handle.write(data)


CHANGES: dict[str, tuple[Callable[[Path], object], str, int]] = {
    "add": (lambda root: grow(root, "a/new.png"), "1 added ('a/new.png')", 1),
    "remove": (lambda root: (root / "b/1.png").unlink(), "1 removed ('b/1.png')", 1),
    "rename": (
        lambda root: (root / "a/1.png").rename(root / "a/9.png"),
        "1 added ('a/9.png'); 1 removed ('a/1.png')",
        1,
    ),
    "resize": (lambda root: rewrite(root / "a/1.png", b"longer"), "1 altered ('a/1.png')", 1),
    "touch": (lambda root: os.utime(root / "a/1.png", ns=(1, 1)), "1 altered ('a/1.png')", 1),
    "replace": (lambda root: grow(root, "a/tmp", size=9) and (root / "a/tmp").rename(root / "a/1.png"), "1 altered", 1),
    "new empty class": (lambda root: (root / "d").mkdir(), "", 2),
    "class removed": (lambda root: shutil.rmtree(root / "b"), "1 removed ('b/1.png')", 1),
    "move a folder": (lambda root: (root / "b").rename(root / "z"), "1 added ('z/1.png'); 1 removed ('b/1.png')", 2),
    "deep": (lambda root: grow(root, "c/deep/er/new.png"), "1 added ('c/deep/er/new.png')", 1),
    "other files": (lambda root: grow(root, "a/notes.txt"), "", 1),
    "many": (
        lambda root: grow(root, *(f"c/{n}.png" for n in range(1000, 2500))),
        "1,500 added ('c/1000.png', 'c/1001.png', 'c/1002.png', ...)",
        1,
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changes_are_noticed(
    tmp_path: Path, reads: list[bytes], caplog: pytest.LogCaptureFixture, kept: Path, change: str
) -> None:
    grow(tmp_path, "a/1.png", "a/2.png", "b/1.png", "c/deep/er/1.png", *(f"c/{n}.png" for n in range(300)))
    settle()
    before = listing(tmp_path)
    act, told, read_again = CHANGES[change]
    act(tmp_path)
    settle()
    reads.clear()
    caplog.clear()
    with caplog.at_level(logging.INFO, "mae_lite"):
        after = listing(tmp_path)
    assert rows(after) == plain(tmp_path)
    assert len(reads) == read_again, "only what has changed is read again"
    messages = [record.getMessage() for record in caplog.records if "has changed" in record.getMessage()]
    assert len(messages) == bool(told) and told in "".join(messages)
    if change not in ("touch", "new empty class", "other files"):
        assert after.sha256 != before.sha256
    reads.clear()
    caplog.clear()
    again = listing(tmp_path)
    assert rows(again) == rows(after) and again.sha256 == after.sha256 and again.folders == after.folders
    assert reads == [] and "has changed" not in caplog.text
    for file in kept.iterdir():
        file.unlink()
    fresh = listing(tmp_path)
    assert fresh.sha256 == after.sha256 and fresh.folders == after.folders


def test_a_folder_replaced_by_another_of_the_same_times(tmp_path: Path) -> None:
    grow(tmp_path, "root/a/1.png", "other/2.png")
    settle()
    listing(tmp_path / "root")
    times = (tmp_path / "root/a").stat(), (tmp_path / "root").stat()
    (tmp_path / "root/a").rename(tmp_path / "old")
    (tmp_path / "other").rename(tmp_path / "root/a")
    os.utime(tmp_path / "root/a", ns=(times[0].st_atime_ns, times[0].st_mtime_ns))
    os.utime(tmp_path / "root", ns=(times[1].st_atime_ns, times[1].st_mtime_ns))
    assert names(listing(tmp_path / "root")) == ["a/2.png"]


def test_a_folder_changed_within_the_tick_is_read_again(
    tmp_path: Path, reads: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second file comes within the tick of the first listing: all of the folder's times stay the same."""
    grow(tmp_path, "a/1.png", "a/2.png", "b/1.png")
    hidden = tmp_path / "a/2.png"
    true_read = scan.read

    def early(path: bytes) -> Any:
        images, folders, ignored = true_read(path)
        return [name for name in images if name != hidden.name.encode()], folders, ignored

    monkeypatch.setattr(scan, "read", early)
    monkeypatch.setattr(scan, "RACY_NS", 2 * 10**9)
    assert names(listing(tmp_path)) == ["a/1.png", "b/1.png"]
    monkeypatch.setattr(scan, "read", true_read)
    assert names(listing(tmp_path)) == ["a/1.png", "a/2.png", "b/1.png"]
    # With time the folders settle: they are read once more, and then trusted.
    monkeypatch.setattr(scan, "RACY_NS", 0)
    listing(tmp_path)
    reads.clear()
    monkeypatch.setattr(scan, "RACY_NS", 2 * 10**9)
    listing(tmp_path)
    assert reads == []


def test_links_are_followed_and_dangling_ones_may_come_back(tmp_path: Path) -> None:
    root = grow(tmp_path / "root", "a/1.png")
    grow(tmp_path, "far/away/2.png", "target.png")
    (root / "b").symlink_to(tmp_path / "far")
    (root / "a/link.png").symlink_to(tmp_path / "target.png")
    (root / "a/loop").symlink_to(root)
    settle()
    whole = ["a/1.png", "a/link.png", "b/away/2.png"]
    assert names(listing(root)) == whole
    (tmp_path / "target.png").rename(tmp_path / "elsewhere.png")  # changes no folder below the root
    assert names(listing(root)) == ["a/1.png", "b/away/2.png"]
    (tmp_path / "elsewhere.png").rename(tmp_path / "target.png")
    assert names(listing(root)) == whole
    (tmp_path / "far").rename(tmp_path / "farther")
    assert names(listing(root)) == ["a/1.png", "a/link.png"]
    (tmp_path / "farther").rename(tmp_path / "far")
    assert names(listing(root)) == whole


def test_without_time_the_folders_are_compared_still(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grow(tmp_path, "a/1.png", "b/1.png")
    settle()
    listing(tmp_path)
    monkeypatch.setattr(module, "_PATIENCE_S", -1.0)
    rewrite(tmp_path / "a/1.png", b"longer")
    assert listing(tmp_path).sizes.tolist() == [1, 1]  # as the docstring says
    grow(tmp_path, "b/2.png")
    assert names(listing(tmp_path)) == ["a/1.png", "b/1.png", "b/2.png"]


def test_one_altered_file_of_a_part_makes_all_be_read(
    tmp_path: Path, reads: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where not all files were compared, those that were not are doubtful too."""
    grow(tmp_path, *(f"{folder}/{n:03d}.png" for folder in "abcd" for n in range(400)))
    settle()
    listing(tmp_path)
    for path in tmp_path.rglob("*.png"):
        rewrite(path, b"longer")
    calls: list[int] = []

    def slow(root: Path, files: Any, ask: Callable[..., Any] = scan.stat_files) -> Any:
        calls.append(1)
        time.sleep(0.3)
        return ask(root, files)

    monkeypatch.setattr(module, "_PATIENCE_S", 0.1)
    monkeypatch.setattr(scan, "_THREADS", 1)
    monkeypatch.setattr(scan, "stat_files", slow)
    reads.clear()
    assert set(listing(tmp_path).sizes.tolist()) == {6}
    assert len(reads) == 5


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "text": lambda _: b"no arrow file",
    "cut": lambda data: data[: len(data) // 2],
    "body": lambda data: data.replace(b"a/1.png", b"a/7.png"),
    "offsets": lambda data: data.replace((7).to_bytes(8, "little"), (2**40).to_bytes(8, "little")),
    "end": lambda data: data[:-20] + b"\xff" * 20,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_made_anew(tmp_path: Path, kept: Path, reads: list[bytes], damage: str) -> None:
    grow(tmp_path, "a/1.png", "a/2.png")
    settle()
    first = listing(tmp_path)
    (file,) = kept.iterdir()
    whole = file.read_bytes()
    broken = DAMAGES[damage](whole)
    assert broken != whole
    file.write_bytes(broken)
    reads.clear()
    assert rows(listing(tmp_path)) == rows(first) and len(reads) == 2
    reads.clear()
    assert rows(listing(tmp_path)) == rows(first) and reads == []


def test_an_unwritable_cache_warns_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    grow(tmp_path, "set/a/1.png", "a file")
    monkeypatch.setenv("MAE_LITE_CACHE", str(tmp_path / "a file"))
    for _ in range(2):
        assert names(listing(tmp_path / "set")) == ["a/1.png"]
    (record,) = caplog.records
    assert record.levelname == "WARNING" and "MAE_LITE_CACHE" in record.getMessage()


def test_two_roots_are_kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: Path) -> None:
    grow(tmp_path, "one/1.png", "two/2.png")
    monkeypatch.chdir(tmp_path)
    assert [names(listing(Path(root))) for root in ("one", "two", "one")] == [["1.png"], ["2.png"], ["1.png"]]
    assert names(listing(tmp_path / "one")) == ["1.png"] and len(list(kept.iterdir())) == 2
    listing(Path("one")), (tmp_path / "one").rename(tmp_path / "gone"), (tmp_path / "two").rename(tmp_path / "one")
    assert names(listing(Path("one"))) == ["2.png"]


def test_an_empty_and_a_missing_folder(tmp_path: Path) -> None:
    for _ in range(2):
        assert len(listing(tmp_path)) == 0
    with pytest.raises(DataError, match="cannot be read"):
        listing(tmp_path / "missing")


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By failing calls, for a superuser may read everything."""
    grow(tmp_path, "a/1.png", "b/1.png")

    for name, ending in (("scandir", b"/b"), ("stat", b"/b"), ("stat", b"/b/1.png")):
        true = getattr(os, name)

        def refuse(path: Any, *rest: Any, true: Any = true, ending: bytes = ending, **options: Any) -> Any:
            if isinstance(path, bytes) and path.endswith(ending):
                raise PermissionError(13, "Permission denied", path)
            return true(path, *rest, **options)

        with monkeypatch.context() as patch:
            patch.setattr(os, name, refuse)
            with pytest.raises(DataError, match=r"b' cannot be read: found Permission denied"):
                listing(tmp_path)


def test_long_listings_say_how_far_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(scan, "_QUIET_S", -1.0)
    grow(tmp_path, *(f"{folder}/{number}.png" for folder in "ab" for number in range(1500)))
    settle()
    with caplog.at_level(logging.INFO, "mae_lite"):
        listing(tmp_path)
    assert [record.getMessage() for record in caplog.records] == [f"listing {tmp_path} ... 1,500 files"]
    monkeypatch.setattr(scan, "_PROGRESS_S", -1.0)
    caplog.clear()
    (tmp_path / "a/new.png").touch()
    with caplog.at_level(logging.INFO, "mae_lite"):
        listing(tmp_path)
    assert f"listing {tmp_path} ... 1,000 of 1,501 files" in caplog.text


def test_times_far_away(tmp_path: Path) -> None:
    grow(tmp_path, "a/1.png", "a/2.png")
    os.utime(tmp_path / "a/1.png", (0, 12_000_000_000))
    os.utime(tmp_path / "a/2.png", (0, -1_000_000))
    found = listing(tmp_path)
    assert found.mtimes_ns[1] < 0 < found.mtimes_ns[0]
    assert np.array_equal(listing(tmp_path).mtimes_ns, found.mtimes_ns)


words = st.text("aB .-\u00e9", min_size=1, max_size=3).filter(lambda word: word not in (".", "..") and word.strip())
trees = st.lists(
    st.tuples(st.lists(words, max_size=3), words, st.sampled_from([".png", ".JPG", ".txt", ""]), st.integers(0, 5)),
    max_size=12,
)


def build(root: Path, tree: list[tuple[list[str], str, str, int]]) -> None:
    """Make a random tree, as far as its names agree with each other."""
    for folders, name, suffix, size in tree:
        path = root.joinpath(*folders, name + suffix)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x" * size)
        except OSError:  # a file where a folder should be, or the other way round
            continue


@given(first=trees, second=trees)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_listing_is_that_of_a_plain_walk(
    first: list[Any], second: list[Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Freshly listed, listed after additions, and listed after removals."""
    root = tmp_path_factory.mktemp("tree")
    build(root, first)
    assert rows(listing(root)) == plain(root)
    build(root, second)
    assert rows(listing(root)) == plain(root)
    for path in sorted(root.rglob("*"))[::3]:
        if path.is_file():
            path.unlink()
    assert rows(listing(root)) == plain(root)
    assert [facts.name for facts in listing(root).folders] == sorted(
        (
            "" if folder == root else folder.relative_to(root).as_posix()
            for folder in (root, *root.rglob("*"))
            if folder.is_dir() and not any(part.startswith(".") for part in folder.relative_to(root).parts)
        ),
        key=os.fsencode,
    )
