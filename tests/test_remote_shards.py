"""Tar shards behind URLs: faults of servers, a cache with a limit, and an order that depends on neither."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

import mae_lite
from mae_lite import files, locks, training
from mae_lite.data import cache, fetch, published_index, remote_shards, shard_cache
from mae_lite.data.loader import training_loader
from mae_lite.data.opening import open_source
from mae_lite.data.plan import Plan
from mae_lite.data.remote_shards import RemoteShards
from mae_lite.data.sources import Source, subset
from mae_lite.data.transforms import TrainTransform
from mae_lite.data.windows import Windows
from mae_lite.errors import ConfigError, DataError, DiskError
from tests import toy
from tests.site import Site
from tests.test_data_shards import numbered, picture, read, shard
from tests.test_training import SGD, losses, tensors

SHARDS, EACH = 8, 6


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Provide an empty server, of which stalls are noticed at once."""
    monkeypatch.setattr(fetch, "PAUSES_SECONDS", (0.01, 0.02))
    monkeypatch.setattr(fetch, "STALL_SECONDS", 0.4)
    server = Site()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def pair(site: Site, tmp_path: Path) -> str:
    """Put two shards of two pictures each on the server."""
    for number in range(2):
        made = shard(tmp_path / f"{number}.tar", numbered(number, 1, start=2 * number))
        site.content[f"/x-{number}.tar"] = made.read_bytes()
    return f"shards:{site.url}/x-{{0..1}}.tar"


