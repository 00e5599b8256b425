"""The processes that read images: what they do with signals, and what each was reading when it died or hung."""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import signal
import threading
import time
import weakref
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from types import FrameType
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from mae_lite.data.batch import Batch
from mae_lite.errors import DiskError, MaeLiteError

_log = logging.getLogger(__name__)

_NAME_BYTES = 400
_PREFETCHED = 4
"""Batches that each worker reads ahead."""
_LOOK_SECONDS = 5.0
"""How often PyTorch looks whether the workers still live, while it waits for one."""
_END_SECONDS = 5.0
"""The longest time from the loss of a connection to a worker until its end is seen; a great one frees memory first."""


class Slots:
    """A name for each worker, in memory that they share with the main process: what it reads at the moment."""

    def __init__(self, workers: int) -> None:
        """Make room; without workers there is nothing to remember."""
        self._memory = multiprocessing.RawArray("c", max(1, workers * _NAME_BYTES))

    def reading(self, name: str) -> None:
        """Remember, in a worker, what it reads; "" for nothing."""
        about = get_worker_info()
        if about is not None:
            start = about.id * _NAME_BYTES
            padded = name.encode(errors="replace")[:_NAME_BYTES].ljust(_NAME_BYTES, b"\0")
            memoryview(self._memory).cast("B")[start : start + _NAME_BYTES] = padded

    def of(self, worker: int) -> str:
        """Return what a worker reads, or read last."""
        start = worker * _NAME_BYTES
        return bytes(self._memory[start : start + _NAME_BYTES]).rstrip(b"\0").decode(errors="replace")


class Samples(Dataset["Batch | MaeLiteError"]):
    """Whole batches by key, or the errors in their place."""

    slots: Slots


class Keys(Protocol):
    """The keys of a pass, of which the first ones can be left out."""

    def __len__(self) -> int:
        """Return their number."""
        ...

    def __getitem__(self, rest: slice) -> Any:
        """Return what iterates over all but the first ones."""
        ...


