"""A run that meets numbers that are not finite by itself: weights that overflow at one white picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from mae_lite import config, recipes
from mae_lite.engine.failure import FILE
from mae_lite.models import weights
from mae_lite.models.vit import build_encoder
from mae_lite.rundir import read_json
from tests import toy

WHITE = "white.png"
PICTURES = 64
STEPS_PER_EPOCH = 4
"""One of which has the white picture."""
_LARGE = 2e18
"""The 16 pixels of a white patch make 6e19 of it, too much for a LayerNorm; those of dark ones make 2e19 at most."""


def pictures(folder: Path) -> str:
    """Write dark pictures of 8 x 8 pixels, and a white one; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 40, (PICTURES - 1, 8, 8), dtype=np.uint8)
    for number, pixels in enumerate(noise):
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    Image.fromarray(np.full((8, 8), 255, np.uint8)).save(folder / WHITE)
    return str(folder)


def recipe(**changes: Any) -> config.Recipe:
    """Return the toy MAE for these pictures, not flipped or cropped; its rate does not move large weights."""
    few = {"epochs": 6 / STEPS_PER_EPOCH, "warmup_epochs": 2 / STEPS_PER_EPOCH, "lr_per_256": 1e-3}
    return recipes.derive(toy.mae(), **{**few, **changes})


def fragile(path: Path) -> str:
    """Write weights of the toy encoder that overflow where a patch is white; return the file."""
    encoder: Any = build_encoder(recipe().plain_encoder, 0)
    with torch.no_grad():
        encoder.patch_embed.proj.weight[0] = _LARGE
    path.write_bytes(weights.to_bytes(encoder.state_dict()))
    return str(path)


def settings(folder: Path) -> dict[str, Any]:
    """Return the part of a runtime that makes a run meet them; writes what is needed below ``folder``."""
    return {"data": pictures(folder / "pictures"), "init": fragile(folder / "fragile.safetensors"), "probe_images": 0}


def bundle(run: Path, step: int) -> dict[str, Any]:
    """Return what a bundle of a run says."""
    return read_json(run / "failed" / f"step_{step}" / FILE, "a bundle")
