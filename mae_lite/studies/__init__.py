"""Studies by name. A new study is a function that returns a :class:`~mae_lite.studies.values.Study`, and a row here."""

from __future__ import annotations

from collections.abc import Callable

from mae_lite.errors import ConfigError, nearest
from mae_lite.studies import ablation, cifar10, digits, paper
from mae_lite.studies.values import Scale, Study

_STUDIES: dict[str, Callable[[Scale], Study]] = {
    "digits": digits.study,
    "cifar10": cifar10.study,
    "cifar10-scarce": cifar10.scarce,
    "paper": paper.study,
}
_AROUND_A_RECIPE: dict[str, Callable[[Scale, str | None], Study]] = {"ablation": ablation.study}


def names() -> list[str]:
    """Return the names of all studies."""
    return [*_STUDIES, *_AROUND_A_RECIPE]


def get(name: str, scale: Scale = "full", recipe: str | None = None) -> Study:
    """Return the study called ``name``.

    Args:
        name: one of :func:`names`.
        scale: smoke walks the whole graph with few updates, cpu is for hours on a few processors, full is the study.
        recipe: what a study varies that is made around a recipe.

    Raises:
        ConfigError: for an unknown name, and for a recipe where none is varied, or none where one is.
    """
    if name in _AROUND_A_RECIPE:
        return _AROUND_A_RECIPE[name](scale, recipe)
    if name not in _STUDIES:
        known = names()
        raise ConfigError(f"unknown study {name!r}{nearest(name, known)}", fix=f"choose one of: {', '.join(known)}")
    if recipe is not None:
        raise ConfigError(f"study {name!r} varies no recipe", found=repr(recipe), fix=f"drop {recipe!r}")
    return _STUDIES[name](scale)
