"""``mae-lite demo``: the whole road on handwritten digits, from unlabelled images to a page with the result.

One MAE pre-training on all training digits without their labels, then fine-tuning with 2, 5 and 10 labels per
class from MAE and from scratch, over three draws of the labels. Finished runs are not repeated.
"""

from __future__ import annotations

import concurrent.futures
import json
import logging
import multiprocessing
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mae_lite import config, demo_results, files, recipes
from mae_lite.data.sources import Source
from mae_lite.demo_results import BASELINES, LABELS, MAE, METHODS, SEEDS, Cell
from mae_lite.errors import EXIT_STOPPED
from mae_lite.report import page

_log = logging.getLogger(__name__)
TRAINING_IMAGES = 1346


@dataclass(frozen=True)
class Stage:
    """One run of the demo: a recipe with its data, in a folder."""

    folder: Path
    recipe: config.Recipe
    init: Path | None = None
    threads: int = 1


def run(out: Path, processes: int, pretrain_steps: int | None, finetune_steps: int | None) -> int:
    """Carry out all stages, print the table and write ``out/report.html``.

    Returns:
        0, or 75 when it was stopped by a signal; the same command continues.

    Raises:
        MaeLiteError: when a stage failed.
    """
    start = time.monotonic()
    files.make_folder(out)
    pretraining = Stage(out / "pretrain", shortened(recipes.get("digits-mae"), pretrain_steps), threads=processes)
    stages = finetunings(out, pretraining.folder, finetune_steps)
    print(f"1 of 3  MAE pre-training without labels ({pretraining.recipe.epochs:g} epochs)", flush=True)
    with _Pool(processes) as pool:
        if not pool.finish([pretraining]):
            return EXIT_STOPPED
        print(f"2 of 3  {len(stages)} fine-tunings with {_list(LABELS)} labels per class", flush=True)
        if not pool.finish(list(stages.values())):
            return EXIT_STOPPED
        print("3 of 3  two baselines on the pixels, and the page", flush=True)
        results = {cell: _accuracy(stage.folder) for cell, stage in stages.items()}
        results |= pool.call(baselines)
    files.write_json(out / "table.json", [[*cell, value] for cell, value in results.items()])
    print("\n" + demo_results.as_text(results))
    path = out / "report.html"
    page.write(
        demo_results.as_page(pretraining.folder, {cell: stage.folder for cell, stage in stages.items()}, results), path
    )
    print(f"\n{demo_results.headline(results)}\nThe page: {path}  ({time.monotonic() - start:.0f} s)")
    return 0


def finetunings(out: Path, pretrained: Path, steps: int | None) -> dict[Cell, Stage]:
    """Return the fine-tuning stages of all cells; a batch is all the labelled images there are."""
    stages: dict[Cell, Stage] = {}
    for method, name in METHODS.items():
        for labels in LABELS:
            for seed in SEEDS:
                recipe = recipes.derive(
                    recipes.get(name), labels_per_class=labels, global_batch_size=10 * labels, seed=seed
                )
                folder = out / f"{name.removeprefix('digits-')}-{labels}-labels-seed-{seed}"
                init = pretrained if method == MAE else None
                stages[method, labels, seed] = Stage(folder, shortened(recipe, steps), init)
    return stages


def shortened(recipe: config.Recipe, steps: int | None) -> config.Recipe:
    """Return ``recipe`` with a schedule of ``steps`` updates; None leaves it as it is."""
    if steps is None:
        return recipe
    per_epoch = max(1, TRAINING_IMAGES // recipe.global_batch_size) if recipe.labels_per_class is None else 1
    return recipes.derive(recipe, epochs=steps / per_epoch, warmup_epochs=steps / 10 / per_epoch)


def train_stage(stage: Stage) -> str:
    """Carry out one stage, unless it is finished; return how it ended."""
    import torch

    from mae_lite import training
    from mae_lite.evaluation.classifier import evaluate_run

    torch.set_num_threads(stage.threads)
    runtime = config.Runtime(
        data="digits",
        out=str(stage.folder),
        init=None if stage.init is None else str(stage.init),
        log_every_steps=100 if stage.recipe.labels_per_class is None else 20,
        tensorboard=False,
        progress=stage.recipe.labels_per_class is None,
        accelerator="cpu",
        workers=0,
    )
    state = training.run(stage.recipe, runtime).state
    if state == "finished" and stage.recipe.labels_per_class is not None:
        evaluate_run(stage.folder, "digits", "test")
    return state


def baselines() -> dict[Cell, float]:
    """Return the test accuracy of two classifiers on raw pixels, with the labels of every cell."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier

    from mae_lite.data.sources import few_labels, open_source

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
    return np.stack([np.asarray(source.image(index, 1)).ravel() for index in range(len(source))]) / 255.0


class _Pool:
    """Worker processes that import torch once and carry out stages; the first Ctrl-C lets them save and stop."""

    def __init__(self, processes: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pool = concurrent.futures.ProcessPoolExecutor(processes, context, initializer=_start_worker)

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def finish(self, stages: list[Stage]) -> bool:
        """Carry out ``stages``; return whether all finished, False when a signal stopped them."""
        futures = {self._pool.submit(train_stage, stage): stage for stage in stages}
        try:
            for number, future in enumerate(concurrent.futures.as_completed(futures), 1):
                if future.result() != "finished":
                    return self._stopped()
                if len(stages) > 1 and number % len(SEEDS) == 0:
                    print(f"        {number} of {len(stages)}", flush=True)
        except KeyboardInterrupt:
            return self._stopped()
        return True

    def call(self, function: Any) -> Any:
        """Call ``function`` in a worker."""
        return self._pool.submit(function).result()

    def _stopped(self) -> bool:
        print("stopped; what was finished is kept, the same command continues")
        self._pool.shutdown(wait=True, cancel_futures=True)
        return False


def _start_worker() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    logging.basicConfig(level=logging.WARNING, format="        %(message)s", force=True)
    logging.getLogger("mae_lite").setLevel(logging.INFO)


def _accuracy(folder: Path) -> float:
    newest = max((folder / "eval").glob("test-*.json"), key=lambda path: path.stat().st_mtime)
    return float(json.loads(newest.read_text())["top1"])


def _list(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers[:-1])) + f" and {numbers[-1]}"
