"""What it costs to be safe: a checkpoint that is flushed, hashed and read again, beside one that is only written.

    python benchmarks/safety.py [--recipes mae-tiny mae-base] [--rounds 5] [--folder PLACE]

Model, optimiser and state of a recipe in mid-training are written in turns: by torch.save; by mae_lite's bytes without
any care (no fsync, no SHA-256, no reading back); and as a run does. The cost of safety is the third less the second. By
default a run saves each minute, or each fifty times what a save takes where that is longer: the cost as a share of that
time is what a run pays. Medians of the rounds; PLACE decides which disk is measured.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mae_lite import files, methods, recipes
from mae_lite.engine import checkpoint
from mae_lite.engine.loop import SAVE_SECONDS, SAVE_SHARE
from mae_lite.engine.optim import build_optimizer


def midway(recipe_name: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Return a recipe's model and optimiser after an update."""
    recipe = recipes.get(recipe_name)
    method = methods.build(recipe, 1000)
    optimizer = build_optimizer(method, recipe)
    for parameter in method.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    return method, optimizer


def ways(folder: Path, method: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Callable[[], object]]:
    """Return by name what is timed."""
    progress = checkpoint.Progress(step=1)
    contents = checkpoint.contents(progress, method, optimizer, None)
    safe = folder / "run" / "checkpoints"
    files.make_folder(safe)
    checkpoint.save(folder / "run", progress, method, optimizer, None)  # it is what "reading back" reads
    shutil.copytree(safe / "step_1", folder / "kept")

    def torch_save() -> None:
        torch.save({"model": method.state_dict(), "optimizer": optimizer.state_dict()}, folder / "torch.pt")

    def careless() -> None:
        for name, data in checkpoint.contents(progress, method, optimizer, None).items():
            (folder / name).write_bytes(data)

    def careful() -> None:
        progress.step += 1  # two stay, an older one is deleted: that is a part of saving
        checkpoint.save(folder / "run", progress, method, optimizer, None)

    return {
        "torch.save": torch_save,
        "written without care": careless,
        "as a run saves": careful,
        "of it SHA-256": lambda: [hashlib.sha256(data).hexdigest() for data in contents.values()],
        "of it reading back": lambda: files.read_folder(folder / "kept"),
    }


def measured(recipe_name: str, rounds: int, place: Path | None) -> dict[str, Any]:
    """Return the median seconds of each way, and what a run pays for safety."""
    method, optimizer = midway(recipe_name)
    with tempfile.TemporaryDirectory(dir=place) as folder:
        timed = ways(Path(folder), method, optimizer)
        seconds: dict[str, list[float]] = {name: [] for name in timed}
        for name in [*timed] * rounds:
            begun = time.perf_counter()
            timed[name]()
            seconds[name].append(time.perf_counter() - begun)
        size = sum(path.stat().st_size for path in (Path(folder) / "kept").iterdir())
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    saving, cost = medians["as a run saves"], medians["as a run saves"] - medians["written without care"]
    every = max(SAVE_SECONDS, saving / SAVE_SHARE)
    return {
        "recipe": recipe_name,
        "checkpoint_mb": round(size / 1e6, 1),
        "seconds": {name: round(value, 4) for name, value in medians.items()},
        "rounds": {name: [round(value, 4) for value in values] for name, values in seconds.items()},
        "saves_every_seconds": round(every, 1),
        "saving_percent_of_time": round(100 * saving / every, 3),
        "safety_percent_of_time": round(100 * cost / every, 3),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=["mae-tiny", "mae-base"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="an existing folder on the disk to be measured")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/safety.json"))
    options = parser.parse_args(arguments)
    found = [measured(name, options.rounds, options.folder) for name in options.recipes]
    content = {
        "results": found,
        "date": datetime.date.today().isoformat(),
        "software": {"torch": version("torch"), "python": platform.python_version()},
        "hardware": {"cpus": os.cpu_count(), "machine": platform.machine()},
        "command": "python benchmarks/safety.py",
    }
    files.make_folder(options.out.parent)
    files.write_json(options.out, content)
    for one in found:
        print(json.dumps({key: value for key, value in one.items() if key != "rounds"}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
