"""Fixtures of the whole suite."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real data sets; skip where it is absent, except in CI, which has it."""
    path = Path(os.environ.get("MAE_LITE_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not path.is_dir():
        reason = f"no data sets at {str(path)!r}; MAE_LITE_TEST_DATA gives another place"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return path


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep listings, indices and downloads of a test out of the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("MAE_LITE_CACHE", str(folder))
    monkeypatch.setenv("MAE_LITE_DATA", str(folder / "torchvision"))


@pytest.fixture(autouse=True)
def _own_messages() -> Iterator[None]:
    """Let a command of one test, such as one with --quiet, not decide what others hear."""
    loggers = [logging.getLogger(name) for name in ("mae_lite", "mae_lite.evaluation", "mae_lite.models")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture
def arrow_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put converted parquet files under the test's own folder."""
    monkeypatch.setenv("MAE_LITE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "arrow"
