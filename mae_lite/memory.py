"""Out of memory: one message with what was asked of the machine, and the settings that ask for less."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning_fabric import Fabric

from mae_lite import config, inputs
from mae_lite.errors import DiskError

_CPU = "can't allocate memory"
"""In the RuntimeError by which PyTorch says that the machine itself has none left."""


@contextmanager
def explained(recipe: config.Recipe, runtime: config.Runtime, fabric: Fabric, samples: int) -> Iterator[None]:
    """Turn the ways in which memory can run out in the block into one error.

    Args:
        recipe: what is trained.
        runtime: how.
        fabric: the devices.
        samples: training images.

    Raises:
        DiskError: with batch, image size and model, and the micro-batch to try next.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
        on_device = isinstance(error, torch.OutOfMemoryError)
        if not (on_device or isinstance(error, MemoryError) or _CPU in str(error)):
            raise
        micro = inputs.plan(recipe, runtime, fabric, samples).micro_batch_size
        encoder = recipe.encoder
        asked = f"micro-batches of {micro} images of {encoder.image_size} pixels for {recipe.name}, "
        asked += f"{recipe.method.kind} with an encoder of width {encoder.width}"
        said = " ".join(str(error).split())[:200]
        raise DiskError(
            f"the {'device' if on_device else 'machine'} ran out of memory",
            found=f"{asked}{f' ({said})' if said else ''}",
            fix=f"{_fix(recipe, micro)}; the run goes on from its newest checkpoint, if there is one",
        ) from error


def _fix(recipe: config.Recipe, micro: int) -> str:
    """Return which setting asks for less: the largest micro-batch of at most half the size that divides the batch."""
    method = recipe.method
    step = 2 if isinstance(method, config.Supervised) and (method.mixup > 0 or method.cutmix > 0) else 1
    fitting = [size for size in range(step, micro // 2 + 1, step) if micro % size == 0]
    if recipe.couples_samples or not fitting:
        return "use more --devices, or a smaller --global-batch-size or --encoder.image-size, which change the result"
    return f"--micro-batch-size {fitting[-1]}; gradients are added up and the result stays the same"
