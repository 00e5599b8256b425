"""The card of a model as files: a page, its numbers, and a README. The page is made of the numbers alone."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mae_lite import figures, overrides
from mae_lite.cards import words
from mae_lite.cards.readme import FORM_COLUMNS, form_row, readme
from mae_lite.cards.settings import CardSettings, MeasureSettings
from mae_lite.report import page
from mae_lite.report.charts import Figure

_MANY = 15
"""Classes from which on the table of classes is folded."""


@dataclass(frozen=True)
class Grid:
    """A table: its first column names the row."""

    name: str
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Mistake:
    """A picture with what was said of it."""

    uri: str
    image: str
    predicted: str
    label: str
    sure: str


def card(source: str | Path, out: str | Path | None = None, **settings: Any) -> dict[str, Any]:
    """Say what a finished model is worth on this machine: ``mae_lite.card("runs/a", licence="apache-2.0")``.

    Args:
        source: a finished run, a folder that timm reads, or an export of one.
        out: folder for ``card.html``, ``card.json`` and ``README.md``; None takes that of an export, ``card`` in the
            run, or FOLDER-card beside a timm folder.
        settings: those of :class:`mae_lite.cards.settings.MeasureSettings`.

    Returns:
        What stands in ``card.json``, and ``out``.

    Raises:
        MaeLiteError: as :func:`written`.
    """
    return written(str(source), None if out is None else Path(out), overrides.build(MeasureSettings, settings))


def written(source: str, out: Path | None, settings: MeasureSettings) -> dict[str, Any]:
    """Measure a model and write its card, as :func:`card` does.

    Raises:
        CheckpointError: when ``source`` cannot be used, or ``out`` is a folder of something else.
        ConfigError: when nobody says which images, a package is missing, or a card there was changed by hand.
        DataError: for images that are missing or unreadable.
        DiskError: when ``out`` cannot be written.
    """
    from mae_lite.cards import card as measuring

    found, place = measuring.opened(source, settings)
    place = place if out is None else out
    measuring.check(place)
    record, pngs = measuring.measured(found, settings)
    made = contents(record, pngs)
    measuring.publish(place, made)
    return {"out": str(place), **json.loads(made["card.json"])}


def contents(record: Mapping[str, Any], pngs: Sequence[bytes]) -> dict[str, bytes]:
    """Return the files of a card.

    Args:
        record: what stands in ``card.json``.
        pngs: the pictures of its mistakes, in order.
    """
    shown = page.render_card(view(record, pngs))
    numbers = json.dumps(record, indent=2, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
    return {"card.html": shown.encode("utf-8", "replace"), "card.json": numbers, "README.md": readme(record).encode()}


def beside(settings: CardSettings) -> Callable[[Any], dict[str, bytes]]:
    """Return what makes the card of forms that :func:`mae_lite.exporting.export.exported` has just written."""
    from mae_lite.cards.card import measured

    return lambda found: contents(*measured(found, settings))


def view(record: Mapping[str, Any], pngs: Sequence[bytes]) -> dict[str, Any]:
    """Return what the page shows, in order."""
    data = words.short(record["measured_on"]["data"])
    unreadable = record["measured_on"]["unreadable"]
    return {
        "title": record["title"],
        "headline": words.headline(record, data),
        "forms": _forms(record),
        "speed": [_latency(record), _throughput(record), *_gpu(record)],
        "processor": words.processor(record),
        "unmeasured": record["measured_on"]["unmeasured"],
        "left_out": f"{unreadable:,} images could not be read and are left out." if unreadable else "",
        "quality": None if record["quality"] is None else _quality(record, data),
        "mistakes": [
            Mistake(
                "data:image/png;base64," + base64.b64encode(png).decode(),
                one["image"].rpartition("/")[2],
                one["predicted"],
                one["label"],
                words.percent(one["probability"]),
            )
            for one, png in zip(record["mistakes"], pngs, strict=True)
        ],
        "inputs": words.inputs(record),
        "classes": record["classes"],
        "origins": words.origins(record),
        "versions": ", ".join(f"{name} {version}" for name, version in record["machine"]["versions"].items()),
        "written": record["written"],
    }


def _forms(record: Mapping[str, Any]) -> Grid:
    rows = [[f"{row[0]}: {words.NUMBERS[row[0]]}", *row[1:]] for row in map(form_row, record["forms"])]
    about = record["measured_on"]
    caption = (
        f"Each form as its user opens it. Accuracy and points lost: {about['images']:,} images, drawn by seed "
        f"{about['seed']}; points lost are against the first row on the same images. p50: half of the calls are "
        "faster; p95: 95 of 100 are. Peak memory: of a process that opens the form and gives it one image, with its "
        "libraries."
    )
    return Grid("forms", caption, FORM_COLUMNS, rows)


def _latency(record: Mapping[str, Any]) -> Grid:
    counts = [one["threads"] for one in record["forms"][0]["latency"]]
    header = ["form", *(f"{count} thread{'' if count == 1 else 's'}" for count in counts)]
    rows = [
        [
            form["form"],
            *(f"{words.milliseconds(one['p50_ms'])} / {words.milliseconds(one['p95_ms'])}" for one in form["latency"]),
        ]
        for form in record["forms"]
    ]
    return Grid("latency", "Time for one image on the CPU, p50 / p95, by threads.", header, rows)


def _throughput(record: Mapping[str, Any]) -> Grid:
    sizes = sorted({one["batch"] for form in record["forms"] for one in form["throughput"]["batches"]})
    rows = []
    for form in record["forms"]:
        rates = {one["batch"]: words.rate(one["images_per_second"]) for one in form["throughput"]["batches"]}
        rows.append([form["form"], *(rates.get(size, "-") for size in sizes)])
    threads = record["forms"][0]["throughput"]["threads"]
    caption = f"Images per second on the CPU, {threads} thread{'' if threads == 1 else 's'}, by size of the batch."
    return Grid("throughput", caption, ["form", *(f"batch {size}" for size in sizes)], rows)


def _gpu(record: Mapping[str, Any]) -> list[Grid]:
    if record["gpu"] is None:
        return []
    rows = []
    for one in record["gpu"]["precisions"]:
        best = max(one["batches"], key=lambda each: each["images_per_second"])
        rate = f"{words.rate(best['images_per_second'])} images/s (batch {best['batch']})"
        rows.append(
            [one["numbers"], f"{words.milliseconds(one['p50_ms'])} / {words.milliseconds(one['p95_ms'])}", rate]
        )
    header = ["numbers", "one image: p50 / p95", "best throughput"]
    return [Grid("gpu", f"The model in PyTorch on {record['gpu']['name']}.", header, rows)]


def _quality(record: Mapping[str, Any], data: str) -> dict[str, Any]:
    found = record["quality"]
    sure, classes = found["calibration"], [one["class"] for one in found["per_class"]]
    text = [f"Top-1 accuracy {words.percent(found['top1'])} ({words.interval(found['top1_interval'])})"]
    text += [] if found["top5"] is None else [f"top-5 {words.percent(found['top5'])}"]
    text += [f"balanced accuracy {words.percent(found['balanced_accuracy'])} (mean over classes)"]
    tables = [_classes(found)]
    if found["confused"]:
        rows = [[one["label"], one["predicted"], f"{one['images']:,}"] for one in found["confused"]]
        tables.append(Grid("confused", "What is confused most.", ["true class", "taken for", "images"], rows))
    more = "larger" if sure["mean_confidence"] > found["top1"] else "smaller"
    drawn = [
        Figure(
            "calibration",
            f"Can its probabilities be believed? Expected calibration error {100 * sure['ece']:.1f} percentage points, "
            f"over 15 bins; mean confidence {words.percent(sure['mean_confidence'])}, {more} than the accuracy.",
            figures.reliability(sure["bins"]),
        )
    ]
    if found["confusion"] is not None:
        caption = (
            "Confusion matrix: images of each true class by predicted class; the colour is their share of the row."
        )
        drawn.append(Figure("confusion", caption, figures.confusion(found["confusion"], classes)))
    return {
        "text": f"Of the model in float32, on {words.images(record, data)}: {', '.join(text)}.",
        "figures": drawn,
        "tables": tables,
        "many": len(classes) > _MANY,
    }


def _classes(found: Mapping[str, Any]) -> Grid:
    ordered = sorted(found["per_class"], key=lambda one: (one["accuracy"] is None, one["accuracy"] or 0.0))
    rows = [
        [one["class"], f"{one['images']:,}", "no images"]
        if one["accuracy"] is None
        else [
            one["class"],
            f"{one['images']:,}",
            f"{words.percent(one['accuracy'])} ({words.interval(one['interval'])})",
        ]
        for one in ordered
    ]
    header = ["class", "images", "accuracy (95 % interval)"]
    return Grid("classes", "Accuracy of each class, the lowest first.", header, rows)
