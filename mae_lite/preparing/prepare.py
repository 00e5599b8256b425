"""The whole of ``mae-lite prepare``: settle, try a few, convert all in parts, list them, and say so last."""

from __future__ import annotations

import datetime
import itertools
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa

from mae_lite import files
from mae_lite.config import Reading
from mae_lite.data import bad_files, cache
from mae_lite.data.pack import (
    FILE,
    INDEX,
    UNDIVIDED,
    VERSION,
    Contents,
    Division,
    Form,
    Kind,
    Pack,
    contents,
    is_pack,
    sha256_of,
)
from mae_lite.data.sources import Source, usable_cpus
from mae_lite.engine.signals import StopSignals
from mae_lite.errors import ConfigError, DataError, DiskError
from mae_lite.preparing import plan as plans
from mae_lite.preparing import pool, sample
from mae_lite.preparing.parts import Job, Made, Making, make, rows_of

_log = logging.getLogger(__name__)

_EVERY_SECONDS = 5.0
_SOON_SECONDS = 5.0
"""Work that is done before other processes have started."""
_TRIED, _TRIED_DRY = 32, 200


@dataclass(frozen=True)
class Order:
    """What to make of what."""

    data: str
    folder: Path
    kind: Kind = "jpeg"
    side: int | None = None
    """None takes 256, or the common side of smaller images."""
    quality: int | None = None
    """Of JPEGs; None takes 90."""
    channels: int = 3
    reading: Reading = Reading()  # noqa: RUF009  # it is frozen
    workers: int | None = None
    on_bad: Literal["fail", "skip"] = "fail"
    allow_empty_classes: bool = False


def prepare(order: Order) -> list[str]:
    """Make a pack, or go on with one.

    Returns:
        What was done, in lines for people.

    Raises:
        ConfigError: when the settings do not fit together.
        DataError: when the data cannot be read, images are bad, or the folder holds something else.
        DiskError: when there is no room, or another process works in the folder.
        Stopped: after a signal.
    """
    plans.check_place(order.data, order.folder)
    sources, plan = _settled(order)
    with _without_flag():
        files.make_folder(order.folder)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        lock = files.Lock(order.folder / ".lock", f"pid {os.getpid()} on {socket.gethostname()}, started {now}")
        try:
            return _prepare(order, sources, plan)
        finally:
            lock.release()


def dry_run(order: Order) -> list[str]:
    """Convert some images and write nothing.

    Returns:
        Time and space that the whole would take, in lines for people.
    """
    sources, plan = _settled(order)
    form = plan.form
    expected = sample.estimate(sources, form, _TRIED_DRY)
    workers = max(1, _workers(order, expected))
    lines = [f"{name}: {source.describe()}" for name, source in sources.items()]
    lines.append(f"{expected.tried} images tried, {expected.unreadable} of them cannot be read")
    seconds = expected.seconds / workers
    lines.append(f"about {seconds:,.0f} s with {workers} processes, {expected.images / seconds:,.0f} images per second")
    sizes: dict[str, float] = {form.kind: expected.bytes}
    if form.kind == "jpeg":
        sizes["uint8"] = expected.images * form.side**2 * form.channels
    elif form.channels == 3:
        jpeg = Form(**{**dict(form), "kind": "jpeg", "quality": sample.QUALITY})
        sizes["jpeg"] = sample.estimate(sources, jpeg, _TRIED_DRY).bytes
    lines += [f"about {sample.readable(size)} as {kind}, side {form.side}" for kind, size in sorted(sizes.items())]
    return lines


def _settled(order: Order) -> tuple[dict[str, Source], plans.Plan]:
    if order.kind == "jpeg" and order.channels != 3:
        fix = f"keep pixels: --kind uint8 --channels {order.channels}"
        raise ConfigError("channels", found=str(order.channels), expected="3, which JPEGs have", fix=fix)
    if order.kind == "uint8" and order.quality is not None:
        fix = "drop --quality, or --kind jpeg"
        raise ConfigError("quality", found=str(order.quality), expected="nothing, as pixels have none", fix=fix)
    sources = plans.divisions(order.data, order.allow_empty_classes)
    form = Form(
        kind=order.kind,
        side=order.side or sample.SIDE,
        channels=order.channels,
        quality=order.quality or sample.QUALITY if order.kind == "jpeg" else None,
        reading=order.reading,
    )
    if order.side is None:
        form = Form(**{**dict(form), "side": sample.own_side(sources, form)})
    return sources, plans.settle(order.data, sources, form)


def _prepare(order: Order, sources: Mapping[str, Source], plan: plans.Plan) -> list[str]:
    folder = order.folder
    for place in (folder, *(folder / split for split in sources)):
        files.sweep(place)
    plans.agree(folder, plan)
    if _is_whole(folder, sources):
        return [f"{folder} is finished already: {_told(folder)}", "mae-lite prepare DATA PACK --verify reads it again"]
    expected = sample.estimate(sources, plan.form, _TRIED)
    sample.check_room(folder, expected)
    plans.write(folder, plan)
    for split in sources:
        files.make_folder(folder / split)
    start = time.monotonic()
    with StopSignals() as signals:
        made = _make(order, sources, plan, _workers(order, expected), lambda: signals.requested is not None)
    _judge(order, sources, made)
    seconds = time.monotonic() - start
    whole = _contents(folder, sources, plan, made)
    files.write_text(folder / FILE, whole.model_dump_json(indent=2) + "\n")
    return [f"{folder}: {_told(folder)}", f"made in {seconds:,.1f} s"]


