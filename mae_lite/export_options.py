"""The options of ``mae-lite export``."""

from __future__ import annotations

from mae_lite.exporting.settings import ExportSettings


class ExportOptions(ExportSettings):
    """Options of ``mae-lite export``."""

    out: str | None = None
    """Folder to write, with a folder for each form; None takes RUN/export, or FOLDER-export beside a timm folder."""
    json_output: bool = False
    """Print JSON instead of a table (also --json)."""
