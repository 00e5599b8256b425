"""Runs of MLflow: in a database in the run folder, or where ``MLFLOW_TRACKING_URI`` says.

https://mlflow.org/docs/latest/ml/tracking
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mae_lite import files

_ID, _STEP = "mae_lite.id", "mae_lite.step"
_LONGEST, _AT_ONCE = 5000, 100
"""Signs of a value, and parameters of a request, that every server takes."""
_STATES = {"finished": "FINISHED", "failed": "FAILED"}
_DEFAULTS = {
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_DISABLE_TELEMETRY": "true",  # use would be told to the library's makers
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # seven, each after a longer pause, would hold the run up for minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
}


class MlflowRun:
    """A run that all starts of a run folder share; the store itself says how far it is."""

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        """Begin the run, or go on with it; settings become parameters, and the newest provenance tags."""
        for name, value in _DEFAULTS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient
        from mlflow.entities import Param, RunTag

        given, own = os.environ.get("MLFLOW_TRACKING_URI"), folder.resolve() / "mlflow"
        if not given:
            files.make_folder(own)
        self._client = MlflowClient(tracking_uri=given or f"sqlite:///{own / 'mlflow.db'}")
        experiment = self._experiment(None if given else own.as_uri())
        settings = {key: value for key, value in about.items() if key not in ("provenance", "overridden")}
        newest = {key: about[key] for key in ("provenance", "overridden") if key in about}
        identity = str(newest["provenance"]["id"])
        found = self._client.search_runs([experiment], f"tags.`{_ID}` = '{identity}'", max_results=1)
        about_it = {"tags": {_ID: identity}, "run_name": folder.resolve().name}
        run = found[0] if found else self._client.create_run(experiment, **about_it)
        self._id, self.last = run.info.run_id, int(run.data.tags.get(_STEP, 0))
        self._client.update_run(self._id, status="RUNNING")
        known = run.data.params  # which never change
        params = [Param(key, value) for key, value in _flat(settings) if key not in known]
        tags = [RunTag(key, value) for key, value in _flat(newest)]
        for place in range(0, max(len(params), len(tags)), _AT_ONCE):
            some = slice(place, place + _AT_ONCE)
            self._client.log_batch(self._id, params=params[some], tags=tags[some])

    def _experiment(self, artifacts: str | None) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "mae_lite"
        found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id if found else self._client.create_experiment(name, artifact_location=artifacts))

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Send ``numbers``, and how far the run is."""
        from mlflow.entities import Metric, RunTag

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in numbers.items()]
        self._client.log_batch(self._id, metrics=metrics, tags=[RunTag(_STEP, str(step))])

    def close(self, state: str) -> None:
        """Say what the run came to; one that is stopped or paused counts as killed until it goes on."""
        self._client.set_terminated(self._id, _STATES.get(state, "KILLED"))


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield leaves by dotted names, as texts; lists stay whole."""
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _flat(item, f"{prefix}{key}.")
        else:
            text = item if isinstance(item, str) else json.dumps(item)
            yield f"{prefix}{key}", text[:_LONGEST]
