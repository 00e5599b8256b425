"""Stages as processes of this command line, several at once. A signal lets all of them save and stop."""

from __future__ import annotations

import collections
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mae_lite import files
from mae_lite.engine.signals import StopSignals, killed_with_parent
from mae_lite.errors import EXIT_STOPPED, plain
from mae_lite.studying.stages import Stage
from mae_lite.terminal import say
from mae_lite.timing.clock import clock

_LAST_LINES = 12
_BEGUN = "$ mae-lite "
"""Begins what a log says of one try; the command follows."""
_POLL_SECONDS = 0.1


@dataclass
class Outcome:
    """How the stages ended."""

    finished: list[str] = field(default_factory=list)
    failed: dict[str, int] = field(default_factory=dict)
    """Exit code by stage."""
    skipped: list[str] = field(default_factory=list)
    """Stages that were not begun, because one that they need failed."""
    stopped: bool = False


@dataclass
class _Running:
    stage: Stage
    process: subprocess.Popen[bytes]
    begun: float
    place: int


class Pool:
    """Carries out stages; each in a process that has its share of the processors, or a GPU."""

    def __init__(self, processes: int, logs: Path, gpus: Sequence[str] = (), tell: Callable[[str], None] = say) -> None:
        """Prepare a pool.

        Args:
            processes: stages at once.
            logs: folder for what they print.
            gpus: names of GPUs, one for each stage, in turn; none leaves the choice to them.
            tell: takes news, line by line.
        """
        self._processes, self._logs, self._gpus, self._tell = processes, logs, gpus, tell
        self._running: list[_Running] = []
        self._total = 0

    def run(self, stages: Mapping[str, Stage]) -> Outcome:
        """Carry out those of ``stages`` that are not done, in an order that their needs allow."""
        outcome = Outcome()
        waiting = collections.deque(stage for stage in stages.values() if stage.state() != "done")
        self._total, missing = len(waiting), {stage.name for stage in waiting}
        files.make_folder(self._logs)
        with StopSignals() as signals:
            try:
                while (waiting and not signals.requested) or self._running:
                    for _ in range(0 if signals.requested else len(waiting)):
                        stage = waiting.popleft()
                        lost = next((n for n in stage.needs if n in outcome.failed or n in outcome.skipped), None)
                        if lost is not None:
                            outcome.skipped.append(stage.name)
                        elif len(self._running) < self._processes and not missing & set(stage.needs):
                            self._start(stage)
                        else:
                            waiting.append(stage)
                    self._collect(outcome, missing, signals)
            finally:
                self._end_all(signal.SIGKILL)  # nothing is left unless an error ended the loop
        outcome.stopped |= signals.requested is not None and len(outcome.finished) < self._total
        return outcome

    def _collect(self, outcome: Outcome, missing: set[str], signals: StopSignals) -> None:
        """Wait a moment, and sort out what has ended; pass a request to stop on, once."""
        told = False
        while self._running:
            if signals.requested and not told:
                self._tell(f"{signals.requested}: {len(self._running)} stages save and stop")
                self._end_all(signal.SIGTERM)
                told = True
            ended = [one for one in self._running if one.process.poll() is not None]
            for one in ended:
                self._running.remove(one)
                self._end(one, outcome, missing, bool(signals.requested))
            if ended and not told:
                return
            time.sleep(_POLL_SECONDS)

    def _start(self, stage: Stage) -> None:
        place = min(set(range(self._processes)) - {one.place for one in self._running})
        threads = max(1, len(os.sched_getaffinity(0)) // self._processes)
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
        if self._gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self._gpus[place % len(self._gpus)]
        with (self._logs / f"{stage.name}.log").open("ab") as log:
            log.write(f"{_BEGUN}{shlex.join(stage.words)}\n".encode())
            log.flush()
            # A group of its own: Ctrl-C reaches this process alone, which passes it on once.
            process = subprocess.Popen(
                command(stage),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                process_group=0,
                preexec_fn=killed_with_parent,
            )
        self._running.append(_Running(stage, process, time.monotonic(), place))

    def _end(self, one: _Running, outcome: Outcome, missing: set[str], stopping: bool) -> None:
        """Note how a stage ended, and say so."""
        name, code, took = one.stage.name, one.process.returncode, clock(time.monotonic() - one.begun)
        if code == 0 and one.stage.state() == "done":
            missing.discard(name)
            outcome.finished.append(name)
            self._tell(f"[{len(outcome.finished)} of {self._total}] {name} ({took})")
        elif stopping:
            self._tell(f"{name} is stopped, and goes on when the same command is given")
        elif code == EXIT_STOPPED:
            outcome.stopped = True
            outcome.failed[name] = code
            self._tell(f"{name} was stopped by a signal of its own")
        else:
            outcome.failed[name] = code
            self._tell(failure(one.stage, code, self._logs / f"{name}.log"))

    def _end_all(self, number: signal.Signals) -> None:
        for one in self._running:
            one.process.send_signal(number)


def gpus(runtime: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the GPUs that stages with this runtime can have, as CUDA_VISIBLE_DEVICES names them."""
    if runtime.get("accelerator") == "cpu":
        return ()
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    count = torch.cuda.device_count()
    return tuple(named.split(",")[:count]) if named else tuple(map(str, range(count)))


def command(stage: Stage) -> list[str]:
    """Return the command of a stage, for this Python."""
    return [sys.executable, "-m", "mae_lite", *stage.words]


def failure(stage: Stage, code: int, log: Path) -> str:
    """Return what to say of a failed stage: its command, and its last lines."""
    ending = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
    tries = log.read_text(encoding="utf-8", errors="backslashreplace").rpartition(_BEGUN)[2]
    lines = tries.splitlines()[1:][-_LAST_LINES:]
    shown = [
        f"{stage.name} failed ({ending})",
        f"  command  {shlex.join(('mae-lite', *stage.words))}",
        f"  log      {log}",
    ]
    return plain("\n".join([*shown, *(f"  | {line}" for line in lines)]))
