"""Where rows of ``metrics.jsonl`` also go. That file is the truth: what a logger lacks it gets when the run goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from mae_lite.errors import shortly


class Logger(Protocol):
    """A place that rows go to; opened anew by each start of a run, on the first rank."""

    last: int
    """The update up to which it had rows when it was opened; it is given those of later ones alone."""

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Take the numbers of the row of update ``step``."""

    def close(self, state: str) -> None:
        """End with what this start came to: finished, stopped, paused or failed."""


class Loggers:
    """Several loggers as one; one that breaks costs its own rows of this start, never the run."""

    def __init__(self, openers: Mapping[str, Callable[[], Logger]], rows: Iterable[Mapping[str, Any]] = ()) -> None:
        """Open each, and give it those of ``rows``, from earlier starts, that it lacks."""
        self.state, self._open = "failed", dict[str, Logger]()
        for name, opener in openers.items():
            with self._guarded(name):
                self._open[name] = opener()
        for row in rows if self._open else ():
            self.log(row)

    def log(self, row: Mapping[str, Any]) -> None:
        """Pass the numbers of ``row`` on."""
        numbers = {name: float(v) for name, v in row.items() if name != "step" and isinstance(v, int | float)}
        for name in [name for name, logger in self._open.items() if row["step"] > logger.last]:
            with self._guarded(name):
                self._open[name].log(row["step"], numbers)

    def __enter__(self) -> Loggers:
        """Close the loggers with :attr:`state`, which is to be set, at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._open):
            with self._guarded(name):
                self._open[name].close(self.state)

    @contextmanager
    def _guarded(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # each library, and what is behind it, has errors of its own
            self._open.pop(name, None)
            logging.getLogger(__name__).warning("%s gets no more rows of this start: %s", name, shortly(error))
