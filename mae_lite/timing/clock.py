"""Durations for people."""

from __future__ import annotations


def clock(seconds: float) -> str:
    """Return a duration in the two largest units that it has."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    days, hours = divmod(minutes // 60, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"
