"""Studies by name. A new study is a function that returns a :class:`~mae_lite.studies.values.Study`, and a row here."""

from __future__ import annotations

from collections.abc import Callable

from mae_lite.errors import ConfigError, nearest
from mae_lite.studies import cifar10, digits
from mae_lite.studies.values import Scale, Study

_STUDIES: dict[str, Callable[[Scale], Study]] = {"digits": digits.study, "cifar10": cifar10.study}


def names() -> list[str]:
    """Return the names of all studies."""
    return list(_STUDIES)


def get(name: str, scale: Scale = "full") -> Study:
    """Return the study called ``name``.

    Args:
        name: one of :func:`names`.
        scale: smoke walks the whole graph with few updates, cpu is for a day of a few processors, full is the study.

    Raises:
        ConfigError: for an unknown name.
    """
    if name not in _STUDIES:
        raise ConfigError(
            f"unknown study {name!r}{nearest(name, _STUDIES)}", fix=f"choose one of: {', '.join(_STUDIES)}"
        )
    return _STUDIES[name](scale)
