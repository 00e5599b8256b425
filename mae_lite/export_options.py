"""The options of ``mae-lite export``, ``mae-lite card`` and ``mae-lite push``."""

from __future__ import annotations

from pydantic import Field

from mae_lite import config
from mae_lite.cards.settings import LICENCE, CardSettings, MeasureSettings
from mae_lite.exporting.settings import ExportSettings


class ExportOptions(ExportSettings, CardSettings):
    """Options of mae-lite export."""

    card: bool = True
    """Write card.html, card.json and README.md beside the forms, as mae-lite card does."""
    out: str | None = None
    """Folder to write, with a folder for each form; None takes RUN/export, or FOLDER-export beside a timm folder."""
    json_output: bool = False
    """Print JSON instead of a table (also --json)."""


class CardOptions(MeasureSettings):
    """Options of mae-lite card."""

    out: str | None = None
    """Folder to write; None takes that of an export, RUN/card, or FOLDER-card beside a timm folder."""
    json_output: bool = False
    """Print JSON instead of sentences (also --json)."""


class PushOptions(config.Config):
    """Options of mae-lite push."""

    private: bool = False
    """Create the repository for its owner alone."""
    dry_run: bool = False
    """List the files with their sizes, and send nothing."""
    licence: str | None = Field(None, pattern=LICENCE)
    """Of the model, by Hugging Face's name for it, such as apache-2.0; None takes what its card or itself states."""
    json_output: bool = False
    """Print JSON instead of text (also --json)."""
