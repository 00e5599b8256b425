"""The other ranks of a run: when one fails, is killed or lost, all end soon, with one message that says which and why.

Ranks that wait for each other in gloo or NCCL do not learn why one does not come, and through NCCL not even that it
has gone. So each has a thread that says in the process group's store that it lives, looks whether the processes on
this machine and the next rank elsewhere still do, and reads what a rank that fails has left there before it went.
"""

from __future__ import annotations

import atexit
import json
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from torch.distributed import DistError
from torch.distributed.distributed_c10d import PrefixStore, _get_default_store

from mae_lite import errors, launch
from mae_lite.engine.handles import ended, handle_of, place_of_this
from mae_lite.engine.leaving import LastWords, end_soon, in_time, leave
from mae_lite.errors import EXIT_INTERRUPTED, MaeLiteError, PeerError, shortly

_BEAT_SECONDS = 0.5
_SILENT_SECONDS = 20.0
"""After this without a beat a rank on another machine counts as lost; on this one its end is seen at once."""
_NAMING_SECONDS = _SILENT_SECONDS + 2
"""So long a rank whose peers do not answer looks for the one that has gone."""
_GRACE_SECONDS = 1.0
"""So long the main thread has to end by itself, once it is known that a rank has gone."""
_HEARD_SECONDS = 5.0
_starts = 0


