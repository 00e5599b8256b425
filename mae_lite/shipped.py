"""Small models that come with the package: ``pretrained:NAME`` stands for their folder wherever weights are named."""

from __future__ import annotations

from pathlib import Path

from mae_lite.errors import CheckpointError, nearest

PREFIX = "pretrained:"
FOLDER = Path(__file__).parent / "pretrained"
"""A folder for each model: config.json and model.safetensors as timm reads them, and README.md, which says how it was
made and what it can."""


def names() -> list[str]:
    """Return the names of all models that come with the package."""
    return sorted(path.parent.name for path in FOLDER.glob("*/config.json"))


def resolved(source: str) -> str:
    """Return the folder of a model that comes with the package; anything but ``pretrained:NAME`` as it is.

    Raises:
        CheckpointError: for a name that is not known.
    """
    if not source.startswith(PREFIX):
        return source
    name, known = source.removeprefix(PREFIX), names()
    if name not in known:
        raise CheckpointError(
            f"{source!r} does not come with mae_lite{nearest(name, known)}",
            expected=", ".join(PREFIX + each for each in known) or "a model of this version: it brings none",
            fix=f"give one of these, or the path of a model: {PREFIX + known[0] if known else 'runs/NAME'}",
        )
    return str(FOLDER / name)
