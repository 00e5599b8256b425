"""Two processes on two cores beside one process on one core: images/s of MAE's training step on a CPU.

Each process has one thread and a batch of its own; gradients are averaged over gloo. The step is the one of steps.py.
Both ways take turns; the ratio is the median of each round's.

    python benchmarks/ranks.py [--batch 64] [--rounds 5] [--updates 4]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import steps
import torch


def speed(processes: int, words: Sequence[str]) -> float:
    """Return the images/s of ``processes`` together, started by torchrun."""
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *launch, __file__, *words, "--worker"]
    found = subprocess.check_output(command, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return float(next(line for line in found.splitlines() if line.startswith("images/s")).split()[1])


def work(options: argparse.Namespace) -> None:
    """Be one of the processes; the first prints the speed of all."""
    torch.set_num_threads(1)
    recipe = steps.recipe_of(options.tiny)
    step, images = steps.ours(recipe), steps.bytes_of(recipe, options.batch)
    for _ in range(2):
        step(images)
    start = time.perf_counter()  # the last update ended everywhere when gradients were averaged
    for _ in range(options.updates):
        step(images)
    seconds = time.perf_counter() - start
    if int(os.environ["RANK"]) == 0:
        print(f"images/s {options.batch * options.updates * int(os.environ['WORLD_SIZE']) / seconds}", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("batch", 64), ("rounds", 5), ("updates", 4)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--tiny", action="store_true", help="sizes of a dry run: the numbers mean nothing")
    parser.add_argument("--worker", action="store_true", help="be one of the processes")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/ranks.json"))
    words = list(sys.argv[1:] if argv is None else argv)
    options = parser.parse_args(words)
    if options.worker:
        work(options)
        return
    rounds = [(speed(1, words), speed(2, words)) for _ in range(options.rounds)]
    result = {
        "images_per_second": {
            "one process": statistics.median(one for one, _ in rounds),
            "two processes": statistics.median(two for _, two in rounds),
        },
        "two_over_one": statistics.median(two / one for one, two in rounds),
        "rounds": rounds,
        "batch_of_each_process": options.batch,
        "hardware": steps.hardware() | {"threads": "1 of each process"},
        "command": ["python", "benchmarks/ranks.py", *words],
    }
    print(json.dumps(result, indent=1))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