class Peers:
    """Context of work on several ranks; on one it does nothing."""

    def __init__(self, rank: int, ranks: int, barrier: Callable[[], object], resume: Callable[[], str]) -> None:
        """Prepare.

        Args:
            rank: of this process, in a process group that all have joined.
            ranks: how many there are.
            barrier: returns when all have called it.
            resume: says, as part of a line ``Fix:``, what is left of the work and how it goes on.
        """
        self.last_words: LastWords = _nothing
        """What to do about an error before this process ends; the first rank's goes to ``status.json``."""
        self._rank, self._ranks, self._barrier, self._resume = rank, ranks, barrier, resume
        self._exit_code: int | None = None
        self._failure: dict[str, Any] | None = None
        self._known, self._over = threading.Event(), threading.Event()
        self._handles: dict[int, int | None] = {}
        self._hosts: dict[int, str] = {}
        self._heard = ("", time.monotonic())

    def __enter__(self) -> Peers:
        """Begin to look after the others."""
        global _starts
        if self._ranks > 1:
            _starts += 1  # equal on all ranks, and other keys for each run of a process
            store = _get_default_store().clone()
            self._store = PrefixStore(f"peers/{_starts}", store)
            self._meet()
            atexit.register(self._at_exit)
            threading.Thread(target=self._follow, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Let them go."""
        self._over.set()

    def part(self) -> None:
        """Let them go for good after what was done together: how this process ends concerns nobody else."""
        atexit.unregister(self._at_exit)

    def _meet(self) -> None:
        place, host = place_of_this(), socket.gethostname()
        self._store.set(f"who/{self._rank}", json.dumps({"host": host, "pid": os.getpid(), "place": place}))
        for rank in range(self._ranks):
            about = json.loads(self._store.get(f"who/{rank}"))  # waits for it
            self._hosts[rank] = about["host"]
            if rank != self._rank:
                self._handles[rank] = handle_of(about["pid"]) if about["place"] == place else None

    @contextmanager
    def together(self) -> Iterator[None]:
        """Wrap what the ranks do together; no rank leaves the block before all have done it.

        Raises:
            MaeLiteError: on every rank, when one raised it.
            PeerError: when a rank was killed or lost, or has a bug, whose traceback it prints.
        """
        try:
            yield
            if self._ranks > 1:
                self._barrier()
        except BaseException as error:
            asked = isinstance(error, KeyboardInterrupt)  # whoever is interrupted knows why
            cause = error if self._ranks == 1 or asked else self._cause(error)
            other = EXIT_INTERRUPTED if asked else 1
            self._exit_code = cause.exit_code if isinstance(cause, MaeLiteError) else other
            self._over.set()
            self._say("ready")
            if cause is error:
                raise
            raise cause from error

    def _cause(self, error: BaseException) -> BaseException:
        """Return what to raise: the error of the rank that failed first."""
        if isinstance(error, MaeLiteError) and error.shared:
            return error
        if isinstance(error, DistError) or (isinstance(error, RuntimeError) and _of_a_collective(str(error))):
            self._known.wait(_NAMING_SECONDS)
            return self._as_error(self._failure or {"rank": None})
        own = self._told(error)
        failure = self._failure or own
        if failure["rank"] != self._rank and not _same(failure, own):
            return self._as_error(failure)
        if isinstance(error, MaeLiteError):
            heard = self._first_has_heard()
            common = (self._rank == 0 or not heard) and self._others_say(own)
            cause = error if common else self._as_error(own)
            cause.shared = heard
            return cause
        if self._rank == 0:
            return error
        if failure["rank"] == self._rank:
            traceback.print_exception(error)
            sys.stderr.flush()
        return self._as_error(failure)

    def _told(self, error: BaseException) -> dict[str, Any]:
        """Leave this rank's error for the others, unless another was first; return it."""
        words: dict[str, Any] = {"rank": self._rank, "host": socket.gethostname(), "said": shortly(error)}
        if isinstance(error, MaeLiteError):
            parts = [error.what, error.found, error.expected, error.fix]
            words |= {"kind": type(error).__name__, "parts": parts}
        with suppress(RuntimeError):  # without a store nobody can be told
            self._store.set(f"said/{self._rank}", json.dumps(words))
            self._note(json.loads(self._store.compare_set("failed", "", json.dumps(words))))
        return words

    def _note(self, failure: dict[str, Any]) -> None:
        if self._known.is_set():
            return
        self._failure = failure
        self._known.set()
        self._say("heard")

    def _say(self, what: str) -> None:
        if self._ranks > 1:
            with suppress(RuntimeError):
                self._store.set(f"{what}/{self._rank}", "")

    def _others_say(self, own: dict[str, Any]) -> bool:
        """Say whether all the others soon tell the same: then it is not this rank's own."""
        keys = [f"said/{rank}" for rank in range(self._ranks) if rank != self._rank]
        if not self._wait(keys, _BEAT_SECONDS):
            return False
        with suppress(RuntimeError):
            return all(_same(json.loads(self._store.get(key)), own) for key in keys)
        return False

    def _first_has_heard(self) -> bool:
        """Wait until the first rank knows what happened, so that it can speak for all; say whether it does."""
        return self._wait(["heard/0"], _HEARD_SECONDS)

    def _wait(self, keys: list[str], seconds: float) -> bool:
        end = time.monotonic() + seconds
        with suppress(RuntimeError):
            while time.monotonic() < end:
                if self._store.check(keys):
                    return True
                time.sleep(0.02)
        return False

    def _as_error(self, failure: dict[str, Any]) -> MaeLiteError:
        rank, lost = failure["rank"], "said" not in failure
        shared = self._rank != (1 if rank == 0 and lost else 0)
        who = f"rank {rank} of {self._ranks} on {failure['host']}" if rank is not None else "a rank"
        late = f"what was saved cannot be read now; the same command goes on with it: {launch.command()}"
        left = "" if shared else f"; {in_time(self._resume, late)}"
        if "kind" in failure:
            what, found, expected, fix = failure["parts"]
            error: MaeLiteError = _kind(failure)(f"{who}: {what}", found=found, expected=expected, fix=fix + left)
        elif lost:
            error = PeerError(f"{who} was killed or lost", fix=f"look for out of memory in the system's log{left}")
        else:
            fix = f"report it with its traceback{left}"
            error = PeerError(f"{who} failed", found=failure["said"], fix=fix)
        error.shared = shared
        return error

    def _follow(self) -> None:
        while not self._over.wait(_BEAT_SECONDS):
            try:
                self._look()
            except RuntimeError:  # the store lives with the first rank
                self._note(self._lost(0))
            if self._known.is_set():
                if not self._over.wait(_GRACE_SECONDS) and self._failure is not None:
                    end_soon(_kind(self._failure).exit_code)
                    error = self._as_error(self._failure)
                    leave(error, speak=not error.shared, last_words=self.end)
                return

    def end(self, error: MaeLiteError) -> None:
        """Tell the others, and write down, why this process ends while its main thread waits for something."""
        self._exit_code = error.exit_code
        self.last_words(error)
        if self._ranks > 1:
            self._told(error)
            self._say("ready")
            self._take_turns()

    def _look(self) -> None:
        """Say that this rank lives, and see whether the others do."""
        self._store.set(f"beat/{self._rank}", str(time.monotonic()))
        gone = [rank for rank, handle in self._handles.items() if handle is not None and ended(handle)]
        follower = (self._rank + 1) % self._ranks
        if self._handles[follower] is None and self._silent(follower):
            gone.append(follower)
        for rank in gone:
            self._store.compare_set("failed", "", json.dumps(self._lost(rank)))
        if self._store.check(["failed"]):
            self._note(json.loads(self._store.get("failed")))

    def _silent(self, rank: int) -> bool:
        beat = self._store.get(f"beat/{rank}").decode() if self._store.check([f"beat/{rank}"]) else ""
        if beat != self._heard[0]:
            self._heard = beat, time.monotonic()
        return time.monotonic() - self._heard[1] > _SILENT_SECONDS

    def _lost(self, rank: int) -> dict[str, Any]:
        return {"rank": rank, "host": self._hosts[rank]}

    def _at_exit(self) -> None:
        self._take_turns()
        if self._exit_code is not None:  # taking the process group apart would wait for those that are gone
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(self._exit_code)

    def _take_turns(self) -> None:
        """Leave in order: launchers kill what is left of a run when one of its processes ends with a code.

        The first rank speaks for the others, and holds the store: it goes when all know why, the others after it.
        """
        gone = {rank for rank, handle in self._handles.items() if handle is not None and ended(handle)}
        if self._rank == 0:
            if self._exit_code is not None:
                self._wait([f"ready/{rank}" for rank in range(self._ranks) if rank not in gone], _HEARD_SECONDS)
            self._say("left")
        elif 0 not in gone:
            self._wait(["left/0"], 2 * _HEARD_SECONDS)


def _nothing(error: MaeLiteError) -> None:
    del error


def _of_a_collective(text: str) -> bool:
    return any(name in text for name in ("gloo", "NCCL", "TCPStore"))


def _kind(failure: dict[str, Any]) -> type[MaeLiteError]:
    kind: type[MaeLiteError] = getattr(errors, failure.get("kind", "PeerError"), MaeLiteError)
    return kind


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.get("said") == other.get("said") is not None
