"""The run folder: what a run is, how far it is, and what it measured. No torch here.

A folder belongs to one recipe, one data set and one start; the same command finds it again and continues.
"""

from __future__ import annotations

import json
import math
import os
import re
import resource
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mae_lite import files, provenance, resuming
from mae_lite.addresses import hidden_in
from mae_lite.config import Recipe, Runtime
from mae_lite.errors import CheckpointError, ConfigError, DiskError, explained
from mae_lite.terminal import say

FORMAT = 1
_STEP = re.compile(r"step_(\d+)")


def default_folder(
    recipe: Recipe, runtime: Runtime, init_digest: str | None, teacher_digest: str | None = None
) -> Path:
    """Return ``runs/RECIPE-HASH``; the hash covers all that decides the result."""
    taught = [] if teacher_digest is None else [teacher_digest]
    text = json.dumps([recipe.digest(), *hidden_in([runtime.data, runtime.val_data]), init_digest, *taught])
    return Path("runs") / f"{recipe.name}-{files.sha256(text.encode())[:8]}"


def describe(
    recipe: Recipe,
    runtime: Runtime,
    classes: tuple[str, ...] | None,
    fingerprint: Mapping[str, Any],
    init_digest: str | None,
    teacher_digest: str | None = None,
) -> dict[str, Any]:
    """Return the contents of ``recipe.json``: everything that decides the result, without secrets of URLs.

    Args:
        recipe: the settings.
        runtime: names the data and the starting weights.
        classes: names of the labels.
        fingerprint: of the training images.
        init_digest: hash of the starting weights; None starts from random ones.
        teacher_digest: hash of the weights that teach; None where nothing does.
    """
    description: dict[str, Any] = {
        "format": FORMAT,
        "digest": recipe.digest(),
        "recipe": recipe.model_dump(mode="json"),
        "data": runtime.data,
        "val_data": runtime.val_data,
        "init": runtime.init,
        "init_sha256": init_digest,
        "teacher": runtime.teacher,
        "teacher_sha256": teacher_digest,
        "fingerprint": dict(fingerprint),
        "classes": list(classes) if classes is not None else None,
        # Grey images and those of many channels have the exact way only.
        "pixels": runtime.pixels if recipe.encoder.channels == 3 else "exact",
    }
    return {**description, **{name: hidden_in(description[name]) for name in ("data", "val_data", "init", "teacher")}}


