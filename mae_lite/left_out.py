"""Updates that a run leaves out because they were not finite. They belong to what the run is, so its folder keeps them.

The list is on the disk before the run goes on: one that is killed at any moment leaves out the same updates.
"""

from __future__ import annotations

from pathlib import Path

from mae_lite import files
from mae_lite.errors import NumericsError
from mae_lite.rundir import read_json

FILE = "left_out.json"
MOST = 3
"""Updates that a run may leave out; one that needs more has another trouble than a bad batch."""


def read(run: Path) -> tuple[int, ...]:
    """Return the numbers of the updates that the run leaves out, in the order in which they were found.

    Raises:
        CheckpointError: when the list is there and cannot be read.
    """
    path = run / FILE
    return tuple(read_json(path, "a run folder")["updates"]) if path.exists() else ()


def add(run: Path, step: int, failure: NumericsError) -> tuple[int, ...]:
    """Add update ``step`` to the list and return it whole.

    Raises:
        NumericsError: when there is no such update, or nothing more may be left out; says what ``failure`` says.
        DiskError: when the list cannot be written.
    """
    known = read(run)
    if step < 0 or step in known:
        why = "no update can be blamed for it: what the run starts from is not finite"
    elif len(known) >= MOST:
        why = f"{MOST} updates were left out already ({', '.join(map(str, known))})"
    else:
        updates = (*known, step)
        files.write_json(run / FILE, {"updates": list(updates)})
        return updates
    raise NumericsError(f"{failure.what}; {why}", found=failure.found, expected=failure.expected, fix=failure.fix)
