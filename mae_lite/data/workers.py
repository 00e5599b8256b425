"""What the processes that read images do with signals."""

from __future__ import annotations

import signal
from types import FrameType

import torch


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
