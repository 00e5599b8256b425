"""CIFAR-10 on a GPU: a short MAE pre-training with fine-tuning, and training from scratch, each in minutes.

``mae`` pre-trains for 40 epochs and fine-tunes for 20. ``scratch`` trains for the same 20 epochs, and for 31: as much
arithmetic as pre-training and fine-tuning take together. All are measured on the test images once, at the end. These
schedules show that the road works on this machine, and how fast; they are too short to say what pre-training is worth.
A run that was cut short goes on when the command is given again.

    DATA=data-pack python benchmarks/gpu_cifar.py mae|scratch [--runs runs/gpu-cifar] [--device cpu --tiny]

reads DATA/cifar10/train.parquet and test.parquet.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gpu_record

import mae_lite
from mae_lite import config, recipes
from mae_lite.errors import EXIT_STOPPED

PRETRAIN_EPOCHS = 40
FINETUNE_EPOCHS = 20
LONGER_EPOCHS = 31
_TINY: dict[str, Any] = {"encoder": {"width": 24, "depth": 1}, "global_batch_size": 8}


def train(
    options: argparse.Namespace, data: Path, name: str, recipe_name: str, epochs: int, init: str | None = None
) -> dict[str, Any]:
    """Carry out, or continue, one run; return what it was and how long it took."""
    changes: dict[str, Any] = dict(_TINY) if options.tiny else {}
    epochs = 1 if options.tiny else epochs
    recipe = recipes.derive(recipes.get(recipe_name), epochs=epochs, warmup_epochs=epochs / 10, **changes)
    runtime = config.Runtime(
        data=str(data / "train.parquet"),
        out=str(options.runs / name),
        init=init,
        workers=0 if options.tiny else None,
        validate_every_epochs=5,
        accelerator=options.device,
        tensorboard=False,
        progress=False,
    )
    start = time.monotonic()
    outcome = mae_lite.run(recipe, runtime)
    if outcome.state != "finished":
        raise gpu_record.StoppedEarlyError(f"{name}: {outcome.state} at step {outcome.step} of {outcome.total_steps}")
    seconds = time.monotonic() - start
    print(f"{name}: {epochs} epochs, {outcome.total_steps} updates, {seconds:.0f} s", flush=True)
    return {
        "run": name,
        "recipe": recipe_name,
        "epochs": epochs,
        "updates": outcome.total_steps,
        "batch": recipe.global_batch_size,
        "seconds_of_this_start": seconds,
        "folder": str(outcome.folder),
    }


def measured(row: dict[str, Any], data: Path, tiny: bool) -> dict[str, Any]:
    """Add the accuracy on the test images."""
    workers = 0 if tiny else min(8, gpu_record.cores())
    result = mae_lite.evaluate(Path(row["folder"]), str(data / "test.parquet"), workers=workers)
    print(f"{row['run']}: top-1 {100 * result['top1']:.2f} %", flush=True)
    return row | {"test_top1": result["top1"], "test_images": result["images"]}


def carry_out(options: argparse.Namespace, data: Path) -> list[dict[str, Any]]:
    """Do all runs of one side of the comparison."""
    if options.side == "mae":
        pretrained = train(options, data, "mae", "cifar10-mae-tiny", PRETRAIN_EPOCHS)
        tuned = train(options, data, "mae-fine", "cifar10-finetune", FINETUNE_EPOCHS, init=pretrained["folder"])
        return [pretrained, measured(tuned, data, options.tiny)]
    lengths = {"scratch": FINETUNE_EPOCHS, "scratch-longer": LONGER_EPOCHS}
    return [
        measured(train(options, data, name, "cifar10-scratch", epochs), data, options.tiny)
        for name, epochs in lengths.items()
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Train, measure, print and write."""
    parser = gpu_record.options_of(__doc__)
    parser.add_argument("side", choices=("mae", "scratch"))
    parser.add_argument("--runs", type=Path, default=gpu_record.ROOT / "runs" / "gpu-cifar")
    options = parser.parse_args(argv)
    gpu_record.device_of(options)
    data = gpu_record.cifar10()
    if data is None:
        return gpu_record.SKIPPED
    try:
        rows = carry_out(options, data)
    except gpu_record.StoppedEarlyError as stop:
        print(f"{stop}; the same command continues")
        return EXIT_STOPPED
    gpu_record.write(options, f"cifar_{options.side}", sys.argv[1:] if argv is None else argv, rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
