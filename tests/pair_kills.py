"""Kill one of two ranks, or both, after an update or inside an operation of the disk; start the pair again; compare.

Runs as a process of its own, like tests/pairs.py, whose forks it uses.

    python tests/pair_kills.py FOLDER          prints one line of JSON
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from mae_lite import files
from mae_lite.rundir import last_start
from tests.faulty_disk import KILL, FaultyDisk, at
from tests.pairs import Hook, begin, nothing, pair, remains, to_end, words

UPDATES, SAVES = 6, 2
"""Of the toy run, and between two of its checkpoints."""
OPERATIONS = range(2, 50, 6)
"""Of the first rank's disk, at some of which it is killed: from the making of the folder to the last checkpoint."""


def killing(ranks: tuple[int, ...], after: int) -> Hook:
    """Return a hook that kills ``ranks`` after an update."""

    def hook(rank: int, step: int) -> None:
        if rank in ranks and step == after:
            os.kill(os.getpid(), signal.SIGKILL)

    return hook


def trial(
    run: Path, hook: Hook, disk: files.Disk, dying: tuple[int, ...], updates: int | None
) -> tuple[list[str], float]:
    """Let a pair be killed, start it again; return what was wrong on the way, and the seconds from death to the end."""
    files.disk = disk
    ends = pair(run.parent / f"{run.name}-logs", words(run), hook)
    files.disk = files.Disk()
    wrong = [f"rank {rank} was not killed" for rank in dying if ends[rank].code != -signal.SIGKILL]
    if any(end.code in (0, None) for end in ends):
        wrong.append("a rank went on alone, or hung")
    again = pair(run.parent / f"{run.name}-again", words(run))
    if [end.code for end in again] != [0, 0]:
        return [*wrong, f"did not go on: {again[0].said[-300:]}"], to_end(ends)
    resumed = last_start(run)["resumed_at"]
    if updates is not None and updates - resumed > SAVES:
        wrong.append(f"went on at {resumed} of {updates} updates")
    return wrong, to_end(ends)


def main(folder: Path) -> dict[str, Any]:
    """Kill at every update each rank and both, and the first at operations of its disk; report what went wrong."""
    begin()
    os.fsync = lambda _: None  # type: ignore[assignment]  # a kill is no loss of power: what was written stays
    plain = pair(folder / "plain-logs", words(folder / "plain"))
    if [end.code for end in plain] != [0, 0]:
        return {"killed": 0, "wrong": [f"the uninterrupted pair failed: {plain[0].said[-300:]}"]}
    expected = remains(folder / "plain")
    wrong, killed, seconds = [], 0, []
    steps = [(ranks, after) for ranks in ((0,), (1,), (0, 1)) for after in range(1, UPDATES + 1)]
    cases: list[tuple[str, Hook, files.Disk, tuple[int, ...], int | None]]
    cases = [(f"{ranks} after {after}", killing(ranks, after), files.Disk(), ranks, after) for ranks, after in steps]
    cases += [(f"operation {n}", nothing, FaultyDisk(at(n, KILL), torn=True), (0,), None) for n in OPERATIONS]
    for number, (name, hook, disk, dying, updates) in enumerate(cases):
        run = folder / f"pair-{number}"
        said, took = trial(run, hook, disk, dying, updates)
        if not said and remains(run) != expected:
            said = ["differs from the uninterrupted pair"]
        wrong += [f"{name}: {one}" for one in said]
        killed += 1
        seconds += [took] if len(dying) == 1 else []
    return {"killed": killed, "wrong": wrong, "seconds": seconds}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]).resolve())))
