"""Runs the tests of faults and writes docs/reliability.md from what they counted: `make reliability`.

    python benchmarks/reliability.py [--date 2026-01-31] [--only-page]

The counts are kept in benchmarks/results/reliability.json; --only-page writes the page from them again.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "reliability.json"
PAGE = ROOT / "docs" / "reliability.md"
TESTS = (
    "bad_words",
    "files",
    "errors",
    "convert",
    "corpus",
    "kill",
    "malicious",
    "pairs",
    "planted",
    "predict",
    "report",
    "surroundings",
    "training",
)
TARGETS = {"kills": 1_000, "corrupted": 10_000, "bad inputs": 300, "malicious": 100}
"""What the page owns up to where it is not reached."""
FIGURES = {
    "kills": "SIGKILLs of a run, or of one or both of two ranks, after an update or inside an operation of the disk; "
    "started again, it ended with the same bits: weights, optimiser, average, rows, pictures",
    "faults": "operations of the disk that failed (once or for ever, cut in half or not, with several errors) or were "
    "the last before a SIGKILL: the old or the new is there, whole, and a checkpoint that verifies",
    "signals": "SIGTERM, SIGINT or SIGUSR1 after an update; started again, the run ended with the same bits: a "
    "checkpoint of that very update was on the disk, and the run had stopped",
    "corrupted": "checkpoints cut short or with a flipped bit, ours and strangers': refused, or no value differs",
    "bugs": "bugs planted into saving and resuming: caught",
    "bad inputs": "bad settings, images, labels, folders and weights: one message, with what was found, what was "
    "expected and what to do; the right exit code, no traceback",
    "malicious": "checkpoints of strangers that run code when they are loaded: refused, and nothing ran",
    "payloads": "pieces of HTML and scripts in names, titles and messages: shown as text on the page",
    "deaths": "deaths and errors of one of two ranks: the other ended too, no process was left, and the run went on "
    "from what was saved",
}
HEAD = """# Reliability

What breaks, and what happens then. `make reliability` runs the tests that this page counts and writes it; `make test`
runs them too.

"""
SOAK, SAFETY = (ROOT / "benchmarks" / "results" / f"{name}.json" for name in ("soak", "safety"))
LIMITS = """
## What is promised, and what is not

- **The same bits** after an interruption: for the same build of PyTorch, kind of device and number of ranks, whatever
  the number of workers. With another number of ranks the same images come in the same order, and rounding differs.
- After a kill, the updates since the last checkpoint are made again: by default at most those of a minute, or of fifty
  times what a checkpoint takes to write. After SIGTERM, SIGINT or SIGUSR1 none: the update is finished and saved,
  unless nothing moves for ten seconds, or twice the longest update: then the process ends without saving.
- A file counts as written when the disk says so (fsync of file and folder). A disk that lies is noticed where it gives
  back other bytes at once, since a checkpoint is read again before older ones are deleted; later by its SHA-256.
- Rot inside a JPEG that still decodes is invisible, unless `mae-lite check --save-hashes` knew the file before.
- Weights of strangers are loaded as tensors alone; no code in them runs, and no option asks for trust. Their numbers
  can still be wrong: `convert` compares outputs with the formula before it writes.
- Numbers that are not finite stop a run before the update, or have it go back and leave the update out. There is no
  fp16, and so no loss scaler that could skip updates for ever: bf16 has the range of fp32, and `--precision fp16` is
  refused.
- Several GPUs, NCCL and real clusters were not tried by these tests: they run on processors, through gloo.
- A disk across a network may refuse for a moment (EIO, ESTALE): what failed is written again, whole, up to three times
  within three seconds. A row of metrics is not: it is lost, and the next one says so.
