"""The training loop's own update in one forward pass, on images of bytes that lie on the device."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mae_lite import config
from mae_lite.data.loader import Batch
from mae_lite.data.plan import Plan
from mae_lite.engine import compiling, loop
from mae_lite.engine.optim import LearningRate, WeightDecay, build_optimizer
from mae_lite.engine.ranks import start_fabric
from mae_lite.engine.signals import StopSignals
from mae_lite.engine.update import Updates
from mae_lite.methods import build


class OwnUpdate:
    """Makes updates, one after the other, from images [B, C, H, H] uint8."""

    def __init__(self, recipe: config.Recipe, device: torch.device, compiled: bool = False) -> None:
        """Build the method and its optimiser as a run does."""
        self._recipe = recipe
        self._runtime = config.Runtime(data="bytes in memory", accelerator="cuda" if device.type == "cuda" else "cpu")
        self._fabric = start_fabric(recipe, self._runtime)
        self._method = build(recipe, 0)
        optimizer = build_optimizer(self._method, recipe)
        trained = compiling.compiled(self._method, device) if compiled else self._method
        self._wrapped, self._optimizer = self._fabric.setup(trained, optimizer)
        self._wrapped.train()
        self._steps = itertools.count()
        self._images: Tensor | None = None

    def __call__(self, images: Tensor) -> object:
        """Make the next update; the same images again are the same batch again."""
        if images is not self._images:
            self._begin(images)
        return self._updates.make(min(next(self._steps), self._job.rate.total_steps - 1))

    def _begin(self, images: Tensor) -> None:
        own, fabric = len(images), self._fabric
        plan = Plan(
            samples=own * fabric.world_size,
            global_batch_size=own * fabric.world_size,
            micro_batch_size=own,
            seed=self._recipe.seed,
            ranks=fabric.world_size,
            rank=fabric.global_rank,
        )
        parts = self._recipe, self._runtime, fabric, self._method, self._wrapped, self._optimizer
        schedules = LearningRate.of(self._recipe, 1), WeightDecay.of(self._recipe, 1)
        rest: Any = {"plan": plan, "batches": lambda *_: iter(()), "folder": Path(), "signals": StopSignals()}
        self._job = loop.Job(*parts, *schedules, **rest)
        nothing = torch.full((own,), -1, device=images.device)
        self._images, self._updates = images, Updates(self._job, itertools.repeat(Batch(images, nothing, nothing)))
