"""What exporting can be asked for. No torch here: the command line shows it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from mae_lite import config
from mae_lite.errors import ConfigError, nearest

PACKAGES: dict[str, tuple[str, ...]] = {
    "timm": (),
    "timm-half": (),
    "huggingface": ("transformers",),
    "torch-export": (),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "onnx-int8": ("onnx", "onnxscript", "onnxruntime"),
}
"""Every form, with the packages that it needs beside those of mae_lite."""


class CompareSettings(config.Config):
    """The images that models are compared on."""

    images: str | None = None
    """Images to compare on; None takes the data of the run."""
    split: Literal["train", "val", "test"] = "test"
    """Split of data that has several."""
    compare: int | None = Field(1000, ge=1)
    """Compare on so many of the images, drawn by the seed; None takes all."""
    seed: int = Field(0, ge=0, le=2**63 - 1)
    """Of the choice of images."""
    batch_size: int = Field(64, ge=1)
    """Images per forward pass."""
    workers: int = Field(0, ge=0)
    """Processes that read images."""


class ExportSettings(CompareSettings):
    """What to write, and on which images it is compared."""

    to: tuple[str, ...] = ("onnx",)
    """Forms: timm, timm-half, huggingface, torch-export, onnx, onnx-int8; with spaces or commas between them."""
    calibration: str | None = None
    """Images whose activations set the ranges of onnx-int8; None takes the training images of the run."""
    calibration_images: int = Field(200, ge=1)
    """Take so many of them, drawn by the seed."""
    max_loss_points: float = Field(1.0, ge=0.0, le=100.0)
    """Accuracy, in percentage points, that timm-half and onnx-int8 may lose; one image they may always."""

    @field_validator("to", mode="before")
    @classmethod
    def _check_forms(cls, given: Any) -> tuple[str, ...]:
        words = (given,) if isinstance(given, str) else tuple(given)
        names = tuple(dict.fromkeys(name for word in words for name in str(word).split(",") if name))
        unknown = [name for name in names if name not in PACKAGES]
        if unknown or not names:
            raise ConfigError(
                "--to",
                found=repr(unknown[0]) + nearest(unknown[0], PACKAGES) if unknown else "no form",
                expected=f"some of {', '.join(PACKAGES)}",
                fix="--to timm onnx",
            )
        return names
