"""What a run started from, as far as the folders nearby tell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def place(folder: Path, weights: str) -> Path | None:
    """Return the run folder that ``weights``, as a run in ``folder`` names them, came from; None where none is left.

    Runs that were moved together find each other beside themselves, where nothing is left in the old place.
    """
    named = Path(weights)
    found = named if named.exists() else folder.parent / named.name
    return found if _record(found) else None


def _record(folder: Path) -> dict[str, Any]:
    """Return recipe.json of a run; empty where it cannot be read."""
    try:
        content: dict[str, Any] = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
        return content if isinstance(content["recipe"], dict) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _origin(folder: Path, init: Any) -> dict[str, Any]:
    found = place(folder, str(init))
    return {} if found is None else _record(found)


def pretraining(folder: Path, raw: dict[str, Any], init: Any) -> str:
    """Return the method behind the weights; followed to the run that they came from where it can be read."""
    kind = str(raw.get("method", {}).get("kind", "unknown"))
    if kind != "supervised":
        return kind
    if init is None:
        return "scratch"
    method = _origin(folder, init).get("recipe", {}).get("method", {})
    return str(method.get("kind", "pre-trained")) if isinstance(method, dict) else "pre-trained"


def start(folder: Path, init: Any, record: dict[str, Any]) -> str:
    """Return what sets a start apart; two teachers make two starts, also of what is fine-tuned after them."""
    teacher = str(record.get("teacher_sha256") or "")
    if init is None:
        return teacher
    content = _origin(folder, init)
    origin = {key: value for key, value in content.get("recipe", {}).items() if key not in ("seed", "note")}
    known = [origin, content.get("teacher_sha256")] if origin else str(record.get("init_sha256") or init)
    return json.dumps([known, teacher], sort_keys=True, default=str)
