"""MaskFeat (Wei et al. 2022): the encoder itself predicts histograms of oriented gradients where patches are hidden."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from mae_lite import config
from mae_lite.methods.base import StepOutput
from mae_lite.methods.hog import hog_targets
from mae_lite.methods.mask_tokens import MaskTokenMethod
from mae_lite.models.blocks import take


class FeaturePrediction(MaskTokenMethod):
    """Hides patches one by one; one linear layer on the tokens predicts their histograms."""

    def __init__(self, recipe: config.Recipe, method: config.MaskFeat) -> None:
        """Build encoder, mask token and layer; the seed of ``recipe`` decides their initial values."""
        encoder = recipe.plain_encoder
        values = config.hog_values(encoder)
        super().__init__(recipe, method, unit_px=encoder.patch_size, width=encoder.width, values=values)

    def forward(self, images: Tensor, labels: Tensor, draws: Mapping[str, Tensor]) -> StepOutput:
        """Return the mean squared error of the histograms, averaged over the hidden patches."""
        del labels
        hidden = self.hidden(draws)
        prediction = take(self.predict(images, hidden), hidden)
        target = take(hog_targets(images, self.unit), hidden)
        return StepOutput((prediction.float() - target).square().mean(), {})
