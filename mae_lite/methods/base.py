"""What the engine knows of a method: loss and logs from a batch, its encoder, and its draws.

Shapes: B images, V views, L local views, C channels, H side in pixels, S side of a local view, N patches, K kept
patches, D width, P values of a patch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn


class StepOutput(NamedTuple):
    """What a method returns for a batch."""

    loss: Tensor
    """[] float32, mean over the batch."""
    logs: Mapping[str, Tensor]
    """Further numbers to log, [] each, without gradient."""


class Method(nn.Module, ABC):
    """A way to train ``encoder``; it owns whatever else it needs (decoder, teacher, heads).

    What an update changes is parameters, through the optimiser; buffers that are part of the state; and what
    :meth:`after_step` does. Anything else that ``forward`` changes would remain of an update that was not made.
    """

    encoder: Any
    """The timm model that the run is for."""
    trained = "encoder"
    """Name of the encoder that the optimiser changes, where ``encoder`` only follows it."""
    couples_samples = False
    """Whether a sample's loss depends on the others of its micro-batch."""

    def draw(self, seed: int, step: int, rows: range) -> dict[str, Tensor]:
        """Draw the random numbers of ``rows`` of the global batch at ``step``, on the CPU."""
        del seed, step, rows
        return {}

    @abstractmethod
    def forward(self, images: Tensor, labels: Tensor, draws: Mapping[str, Tensor]) -> StepOutput:
        """Return the loss of normalised images [B, C, H, H], or of V > 1 views [B, V, C, H, H], and labels [B].

        A label of -1 means none. A method whose recipes have local views takes them as a fourth argument,
        ``local_images`` [B, L, C, S, S].
        """

    def before_step(self, epoch: float) -> None:
        """Set what follows a schedule for the next update, as a function of ``epoch`` alone: a run may start there.

        Args:
            epoch: passes over the training images made so far, with their fraction.
        """
        del epoch

    def after_backward(self, epoch: float) -> None:
        """Change the update's gradients before they are measured and clipped; without one a parameter stays as it is.

        Args:
            epoch: as in :meth:`before_step`.
        """
        del epoch

    def seconds(self) -> dict[str, float]:
        """Return the time on the device that parts of the method took since the last call, by name."""
        return {}

    def after_step(self, step: int, total_steps: int) -> None:
        """Do what follows an update (momentum encoders); ``step`` counts finished updates."""
        del step, total_steps
