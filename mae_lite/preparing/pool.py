"""Work carried out by several processes, in order, until a signal says stop."""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.process
import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar

from mae_lite.engine.signals import ctrl_c_held_back, end_with_parent
from mae_lite.errors import DiskError, Stopped
from mae_lite.handover import Handed

StateT = TypeVar("StateT")
JobT = TypeVar("JobT")
ResultT = TypeVar("ResultT")
Asked = Callable[[], bool]
Work = Callable[[StateT, JobT, Asked], ResultT]
"""Called with what all jobs share, a job, and what says whether to stop; then it raises Stopped."""
_LOOK_S = 0.2


def each(
    work: Work[StateT, JobT, ResultT], state: StateT, jobs: Sequence[JobT], workers: int, stopped: Asked
) -> Generator[ResultT, None, None]:
    """Yield what ``work`` makes of every job, in their order.

    Args:
        work: a function of a module.
        state: copied to every process once.
        jobs: what to do.
        workers: processes; 0 works in this one.
        stopped: asked often.

    Raises:
        Stopped: when ``stopped`` says so.
        DiskError: when a process died.
    """
    if workers == 0 or len(jobs) < 2:
        for job in jobs:
            yield work(state, job, stopped)
        return
    context = multiprocessing.get_context("spawn")  # Arrow's threads do not survive a fork
    stop = context.RawValue("b", 0)  # without a lock, which a process that dies would keep
    handed = Handed((work, state))
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, _start_worker, (handed, stop))
    waiting: deque[concurrent.futures.Future[ResultT]] = deque()
    try:
        for job in jobs:
            with ctrl_c_held_back():  # this is where processes start; the parent decides for them
                waiting.append(pool.submit(_work_here, job))
            if len(waiting) > 2 * workers:
                yield _result(waiting.popleft(), stopped)
        while waiting:
            yield _result(waiting.popleft(), stopped)
    except concurrent.futures.process.BrokenProcessPool as error:
        if stopped():  # the signal went to all processes
            raise stop_error() from error
        raise DiskError(
            "a process that converts images died",
            found=str(error),
            expected="enough memory",
            fix="use fewer of them with --workers 1, or none with --workers 0 to see the cause; what is done is kept",
        ) from error
    finally:
        stop.value = 1
        pool.shutdown(wait=True, cancel_futures=True)
        handed.close()


def _result(future: concurrent.futures.Future[ResultT], stopped: Asked) -> ResultT:
    while not stopped():
        concurrent.futures.wait([future], _LOOK_S)
        if future.done():
            return future.result()
    raise stop_error()


def stop_error() -> Stopped:
    """Return what work raises when it is asked to stop."""
    return Stopped("stopped on request", fix="the same command goes on where it stopped")


_task: tuple[Any, Any, Any]


def _start_worker(handed: Any, stop: Any) -> None:
    global _task
    _task = *handed, stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    end_with_parent()


def _work_here(job: Any) -> Any:
    work, state, stop = _task
    return work(state, job, lambda: bool(stop.value))
