"""SimMIM (Xie et al. 2022, *SimMIM: a Simple Framework for Masked Image Modeling*): paint what squares hide.

Its encoder may be hierarchical. Further shapes: s stride of the last map, in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from mae_lite import config
from mae_lite.methods.base import StepOutput
from mae_lite.methods.mae import unpatchify
from mae_lite.methods.mask_tokens import MaskTokenMethod


class PixelRegression(MaskTokenMethod):
    """Hides squares larger than a patch; one linear layer paints s x s pixels for each token of the last map."""

    def __init__(self, recipe: config.Recipe, method: config.Squares) -> None:
        """Build encoder, mask token and layer; the seed of ``recipe`` decides their initial values."""
        (width, stride), channels = method.painted(recipe.encoder), recipe.encoder.channels
        super().__init__(recipe, method, unit_px=method.mask_unit_px, width=width, values=stride**2 * channels)
        self.stride, self.channels = stride, channels

    def forward(self, images: Tensor, labels: Tensor, draws: Mapping[str, Tensor]) -> StepOutput:
        """Return the absolute error of the normalised pixels, averaged over the hidden squares (section 3.4)."""
        del labels
        hidden = self.hidden(draws)
        return StepOutput(self.painting_loss(images, self.predict(images, hidden), hidden), {})

    def painting_loss(self, images: Tensor, predicted: Tensor, hidden: Tensor) -> Tensor:
        """Return the absolute error [] of the hidden squares.

        Args:
            images: [B, C, H, H].
            predicted: [B, M, s * s * C].
            hidden: [B, U - K] numbers of the hidden squares.
        """
        painted = unpatchify(predicted.float(), self.stride, self.channels)  # [B, C, H, H]
        error = avg_pool2d((painted - images).abs().mean(dim=1, keepdim=True), self.unit).flatten(1)  # [B, U]
        return torch.gather(error, 1, hidden).mean()
