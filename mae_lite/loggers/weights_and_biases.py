"""Runs of Weights & Biases: offline, in the run folder, unless the environment says otherwise.

``WANDB_MODE``, ``WANDB_API_KEY``, ``WANDB_PROJECT`` and the library's other variables hold. Without a mode and a key
nothing leaves the machine. https://docs.wandb.ai/models/track/environment-variables
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mae_lite import files

_OPENING_S, _CLOSING_S = 30.0, 5.0
"""What may pass until a server answers, and, less than a run may take to stop, until it has all rows at the end."""


class WeightsAndBiases:
    """A run that all starts of a run folder share.

    A server keeps what it has got. Offline there is one folder, of the newest start, with all rows since the first.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        """Begin the run, or go on with it."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # bugs would be told to the library's makers
        import wandb

        mode: Any = os.environ.get("WANDB_MODE") or ("online" if os.environ.get("WANDB_API_KEY") else "offline")
        identity = str(about["provenance"]["id"])
        for earlier in (folder / "wandb").glob(f"offline-run-*-{identity}"):
            files.remove(earlier)
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or "mae_lite",
            id=identity,
            name=folder.resolve().name,
            resume="allow",
            reinit="create_new",  # beside a run of the caller's own
            mode=mode,
            dir=str(folder.resolve()),
            config=dict(about),
            # The library would keep the command as it was given, and the remote's address: both may hold secrets.
            settings=wandb.Settings(
                x_disable_meta=True,
                disable_git=True,
                disable_code=True,
                console="off",
                silent=True,
                init_timeout=_OPENING_S,
                finish_timeout=_CLOSING_S,
            ),
        )
        self.last = max(self._run.starting_step - 1, 0)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Hand ``numbers`` to the library, which sends them on its own time."""
        self._run.log(dict(numbers), step=step)

    def close(self, state: str) -> None:
        """End the library's process; a run that did not fail can be gone on with."""
        self._run.finish(exit_code=int(state == "failed"))
