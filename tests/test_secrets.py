"""Secrets of addresses through whole commands; and names of folders that are awkward, or would give orders."""

from __future__ import annotations

import json
import os
import sys
import threading
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

from mae_lite import cli, files
from mae_lite.data import fetch
from tests import toy
from tests.site import Site
from tests.test_data_shards import numbered, shard

TOKENS = ("u5er", "pa55word", "51gnature", "fre5her", "fr4gment")
Captured = pytest.CaptureFixture[str]
QUIET = ["--workers", "0", "--accelerator", "cpu", "--progress", "no"]
STEPS = ["--tensorboard", "no", "--log-every-steps", "2", "--save-every-steps", "2"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder, with a disk that need not flush; variables of the environment hold secrets too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(files, "disk", files.Disk())
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setenv("HF_TOKEN", "pa55word")
    Path("toy.json").write_text(toy.mae(epochs=6, warmup_epochs=1, global_batch_size=8).model_dump_json())


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Site]:
    """Provide a server with two shards of 8 images, for those who know a signature."""
    monkeypatch.setattr(fetch, "PAUSES_SECONDS", (0.01,))
    server = Site()
    for number in range(2):
        data = shard(tmp_path / "shards" / f"x-{number}.tar", numbered(*[0, 1] * 4, start=8 * number)).read_bytes()
        for signature in TOKENS[2:4]:
            server.content[f"/x-{number}.tar?sig={signature}"] = data
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def secret(site: Site, signature: str = "51gnature") -> str:
    return f"shards:{site.url.replace('://', '://u5er:pa55word@')}/x-{{0..1}}.tar?sig={signature}"


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Run a command as the shell would, which also leaves its words in ``sys.argv``."""
    monkeypatch.setattr(sys, "argv", ["mae-lite", *words])
    return cli.main()


def assert_clean(captured: Captured, *folders: str) -> str:
    """Check that no token is in the output, or in any file or name below ``folders``; return the output."""
    output = captured.readouterr()
    told = {"output": (output.out + output.err).encode()}
    told |= {str(path): path.read_bytes() for folder in folders for path in Path(folder).rglob("*") if path.is_file()}
    assert not [place for place in told if any(token in place for token in TOKENS)]
    found = [(place, token) for place, text in told.items() for token in TOKENS if token.encode() in text]
    assert found == []
    return output.out + output.err


def test_a_run_keeps_no_secret_and_goes_on_with_another_one(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    job = ["pretrain", "toy.json", "--out", "run", *QUIET, *STEPS]
    assert run(monkeypatch, *job, "--data", secret(site), "--stop-after-steps", "2") == 0
    assert run(monkeypatch, *job, f"--data={secret(site, 'fre5her')}") == 0  # a signature that was made anew
    starts = json.loads(Path("run/provenance.json").read_text())["starts"]
    assert [start["resumed_at"] for start in starts] == [0, 2]
    assert "***@127.0.0.1" in starts[1]["command"][-1] and "x-{0..1}.tar?***" in starts[1]["data"]
    assert run(monkeypatch, "report", "run", "--out", "run/page.html") == 0
    page = Path("run/page.html").read_text()
    assert "***@127.0.0.1" in page and "put them in again" in page
    assert "finished at step 12" in assert_clean(capsys, "run")
    record = json.loads(Path("run/recipe.json").read_text())
    assert run(monkeypatch, *job, "--data", record["data"]) == 2  # what is recorded leads nowhere
    assert "give the whole address again" in assert_clean(capsys, "run")


@pytest.mark.parametrize("command", ["check", "bench", "plan"])
def test_commands_that_measure_tell_no_secret(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: Captured, command: str
) -> None:
    if command == "check":
        words = ["check", secret(site), "--out", "checked"]
    else:
        words = [command, "toy.json", "--data", secret(site), "--seconds", "0.05", *QUIET]
    for extra in ([], ["--json"]):
        assert run(monkeypatch, *words, *extra) == 0
    assert "x-{0..1}.tar" in assert_clean(capsys, "checked") or command != "check"


@pytest.mark.parametrize("field", ["data", "val-data", "init", "teacher", "out"])
@pytest.mark.parametrize(
    "address",
    [
        "https://u5er:pa55word@127.0.0.1:9/x.pth?sig=51gnature#fr4gment",
        "shards:https://u5er:pa55word@127.0.0.1:9/x.tar?sig=51gnature",
        "s3://u5er:pa55word@bucket/x?51gnature",
        "ftp://u5er:pa55word@host/x?51gnature",
        "pipe:curl -u u5er:pa55word h",
        "http://u5er:pa55word@example.org/x.tar?51gnature",
    ],
)
def test_errors_of_every_field_tell_no_secret(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, field: str, address: str
) -> None:
    monkeypatch.setattr(fetch, "PAUSES_SECONDS", ())
    start = {"init": "pretrained"}.get(field, "random")
    Path("fine.json").write_text(toy.classifier(start=start).model_dump_json())
    Path("distil.json").write_text(toy.distilled().model_dump_json())
    words = {"data": "digits", "out": "run"} | {field: address}
    flags = [word for name, value in words.items() for word in (f"--{name}", value)]
    job = ["pretrain", "distil.json"] if field == "teacher" else ["finetune", "fine.json"]
    code = run(monkeypatch, *job, *flags, *QUIET, *STEPS)
    if field == "out" and address.startswith("pipe"):
        assert code == 0  # a folder of this name, which its user has chosen
        return
    assert code in (2, 3, 4, 5)
    written = [path for path in Path().iterdir() if path.is_dir()]
    output = assert_clean_but_pipes(capsys, address, *map(str, written))
    assert "Fix: " in output and "Traceback" not in output


def assert_clean_but_pipes(captured: Captured, address: str, *folders: str) -> str:
    """Check all but what a command after "pipe:" says, where it is taken for the name of a file."""
    if not address.startswith("pipe:"):
        return assert_clean(captured, *folders)
    output = captured.readouterr()
    return output.out + output.err


# Names

NAMES = {
    "space": "two words",
    "spaces": " around ",
    "nfc": unicodedata.normalize("NFC", "übung"),
    "nfd": unicodedata.normalize("NFD", "übung"),
    "emoji": "run 🦎",
    "joined emoji": "👩‍🔬",
    "percent": "100%d %s",
    "dash": "-run",
    "dashes": "--out",
    "newline": "line\nerror: other",
    "return": "line\rother",
    "tab": "a\tb",
    "escape": "\x1b[31mred\x1b[0m",
    "title": "\x1b]0;owned\x07",
    "bell": "a\x07",
    "backspace": "a\x08b",
    "csi": "a\x9b31m",
    "right to left": "a\u202egnp.exe",
    "zero width": "a\u200bb",
    "255 bytes": "x" * 255,
    "255 bytes of unicode": "ü" * 127 + "x",
    "quotes": 'it\'s "quoted"',
    "shell": "$(id); `id` & |",
    "html": "<script>alert(1)<" + "img src=x>",
    "braces": "{0..9}[a-z]*?",
    "backslash": "a\\nb",
    "hash": "a#val",
    "colon": "folder:x",
    "not unicode": "b\udce9ta",
}


@pytest.mark.parametrize("kind", NAMES)
def test_run_folders_of_any_name(kind: str, monkeypatch: pytest.MonkeyPatch, capfd: Captured) -> None:
    """Train, resume and report; the terminal gets no orders, and no line that the program did not end."""
    name = NAMES[kind]
    Path("toy.json").write_text(toy.mae().model_dump_json())
    job = [
        "pretrain",
        "toy.json",
        "--data",
        "digits",
        f"--out={name}",
        "--workers",
        "0",
        "--accelerator",
        "cpu",
        *STEPS,
    ]
    assert run(monkeypatch, *job, "--stop-after-steps", "2") == 0
    assert run(monkeypatch, *job) == 0
    place = f"./{name}" if name.startswith("-") else name
    assert run(monkeypatch, "report", place, "--out", "page.html") == 0
    assert (Path(name) / "encoder" / "model.safetensors").is_file()
    page = Path("page.html").read_text()
    assert "<script>alert" not in page and "<img src=x" not in page
    output = capfd.readouterr()
    text = output.out + output.err
    assert all(sign.isprintable() or sign == "\n" for sign in text), ascii(text)
    lines = text.splitlines()
    assert not [line for line in lines if line.startswith(("error", "other"))]
    assert any(line.startswith("finished at step 6 of 6: ") for line in lines)
    assert run(monkeypatch, *job) == 0 and "finished at step 6 of 6" in capfd.readouterr().out  # nothing left to do
