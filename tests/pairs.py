"""Two ranks as two forks, met through gloo: signals, deaths and errors of one of them, and what the other does.

Runs as a process of its own with one thread and torch imported, so that forking it is safe and takes a second.

    python tests/pairs.py FOLDER SCENARIO          prints one line of JSON
    python tests/pairs.py FOLDER command WORDS     runs this command line on both ranks
    python tests/pairs.py FOLDER commands FILE     runs many, a JSON object of words by name, one after the other
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sklearn.linear_model  # noqa: F401  # the linear probe imports it: once here instead of once per fork

from mae_lite import cli, files, inputs, methods, training
from mae_lite.engine import checkpoint, loop, update
from mae_lite.errors import DataError
from mae_lite.evaluation import online, preview
from mae_lite.methods.mae import MaskedAutoencoder
from mae_lite.rundir import checkpoints, read_rows
from tests import toy
from tests.once import read_once

ORPHAN_SECONDS = 10.0
"""What a process that a pair started, such as one that reads images, may live on."""
LIMIT_SECONDS = 60.0
"""After this a rank counts as hung, and is killed."""
Hook = Callable[[int, int], None]
"""(rank, updates made) -> something that happens to this rank."""


@dataclass(frozen=True)
class Ended:
    """How a rank ended."""

    code: int | None
    """Exit code, or minus the signal; None for one that hung."""
    seconds: float
    """Since the pair began."""
    said: str
    """All that it printed."""


def nothing(rank: int, step: int) -> None:
    """Let a pair alone."""
    del rank, step


def pair(
    log: Path, words: list[str], hook: Hook = nothing, ranks: int = 2, plant: Callable[[], None] = lambda: None
) -> list[Ended]:
    """Run a command line on several ranks; return how they ended, by rank."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    files.make_folder(log)
    before, begun = in_session(), time.monotonic()
    children = [_fork(log / f"{rank}.log", words, hook, rank, ranks, port, plant) for rank in range(ranks)]
    ended: dict[int, tuple[int | None, float]] = {}
    while len(ended) < ranks and time.monotonic() - begun < LIMIT_SECONDS:
        for rank, child in enumerate(children):
            if rank not in ended and (status := os.waitpid(child, os.WNOHANG))[0]:
                ended[rank] = os.waitstatus_to_exitcode(status[1]), time.monotonic() - begun
        time.sleep(0.02)
    for rank, child in enumerate(children):
        if rank not in ended:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            ended[rank] = None, LIMIT_SECONDS
    end = time.monotonic() + ORPHAN_SECONDS
    while left := in_session() - before:
        if time.monotonic() > end:
            raise RuntimeError(f"processes outlive the pair of {log}: {left}")
        time.sleep(0.05)
    return [Ended(*ended[rank], (log / f"{rank}.log").read_text()) for rank in range(ranks)]


def begin() -> None:
    """Make this process ready for pairs: a session of its own, to which all that they start belongs."""
    with contextlib.suppress(PermissionError):  # it has one
        os.setsid()
    read_once()


def in_session() -> set[int]:
    """Return the processes of this one's session."""
    found = set()
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(ProcessLookupError):  # gone meanwhile
            if os.getsid(int(place.name)) == os.getsid(0):
                found.add(int(place.name))
    return found


def to_end(ended: list[Ended]) -> float:
    """Return the seconds from the end of the first rank to that of the last."""
    return max(one.seconds for one in ended) - min(one.seconds for one in ended)


def _fork(log: Path, words: list[str], hook: Hook, rank: int, ranks: int, port: int, plant: Callable[[], None]) -> int:
    child = os.fork()
    if child:
        return child
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "GROUP_RANK": 0}
    if ranks > 1:
        os.environ.update({name: str(number) for name, number in names.items()})
        os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "pair"})
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    follow = MaskedAutoencoder.after_step

    def after_step(method: Any, step: int, total: int) -> None:
        follow(method, step, total)
        hook(rank, step)

    MaskedAutoencoder.after_step = after_step  # type: ignore[method-assign, assignment]
    plant()
    sys.argv = ["mae-lite", *words]
    code = 98
    try:
        code = cli.main(words)
    except BaseException:  # a traceback is what the test looks for
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    atexit._run_exitfuncs()
    os._exit(code)


def words(folder: Path, **changes: Any) -> list[str]:
    """Return the command of the toy run in ``folder``."""
    recipe = folder.parent / "recipe.json"
    recipe.write_text(toy.mae().model_dump_json())
    settings = {"data": "digits", "out": folder, "workers": 0, "log_every_steps": 2, "save_every_steps": 2}
    settings |= {"tensorboard": False, "progress": False, "accelerator": "cpu", **changes}
    flags = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return ["pretrain", str(recipe), *flags]


def remains(folder: Path) -> dict[str, Any]:
    """Return what two runs must agree on."""
    step, newest = checkpoints(folder)[0]
    tensors = {name: files.sha256(data) for name, data in files.read_folder(newest).items()}
    rows = [{k: v for k, v in row.items() if k not in toy.TIMES} for row in read_rows(folder)]
    return {"step": step, "tensors": tensors, "rows": rows}


def only(rank: int, step: int, act: Callable[[], None]) -> Hook:
    """Return a hook that acts on one rank after one update."""

    def hook(here: int, made: int) -> None:
        if (here, made) == (rank, step):
            act()

    return hook


