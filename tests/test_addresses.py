"""Which addresses are read, where redirects may lead, and that no secret of one is kept or told anywhere."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mae_lite import addresses, terminal
from mae_lite.data import fetch, fetch_rules
from mae_lite.data.opening import open_source
from mae_lite.errors import ConfigError, DataError, MaeLiteError
from tests.site import Site
from tests.test_data_shards import numbered, picture, read, shard

SECRET = "5ecr3t"


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Site]:
    """Provide a server on this machine with one shard, "/x.tar"."""
    monkeypatch.setattr(fetch, "PAUSES_SECONDS", (0.01,))
    server = Site()
    server.content["/x.tar"] = shard(tmp_path / "x.tar", numbered(0, 1)).read_bytes()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


# What is told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("https://u:5ecr3t@h/x.tar", "https://***@h/x.tar"),
        ("shards:https://5ecr3t@h:8/x-{0..1}.tar?a=1&sig=5ecr3t#5ecr3t", "shards:https://***@h:8/x-{0..1}.tar?***"),
        ("s3://key:5ecr3t@bucket/x", "s3://***@bucket/x"),
        ("HTTPS://u:5ecr3t@H/x", "HTTPS://***@H/x"),
        ("https:/u:5ecr3t@h/x", "https:/***@h/x"),
        ("https://u:5e/cr3t?#@h/x", "https://***@h/x"),
        ("https://u:5e'cr3t@h/x?k='5ecr3t", "https://***@h/x?***"),
        ("see 'https://h/x?s=5ecr3t': no", "see 'https://h/x?***': no"),
        ("('https://h/x?5ecr3t', 'y')", "('https://h/x?***', 'y')"),
        ("ftp://u:5ecr3t@h, https://u:5ecr3t@i", "ftp://***@h, https://***@i"),
        ("https://h:8000/a@b/{0..9}.tar", "https://h:8000/a@b/{0..9}.tar"),
        ("https://[::1]:80/x", "https://[::1]:80/x"),
        ("folder:/photos/a?b#c@d", "folder:/photos/a?b#c@d"),
        ("C:/photos?x", "C:/photos?x"),
        ("mail me@h?", "mail me@h?"),
    ],
)
def test_secrets_are_hidden_and_nothing_else(text: str, told: str) -> None:
    assert addresses.hidden(text) == told == addresses.hidden(told)
    assert addresses.hidden_in({"a": [text, {"b": (text,)}], "c": 1}) == {"a": [told, {"b": [told]}], "c": 1}


# Which are read


@pytest.mark.parametrize(
    ("address", "scheme"),
    [
        ("pipe:curl -H 'Authorization: 5ecr3t' h", "pipe:"),
        ("shards:pipe:cat 5ecr3t", "pipe:"),
        ("file:///etc/5ecr3t", "file:"),
        ("shards:file:///etc/5ecr3t.tar", "file:"),
        ("csv:FILE:5ecr3t.csv", "file:"),
        ("env:5ecr3t", "env:"),
        ("folder:env:5ecr3t", "env:"),
        ("ftp://u:5ecr3t@h/x.tar", "ftp:"),
        ("shards:hdfs://5ecr3t/x.tar", "hdfs:"),
        ("parquet:git+ssh://5ecr3t/x", "git+ssh:"),
        ("a+b://5ecr3t", "a+b:"),
        ("data:text/csv,5ecr3t", "data:"),
    ],
)
def test_what_is_no_way_to_data_is_refused(address: str, scheme: str) -> None:
    with pytest.raises(ConfigError, match="commands are not run") as caught:
        open_source(address)
    assert f"begins with {scheme}," in str(caught.value) and "5ecr3t" not in str(caught.value)


def test_a_file_with_such_a_name_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shard(tmp_path / "pipe:x.tar", numbered(0, 1))
    assert read(open_source("shards:pipe:x.tar")) == [picture(0), picture(1)]


def test_a_bare_url_is_told_its_kind() -> None:
    with pytest.raises(ConfigError, match=r"Fix: --data shards:https://h/x\.tar"):
        open_source("https://h/x.tar")


@pytest.mark.parametrize("host", ["example.org", "10.0.0.1", "127.0.0.1.example.org", "localhost@example.org"])
def test_plain_http_is_for_this_machine(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="plain http") as caught:
        open_source(f"shards:http://{host}/x.tar")
    assert fetch_rules.ALLOW_HTTP in caught.value.fix
    monkeypatch.setenv(fetch_rules.ALLOW_HTTP, "1")
    fetch_rules.check(f"http://{host}/x.tar")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.8.9.1", "[::1]"])
def test_this_machine_needs_no_certificate(host: str) -> None:
    fetch_rules.check(f"http://{host}:80/x.tar")


@pytest.mark.parametrize("address", ["https://***@h/x.tar", "s3://b/x.tar?***"])
def test_an_address_from_a_record_has_to_be_given_again(address: str) -> None:
    with pytest.raises(ConfigError, match="give the whole address again"):
        open_source(f"shards:{address}")


# Redirects


def test_a_redirect_within_the_host_is_followed(site: Site) -> None:
    site.redirects["/y.tar"] = "/x.tar"
    assert read(open_source(f"shards:{site.url}/y.tar")) == [picture(0), picture(1)]


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("http://localhost:{port}/x.tar?k=5ecr3t", "the private address"),
        ("http://169.254.169.254/latest", "the private address 169.254.169.254"),
        ("https://10.1.2.3/x.tar", "the private address 10.1.2.3"),
        ("https://[::ffff:192.168.0.1]/x.tar", "the private address ::ffff:192.168.0.1"),
        ("http://8.8.8.8/x.tar", "plain http"),
        ("file:///etc/passwd", "to file:"),
        ("ftp://8.8.8.8/x.tar", "to ftp:"),
    ],
)
def test_redirects_that_lead_astray_are_refused(site: Site, where: str, reason: str) -> None:
    site.redirects["/y.tar"] = where.format(port=site.server_port)
    for ask in (lambda: open_source(f"shards:{site.url}/y.tar"), lambda: fetch.small(f"{site.url}/y.tar", 100)):
        with pytest.raises(DataError, match="redirects") as caught:
            ask()
        assert reason in str(caught.value) and "5ecr3t" not in str(caught.value)
    assert site.gets == []


def test_a_file_that_turns_into_a_redirect_is_not_copied(site: Site, tmp_path: Path) -> None:
    (remote,) = fetch.look([f"{site.url}/x.tar"])
    site.redirects["/x.tar"] = f"http://localhost:{site.server_port}/z.tar"
    with pytest.raises(DataError, match="redirects"):
        fetch.copy(remote, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize(
    ("source", "target", "fine"),
    [
        ("https://8.8.8.8/a", "http://8.8.8.8/a", False),
        ("https://8.8.8.8/a", "https://8.8.4.4/a", True),
        ("https://8.8.8.8/a", "https://127.0.0.1/a", False),
        ("https://10.0.0.1/a", "https://10.0.0.1/b", True),
        ("https://10.0.0.1/a", "https://10.0.0.2/b", False),
    ],
)
def test_rules_of_redirects(source: str, target: str, fine: bool) -> None:
    try:
        asyncio.run(fetch_rules.check_redirect(source, target))
    except MaeLiteError:
        assert not fine
    else:
        assert fine


def test_json_stays_json(capsys: pytest.CaptureFixture[str]) -> None:
    """What is hidden in it must not take a quotation mark's escape along."""
    terminal.answer({"class": 'of "https://host/list?token=1"', "line": "a\nb\x1b"}, "", as_json=True)
    printed = capsys.readouterr().out
    assert json.loads(printed) == {"class": 'of "https://host/list?***"', "line": "a\nb\x1b"}
    assert "\x1b" not in printed and "token" not in printed
