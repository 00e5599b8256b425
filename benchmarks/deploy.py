"""One image through ViT-Tiny in every form that ``mae-lite export`` writes, beside PyTorch: milliseconds, side by side.

    python benchmarks/deploy.py [--seconds 20] [--side 224] [--out benchmarks/results/deploy.json]

A classifier of ViT-Tiny's shape is made in two updates on digits (speed does not depend on what it knows), exported,
and timed by the deployment card, in which the forms take turns. OMP_NUM_THREADS is to be unset.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mae_lite import Runtime, cli, derive, get_recipe, run

FORMS = ("timm", "torch-export", "onnx", "onnx-int8")
UPDATES = 2


def exported(folder: Path, side: int, seconds: float) -> dict[str, Any]:
    """Return the card of a classifier that was exported in all forms."""
    recipe = derive(
        get_recipe("scratch"),
        encoder={"image_size": side},
        global_batch_size=8,
        labels_per_class=8,
        epochs=UPDATES / 10,  # 80 images make 10 updates
        warmup_epochs=0,
        validation_fraction=0.0,
    )
    settings: dict[str, Any] = {"workers": 0, "progress": False, "tensorboard": False, "accelerator": "cpu"}
    run(recipe, Runtime(data="digits", out=str(folder / "run"), **settings))
    words = ["export", str(folder / "run"), "--to", *FORMS, "--out", str(folder / "export"), "--compare", "32"]
    words += ["--seconds", str(seconds), "--max-loss-points", "100", "--mistakes", "0", "--calibration-images", "32"]
    if code := cli.main(words):
        sys.exit(code)
    card: dict[str, Any] = json.loads((folder / "export" / "card.json").read_text())
    return card


def summary(card: dict[str, Any], side: int) -> dict[str, Any]:
    """Return milliseconds by form and threads, and how many times as fast as PyTorch each is."""
    own = {row["threads"]: row["p50_ms"] for row in card["forms"][0]["latency"]}
    assert card["forms"][0]["form"] == "torch"
    forms = {
        form["form"]: {
            "megabytes": round(form["bytes"] / 1e6, 2),
            "peak_memory_mb": form["memory"],
            "latency": [
                {**row, "times_torch": round(own[row["threads"]] / row["p50_ms"], 3)} for row in form["latency"]
            ],
            "throughput": form["throughput"],
        }
        for form in card["forms"]
    }
    return {"model": f"ViT-Tiny, {side} px, one image", "forms": forms, "machine": card["machine"]}


def main(words: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each form, threads and size of batch")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "deploy.json")
    options = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        found = summary(exported(Path(folder), options.side, options.seconds), options.side)
    command = f"python benchmarks/deploy.py --seconds {options.seconds:g} --side {options.side}"
    options.out.write_text(json.dumps({**found, "command": command}, indent=1) + "\n")
    for name, form in found["forms"].items():
        shown = ", ".join(f"{row['threads']} threads {row['p50_ms']:.1f} ms" for row in form["latency"])
        print(f"{name:<14}{form['megabytes']:>8.2f} MB  {shown}")
    print(f"-> {options.out}")


if __name__ == "__main__":
    main()
