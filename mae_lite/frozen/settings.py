"""What probing and embedding can be asked for. No torch here: the command line shows it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mae_lite import config

RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Learning rates on standardised features. The best for digits and CIFAR-10 mostly lay inside, for few labels too."""


class FrozenSettings(config.Config):
    """How a frozen encoder gets its images."""

    blocks: bool = False
    """Take features after each block instead of the last alone; each after the model's final norm."""
    heads: int | None = Field(None, ge=1)
    """Attention heads of weights that do not say and whose width does not tell."""
    random: bool = False
    """Give models named timm:NAME initial values instead of published weights."""
    seed: int = Field(0, ge=0, le=2**63 - 1)
    """Of every random draw: labels, images set aside, order of training, initial values."""
    batch_size: int = Field(64, ge=1)
    """Images per forward pass."""
    workers: int = Field(0, ge=0)
    """Processes that read images."""
    on_bad: Literal["fail", "skip"] = "fail"
    """An unreadable image ends the pass, or is left out (at most 10 or 0.1 %)."""
    allow_empty_classes: bool = False
    """Accept class folders without images."""
    reading: config.Reading = config.Reading()
    """How files become pixels."""


class EmbedSettings(FrozenSettings):
    """What is embedded."""

    data: str
    """The images, with labels or without."""
    split: Literal["train", "val", "test"] = "train"
    """Split of data that has several."""
    token: Literal["patches", "class"] = "patches"
    """The mean of the patch tokens, or the class token."""


class ProbeSettings(FrozenSettings):
    """How features are probed."""

    data: str
    """Labelled training images."""
    test_data: str | None = None
    """Images to measure on; None takes the test split of data."""
    split: Literal["val", "test"] = "test"
    """Split to measure on, of data that have several."""
    test_fraction: float = Field(0.0, ge=0.0, lt=1.0)
    """Share of each class of data to measure on, drawn by the seed, where there are no test images."""
    validation_fraction: float = Field(0.1, gt=0.0, lt=1.0)
    """Share of each class of the training images that the learning rate is chosen on; then all are trained on."""
    labels_per_class: int | None = Field(None, ge=1)
    """Train on this many images of each class, those that fine-tuning draws by the same seed; None takes all."""
    label_fraction: float | None = Field(None, gt=0.0, lt=1.0)
    """Train on this share of each class, likewise; None takes all."""
    ks: tuple[Annotated[int, Field(ge=1)], ...] = Field((10, 20, 100, 200), min_length=1)
    """Neighbours that vote; the training images are the most there can be."""
    temperature: float = Field(0.07, gt=0.0)
    """Of the votes."""
    rates: tuple[Annotated[float, Field(gt=0.0)], ...] = Field(RATES, min_length=1)
    """Learning rates to choose from; one is taken as it is."""
    epochs: float = Field(90.0, gt=0.0)
    """Passes of the linear probe over the features; more where that makes fewer than 1,000 updates."""
