"""Kill runs at every tick, start them again, and compare all that they leave with uninterrupted ones.

Runs as a process of its own with one thread and torch imported, so that forking it is safe and takes no time. A
tick is an update or an operation of the disk; a killed write, or deletion, leaves half of its work.

Most kills share the way to their tick: at every tick of one run, the process and its folder are copied (fork, and a
copy of the files), the copy is killed where it stands, and the run goes on. With workers each kill has its own run.

    python tests/kill_harness.py FOLDER TRIAL ...      prints one line of JSON
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mae_lite import files, left_out, training
from mae_lite.config import Recipe
from mae_lite.data.opening import open_source
from mae_lite.methods.base import Method
from mae_lite.methods.dino import SelfDistillation
from mae_lite.methods.distilled import DistilledAutoencoder
from mae_lite.methods.distilled_simmim import DistilledPixelRegression
from mae_lite.methods.features import FeatureDistiller
from mae_lite.methods.mae import MaskedAutoencoder
from mae_lite.methods.maskfeat import FeaturePrediction
from mae_lite.methods.mocov3 import MomentumContrast
from mae_lite.methods.simmim import PixelRegression
from mae_lite.methods.supervised import SupervisedClassifier
from mae_lite.rundir import checkpoints, last_start, read_rows
from tests import poison, toy
from tests.faulty_disk import KILL, FaultyDisk
from tests.once import read_once

SAVES = 2
"""Updates between two checkpoints."""
RUN = Path("run")
"""The run's folder, in the folder that its process works in."""
PROBES: dict[str, Any] = {"probe_every_epochs": 3 / 84, "probe_images": 60}
"""At steps 0, 3 and 6."""


def finetuning() -> Recipe:
    """Return a classifier with all that a checkpoint can hold: an average, a best one, drop path."""
    encoder = {"depth": 2, "drop_path": 0.5}
    return toy.classifier(encoder=encoder, ema_decay=0.9, validation_fraction=0.5)


METHODS: dict[str, tuple[Callable[[], Recipe], type[Method]]] = {
    "mae": (toy.mae, MaskedAutoencoder),
    "distilled": (toy.distilled, DistilledAutoencoder),
    "features": (toy.features, FeatureDistiller),
    "mocov3": (toy.mocov3, MomentumContrast),
    "dino": (toy.dino, SelfDistillation),
    "maskfeat": (toy.maskfeat, FeaturePrediction),
    "simmim": (toy.simmim_swin, PixelRegression),
    "distilled_swin": (toy.distilled_swin, DistilledPixelRegression),
    "finetune": (finetuning, SupervisedClassifier),
    "rollback": (poison.recipe, MaskedAutoencoder),
}


@dataclass(frozen=True)
class Trial:
    """A method, and where it is killed."""

    kind: str
    workers: int = 0
    alone: int = 0
    """Kills, spread over the ticks, that have a run of their own; 0: every tick, on one way."""
    twice: tuple[float, ...] = ()
    """Shares of the ticks: a run killed there is started again and killed at every tick of what it still has to do."""


TRIALS = {
    **{kind: Trial(kind) for kind in METHODS if kind not in ("mae", "mocov3", "distilled", "finetune", "rollback")},
    "mae": Trial("mae", twice=(0.0, 0.5)),
    **{kind: Trial(kind, twice=(0.3, 0.8)) for kind in ("mocov3", "finetune")},
    "distilled": Trial("distilled", twice=(0.3,)),
    "mae alone": Trial("mae", alone=6),
    "rollback": Trial("rollback", alone=20),
    "mae, 2 workers": Trial("mae", 2, alone=20),
    **{f"{kind}, 2 workers": Trial(kind, 2, alone=6) for kind in ("mocov3", "distilled", "finetune")},
}


@dataclass
class Walk:
    """A run's way over its ticks, and what is killed on it."""

    wanted: Collection[int] = ()
    own: bool = False
    """Kill the run itself, not a copy of it."""
    ticks: int = 0
    updates: int = 0
    made: dict[int, int] = field(default_factory=dict)
    """By tick: the updates that the killed had made."""

    def tick(self) -> bool:
        """Count; kill a copy where one is wanted; return whether this process is the one to die now."""
        self.ticks += 1
        if self.ticks not in self.wanted:
            return False
        if self.own:
            return True
        place = Path(f"kill-{self.ticks}")
        files.Disk().make_folder(place)
        if RUN.exists():
            shutil.copytree(RUN, place / RUN)
        copy = os.fork()
        if not copy:
            os.chdir(place)  # where the same names mean the copied files
            return True
        if os.waitpid(copy, 0)[1] == signal.SIGKILL:
            self.made[self.ticks] = self.updates
        return False

    def update(self) -> None:
        """Count an update, which is a tick too."""
        self.updates += 1
        if self.tick():
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Runs:
    """Runs of one trial."""

    trial: Trial
    settings: dict[str, Any]
    """Of every start: the teacher's run, and what makes a run meet numbers that are not finite."""

    def start(self, place: Path, walk: Walk) -> int:
        """Start the run in ``place``, or start it again there, in a fork; return the wait status."""
        process = os.fork()
        if process:
            return os.waitpid(process, 0)[1]
        recipe, method = METHODS[self.trial.kind]
        follow = method.after_step

        def after_step(self: Any, step: int, total_steps: int) -> None:
            follow(self, step, total_steps)
            walk.update()

        try:
            files.disk = FaultyDisk(lambda *_: KILL if walk.tick() else 0, torn=True)
            files.make_folder(place)
            os.chdir(place)
            walk.ticks = 0
            method.after_step = after_step  # type: ignore[method-assign]
            beside = {"validate_every_epochs": 1} if self.trial.kind == "finetune" else PROBES
            settings = {"workers": self.trial.workers, "save_every_steps": SAVES, **beside, **self.settings}
            training.run(recipe(), toy.runtime(RUN, **settings))
            Path("walk.json").write_text(json.dumps([walk.ticks, walk.made]))
            os._exit(0)
        except BaseException as error:  # the exit status is all that the parent sees
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            os._exit(1)

    def whole(self, place: Path, wanted: Collection[int]) -> tuple[int, dict[int, int]]:
        """Let a run go its whole way; return its ticks, and by tick the updates that killed copies of it had made."""
        if self.start(place, Walk(wanted)):
            return 0, {}
        ticks, made = json.loads((place / "walk.json").read_text())
        return ticks, {int(tick): updates for tick, updates in made.items()}

    def after(self, place: Path, expected: dict[str, Any], updates: int | None) -> str:
        """Start what was killed in ``place`` again; return what is wrong then, "" for nothing."""
        if self.start(place, Walk()):
            return "did not go on"
        resumed = last_start(place / RUN)["resumed_at"]
        if updates is not None and updates - resumed > SAVES:
            return f"goes on at {resumed}, of {updates} updates"
        if remains(place / RUN) != expected:
            return "differs from the uninterrupted run"
        return "left something" if list((place / RUN).rglob(f"{files.TEMPORARY}*")) else ""


