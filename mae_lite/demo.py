"""``mae-lite demo``: the whole road on handwritten digits, from unlabelled images to a page with the result.

One MAE pre-training on all training digits without their labels, then fine-tuning with 2, 5 and 10 labels per
class from MAE and from scratch, over five draws of the labels. Finished runs are not repeated.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mae_lite import config, demo_results, files, recipes
from mae_lite.data.sources import Source
from mae_lite.demo_results import BASELINES, LABELS, MAE, METHODS, SEEDS, Cell
from mae_lite.errors import EXIT_STOPPED, in_line
from mae_lite.processes import Pool, stop_signals_raise
from mae_lite.report import compose, page
from mae_lite.report.read import BASELINES as BASELINES_FILE
from mae_lite.terminal import answer, say, tell

TRAINING_IMAGES = 1346


@dataclass(frozen=True)
class Stage:
    """One run of the demo: a recipe with its data, in a folder."""

    folder: Path
    recipe: config.Recipe
    init: Path | None = None


def run(
    out: Path, processes: int, pretrain_steps: int | None, finetune_steps: int | None, as_json: bool = False
) -> int:
    """Carry out all stages, print the table, or its numbers as JSON, and write ``out/report.html``.

    Returns:
        0, or 75 when it was stopped by a signal; the same command continues.

    Raises:
        MaeLiteError: when a stage failed.
    """
    start = time.monotonic()
    files.make_folder(out)
    pretraining = Stage(out / "pretrain", shortened(recipes.get("digits-mae"), pretrain_steps))
    stages = finetunings(out, pretraining.folder, finetune_steps)
    tell(f"MAE pre-training without labels ({pretraining.recipe.epochs:g} epochs) in one process, and")
    tell(f"{len(stages)} fine-tunings with {_list(LABELS)} labels per class beside and after it")
    try:
        with stop_signals_raise(), Pool(processes, tell) as pool:
            alone = [stage for stage in stages.values() if stage.init is None]
            pool.finish(
                [partial(train_stage, stage) for stage in (pretraining, *alone)],
                after_first=[partial(train_stage, stage) for stage in stages.values() if stage.init is not None],
            )
            results = {cell: _accuracy(stage.folder) for cell, stage in stages.items()} | pool.call(baselines)
    except KeyboardInterrupt:
        tell("stopped; what was finished is kept, the same command continues")
        return EXIT_STOPPED
    answer(demo_results.as_values(results), f"\n{demo_results.as_text(results)}", as_json)
    files.write_json(out / BASELINES_FILE, demo_results.as_baselines(results))
    path, shown = out / "report.html", [pretraining.folder, *(stage.folder for stage in stages.values())]
    report = compose.compose(shown, demo_results.TITLE, demo_results.NOTES)
    page.write(report, path)
    headline = "\n".join(map(in_line, report.headline))
    say(f"\n{headline}\nThe page: {in_line(path)}  ({time.monotonic() - start:.0f} s)", aside=as_json)
    return 0


def finetunings(out: Path, pretrained: Path, steps: int | None) -> dict[Cell, Stage]:
    """Return the fine-tuning stages of all cells.

    The recipes are written for 5 labels per class: one batch of all 50 labelled images per epoch. With fewer the batch
    is smaller, with more an epoch has more of them; the number of updates and the learning rate stay the same.
    """
    stages: dict[Cell, Stage] = {}
    for method, name in METHODS.items():
        for labels in LABELS:
            for seed in SEEDS:
                base = recipes.get(name)
                batch = min(10 * labels, base.global_batch_size)
                per_epoch = 10 * labels // batch
                recipe = recipes.derive(
                    base,
                    seed=seed,
                    labels_per_class=labels,
                    global_batch_size=batch,
                    epochs=base.epochs / per_epoch,
                    warmup_epochs=base.warmup_epochs / per_epoch,
                    lr_per_256=base.peak_lr * 256 / batch,
                )
                folder = out / f"{name.removeprefix('digits-')}-{labels}-labels-seed-{seed}"
                init = pretrained if method == MAE else None
                stages[method, labels, seed] = Stage(folder, shortened(recipe, steps), init)
    return stages


def shortened(recipe: config.Recipe, steps: int | None) -> config.Recipe:
    """Return ``recipe`` with a schedule of ``steps`` updates; None leaves it as it is."""
    if steps is None:
        return recipe
    images = TRAINING_IMAGES if recipe.labels_per_class is None else 10 * recipe.labels_per_class
    per_epoch = images // recipe.global_batch_size
    return recipes.derive(recipe, epochs=steps / per_epoch, warmup_epochs=steps / 10 / per_epoch)


def train_stage(stage: Stage) -> str | None:
    """Carry out one stage, unless it is finished; return its name, or None when it was stopped."""
    import torch

    from mae_lite import training
    from mae_lite.evaluation.classifier import evaluate_run

    torch.set_num_threads(1)
    pretrains = stage.recipe.labels_per_class is None
    logging.getLogger("mae_lite").setLevel(logging.INFO if pretrains else logging.WARNING)
    runtime = config.Runtime(
        data="digits",
        out=str(stage.folder),
        init=None if stage.init is None else str(stage.init),
        log_every_steps=100 if pretrains else 20,
        tensorboard=False,
        progress=pretrains,
        probe_every_epochs=50.0 if pretrains else None,
        probe_images=600,
        accelerator="cpu",
        workers=1 if pretrains else 0,
    )
    state = training.run(stage.recipe, runtime).state
    if state == "finished" and not pretrains:
        evaluate_run(stage.folder, "digits", "test")
    return stage.folder.name if state == "finished" else None


def baselines() -> dict[Cell, float]:
    """Return the test accuracy of two classifiers on raw pixels, with the labels of every cell."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier

    from mae_lite.data.opening import open_source
    from mae_lite.data.splits import few_labels

    train, test = open_source("digits", "train"), open_source("digits", "test")
    inputs, targets = _pixels(train), _pixels(test)
    results: dict[Cell, float] = {}
    for labels in LABELS:
        for seed in SEEDS:
            chosen = few_labels(train.labels, labels, seed)
            models: tuple[Any, ...] = (KNeighborsClassifier(1), LogisticRegression(max_iter=2000))
            for name, model in zip(BASELINES, models, strict=True):
                model.fit(inputs[chosen], train.labels[chosen])
                results[name, labels, seed] = float((model.predict(targets) == test.labels).mean())
    return results


def _pixels(source: Source) -> npt.NDArray[np.float64]:
    """Return all images as rows of numbers in 0 to 1."""
    return np.stack([np.ravel(np.asarray(source.example(index).data)) for index in range(len(source))]) / 255.0


def _accuracy(folder: Path) -> float:
    newest = max((folder / "eval").glob("test-*.json"), key=lambda path: path.stat().st_mtime)
    return float(json.loads(newest.read_text())["top1"])


def _list(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers[:-1])) + f" and {numbers[-1]}"
