"""What a card can be asked for. No torch here: the command line shows it."""

from __future__ import annotations

from pydantic import Field

from mae_lite import config
from mae_lite.exporting.settings import CompareSettings

LICENCE = r"^[a-z0-9][a-z0-9.+-]*$"


class CardSettings(config.Config):
    """How a card is measured, and what it tells."""

    licence: str | None = Field(None, pattern=LICENCE)
    """Of the model, by Hugging Face's name for it, such as apache-2.0; None leaves it unstated."""
    seconds: float = Field(0.5, ge=0.0)
    """Time each form for so long at every number of threads, and at every size of batch."""
    mistakes: int = Field(12, ge=0, le=100)
    """Wrong predictions to show as pictures; 0 shows none, for images that must not be published."""
    memory: bool = True
    """Measure peak memory; each form is opened by a process of its own for it."""


class MeasureSettings(CompareSettings, CardSettings):
    """All that a card can be asked for: images, and how they are used."""
