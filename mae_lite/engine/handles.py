"""Other processes of this machine: whether they can be seen from here, and whether they still live."""

from __future__ import annotations

import os
import select
import socket
from pathlib import Path


def place_of_this() -> str:
    """Return what two processes have in common that can see each other's numbers; empty where that is unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"unlike any other: {socket.gethostname()} {os.getpid()}"


def handle_of(process: int) -> int | None:
    """Return what becomes readable when a process ends, -1 for one that has ended, None where there is no such thing.

    Unlike its number it is nobody else's later.
    """
    try:
        return os.pidfd_open(process)
    except ProcessLookupError:
        return -1
    except (AttributeError, OSError):
        return None


def ended(handle: int) -> bool:
    """Say whether the process of a handle has ended."""
    return handle < 0 or bool(select.select([handle], [], [], 0)[0])