class Loader:
    """Batches in order; each pass starts the workers anew, and once more at a place where one of them dies or hangs."""

    patience_s = 900.0
    """Seconds without a batch after which a worker counts as hung; a shard from far away may take minutes."""

    def __init__(self, samples: Samples, keys: Keys, workers: int, pin_memory: bool) -> None:
        """Prepare; workers start with the first batch."""
        self._samples, self._keys, self._workers, self._pin_memory = samples, keys, workers, pin_memory
        samples.slots = Slots(workers)

    def _pass(self, done: int) -> DataLoader[Batch | MaeLiteError]:
        """Return what reads all batches but the first ``done``."""
        settings: dict[str, Any] = {"prefetch_factor": _PREFETCHED, "worker_init_fn": start_worker}
        settings["timeout"] = min(_LOOK_SECONDS, self.patience_s)  # with any, it looks at the end of it alone
        return DataLoader(
            self._samples,
            sampler=self._keys[done:],  # each key is asked of the data set as it is
            batch_size=None,  # each key is a whole batch already
            collate_fn=_unchanged,
            num_workers=self._workers,
            pin_memory=self._pin_memory,
            generator=torch.Generator(),  # or it would draw a seed from the global generator
            **(settings if self._workers else {}),
        )

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self._keys)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches.

        Raises:
            DataError: when no image that can be read was found to replace a bad one; the same as in the worker.
            DiskError: when a worker died or hung for the second time, or a shard can no longer be fetched.
        """
        batches = self._checked()
        # A pass still open when the program ends must let go of its workers before PyTorch waits for them.
        atexit.register(_close, weakref.ref(batches))
        return batches

    def _checked(self) -> Generator[Batch, None, None]:
        done, lost = 0, None
        while done < len(self):
            with _deaths_are_no_signals():
                batches: Any = iter(self._pass(done))
            try:
                while (item := self._next(batches)) is not None:
                    if isinstance(item, MaeLiteError):
                        raise item
                    done += 1
                    yield item
            except (RuntimeError, OSError, EOFError) as error:
                if not _is_lost(error, getattr(batches, "_workers", ())):
                    raise  # a bug in what a worker ran
                found = _what_happened(batches._workers, self._samples.slots) or (
                    str(error).partition("\n")[0] or repr(error)
                )
                for process in batches._workers:
                    process.kill()  # PyTorch would wait five seconds for each one that hangs
                if lost is not None and done - lost <= 2 * _PREFETCHED * self._workers:
                    raise _lost(found) from error
                # Batches are functions of their keys: what is read again is the same.
                _log.warning("a process that reads images is lost, all are started again: %s", found)
                lost = done
            finally:
                # Not left to garbage collection: a traceback may keep the iterator, and Python at exit waits for it.
                if (stop := getattr(batches, "_shutdown_workers", None)) is not None:
                    stop()
                for process in getattr(batches, "_workers", ()):
                    process.kill()  # only one that hangs is still there

    def _next(self, batches: Any) -> Batch | MaeLiteError | None:
        """Return the next batch, None after the last; wait as long as patience lasts and the workers live."""
        end = time.monotonic() + self.patience_s
        while True:
            try:
                item: Batch | MaeLiteError | None = next(batches, None)
                return item
            except RuntimeError as error:
                if not str(error).startswith("DataLoader timed out") or time.monotonic() >= end:
                    raise


@contextmanager
def _deaths_are_no_signals() -> Iterator[None]:
    """Undo that PyTorch, once workers start, tells of their deaths by an error wherever the main thread happens to be.

    In the midst of an update nobody could start them again; whoever waits for their next batch is told anyway.
    """
    if threading.current_thread() is not threading.main_thread():  # there PyTorch does not do so
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)


def _is_lost(error: Exception, processes: Sequence[multiprocessing.Process]) -> bool:
    """Say whether an error of PyTorch's loader means that a worker died or hangs."""
    if isinstance(error, RuntimeError):
        return str(error).startswith(("DataLoader worker", "DataLoader timed out"))
    # A batch it left is fetched over a connection to the worker, which breaks a moment before its end can be seen.
    by_end = {process.sentinel: process for process in processes}
    ended = [by_end[end] for end in wait(list(by_end), timeout=_END_SECONDS if by_end else 0) if isinstance(end, int)]
    for process in ended:
        process.join(timeout=_END_SECONDS)  # or it would have no exit code yet, and another one be blamed
    return bool(ended)


def _lost(found: str) -> DiskError:
    return DiskError(
        "a process that reads images died or hung, and did again when it was started anew",
        found=found,
        expected="an image that can be read, enough memory, and enough shared memory (/dev/shm)",
        fix="look at that image; use fewer processes with --workers 2, or none with --workers 0 to see the cause",
    )


def _close(batches: weakref.ref[Generator[Batch, None, None]]) -> None:
    if (alive := batches()) is not None:
        alive.close()


def _what_happened(processes: Sequence[multiprocessing.Process], slots: Slots) -> str:
    """Say which workers died, or else which have not finished, and what each was reading."""
    dead = [number for number, process in enumerate(processes) if process.exitcode is not None]
    return "; ".join(
        f"worker {number} {_end(processes[number].exitcode)}, at {slots.of(number) or 'no image'!r}"
        for number in dead or range(len(processes))
        if dead or slots.of(number)
    )


def _end(code: int | None) -> str:
    if code is None:
        return "hangs"
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def start_worker(worker: int) -> None:  # noqa: ARG001  # PyTorch passes the number
    """Leave stopping to the main process, and the other cores to other workers."""
    torch.set_num_threads(1)
    # These signals go to the whole process group; the main process decides, and ends its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _ignore_once)


def _ignore_once(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  # a signal handler takes both
    # A second one ends the worker: Python sends it at exit and would wait for ever for a worker that ignored it.
    signal.signal(number, signal.SIG_DFL)


def _unchanged(item: Any) -> Any:
    return item
