"""``mae-lite layers``: fine-tune with some blocks kept, as often as it takes, and draw accuracy against their number.

Every point is an ordinary fine-tuning run in a folder of its own: it goes on where it was stopped, and a finished one
is not repeated.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from mae_lite import config, files, methods, rundir, training
from mae_lite.analysis.loading import labels_of
from mae_lite.data.opening import open_source
from mae_lite.data.sources import Split, usable_cpus
from mae_lite.errors import ConfigError, DataError
from mae_lite.evaluation import incoming
from mae_lite.evaluation.classifier import evaluate_run, fingerprint_of
from mae_lite.evaluation.load import load_initial
from mae_lite.layer_importance import curve, points
from mae_lite.processes import Pool, stop_signals_raise
from mae_lite.terminal import say

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Order:
    """What to fine-tune and how often; the fields are those of the command."""

    recipe: config.Recipe
    """Fine-tunes; its seed is not read."""
    runtime: config.Runtime
    """Names data, starting weights (init) and the folder for all runs and results (out)."""
    keep: tuple[int, ...] | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    test_data: str | None = None
    test_split: Literal["val", "test"] = "test"
    processes: int = 1


@dataclass(frozen=True)
class Test:
    """The images that every run is measured on."""

    data: str
    split: Split
    file: str
    """Name of the result in a run's folder ``eval``."""
    fingerprint: Mapping[str, Any]


def measure(order: Order) -> curve.Curves:
    """Carry out all runs, and write ``layers.json`` and ``layers.svg`` into their folder.

    Raises:
        ConfigError: for a recipe that does not fine-tune a plain Vision Transformer, or settings that nothing reads.
        CheckpointError: when the weights do not fit.
        DataError: when there are no labelled images to train or measure on.
        KeyboardInterrupt: when it was stopped by a signal; what was done is kept.
        MaeLiteError: when a run failed.
    """
    init, out = _checked(order)
    depth = order.recipe.plain_encoder.depth
    counts = points.counts(depth, order.keep)
    wanted = [(point, seed) for seed in order.seeds for point in points.kept(depth, counts)]
    train = open_source(order.runtime.data, "train", allow_empty=order.runtime.allow_empty_classes)
    test = _test(order)
    # What is wrong with the weights would else come to light in every run anew.
    method = methods.build(order.recipe, len(train.classes or ()))
    load_initial(method, order.recipe, init, order.runtime.allow_missing)
    files.make_folder(out)
    _log.info("%d fine-tunings with %s in %s; mae-lite watch %s/* shows them", len(wanted), order.recipe.name, out, out)
    runs = [(points.recipe_of(order.recipe, point, seed), _runtime(order, out, point, seed)) for point, seed in wanted]
    calls = [partial(carry_out, *run, test, order.processes) for run in runs]
    with stop_signals_raise(), Pool(order.processes, partial(say, aside=True)) as pool:
        accuracies = pool.finish(calls)
    top1 = {(point.name, seed): value for (point, seed), value in zip(wanted, accuracies, strict=True)}
    found = curve.collected(labels_of([init])[0], depth, counts, order.seeds, top1)
    about = {"init": init, "recipe": order.recipe.name, "data": order.runtime.data}
    about |= {"test_data": test.data, "split": test.split, "images": test.fingerprint["count"]}
    files.write_json(out / "layers.json", {**about, **found.numbers()})
    files.write_text(out / "layers.svg", found.figure(_method_of(init)))
    return found


def carry_out(recipe: config.Recipe, runtime: config.Runtime, test: Test, processes: int) -> float | None:
    """Carry out one run as far as it is not yet, in a worker, and measure it.

    Returns:
        Top-1 on the test images, 0 to 1; None when it was stopped.
    """
    if processes > 1:
        torch.set_num_threads(max(1, usable_cpus() // processes))
    for name in ("mae_lite.evaluation", "mae_lite.models"):  # how the weights fit has been said once
        logging.getLogger(name).setLevel(logging.ERROR)
    outcome = training.run(recipe, runtime)
    if outcome.state != "finished":
        return None
    known = outcome.folder / "eval" / test.file
    if known.exists():
        found = rundir.read_json(known, "a run folder")
        if found.get("step") == outcome.step and found.get("fingerprint") == test.fingerprint:
            return float(found["top1"])
    return float(evaluate_run(outcome.folder, test.data, test.split, on_bad=runtime.on_bad)["top1"])


def _checked(order: Order) -> tuple[str, Path]:
    """Return starting weights and folder; refuse what no curve can be made of."""
    recipe, runtime = order.recipe, order.runtime
    refused = [
        ("method.keep_blocks", getattr(recipe.method, "keep_blocks", None), None, "drop it, or use --keep"),
        ("stop_after_steps", runtime.stop_after_steps, None, "drop it; Ctrl-C stops, and the same command continues"),
        ("devices", runtime.devices, 1, "drop it; several --processes can share the devices"),
    ]
    for name, found, expected, fix in refused:
        if found != expected:
            raise ConfigError(f"{name} is not read here", found=f"{found}", expected=f"{expected}", fix=fix)
    fits = isinstance(recipe.method, config.Supervised) and recipe.start == "pretrained"
    if not fits or isinstance(recipe.encoder, config.Swin) or runtime.init is None:
        raise ConfigError(
            f"recipe {recipe.name!r}",
            found="no fine-tuning of pre-trained weights" if not fits else "a Swin transformer, which has stages",
            expected="a recipe that fine-tunes a plain Vision Transformer",
            fix="mae-lite layers RUN finetune-improved --data DATA",
        )
    if not order.seeds or len({*order.seeds}) < len(order.seeds):
        raise ConfigError(
            "seeds",
            found=f"{order.seeds}",
            expected="one or more, each once, to repeat every point",
            fix="--seeds 0 1 2",
        )
    return runtime.init, Path(runtime.out or f"runs/layers-{labels_of([runtime.init])[0]}-{recipe.name}")


def _runtime(order: Order, out: Path, point: points.Kept, seed: int) -> config.Runtime:
    """Return how one run is carried out: quietly, with its share of the processors."""
    changes: dict[str, Any] = {"out": str(out / f"keep-{point.name}-seed-{seed}"), "progress": False}
    if order.processes > 1 and order.runtime.workers is None:
        changes["workers"] = usable_cpus() // order.processes
    return order.runtime.model_copy(update=changes)


def _test(order: Order) -> Test:
    """Open the images to measure on, before anything is trained."""
    data = order.test_data or order.runtime.data
    source = open_source(data, order.test_split, allow_empty=order.runtime.allow_empty_classes)
    if source.classes is None:
        raise DataError(f"{data!r} has no labels", fix="give labelled images with --test-data")
    fingerprint = fingerprint_of(source, order.test_split, order.runtime.data)
    taken = source.split or order.test_split
    return Test(data, taken, f"{taken}-{files.sha256(data.encode())[:8]}.json", fingerprint)


def _method_of(init: str) -> str:
    """Return the kind of the pre-training method, where the weights are a run's; it decides the colour."""
    if not (Path(init) / "recipe.json").exists():
        return ""
    return incoming.described(Path(init), "a run folder")[1].method.kind
