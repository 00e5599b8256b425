"""Look for planted bugs as the tests of saving and resuming would: every check has to pass without one, one fail with.

Runs as a process of its own with one thread and torch imported, so that forking it is safe and takes no time.

    python tests/planted.py FOLDER      prints one line of JSON: what each bug was caught by, null for none
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mae_lite import files, training
from mae_lite.config import Recipe
from mae_lite.engine import checkpoint
from mae_lite.errors import ConfigError, DiskError, MaeLiteError, NumericsError
from mae_lite.methods.supervised import SupervisedClassifier
from mae_lite.rundir import checkpoints, read_rows
from tests import planting, toy
from tests.faulty_disk import KILL, FaultyDisk, at, healthy
from tests.once import read_once

SAVES, ROWS = 2, 3
"""Updates between two checkpoints, and between two rows: not the same, so that sums are carried over."""


def recipe(**changes: Any) -> Recipe:
    """Return a classifier with all that a checkpoint can hold: an average, a best one, drop path."""
    encoder = {"depth": 2, "drop_path": 0.5}
    return toy.classifier(encoder=encoder, ema_decay=0.9, validation_fraction=0.5, epochs=10, **changes)


def train(folder: Path, **changes: Any) -> training.Outcome:
    """Carry out the run, or continue it."""
    often = {"save_every_steps": SAVES, "log_every_steps": ROWS, "validate_every_epochs": 3}
    return training.run(recipe(), toy.runtime(folder, **{**often, **changes}))


def remains(folder: Path) -> dict[str, Any]:
    """Return what two runs must agree on."""
    step, newest = checkpoints(folder)[0]
    tensors = {name: files.sha256(data) for name, data in files.read_folder(newest).items()}
    rows = [{k: v for k, v in row.items() if k not in toy.TIMES} for row in read_rows(folder)]
    return {"step": step, "kept": [one for one, _ in checkpoints(folder)], "tensors": tensors, "rows": rows}


def killed(folder: Path, tick: int) -> int:
    """Fork, train, die at an operation of the disk; return the wait status."""
    process = os.fork()
    if process:
        return os.waitpid(process, 0)[1]
    try:
        files.disk = FaultyDisk(at(tick, KILL), torn=True)
        train(folder)
        os._exit(0)
    except BaseException:  # the status is all that the parent sees
        os._exit(1)


class Checks:
    """What is looked at; each raises AssertionError, or whatever a bug raises."""

    def __init__(self, folder: Path, reference: dict[str, Any]) -> None:
        self._folder, self._reference = folder, reference
        files.make_folder(folder)

    def faults(self) -> None:
        """Check that a write or a publication that fails leaves the old or the new, and nothing else."""
        folder = self._folder / "faults"
        files.make_folder(folder)
        for position in range(1, 12):
            for torn in (False, True):
                files.disk = FaultyDisk(healthy)
                files.write_json(folder / "a.json", 1)
                files.publish_folder(folder / "b", {"x": b"old"})
                files.disk = FaultyDisk(at(position, errno.ENOSPC, always=True), torn=torn)
                with contextlib.suppress(DiskError):
                    files.write_json(folder / "a.json", 2)
                files.disk = FaultyDisk(at(position, errno.ENOSPC, always=True), torn=torn)
                with contextlib.suppress(DiskError):
                    files.publish_folder(folder / "b", {"x": b"new"})
                files.disk = files.Disk()
                files.sweep(folder)
                assert json.loads((folder / "a.json").read_text()) in (1, 2)
                assert files.read_folder(folder / "b")["x"] in (b"old", b"new")

    def stepping_aside(self) -> None:
        """Check that a kill between the two renames of a replacement loses nothing."""
        folder = self._folder / "aside"
        files.make_folder(folder)
        files.publish_folder(folder / "b", {"x": b"old"})
        os.rename(folder / "b", folder / f"{files.TEMPORARY}old-b")
        files.sweep(folder)
        assert files.read_folder(folder / "b")["x"] == b"old"

    def retention(self) -> None:
        """Check that the last two checkpoints and the best stay."""
        for step in (2, 4, 6, 8):
            files.make_folder(self._folder / "checkpoints")
            files.publish_folder(self._folder / "checkpoints" / f"step_{step}", {"x": b""})
        checkpoint._prune(self._folder, checkpoint.Progress(step=8, best_step=2))
        assert [step for step, _ in checkpoints(self._folder)] == [8, 6, 2]

    def flushing(self) -> None:
        """Check that every file is flushed before it is renamed."""
        flushed, renamed = [], []
        sync, replace = os.fsync, os.replace

        def note(descriptor: int) -> None:
            flushed.append(os.readlink(f"/proc/self/fd/{descriptor}"))
            sync(descriptor)

        def check(source: Path, target: Path) -> None:
            renamed.append(str(source) in flushed)
            replace(source, target)

        os.fsync, os.replace = note, check  # type: ignore[assignment]
        try:
            files.write_json(self._folder / "flushed.json", 1)
        finally:
            os.fsync, os.replace = sync, replace
        assert renamed == [True]

    def refusals(self) -> None:
        """Check what is refused: NaN, a full disk, a second run in the folder, another run in it, a lying disk."""
        folder = self._folder / "refused"
        train(folder, stop_after_steps=2)
        self._refused(NumericsError, lambda: self._poisoned(folder))
        assert (folder / "failed" / "step_2").is_dir()  # before the update, not when its weights were to be saved
        full = FaultyDisk(lambda _, name, path: errno.ENOSPC * (name == "write" and "step_" in str(path)))
        self._refused(DiskError, lambda: train(folder), disk=full)
        self._refused(DiskError, lambda: train(folder), disk=_Lying())
        self._refused(ConfigError, lambda: training.run(recipe(lr_per_256=0.1), toy.runtime(folder)))
        reading, writing = os.pipe()
        holder = os.fork()
        if not holder:
            files.Lock(folder / "run.lock", "the holder")
            os.write(writing, b"x")
            signal.pause()
        os.read(reading, 1)
        try:
            self._refused(DiskError, lambda: train(folder, stop_after_steps=3))
        finally:
            os.kill(holder, signal.SIGKILL)
            os.waitpid(holder, 0)

    @staticmethod
    def _refused(kind: type[MaeLiteError], act: Callable[[], object], disk: files.Disk | None = None) -> None:
        files.disk = disk or files.Disk()
        try:
            act()
        except kind:
            return
        finally:
            files.disk = files.Disk()
        raise AssertionError(f"no {kind.__name__}")

    @staticmethod
    def _poisoned(folder: Path) -> None:
        plain = SupervisedClassifier.forward

        def poisoned(self: Any, *arguments: Any) -> Any:
            output = plain(self, *arguments)
            return output._replace(loss=output.loss * float("nan"))

        SupervisedClassifier.forward = poisoned  # type: ignore[method-assign, assignment]
        try:
            train(folder)
        finally:
            SupervisedClassifier.forward = plain  # type: ignore[method-assign]

    def signals(self) -> None:
        """Check that a signal ends the run after its update, with a checkpoint."""
        folder, follow = self._folder / "signal", SupervisedClassifier.after_step

        def ask(method: Any, step: int, total: int) -> None:
            follow(method, step, total)
            if step == 3:
                os.kill(os.getpid(), signal.SIGTERM)

        SupervisedClassifier.after_step = ask  # type: ignore[method-assign, assignment]
        try:
            outcome = train(folder)
        finally:
            SupervisedClassifier.after_step = follow  # type: ignore[method-assign]
        assert (outcome.state, outcome.step, checkpoints(folder)[0][0]) == ("stopped", 3, 3)

    def torn_row(self) -> None:
        """Check that half a row at the end of the rows is left out."""
        folder = self._folder / "torn"
        train(folder, stop_after_steps=6)
        with (folder / "metrics.jsonl").open("a") as rows:
            rows.write('{"step": 7, "lo')
        train(folder)
        assert {**remains(folder), "kept": 0} == {**self._reference, "kept": 0}

    def damage(self) -> None:
        """Check that a damaged checkpoint is noticed, and the one before it taken."""
        folder = self._folder / "damaged"
        train(folder, stop_after_steps=6)
        step, newest = checkpoints(folder)[0]
        weights = newest / "model.safetensors"
        data = bytearray(weights.read_bytes())
        data[-5] ^= 1
        weights.write_bytes(data)
        found = checkpoint.newest(folder)
        assert found is not None and found[0] < step
        train(folder)
        assert {**remains(folder), "kept": 0} == {**self._reference, "kept": 0}

    def same_as_ever(self) -> None:
        """Check that an uninterrupted run ends as it always did."""
        train(self._folder / "whole")
        assert remains(self._folder / "whole") == self._reference

    def pause_and_resume(self) -> None:
        """Check that a run in three parts ends as one in one part, and repeats nothing."""
        folder, updates = self._folder / "parts", 0
        follow = SupervisedClassifier.after_step

        def count(method: Any, step: int, total: int) -> None:
            nonlocal updates
            updates += 1
            follow(method, step, total)

        SupervisedClassifier.after_step = count  # type: ignore[method-assign, assignment]
        try:
            for stop in (3, 7, None):
                train(folder, stop_after_steps=stop)
        finally:
            SupervisedClassifier.after_step = follow  # type: ignore[method-assign]
        # a part's end is a checkpoint of its own, so that others are kept
        assert {**remains(folder), "kept": 0} == {**self._reference, "kept": 0}
        assert updates == self._reference["step"], f"{updates} updates in all"

    def kills(self) -> None:
        """Check that a run that was killed goes on, from a checkpoint at most a few updates back."""
        for tick in (5, 12, 19, 26, 40):
            folder = self._folder / f"kill-{tick}"
            assert killed(folder, tick) == signal.SIGKILL
            before = [step for step, _ in checkpoints(folder)]
            train(folder)
            assert remains(folder) == self._reference, f"tick {tick}"
            assert not list(folder.rglob(f"{files.TEMPORARY}*")), "leftovers"
            assert before or tick < 30, f"tick {tick}: no checkpoint was there"


class _Lying(files.Disk):
    """A disk that writes other bytes than it was given, and says nothing."""

    def write(self, path: Path, data: bytes) -> None:
        super().write(path, data[:-1] + bytes([data[-1] ^ 1]) if path.name == "model.safetensors" else data)


NAMES = tuple(name for name in vars(Checks) if not name.startswith("_"))
"""All checks, in the order in which they are made: as they are defined, the dearest last."""


def caught_by(bug: planting.Bug | None, folder: Path, reference: dict[str, Any]) -> str | None:
    """Plant ``bug`` in a fork and return the first check that fails there; None when all pass."""
    reading, writing = os.pipe()
    process = os.fork()
    if process:
        os.close(writing)
        with os.fdopen(reading) as answer:
            said = answer.read()
        os.waitpid(process, 0)
        return said or None
    said = ""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        try:
            if bug is not None:
                planting.plant(bug)
            for name in NAMES:
                said = name
                getattr(Checks(folder / name, reference), name)()
            said = ""
        except BaseException as error:
            said = f"{said}: {type(error).__name__} {error}".splitlines()[0][:160]
    os.write(writing, said.encode())
    os._exit(0)


def main(folder: Path) -> dict[str, str | None]:
    """Return by which check each bug was caught; "" stands for no bug, which nothing must catch."""
    read_once()
    train(folder / "reference")
    reference = remains(folder / "reference")
    found = {"": caught_by(None, folder / "none", reference)}
    for number, bug in enumerate(planting.BUGS):
        found[bug.name] = caught_by(bug, folder / str(number), reference)
    return found


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
