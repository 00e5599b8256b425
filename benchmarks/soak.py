"""An hour of training that is killed at seeded moments and goes on; then the same training left alone, and compared.

    python benchmarks/soak.py [--minutes 60] [--seed 0] [--out benchmarks/results/soak.json]

Half of the time `mae-lite pretrain digits-mae` runs with two data workers, probes and pictures, and gets SIGKILL, or
one time in four SIGTERM, after 10 to 70 seconds of each life, in the midst of whatever it does. The other half it runs
from beginning to end in one process. Memory, file descriptors, threads and processes of both are read every second.
Promised is that the two end with the same bits, that no process and no unfinished file stays behind, and that memory
and descriptors are flat: in the last quarter of the long life at most 2 % above those of the second. Needs psutil.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from mae_lite import files
from mae_lite.rundir import checkpoints, read_json, read_rows

RECIPE = "digits-mae"
SETTINGS = {"--data": "digits", "--workers": "2", "--loading": "workers", "--progress": "False"}
SETTINGS |= {"--save-every-steps": "100", "--log-every-steps": "20", "--probe-every-epochs": "20"}
BATCH, IMAGES = 128, 1346
"""Of the recipe, and of the digits to train on."""
CLOCK = ("seconds", "images_per_second", "reading_share", "teacher_share")
LIFE_SECONDS = (10.0, 70.0)
GENTLE = 0.25
"""Share of the lives that end by SIGTERM."""
FLAT = 0.02
ORPHANS_END_SECONDS = 30.0


class Sample(NamedTuple):
    """What one look at a run found: its own process, and all data workers together."""

    seconds: float
    memory_mb: float
    descriptors: int
    threads: int
    workers: int
    workers_mb: float


class Life(NamedTuple):
    """One start of the run, up to its end."""

    ended: str
    code: int
    seconds: float
    samples: list[Sample]
    orphans: int


def command(folder: Path, updates: int) -> list[str]:
    """Return the command of a run of so many updates."""
    settings = {**SETTINGS, "--epochs": f"{updates * BATCH / IMAGES!r}", "--out": str(folder)}
    words = [sys.executable, "-m", "mae_lite", "pretrain", RECIPE, "--warmup-epochs", "1"]
    return words + [word for pair in settings.items() for word in pair]


def lived(words: Sequence[str], log: Path, moment: float | None, number: signal.Signals) -> Life:
    """Start a run, look at it each second, and send it ``number`` after ``moment`` seconds, unless it ended before."""
    with log.open("ab") as said:
        process = psutil.Popen(words, stdout=said, stderr=said)
    begun, samples, kin = time.monotonic(), [], set()
    sent = False
    while process.poll() is None:
        seconds = time.monotonic() - begun
        try:
            kin |= set(process.children(recursive=True))
            samples.append(look(process, seconds))
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
        left = 1.0 if moment is None or sent else moment - seconds
        if left <= 0:
            process.send_signal(number)
            sent = True
        try:
            process.wait(1.0 if left <= 0 else min(1.0, left))
        except psutil.TimeoutExpired:
            continue
    code = int(process.wait())
    _, alive = psutil.wait_procs(list(kin), timeout=ORPHANS_END_SECONDS)
    ended = number.name if code in (-number, 75) else "finished" if code == 0 else "failed"
    return Life(ended, code, time.monotonic() - begun, samples, len(alive))


def look(process: psutil.Process, seconds: float) -> Sample:
    """Return what there is to see of a process and its data workers."""
    workers = [child for child in process.children(recursive=True) if child.is_running()]
    with process.oneshot():
        own = process.memory_info().rss / 1e6, process.num_fds(), process.num_threads()
    megabytes = 0.0
    for worker in workers:
        try:
            megabytes += worker.memory_info().rss / 1e6
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return Sample(seconds, own[0], own[1], own[2], len(workers), megabytes)


def updates_in(minutes: float, place: Path) -> int:
    """Return how many updates take so long here, by a short run."""
    subprocess.run([*command(place, 5000), "--stop-after-steps", "120"], check=False, stdout=subprocess.DEVNULL)
    rate = statistics.median(row["images_per_second"] for row in read_rows(place) if "images_per_second" in row)
    return max(int(minutes * 60 * rate / BATCH), 200)


def interrupted(folder: Path, updates: int, seed: int) -> list[Life]:
    """Let a run live, and end it, until it is finished."""
    draw = random.Random(seed)
    lives: list[Life] = []
    while not lives or lives[-1].ended in ("SIGKILL", "SIGTERM"):
        number = signal.SIGTERM if draw.random() < GENTLE else signal.SIGKILL
        lives.append(lived(command(folder, updates), folder.with_suffix(".log"), draw.uniform(*LIFE_SECONDS), number))
        step = read_json(folder / "status.json", "a run folder").get("step", 0) if folder.exists() else 0
        print(f"life {len(lives)}: {lives[-1].ended} after {lives[-1].seconds:.0f} s, step {step}", flush=True)
    return lives


def remains(folder: Path) -> dict[str, Any]:
    """Return everything that the two runs must agree on, and that the clock does not decide."""
    step, newest = checkpoints(folder)[0]
    digests = {name: files.sha256(data) for name, data in files.read_folder(newest).items()}
    rows = [{key: value for key, value in row.items() if key not in CLOCK} for row in read_rows(folder)]
    pictures = {path.name: files.sha256(path.read_bytes()) for path in (folder / "previews").glob("*.png")}
    model = files.sha256((folder / "encoder" / "model.safetensors").read_bytes())
    return {"step": step, "checkpoint": digests, "rows": rows, "pictures": pictures, "model": model}


def flatness(samples: Sequence[Sample]) -> dict[str, Any]:
    """Return means of the second and the last quarter of a life, for everything that must not grow, and the verdict."""
    quarter = max(len(samples) // 4, 1)
    found: dict[str, Any] = {}
    for name in Sample._fields[1:]:
        early, late = (
            statistics.fmean(getattr(one, name) for one in part)
            for part in (samples[quarter : 2 * quarter] or samples, samples[-quarter:])
        )
        found[name] = {"second_quarter": round(early, 2), "last_quarter": round(late, 2)}
        found[name]["flat"] = late <= early * (1 + FLAT)
    return found


def summary(lives: Sequence[Life], alone: Life, folders: tuple[Path, Path]) -> dict[str, Any]:
    """Return what the hour showed."""
    ended = [life.ended for life in lives]
    left = [str(path.relative_to(folders[0])) for path in folders[0].rglob(f"{files.TEMPORARY}*")]
    megabytes = [sum(path.stat().st_size for path in one.rglob("*") if path.is_file()) / 1e6 for one in folders]
    peaks = [round(max(sample.memory_mb for sample in life.samples), 1) for life in lives if life.samples]
    flat = flatness(alone.samples)
    same = alone.ended == ended[-1] == "finished" and remains(folders[0]) == remains(folders[1])
    orphans = sum(life.orphans for life in [*lives, alone])
    good = same and not left and not orphans and all(one["flat"] for one in flat.values())
    return {
        "lives": len(lives),
        "killed": ended.count("SIGKILL"),
        "stopped": ended.count("SIGTERM"),
        "same_bits": same,
        "orphans": orphans,
        "left_behind": left,
        "folder_mb": {"interrupted": round(megabytes[0], 1), "left alone": round(megabytes[1], 1)},
        "peak_memory_mb_of_lives": peaks,
        "long_life_seconds": round(alone.seconds),
        "long_life": flat,
        "as_promised": good,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both halves, compare, write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--updates", type=int, help="of each half, instead of as many as the minutes hold")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/soak.json"))
    options = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        broken, whole = Path(place) / "interrupted", Path(place) / "alone"
        # A life needs some seconds to begin, and makes updates again: those take the tenth that is missing.
        updates = options.updates or updates_in(0.4 * options.minutes, Path(place) / "speed")
        lives = interrupted(broken, updates, options.seed)
        alone = lived(command(whole, updates), whole.with_suffix(".log"), None, signal.SIGTERM)
        if alone.ended == lives[-1].ended == "finished":
            found = summary(lives, alone, (broken, whole))
        else:
            sys.exit(f"a run failed:\n{broken.with_suffix('.log').read_text()[-2000:]}")
    length = f"--updates {updates}" if options.updates else f"--minutes {options.minutes:g}"
    content = {
        "updates": updates,
        "minutes": round((time.monotonic() - begun) / 60, 1),
        **found,
        "seed": options.seed,
        "date": datetime.date.today().isoformat(),
        "software": {name: version(name) for name in ("mae_lite", "torch")},
        "hardware": {"cpus": os.cpu_count(), "machine": platform.machine(), "system": platform.system()},
        "command": f"python benchmarks/soak.py {length} --seed {options.seed}",
    }
    files.make_folder(options.out.parent)
    files.write_json(options.out, content)
    print(json.dumps(content, indent=1))
    return 0 if found["as_promised"] else 1


if __name__ == "__main__":
    sys.exit(main())
