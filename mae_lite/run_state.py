"""In which state a run is, as far as its ``status.json`` and this machine can tell."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any


def state_of(status: Mapping[str, Any]) -> str:
    """Return the state that ``status.json`` gives; anyone may have written it.

    Returns:
        running, stopped, paused, finished or failed; interrupted for a run that calls itself running and has no
        process any more; unknown where nothing is said.
    """
    state = status.get("state")
    if not isinstance(state, str):
        return "unknown"
    return "interrupted" if state == "running" and _gone(status) else state


def _gone(status: Mapping[str, Any]) -> bool:
    """Say whether the process has ended; only its own machine can tell."""
    process = status.get("pid")
    if isinstance(process, bool) or not isinstance(process, int) or status.get("host") != socket.gethostname():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False
