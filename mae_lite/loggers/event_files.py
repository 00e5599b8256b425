"""TensorBoard event files beside ``metrics.jsonl``; the library writes them itself, as a stream."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


class EventFiles:
    """Event files in ``tensorboard/``; each start adds one."""

    def __init__(self, folder: Path, step: int) -> None:
        """Start at update ``step``; events after it, from a run that was killed, are hidden."""
        from torch.utils.tensorboard import SummaryWriter

        self.last = step if folder.is_dir() else 0
        self._writer: Any = SummaryWriter(str(folder), purge_step=step + 1 if step else 0)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Write ``numbers``."""
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self, state: str) -> None:  # noqa: ARG002
        """Close the file."""
        self._writer.close()
