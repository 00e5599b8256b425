"""What the tests count, for the page on reliability: added to the file MAE_LITE_FIGURES, if that is set."""

from __future__ import annotations

import json
import os


def tally(what: str, tried: int = 1, wrong: int = 0, seconds: float | None = None) -> None:
    """Add to a figure.

    Args:
        what: its name, a key of ``FIGURES`` in benchmarks/reliability.py.
        tried: how often something was tried.
        wrong: how many of these did not end as promised.
        seconds: how long the slowest took, where that is the figure.
    """
    path = os.environ.get("MAE_LITE_FIGURES")
    if path:
        with open(path, "a", encoding="utf-8") as lines:  # one short write: tests run in several processes
            lines.write(json.dumps({"what": what, "tried": tried, "wrong": wrong, "seconds": seconds}) + "\n")
