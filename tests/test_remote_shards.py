"""Tar shards behind URLs: copied whole, tried again where that helps, and noticed when they change."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mae_lite.data import fetch
from mae_lite.data.opening import open_source
from mae_lite.data.shards import Shards
from mae_lite.errors import DataError
from tests.test_data_shards import numbered, picture, read, shard


class Site(ThreadingHTTPServer):
    """Files by path, and what goes wrong with the next answers."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content: dict[str, bytes] = {}
        self.faults: list[str] = []
        self.gets: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """Answers from the site's content."""

    server: Site

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self.answer(False)

    def do_GET(self) -> None:
        self.server.gets.append(self.path)
        self.answer(True)

    def answer(self, body: bool) -> None:
        data = self.server.content.get(self.path)
        fault = self.server.faults.pop(0) if body and data is not None and self.server.faults else ""
        self.send_response(404 if data is None else 500 if fault == "500" else 200)
        sent = b"" if data is None or fault == "500" else data
        self.send_header("Content-Length", str(len(sent)))
        self.send_header("ETag", str(hash(data)))
        self.end_headers()
        if body:
            self.wfile.write(sent[:700] if fault in ("cut", "stall") else sent)
            self.wfile.flush()
        if fault == "stall":
            time.sleep(1.5)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Provide two shards on a local server."""
    monkeypatch.setattr(fetch, "PAUSES_SECONDS", (0.01, 0.02))
    monkeypatch.setattr(fetch, "STALL_SECONDS", 0.4)
    server = Site()
    for number in range(2):
        server.content[f"/x-{number}.tar"] = shard(
            tmp_path / f"{number}.tar", numbered(number, 1, start=2 * number)
        ).read_bytes()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_shards_are_fetched_once_and_anew_when_changed(site: Site, tmp_path: Path) -> None:
    spec = f"shards:{site.url}/x-{{0..1}}.tar"
    source = open_source(spec)
    assert read(source) == [picture(number) for number in range(4)] and source.labels.tolist() == [0, 1, 1, 1]
    assert source.name == spec and site.gets == ["/x-0.tar", "/x-1.tar"]
    assert open_source(spec).fingerprint() == source.fingerprint() and len(site.gets) == 2
    site.content["/x-1.tar"] = shard(tmp_path / "new.tar", numbered(7, start=9)).read_bytes()
    assert read(open_source(spec)) == [picture(0), picture(1), picture(9)] and len(site.gets) == 3


@pytest.mark.parametrize("fault", ["500", "cut", "stall"])
def test_passing_faults_are_tried_again(site: Site, fault: str) -> None:
    site.faults = [fault]
    assert read(Shards(f"{site.url}/x-0.tar")) == [picture(0), picture(1)]
    assert len(site.gets) == 2


@pytest.mark.parametrize(("fault", "found"), [("500", "status 500"), ("cut", ""), ("stall", "0.4 s")])
def test_lasting_faults_are_an_error(site: Site, tmp_path: Path, fault: str, found: str) -> None:
    site.faults = [fault] * 9
    with pytest.raises(DataError, match=found) as caught:
        Shards(f"{site.url}/x-0.tar")
    assert "\nFix: " in str(caught.value) and "/x-0.tar" in str(caught.value)
    assert len(site.gets) == 3 and not list(tmp_path.rglob(".tmp-*"))


def test_a_missing_shard_is_not_tried_again(site: Site) -> None:
    with pytest.raises(DataError, match="status 404"):
        Shards(f"{site.url}/y.tar")
    assert len(site.gets) <= 1
