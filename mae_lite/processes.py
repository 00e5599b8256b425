"""Worker processes that carry out runs side by side; a signal lets them save and stop."""

from __future__ import annotations

import concurrent.futures
import logging
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from types import TracebackType
from typing import TypeVar

from mae_lite.engine.signals import ctrl_c_held_back, end_with_parent
from mae_lite.errors import DiskError

T = TypeVar("T")


@contextmanager
def stop_signals_raise() -> Iterator[None]:
    """Turn SIGTERM into what Ctrl-C is; it is passed on to the workers, which Ctrl-C reaches anyway."""

    def handle(number: int, frame: object) -> None:
        del frame
        _signal_workers(number)
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _signal_workers(number: int) -> None:
    for child in multiprocessing.active_children():
        if child.pid is not None:
            os.kill(child.pid, number)


class Pool:
    """Worker processes that import torch once and carry out calls."""

    def __init__(self, processes: int, say: Callable[[str], None]) -> None:
        """Prepare.

        Args:
            processes: calls carried out at once.
            say: is told how many calls have finished.
        """
        context = multiprocessing.get_context("spawn")
        self._processes, self._say = processes, say
        self._pool = concurrent.futures.ProcessPoolExecutor(processes, context, initializer=_start_worker)

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and issubclass(kind, Exception):  # one failed: the others save and stop
            _signal_workers(signal.SIGTERM)
        self._pool.shutdown(wait=True, cancel_futures=True)

    def finish(
        self, calls: Sequence[Callable[[], T | None]], after_first: Sequence[Callable[[], T | None]] = ()
    ) -> list[T]:
        """Carry out ``calls`` in their order, and ``after_first`` as soon as the first of them has finished.

        Args:
            calls: return None when they were asked to stop.
            after_first: likewise; they need what the first call has made.

        Returns:
            What the calls returned, then what those after the first did.

        Raises:
            KeyboardInterrupt: when a worker was asked to stop.
            DiskError: when a worker is gone.
        """
        every = [*calls, *after_first]
        waiting, results = list(range(len(calls))), dict[int, T]()
        running: dict[concurrent.futures.Future[T | None], int] = {}
        while waiting or running:
            while waiting and len(running) < self._processes:  # what is submitted can no longer be called back
                number = waiting.pop(0)
                with ctrl_c_held_back():  # this is where processes start
                    running[self._pool.submit(every[number])] = number
            finished, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
            for future in finished:
                number, result = running.pop(future), _result_of(future)
                if result is None:
                    raise KeyboardInterrupt
                results[number] = result
                if number == 0:
                    waiting += range(len(calls), len(every))
            self._say(f"    {len(results)} of {len(every)} runs finished")
        return [results[number] for number in range(len(every))]

    def call(self, function: Callable[[], T]) -> T:
        """Call ``function`` in a worker."""
        with ctrl_c_held_back():
            future = self._pool.submit(function)
        return _result_of(future)


def _result_of(future: concurrent.futures.Future[T]) -> T:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise DiskError(
            "a worker process ended without a word",
            found="killed from outside, or by the system for its memory",
            fix="free some memory or use fewer --processes; the same command continues",
        ) from error


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # between runs the parent decides
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    logging.basicConfig(level=logging.WARNING, format="    %(message)s", force=True)
    end_with_parent()
