"""TensorBoard event files beside ``metrics.jsonl``; the library writes them itself, as a stream."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)


class EventFiles:
    """Writes every number of a row; a disk that refuses costs the events, not the run."""

    def __init__(self, folder: Path, step: int) -> None:
        """Start at update ``step``; events after it, from a run that was killed, are hidden."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = None
        try:
            self._writer = SummaryWriter(str(folder), purge_step=step + 1 if step else 0)
        except OSError as error:
            _log.warning("no TensorBoard events: %s", error)

    def log(self, row: Mapping[str, Any]) -> None:
        """Write the numbers of ``row`` at its step."""
        if self._writer is None:
            return
        try:
            for name, value in row.items():
                if name != "step" and isinstance(value, int | float):
                    self._writer.add_scalar(name, value, row["step"])
            self._writer.flush()
        except OSError as error:
            _log.warning("TensorBoard events are no longer written: %s", error)
            self._writer = None
