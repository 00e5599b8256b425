"""The search behind the digits recipes: learning rate and number of updates, for MAE and scratch alike.

Every cell is the mean accuracy on a validation part of the training images; the test images are not read.

    python benchmarks/digits_search.py PRETRAINED_RUN [--out benchmarks/results/digits_search.json]
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import multiprocessing
import os
import platform
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

LABELS = 5
SEEDS = (0, 1, 2, 3, 4)
UPDATES = (60, 100, 400)
RATES = (5e-4, 1e-3, 2e-3, 4e-3)
Cell = tuple[str, int, float, int]


def measure(cell: Cell, pretrained: str, folder: str) -> float:
    """Fine-tune one cell (recipe, updates, learning rate, seed) and return its validation accuracy."""
    import torch

    from mae_lite import config, recipes, training

    torch.set_num_threads(1)
    name, updates, rate, seed = cell
    recipe = recipes.derive(
        recipes.get(name),
        labels_per_class=LABELS,
        epochs=updates,
        warmup_epochs=updates / 10,
        lr_per_256=rate * 256 / 50,
        validation_fraction=0.25,
        seed=seed,
    )
    runtime = config.Runtime(
        data="digits",
        out=f"{folder}/{name}-{updates}-{rate}-{seed}",
        init=pretrained if recipe.start == "pretrained" else None,
        validate_every_epochs=updates,
        tensorboard=False,
        progress=False,
        accelerator="cpu",
    )
    outcome = training.run(recipe, runtime)
    return float(json.loads((outcome.folder / "status.json").read_text())["val_top1"])


def start_worker() -> None:
    """Let a worker end with its parent, however that ended."""

    def follow() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def search(pretrained: str, processes: int) -> dict[str, Any]:
    """Measure all cells in single-threaded processes and return means and single values in percent."""
    names = ("digits-finetune", "digits-scratch")
    cells = [(n, u, r, s) for n in names for u in UPDATES for r in RATES for s in SEEDS]
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(processes, context, initializer=start_worker)
    with tempfile.TemporaryDirectory() as folder, pool:
        futures = [pool.submit(measure, cell, pretrained, folder) for cell in cells]
        accuracy = {cell: 100 * future.result() for cell, future in zip(cells, futures, strict=True)}
    table = []
    for name in names:
        for updates in UPDATES:
            for rate in RATES:
                single = [round(accuracy[name, updates, rate, seed], 1) for seed in SEEDS]
                mean = round(sum(single) / len(single), 1)
                table.append({"recipe": name, "updates": updates, "lr": rate, "val_top1": mean, "single": single})
    return {"labels_per_class": LABELS, "seeds": SEEDS, "pretrained": pretrained, "table": table}


def main() -> None:
    """Run the search, print the table and write it with the hardware and the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pretrained")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/digits_search.json"))
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    result = search(options.pretrained, options.processes)
    hardware = {"cpus": os.cpu_count(), "machine": platform.machine(), "system": platform.system()}
    result |= {"hardware": hardware, "command": ["python", *sys.argv]}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    for row in result["table"]:
        print(
            f"{row['recipe']:<16} {row['updates']:>4} updates  lr {row['lr']:.0e}  {row['val_top1']:5.1f}",
            row["single"],
        )


if __name__ == "__main__":
    main()