def both(step: int, act: Callable[[], None]) -> Hook:
    """Return a hook that acts on every rank after one update."""
    hooks = [only(rank, step, act) for rank in (0, 1)]
    return lambda rank, made: hooks[rank](rank, made)


def _signal(number: signal.Signals) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def _raise(error: Exception) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


HOOKS: dict[str, Hook] = {
    "plain": nothing,
    "error of both": both(3, _raise(DataError("bad images, the real one", fix="replace them all"))),
    **{f"SIGTERM to rank {rank}": only(rank, 3, _signal(signal.SIGTERM)) for rank in (0, 1)},
    **{f"SIGKILL of rank {rank}": only(rank, 3, _signal(signal.SIGKILL)) for rank in (0, 1)},
    **{f"bug in rank {rank}": only(rank, 3, _raise(ValueError("the real one"))) for rank in (0, 1)},
    **{
        f"error of rank {rank}": only(rank, 3, _raise(DataError("bad images, the real one", fix="replace them all")))
        for rank in (0, 1)
    },
}


def interrupted(folder: Path) -> dict[str, Any]:
    """Let each thing happen to a pair, start it again, and compare with the pair that nothing happened to."""
    found: dict[str, Any] = {}
    for name, hook in HOOKS.items():
        run = folder / name.replace(" ", "-")
        ends = pair(folder / f"{run.name}-logs", words(run), hook)
        status = json.loads((run / "status.json").read_text())
        kept = [step for step, path in checkpoints(run) if files.read_folder(path)]
        again = pair(folder / f"{run.name}-again", words(run))
        found[name] = {
            "ends": [asdict(end) for end in ends],
            "status": status,
            "kept": kept,
            "again": [end.code for end in again],
            "remains": remains(run),
        }
    return found


PHASES: dict[str, tuple[Any, str]] = {
    "opening data": (inputs, "images"),
    "building the model": (methods, "build"),
    "probes at the start": (online.FeatureProbe, "__call__"),
    "first update": (update, "to_device"),
    "previews": (preview.Previews, "__call__"),
    "save": (checkpoint, "save"),
    "publishing": (training, "_publish"),
}


def stopped_in(phase: str, hangs: bool) -> Callable[[], None]:
    """Return what sends SIGTERM to this process in a phase, which then goes on or hangs, with little patience."""

    def plant() -> None:
        owner, name = PHASES[phase]
        follow = getattr(owner, name)

        def signalled(*arguments: Any, **settings: Any) -> Any:
            setattr(owner, name, follow)
            os.kill(os.getpid(), signal.SIGTERM)
            if hangs:
                time.sleep(1000)
            return follow(*arguments, **settings)

        setattr(owner, name, signalled)
        if hangs:
            training._PATIENCE_S, loop._SAVE_PATIENCE_S = 1.0, 2.0

    return plant


def stops(folder: Path) -> dict[str, Any]:
    """Stop a run of one rank in each phase, start it again, and compare with a run that was not stopped."""
    probes = {"probe_every_epochs": 3 / 84, "probe_images": 60}
    pair(folder / "logs", words(folder / "whole", **probes), ranks=1)
    found: dict[str, Any] = {"whole": remains(folder / "whole")}
    for phase in PHASES:
        for hangs in (False, True):
            run = folder / f"{phase.replace(' ', '-')}-{hangs}"
            log = folder / f"{run.name}-logs"
            (end,) = pair(log, words(run, **probes), ranks=1, plant=stopped_in(phase, hangs))
            state = run / "status.json"
            status = json.loads(state.read_text()) if state.exists() else {}
            (again,) = pair(log, words(run, **probes), ranks=1)
            same = again.code == 0 and remains(run) == found["whole"]
            found[f"{phase}, {'hangs' if hangs else 'goes on'}"] = [asdict(end), status, asdict(again), same]
    return found


def worlds(folder: Path) -> dict[str, Any]:
    """Train with one rank, and with one, then two, then one; return losses of both."""
    alone = folder / "alone"
    codes = [end.code for end in pair(folder / "alone-logs", words(alone), ranks=1)]
    mixed, said = folder / "mixed", []
    for ranks, stop in ((1, 2), (2, 4), (1, 6)):
        ends = pair(folder / f"mixed-{stop}", words(mixed, stop_after_steps=stop), ranks=ranks)
        codes += [end.code for end in ends]
        said.append(ends[0].said)
    rows = {run.name: [row["loss"] for row in read_rows(run) if "loss" in row] for run in (alone, mixed)}
    return {"codes": codes, "losses": rows, "steps": [checkpoints(run)[0][0] for run in (alone, mixed)], "said": said}


def command(folder: Path) -> list[dict[str, Any]]:
    """Run the words that follow on both ranks; return how they ended."""
    return [asdict(end) for end in pair(folder, sys.argv[3:])]


def commands(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Run the command lines of a file on both ranks; return by name how they ended."""
    wanted = json.loads(Path(sys.argv[3]).read_text())
    return {name: [asdict(end) for end in pair(folder / name, line)] for name, line in wanted.items()}


SCENARIOS: dict[str, Callable[[Path], Any]] = {
    "interrupted": interrupted,
    "stops": stops,
    "worlds": worlds,
    "command": command,
    "commands": commands,
}


if __name__ == "__main__":
    begin()
    print(json.dumps(SCENARIOS[sys.argv[2]](Path(sys.argv[1]))))
