"""Makes an update again that was not finite, from its bundle: see :mod:`mae_lite.engine.failure`.

Nothing is written, but a list of images that cannot be read, beside the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from mae_lite import config, files, inputs, recipes, training
from mae_lite.data.batch import Batch, to_device
from mae_lite.data.sources import Source
from mae_lite.engine import failure, loop
from mae_lite.engine.feed import drawn
from mae_lite.engine.ranks import start_fabric
from mae_lite.engine.signals import StopSignals
from mae_lite.engine.update import forward
from mae_lite.errors import CheckpointError, DataError
from mae_lite.evaluation import incoming
from mae_lite.evaluation.teacher import load_teacher
from mae_lite.replaying.watching import First, Watch
from mae_lite.rundir import read_json

_NAMED = 16
"""Images that are searched for and named."""


@dataclass(frozen=True)
class Order:
    """What to replay, and how."""

    bundle: Path
    data: str | None = None
    """In place of the recorded ones, which may have moved; likewise the next two."""
    val_data: str | None = None
    teacher: str | None = None
    precision: Literal["bf16", "fp32"] | None = None
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"


def replay(order: Order, images: Source | None = None) -> dict[str, Any]:
    """Make the update again and say what is found; ``images`` serve in place of ``data``.

    Raises:
        CheckpointError: when there is no bundle, or it is damaged.
        DataError: when the images are not those of the run.
    """
    said, record, recipe, contents = _opened(order)
    runtime = config.Runtime(
        data=order.data or record["data"],
        val_data=order.val_data or record["val_data"],
        teacher=order.teacher or record["teacher"],
        pixels=record["pixels"],
        micro_batch_size=None if recipe.couples_samples else said["micro_batch_size"],
        loading=said["loading"],
        accelerator=order.accelerator,
        workers=0,
    )
    train = inputs.images(recipe, runtime, images)[0]
    if train.fingerprint() != record["fingerprint"]:
        raise _other_images(order, train)
    teacher = load_teacher(recipe, runtime.teacher)
    fabric = start_fabric(recipe, runtime)
    with StopSignals() as signals:
        found = said["step"], contents
        job, _ = training.assemble(recipe, runtime, fabric, signals, order.bundle, train, teacher, found)
        job.wrapped.train()
        job.method.before_step(said["step"] / job.plan.steps_per_epoch)
        parts = list(_parts(job, said))
        if [index for part in parts for index in part.batch.ids.tolist()] != [
            index for one in said["batches"] for index in one["ids"]
        ]:
            raise _other_images(order, train)
        return {**_about(order, said, job), **_made_again(job, said, parts)}


def _opened(order: Order) -> tuple[dict[str, Any], dict[str, Any], config.Recipe, dict[str, bytes]]:
    """Return what failed, the run's description, the recipe to use and the state."""
    if not (order.bundle / failure.FILE).is_file():
        near = sorted(str(path.parent) for path in order.bundle.glob(f"**/{failure.FILE}"))
        raise CheckpointError(
            f"{str(order.bundle)!r} is no bundle of a failed update",
            found=f"no {failure.FILE}",
            expected=f"a folder such as runs/NAME/{failure.FOLDER}/step_10",
            fix=f"mae-lite replay {near[0]}" if near else "give the folder that the error message of the run names",
        )
    contents = files.read_folder(order.bundle)
    said = read_json(order.bundle / failure.FILE, "a bundle")
    record, recipe = incoming.described(order.bundle, "a bundle of a failed update")
    return said, record, recipes.derive(recipe, precision=order.precision or recipe.precision), contents


def _other_images(order: Order, train: Source) -> DataError:
    return DataError(
        f"the images are not those that {str(order.bundle)!r} was made with",
        found=train.describe(),
        expected="the same images, unchanged",
        fix="restore them, or name their place with --data",
    )


@dataclass(frozen=True)
class _Part:
    """A micro-batch on the device, and where it stood in the update."""

    batch: Batch
    rows: range
    of: tuple[int, int]
    """Rank and micro-batch as recorded."""


def _parts(job: loop.Job, said: dict[str, Any]) -> Iterator[_Part]:
    augmentation, recorded = job.recipe.augmentation, said["batches"]
    batches = job.batches(said["step"], said["step"] + 1)
    for micro in range(job.plan.micro_batches):
        batch = to_device(next(batches), job.fabric.device, augmentation.mean, augmentation.std)
        place = recorded[micro] if len(recorded) == job.plan.micro_batches else {"rank": 0, "micro_batch": micro}
        yield _Part(batch, job.plan.micro_rows(micro), (place["rank"], place["micro_batch"]))


