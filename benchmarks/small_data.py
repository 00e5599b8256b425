"""What pre-training is worth on few photographs, and the search behind the small-data recipes.

A Vision Transformer that a CPU can train (6 blocks of 128 channels) sees 10,000 images of CIFAR-10 (JPEG q75 copy)
without labels, then 1,000 of them with labels. Choices are made on 2,000 other training images; the test images are
read once, by the chosen setting of each side. A search that was cut short goes on when the command is given again.

    python benchmarks/small_data.py CIFAR10_FOLDER [--runs runs/small-data] [--processes 2] [--chosen]

reads CIFAR10_FOLDER/train.parquet and test.parquet. With --chosen only what the recipes have is trained: no search.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import multiprocessing
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from mae_lite.engine.signals import end_with_parent

IMAGES, HELD_OUT, LABELS_PER_CLASS = 10_000, 2_000, 100
ENCODER = {"width": 128, "depth": 6, "num_heads": 8}
PRETRAIN_EPOCHS, FINETUNE_EPOCHS = 30, 60


@dataclass(frozen=True)
class Setting:
    """One row of the search; rates are peaks at the batch size of the recipe."""

    side: str
    """mae or scratch."""
    lr: float
    """Peak learning rate of fine-tuning or of training from scratch."""
    layer_decay: float = 1.0
    finetune_epochs: int = FINETUNE_EPOCHS
    pretrain_lr: float = 0.0
    mask_ratio: float = 0.0
    pretrain_epochs: int = 0

    @property
    def name(self) -> str:
        """A folder for it."""
        return "-".join(str(value) for value in asdict(self).values())

    @property
    def pretraining(self) -> str:
        """A folder for the pre-training that it starts from."""
        return f"pretrain-{self.pretrain_lr}-{self.mask_ratio}-{self.pretrain_epochs}"


PRETRAINING: dict[str, Any] = {"pretrain_lr": 1e-3, "mask_ratio": 0.75, "pretrain_epochs": PRETRAIN_EPOCHS}
SEARCH = (
    *(Setting("mae", lr, layer_decay=0.75, **PRETRAINING) for lr in (1e-3, 2e-3)),
    *(
        Setting("scratch", lr, finetune_epochs=epochs)  # twice the updates as well: what patience alone buys
        for epochs in (FINETUNE_EPOCHS, 2 * FINETUNE_EPOCHS)
        for lr in (5e-4, 1e-3)
    ),
)
CHOSEN = (Setting("mae", 2e-3, layer_decay=0.75, **PRETRAINING), Setting("scratch", 5e-4))
"""What the search of the results chose, at equal budgets of fine-tuning."""


def train(recipe: Any, out: Path, data: Path, **where: Any) -> Path:
    """Carry out, or continue, one run and return its folder."""
    from mae_lite import config, training

    runtime = config.Runtime(
        data=str(data), out=str(out), workers=0, accelerator="cpu", tensorboard=False, progress=False, **where
    )
    return training.run(recipe, runtime).folder


def measure(setting: Setting, runs: Path) -> float:
    """Return the accuracy on the held-out images, 0 to 1."""
    import torch

    from mae_lite import recipes

    torch.set_num_threads(1)
    init = None
    if setting.side == "mae":
        recipe = recipes.derive(
            recipes.get("cifar10-mae-tiny"),
            encoder=ENCODER,
            method={"mask_ratio": setting.mask_ratio},
            global_batch_size=128,
            lr_per_256=2 * setting.pretrain_lr,
            epochs=setting.pretrain_epochs,
            warmup_epochs=setting.pretrain_epochs / 10,
        )
        images = runs / "train.parquet"
        init = str(train(recipe, runs / setting.pretraining, images, probe_every_epochs=5, probe_images=1000))
    recipe = recipes.derive(
        recipes.get("cifar10-finetune" if init else "cifar10-scratch"),
        encoder=ENCODER,
        global_batch_size=100,
        lr_per_256=2.56 * setting.lr,
        layer_decay=setting.layer_decay,
        labels_per_class=LABELS_PER_CLASS,
        validation_fraction=0.0,
        epochs=setting.finetune_epochs,
        warmup_epochs=setting.finetune_epochs / 10,
    )
    held_out = {"val_data": str(runs / "val.parquet"), "validate_every_epochs": setting.finetune_epochs}
    folder = train(recipe, runs / setting.name, runs / "train.parquet", init=init, **held_out)
    return float(json.loads((folder / "status.json").read_text())["val_top1"])


def cut(data: Path, runs: Path) -> None:
    """Write the images to train on and those to choose by, the first of the shuffled training images."""
    runs.mkdir(parents=True, exist_ok=True)
    table = pq.read_table(data / "train.parquet")
    for name, start, count in (("train", 0, IMAGES), ("val", IMAGES, HELD_OUT)):
        if not (runs / f"{name}.parquet").exists():
            pq.write_table(table.slice(start, count), runs / f"{name}.parquet")


def search(settings: Sequence[Setting], runs: Path, processes: int) -> dict[Setting, float]:
    """Measure the settings; those that share a pre-training one after another, so that it is made once."""
    by_pretraining: dict[str, list[Setting]] = {}
    for setting in settings:
        key = setting.pretraining if setting.side == "mae" else setting.name
        by_pretraining.setdefault(key, []).append(setting)
    context = multiprocessing.get_context("spawn")
    found: dict[Setting, float] = {}
    with concurrent.futures.ProcessPoolExecutor(processes, context, initializer=end_with_parent) as pool:
        futures = {pool.submit(_in_turn, group, runs): group for group in by_pretraining.values()}
        for future in concurrent.futures.as_completed(futures):
            for setting, accuracy in zip(futures[future], future.result(), strict=True):
                found[setting] = accuracy
                print(f"{100 * accuracy:5.1f}  {setting}", flush=True)
    return found


def _in_turn(settings: list[Setting], runs: Path) -> list[float]:
    return [measure(setting, runs) for setting in settings]


def tested(found: dict[Setting, float], data: Path, runs: Path) -> list[dict[str, Any]]:
    """Read the test images once for the best setting of each side and length."""
    import mae_lite

    rows = []
    for side, epochs in sorted({(setting.side, setting.finetune_epochs) for setting in found}):
        best = max((s for s in found if (s.side, s.finetune_epochs) == (side, epochs)), key=lambda s: found[s])
        top1 = mae_lite.evaluate(runs / best.name, str(data / "test.parquet"), workers=0)["top1"]
        print(f"{side}, {epochs} epochs: test {100 * top1:.1f} %")
        rows.append({"chosen": asdict(best), "val_top1": found[best], "test_top1": top1})
    return rows


def main() -> None:
    """Search, test the best of each side, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs/small-data"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/small_data.json"))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--chosen", action="store_true", help="leave the search out")
    options = parser.parse_args()
    cut(options.data, options.runs)
    found = search(CHOSEN if options.chosen else SEARCH, options.runs, options.processes)
    result = {
        "data": "CIFAR-10 (JPEG q75 copy)",
        "images": IMAGES,
        "labels_per_class": LABELS_PER_CLASS,
        "encoder": ENCODER,
        "search": [{**asdict(setting), "val_top1": accuracy} for setting, accuracy in found.items()],
        "test": tested(found, options.data, options.runs),
        "hardware": {"cpus": os.cpu_count(), "machine": platform.machine(), "system": platform.system()},
        "command": ["python", *sys.argv],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
