"""What carries out a start of a run: command, code, versions and machine. Nothing of the environment's variables."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

_LIBRARIES = ("mae_lite", "torch", "torchvision", "timm", "lightning-fabric", "numpy", "pillow", "safetensors")


def of_this_start() -> dict[str, Any]:
    """Return the command and what carries it out, as JSON takes it."""
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _LIBRARIES},
        "git": _git(),
        "machine": {"host": socket.gethostname(), "system": platform.platform(), "cpus": os.cpu_count()},
    }


def version(name: str) -> str | None:
    """Return the version of an installed package; None where it is not installed as one."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git() -> dict[str, Any] | None:
    """Return commit and state of the checkout that this package runs from, if it is one."""
    where = Path(__file__).parent
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=where, capture_output=True, text=True, timeout=10)
        changes = subprocess.run(
            ["git", "status", "--porcelain"], cwd=where, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return {"commit": commit.stdout.strip(), "changed": bool(changes.stdout)} if commit.returncode == 0 else None
