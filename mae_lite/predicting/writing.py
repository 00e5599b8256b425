"""Predictions for people and for programs: lines of a table, CSV and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mae_lite import files
from mae_lite.data.bad_files import as_row
from mae_lite.data.listed import Listed
from mae_lite.data.sources import Source
from mae_lite.errors import ConfigError, in_line
from mae_lite.predicting.predict import Prediction

_WIDEST_NAME, _WIDEST_CLASS, _UNKNOWN = 60, 24, 24


class Columns:
    """Widths of a table; a longer name pushes the rest of its line."""

    def __init__(self, source: Source, classes: Sequence[str]) -> None:
        """Measure the names of the images, where they are known without reading them, and of the classes."""
        self.name = _UNKNOWN
        if isinstance(source, Listed):
            self.name = min(_WIDEST_NAME, max(len(in_line(source.example(row).name)) for row in range(len(source))))
        self.class_name = min(_WIDEST_CLASS, max(len(in_line(name)) for name in (*classes, *(source.classes or ()))))


def as_line(found: Prediction, columns: Columns) -> str:
    """Return a line of a table, without anything that a terminal would obey."""
    name = f"{in_line(found.image):<{columns.name}}"
    if found.label is not None:
        name += f"  labelled {in_line(found.label):<{columns.class_name}}"
    if found.error:
        return f"{name}  {in_line(found.error)}"
    both = zip(found.classes, found.probabilities, strict=True)
    return name + "".join(f"  {in_line(word):<{columns.class_name}} {100 * share:5.1f} %" for word, share in both)


@dataclass
class Tally:
    """What is said of all images together."""

    classes: Sequence[str]
    """Of the model."""
    bad: int = 0
    """Images that could not be read."""
    labelled: int = 0
    """Images that were read and whose label is a class of the model."""
    foreign: int = 0
    """Images whose label is none."""
    right: int = 0
    """Images whose most probable class is the label."""

    def counted(self, found: Iterable[Prediction]) -> Iterator[Prediction]:
        """Yield every prediction on."""
        known = frozenset(self.classes)
        for item in found:
            self.bad += bool(item.error)
            if item.classes and item.label is not None:
                self.labelled += item.label in known
                self.foreign += item.label not in known
                self.right += item.classes[0] == item.label
            yield item

    def lines(self, images: int) -> Iterator[str]:
        """Yield sentences for people on so many images."""
        if self.labelled:
            share = f"{100 * self.right / self.labelled:.1f} %"
            yield f"{self.right:,} of {self.labelled:,} labelled images have their label first ({share})"
        if self.foreign:
            yield f"{self.foreign:,} labelled images have a label that is no class of the model"
        if self.bad:
            yield f"{self.bad:,} of {images:,} images could not be read"


def as_values(model: str, found: Iterable[Prediction]) -> dict[str, Any]:
    """Return what JSON shows."""
    images = [
        {
            "image": item.image,
            "predictions": [
                {"class": word, "probability": share}
                for word, share in zip(item.classes, item.probabilities, strict=True)
            ],
            "label": item.label,
            "error": item.error or None,
        }
        for item in found
    ]
    unreadable = sum(image["error"] is not None for image in images)
    return {"model": model, "images": images, "unreadable": unreadable}


def _as_csv(model: str, found: Sequence[Prediction]) -> str:  # noqa: ARG001  # a row has no place for the model
    columns = max(1, *(len(item.classes) for item in found))
    ranks = [word for rank in range(1, columns + 1) for word in (f"class_{rank}", f"probability_{rank}")]
    rows = [as_row("image", *ranks, "label", "error")]
    for item in found:
        cells: list[str] = []
        for word, share in zip(item.classes, item.probabilities, strict=True):
            cells += [word, f"{share:.6g}"]
        rows.append(as_row(item.image, *cells, *[""] * (2 * columns - len(cells)), item.label or "", item.error))
    return "\n".join(rows) + "\n"


def _as_json(model: str, found: Sequence[Prediction]) -> str:
    return json.dumps(as_values(model, found), indent=2) + "\n"


_FORMATS: dict[str, Callable[[str, Sequence[Prediction]], str]] = {".csv": _as_csv, ".json": _as_json}


def check_place(out: Path) -> None:
    """Refuse a file that is to have no format known here, before any work is done.

    Raises:
        ConfigError: says which there are.
    """
    if out.suffix.lower() not in _FORMATS:
        raise ConfigError(
            "--out",
            found=repr(str(out)),
            expected=f"a file that ends in {' or '.join(_FORMATS)}",
            fix=f"--out {out.with_suffix('.csv') if out.name else 'predictions.csv'}",
        )


def write(out: Path, model: str, found: Sequence[Prediction]) -> None:
    """Write predictions to ``out``, whole or not at all, as its ending says.

    Raises:
        DiskError: when that is not possible.
    """
    text = _FORMATS[out.suffix.lower()](model, found)
    files.make_folder(out.parent)
    files.write_text(out, text)
