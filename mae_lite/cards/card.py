"""``mae-lite card``: what a finished model, or an export of one, is worth on this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mae_lite import files, rundir
from mae_lite.cards import estimates, memory, origin, quality, speed
from mae_lite.cards.settings import CardSettings
from mae_lite.data.sources import usable_cpus
from mae_lite.errors import CheckpointError, ConfigError
from mae_lite.exporting import export, machine, pictures, proving, subject
from mae_lite.exporting.comparing import Comparison
from mae_lite.exporting.export import Exported
from mae_lite.exporting.forms import FORMS
from mae_lite.exporting.settings import CompareSettings, ExportSettings
from mae_lite.exporting.subject import Subject
from mae_lite.exporting.work import Work

FORMAT = 1
NAMES = ("card.html", "card.json", "README.md")
Pngs = list[bytes]


def measured(found: Exported, settings: CardSettings) -> tuple[dict[str, Any], Pngs]:
    """Measure forms that lie in a folder.

    Args:
        found: the forms, how far they are from the model, and the images.
        settings: how to measure.

    Returns:
        What stands in ``card.json``, and the pictures of its mistakes.
    """
    work, model = found.work, found.work.subject
    wrong: list[dict[str, Any]] = []
    scored = work.compared.labelled
    if scored:
        wrong = quality.mistakes(torch.cat(work.expected), work.compared, model.classes or (), settings.mistakes)
    pngs = [one.pop("png") for one in wrong]
    record = {
        "format": FORMAT,
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **origin.about(model, settings.licence),
        **model.preprocessing(),
        "measured_on": {**work.compared.about, "unmeasured": work.compared.unmeasured or None},
        "quality": quality.quality(torch.cat(work.expected), work.compared.labels, model.classes or ())
        if scored
        else None,
        "mistakes": wrong,
        "forms": _forms(found, settings),
        "gpu": _gpu(work, settings.seconds),
        "machine": _machine(),
        "provenance": origin.provenance(model),
    }
    return record, pngs


def _forms(found: Exported, settings: CardSettings) -> list[dict[str, Any]]:
    work, image = found.work, found.work.compared.first()
    openers: dict[str, speed.Opener] = {
        name: (lambda: work.reference) if name == "torch" else partial(FORMS[name].reopen, found.folder / name, work)
        for name in found.comparisons
    }
    cpus = usable_cpus()
    latencies = speed.latencies(openers, image, speed.thread_counts(cpus), settings.seconds)
    rates = speed.throughputs(openers, image, cpus, settings.seconds)
    sizes = {row["form"]: row["bytes"] for row in found.record["forms"]}
    places = {name: work.subject.folder if name == "torch" else found.folder / name for name in openers}
    return [
        {
            "form": name,
            "bytes": sizes[name],
            **_right(comparison, found.comparisons["torch"]),
            "latency": latencies[name],
            "throughput": {"threads": cpus, "batches": rates[name]},
            "memory": memory.peak(name, places[name], work.subject.shape) if settings.memory else None,
        }
        for name, comparison in found.comparisons.items()
    ]


def _right(form: Comparison, own: Comparison) -> dict[str, Any]:
    """Return the accuracy of a form, and what it has lost against the model in float32, on the same images."""
    if form.right is None or own.right is None:
        return {"accuracy": None, "interval": None, "drop": None, "drop_interval": None, "agreement": form.agreement}
    lost, interval = estimates.drop(own.right, form.right)
    return {
        "accuracy": form.accuracy,
        "interval": estimates.wilson(sum(form.right), form.images),
        "drop": lost,
        "drop_interval": interval,
        "agreement": form.agreement,
    }


def _gpu(work: Work, seconds: float) -> dict[str, Any] | None:
    if not torch.cuda.is_available():
        return None
    device = torch.device("cuda")
    rows = speed.on_device(work.subject.served, work.compared.first(), device, seconds)
    return {"name": torch.cuda.get_device_name(device), "precisions": rows}


def _machine() -> dict[str, Any]:
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "processor": machine.processor(),
        "cpus": usable_cpus(),
        "memory_gb": _memory_gb(),
        "load": None if load is None else round(load, 2),
        "versions": machine.versions(),
    }


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (ValueError, OSError, AttributeError):
        return None


def opened(source: str, compared: CompareSettings) -> tuple[Exported, Path]:
    """Return what a card of a run, a timm folder or an export is made of, and where it goes by default.

    Raises:
        CheckpointError: when it is none of them, not finished, damaged, or its model is no longer there.
        ConfigError: when nobody says which images, or a package is not installed.
        DataError: for images that are missing or unreadable.
    """
    folder = Path(source)
    if not (folder / export.RECORD).exists():
        model = subject.load(source)
        return _opened(model, folder, {}, compared), export.default(model, "card")
    record = rundir.read_json(folder / export.RECORD, "an export")
    try:
        rows = {str(row["form"]): dict(row["files"]) for row in record["forms"] if row["form"] in FORMS}
        images = compared.images or record["settings"]["images"]
        for form, listed in rows.items():
            for name, known in listed.items():
                check_file(folder / form / name, str(known["sha256"]))
        model = _model_of(folder, record)
    except (KeyError, TypeError, AttributeError) as error:
        what = f"{str(folder / export.RECORD)!r} is not as mae-lite writes it"
        raise CheckpointError(what, found=repr(error), fix="export again") from error
    return _opened(model, folder, rows, compared.model_copy(update={"images": images})), folder


def _opened(model: Subject, folder: Path, rows: Mapping[str, Any], compared: CompareSettings) -> Exported:
    names = tuple(rows)
    export.require_packages(names)
    shared = compared.model_dump(include=set(CompareSettings.model_fields))
    settings = ExportSettings(**shared, to=names or ("timm",))
    work = Work(model, settings, pictures.to_compare(model, settings), folder)
    itself = proving.itself(work)
    comparisons = {"torch": itself.comparison}
    for name in names:
        _, found = proving.reopened(name, folder / name, work, FORMS[name].reference(work))
        if isinstance(found, str):
            raise CheckpointError(f"the form {name} is not the model's", found=found, fix="export again")
        comparisons[name] = found
    sizes = {name: sum(path.stat().st_size for path in (folder / name).iterdir()) for name in names}
    sizes["torch"] = proving.bytes_of(model.model.state_dict())
    sized = [{"form": name, "bytes": size} for name, size in sizes.items()]
    return Exported(work, folder, {"forms": sized}, comparisons)


def check_file(path: Path, digest: str) -> None:
    """Refuse a file of an export that is not what ``export.json`` says.

    Raises:
        CheckpointError: when it is missing, or another.
    """
    if not path.is_file() or files.sha256(path.read_bytes()) != digest:
        found = "another SHA-256 than in export.json" if path.is_file() else "nothing there"
        raise CheckpointError(f"{str(path)!r} is not what was exported", found=found, fix="export again")


def _model_of(folder: Path, record: Mapping[str, Any]) -> Subject:
    """Return the model that an export was made of, which may have moved with it."""
    for place in (str(record["source"]), str(folder.parent), str(folder / "timm")):
        try:
            found = subject.load(place)
        except CheckpointError:
            continue
        timm = (folder / "timm").resolve()
        if found.folder.resolve() == timm or subject.weights_digest(found.folder) == record["weights_sha256"]:
            return found
    raise CheckpointError(
        f"the model that {str(folder)!r} was exported from is not there, or has changed",
        found=str(record["source"]),
        expected="the run or timm folder with the same weights, to compare the forms with",
        fix="give the card's command where it is, or export again with --to timm, which brings it along",
    )


def check(folder: Path) -> dict[str, Any]:
    """Return the manifest of a folder that a card may be written into; nothing where there is no folder yet.

    Raises:
        CheckpointError: when it is a folder of something else.
        ConfigError: when a card there was changed by hand.
    """
    if not folder.exists():
        return {}
    manifest = rundir.read_json(folder / files.MANIFEST, "another folder with --out")
    for name in NAMES:
        path, known = folder / name, manifest.get(name)
        digest = known.get("sha256") if isinstance(known, dict) else None
        if path.exists() and files.sha256(path.read_bytes()) != digest:
            raise ConfigError(
                f"{str(path)!r} is not as it was written last: changed by hand, or cut off while it was written",
                fix="remove this file, or write the new card elsewhere with --out FOLDER",
            )
    return manifest


def publish(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write a card into a folder of its own, or beside the forms of an export.

    Raises:
        CheckpointError: as :func:`check`.
        ConfigError: as :func:`check`.
        DiskError: when that is not possible.
    """
    manifest = check(folder)
    if not folder.exists():
        files.publish_folder(folder, contents)
        return
    # Whenever this is killed, the manifest is true of the files that it names.
    others = {name: known for name, known in manifest.items() if name not in contents}
    files.write_json(folder / files.MANIFEST, others)
    for name, data in contents.items():
        files.write_bytes(folder / name, data)
    own = {name: {"sha256": files.sha256(data), "bytes": len(data)} for name, data in contents.items()}
    files.write_json(folder / files.MANIFEST, {**others, **own})