- One thing that is not as promised fails the tests, and this page is not written.
"""


def carry_out() -> dict[str, Any]:
    """Run the tests; return what they counted, with the time and the machine.

    Raises:
        SystemExit: when a test failed.
    """
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder) / "figures.jsonl"
        tests = [f"tests/test_{name}.py" for name in TESTS]
        command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "worksteal", *tests]
        environment = os.environ | {"MAE_LITE_FIGURES": str(lines), "OMP_NUM_THREADS": "1"}
        if subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode:
            sys.exit("a test failed: no page is written")
        counted = [json.loads(line) for line in lines.read_text().splitlines()]
    import torch

    return {
        "figures": summed(counted),
        "seconds": round(time.monotonic() - begun),
        "software": f"Python {platform.python_version()}, torch {torch.__version__}",
        "hardware": {"cpus": os.cpu_count(), "machine": platform.machine(), "system": platform.system()},
        "command": "make reliability",
    }


def summed(counted: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return for each figure how often it was tried, how often wrong, and the times of the slowest and of 95 in 100.

    Raises:
        SystemExit: when a figure was not counted at all, or one is not known.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in {line["what"] for line in counted}:
        lines = [line for line in counted if line["what"] == name]
        times = sorted(line["seconds"] for line in lines if line["seconds"] is not None)
        found[name] = {
            "tried": sum(line["tried"] for line in lines),
            "wrong": sum(line["wrong"] for line in lines),
            "seconds": round(times[-1], 1) if times else None,
            "seconds_p95": round(times[math.ceil(0.95 * len(times)) - 1], 1) if times else None,
        }
    if found.keys() != FIGURES.keys():
        sys.exit(f"counted {', '.join(sorted(found))}; expected {', '.join(sorted(FIGURES))}")
    return {name: found[name] for name in FIGURES}


def soaked(content: dict[str, Any]) -> str:
    """Return what an hour of kills showed."""
    memory, open_files = (content["long_life"][name] for name in ("memory_mb", "descriptors"))
    kept = "the same bits" if content["same_bits"] else "OTHER bits"
    return f"""
## An hour of kills

`{content["command"]}`: {content["updates"]:,} updates of `digits-mae` with two data workers, probes and pictures, in
{content["lives"]} lives: {content["killed"]} ended by SIGKILL and {content["stopped"]} by SIGTERM at seeded moments.
Beside the same training in one life of {content["long_life_seconds"] / 60:.0f} minutes it ended with
{kept}; {content["orphans"]} processes and {len(content["left_behind"])} unfinished files were left behind. The long
life held {memory["second_quarter"]:,.0f} MB and {open_files["second_quarter"]:.1f} open files in its second quarter,
{memory["last_quarter"]:,.0f} MB and {open_files["last_quarter"]:.1f} in its last. On {content["date"]},
{content["minutes"]:.0f} minutes on {content["hardware"]["cpus"]} processors.
"""


def costs(content: dict[str, Any]) -> str:
    """Return what safety costs."""
    rows = [
        f"| {one['recipe']} | {one['checkpoint_mb']:,.0f} | {one['seconds']['as a run saves']:.2f} "
        f"| {one['seconds']['written without care']:.2f} | {one['saves_every_seconds']:.0f} "
        f"| {one['safety_percent_of_time']:.2f} |"
        for one in content["results"]
    ]
    table = "\n".join(rows)
    return f"""
## What it costs

A checkpoint is flushed to the device, hashed, and read again before older ones go. Beside writing the same bytes
without any of that (`{content["command"]}`, {content["date"]}):

| recipe | MB | s, as a run saves | s, without care | saves every, s | cost of safety, % of time |
|---|---|---|---|---|---|
{table}
"""


def page(content: dict[str, Any]) -> str:
    """Return the page, with the parts that have been measured."""
    rows = ["| what was tried | times | not as promised |", "|---|---|---|"]
    for name, said in FIGURES.items():
        one = content["figures"][name]
        slowest = "" if one["seconds"] is None else f", in {one['seconds']:g} s at most"
        slowest += "" if one.get("seconds_p95") is None else f", {one['seconds_p95']:g} s in 95 of 100"
        rows.append(f"| {said}{slowest} | {one['tried']:,} | {one['wrong']:,} |")
    about = f"On {content['date']}, {content['software']}, {content['hardware']['cpus']} processors "
    about += f"({content['hardware']['machine']}), in {content['seconds'] / 60:.0f} minutes."
    short = [f"{goal:,} {name}" for name, goal in TARGETS.items() if content["figures"][name]["tried"] < goal]
    owned = f"- Not reached yet: {', '.join(short)}.\n" if short else ""
    parts = [said(json.loads(path.read_text())) for path, said in ((SOAK, soaked), (SAFETY, costs)) if path.exists()]
    return HEAD + "\n".join([*rows, "", about]) + "\n" + "".join(parts) + LIMITS + owned


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, write the counts, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--date", default=datetime.date.today().isoformat())
    parser.add_argument("--only-page", action="store_true")
    options = parser.parse_args(arguments)
    if not options.only_page:
        RESULT.write_text(json.dumps({**carry_out(), "date": options.date}, indent=1) + "\n")
    PAGE.write_text(page(json.loads(RESULT.read_text())))
    print(PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