def _about(order: Order, said: dict[str, Any], job: loop.Job) -> dict[str, Any]:
    weights = dict(job.method.state_dict())
    largest = max(weights, key=lambda name: float(weights[name].abs().float().nan_to_num(torch.inf).max()))
    return {
        "bundle": str(order.bundle),
        "recipe": job.recipe.name,
        "step": said["step"],
        "recorded": {name: said[name] for name in ("device", "ranks", "compiled", "checkpoint", "first_not_finite")},
        "device": job.fabric.device.type,
        "precision": "bf16" if "bf16" in str(job.fabric._precision.precision) else "fp32",
        "weights_not_finite": failure.first_not_finite(weights),
        "largest_weight": {
            "name": largest,
            "value": failure.as_number(float(weights[largest].abs().float().max())),
        },
    }


def _made_again(job: loop.Job, said: dict[str, Any], parts: Sequence[_Part]) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    first: Watch | None = None
    named: list[int] = []
    judged = None
    recorded = said["batches"] if len(said["batches"]) == len(parts) else [{"loss": None}] * len(parts)
    for part, one in zip(parts, recorded, strict=True):
        watch, loss = _watched(job, said["step"], part)
        broken = watch.first is not None or watch.function is not None or not torch.isfinite(torch.tensor(loss))
        broken = broken or _gradient(job) is not None
        rank, micro = part.of
        now = {"loss": one["loss"], "loss_now": failure.as_number(loss), "images": len(part.batch.ids)}
        rows.append({"rank": rank, "micro_batch": micro, **now, "again": broken})
        if broken:
            first = first or watch
            found, judged = _blamed(job, said["step"], part, watch)
            named += found
    return {
        "again": any(row["again"] for row in rows),
        "batches": rows,
        "first": None if first is None or first.first is None else _as_json(first.first),
        "function": None if first is None else first.function,
        "images": [{"id": index, "name": job.name_of(index)} for index in named[:_NAMED]],
        "images_in_all": len(named),
        "judged_by": judged,
    }


def _as_json(first: First) -> dict[str, Any]:
    ends = {name: failure.as_number(getattr(first, name)) for name in ("lowest", "highest")}
    return {**vars(first), **ends}


def _watched(job: loop.Job, step: int, part: _Part) -> tuple[Watch, float]:
    """Go forward and back through a micro-batch, with eyes on every module; return what was seen, and the loss."""
    watch = Watch(len(part.batch.ids))
    job.method.zero_grad(set_to_none=True)
    with watch.over(job.method):
        output = forward(job, step, part.batch, drawn(job, step, part.rows), part.of)
        watch.backward(lambda: job.fabric.backward(output.loss))
    return watch, output.loss.item()


def _gradient(job: loop.Job) -> str | None:
    """Return the first parameter whose gradient is not finite."""
    return failure.first_not_finite((name, p.grad) for name, p in job.method.named_parameters() if p.grad is not None)


def _blamed(job: loop.Job, step: int, part: _Part, watch: Watch) -> tuple[list[int], str | None]:
    """Return the positions of the images of a broken micro-batch that break it, and how that was found out."""
    ids = part.batch.ids.tolist()
    if not (job.recipe.couples_samples or job.method.couples_samples):
        places = _bisected(job, step, part, 0, len(ids))
        return [ids[place] for place in places], "halves" if places else None
    if watch.first is not None and watch.first.rows:
        return [ids[place] for place in watch.first.rows], "rows"
    return [], None


def _bisected(job: loop.Job, step: int, part: _Part, start: int, stop: int) -> list[int]:
    """Return the places of images, from ``start`` to before ``stop``, that alone are not finite; at most a few."""
    inside = slice(start, stop)
    batch, local = part.batch, part.batch.local_images
    cut = replace(
        batch,
        images=batch.images[inside],
        labels=batch.labels[inside],
        ids=batch.ids[inside],
        local_images=None if local is None else local[inside],
    )
    job.method.zero_grad(set_to_none=True)
    output = forward(job, step, cut, drawn(job, step, part.rows[inside]), part.of)
    if bool(output.loss.isfinite()):
        job.fabric.backward(output.loss)
        if _gradient(job) is None:
            return []
    if stop - start == 1:
        return [start]
    middle = (start + stop) // 2
    found = _bisected(job, step, part, start, middle)
    return found if len(found) > _NAMED else [*found, *_bisected(job, step, part, middle, stop)]
