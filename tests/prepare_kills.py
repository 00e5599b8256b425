"""Kill ``mae-lite prepare`` at chosen operations of the disk, start it again, and compare with one never killed.

Runs as a process of its own, which has used no threads yet, so that forking it is safe.

    python tests/prepare_kills.py DATA FOLDER KIND KILLS      prints one line of JSON
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Literal

from mae_lite import files
from mae_lite.data.scan import RACY_NS
from mae_lite.preparing.prepare import Order, prepare
from tests.faulty_disk import FaultyDisk


def tree(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file but the lock."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): files.sha256(path.read_bytes()) for path in found}


def child(data: str, folder: Path, kind: Literal["jpeg", "uint8"], kill_at: int, count: Path | None = None) -> int:
    """Fork, prepare, and die at operation ``kill_at`` (0: never), an append half done; return the wait status."""
    process = os.fork()
    if process:
        return os.waitpid(process, 0)[1]

    def fault(number: int, name: str, path: Path) -> int:
        if number == kill_at:
            if name in ("append", "write"):
                with path.open("ab") as handle:
                    handle.write(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        return 0

    try:
        disk = FaultyDisk(fault)
        files.disk = disk
        prepare(Order(data, folder, kind=kind, workers=0))
        if count is not None:
            count.write_text(str(len(disk.operations)))
        os._exit(0)
    except BaseException as error:  # the exit status is all that the parent sees
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        os._exit(1)


def main(data: str, folder: Path, kind: Literal["jpeg", "uint8"], kills: int) -> dict[str, object]:
    """Kill at ``kills`` operations spread over the whole; report what went wrong."""
    reference, count = folder / "reference", folder / "operations"
    # A folder is listed anew as long as it changed a moment ago; the first start after that leaves its list in the
    # cache, so that all others do the same operations.
    time.sleep(RACY_NS / 1e9 + 0.1)
    if child(data, folder / "first", kind, 0) or child(data, reference, kind, 0, count):
        return {"wrong": ["the uninterrupted one failed"]}
    total = int(count.read_text())
    expected, wrong = tree(reference), []
    spread = sorted({1 + round(i * (total - 1) / (kills - 1)) for i in range(kills)})
    for kill_at in spread:
        pack = folder / f"kill-{kill_at}"
        if child(data, pack, kind, kill_at) != signal.SIGKILL:
            wrong.append(f"operation {kill_at}: was not killed")
        elif child(data, pack, kind, 0):
            wrong.append(f"operation {kill_at}: did not go on")
        elif tree(pack) != expected:
            wrong.append(f"operation {kill_at}: differs from one never killed")
    return {"operations": total, "killed": len(spread), "wrong": wrong}


if __name__ == "__main__":
    print(
        json.dumps(
            main(sys.argv[1], Path(sys.argv[2]), "uint8" if sys.argv[3] == "uint8" else "jpeg", int(sys.argv[4]))
        )
    )
