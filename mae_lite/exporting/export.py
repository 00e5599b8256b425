"""``mae-lite export``: a finished model out in several forms, all of them right or none written."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mae_lite import files, overrides, shipped
from mae_lite.addresses import hidden_in
from mae_lite.errors import ConfigError
from mae_lite.exporting import machine, pictures, subject
from mae_lite.exporting.comparing import Comparison
from mae_lite.exporting.proving import Result, bytes_of, itself, proven
from mae_lite.exporting.settings import PACKAGES, ExportSettings
from mae_lite.exporting.subject import Subject
from mae_lite.exporting.work import Work

FORMAT = 1
RECORD = "export.json"
_LOCK = "export.lock"
Contents = dict[str, bytes]
"""Files by their names in a folder."""


@dataclass(frozen=True)
class Exported:
    """Forms that lie in a folder and were found right."""

    work: Work
    folder: Path
    """Has a folder for each form."""
    record: dict[str, Any]
    """What stands in ``export.json``."""
    comparisons: Mapping[str, Comparison]
    """Of each form with the model, and of the model itself under the name torch."""


def export(source: str | Path, out: str | Path | None = None, **settings: Any) -> dict[str, Any]:
    """Write a finished model in other forms: ``mae_lite.export("runs/a", to=("onnx",))``.

    Args:
        source: a finished run, or a folder that timm reads.
        out: folder to write; None takes ``export`` in the run, or FOLDER-export beside a timm folder.
        settings: those of :class:`mae_lite.exporting.settings.ExportSettings`.

    Returns:
        What stands in ``export.json``, and ``out``.

    Raises:
        MaeLiteError: as :func:`exported`.
    """
    target = None if out is None else Path(out)
    return exported(str(source), target, overrides.build(ExportSettings, settings))


def exported(
    source: str, out: Path | None, settings: ExportSettings, beside: Callable[[Exported], Contents] = lambda _: {}
) -> dict[str, Any]:
    """Write each form into a scratch folder, open it again, compare it, and publish all when all are right.

    Args:
        source: a finished run, or a folder that timm reads.
        out: the folder to write, which must not be there; None chooses.
        settings: which forms, and images.
        beside: returns files to publish with the forms, made while these can still be opened.

    Returns:
        What stands in ``export.json``, and ``out``.

    Raises:
        ConfigError: when ``out`` exists, or a package or the images are not named or installed.
        CheckpointError: when the model cannot be used, or a form computes something else; nothing is written then.
        DataError: for images that are missing or unreadable.
        DiskError: when ``out`` cannot be written, or another process is exporting there.
    """
    require_packages(settings.to)
    model = subject.load(source)
    target = out or default(model)
    if target.exists():
        raise ConfigError(f"{str(target)!r} exists already", fix="give another folder with --out, or remove this one")
    with scratch(target) as place:  # first, so that a folder nobody may write to is noticed now
        work = Work(model, settings, pictures.to_compare(model, settings), place)
        results = [itself(work), *(proven(name, work) for name in settings.to)]
        rows = [_row(result, work) for result in results]
        record = {**_record(model, out, settings, work), "forms": rows}
        contents = {f"{result.form}/{name}": data for result in results for name, data in result.contents.items()}
        contents[RECORD] = (json.dumps(record, indent=2) + "\n").encode()
        comparisons = {result.form: result.comparison for result in results}
        files.publish_folder(target, {**contents, **beside(Exported(work, place, record, comparisons))})
    return {"out": str(target), **record}


def require_packages(forms: tuple[str, ...]) -> None:
    """Refuse forms whose packages are not installed.

    Raises:
        ConfigError: names them.
    """
    for form in forms:
        missing = [name for name in PACKAGES[form] if importlib.util.find_spec(name) is None]
        if missing:
            extra = "transformers" if "transformers" in missing else "'mae_lite[export]'"
            raise ConfigError(
                f"--to {form}",
                found=f"no package {' or '.join(missing)}",
                expected=f"{', '.join(PACKAGES[form])}, to write the form and to open it again",
                fix=f"pip install {extra}",
            )


def default(model: Subject, name: str = "export") -> Path:
    """Return the folder for what is made of a model, in or beside its own."""
    if model.run is not None:
        return model.run / name
    if model.source.startswith(shipped.PREFIX):  # not into the package
        return Path(f"{model.source.removeprefix(shipped.PREFIX)}-{name}")
    folder = model.folder if model.folder.name not in ("", "..") else model.folder.resolve()
    return folder.with_name(f"{folder.name}-{name}")


@contextmanager
def scratch(target: Path) -> Iterator[Path]:
    """Make a folder beside the target, on the same disk, and remove it whatever happens.

    What processes that were killed have left for the same target goes first; a lock tells them from one that lives.

    Raises:
        DiskError: when a live process has it, or nobody may write there.
    """
    folder = target.with_name(f"{files.TEMPORARY}scratch-{target.name}")
    files.make_folder(folder)
    lock = files.Lock(folder / _LOCK, f"an export by pid {os.getpid()} on {socket.gethostname()}")
    try:
        others = re.compile(rf"{re.escape(files.TEMPORARY)}\d+-(scratch-)?{re.escape(target.name)}")
        left = (path for path in target.parent.iterdir() if others.fullmatch(path.name))
        for path in (*left, *(path for path in folder.iterdir() if path.name != _LOCK)):
            files.remove(path)
        yield folder
    finally:
        files.remove(folder)
        lock.release()


def _row(result: Result, work: Work) -> dict[str, Any]:
    found, listed = result.comparison, result.contents.items()
    size = sum(len(data) for _, data in listed) if listed else bytes_of(work.subject.model.state_dict())
    return {
        "form": result.form,
        "files": {name: {"sha256": files.sha256(data), "bytes": len(data)} for name, data in listed},
        "bytes": size,
        "largest_difference": found.difference,
        "largest_relative_difference": found.relative,
        "smallest_cosine": found.cosine,
        "agreement": found.agreement,
        "accuracy": found.accuracy,
        "latency_ms": round(result.latency_ms, 4),
        "notes": list(result.notes),
    }


def _record(model: Subject, out: Path | None, settings: ExportSettings, work: Work) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "source": model.source,
        "weights_sha256": subject.weights_digest(model.folder),
        "architecture": model.settings.get("architecture"),
        **model.preprocessing(),
        "compared_on": hidden_in(work.compared.about),
        "settings": hidden_in(settings.model_dump(mode="json", include=set(ExportSettings.model_fields))),
        "command": hidden_in(["mae-lite", "export", model.source, *_flags(settings, out)]),
        "versions": machine.versions(),
        "processor": machine.processor(),
    }


def _flags(settings: ExportSettings, out: Path | None) -> list[str]:
    """Return the words of a command line that change what is written, compared and where; ``--to`` always."""
    changed = set(settings.model_dump(exclude_defaults=True)) | {"to"}
    asked = [(name, getattr(settings, name)) for name in ExportSettings.model_fields if name in changed]
    return overrides.flags(asked if out is None else [("out", out), *asked])


def as_text(record: dict[str, Any]) -> str:
    """Return what was written, a row for each form."""
    about, scores = record["compared_on"], record["output"] == "logits"
    rows = [("form", "size", "difference", "agreement", "accuracy", "ms")]
    for form in record["forms"]:
        same = form["agreement"] if scores else form["smallest_cosine"]
        own = form["form"] == "torch"
        rows.append(
            (
                form["form"],
                f"{form['bytes'] / 1e6:.2f} MB",
                "-" if own else f"{form['largest_relative_difference']:.1e}",
                "-" if own else f"{100 * same:.1f} %" if scores else f"{same:.4f}",
                "-" if form["accuracy"] is None else f"{100 * form['accuracy']:.1f} %",
                f"{form['latency_ms']:.2f}",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    table = [
        "  ".join(f"{c:<{w}}" if n == 0 else f"{c:>{w}}" for n, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    return "\n".join(
        [
            f"{record['source']}, on {about['images']:,} images of {about['data']}"
            + ("" if about["split"] == "undivided" else f" ({about['split']})"),
            *table,
            "difference: largest, as a share of the largest output; agreement: "
            + ("same best class" if scores else "smallest cosine similarity of an output"),
            "ms: median for one image, one thread, at a glance; a card measures longer",
            *(f"note: {form['form']}: {note}" for form in record["forms"] for note in form["notes"]),
            f"written: {record['out']}",
        ]
    )
