"""What a masked autoencoder paints where more and more of an image is hidden, and how well.

Shapes: B images, C channels, H side in pixels, N patches, P values of a patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mae_lite import config
from mae_lite.evaluation.load import LoadedRun, load_method
from mae_lite.evaluation.preview import reconstruction_rows, sheet
from mae_lite.methods.mae import patchify
from mae_lite.models.blocks import take


@dataclass(frozen=True)
class Painted:
    """How well hidden patches are painted at one mask ratio, mean over all images."""

    mask_ratio: float
    loss: float
    """Mean squared error of the hidden patches, in the units that the run was trained with."""
    flat_loss: float
    """That of the true mean of each hidden patch in its place."""


def painter(source: str) -> LoadedRun | str:
    """Return the run ``source`` with all that was trained beside its encoder, or why it paints no pixels.

    Raises:
        CheckpointError: when it is a run without a usable checkpoint.
    """
    if not (Path(source) / "recipe.json").exists():
        return "it is no run folder, which alone says how its decoder was trained"
    run = load_method(Path(source))
    if isinstance(run.recipe.method, config.Painting):
        return run
    return f"the method {run.recipe.method.kind} has no decoder that paints pixels from the visible patches"


class Gallery:
    """Losses over all images, and pictures of the first few."""

    def __init__(self, run: LoadedRun, ratios: Sequence[float], device: torch.device, pictures: int, seed: int) -> None:
        """Prepare.

        Args:
            run: of a method that paints pixels.
            ratios: shares of the patches to hide; those that leave nothing to see or to paint are left out.
            device: where it runs.
            pictures: how many of the first images are shown.
            seed: of the masks; an image's visible patches at one ratio are among those at a lower one.
        """
        self._method, self._recipe, self._seed, self._pictures = run.model.to(device), run.recipe, seed, pictures
        assert isinstance(run.recipe.method, config.Painting)
        self.trained_with = run.recipe.method.mask_ratio
        method, patches = run.recipe.method, run.recipe.encoder.patches
        kept = {ratio: method.model_copy(update={"mask_ratio": ratio}).kept(patches) for ratio in sorted({*ratios})}
        self._kept = {ratio: count for ratio, count in kept.items() if 0 < count < patches}
        self.left_out = [ratio for ratio in kept if ratio not in self._kept]
        self._sums = {ratio: torch.zeros(2, dtype=torch.float64) for ratio in self._kept}
        self._rows: dict[float, list[list[np.ndarray]]] = {ratio: [] for ratio in self._kept}
        self._seen = 0

    @torch.inference_mode()
    def add(self, images: Tensor) -> None:
        """Take in normalised images [B, C, H, H]."""
        noise = self._method.draw(self._seed, 0, range(self._seen, self._seen + len(images)))["noise"]
        order = torch.argsort(noise.to(images.device), dim=1, stable=True)
        patches = patchify(images, self._method.patch_size)
        some = slice(max(0, self._pictures - self._seen))
        for ratio, kept in self._kept.items():
            target = self._method.target(take(patches, order[:, kept:]))  # [B, N - kept, P]
            predicted = self._method.decoder(self._method.encode(patches, order[:, :kept]), order, order[:, kept:])
            flat = target.mean(dim=-1, keepdim=True)
            errors = [(target - guess).square().mean(dim=(1, 2)).double().sum() for guess in (predicted.float(), flat)]
            self._sums[ratio] += torch.stack(errors).cpu()
            if some.stop:
                rows = reconstruction_rows(self._method, images[some], order[some], kept, self._recipe)
                self._rows[ratio].append(rows)
        self._seen += len(images)

    def painted(self) -> list[Painted]:
        """Return how well it paints at each mask ratio, rising."""
        means = {ratio: (sums / self._seen).tolist() for ratio, sums in self._sums.items()}
        return [Painted(ratio, *both) for ratio, both in means.items()]

    def png(self) -> bytes | None:
        """Return the images, and for each ratio what the encoder sees and what is painted; None without pictures."""
        joined = {
            ratio: [np.concatenate([rows[place] for rows in batches]) for place in range(3)]
            for ratio, batches in self._rows.items()
            if batches
        }
        if not joined:
            return None
        shown, labels = [next(iter(joined.values()))[0]], ["image"]
        for ratio, (_, seen, filled) in joined.items():
            shown += [seen, filled]
            labels += [f"{100 * ratio:g} % hidden", "painted"]
        return sheet(shown, labels)

    def numbers(self) -> dict[str, Any]:
        """Return everything for a JSON file."""
        rows = [{"mask_ratio": p.mask_ratio, "loss": p.loss, "flat_loss": p.flat_loss} for p in self.painted()]
        return {"trained_with_mask_ratio": self.trained_with, "left_out": self.left_out, "ratios": rows}
