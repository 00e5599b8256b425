"""Checkpoints: all that a run needs to go on as if nothing had happened.

A checkpoint is a published folder ``step_N`` of safetensors and JSON with a SHA-256 manifest. There is no state
of random generators or of the data loader to keep: both are functions of the step.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mae_lite import files, resuming, rundir
from mae_lite.errors import CheckpointError, DiskError
from mae_lite.models import weights

_log = logging.getLogger(__name__)


@dataclass
class Progress:
    """Where a run is."""

    step: int = 0
    """Updates made."""
    loss_sum: float = 0.0
    """Sum of the losses since the last row of metrics."""
    loss_count: int = 0
    """Updates in that sum."""
    log_sums: dict[str, float] = field(default_factory=dict)
    """Sums of the method's other numbers over the same updates."""
    best: float | None = None
    """Best validation accuracy so far."""
    best_step: int | None = None
    """The step it was measured at."""
    measured: dict[str, float] = field(default_factory=dict)
    """The newest of all numbers that probes and validation gave."""


def save(
    run: Path, progress: Progress, method: nn.Module, optimizer: torch.optim.Optimizer, ema: nn.Module | None
) -> None:
    """Write a checkpoint, verify it, then delete old ones: the last two and the best stay.

    Raises:
        DiskError: when it cannot be written; older checkpoints are untouched.
    """
    target = run / "checkpoints" / f"step_{progress.step}"
    files.publish_folder(target, contents(progress, method, optimizer, ema))
    try:
        files.read_folder(target)
    except CheckpointError as error:
        fix = "check the disk: it gave back other bytes than were written"
        raise DiskError(f"the checkpoint just written cannot be trusted: {error.what}", fix=fix) from error
    _prune(run, progress)


def contents(
    progress: Progress, method: nn.Module, optimizer: torch.optim.Optimizer, ema: nn.Module | None
) -> dict[str, bytes]:
    """Return the files of a checkpoint by name, as :func:`restore` takes them."""
    found = {
        "model.safetensors": weights.to_bytes(method.state_dict()),
        "optimizer.safetensors": weights.to_bytes(_optimizer_tensors(optimizer)),
        "state.json": json.dumps({"format": rundir.FORMAT, **asdict(progress)}).encode(),
    }
    if ema is not None:
        found["ema.safetensors"] = weights.to_bytes(ema.state_dict())
    return found


def _prune(run: Path, progress: Progress) -> None:
    # Later ones belong to a run that fell back behind them: damaged, so they count for nothing.
    found = [(step, folder) for step, folder in rundir.checkpoints(run) if step <= progress.step]
    keep = {step for step, _ in found[:2]} | {progress.best_step}
    for step, folder in found:
        if step not in keep:
            try:
                files.remove(folder)
            except DiskError as error:
                _log.warning("%s", error)


def newest(run: Path) -> tuple[int, dict[str, bytes]] | None:
    """Return step and verified contents of the newest intact checkpoint; None when there is none at all.

    Raises:
        CheckpointError: when there are checkpoints and all of them are damaged.
    """
    found = rundir.checkpoints(run)
    for step, folder in found:
        try:
            return step, read(folder)
        except CheckpointError as error:
            _log.warning("%s; falling back to the checkpoint before", str(error).splitlines()[0])
    if found:
        raise CheckpointError(
            f"all {len(found)} checkpoints of {str(run)!r} are damaged",
            fix="restore the folder, or start anew with --out",
        )
    return None


def read(folder: Path) -> dict[str, bytes]:
    """Read the files of one checkpoint.

    Raises:
        CheckpointError: when one is damaged, or the manifest tells of more or fewer than there are.
    """
    contents = files.read_folder(folder)
    there = {path.name for path in folder.iterdir() if path.suffix in (".safetensors", ".json")} - {files.MANIFEST}
    if odd := sorted({"model.safetensors", *there} - contents.keys()):
        raise CheckpointError(
            f"{str(folder)!r} is not whole",
            found=f"a manifest without {', '.join(odd)}",
            fix=f"delete {str(folder)!r} to fall back to an older checkpoint, or copy it again from its source",
        )
    return contents


def restore(
    contents: Mapping[str, bytes], method: nn.Module, optimizer: torch.optim.Optimizer, ema: nn.Module | None
) -> Progress:
    """Put a checkpoint's contents into freshly built objects and return where the run was.

    Raises:
        CheckpointError: when the contents do not fit.
    """
    state = json.loads(_part(contents, "state.json"))
    if (found := state.pop("format", 0)) > rundir.FORMAT:
        raise resuming.newer("the checkpoint", found, rundir.FORMAT, None)
    _load(method, contents, "model.safetensors")
    if ema is not None:
        _load(ema, contents, "ema.safetensors")
    tensors = weights.from_bytes(_part(contents, "optimizer.safetensors"), "optimizer.safetensors")
    names = [name for group in optimizer.param_groups for name in group["names"]]
    saved: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, entry = key.rpartition("/")
        saved.setdefault(names.index(name), {})[entry] = value
    optimizer.load_state_dict({"state": saved, "param_groups": optimizer.state_dict()["param_groups"]})
    return Progress(**state)


def _load(module: nn.Module, contents: Mapping[str, bytes], name: str) -> None:
    weights.load_into(module, weights.from_bytes(_part(contents, name), name), source=name)


def _part(contents: Mapping[str, bytes], name: str) -> bytes:
    if name not in contents:
        raise CheckpointError(f"the checkpoint has no {name}", fix="start anew with --out FOLDER")
    return contents[name]


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    names = [name for group in optimizer.param_groups for name in group["names"]]
    state: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    return {
        f"{names[index]}/{entry}": value
        for index, entries in state.items()
        for entry, value in entries.items()
        if isinstance(value, Tensor)
    }
