"""How a stage ends: what its folder says of it, and how one that did not finish goes on."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mae_lite import launch, left_out, rundir
from mae_lite.engine import checkpoint
from mae_lite.errors import CheckpointError, DiskError, NotFinite, Stopped

_log = logging.getLogger(__name__)


@contextmanager
def recorded(record: rundir.RunDir | None) -> Iterator[None]:
    """Leave the reason of a failure in ``status.json``, and give the folder back."""
    try:
        yield
    except BaseException as error:
        if record is not None:
            note(record, error)
        raise
    finally:
        if record is not None:
            record.close()


def note(record: rundir.RunDir, error: BaseException) -> None:
    """Write in ``status.json`` that the run ended with ``error``."""
    with suppress(DiskError):  # a full disk must not hide the error itself
        kind = type(error).__name__
        state = "stopped" if isinstance(error, Stopped) else "failed"
        record.status(state, message=str(error) or kind, error=kind)


def remaining(folder: Path) -> str:
    """Say what is left of a run that failed, and how it goes on."""
    try:
        kept = checkpoint.newest(folder)
    except CheckpointError as error:
        return str(error.fix)
    left = "no checkpoint was saved yet" if kept is None else f"the checkpoint of step {kept[0]} is whole"
    return f"{left}, and the run goes on with: {launch.command()}"


def leave_out(folder: Path, failure: NotFinite) -> None:
    """Add the update that failed to those that the run leaves out."""
    left_out.add(folder, failure.blamed, failure)
    _log.warning("%s; going back to the newest checkpoint, update %d is left out", failure.what, failure.blamed)


def finished_at(run: Path) -> int | None:
    """Return the update after which ``status.json`` says that a run finished; None where it does not say so."""
    with suppress(CheckpointError):
        status = rundir.read_json(run / "status.json", "a run folder")
        if status.get("state") == "finished":
            return int(status["step"])
    return None
