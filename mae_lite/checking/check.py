"""The whole check: scan, compare, write the list of bad files and the preview, and give advice."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from mae_lite import draws, files
from mae_lite.checking import words
from mae_lite.checking.scan import scan
from mae_lite.checking.sheet import preview
from mae_lite.checking.tally import Tally, overlap
from mae_lite.config import Recipe
from mae_lite.data.bad_files import FILE, listed
from mae_lite.data.opening import open_source, own_validation
from mae_lite.data.sources import Source, subset
from mae_lite.data.splits import aligned
from mae_lite.errors import DataError

_log = logging.getLogger(__name__)
_EVERY_SECONDS = 5.0
T = TypeVar("T")


@dataclass(frozen=True)
class Order:
    """What to check."""

    data: str
    recipe: Recipe
    out: Path
    val_data: str | None = None
    sample: int | None = None
    """Look at this many images, drawn at random, instead of all."""
    workers: int | None = None
    save_hashes: Path | None = None
    compare_hashes: Path | None = None


def check(order: Order) -> dict[str, Any]:
    """Look at every image of a data set.

    Writes ``check.json`` and ``preview.png`` into ``order.out``, and ``bad_files.csv`` when there are bad files.

    Returns:
        What was found, as plain values; ``advice`` holds sentences, ``files`` the paths written.

    Raises:
        DataError: when the data cannot be opened, or their classes do not fit together.
        DiskError: when the results cannot be written.
    """
    files.make_folder(order.out)  # before hours of reading
    train = open_source(order.data, "train", allow_empty=True)
    other = own_validation(order.data, train) if order.val_data is None else open_source(order.val_data, "val")
    if other is not None:
        other = aligned(other, train.classes, train.name)
    tally = _tally(order, train, "images")
    summary = {**tally.summary(), "recipe": order.recipe.name, "sampled": order.sample}
    told = words.advice(summary, order.recipe)
    bad = {"train": tally.bad}
    if other is not None:
        held_out = _tally(order, other, "validation images")
        shared = overlap(tally, held_out)
        summary["validation"] = held_out.summary()
        summary["shared"] = len(shared)
        told += words.about_overlap(train.name, other.name, len(shared), len(other))
        bad["val"] = held_out.bad
    if order.compare_hashes is not None:
        changed = _changed(tally, order.compare_hashes)
        summary["changed"] = changed
        told += [f"{len(changed)} images differ from {order.compare_hashes}, e.g. {changed[0]}"] if changed else []
    summary["advice"] = told
    summary["files"] = _write(order, train, tally, bad, summary)
    return summary


def as_text(summary: Mapping[str, Any]) -> str:
    """Return the result for a terminal."""
    parts = [words.as_text(dict(summary))]
    if "validation" in summary:
        parts.append("validation: " + words.as_text(summary["validation"]))
    parts += [f"- {sentence}" for sentence in summary["advice"]] or ["Nothing stands out."]
    parts += [f"wrote {path}" for path in summary["files"]]
    return "\n".join(parts)


def failed(summary: Mapping[str, Any]) -> bool:
    """Say whether any image cannot be read, or differs from its recorded hash."""
    return bool(summary["bad"] or summary.get("validation", {}).get("bad") or summary.get("changed"))


def _tally(order: Order, source: Source, what: str) -> Tally:
    if order.sample is not None and order.sample < len(source):
        chosen = draws.permutation(draws.key(0, "check"), len(source))[: order.sample]
        source = subset(source, np.sort(chosen))
    wanted = order.save_hashes is not None or order.compare_hashes is not None
    tally = Tally(source, keep_digests=wanted)
    workers = _workers(source) if order.workers is None else order.workers
    found = scan(source, order.recipe.reading, order.recipe.encoder.channels, workers)
    for seen in _told(found, len(source), what):
        tally.add(seen)
    return tally


def _workers(source: Source) -> int:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if source.in_memory or len(source) < 500 or usable == 1 else min(16, usable)


def _told(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Pass ``items`` on and say now and then how far it is."""
    start = last = time.monotonic()
    for count, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last > _EVERY_SECONDS:
            last = now
            rate = count / (now - start)
            left = (total - count) / rate
            _log.info("%s of %s %s, %.0f per second, %.0f s left", f"{count:,}", f"{total:,}", what, rate, left)


def _write(order: Order, train: Source, tally: Tally, bad: Mapping[str, Any], summary: dict[str, Any]) -> list[str]:
    written = [order.out / "check.json"]
    if any(bad.values()):
        written.append(order.out / FILE)
        lines = [listed(name, items) for name, items in bad.items()]
        files.write_text(written[-1], lines[0] + "".join(text.partition("\n")[2] for text in lines[1:]))
    else:
        files.remove(order.out / FILE)  # of an earlier check
    if tally.readable:
        written.append(order.out / "preview.png")
        files.write_bytes(written[-1], preview(train, order.recipe))
    if order.save_hashes is not None:
        written.append(order.save_hashes)
        files.make_folder(order.save_hashes.parent)
        lines = [f"{digest.hex()}  {_line(name)}\n" for name, digest in tally.digests]
        files.write_text(order.save_hashes, "".join(lines))
    paths = [str(path) for path in written]
    files.write_json(order.out / "check.json", {**summary, "files": paths})
    return paths


def _line(name: str) -> str:
    """Return a name that stays on one line."""
    return name.encode("utf-8", "backslashreplace").decode().replace("\\", "\\\\").replace("\n", "\\n")


def _changed(tally: Tally, path: Path) -> list[str]:
    """Return the images whose content is not what the file of hashes says; names that it lacks are passed over."""
    try:
        recorded = [line.split("  ", 1) for line in path.read_text(encoding="utf-8").splitlines() if line]
        known = {name: digest for digest, name in recorded}
    except (OSError, ValueError) as error:
        raise DataError(
            f"{str(path)!r} is not a file of hashes",
            found=str(error),
            expected="lines of a SHA-256, two spaces and a name",
            fix="write one with --save-hashes FILE while the data are good",
        ) from error
    now = {_line(name): digest.hex() for name, digest in tally.digests}
    altered = [name for name, digest in now.items() if known.get(name, digest) != digest]
    return altered + [f"{name} (missing or unreadable)" for name in known if name not in now]
