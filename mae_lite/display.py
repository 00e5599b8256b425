"""Progress of a run for a person: a bar with rate, time left and loss in a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

_log = logging.getLogger(__name__)


class Show(Protocol):
    """Tells of a finished update."""

    def __call__(self, step: int, row: Mapping[str, Any] | None) -> None:
        """Show update ``step``; ``row`` holds loss and rate where one was logged."""


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
        if row is not None:
            left = (total - step) * row["seconds"] / max(1, step - previous[0])
            previous[0] = step
            _log.info("%s: step %d of %d, %s, %s left", name, step, total, _numbers(row), _clock(left))

    previous = [start]
    yield show


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

        def show(step: int, row: Mapping[str, Any] | None) -> None:
            progress.update(task, completed=step)
            if row is not None:
                progress.update(task, numbers=_numbers(row))

        yield show


def _numbers(row: Mapping[str, Any]) -> str:
    return f"loss {row['loss']:.4f}, {row['images_per_second']:,.0f} images/s"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
