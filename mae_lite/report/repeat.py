"""How a run differs from its recipe, and the command that repeats it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from mae_lite import recipes
from mae_lite.config import Recipe
from mae_lite.overrides import flags
from mae_lite.report.read import Run

_SKIPPED = ("name", "note", "parent")


def parent(run: Run) -> str | None:
    """Return the known recipe that the run's is a variant of: its own name, or what it was derived from."""
    known = recipes.names()
    return next((str(name) for name in (run.raw.get("name"), run.raw.get("parent")) if name in known), None)


def differences(run: Run) -> list[tuple[str, Any, Any]]:
    """Return (setting, the parent's, the run's) for every setting that differs; empty without a known parent."""
    name = parent(run)
    if name is None:
        return []
    base = recipes.get(name).model_dump(mode="json")
    return [item for item in _differing(base, run.raw) if item[0].split(".")[0] not in _SKIPPED]


def command(run: Run) -> str:
    """Return the command that repeats the run elsewhere: same settings, data and start, in a folder of its own."""
    name = parent(run)
    words = ["mae-lite", "finetune" if run.supervised else "pretrain"]
    words.append(str(run.folder / "recipe.json") if name is None else name)
    words += ["--data", run.data]
    if run.val_data is not None:
        words += ["--val-data", run.val_data]
    if run.init is not None:
        words += ["--init", run.init]
    if run.teacher is not None:
        words += ["--teacher", run.teacher]
    if run.pixels == "exact" and run.recipe is not None and run.recipe.encoder.channels == 3:
        words += ["--pixels", "exact"]
    words += flags((setting, value) for setting, _, value in differences(run))
    return shlex.join([*words, "--out", f"{run.folder}-again"])


def on_the_way(run: Run) -> Iterator[str]:
    """Yield "setting: saved -> now at step N" for what starts changed with --override; a page of it may be damaged."""
    for start in run.starts:
        notes = start.get("overridden")
        for one in notes if isinstance(notes, list) else []:
            if isinstance(one, dict):
                yield f"{one.get('field')}: {one.get('saved')} -> {one.get('now')} at step {one.get('step')}"


def changes(recipe: Recipe) -> list[str]:
    """Return the flags that make ``recipe`` of the known one of its name."""
    base, ours = recipes.get(recipe.name).model_dump(mode="json"), recipe.model_dump(mode="json")
    found = _differing(base, ours)
    return flags((setting, value) for setting, _, value in found if setting.split(".")[0] not in _SKIPPED)


def _differing(base: Any, ours: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(base, Mapping) and isinstance(ours, Mapping):
        if base.get("kind") != ours.get("kind"):
            base = {}  # where a flag asks for another kind, its settings start from its own defaults
        for key in ours:  # what an older version did not record had today's default
            yield from _differing(base.get(key), ours.get(key), f"{prefix}.{key}" if prefix else str(key))
    elif base != ours:
        yield prefix, base, ours
