"""Values of files that anyone may have written: what is not sane is None."""

from __future__ import annotations

import math
from typing import Any


def number(value: Any) -> float | None:
    """Return a finite number; None for anything else that a file may hold."""
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e300 or not math.isfinite(value):
        return None
    return float(value)


def whole(value: Any) -> int | None:
    """Return a whole number of a sane size; None for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**15 else None
