"""Recipes by name. A new recipe is one entry in one of the modules of this package."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mae_lite.config import LabNote, Recipe, Supervised
from mae_lite.errors import ConfigError, nearest
from mae_lite.overrides import build


def names() -> list[str]:
    """Return the names of all recipes, in the order of their definition."""
    return list(_all())


def get(name: str) -> Recipe:
    """Return the recipe called ``name``, or the one in the file ``name`` (a run's ``recipe.json``).

    Raises:
        ConfigError: for an unknown name or an unusable file.
    """
    known = _all()
    if name in known:
        return known[name]
    if name.endswith(".json"):
        return _from_file(Path(name))
    raise ConfigError(
        f"unknown recipe {name!r}{nearest(name, known)}",
        fix="mae-lite recipes lists all; or give a run's recipe.json",
    )


def having(words: Sequence[str]) -> list[Recipe]:
    """Return the recipes with every one of ``words``, in small letters, in their name or their method's.

    Raises:
        ConfigError: when there is none.
    """
    known = [get(name) for name in names()]
    told = {one.name: f"{one.name} {one.method.kind}" for one in known}
    found = [one for one in known if all(word in told[one.name] for word in words)]
    if not found:
        alone = next((word for word in words if not any(word in text for text in told.values())), "")
        near = nearest(alone, [*names(), *{one.method.kind for one in known}])
        raise ConfigError(
            f"no recipe has {' and '.join(map(repr, words))} in its name or its method's{near}",
            expected="words like cifar10 or mocov3",
            fix="mae-lite recipes, which lists all",
        )
    return found


def commands_for(recipe: Recipe) -> tuple[str, ...]:
    """Return the commands that run ``recipe``; training from scratch on labels is supervised pre-training too."""
    if not isinstance(recipe.method, Supervised):
        return ("pretrain",)
    return ("finetune",) if recipe.start == "pretrained" else ("finetune", "pretrain")


def derive(base: Recipe, name: str | None = None, note: LabNote | None = None, **changes: Any) -> Recipe:
    """Return ``base`` with ``changes``, validated as a whole; nested fields are given as mappings.

    Raises:
        ConfigError: when the result is not a valid recipe.
    """
    values = _merge(base.model_dump(), changes)
    if name is not None:
        values |= {"name": name, "parent": base.name}
    if note is not None:
        values["note"] = note.model_dump()
    return build(Recipe, values)


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        other_kind = nested and value.get("kind", merged[key].get("kind")) != merged[key].get("kind")
        merged[key] = _merge(merged[key], value) if nested and not other_kind else value
    return merged


def _all() -> dict[str, Recipe]:
    # the recipes themselves use derive()
    from mae_lite.recipes import cifar10, digits, distilled, features, imagenet, masked, small_data, supervised

    modules = (imagenet, supervised, distilled, features, masked, cifar10, small_data, digits)
    return {recipe.name: recipe for module in modules for recipe in module.RECIPES}


def _from_file(path: Path) -> Recipe:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{str(path)!r} is not a readable recipe file", found=str(error), fix="check it") from error
    recipe = content.get("recipe", content) if isinstance(content, Mapping) else {}
    return build(Recipe, recipe if isinstance(recipe, Mapping) else {})
