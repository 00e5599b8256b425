"""Checkpoints of strangers that try to run code, take all memory or pass for something else. None does."""

from __future__ import annotations

import builtins
import contextlib
import functools
import importlib
import io
import operator
import os
import pickle
import resource
import runpy
import subprocess
import sys
import tarfile
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mae_lite import cli
from mae_lite.errors import CheckpointError
from mae_lite.models import weights
from tests.figures_of import tally
from tests.test_errors import assert_contract

CANARY = "canary"


class Payload:
    """Runs a call where it is unpickled."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call, self.arguments


class ByState:
    """Runs code when its state is set."""

    def __reduce__(self) -> tuple[Any, ...]:
        return object, (), {"x": Payload(os.mkdir, CANARY)}


class ByItems:
    """Runs code among the items of a dictionary."""

    def __reduce__(self) -> tuple[Any, ...]:
        return OrderedDict, (), None, None, iter([("x", Payload(os.mkdir, CANARY))])


TOUCH = f"open({CANARY!r}, 'w').close()"
PAYLOADS: dict[str, Any] = {
    "os.system": Payload(os.system, f"touch {CANARY}"),
    "os.mkdir": Payload(os.mkdir, CANARY),
    "os.popen": Payload(os.popen, f"touch {CANARY}"),
    "os.execvp": Payload(os.execvp, "touch", ["touch", CANARY]),
    "subprocess.call": Payload(subprocess.call, ["touch", CANARY]),
    "subprocess.Popen": Payload(subprocess.Popen, ["touch", CANARY]),
    "eval": Payload(eval, TOUCH),
    "exec": Payload(exec, TOUCH),
    "compile": Payload(exec, Payload(compile, TOUCH, "x", "exec")),
    "open": Payload(builtins.open, CANARY, "w"),
    "io.open": Payload(io.open, CANARY, "w"),
    "import": Payload(__import__, "sings"),
    "import_module": Payload(importlib.import_module, "sings"),
    "getattr": Payload(eval, f"getattr(__import__('os'), 'mkdir')({CANARY!r})"),
    "partial": Payload(functools.partial(os.mkdir, CANARY)),
    "methodcaller": Payload(operator.methodcaller("touch"), Path(CANARY)),
    "map": Payload(list, Payload(map, os.mkdir, [CANARY])),
    "path": Payload(Path.touch, Path(CANARY)),
    "tarfile": Payload(tarfile.open, CANARY, "w"),
    "zipfile": Payload(zipfile.ZipFile, CANARY, "w"),
    "numpy.savetxt": Payload(np.savetxt, CANARY, [1]),
    "numpy.memmap": Payload(np.memmap, CANARY, "u1", "w+", 0, 1),
    "torch.save": Payload(torch.save, {}, CANARY),
    "runpy": Payload(runpy.run_path, "sings.py"),
    "pickle.loads": Payload(pickle.loads, pickle.dumps(Payload(os.mkdir, CANARY))),
    "nested list": [[[Payload(os.mkdir, CANARY)]]],
    "key": {("a", 1): Payload(os.mkdir, CANARY)},
    "by state": ByState(),
    "by items": ByItems(),
    "twice": [Payload(os.mkdir, CANARY), Payload(os.mkdir, CANARY)],
}


def in_zip(payload: Any) -> None:
    torch.save({"model": {"x": torch.zeros(1)}, "payload": payload}, "w.pth")


def as_model(payload: Any) -> None:
    torch.save({"model": payload}, "w.pth")


def in_old_format(payload: Any) -> None:
    torch.save({"model": payload}, "w.pth", _use_new_zipfile_serialization=False)


def with_zip_at_the_end(payload: Any) -> None:
    """Write the old format, with a zip behind it that passes every checksum."""
    in_old_format(payload)
    with zipfile.ZipFile("w.pth", "a") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))


def bare(payload: Any) -> None:
    Path("w.pth").write_bytes(pickle.dumps({"model": payload}))


FORMATS = (in_zip, as_model, in_old_format, with_zip_at_the_end, bare)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def carelessly(form: Callable[[Any], None]) -> None:
    """Load ``w.pth`` as one must not."""
    if form is bare:
        pickle.loads(Path("w.pth").read_bytes())
    else:
        torch.load("w.pth", weights_only=False)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", PAYLOADS)
def test_every_canary_would_sing(name: str, form: Callable[[Any], None]) -> None:
    """Each file of the next test, loaded without a guard, does leave something behind."""
    form(PAYLOADS[name])
    Path("sings.py").write_text(TOUCH)
    careless = os.fork()
    if not careless:
        sys.path.insert(0, os.getcwd())
        with contextlib.suppress(BaseException):  # what a payload returns need not be what a checkpoint holds
            carelessly(form)
        os._exit(0)
    os.waitpid(careless, 0)
    for _ in range(200):  # a command that it started may take its time
        if Path(CANARY).exists():
            return
        time.sleep(0.05)
    pytest.fail("nothing would be seen")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", PAYLOADS)
def test_no_code_of_a_checkpoint_runs(name: str, form: Callable[[Any], None]) -> None:
    form(PAYLOADS[name])
    Path("sings.py").write_text(TOUCH)
    before = sorted(os.listdir())
    with pytest.raises(CheckpointError) as error:
        weights.read_file(Path("w.pth"))
    assert sorted(os.listdir()) == before == ["sings.py", "w.pth"]
    tally("malicious")
    words = str(error.value)
    assert "Fix:" in words and "weights_only" not in words and "w.pth" in words


def test_the_global_is_named() -> None:
    in_zip(PAYLOADS["os.system"])
    with pytest.raises(CheckpointError, match=r"found code: posix\.system"):
        weights.read_file(Path("w.pth"))


def test_an_environment_that_asks_for_trust_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    in_zip(PAYLOADS["os.mkdir"])
    with pytest.raises(CheckpointError):
        weights.read_file(Path("w.pth"))
    assert not Path(CANARY).exists()


def bomb() -> None:
    torch.save({"model": {"x": torch.zeros(3)}}, "plain.pth")
    with zipfile.ZipFile("plain.pth") as plain, zipfile.ZipFile("w.pth", "w", zipfile.ZIP_DEFLATED) as packed:
        for member in plain.infolist():
            packed.writestr(member.filename, plain.read(member))
        with packed.open("archive/data/9", "w", force_zip64=True) as large:
            for _ in range(512):
                large.write(b"\0" * 2**20)


def expanded() -> None:
    torch.save({"model": {"x": torch.zeros(1).expand(2**20, 2**20)}}, "w.pth")


def sparse() -> None:
    torch.save({"model": {"x": torch.sparse_coo_tensor(torch.zeros(2, 1), torch.ones(1), (2**30, 2**30))}}, "w.pth")


def meta() -> None:
    torch.save({"model": {"x": torch.empty(2**20, 2**20, device="meta")}}, "w.pth")


def lying_safetensors() -> None:
    header = b'{"x":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'
    Path("w.pth").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 16)


def long_header() -> None:
    Path("w.pth").write_bytes((2**40).to_bytes(8, "little") + b'{"x"')


@pytest.mark.parametrize("make", [bomb, expanded, sparse, meta, lying_safetensors, long_header])
def test_no_checkpoint_takes_all_memory(make: Callable[[], None]) -> None:
    make()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError):
        weights.read_file(Path("w.pth"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB; the bomb would take 512 MiB


def tar() -> None:
    with tarfile.open("w.pth", "w") as archive:
        archive.addfile(tarfile.TarInfo("model.pth"))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (tar, "a tar archive"),
        (lambda: Path("w.pth").write_bytes(b"\0" * 4096), "nothing but zeros"),
        (lambda: Path("w.pth").write_bytes(b"\xff\xd8\xff\xe0" + b"x" * 400), "a JPEG image"),
        (lambda: Path("w.pth").write_bytes(b"\x89PNG\r\n\x1a\n" + b"x" * 400), "a PNG image"),
        (lambda: Path("w.pth").write_bytes(b"PK\x03\x04" + b"x" * 400), "an incomplete or damaged zip archive"),
    ],
)
def test_what_looks_like_something_else_is_called_so(
    make: Callable[[], object], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make()
    code = cli.main(["convert", "w.pth", "out"])
    message = assert_contract(capsys.readouterr().err, code, CheckpointError.exit_code, mentions=["w.pth"])
    assert said in message


def test_every_flipped_bit_of_a_small_checkpoint_is_noticed_or_harmless() -> None:
    """torch.load takes nearly all of them silently; here a flip is refused, or changes no value."""
    original = {"norm.weight": torch.arange(4.0), "cls_token": torch.ones(1, 1, 4)}
    torch.save({"model": original}, "good.pth")
    data, silent = Path("good.pth").read_bytes(), 0
    places = np.random.default_rng(0).choice(8 * len(data), size=1500, replace=False)
    for place in places:
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << (place % 8)
        Path("w.pth").write_bytes(flipped)
        try:
            found = weights.read_file(Path("w.pth"))
        except CheckpointError:
            continue
        same = found.keys() == original.keys() and all(torch.equal(found[key], original[key]) for key in original)
        silent += not same
    tally("corrupted", len(places), silent)
    assert silent == 0
