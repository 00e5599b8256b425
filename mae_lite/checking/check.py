"""The whole check: scan, compare, write the list of bad files and the preview, and give advice."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from mae_lite import draws, files
from mae_lite.checking import hashes, words
from mae_lite.checking.scan import scan
from mae_lite.checking.sheet import preview
from mae_lite.checking.tally import Tally, overlap
from mae_lite.config import Recipe
from mae_lite.data.bad_files import FILE, listed
from mae_lite.data.opening import open_source, own_split
from mae_lite.data.sources import Source, usable_cpus
from mae_lite.data.splits import aligned

_log = logging.getLogger(__name__)
_EVERY_SECONDS = 5.0
_HELD_OUT = ("val", "test")
_MOST_NAMED = 1000
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
    """Look at every image of a data set, in all of its splits.

    Writes ``check.json`` and ``preview.png`` into ``order.out``, and ``bad_files.csv`` when there are bad files.

    Returns:
        What was found, as plain values: the training images' summary, those of the other splits under their names;
        ``advice`` holds sentences, ``files`` the paths written.

    Raises:
        DataError: when the data or the file of hashes cannot be read, or classes do not fit together.
        DiskError: when the results cannot be written.
    """
    known = None if order.compare_hashes is None else hashes.read(order.compare_hashes)
    files.make_folder(order.out)  # before hours of reading
    train = open_source(order.data, "train", allow_empty=True)
    tally = _tally(order, train, "images")
    summary = {**tally.summary(), "recipe": order.recipe.name}
    told = words.advice(summary, order.recipe)
    tallies = {"train": tally}
    for name, other in _others(order, train).items():
        tallies[name] = _tally(order, other, f"{name} images")
        pairs = overlap(tally, tallies[name])
        named = [[other.example(one).name, train.example(copy).name] for one, copy in pairs[:_MOST_NAMED]]
        summary[name] = {**tallies[name].summary(), "shared_with_train": len(pairs), "shared": named}
        told += words.about_bad(summary[name]) + words.about_overlap(name, len(pairs), len(other))
    if known is not None:
        whole = order.sample is None
        changed = hashes.changed(known, _digests(order, tallies), whole)
        summary["changed"] = changed
        first = f"e.g. {changed[0]!r}" if changed else ""
        told += [f"{len(changed)} images differ from {str(order.compare_hashes)!r}, {first}."] if changed else []
    summary["advice"] = told
    summary["files"] = _write(order, train, tallies, summary)
    return summary


def _others(order: Order, train: Source) -> dict[str, Source]:
    """Return the validation and test images, with the class numbers of the training images."""
    val = own_split(order.data, train, "val", allow_empty=True)
    if order.val_data is not None:
        val = open_source(order.val_data, "val", allow_empty=True)
    found = {"val": val, "test": own_split(order.data, train, "test", allow_empty=True)}
    labelled = train.classes is not None
    return {
        name: aligned(source, train.classes, train.name) if labelled and source.classes is not None else source
        for name, source in found.items()
        if source is not None
    }


def as_text(summary: Mapping[str, Any]) -> str:
    """Return the result for a terminal."""
    parts = [words.as_text(dict(summary)), *(words.as_text(summary[name]) for name in _HELD_OUT if name in summary)]
    parts += [f"- {sentence}" for sentence in summary["advice"]] or ["Nothing stands out."]
    parts += [f"wrote {path}" for path in summary["files"]]
    return "\n".join(parts)


def failed(summary: Mapping[str, Any], on_bad: Literal["fail", "skip"]) -> bool:
    """Say whether images are bad, for "skip" more than training would skip; or differ from their recorded hashes."""
    sets = [summary, *(summary[name] for name in _HELD_OUT if name in summary)]
    limits = [0 if on_bad == "fail" else each["bad_allowed"] for each in sets]
    too_many = any(len(each["bad"]) > limit for each, limit in zip(sets, limits, strict=True))
    return too_many or bool(summary.get("changed"))


def _tally(order: Order, source: Source, what: str) -> Tally:
    chosen = None
    if order.sample is not None and order.sample < len(source):
        chosen = np.sort(draws.permutation(draws.key(0, "check"), len(source))[: order.sample]).tolist()
    wanted = order.save_hashes is not None or order.compare_hashes is not None
    tally = Tally(source, keep_digests=wanted)
    workers = _workers(source) if order.workers is None else order.workers
    found = scan(source, order.recipe.reading, order.recipe.encoder.channels, workers, chosen)
    for seen in _told(found, len(source) if chosen is None else len(chosen), what):
        tally.add(seen)
    return tally


def _digests(order: Order, tallies: Mapping[str, Tally]) -> list[tuple[str, bytes]]:
    """Return name and digest of every image; names below the data's own folder are relative to it."""
    prefix = f"{order.data.removeprefix('folder:')}/"
    return [(name.removeprefix(prefix), digest) for tally in tallies.values() for name, digest in tally.digests]


def _workers(source: Source) -> int:
    usable = usable_cpus()
    return 0 if source.in_memory or len(source) < 500 or usable == 1 else min(16, usable)


def _told(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Pass ``items`` on and say now and then how far it is."""
    start = last = 0.0
    for later, item in enumerate(items):
        yield item
        now = time.monotonic()
        if not later:  # its processes were started for it, which says nothing of the others
            start = last = now
        elif now - last > _EVERY_SECONDS:
            last = now
            rate = later / (now - start)
            left = (total - later - 1) / rate
            _log.info("%s of %s %s, %.0f per second, %.0f s left", f"{later + 1:,}", f"{total:,}", what, rate, left)


def _write(order: Order, train: Source, tallies: Mapping[str, Tally], summary: dict[str, Any]) -> list[str]:
    written = [order.out / "check.json"]
    bad = {name: tally.bad for name, tally in tallies.items() if tally.bad}
    if bad:
        written.append(order.out / FILE)
        lines = [listed(name, items) for name, items in bad.items()]
        files.write_text(written[-1], lines[0] + "".join(text.partition("\n")[2] for text in lines[1:]))
    if tallies["train"].readable:
        written.append(order.out / "preview.png")
        files.write_bytes(written[-1], preview(train, order.recipe))
    for name in (FILE, "preview.png"):  # of an earlier check
        if order.out / name not in written:
            files.remove(order.out / name)
    if order.save_hashes is not None:
        written.append(order.save_hashes)
        hashes.write(order.save_hashes, _digests(order, tallies))
    paths = [str(path) for path in written]
    files.write_json(order.out / "check.json", {**summary, "files": paths})
    return paths
