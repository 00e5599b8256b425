"""What a search for duplicates can be asked for. No torch here: the command line shows it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mae_lite import config

PIXELS_AT_LEAST, FEATURES_AT_LEAST = 0.95, 0.98
"""Cosine similarities from which images count as near duplicates; docs/duplicates.md has the measurement."""


class DuplicateSettings(config.Config):
    """What is compared with what, and how."""

    model: str | None = None
    """Frozen encoder whose features are compared, as embed takes it; None compares small copies of the images."""
    split: Literal["train", "val", "test"] | None = None
    """One split of data that have several; None takes all that they have, and compares them with each other, too."""
    against: str | None = None
    """Other images to compare with; of divided ones the test images, or X#train takes others."""
    threshold: float | None = Field(None, gt=0.0, le=1.0)
    """Cosine similarity from which two images are near duplicates; None takes 0.95 without a model, else 0.98."""
    token: Literal["patches", "class"] = "patches"
    """With a model: the mean of its patch tokens, or the class token."""
    heads: int | None = Field(None, ge=1)
    """Attention heads of weights that do not say and whose width does not tell."""
    channels: int | None = Field(None, ge=1)
    """Channels of the images; None takes the model's, and colours without a model."""
    batch_size: int = Field(64, ge=1)
    """Images per forward pass."""
    workers: int = Field(0, ge=0)
    """Processes that read images."""
    on_bad: Literal["fail", "skip"] = "fail"
    """An unreadable image ends the search, or is left out (at most 10 or 0.1 %)."""
    allow_empty_classes: bool = False
    """Accept class folders without images."""
    reading: config.Reading = config.Reading()
    """How files become pixels."""

    @property
    def least(self) -> float:
        """The threshold that applies."""
        usual = PIXELS_AT_LEAST if self.model is None else FEATURES_AT_LEAST
        return self.threshold if self.threshold is not None else usual
