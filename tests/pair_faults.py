"""Two ranks with few images, with bad numbers of one of them, beside a disk that hangs, and without training.

python tests/pair_faults.py FOLDER SCENARIO          prints one line of JSON
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from mae_lite import config, ending, files
from mae_lite.data.plan import Plan
from mae_lite.engine import update
from mae_lite.engine.failure import FOLDER
from mae_lite.errors import DataError
from mae_lite.evaluation import accuracy
from mae_lite.frozen import kept
from mae_lite.methods.mae import MaskedAutoencoder
from mae_lite.models import weights
from mae_lite.rundir import checkpoints, read_json, read_rows
from tests import golden, pairs, poison, toy

FAILS_AT = 3


def flags(command: str, recipe: config.Recipe, folder: Path, **changes: Any) -> list[str]:
    """Return the command of a run in ``folder``."""
    file = folder.parent / f"{folder.name}.json"
    file.write_text(recipe.model_dump_json())
    return [command, str(file), *pairs.words(folder, **changes)[2:]]


def rank_here() -> int:
    """Return the rank of a fork."""
    return int(os.environ["RANK"])


# Few images


def pictures(folder: Path, count: int) -> str:
    """Write images of two classes in turn, the second of which has none of one image; return the folder."""
    for number in range(max(count, 2)):
        (folder / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        if number < count:
            pixels = np.random.default_rng(number).integers(0, 255, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "ab"[number % 2] / f"{number}.png")
    return str(folder)


def listing() -> None:
    """Print which images come to this rank, of training (what is learned from) and of validation (what is measured)."""
    for owner, what in ((update, "train"), (accuracy, "val")):
        follow = owner.to_device

        def told(batch: Any, *rest: Any, follow: Any = follow, what: str = what) -> Any:
            print(f"ids {what} {batch.ids.tolist()}", flush=True)
            return follow(batch, *rest)

        owner.to_device = told  # type: ignore[attr-defined]


def listed(said: str, what: str) -> list[list[int]]:
    """Return the images of each batch that a rank printed."""
    start = f"ids {what} "
    return [json.loads(line[len(start) :]) for line in said.splitlines() if line.startswith(start)]


def uneven(folder: Path) -> dict[str, Any]:
    """Train on 7, 9 and 1 images, and validate on 9 and 1: numbers that two ranks cannot share evenly."""
    found: dict[str, Any] = {}
    recipe = toy.classifier(labels_per_class=None, global_batch_size=2, epochs=2, warmup_epochs=0)
    settings = {"validate_every_epochs": 2, "allow_empty_classes": True}
    for train, val in ((7, 9), (9, 1)):
        places = {"data": pictures(folder / f"train-{train}", train), "val_data": pictures(folder / f"val-{val}", val)}
        run = folder / f"run-{train}-{val}"
        ends = pairs.pair(
            folder / f"{run.name}-logs", flags("finetune", recipe, run, **places, **settings), plant=listing
        )
        found[f"{train} {val}"] = {
            "ends": [asdict(end) for end in ends],
            **{what: [listed(end.said, what) for end in ends] for what in ("train", "val")},
            "top1": [row["val_top1"] for row in read_rows(run) if "val_top1" in row],
        }
    single = Path(pictures(folder / "single", 1)) / "a"
    one = flags("pretrain", toy.mae(global_batch_size=2, epochs=2), folder / "one", data=single)
    found["1"] = {"ends": [asdict(end) for end in pairs.pair(folder / "one-logs", one)]}
    return found


# Numbers that are not finite


def seed_that_fails_on(rank: int) -> int:
    """Return a seed of whose third update (counted from 0) this rank gets the white picture."""
    for seed in range(1000):
        plan = Plan(samples=poison.PICTURES, global_batch_size=16, micro_batch_size=8, seed=seed, ranks=2, rank=rank)
        ((_, ids),) = plan.keys(FAILS_AT, FAILS_AT + 1)
        if poison.PICTURES - 1 in ids.tolist():
            return seed
    raise AssertionError("no seed")


def spoiled() -> None:
    """Spoil a weight of the second rank after its third update."""
    follow = MaskedAutoencoder.after_step

    def after_step(method: Any, step: int, total: int) -> None:
        follow(method, step, total)
        if rank_here() == 1 and step == FAILS_AT:
            with torch.no_grad():
                method.encoder.norm.weight[0] = torch.nan

    MaskedAutoencoder.after_step = after_step  # type: ignore[method-assign, assignment]


def poisoned(folder: Path) -> dict[str, Any]:
    """Give the second rank alone a loss, or a weight, that is not finite; compare what is left with a clean run."""
    settings = poison.settings(folder)
    found: dict[str, Any] = {}
    ways: Iterable[tuple[str, config.Recipe, Callable[[], None]]] = (
        ("loss", poison.recipe(seed=seed_that_fails_on(1)), lambda: None),
        ("weight", poison.recipe(lr_per_256=1e-3), spoiled),
    )
    for name, recipe, plant in ways:
        given = settings if name == "loss" else {"data": settings["data"], "probe_images": 0}
        run, clean = folder / name, folder / f"{name}-clean"
        ends = pairs.pair(folder / f"{name}-logs", flags("pretrain", recipe, run, **given), plant=plant)
        words = flags("pretrain", recipe, clean, **given, stop_after_steps=FAILS_AT)
        pairs.pair(folder / f"{clean.name}-logs", words)
        bundle = run / FOLDER / f"step_{FAILS_AT}"
        model = files.read_folder(bundle)["model.safetensors"]
        step, last = checkpoints(run)[0]
        saved = weights.from_bytes(files.read_folder(last)["model.safetensors"], "model")
        found[name] = {
            "ends": [asdict(end) for end in ends],
            "status": read_json(run / "status.json", "a run"),
            "losses": [(one["rank"], one["loss"]) for one in read_json(bundle / "failure.json", "a bundle")["batches"]],
            "same": model == files.read_folder(checkpoints(clean)[0][1])["model.safetensors"],
            "saved": [step, all(bool(value.isfinite().all()) for value in saved.values())],
        }
    return found


# A disk that hangs


def hanging() -> None:
    """Let the first rank wait for ever where it reads what is left of the run."""

    def remaining(folder: Path) -> str:
        time.sleep(1000)
        return str(folder)

    ending.remaining = remaining


def silenced(folder: Path) -> dict[str, Any]:
    """Kill the second rank while the disk of the first hangs."""
    hook = pairs.only(1, FAILS_AT, lambda: os.kill(os.getpid(), signal.SIGKILL))
    return {
        "ends": [asdict(end) for end in pairs.pair(folder / "logs", pairs.words(folder / "run"), hook, plant=hanging)]
    }


# Without training


def _killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _bad() -> None:
    raise DataError("bad images, the real one", fix="replace them all")


def _bug() -> None:
    raise ValueError("the real one")


def at_features(act: Callable[[], None]) -> Callable[[], None]:
    """Return what lets something happen to the second rank when it makes features."""

    def plant() -> None:
        follow = kept.features_of

        def features_of(model: Any, images: torch.Tensor, taps: Sequence[kept.Tap]) -> dict[kept.Tap, torch.Tensor]:
            if rank_here() == 1:
                act()
            return follow(model, images, taps)

        kept.features_of = features_of

    return plant


def frozen(folder: Path) -> dict[str, Any]:
    """Let things happen to one of two ranks of ``mae-lite embed``, and start it again."""
    run = str(golden.HOME / "0.1.0" / "pretrain")
    words = ["embed", run, "--data", "digits", "--split", "train", "--out", str(folder / "features.npy")]
    found = {}
    for name, act in (("killed", _killed), ("error", _bad), ("bug", _bug)):
        found[name] = [asdict(end) for end in pairs.pair(folder / name, words, plant=at_features(act))]
    found["again"] = [asdict(end) for end in pairs.pair(folder / "again", words)]
    return found


SCENARIOS = {"uneven": uneven, "poisoned": poisoned, "silenced": silenced, "frozen": frozen}


if __name__ == "__main__":
    pairs.begin()
    print(json.dumps(SCENARIOS[sys.argv[2]](Path(sys.argv[1]))))
