"""Reading, the step and both together, each timed through the very code that a run executes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import torch

from mae_lite import config, inputs, probing, recipes, training
from mae_lite.data import images
from mae_lite.data.batch import Batch
from mae_lite.data.pack import Form
from mae_lite.data.sources import Example, Source, subset
from mae_lite.engine import loop
from mae_lite.engine.meter import Waited
from mae_lite.engine.ranks import start_fabric
from mae_lite.engine.signals import StopSignals
from mae_lite.engine.update import Updates
from mae_lite.errors import ConfigError
from mae_lite.evaluation.teacher import load_teacher
from mae_lite.methods.teacher import Teacher
from mae_lite.preparing.resizing import converted
from mae_lite.preparing.sample import QUALITY, SIDE

FOLDER = Path("runs") / "bench"
"""Where unreadable images are listed; nothing else is written."""
_BATCH = {"cuda": 1024}
_BATCH_ELSEWHERE = 64


@dataclass
class Setting:
    """A recipe, ready to make updates of one forward pass each."""

    job: loop.Job
    source: Source
    workers: int
    teacher: Teacher | None
    held_out: Source | None
    """Validation images."""

    @property
    def batch(self) -> int:
        """Images of an update."""
        return self.job.plan.global_batch_size

    @property
    def device(self) -> torch.device:
        """Where the step runs."""
        return self.job.fabric.device


def open_setting(
    recipe: config.Recipe, runtime: config.Runtime, batch: int | None = None, like: Setting | None = None
) -> Setting:
    """Build all that training needs, with updates of ``batch`` images and no accumulation.

    Args:
        recipe: what would be trained.
        runtime: where; one device is timed.
        batch: images per update; None takes what one forward pass of a run would have, at most 1024 on a GPU, else 64.
        like: of the same recipe and data, to share images and teacher with.

    Raises:
        ConfigError: when more than one device is asked for, or the recipe does not fit the data.
        MaeLiteError: when data or teacher cannot be read.
    """
    if runtime.devices > 1:
        raise ConfigError("devices", found=str(runtime.devices), expected="1: one device is timed", fix="--devices 1")
    source, held_out = inputs.images(recipe, runtime) if like is None else (like.source, like.held_out)
    teacher = load_teacher(recipe, runtime.teacher) if like is None else like.teacher
    fabric = start_fabric(recipe, runtime)
    whole = inputs.plan(recipe, runtime, fabric, len(source)).micro_batch_size
    given = batch or min(whole, runtime.micro_batch_size or _BATCH.get(fabric.device.type, _BATCH_ELSEWHERE))
    short = recipes.derive(recipe, start="random", global_batch_size=given)
    one_pass = runtime.model_copy(update={"micro_batch_size": None if recipe.couples_samples else given, "init": None})
    job, _ = training.assemble(short, one_pass, fabric, StopSignals(), FOLDER, source, teacher)
    job.wrapped.train()
    reading = 0 if job.loading == "resident" else inputs.workers_of(runtime, source, fabric.world_size)
    return Setting(job, source, reading, teacher, held_out)


def reading_rate(setting: Setting, seconds: float) -> float:
    """Return the images per second that arrive when nothing is done with them."""
    batches = _endless(setting.job)
    for _ in range(1 + 2 * setting.workers):  # what workers have made before anyone looked counts for nothing
        next(batches)
    return setting.batch * _per_second(lambda: next(batches), seconds, setting.device)


def step_rate(setting: Setting, seconds: float) -> float:
    """Return the images per second of updates on one batch, again and again: the speed if reading cost nothing."""
    batch = next(_endless(setting.job))
    return setting.batch * _updates_per_second(setting, repeat(batch), seconds)


def together_rate(setting: Setting, seconds: float) -> tuple[float, float]:
    """Return the images per second of updates on images as they arrive, and the share of the time spent waiting."""
    batches = Waited(_endless(setting.job), setting.device)
    start = time.perf_counter()
    rate = setting.batch * _updates_per_second(setting, batches, seconds)
    return rate, batches.read() / (time.perf_counter() - start)


def validation_seconds(setting: Setting, seconds: float) -> float:
    """Return how long it takes to measure all validation images once; many are reckoned from a part, or from two.

    Each process that reads makes whole batches, so that the parts are a batch of each, and three. The difference has
    nothing of what does not grow, such as starting the processes; where a part takes more than ``seconds``, that is
    little, and the part is enough.
    """
    held_out, job = setting.held_out, setting.job
    if held_out is None:
        return 0.0
    model = job.ema.module if job.ema is not None else job.method
    readers = max(inputs.workers_of(job.runtime, held_out, 1), 1)

    def timed(images: int) -> float:
        part = subset(held_out, range(min(images, len(held_out))))
        validate = probing.validation(job, part, None).measure  # bad images are the run's to count
        _wait(setting.device)
        start = time.perf_counter()
        validate(0, model.encoder)
        return time.perf_counter() - start

    few = readers * inputs.EVALUATION_BATCH
    timed(1)  # whatever is done but once
    begin = timed(few)
    if few >= len(held_out):
        return begin
    if begin > seconds:
        return begin * len(held_out) / few
    some = min(3 * few, len(held_out))
    end = timed(some)
    return end + (len(held_out) - some) * max(end - begin, 0.0) / (some - few)


def decode_rate(source: Source, recipe: config.Recipe, seconds: float) -> float:
    """Return the images per second that one core decodes, without cropping or resizing.

    Raises:
        DataError: when an image cannot be decoded.
    """
    return _of_examples(source, seconds, lambda one: images.decode(one, recipe.encoder.channels, recipe.reading))


def conversion_rate(source: Source, recipe: config.Recipe, seconds: float) -> float:
    """Return the images per second that one core makes a pack's JPEGs of, encoding anew what is larger than those.

    Raises:
        DataError: when an image cannot be decoded.
    """
    form = Form(kind="jpeg", side=SIDE, channels=3, quality=QUALITY, reading=recipe.reading)
    return _of_examples(source, seconds, lambda one: converted(one, form))


def _of_examples(source: Source, seconds: float, do: Callable[[Example], object]) -> float:
    """Return how often ``do`` succeeds in a second, on one image after the other."""
    places = iter(range(10**9))

    def call() -> None:
        number = next(places) * 7919 % len(source)  # a prime, so that neighbours, which may be alike, are far apart
        do(source.example(number))

    return _per_second(call, seconds, torch.device("cpu"))


def _updates_per_second(setting: Setting, batches: Iterator[Batch], seconds: float) -> float:
    job, steps = setting.job, iter(range(10**9))
    updates = Updates(job, batches)

    def update() -> None:
        updates.make(min(next(steps), job.rate.total_steps - 1))

    for _ in range(2):
        update()
    rate = _per_second(update, seconds, setting.device)
    updates.settle()
    return rate


def _endless(job: loop.Job) -> Iterator[Batch]:
    while True:
        yield from job.batches(0, job.rate.total_steps)


def _per_second(call: Callable[[], object], seconds: float, device: torch.device) -> float:
    """Return how often ``call`` succeeds in a second, of as many calls as fit into ``seconds``, two at least."""
    _wait(device)
    start, calls = time.perf_counter(), 0
    while calls < 2 or time.perf_counter() - start < seconds:
        call()
        calls += 1
    _wait(device)
    return calls / (time.perf_counter() - start)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