def _is_whole(folder: Path, sources: Mapping[str, Source]) -> bool:
    """Say whether the pack is finished and no file of it is missing or of another size."""
    if not is_pack(folder):
        return False
    try:
        for split in sources:
            Pack(folder, "train" if split == UNDIVIDED else split, strict=True)  # type: ignore[arg-type]
    except DataError as error:
        _log.warning("%s; it is mended", error.what)
        return False
    return True


def _make(
    order: Order, sources: Mapping[str, Source], plan: plans.Plan, workers: int, stopped: pool.Asked
) -> list[Made]:
    """Make all parts; return them in order."""
    jobs = [
        Job(split, number, range(start, min(start + plan.images_per_part, len(source))))
        for split, source in sources.items()
        for number, start in enumerate(range(0, len(source), plan.images_per_part))
    ]
    making = Making(sources, order.folder, plan.form, plan.digest())
    total, made = sum(map(len, sources.values())), []
    done = fresh = 0
    start = last = time.monotonic()
    with closing(pool.each(make, making, jobs, workers, stopped)) as results:
        for result in results:
            made.append(result)
            done += len(result.job.images)
            fresh += 0 if result.kept else len(result.job.images)
            now = time.monotonic()
            if now - last > _EVERY_SECONDS:
                last = now
                rate = fresh / (now - start)
                left = f", {(total - done) / rate:,.0f} s left" if fresh else ""
                _log.info("%s of %s images, %.0f per second%s", f"{done:,}", f"{total:,}", rate, left)
    return made


def _judge(order: Order, sources: Mapping[str, Source], made: list[Made]) -> None:
    """List the bad images, and refuse them unless they are few and may be left out."""
    bad = {split: [item for each in made if each.job.split == split for item in each.bad] for split in sources}
    path = order.folder / bad_files.FILE
    lists = [bad_files.listed(split, items) for split, items in bad.items() if items]
    if not lists:
        files.remove(path)
        return
    files.write_text(path, lists[0] + "".join(text.partition("\n")[2] for text in lists[1:]))
    for split, items in bad.items():
        limit = 0 if order.on_bad == "fail" else min(bad_files.allowed(len(sources[split])), len(sources[split]) - 1)
        if len(items) > limit:
            skip = ", or leave them out with --on-bad skip" if order.on_bad == "fail" else ""
            raise DataError(
                f"{len(items):,} of {len(sources[split]):,} images ({split}) cannot be read",
                found=f"{items[0].name!r}, {items[0].reason}",
                expected=f"at most {limit}" if limit else "none",
                fix=f"replace or remove those that {str(path)!r} names{skip}",
            )


def _contents(folder: Path, sources: Mapping[str, Source], plan: plans.Plan, made: list[Made]) -> Contents:
    """Write the list of every split; return what to say of the whole."""
    splits = {}
    for split, parts in itertools.groupby(made, key=lambda each: each.job.split):
        of_split = list(parts)
        tables = [rows_of(each.job, folder) for each in of_split]
        numbers = [pa.array([number] * len(table), pa.int64()) for number, table in enumerate(tables)]
        whole = pa.concat_tables(tables).append_column("part", pa.chunked_array(numbers)).combine_chunks()
        cache.write(folder / split / INDEX, {name: whole[name] for name in whole.column_names}, {})
        splits[split] = Division(
            images=len(whole),
            left_out=sum(len(each.bad) for each in of_split),
            index_sha256=sha256_of(folder / split / INDEX),
            parts=tuple(each.part for each in of_split),
        )
    return Contents(
        **dict(plan.form),
        version=VERSION,
        source=plan.source,
        source_fingerprints=plan.fingerprints,
        classes={split: source.classes for split, source in sources.items()},
        splits=splits,
    )


def _told(folder: Path) -> str:
    known = contents(folder)
    images = ", ".join(f"{division.images:,} images ({split})" for split, division in known.splits.items())
    left_out = sum(division.left_out for division in known.splits.values())
    size = sum(part.bytes for division in known.splits.values() for part in division.parts)
    parts = [images, f"{known.kind} of side {known.side}", sample.readable(size)]
    return ", ".join(parts + [f"{left_out} left out, see {bad_files.FILE}"] * bool(left_out))


def _workers(order: Order, expected: sample.Estimate) -> int:
    if order.workers is not None:
        return order.workers
    usable = usable_cpus()
    return 0 if expected.seconds < _SOON_SECONDS or usable == 1 else usable


@contextmanager
def _without_flag() -> Iterator[None]:
    """Errors of the disk advise another folder by a flag that this command does not have."""
    try:
        yield
    except DiskError as error:
        fix = error.fix.replace(", with --out FOLDER", "").replace(" with --out FOLDER", "")
        raise DiskError(error.what, found=error.found, expected=error.expected, fix=fix) from error
