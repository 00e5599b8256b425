"""A picture of what a masked autoencoder hides and what it paints in its place."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mae_lite import config, files
from mae_lite.data.loader import Batch, to_device
from mae_lite.errors import DiskError
from mae_lite.methods.mae import MaskedAutoencoder, patchify, unpatchify

_log = logging.getLogger(__name__)

_GAP = 2
_GREY = 128
_LABEL_PX = 96


class Previews:
    """Paints the same few images with the same masks again and again, into ``previews/step_N.png``."""

    def __init__(
        self, method: MaskedAutoencoder, recipe: config.Recipe, folder: Path, batches: Callable[[], Iterable[Batch]]
    ) -> None:
        """Prepare; the images are read when they are needed first, and kept.

        Args:
            method: what paints.
            recipe: says how images are normalised.
            folder: the run folder.
            batches: loads the images.
        """
        self._method, self._recipe, self._folder, self._batches = method, recipe, folder / "previews", batches
        self._batch: Batch | None = None
        self._warned = False

    def __call__(self, step: int, encoder: Any) -> dict[str, float]:
        """Write the picture of ``step``; a disk that refuses costs the picture, not the run. There are no numbers."""
        del encoder  # its method has it
        if self._batch is None:
            self._batch = next(iter([*self._batches()]), None)
        if self._batch is None:  # none could be read
            return {}
        picture = reconstruction_png(self._method, self._batch, self._recipe)
        try:
            files.make_folder(self._folder)
            files.write_bytes(self._folder / f"step_{step}.png", picture)
        except DiskError as error:
            if not self._warned:
                _log.warning("%s (%s), training goes on; %s", error.what, error.found, error.fix)
            self._warned = True
        return {}


@torch.no_grad()
def reconstruction_png(method: MaskedAutoencoder, batch: Batch, recipe: config.Recipe) -> bytes:
    """Return a PNG with one column per image: the original, what the encoder sees, the reconstruction.

    Small images are enlarged.

    Args:
        method: in any mode; put back as it was.
        batch: uint8 images [B, C, H, H].
        recipe: says how images are normalised.
    """
    was_training = method.training
    method.eval()
    device = next(method.parameters()).device
    images = to_device(batch, device, recipe.augmentation.mean, recipe.augmentation.std).images
    noise = method.draw(recipe.seed, 0, range(len(images)))["noise"].to(device)
    order = torch.argsort(noise, dim=1, stable=True)
    rows = reconstruction_rows(method, images, order, method.kept, recipe)
    method.train(was_training)
    return sheet(rows)


@torch.no_grad()
def reconstruction_rows(
    method: MaskedAutoencoder, images: Tensor, order: Tensor, kept: int, recipe: config.Recipe
) -> list[np.ndarray]:
    """Return three rows of pictures, uint8 [B, H, H, C]: the original, what the encoder sees, the reconstruction.

    The target's normalisation is undone with the true mean and deviation of each patch, and visible patches are
    pasted in.

    Args:
        method: in eval mode.
        images: normalised, [B, C, H, H].
        order: [B, N] patch numbers, the visible ones first.
        kept: how many are visible.
        recipe: says how images are normalised.
    """
    mean, std = recipe.augmentation.mean, recipe.augmentation.std
    patches = patchify(images, method.patch_size)
    painted = method.decoder(method.encode(patches, order[:, :kept]), order).float()
    if method.normalize_target:
        variance = patches.var(dim=-1, keepdim=True)
        painted = painted * (variance + 1e-6).sqrt() + patches.mean(dim=-1, keepdim=True)
    hidden = torch.ones_like(order, dtype=torch.bool).scatter(1, order[:, :kept], False).unsqueeze(-1)
    grey = (_GREY / 255 - torch.tensor(mean, device=images.device)) / torch.tensor(std, device=images.device)
    blank = grey.repeat(method.patch_size**2).expand_as(patches)
    channels = images.shape[1]
    rows = [patches, torch.where(hidden, blank, patches), torch.where(hidden, painted, patches)]
    return [_bytes(unpatchify(row, method.patch_size, channels), mean, std) for row in rows]


def _bytes(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """Undo the normalisation: [B, C, H, W] float to [B, H, W, C] uint8."""
    centre, spread = (torch.tensor(v, device=images.device).view(1, -1, 1, 1) for v in (mean, std))
    pixels = ((images * spread + centre) * 255).round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).cpu().numpy()


def sheet(rows: list[np.ndarray], labels: Sequence[str] = ()) -> bytes:
    """Return a PNG of rows of pictures, each [B, H, H, C] uint8; small ones are enlarged.

    Args:
        rows: from top to bottom.
        labels: what stands in front of each row; without any there is no room for them.
    """
    side = rows[0].shape[1]
    zoom = max(1, round(64 / side))
    cell = side * zoom + _GAP
    left = _LABEL_PX if labels else 0
    sheet = np.full((len(rows) * cell, left + len(rows[0]) * cell, rows[0].shape[-1]), 255, dtype=np.uint8)
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            large = image.repeat(zoom, axis=0).repeat(zoom, axis=1)
            across = left + x * cell
            sheet[y * cell : y * cell + side * zoom, across : across + side * zoom] = large
    # Of more than three channels the first three are shown, of two the first.
    shown = Image.fromarray(np.ascontiguousarray(sheet[..., :3] if sheet.shape[-1] >= 3 else sheet[..., 0]))
    for y, label in enumerate(labels):
        place = (left - 2 * _GAP, y * cell + cell // 2)
        ImageDraw.Draw(shown).text(place, label, "black", ImageFont.load_default(12), anchor="rm")
    buffer = io.BytesIO()
    shown.save(buffer, format="PNG")
    return buffer.getvalue()
