"""``mae-lite evaluate``: the accuracy of a run on a labelled set, as numbers, file and table."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch

from mae_lite import config, files
from mae_lite.data.bad_files import BadFiles
from mae_lite.data.loader import evaluation_loader, watched
from mae_lite.data.opening import open_source
from mae_lite.data.sources import Source, Split
from mae_lite.data.splits import aligned
from mae_lite.data.transforms import EvalTransform
from mae_lite.errors import ConfigError, DataError
from mae_lite.evaluation.accuracy import Accuracy, measure
from mae_lite.evaluation.load import LoadedRun, load_run


def evaluate_run(
    run: Path,
    data: str | None = None,
    split: Split = "test",
    *,
    batch_size: int = 256,
    workers: int = 0,
    on_bad: Literal["fail", "skip"] = "fail",
    allow_empty: bool = False,
) -> dict[str, Any]:
    """Measure a classifier on a labelled set and write ``eval/NAME.json`` into its run folder.

    Args:
        run: run folder of a supervised method.
        data: labelled images with the run's classes; None takes the run's own data.
        split: which split of data that has several.
        batch_size: images per forward pass; it does not change the result.
        workers: processes that read images.
        on_bad: whether an unreadable image ends the evaluation, or is left out (at most 10 or 0.1 %) and counted.
        allow_empty: whether a class folder may be empty.

    Returns:
        Shares in 0 to 1: ``top1``, ``top5`` (None below six classes), ``macro``, ``per_class``, and what was measured.

    Raises:
        ConfigError: when the run is not a classifier.
        DataError: when the images have no labels or other classes, are unreadable, or are the training images unasked.
    """
    loaded = load_run(run)
    spec = data or loaded.data
    source, fingerprint = _labelled(loaded, run, spec, split, allow_empty)
    bad_files = BadFiles(split, len(source), on_bad, path=None)
    accuracy = _accuracy(loaded, source, bad_files, batch_size, workers)
    numbers = asdict(accuracy)
    per_class = dict(zip(source.classes or (), numbers.pop("per_class"), strict=True))
    taken = source.split or split  # where test images are missing, validation images stand in and are called so
    about = {"run": str(run), "step": loaded.step, "data": spec, "split": taken, "asked": split}
    result = {**about, "unreadable": bad_files.count, **numbers, "per_class": per_class}
    files.make_folder(run / "eval")
    name = f"{taken}-{files.sha256(spec.encode())[:8]}.json"
    files.write_json(run / "eval" / name, {**result, "fingerprint": fingerprint})
    return result


def _accuracy(loaded: LoadedRun, source: Source, bad_files: BadFiles, batch_size: int, workers: int) -> Accuracy:
    encoder, augmentation = loaded.recipe.encoder, loaded.recipe.augmentation
    loader = evaluation_loader(
        source,
        EvalTransform(augmentation, encoder.image_size, encoder.channels),
        batch_size=batch_size,
        channels=encoder.channels,
        reading=loaded.recipe.reading,
        workers=workers,
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return measure(
        loaded.model.to(device),
        watched(loader, bad_files),
        len(source.classes or ()),
        device=device,
        mean=augmentation.mean,
        std=augmentation.std,
    )


def _labelled(
    loaded: LoadedRun, run: Path, spec: str, split: Split, allow_empty: bool
) -> tuple[Source, dict[str, int | str]]:
    """Open the images to measure on, with the class numbers of the run, and return their fingerprint too."""
    if not isinstance(loaded.recipe.method, config.Supervised) or loaded.classes is None:
        raise ConfigError(
            f"{str(run)!r} is a pre-training run: it has no classes to be right or wrong about",
            fix=f"fine-tune it first: mae-lite finetune RECIPE --init {run} --data DATA",
        )
    source = open_source(spec, split, allow_empty=allow_empty)
    if source.classes is None:
        raise DataError(f"{spec!r} has no labels", fix="give labelled images with --data")
    fingerprint = fingerprint_of(source, split, loaded.data)
    return aligned(source, loaded.classes, loaded.data), fingerprint


def fingerprint_of(source: Source, split: Split, trained_on: str) -> dict[str, int | str]:
    """Return the fingerprint of images to measure on.

    Args:
        source: the images.
        split: what was asked for.
        trained_on: the training data.

    Raises:
        DataError: when they are the training images, unless these were asked for.
    """
    fingerprint = source.fingerprint()
    if split == "train":
        return fingerprint
    try:
        training = open_source(trained_on, "train").fingerprint()
    except DataError:  # they are no longer there to compare
        return fingerprint
    if fingerprint == training:
        raise DataError(
            f"{source.name!r} has no {split} images of its own: these are the images the run was trained on",
            found=f"the same {fingerprint['count']} images as in the training data {trained_on!r}",
            expected="images the model has never seen",
            fix="give held-out images with --data PATH, or ask for --split train to measure on the training images",
        )
    return fingerprint


def as_text(result: dict[str, Any]) -> str:
    """Return the accuracy as a short table."""
    seen = f"{result['images']:,} images of {result['data']} ({result['split']})"
    lines = [
        f"{result['run']}, step {result['step']}, on {seen}",
        *([f"  {result['unreadable']} more could not be read"] if result["unreadable"] else []),
        f"  top-1          {_percent(result['top1'])}",
        *([f"  top-5          {_percent(result['top5'])}"] if result["top5"] is not None else []),
        f"  macro average  {_percent(result['macro'])}",
    ]
    worst = sorted((share, name) for name, share in result["per_class"].items() if share is not None)
    shown = worst if len(worst) <= 20 else worst[:10]
    lines.append("  per class" if len(worst) <= 20 else f"  the 10 of {len(worst)} classes it knows least")
    lines += [f"    {_percent(share)}  {name}" for share, name in shown]
    return "\n".join(lines)


def _percent(share: float) -> str:
    return f"{100 * share:5.1f} %"
