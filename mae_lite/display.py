"""Progress of a run for a person: a bar with rate, time left and loss in a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

_log = logging.getLogger(__name__)


class Show(Protocol):
    """Tells of a finished update."""

    def __call__(self, step: int, row: Mapping[str, Any] | None) -> None:
        """Show update ``step``; ``row`` holds what was logged of it, loss and rate or what was measured."""


def display(name: str, start: int, total: int, enabled: bool) -> AbstractContextManager[Show]:
    """Return the display of a run that goes from update ``start`` to ``total``; none where only warnings are wanted."""
    if not enabled or logging.getLogger("mae_lite").level > logging.INFO:
        return _silent()
    return _bar(name, start, total) if sys.stderr.isatty() else _lines(name, start, total)


@contextmanager
def _silent() -> Iterator[Show]:
    yield lambda step, row: None  # noqa: ARG005


@contextmanager
def _lines(name: str, start: int, total: int) -> Iterator[Show]:
    def show(step: int, row: Mapping[str, Any] | None) -> None:
        if row is None or not (said := _numbers(row)):
            return
        if "loss" in row:
            rows.append((step, row["seconds"]))
            said = f"{said}, {_clock((total - step) * _pace(start, rows))} left"
        _log.info("%s: step %d of %d, %s", name, step, total, said)

    rows: list[tuple[int, float]] = []
    yield show


def _pace(start: int, rows: Sequence[tuple[int, float]]) -> float:
    """Return the seconds of an update, with what is measured in between; the first row's stand for it only alone.

    In these, workers start and torch warms up.
    """
    begin, counted = (rows[0][0], rows[1:]) if len(rows) > 1 else (start, rows)
    return sum(seconds for _, seconds in counted) / max(1, rows[-1][0] - begin)


@contextmanager
def _bar(name: str, start: int, total: int) -> Iterator[Show]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[numbers]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(name, total=total, completed=start, numbers="")
        said = {"loss": "", "measured": ""}

        def show(step: int, row: Mapping[str, Any] | None) -> None:
            progress.update(task, completed=step)
            if row is not None:
                said["loss" if "loss" in row else "measured"] = _numbers(row)
                progress.update(task, numbers=", ".join(filter(None, said.values())))

        yield show


def _numbers(row: Mapping[str, Any]) -> str:
    if "val_top1" in row:
        return f"{100 * row['val_top1']:.1f} % of the validation images recognised"
    if "loss" not in row:
        return ""  # probes, which metrics.jsonl and the page have
    return f"loss {row['loss']:.4f}, {row['images_per_second']:,.0f} images/s"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
