"""Run folders as a run leaves them, written by hand: what a report reads."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

from mae_lite import recipes
from mae_lite.config import Recipe


def run(root: Path, name: str, recipe: Recipe, **changes: Any) -> Path:
    """Write a finished run.

    Args:
        root: folder of runs.
        name: of the run.
        recipe: its settings.
        changes: data, init, state, message, steps, top1 (in 0 to 1), evaluation (what to change in it), losses, probes
            (a list of {name: number}), previews (their steps), start (facts for provenance.json), raw (changes of
            the written recipe).
    """
    folder = root / name
    folder.mkdir(parents=True)
    steps = changes.get("steps", 100)
    raw = {**recipe.model_dump(mode="json"), **changes.get("raw", {})}
    record = {"format": 1, "recipe": raw, "data": changes.get("data", "digits"), "init": changes.get("init")}
    write(folder / "recipe.json", record)
    status = {"state": changes.get("state", "finished"), "step": steps, "total_steps": steps}
    write(folder / "status.json", status | ({"message": changes["message"]} if "message" in changes else {}))
    write(
        folder / "provenance.json", {"starts": [{"command": ["mae-lite"], "device": "cpu", **changes.get("start", {})}]}
    )
    losses = changes.get("losses", (2.0, 1.0, 0.5))
    rows = [
        {"step": (place + 1) * 10, "loss": loss, "lr": 1e-3, "images_per_second": 100.0, "seconds": 1.0}
        for place, loss in enumerate(losses)
    ]
    rows += [{"step": (place + 1) * 10, **numbers} for place, numbers in enumerate(changes.get("probes", ()))]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    if "top1" in changes:
        evaluation = {"top1": changes["top1"], "split": "test", "data": changes.get("data", "digits")}
        write(folder / "eval" / "test-1.json", evaluation | changes.get("evaluation", {}))
    for step in changes.get("previews", ()):
        buffer = io.BytesIO()
        Image.new("RGB", (64, 24), (step % 256, 90, 30)).save(buffer, "PNG")
        (folder / "previews").mkdir(exist_ok=True)
        (folder / "previews" / f"step_{step}.png").write_bytes(buffer.getvalue())
    return folder


def write(path: Path, content: Any) -> None:
    """Write JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def comparison(root: Path) -> Path:
    """Write a small study: a pre-training, and 2 and 5 labels from it and from scratch with three seeds."""
    run(
        root,
        "pretrain",
        recipes.get("digits-mae"),
        previews=(10, 20, 30),
        probes=({"knn_top1": 0.5, "rankme": 10.0}, {"knn_top1": 0.75, "rankme": 20.0}),
    )
    for labels, seed in ((labels, seed) for labels in (2, 5) for seed in range(3)):
        changes: dict[str, Any] = {"labels_per_class": labels, "seed": seed, "global_batch_size": 10 * labels}
        tuned = recipes.derive(recipes.get("digits-finetune"), **changes)
        run(root, f"mae-{labels}-{seed}", tuned, init=str(root / "pretrain"), top1=0.8 + labels / 100 + seed / 50)
        scratch = recipes.derive(recipes.get("digits-scratch"), **changes)
        run(root, f"scratch-{labels}-{seed}", scratch, top1=0.6 + labels / 100 + seed / 100)
    numbers = [
        {"name": "nearest", "data": "digits", "labels_per_class": labels, "seed": seed, "top1": 0.5 + labels / 100}
        for labels in (2, 5)
        for seed in range(3)
    ]
    write(root / "baselines.json", numbers)
    return root
