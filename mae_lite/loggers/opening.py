"""Loggers by name. Their libraries are imported only where one is asked for."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, assert_never

from mae_lite.config import LoggerName
from mae_lite.errors import ConfigError
from mae_lite.loggers import Logger

_PACKAGES: dict[LoggerName, tuple[str, ...]] = {
    "tensorboard": (),
    "wandb": ("wandb",),
    "mlflow": ("mlflow", "sqlalchemy", "alembic"),
}


def check(names: Sequence[LoggerName]) -> None:
    """Refuse loggers whose packages are not installed.

    Raises:
        ConfigError: names the first.
    """
    for name in names:
        missing = [package for package in _PACKAGES[name] if importlib.util.find_spec(package) is None]
        if missing:
            raise ConfigError(
                f"--loggers {name}", found=f"no package {' or '.join(missing)}", fix="pip install 'mae_lite[loggers]'"
            )


def openers(
    names: Sequence[LoggerName], folder: Path, step: int, about: Mapping[str, Any]
) -> dict[str, Callable[[], Logger]]:
    """Return what opens each logger.

    Args:
        names: of the loggers.
        folder: of the run.
        step: the update from which this start goes on.
        about: the contents of ``recipe.json``, and as "provenance" those of the newest start, without secrets of URLs.
    """
    return {name: partial(_opened, name, folder, step, about) for name in names}


def _opened(name: LoggerName, folder: Path, step: int, about: Mapping[str, Any]) -> Logger:
    match name:
        case "tensorboard":
            from mae_lite.loggers.event_files import EventFiles

            return EventFiles(folder / "tensorboard", step)
        case "wandb":
            from mae_lite.loggers.weights_and_biases import WeightsAndBiases

            return WeightsAndBiases(folder, about)
        case "mlflow":
            from mae_lite.loggers.mlflow_runs import MlflowRun

            return MlflowRun(folder, about)
    assert_never(name)
