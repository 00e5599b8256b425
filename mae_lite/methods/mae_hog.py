"""MAE with the target of MaskFeat (Wei et al. 2022): histograms of oriented gradients instead of pixels."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mae_lite.methods.base import StepOutput
from mae_lite.methods.hog import hog_targets
from mae_lite.methods.mae import MaskedAutoencoder, patchify
from mae_lite.models.blocks import take


class GradientAutoencoder(MaskedAutoencoder):
    """MAE whose decoder predicts the histograms of the hidden patches; it paints no pixels."""

    def forward(self, images: Tensor, labels: Tensor, draws: Mapping[str, Tensor]) -> StepOutput:
        """Return the mean squared error per hidden patch, averaged over the hidden patches."""
        del labels
        order = torch.argsort(draws["noise"], dim=1, stable=True)  # [B, N]
        latent = self.encode(patchify(images, self.patch_size), order[:, : self.kept])
        # Of whole images, since a gradient needs the pixels on the other side of a patch's edge.
        target = take(hog_targets(images, self.patch_size), order[:, self.kept :])
        return StepOutput(self.error(target, latent, order), {})