def check_place(folder: Path) -> None:
    """Refuse a place for run folders before anything is read for one; that it can be written is seen when it is.

    Raises:
        ConfigError: when it is a URL.
        DiskError: when a file is there, or the folder to make it in cannot be written.
    """
    if re.match(r"([A-Za-z]+:)?[A-Za-z][A-Za-z0-9+.-]+:/", str(folder)):  # pathlib made one stroke of two
        raise ConfigError("out", found=repr(str(folder)), expected="a folder of this machine", fix="--out FOLDER")
    with explained(folder, "create the folder"):
        place = next(place for place in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(place))
    what, effective = f"cannot create the folder {str(folder)!r}", os.access in os.supports_effective_ids
    if not place.is_dir():
        fix = "a file is where a folder should be: choose another place with --out"
        kind = "a link that leads to no folder," if place.is_symlink() else "the file"
        raise DiskError(what, found=f"{kind} {str(place)!r}", fix=fix)
    if not os.access(place, os.W_OK | os.X_OK, effective_ids=effective):
        fix = "choose a folder you may write to, with --out FOLDER"
        raise DiskError(what, found=f"{str(place)!r}, which cannot be written", fix=fix)


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Read one of the run folder's JSON files; secrets of URLs, which earlier versions kept, stay behind.

    Raises:
        CheckpointError: when it is missing or not readable.
    """
    try:
        content = hidden_in(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        runs = sorted(str(p.parent) for p in path.parent.parent.glob("*/recipe.json"))[:5]
        near = f"; run folders nearby: {', '.join(runs)}" if runs else ""
        raise CheckpointError(
            f"{str(path.parent)!r} is not a run folder: no {path.name}{near}", fix=f"give {what}"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{str(path)!r} cannot be read", found=str(error), fix=f"give {what}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{str(path)!r} holds no JSON object", fix=f"give {what}")
    return content


def last_start(run: Path) -> dict[str, Any]:
    """Return what ``provenance.json`` says of the newest start of a run; nothing where there was none."""
    path = run / "provenance.json"
    starts = read_json(path, "a run folder").get("starts") if path.exists() else None
    return dict(starts[-1]) if starts else {}


def check_format(record: Mapping[str, Any], run: Path) -> None:
    """Refuse what a newer version wrote in ``run``; raises CheckpointError with both formats and versions."""
    if isinstance(found := record.get("format"), int) and found > FORMAT:
        raise resuming.newer(repr(str(run)), found, FORMAT, (last_start(run).get("versions") or {}).get("mae_lite"))


def checkpoints(run: Path) -> list[tuple[int, Path]]:
    """Return (step, folder) of all checkpoints of a run, the newest first, verified or not."""
    found = [(int(m[1]), p) for p in (run / "checkpoints").glob("step_*") if (m := _STEP.fullmatch(p.name))]
    return sorted(found, reverse=True)


def read_rows(run: Path) -> list[dict[str, Any]]:
    """Return the rows of ``metrics.jsonl``; a last line torn by a kill is left out."""
    try:
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    return list(_whole_rows(lines))


def _whole_rows(lines: list[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            yield json.loads(line)
        except ValueError:
            continue


def resident_peak_mb() -> float:
    """Return the most memory that this process has held so far, in megabytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)


