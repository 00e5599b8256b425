"""``mae-lite prepare --verify``: a pack read again, to the last byte."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from mae_lite.data import images
from mae_lite.data.pack import UNDIVIDED, Pack, contents, verify
from mae_lite.data.sources import some, usable_cpus
from mae_lite.engine.signals import StopSignals
from mae_lite.errors import DataError
from mae_lite.preparing import pool

_AT_ONCE = 500
_FEW = 2000
"""Images that are looked at before other processes have started."""


@dataclass(frozen=True)
class _Job:
    split: str
    images: range


def verified(folder: Path, workers: int | None) -> list[str]:
    """Compare every file with its SHA-256 and every image with its CRC-32, and decode every JPEG.

    Args:
        folder: a finished pack.
        workers: processes that decode; None chooses.

    Returns:
        What was found, in lines for people.

    Raises:
        DataError: when anything is not as it was written; names up to ten files or images.
        Stopped: after a signal.
    """
    bad = verify(folder)
    known = contents(folder)
    if bad:
        raise _damaged(folder, bad)
    packs = {split: Pack(folder, "train" if split == UNDIVIDED else split, strict=True) for split in known.splits}  # type: ignore[arg-type]
    jobs = [
        _Job(split, range(start, min(start + _AT_ONCE, len(pack))))
        for split, pack in packs.items()
        for start in range(0, len(pack), _AT_ONCE)
    ]
    count = sum(map(len, packs.values()))
    chosen = (usable_cpus() if count > _FEW else 0) if workers is None else workers
    with (
        StopSignals() as signals,
        closing(pool.each(_look, packs, jobs, chosen, lambda: signals.requested is not None)) as results,
    ):
        bad = [line for lines in results for line in lines]
    if bad:
        raise _damaged(folder, bad)
    return [f"{folder}: {count:,} images and {sum(len(d.parts) for d in known.splits.values())} parts are as written"]


def _look(packs: Mapping[str, Pack], job: _Job, stopped: pool.Asked) -> list[str]:
    pack, bad = packs[job.split], []
    for index in job.images:
        if stopped():
            raise pool.stop_error()
        try:
            pack.check(index)
            images.decode(pack.example(index), pack.contents.channels, pack.contents.reading)
        except DataError as error:
            bad.append(f"{error.what}: {error.found}")
    return bad


def _damaged(folder: Path, bad: list[str]) -> DataError:
    return DataError(
        f"the pack {str(folder)!r} is not as it was written",
        found=f"{len(bad)} faults: {some(bad)}",
        expected="what pack.json says",
        fix="delete the files named, and give the mae-lite prepare command of then again: it makes them anew",
    )
