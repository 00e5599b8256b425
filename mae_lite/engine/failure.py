"""Numbers that are not finite: the update is not made, and what made it is kept as a bundle to be replayed.

A bundle is a published folder ``failed/step_N`` of the run: the checkpoint of the state just before update N, the run's
``recipe.json``, and ``failure.json`` with the batch. Update N is a function of these and of the images alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mae_lite import files, rundir
from mae_lite.engine import checkpoint
from mae_lite.engine.checkpoint import Progress
from mae_lite.engine.ranks import on_rank_zero
from mae_lite.errors import DiskError, NotFinite

if TYPE_CHECKING:
    from mae_lite.engine.loop import Job

FOLDER = "failed"
FILE = "failure.json"
_FIX = "lower --lr-per-256 or set --clip-grad-norm 1; on a GPU try --precision fp32"


@dataclass(frozen=True)
class Seen:
    """A micro-batch that went through the model."""

    ids: Tensor
    """[B] int64, positions in the training images."""
    loss: Tensor
    """[], mean over the micro-batch."""


def refuse(step: int, loss: Tensor, norm: Tensor) -> NotFinite:
    """Return the error of update ``step`` with this loss and norm of the gradients."""
    error = NotFinite(
        f"update {step}: loss {loss.item():g}, gradient norm {norm.item():g}; the weights were not changed",
        expected="finite numbers, and a norm whose square is finite",
        fix=_FIX,
    )
    error.blamed = step
    return error


def check_state(job: Job, progress: Progress) -> None:
    """Refuse to save a state that is not finite, on all ranks; raises NotFinite, which blames the last update."""
    found = job.fabric.broadcast(first_not_finite(job.method.state_dict()) if job.fabric.is_global_zero else None)
    if found is None:
        return
    step = progress.step - 1
    error: NotFinite = NotFinite(
        f"{found} is not finite after update {step}; this state was not saved", expected="finite weights", fix=_FIX
    )
    error.blamed, error.shared = step, True
    raise error


def first_not_finite(tensors: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]) -> str | None:
    """Return the name of the first of ``tensors`` that holds NaN or infinity; None where all are finite."""
    pairs = tensors.items() if isinstance(tensors, Mapping) else tensors
    return next((name for name, value in pairs if not bool(torch.isfinite(value).all())), None)


def kept(job: Job, progress: Progress, seen: Sequence[Seen], failure: NotFinite) -> NotFinite:
    """Publish the bundle of the update that failed; return the error that names it. All ranks do this together.

    Where the disk refuses the bundle, the error says that instead.
    """
    weights = first_not_finite(job.method.state_dict())
    gradients = ((name, p.grad) for name, p in job.method.named_parameters() if p.grad is not None)
    facts = {"weights": weights, "gradient": first_not_finite(gradients)}
    batches = _gathered([_as_json(job.fabric.global_rank, micro, one) for micro, one in enumerate(seen)])
    blamed = failure.blamed if weights is None else failure.blamed - 1  # the update before has spoiled them
    folder = job.folder / FOLDER / f"step_{progress.step}"
    try:
        on_rank_zero(job.fabric, partial(_publish, job, progress, folder, batches, facts))
        fix = f"mae-lite replay {folder} says where it begins, and with which images; or {failure.fix}"
    except DiskError as full:
        fix = f"{failure.fix} (no bundle to replay: {full.what}, {full.found})"
    where = f"{weights} is not finite in the weights before it" if weights else ""
    where = where or (f"gradients are not finite from {facts['gradient']} on" if facts["gradient"] else "")
    if job.runtime.on_nan == "stop":
        fix += "; --on-nan rollback leaves such an update out"
    error = NotFinite(failure.what + (f"; {where}" if where else ""), expected=failure.expected, fix=fix)
    error.blamed, error.shared = blamed, True
    return error


def _as_json(rank: int, micro: int, seen: Seen) -> dict[str, Any]:
    return {"rank": rank, "micro_batch": micro, "loss": as_number(seen.loss.item()), "ids": seen.ids.tolist()}


def as_number(value: float) -> float | str:
    """Return ``value`` for JSON, which knows no NaN: as a word where it is not finite."""
    return value if math.isfinite(value) else str(value)


def _gathered(own: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the micro-batches of all ranks, in the order of the global batch."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return own
    every: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(every, own)
    return [one for part in every for one in part]


def _publish(
    job: Job, progress: Progress, folder: Path, batches: list[dict[str, Any]], facts: Mapping[str, Any]
) -> None:
    newest = next(iter(rundir.checkpoints(job.folder)), None)
    failure = {
        "format": rundir.FORMAT,
        "step": progress.step,
        "epoch": round(progress.step / job.plan.steps_per_epoch, 4),
        "seed": job.recipe.seed,
        "digest": job.recipe.digest(),
        "checkpoint": None if newest is None else f"checkpoints/{newest[1].name}",
        "first_not_finite": dict(facts),
        "device": job.fabric.device.type,
        "ranks": job.fabric.world_size,
        "micro_batch_size": job.plan.micro_batch_size,
        "loading": job.loading,
        "compiled": job.runtime.compiled,
        "batches": [{**one, "names": [job.name_of(index) for index in one["ids"]]} for one in batches],
    }
    contents = checkpoint.contents(progress, job.method, job.optimizer.optimizer, job.ema)
    contents["recipe.json"] = (job.folder / "recipe.json").read_bytes()
    contents[FILE] = json.dumps(failure, indent=1).encode()
    files.make_folder(folder.parent)
    files.publish_folder(folder, contents)
