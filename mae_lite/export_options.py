"""The options of ``mae-lite export`` and ``mae-lite card``."""

from __future__ import annotations

from mae_lite.cards.settings import CardSettings
from mae_lite.exporting.settings import CompareSettings, ExportSettings


class ExportOptions(ExportSettings, CardSettings):
    """Options of ``mae-lite export``."""

    card: bool = True
    """Write card.html, card.json and README.md beside the forms, as mae-lite card does."""
    out: str | None = None
    """Folder to write, with a folder for each form; None takes RUN/export, or FOLDER-export beside a timm folder."""
    json_output: bool = False
    """Print JSON instead of a table (also --json)."""


class CardOptions(CompareSettings, CardSettings):
    """Options of ``mae-lite card``."""

    out: str | None = None
    """Folder to write; None takes that of an export, RUN/card, or FOLDER-card beside a timm folder."""
    json_output: bool = False
    """Print JSON instead of sentences (also --json)."""
