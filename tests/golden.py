"""Run folders as a version of mae_lite leaves them, kept under ``tests/fixtures/runs`` for the versions after it.

    python tests/golden.py VERSION          adds those of this checkout

A pre-training that was stopped at update 4 of 6, a fine-tuning that began from it and was stopped too, and
``expected.json``: what both gave when they went on. Nothing of the machine is kept.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from contextlib import chdir
from pathlib import Path
from typing import Any

import torch

import mae_lite
from mae_lite import config, files, training
from mae_lite.evaluation.classifier import evaluate_run
from mae_lite.rundir import read_json, read_rows
from tests import toy

HOME = Path(__file__).parent / "fixtures" / "runs"
STOPPED_AT = 4
_ENCODER = {"image_size": 8, "patch_size": 4, "channels": 1, "width": 8, "depth": 1, "num_heads": 2}


def pretraining() -> config.Recipe:
    """Return the toy MAE, half as wide."""
    return toy.mae(encoder=_ENCODER, method={"decoder_width": 4, "decoder_heads": 1, "mask_ratio": 0.5})


def finetuning() -> config.Recipe:
    """Return a fine-tuning of 6 updates with another optimiser."""
    changes: dict[str, Any] = {"encoder": _ENCODER, "start": "pretrained", "layer_decay": 0.75, "labels_per_class": 2}
    return toy.classifier(**changes, optimizer={"kind": "sgd"}, validation_fraction=0.5)


def runtime(use: str, init: str | None, **changes: Any) -> config.Runtime:
    """Return how a run is carried out in the folder that holds both; ``init`` names what it begins from there."""
    settings = {"init": init, "save_every_steps": STOPPED_AT, "probe_images": 0, "validate_every_epochs": 2}
    return toy.runtime(Path(use), **settings, **changes)


RUNS = {"pretrain": (pretraining, None), "finetune": (finetuning, "pretrain")}
"""Recipe, and the run that it begins from."""


def continued(begun: Path) -> dict[str, Any]:
    """Carry on copies of the runs in ``begun`` in the working folder, and return what they give."""
    found: dict[str, Any] = {}
    for use, (recipe, init) in RUNS.items():
        shutil.copytree(begun / use, use)
        training.run(recipe(), runtime(use, None if init is None else str(begun / init)))
        rows = [{key: value for key, value in row.items() if key not in toy.TIMES} for row in read_rows(Path(use))]
        found[use] = {"rows": rows}
    found["finetune"]["top1"] = evaluate_run(Path("finetune"))["top1"]
    found["pretrain"]["features"] = features(Path("pretrain") / "encoder")
    return found


@torch.inference_mode()
def features(encoder: Path) -> list[float]:
    """Return the class token of a ramp of grey."""
    image = torch.linspace(-1.0, 1.0, 64).reshape(1, 1, 8, 8)
    values: list[float] = mae_lite.load_encoder(str(encoder))(image).flatten().tolist()
    return values


def _without_machine(run: Path) -> None:
    """Take out of a run what tells of the machine, and what no start needs."""
    state = read_json(run / "status.json", "a run")
    files.write_json(run / "status.json", {**state, "pid": 1, "host": "golden", "peak_memory_mb": 1.0})
    starts = read_json(run / "provenance.json", "a run")["starts"]
    for start in starts:
        start |= {"command": ["mae-lite"], "git": None, "device": "cpu"}
        start["machine"] = {"host": "golden", "system": "Linux", "cpus": 1}
    files.write_json(run / "provenance.json", {"starts": starts})
    (run / "run.lock").unlink()


def main(version: str) -> None:
    """Write the runs of ``version``."""
    home = HOME / version
    if home.exists():
        sys.exit(f"{home} exists: what a version left behind does not change")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch, chdir(scratch):
        for use, (recipe, init) in RUNS.items():
            training.run(recipe(), runtime(use, init, stop_after_steps=STOPPED_AT))
            _without_machine(Path(use))
        os.mkdir("again")
        with chdir("again"):
            expected = continued(Path(scratch))
        Path("expected.json").write_text(json.dumps(expected, indent=1) + "\n")
        for name in (*RUNS, "expected.json"):
            home.mkdir(parents=True, exist_ok=True)
            shutil.move(name, home / name)


if __name__ == "__main__":
    main(sys.argv[1])