def remains(folder: Path) -> dict[str, Any]:
    """Return everything that two runs must agree on."""
    step, newest = checkpoints(folder)[0]
    tensors = {name: files.sha256(data) for name, data in files.read_folder(newest).items()}
    (model,) = (path for name in ("encoder", "classifier") if (path := folder / name / "model.safetensors").exists())
    encoder = files.sha256(model.read_bytes())
    rows = [{k: v for k, v in row.items() if k not in toy.TIMES} for row in read_rows(folder)]
    previews = {path.name: files.sha256(path.read_bytes()) for path in (folder / "previews").glob("*")}
    lists = {"left_out": list(left_out.read(folder)), "failed": sorted(p.name for p in (folder / "failed").glob("*"))}
    return {"step": step, "tensors": tensors, "encoder": encoder, "rows": rows, "previews": previews, **lists}


def killed(
    runs: Runs, place: Path, expected: dict[str, Any], start: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Walk a run, killing copies at every tick; start each again; return what was killed and what was wrong.

    Args:
        runs: of the trial.
        place: where the walk is to be.
        expected: what an uninterrupted run leaves.
        start: prepares ``place``.
    """
    start()
    ticks, made = runs.whole(place, range(1, 1000))
    wrong = [] if ticks and len(made) == ticks else [f"{len(made)} of {ticks} ticks killed"]
    if ticks and remains(place / RUN) != expected:
        wrong.append("the walk itself differs")
    for tick, updates in made.items():
        copy = place / f"kill-{tick}"
        said = runs.after(copy, expected, updates)
        wrong += [f"tick {tick}: {said}"] if said else []
        shutil.rmtree(copy)
    return {"killed": len(made), "wrong": wrong}


def killed_alone(runs: Runs, place: Path, expected: dict[str, Any], spread: Collection[int]) -> dict[str, Any]:
    """Give each kill a run of its own, and start it again."""
    wrong = []
    for tick in spread:
        here = place / str(tick)
        if runs.start(here, Walk({tick}, own=True)) != signal.SIGKILL:
            wrong.append(f"tick {tick}: was not killed")
        elif said := runs.after(here, expected, None):
            wrong.append(f"tick {tick}, alone: {said}")
    return {"killed": len(spread), "wrong": wrong}


def carried_out(trial: Trial, folder: Path) -> dict[str, Any]:
    """Carry a trial out; report what was killed and what went wrong."""
    settings: dict[str, Any] = {**toy.teacher_of(METHODS[trial.kind][0](), folder)}
    if trial.kind == "rollback":
        settings |= {"on_nan": "rollback", "probe_every_epochs": None, **poison.settings(folder / "poison")}
        open_source(
            settings["data"], "train"
        )  # the first look at a folder keeps a list of it: a tick that no other has
    runs, reference = Runs(trial, settings), folder / "reference"
    ticks, _ = runs.whole(reference, ())
    if not ticks:
        return {"killed": 0, "wrong": ["the uninterrupted run failed"]}
    expected = remains(reference / RUN)
    if trial.alone:
        spread = sorted({1 + round(i * (ticks - 1) / (trial.alone - 1)) for i in range(trial.alone)})
        parts = [killed_alone(runs, folder / "alone", expected, spread)]
    else:
        parts = [killed(runs, folder / "walk", expected)]
    for share in trial.twice:
        place = folder / f"twice-{share}"

        def kill_once(place: Path = place, share: float = share) -> None:
            runs.start(place, Walk({1 + round(share * (ticks - 1))}, own=True))

        parts.append(killed(runs, place, expected, kill_once))
    wrong = [said for part in parts for said in part["wrong"]]
    killed_in_all = sum(part["killed"] for part in parts) + len(trial.twice)
    return {"ticks": ticks, "killed": killed_in_all, "rows": len(expected["rows"]), "wrong": wrong}


def main(folder: Path, names: list[str]) -> dict[str, Any]:
    """Carry trials out, by name."""
    read_once()
    os.fsync = lambda _: None  # type: ignore[assignment]  # a kill is no loss of power: what was written stays
    return {name: carried_out(TRIALS[name], folder / str(number)) for number, name in enumerate(names)}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]).resolve(), sys.argv[2:])))
