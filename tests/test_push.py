"""Bringing models to the hub: what arrives is what was there, once; and nobody hears the token."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml  # type: ignore[import-untyped]
from huggingface_hub import constants

from mae_lite import cli, shipped
from tests.hub import Hub
from tests.test_readme import ROOT, blocks

TOKEN = "hf_" + "s3cret" * 6
MODEL, REPO = "pretrained:digits-mae-finetuned", "me/my-model"
NAMES = ["README.md", "config.json", "model.safetensors"]
Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-login"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the stand-in speaks what came before
    monkeypatch.setattr(time, "sleep", lambda _: None)  # before the library tries again


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub(TOKEN)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    server.shutdown()
    server.server_close()


def push(capsys: Captured, *words: str, code: int = 0) -> str:
    """Push, and return all that was said, in which nothing of the token stands."""
    assert cli.main(["push", *words]) == code, capsys.readouterr().err
    said = capsys.readouterr()
    text = said.out + said.err
    assert "s3cret" not in text and "Traceback" not in text
    assert code == 0 or text.count("\nFix: ") == 1
    kept = [path for path in Path().rglob("*") if path.is_file() and b"s3cret" in path.read_bytes()]
    assert kept == []
    return text


def test_what_arrives_is_what_was_there(hub: Hub, capsys: Captured, tmp_path: Path) -> None:
    said = push(capsys, MODEL, REPO, "--private", "--licence", "mit")
    assert f"pushed to {REPO}" in said and hub.private[REPO] and hub.commits == [NAMES]
    arrived = hub.repositories[REPO]
    assert sorted(set(arrived) - {".gitattributes"}) == NAMES
    folder = Path(shipped.resolved(MODEL))
    for name in NAMES[1:]:
        assert arrived[name] == (folder / name).read_bytes()
    text = arrived["README.md"].decode()
    front = yaml.safe_load(text.split("---\n")[1])
    assert (front["license"], front["library_name"]) == ("mit", "timm")
    assert f'timm.create_model("hf-hub:{REPO}", pretrained=True)' in text and "# my-model" in text
    copy = tmp_path / "copy"
    copy.mkdir()
    for name, data in arrived.items():
        (copy / name).write_bytes(data)
    images = torch.rand(2, 1, 8, 8)
    theirs: Any = timm.create_model(f"local-dir:{copy}", pretrained=True).eval()
    ours: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert torch.equal(theirs(images), ours(images))
    uploads = sum(line.startswith("PUT") for line in hub.asked)
    assert "already up to date" in push(capsys, MODEL, REPO, "--private", "--licence", "mit")
    assert len(hub.commits) == 1 and sum(line.startswith("PUT") for line in hub.asked) == uploads == 1
    hub.repositories[REPO]["notes.txt"] = b"of its owner"
    push(capsys, MODEL, REPO, "--licence", "apache-2.0")
    assert hub.commits[1:] == [["README.md"]] and hub.repositories[REPO]["notes.txt"] == b"of its owner"


def test_a_push_that_is_cut_off_is_repeated(hub: Hub, capsys: Captured) -> None:
    hub.cut.add("/commit/")
    said = push(capsys, MODEL, REPO, code=5)
    assert "cannot be pushed" in said and "run the same command again" in said
    assert list(hub.repositories[REPO]) == [".gitattributes"] and hub.commits == []
    hub.cut.add("/upload/")  # what the library repeats by itself
    assert "pushed to" in push(capsys, MODEL, REPO) and hub.commits == [NAMES]
    assert sum(line.startswith("PUT") for line in hub.asked) == 1  # the weights had arrived the first time


def test_an_export_with_its_card(hub: Hub, capsys: Captured) -> None:
    quick = ["--images", "digits", "--out", "out", "--seconds", "0", "--memory", "false", "--compare", "20"]
    assert cli.main(["export", MODEL, "--to", "timm-half", "timm", *quick]) == 0, capsys.readouterr().err
    capsys.readouterr()
    listed = push(capsys, "out", REPO, "--dry-run", "--json")
    assert [row["name"] for row in json.loads(listed)["files"]] == ["config.json", "model.safetensors", "README.md"]
    assert hub.asked == []
    push(capsys, "out", REPO)
    arrived = hub.repositories[REPO]
    assert arrived["model.safetensors"] == Path("out/timm/model.safetensors").read_bytes()
    text = arrived["README.md"].decode()
    assert "model-index" in text and f"hf-hub:{REPO}" in text and "timm-half" not in text and "local-dir" not in text
    Path("out/README.md").write_text("my own words")
    push(capsys, "out", REPO)
    assert hub.repositories[REPO]["README.md"] == b"my own words" and hub.commits[1:] == [["README.md"]]
    Path("out/timm/model.safetensors").write_bytes(b"other")
    assert "not what was exported" in push(capsys, "out", REPO, code=4)


def test_a_card_of_other_weights(hub: Hub, capsys: Captured) -> None:
    words = ["card", MODEL, "--images", "digits", "--compare", "20", "--seconds", "0", "--memory", "false"]
    assert cli.main(words) == 0, capsys.readouterr().err
    (made,) = Path().glob("*-card")
    push(capsys, MODEL, REPO)
    assert "model-index" in hub.repositories[REPO]["README.md"].decode()
    record = json.loads((made / "card.json").read_text())
    (made / "card.json").write_text(json.dumps({**record, "weights_sha256": "0" * 64}))
    assert "is of other weights" in push(capsys, MODEL, REPO, code=4)


def test_without_a_token(hub: Hub, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert "has no token" in push(capsys, MODEL, REPO, code=5) and hub.asked == []
    (Path(constants.HF_TOKEN_PATH)).write_text(TOKEN[::-1])
    assert "HTTP status 401" in push(capsys, MODEL, REPO, code=5)  # of a login, and wrong


def test_refused(hub: Hub, capsys: Captured) -> None:
    hub.may_write = False
    said = push(capsys, MODEL, REPO, code=5)
    assert "HTTP status 403" in said and "write access to me" in said
    hub.may_write = True
    hub.create(REPO, private=False)
    assert "and public" in push(capsys, MODEL, REPO, "--private", code=2) and hub.commits == []


@pytest.mark.parametrize(
    "name", ["my-model", "a/b/c", "me/my model", "me/..", "https://huggingface.co/me/x", "me/x.git"]
)
def test_no_name_of_a_repository(name: str, hub: Hub, capsys: Captured) -> None:
    assert "OWNER/NAME" in push(capsys, MODEL, name, code=2) and hub.asked == []


def test_nobody_there(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and listens to nobody
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        assert "see to the network" in push(capsys, MODEL, REPO, code=5)
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.example.com")
    assert "is plain http" in push(capsys, MODEL, REPO, code=2)


def test_no_form_that_a_repository_holds(hub: Hub, capsys: Captured) -> None:
    Path("out").mkdir()
    Path("out/export.json").write_text(json.dumps({"source": "runs/a", "forms": [{"form": "onnx", "files": {}}]}))
    assert "mae-lite export runs/a --to timm" in push(capsys, "out", REPO, code=4) and hub.asked == []


def test_the_page_runs(hub: Hub, capsys: Captured) -> None:
    lines = [line for block in blocks("bash", (ROOT / "docs" / "push.md").read_text()) for line in block.splitlines()]
    assert len(lines) == 3
    for line in lines:
        program, command, _, *rest = line.split()
        assert (program, command) == ("mae-lite", "push")
        push(capsys, MODEL, *rest)
    assert list(hub.repositories) == ["me/photos"]
