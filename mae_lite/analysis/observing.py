"""One forward pass of one model over a batch, shared by all that is to be known about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mae_lite.analysis import attention, cka, gallery, importance
from mae_lite.analysis.loading import Analysed
from mae_lite.analysis.pictures import Pixels
from mae_lite.data.loader import Batch, to_device
from mae_lite.models.taps import tapped


class Observer:
    """What is summed up of a model while it sees images; memory for one batch, and a few numbers per image."""

    def __init__(
        self,
        analysed: Analysed,
        device: torch.device,
        pictures: int,
        how: importance.How | None,
        seed: int,
        mask_ratios: Sequence[float] = (),
    ) -> None:
        """Prepare.

        Args:
            analysed: the model.
            device: where it runs.
            pictures: how many of the first images are kept to be shown.
            how: what is done to one block at a time to see how much it matters; None does nothing.
            seed: of what is drawn for that, and of masks.
            mask_ratios: shares of the patches that a masked autoencoder is to paint; none paints nothing.
        """
        self.analysed, self._device, self.pictures = analysed, device, pictures
        self._model: Any = analysed.model.to(device)
        self._prefix = int(self._model.num_prefix_tokens)
        distances = attention.patch_distances(analysed.grid, analysed.patch_px).to(device)
        self.heads = attention.HeadSums(distances, self._prefix)
        self.ablation = None if how is None else importance.Ablation(self._model, how, seed)
        painter = gallery.painter(analysed.source) if mask_ratios else ""
        self.gallery: gallery.Gallery | str = (
            painter if isinstance(painter, str) else gallery.Gallery(painter, mask_ratios, device, pictures, seed)
        )
        """What paints, or why nothing does; an empty reason where it was not asked for."""
        self._images: list[Pixels] = []
        self._tokens: list[Tensor] = []
        self._maps: list[list[Tensor]] = [[] for _ in self._model.blocks]

    @torch.inference_mode()
    def add(self, batch: Batch) -> Tensor:
        """Take in uint8 images [n, C, H, H]; return Gram matrices [L, n, n] of the patch tokens after each block."""
        augmentation = self.analysed.augmentation
        images = to_device(batch, self._device, augmentation.mean, augmentation.std).images
        missing = self.pictures - sum(map(len, self._images))

        def on_attention(block: int, logits: Tensor) -> None:
            self.heads.add(block, logits)
            if missing > 0 and self._model.cls_token is not None:
                self._maps[block].append(attention.class_attention(logits[:missing], self._prefix).cpu())

        seen = tapped(self._model, images, on_attention)
        if missing > 0:
            self._images.append(np.asarray(batch.images[:missing]))
            self._tokens.append(seen.states[-1][:missing, self._prefix :].float().cpu())
        if isinstance(self.gallery, gallery.Gallery):
            self.gallery.add(images)
        if self.ablation is not None:
            self.ablation.add(seen.states, seen.features)
        return cka.grams([state[:, self._prefix :] for state in seen.states[1:]]).cpu()

    def shown(self) -> tuple[Pixels, Tensor]:
        """Return the kept images [P, C, H, H] and their patch tokens [P, N, D] after the last block."""
        return np.concatenate(self._images), torch.cat(self._tokens)

    def maps(self) -> list[Tensor]:
        """Return what patches get of the class token's attention, [P, N] per block; none without that token."""
        return [torch.cat(parts) for parts in self._maps if parts]
