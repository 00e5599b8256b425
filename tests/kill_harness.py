"""Kill a run at a chosen tick, start it again, and compare all that it leaves with an uninterrupted run.

Runs as a process of its own with one thread and torch imported, so that forking it is safe and takes no time. A
tick is an update or an operation of the disk; a killed write leaves half of its bytes.

    python tests/kill_harness.py FOLDER WORKERS KILLS METHOD      prints one line of JSON
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sklearn.linear_model  # noqa: F401  # the linear probe imports it: once here instead of once per fork
import torch
import torch._dynamo  # the optimiser imports it at its first step: likewise

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
from mae_lite.rundir import checkpoints, read_rows
from tests import poison, toy

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


class TickingDisk(files.Disk):
    """A disk that reports each operation before it happens; a write that is to die leaves half of its bytes."""

    def __init__(self, tick: Callable[[], bool]) -> None:
        self.tick = tick

    def write(self, path: Path, data: bytes) -> None:
        if self.tick():
            path.write_bytes(data[: len(data) // 2])
            die()
        super().write(path, data)

    def append(self, path: Path, data: bytes) -> None:
        if self.tick():
            with path.open("ab") as handle:
                handle.write(data[: len(data) // 2])
            die()
        super().append(path, data)

    def sync(self, path: Path) -> None:
        self._step()
        super().sync(path)

    def rename(self, source: Path, target: Path) -> None:
        self._step()
        super().rename(source, target)

    def make_folder(self, path: Path) -> None:
        self._step()
        super().make_folder(path)

    def remove(self, path: Path) -> None:
        self._step()
        super().remove(path)

    def _step(self) -> None:
        if self.tick():
            die()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def child(folder: Path, workers: int, kill_at: int, kind: str, teacher: str | None, count: Path | None = None) -> int:
    """Fork, run the toy recipe of method ``kind``, die at tick ``kill_at`` (0: never); return the wait status."""
    process = os.fork()
    if process:
        return os.waitpid(process, 0)[1]
    ticks = 0

    def tick() -> bool:
        nonlocal ticks
        ticks += 1
        return ticks == kill_at

    toy_recipe, method = METHODS[kind]
    follow = method.after_step

    def after_step(self: Any, step: int, total_steps: int) -> None:
        follow(self, step, total_steps)
        if tick():
            die()

    try:
        files.disk = TickingDisk(tick)
        method.after_step = after_step  # type: ignore[method-assign]
        beside = {"validate_every_epochs": 1} if kind == "finetune" else PROBES
        if kind == "rollback":
            beside = {"on_nan": "rollback", **poison.settings(folder.parent / "poison")}
        training.run(toy_recipe(), toy.runtime(folder, workers=workers, teacher=teacher, **beside))
        if count is not None:
            count.write_text(str(ticks))
        os._exit(0)
    except BaseException as error:  # the exit status is all that the parent sees
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        os._exit(1)


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


def main(folder: Path, workers: int, kills: int, kind: str) -> dict[str, Any]:
    """Kill at ``kills`` ticks spread over the whole run; report what went wrong."""
    torch.set_num_threads(1)
    open_source("digits")  # imports scikit-learn once, here
    reference, count = folder / "reference", folder / "ticks"
    recipe = METHODS[kind][0]()
    teacher = toy.teacher_of(recipe, folder / "teacher").get("teacher")
    if child(reference, workers, 0, kind, teacher, count):
        return {"wrong": ["the uninterrupted run failed"]}
    total = int(count.read_text())
    expected = remains(reference)
    spread = sorted({1 + round(i * (total - 1) / max(1, kills - 1)) for i in range(kills)})
    wrong = []
    for kill_at in spread:
        run = folder / f"kill-{kill_at}"
        if child(run, workers, kill_at, kind, teacher) != signal.SIGKILL:
            wrong.append(f"tick {kill_at}: was not killed")
        elif child(run, workers, 0, kind, teacher):
            wrong.append(f"tick {kill_at}: did not resume")
        elif remains(run) != expected:
            wrong.append(f"tick {kill_at}: differs from the uninterrupted run")
    return {"ticks": total, "killed": len(spread), "rows": len(expected["rows"]), "wrong": wrong}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])))