class RunDir:
    """A run folder that this process writes to; it holds the folder's lock until :meth:`close`."""

    def __init__(
        self,
        path: Path,
        description: Mapping[str, Any],
        peak_memory_mb: Callable[[], float] = resident_peak_mb,
        override: Sequence[str] = (),
        changes_of_data: Callable[[Mapping[str, Any]], str] = lambda _: "",
    ) -> None:
        """Create the folder, or enter it again when it holds the same run.

        Args:
            path: the folder.
            description: from :func:`describe`.
            peak_memory_mb: tells the most memory held so far, for ``status.json``.
            override: settings that may differ from now on (see :mod:`mae_lite.resuming`).
            changes_of_data: says which images came and went since a fingerprint was taken.

        Raises:
            DiskError: when the folder cannot be written or a live run holds it.
            ConfigError: when it holds another run, or none whose settings could be overridden.
        """
        resuming.check_names(override)
        self.path, self.overridden = path, list[dict[str, Any]]()
        self._peak_memory_mb = peak_memory_mb
        self._gap = 0
        now = _utc()
        if not (path / "recipe.json").exists():
            if override:
                read_json(path / "recipe.json", "the folder of the run with --out, or drop --override")
            self._refuse_foreign()
        files.make_folder(path / "checkpoints")
        self._lock = files.Lock(path / "run.lock", f"pid {os.getpid()} on {socket.gethostname()}, started {now}")
        try:
            files.sweep(path)
            files.sweep(path / "checkpoints")
            files.sweep(path / "previews")
            files.sweep(path / "failed")
            started = checkpoints(path) or any((path / name).exists() for name in ("encoder", "classifier"))
            if started:
                self._check_same(description, override, changes_of_data)
            else:  # a start that failed before its first checkpoint leaves nothing to protect
                self._forget_another(description)
                files.write_json(path / "recipe.json", dict(description))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the folder."""
        self._lock.release()

    def record_start(self, **facts: Any) -> None:
        """Add this start to ``provenance.json``: code, versions, machine, command, ``facts`` and what was overridden.

        Nothing of the environment is recorded.
        """
        path = self.path / "provenance.json"
        starts = read_json(path, "a run folder")["starts"] if path.exists() else []
        entry = {"time": _utc(), **provenance.of_this_start()}
        facts |= {"overridden": self.overridden} if self.overridden else {}
        files.write_json(path, {"starts": [*starts, {**entry, **facts}]})

    def status(self, state: str, **facts: Any) -> None:
        """Write ``status.json``; ``state`` is running, stopped, paused, finished or failed.

        ``seconds`` is the time of all rows of metrics, over all starts; work that was lost and made again counts once.
        ``peak_memory_mb`` is that of the first rank's process since it began, on a GPU the memory of its tensors.
        """
        seconds = sum((row.get("seconds") or 0.0 for row in read_rows(self.path)), 0.0)
        cost = {"seconds": round(seconds, 3), "peak_memory_mb": self._peak_memory_mb()}
        about = {"updated": _utc(), "pid": os.getpid(), "host": socket.gethostname()}
        files.write_json(self.path / "status.json", {"state": state, **about, **cost, **facts})

    def log(self, row: Mapping[str, Any]) -> None:
        """Append a row to ``metrics.jsonl``; a full disk costs the row, not the run."""
        clean = {k: (None if isinstance(v, float) and not math.isfinite(v) else v) for k, v in row.items()}
        line = json.dumps(clean)
        if self._gap:  # on a new line, for half of the lost row may be there
            line = "\n" + json.dumps({**clean, "rows_lost_before": self._gap})
        try:
            files.append_line(self.path / "metrics.jsonl", line)
            self._gap = 0
        except DiskError as error:
            self._gap += 1
            if self._gap == 1:
                say(f"warning: {error.what} ({error.found}), training goes on; {error.fix}", aside=True)

    def cut(self, step: int) -> None:
        """Drop rows and previews after ``step``: a resumed run makes them again; at 0, where it starts anew, all."""
        rows = read_rows(self.path)
        kept = [json.dumps(row) for row in rows if 0 < step >= row["step"]]
        if (self.path / "metrics.jsonl").exists():
            files.write_text(self.path / "metrics.jsonl", "".join(f"{line}\n" for line in kept))
        for picture in (self.path / "previews").glob("step_*.png"):
            number = _STEP.fullmatch(picture.stem)
            if number and not 0 < step >= int(number[1]):
                files.remove(picture)

    def _refuse_foreign(self) -> None:
        ours = {"checkpoints", "run.lock"}
        there = self.path.iterdir() if self.path.is_dir() else ()
        foreign = sorted(p.name for p in there if p.name not in ours and not p.name.startswith("."))
        if foreign:
            raise DiskError(
                f"{str(self.path)!r} is not empty and not a run folder",
                found=", ".join(foreign[:5]),
                fix="choose a new folder with --out FOLDER",
            )

    def _forget_another(self, description: Mapping[str, Any]) -> None:
        """Drop the list of updates that another run left out; this one may not need to."""
        recipe = self.path / "recipe.json"
        ours = json.dumps(hidden_in(dict(description)), indent=2) + "\n"
        if recipe.exists() and recipe.read_text(encoding="utf-8", errors="replace") != ours:
            files.remove(self.path / "left_out.json")

    def _check_same(
        self,
        description: Mapping[str, Any],
        override: Sequence[str],
        changes_of_data: Callable[[Mapping[str, Any]], str],
    ) -> None:
        saved = read_json(self.path / "recipe.json", "another folder with --out")
        check_format(saved, self.path)
        saved.setdefault("pixels", "exact")  # the only way there was
        found = resuming.changes(saved, description)
        resuming.allowed(found, override, str(self.path), changes_of_data(saved.get("fingerprint") or {}))
        if found:  # in the one file that says what the run is, so that no kill can part them
            step = next((number for number, _ in checkpoints(self.path)), 0)
            self.overridden = [{"field": one.name, "saved": one.saved, "now": one.now, "step": step} for one in found]
            known = [*saved.get("overridden", []), *self.overridden]
            files.write_json(self.path / "recipe.json", {**description, "overridden": known})


def _utc() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
