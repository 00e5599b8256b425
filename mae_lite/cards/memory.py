"""The most memory that a program needs which opens a form and gives it one image."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from mae_lite.errors import shortly

_log = logging.getLogger(__name__)
_LIMIT_S = 600


def peak(form: str, folder: Path, shape: tuple[int, int]) -> dict[str, Any]:
    """Return the memory of a process of its own that opens a form.

    Args:
        form: its name; torch stands for a folder of timm.
        folder: of the form.
        shape: channels and side in pixels of its images.

    Returns:
        ``peak_mb``, and ``libraries_mb`` of it, before the form was opened; both None where it could not be measured,
        with ``why``.
    """
    words = [sys.executable, "-m", "mae_lite.cards.fresh", form, str(folder.resolve()), *map(str, shape)]
    places = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_LIMIT_S, env=environment)
        if done.returncode == 0:
            return {name: round(float(mb), 1) for name, mb in json.loads(done.stdout.splitlines()[-1]).items()}
        why = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    except (subprocess.TimeoutExpired, ValueError, IndexError, AttributeError) as error:
        why = shortly(error)
    _log.warning("the memory of %s could not be measured: %s", form, why)
    return {"peak_mb": None, "libraries_mb": None, "why": why}
