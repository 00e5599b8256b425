"""Which labels were used: a list that others can use for the same images."""

from __future__ import annotations

from mae_lite.data.bad_files import as_row
from mae_lite.data.sources import Source
from mae_lite.errors import DataError

FILE = "labels.csv"
_HEADER = ("position", "name", "class")


def as_csv(source: Source) -> str:
    """Return a line for each image of ``source``: its position from 0 in the whole data set, its name and its class.

    The position is that in the training split as the data set lists it; the name is its path, or its file and row.
    """
    rows = [as_row(*_HEADER)]
    for index, position in enumerate(source.positions().tolist()):
        rows.append(as_row(position, name_of(source, index), label_of(source, index) or ""))
    return "\n".join(rows) + "\n"


def label_of(source: Source, index: int) -> str | None:
    """Return the class of image ``index``; None where it has none."""
    label = int(source.labels[index])
    return None if source.classes is None or not 0 <= label < len(source.classes) else source.classes[label]


def name_of(source: Source, index: int) -> str:
    """Return what to call image ``index``; where it cannot be read, its number."""
    try:
        return source.example(index).name
    except DataError:
        return f"{source.name} image {int(source.positions()[index])}"