@pytest.fixture
def many(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Put 8 shards of 6 pictures on the server, of which two are a window."""
    for number in range(SHARDS):
        labels = [(number + position) % 3 for position in range(EACH)]
        made = shard(tmp_path / "local" / f"x-{number}.tar", numbered(*labels, start=EACH * number))
        site.content[f"/x-{number}.tar"] = made.read_bytes()
    monkeypatch.setattr(remote_shards, "WINDOW_BYTES", 2.1 * len(site.content["/x-0.tar"]))
    return f"shards:{site.url}/x-{{0..{SHARDS - 1}}}.tar"


def cached() -> int:
    """Return the bytes in the cache of shards, while nobody claims room or gives any back."""
    folder, found = Path(os.environ["MAE_LITE_CACHE"]) / "fetched", 0
    with locks.turn(folder / "lock"):
        for path in folder.glob("*/*"):
            with suppress(FileNotFoundError):  # it has got its final name
                found += path.stat().st_size
    return found


def evict() -> None:
    """Delete all shards from the cache."""
    for path in Path(os.environ["MAE_LITE_CACHE"]).glob("fetched/*/*.tar"):
        path.unlink()


def limit(monkeypatch: pytest.MonkeyPatch, site: Site, shards: float) -> float:
    """Leave room for some shards; return the bytes."""
    size = shards * len(site.content["/x-0.tar"])
    monkeypatch.setenv(shard_cache.LIMIT, f"{size / 1e9:.12f}")
    return size


def until(true: Callable[[], bool]) -> None:
    """Wait for something that other threads do."""
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def nothing_is_fetched_ahead() -> bool:
    """Return whether the threads that fetch ahead have ended."""
    return not [thread for thread in threading.enumerate() if thread.name == "shards ahead"]


# Faults


def test_shards_are_fetched_once_and_anew_when_changed(site: Site, pair: str, tmp_path: Path) -> None:
    source = open_source(pair)
    assert read(source) == [picture(number) for number in range(4)] and source.labels.tolist() == [0, 1, 1, 1]
    assert source.name == pair and sorted(site.gets) == ["/x-0.tar", "/x-1.tar"]
    assert open_source(pair).fingerprint() == source.fingerprint() and len(site.gets) == 2
    site.content["/x-1.tar"] = shard(tmp_path / "new.tar", numbered(7, start=9)).read_bytes()
    assert read(open_source(pair)) == [picture(0), picture(1), picture(9)] and len(site.gets) == 3


@pytest.mark.usefixtures("pair")
@pytest.mark.parametrize("fault", ["500", "503", "429", "cut", "long", "stall"])
def test_passing_faults_are_tried_again(site: Site, fault: str) -> None:
    site.faults = [fault]
    assert read(open_source(f"shards:{site.url}/x-0.tar")) == [picture(0), picture(1)]
    assert len(site.gets) == 2


@pytest.mark.usefixtures("pair")
@pytest.mark.parametrize(
    ("fault", "found", "gets"),
    [
        ("500", "status 500", 3),
        ("cut", "cut off", 3),
        ("stall", "0.4 s", 3),
        ("long", "or more instead", 3),
        ("403", "403", 1),
    ],
)
def test_lasting_faults_are_an_error(site: Site, fault: str, found: str, gets: int) -> None:
    (remote,) = fetch.look([f"{site.url}/x-0.tar"])
    shards = shard_cache.ShardCache([remote], "x")
    site.faults = [fault] * 9
    with pytest.raises(DataError, match=found) as caught:
        shards.fetch(0)
    assert "\nFix: " in str(caught.value) and "/x-0.tar" in str(caught.value)
    assert len(site.gets) == gets and cached() == 0


def test_a_missing_shard_or_server_is_an_error(site: Site) -> None:
    with pytest.raises(DataError, match="status 404"):
        open_source(f"shards:{site.url}/y.tar")
    started = time.monotonic()
    with pytest.raises(DataError, match="cannot be fetched"):
        open_source("shards:http://user:secret@127.0.0.1:9/y.tar?key=secret")
    assert time.monotonic() - started > 0.03  # it may be starting: tried three times


def test_secrets_of_a_url_are_not_told(site: Site) -> None:
    address = site.url.replace("http://", "http://user:secret@")
    with pytest.raises(DataError) as caught:
        open_source(f"shards:{address}/y.tar?key=secret")
    assert "/y.tar" in str(caught.value) and "secret" not in str(caught.value)


def test_a_server_without_head_serves_too(site: Site, pair: str) -> None:
    site.head_status = 405
    assert len(open_source(pair)) == 4


@pytest.mark.usefixtures("pair")
def test_a_shard_that_changes_while_it_is_fetched_is_refused(site: Site) -> None:
    remotes = fetch.look([f"{site.url}/x-0.tar"])
    other = site.content["/x-0.tar"][::-1]  # of the same size
    site.before_answer = lambda: site.content.update({"/x-0.tar": other})
    for gets in (1, 1):  # while it is sent, and before
        with pytest.raises(DataError, match="has changed on the server"):
            shard_cache.ShardCache(remotes, "x").fetch(0)
        assert len(site.gets) == gets and cached() == 0


def test_a_shard_that_changes_during_a_run_ends_it(site: Site, many: str, tmp_path: Path) -> None:
    source = open_source(many)
    evict()
    for path in site.content:
        site.content[path] = site.content[path][::-1]
    with pytest.raises(DiskError, match="has changed on the server"):  # no bad image, for which another stands in
        training.run(toy.mae(), toy.runtime(tmp_path / "run", data=many, workers=2), source)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for place, package, missing in (
        ("s3://bucket/x.tar", "s3fs", "s3fs"),
        ("gs://bucket/x.tar", "gcsfs", "gcsfs"),
        ("https://host/x.tar", "fsspec", "fsspec"),
        ("http://127.0.0.1:9/x.tar", r"fsspec\[http\]", "aiohttp"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(fetch, "_systems", {})
            patch.setitem(sys.modules, missing, None)
            with pytest.raises(DiskError, match=package) as caught:
                open_source(f"shards:{place}")
            assert caught.value.fix == "pip install 'mae_lite[remote]'"


@pytest.mark.usefixtures("pair")
def test_other_file_systems_serve_too(site: Site) -> None:
    import fsspec
    from fsspec.implementations.memory import MemoryFileSystem

    class Bucket(MemoryFileSystem):  # type: ignore[misc]
        protocol = "s3"
        store: dict[str, Any] = {}  # noqa: RUF012
        pseudo_dirs: list[str] = [""]  # noqa: RUF012

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return super()._strip_protocol(path.removeprefix("s3://"))  # type: ignore[no-any-return]

        def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
            return {**super().info(path, **kwargs), "ETag": str(hash(self.cat(path)))}

    fsspec.register_implementation("s3", Bucket, clobber=True)
    for path, data in site.content.items():
        Bucket().pipe(f"s3://bucket{path}", data)
    assert read(open_source("shards:s3://bucket/x-{0..1}.tar")) == [picture(number) for number in range(4)]
    with pytest.raises(DataError, match="no such file"):
        open_source("shards:s3://bucket/y.tar")


def test_an_interrupted_start_goes_on(site: Site, many: str, monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, site, 1.5)  # nothing but what is known of a shard can be kept
    content = site.content.pop("/x-5.tar")
    monkeypatch.setattr(fetch, "look", lambda urls: [fetch.Remote(url, len(content), "") for url in urls])
    monkeypatch.setattr(fetch, "_check_same", lambda *_: None)
    monkeypatch.setattr(remote_shards, "_AHEAD", 1)
    monkeypatch.setattr(published_index, "read", lambda _: None)
    with pytest.raises(DataError, match=r"/x-5\.tar"):
        open_source(many)
    until(nothing_is_fetched_ahead)  # a thread that still asks for the fifth would count as the start after it
    site.content["/x-5.tar"] = content
    site.gets.clear()
    monkeypatch.setattr(RemoteShards, "_names_file", lambda _: None)
    source = open_source(many)
    assert site.gets == ["/x-5.tar", "/x-6.tar", "/x-7.tar"]
    assert source.example(40).data == picture(40) and len(source) == SHARDS * EACH
    assert not list(Path(os.environ["MAE_LITE_CACHE"]).glob("scanned/*"))


def test_names_of_classes_lie_beside_the_shards(site: Site, pair: str) -> None:
    assert open_source(pair).classes == ("0", "1")
    site.content["/classes.txt"] = "kat\nhónd\n".encode()
    assert open_source(pair).classes == ("kat", "hónd")


# An index beside the shards


def published(site: Site, folder: Path) -> None:
    """Put the index of local shards on the server too."""
    path = mae_lite.index_shards(str(folder))
    assert path == folder / published_index.NAME
    site.content[f"/{path.name}"] = path.read_bytes()


def test_a_published_index_spares_fetching_the_shards(
    site: Site, many: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain = open_source(many)
    published(site, tmp_path / "local")
    (tmp_path / "local" / published_index.NAME).unlink()
    monkeypatch.setenv("MAE_LITE_CACHE", str(tmp_path / "other"))
    site.gets.clear()
    source = open_source(many)
    assert len(source) == SHARDS * EACH and site.gets == [f"/{published_index.NAME}"]
    assert source.fingerprint() == plain.fingerprint() and source.labels.tolist() == plain.labels.tolist()
    assert source.windows is not None and plain.windows is not None and source.windows.size == plain.windows.size
    assert source.example(7).data == picture(7) and site.gets[1:] == ["/x-1.tar"]
    some = open_source(f"shards:{site.url}/x-{{5,2}}.tar")
    assert read(some) == [picture(number) for number in (*range(30, 36), *range(12, 18))]
    assert some.labels.tolist() == [*plain.labels[30:36].tolist(), *plain.labels[12:18].tolist()]
    assert len([path for path in site.gets if path.endswith(".arrow")]) == 1  # kept while it stays the same


def test_shards_that_are_not_as_indexed_are_refused(site: Site, many: str, tmp_path: Path) -> None:
    published(site, tmp_path / "local")
    source = open_source(many)
    site.content["/x-3.tar"] = site.content["/x-3.tar"][:-1] + b"1"
    with pytest.raises(DiskError, match="another SHA-256"):
        source.example(3 * EACH)
    assert source.example(0).data == picture(0)
    with pytest.raises(DataError, match=r"lacks shards.*'y\.tar'"):
        open_source(f"shards:{site.url}/{{x-1,y}}.tar")


@pytest.mark.parametrize("place", [3, 70, 300, 900, -300, -3])
def test_a_damaged_index_is_not_believed(site: Site, many: str, tmp_path: Path, place: int) -> None:
    published(site, tmp_path / "local")
    content = bytearray(site.content[f"/{published_index.NAME}"])
    content[place] ^= 16
    site.content[f"/{published_index.NAME}"] = bytes(content)
    with pytest.raises(DataError, match="cannot be used"):
        open_source(many)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"shard": [9]}, "places"),
        ({"shard": [-1]}, "places"),
        ({"offset": [1 << 40]}, "places"),
        ({"offset": [9000], "size": [9000]}, "cannot be"),
        ({"label": [3]}, "cannot be"),
        ({"label": [1.5]}, "columns"),
        ({"version": 7}, "version 7"),
        ({"shards": "x"}, "Error"),
    ],
)
def test_an_index_that_lies_is_not_believed(site: Site, tmp_path: Path, change: dict[str, Any], found: str) -> None:
    path = shard(tmp_path / "a.tar", [("dog/1.jpg", picture(1))])
    mae_lite.index_shards(str(path))
    loaded = cache.load(tmp_path / published_index.NAME)
    assert loaded is not None
    columns = {name: change.get(name, loaded[0][name].combine_chunks()) for name in loaded[0].column_names}
    about = {**loaded[1], **{name: value for name, value in change.items() if name not in columns}}
    cache.save(tmp_path / "lie.arrow", {name: pa.array(values) for name, values in columns.items()}, about)
    site.content = {"/a.tar": path.read_bytes(), f"/{published_index.NAME}": (tmp_path / "lie.arrow").read_bytes()}
    with pytest.raises(DataError, match=found) as caught:
        open_source(f"shards:{site.url}/a.tar")
    assert "\nFix: " in str(caught.value)


def test_shards_of_several_folders_have_no_common_index(site: Site, tmp_path: Path) -> None:
    for number, name in enumerate(("a", "b")):
        path = shard(tmp_path / name / "x.tar", numbered(1, start=number))
        site.content[f"/{name}/x.tar"] = path.read_bytes()
        index = mae_lite.index_shards(str(path))
        site.content[f"/{name}/{index.name}"] = index.read_bytes()
    with pytest.raises(DataError, match="one folder"):
        mae_lite.index_shards(f"{tmp_path}/*/x.tar")
    assert read(open_source(f"shards:{site.url}/{{a,b}}/x.tar")) == [picture(0), picture(1)]


# The cache


def test_nothing_is_imported_before_a_url_is_used() -> None:
    code = "import sys, mae_lite.data.remote_shards; print([m for m in ('fsspec', 'aiohttp') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def _open_and_read(spec: str, results: Any) -> None:
    source = open_source(spec)
    results.put([source.example(index).data for index in range(len(source))])


def test_two_processes_share_each_fetch(site: Site, pair: str) -> None:
    site.before_answer = lambda: time.sleep(0.3)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=_open_and_read, args=(pair, results)) for _ in range(3)]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in processes]
    assert found == [[picture(number) for number in range(4)]] * 3
    assert sorted(site.gets) == ["/x-0.tar", "/x-1.tar"]
    for process in processes:
        process.join()


@pytest.mark.usefixtures("pair")
def test_a_killed_fetch_leaves_nothing_that_counts(site: Site) -> None:
    remotes = fetch.look([f"{site.url}/x-0.tar"])
    shards = shard_cache.ShardCache(remotes, "x")
    begun = threading.Event()

    def slowly() -> None:
        begun.set()
        time.sleep(0.5)

    site.before_answer = slowly
    process = multiprocessing.get_context("fork").Process(target=shards.fetch, args=(0,))
    process.start()
    assert begun.wait(30)
    process.kill()
    process.join()
    assert cached() == remotes[0].size  # its claim
    site.before_answer = lambda: None
    assert shards.read(0, 0, 100) == site.content["/x-0.tar"][:100]
    assert cached() == remotes[0].size


def test_threads_take_turns_and_need_not_wait(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "lock"
    with locks.turn(path) as first, locks.turn(path, wait=False) as second:
        assert first and not second
    with locks.turn(path, wait=False) as third:
        assert third
    inside: list[int] = []

    def work() -> None:
        with locks.turn(path):
            inside.append(1)
            time.sleep(0.02)
            assert inside == [1]
            inside.clear()

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert inside == []


def test_eviction_stays_below_the_limit_and_data_are_right(
    site: Site, many: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = limit(monkeypatch, site, 3.5)
    largest = 0

    def look() -> None:
        nonlocal largest
        largest = max(largest, cached())

    site.before_answer = look
    source = open_source(many)
    assert read(source) == [picture(number) for number in range(SHARDS * EACH)]
    order = np.random.default_rng(0).permutation(len(source))[:30]
    assert [source.example(int(index)).data for index in order] == [picture(int(index)) for index in order]
    look()
    assert 2 * len(site.content["/x-0.tar"]) < largest <= size
    assert len(site.gets) > 2 * SHARDS  # once to index, and more to read
    assert read(pickle.loads(pickle.dumps(source))) == read(source)


def test_a_damaged_copy_is_replaced(pair: str) -> None:
    source = open_source(pair)
    for path in Path(os.environ["MAE_LITE_CACHE"]).glob("fetched/*/*.tar"):
        files.write_bytes(path, path.read_bytes()[:1000])
    assert read(source) == [picture(number) for number in range(4)]


@pytest.mark.parametrize("value", ["many", "0", "-1", "nan", "inf"])
def test_a_limit_is_a_number(pair: str, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(shard_cache.LIMIT, value)
    with pytest.raises(ConfigError, match=shard_cache.LIMIT):
        open_source(pair)


def test_too_little_room_is_said_before_it_matters(
    site: Site, many: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    limit(monkeypatch, site, 0.9)
    with pytest.raises(DiskError, match="no room for a shard"):
        open_source(many)
    limit(monkeypatch, site, 5.5)
    with pytest.raises(DiskError, match="3 windows of 2 shards"):
        training.run(toy.mae(), toy.runtime(tmp_path / "run", data=many))


# Order


def test_windows_follow_each_other() -> None:
    shards = np.repeat(np.arange(10), 7)
    plan = Plan(samples=70, global_batch_size=8, micro_batch_size=8, seed=3, windows=Windows(shards, 4))
    first, second = plan.order(0), plan.order(1)
    for order in (first, second):
        assert sorted(order.tolist()) == list(range(70))
        parts = [set(shards[part].tolist()) for part in np.split(order, [28, 56])]
        assert [len(part) for part in parts] == [4, 4, 2] and set.union(*parts) == set(range(10))
    assert set(shards[first[:28]].tolist()) != set(shards[second[:28]].tolist())
    assert (np.diff(shards[first[:28]]) != 0).mean() > 0.5  # shuffled within the window
    assert first.tolist() != Plan(**{**plan.__dict__, "seed": 4}).order(0).tolist()


def test_the_order_is_pinned() -> None:
    """A change here changes every streamed run."""
    plan = Plan(samples=12, global_batch_size=2, micro_batch_size=2, seed=1, windows=Windows(np.arange(12) // 3, 2))
    assert plan.order(1).tolist() == [6, 4, 7, 3, 8, 5, 9, 2, 1, 0, 10, 11]


def test_one_window_changes_nothing() -> None:
    settings: dict[str, Any] = {"samples": 40, "global_batch_size": 8, "micro_batch_size": 4, "seed": 1}
    whole = Plan(**settings, windows=Windows(np.arange(40) // 10, 4))
    assert [whole.order(epoch).tolist() for epoch in range(3)] == [
        Plan(**settings).order(epoch).tolist() for epoch in range(3)
    ]


def test_windows_of_a_part(many: str) -> None:
    source = open_source(many)
    assert source.windows is not None and (source.windows.size, len(source.windows)) == (2, 4)
    part = subset(source, np.arange(3 * EACH, 6 * EACH))
    assert part.windows is not None and len(part.windows) == 2
    assert {int(number) for shards in part.windows.of_epoch(0, 0) for number in shards} == {3, 4, 5}
    few = source.windows.few(5, EACH + 1)
    assert len(few) == 2 * EACH and len(set((few // EACH).tolist())) == 2
    assert len(source.windows.few(5, 10_000)) == SHARDS * EACH


def test_what_is_expected_is_what_comes() -> None:
    shards = np.repeat(np.arange(6), 5)
    plan = Plan(samples=30, global_batch_size=4, micro_batch_size=4, seed=2, windows=Windows(shards, 2))
    told: list[list[int]] = []
    seen = []
    for _, samples in plan.announced_keys(0, 2 * plan.steps_per_epoch, told.append):
        assert set(shards[samples].tolist()) <= set(told[-1] if len(told) < 2 else told[-1] + told[-2])
        seen.append(len(told))
    assert len(told) == 6 and len(told[0]) == 4 and len(told[-1]) == 2  # nothing comes after the end
    assert next(iter(plan.announced_keys(3, 9, told.append)))[1].tolist() == plan.rows(3).tolist()


def test_a_shard_that_was_read_meanwhile_is_not_fetched_ahead(site: Site, pair: str) -> None:
    del pair
    shards = shard_cache.ShardCache(fetch.look([f"{site.url}/x-{number}.tar" for number in range(2)]), "x")
    with shards.held(0) as place:
        shards.expect([0, 1])  # one thread waits for its turn
        until(lambda: "/x-1.tar" in site.gets)
        shards.expect([1])
        place.unlink()  # as when room was needed
    until(nothing_is_fetched_ahead)
    assert sorted(site.gets) == ["/x-0.tar", "/x-1.tar"]


def test_a_pass_that_is_closed_fetches_nothing_more(site: Site, many: str) -> None:
    source = open_source(many)
    evict()
    site.gets.clear()
    answering = threading.Event()
    site.before_answer = lambda: until(answering.is_set)
    plan = Plan(samples=len(source), global_batch_size=4, micro_batch_size=4, seed=1, windows=source.windows)
    keys = plan.announced_keys(0, 9, source.expect)
    next(keys)
    until(lambda: len(site.gets) == 4)
    keys.close()  # type: ignore[attr-defined]  # it is a generator
    answering.set()
    until(nothing_is_fetched_ahead)
    assert cached() == 0 and len(site.gets) == 4


def batches(source: Source, plan: Plan, start: int, stop: int, workers: int) -> list[tuple[list[int], torch.Tensor]]:
    augmentation = toy.mae().augmentation
    loader = training_loader(
        source, TrainTransform(augmentation, 8, 1), plan, channels=1, start_step=start, stop_step=stop, workers=workers
    )
    return [(batch.ids.tolist(), batch.images) for batch in loader]


def test_the_order_does_not_depend_on_workers_ranks_the_cache_or_the_start(
    site: Site, many: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = open_source(many)
    settings: dict[str, Any] = {"samples": len(source), "global_batch_size": 8, "seed": 5, "windows": source.windows}
    plan = Plan(**settings, micro_batch_size=8)
    steps = 2 * plan.steps_per_epoch
    reference = batches(source, plan, 0, steps, 0)

    def same(found: list[tuple[list[int], torch.Tensor]], expected: list[tuple[list[int], torch.Tensor]]) -> None:
        assert [ids for ids, _ in found] == [ids for ids, _ in expected]
        assert all(torch.equal(one, other) for (_, one), (_, other) in zip(found, expected, strict=True))

    monkeypatch.setenv("MAE_LITE_CACHE", str(tmp_path / "other"))
    limit(monkeypatch, site, 6.5)
    source = open_source(many)
    site.gets.clear()
    same(batches(source, plan, 0, steps, 2), reference)
    assert site.gets
    same(batches(source, plan, 7, steps, 1), reference[7:])
    halves = [
        batches(source, Plan(**settings, micro_batch_size=4, ranks=2, rank=rank), 0, steps, 0) for rank in range(2)
    ]
    joined = [
        (left[0] + right[0], torch.cat([left[1], right[1]])) for left, right in zip(halves[0], halves[1], strict=True)
    ]
    same(joined, reference)


def test_each_epoch_fetches_each_shard_about_once(site: Site, many: str, monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, site, 6.5)
    source = open_source(many)
    plan = Plan(samples=len(source), global_batch_size=4, micro_batch_size=4, seed=1, windows=source.windows)
    site.gets.clear()
    assert len(batches(source, plan, 0, 3 * plan.steps_per_epoch, 0)) == 36
    assert max(Counter(site.gets).values()) <= 3 and SHARDS < len(site.gets) <= 3 * SHARDS


# Runs


def test_a_run_from_far_equals_one_from_here(many: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(remote_shards, "WINDOW_BYTES", 4e9)
    local, far = tmp_path / "here", tmp_path / "far"
    training.run(toy.mae(epochs=2, warmup_epochs=1), toy.runtime(local, data=f"shards:{tmp_path / 'local'}"))
    training.run(toy.mae(epochs=2, warmup_epochs=1), toy.runtime(far, data=many))
    assert losses(local) == losses(far) and len(losses(far)) > 0
    one, two = tensors(local), tensors(far)
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    records = [json.loads((run / "recipe.json").read_text()) for run in (local, far)]
    assert records[0]["fingerprint"] == records[1]["fingerprint"]


def test_a_streamed_run_resumes_bit_for_bit(
    site: Site, many: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    limit(monkeypatch, site, 6.5)
    recipe = toy.mae(epochs=3, warmup_epochs=1, global_batch_size=8)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    probed = {"probe_every_epochs": 1, "probe_images": 12}
    training.run(recipe, toy.runtime(whole, data=many, **probed))
    for stop in (4, 11, None):
        training.run(recipe, toy.runtime(parts, data=many, workers=1, stop_after_steps=stop, **probed))
    one, two = tensors(whole), tensors(parts)
    assert losses(whole) == losses(parts) and all(torch.equal(one[name], two[name]) for name in one)
    monkeypatch.setattr(remote_shards, "WINDOW_BYTES", 4e9)
    fingerprint = json.loads((whole / "recipe.json").read_text())["fingerprint"]
    assert open_source(many).fingerprint() != fingerprint  # another order is another run


@pytest.mark.slow
def test_two_streaming_processes_equal_one(
    site: Site, many: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    limit(monkeypatch, site, 6.5)
    recipe = toy.mae(epochs=2, warmup_epochs=1, global_batch_size=8, **SGD)
    training.run(recipe, toy.runtime(tmp_path / "one", data=many))
    evict()
    (tmp_path / "recipe.json").write_text(recipe.model_dump_json())
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\nfrom mae_lite.cli import main\nfrom mae_lite.data import remote_shards\n"
        f"remote_shards.WINDOW_BYTES = {remote_shards.WINDOW_BYTES}\nsys.exit(main())\n"
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launcher = ["torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1", f"--master-port={port}"]
    job = [str(program), "pretrain", str(tmp_path / "recipe.json"), "--data", many, "--out", str(tmp_path / "two")]
    flags = ["--workers", "1", "--log-every-steps", "2", "--tensorboard", "false", "--accelerator", "cpu"]
    done = subprocess.run(
        [sys.executable, "-m", *launcher, *job, *flags],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
