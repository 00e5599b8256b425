"""What was found, for people and for programs: a summary, a list of pairs as CSV, a picture of groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mae_lite import files
from mae_lite.copies import sheet
from mae_lite.copies.groups import Grouped
from mae_lite.copies.settings import DuplicateSettings
from mae_lite.data.bad_files import as_row

PAIRS, PICTURE, SUMMARY = "duplicates.csv", "duplicates.png", "duplicates.json"
_SIDES = ("first", "second")
_ABOUT = ("part", "index", "name", "label")
_COLUMNS = ("group", "kind", "similarity", "labels_differ", *(f"{side}_{what}" for side in _SIDES for what in _ABOUT))


def rows(grouped: Grouped) -> list[dict[str, Any]]:
    """Return every pair as plain values: its group, kind ("exact" or "near"), cosine similarity, and both images."""
    found = []
    for link in grouped.links:
        kind = "exact" if link.exact else "near"
        differ = grouped.differ(link)
        row = {"group": link.group, "kind": kind, "similarity": round(link.similarity, 4), "labels_differ": differ}
        for side, number in zip(_SIDES, (link.first, link.second), strict=True):
            about = asdict(grouped.parts.image(number))
            row |= {f"{side}_{what}": about[what] for what in _ABOUT}
        found.append(row)
    return found


def summary(grouped: Grouped, data: str, settings: DuplicateSettings) -> dict[str, Any]:
    """Return counts as plain values."""
    links = grouped.links
    differ = [link for link in links if grouped.differ(link)]
    labelled = any(source.classes is not None for source in grouped.parts.sources.values())
    return {
        "data": data,
        "against": settings.against,
        "model": settings.model,
        "threshold": settings.least,
        "images": {name: len(source) for name, source in grouped.parts.sources.items()},
        "readable": len(grouped.ids),
        "groups": len(grouped.members),
        "exact_copies": sum(link.exact for link in links),
        "near_pairs": sum(not link.exact for link in links),
        "shared": [asdict(one) for one in grouped.shared()],
        "labels_differ": {
            "exact": sum(link.exact for link in differ),
            "near": sum(not link.exact for link in differ),
        }
        if labelled
        else None,
    }


def written(grouped: Grouped, data: str, settings: DuplicateSettings, out: Path) -> dict[str, Any]:
    """Write summary, list and picture into ``out``; return the summary with the paths.

    Raises:
        DiskError: when that is not possible.
    """
    files.make_folder(out)
    lines = [as_row(*_COLUMNS)]
    for row in rows(grouped):
        lines.append(as_row(*("" if row[name] is None else row[name] for name in _COLUMNS)))
    files.write_text(out / PAIRS, "\n".join(lines) + "\n")
    paths = [out / SUMMARY, out / PAIRS]
    if grouped.members:
        files.write_bytes(out / PICTURE, sheet.drawn(grouped, settings.reading))
        paths.append(out / PICTURE)
    else:
        files.remove(out / PICTURE)  # of an earlier search
    found = {**summary(grouped, data, settings), "files": [str(path) for path in paths]}
    files.write_json(out / SUMMARY, found)
    return found


def as_text(found: Mapping[str, Any]) -> str:
    """Return a summary for a terminal."""
    sets = ", ".join(f"{count:,} {name}" for name, count in found["images"].items())
    how = "small copies" if found["model"] is None else f"features of {found['model']}"
    pairs = f"{found['exact_copies']:,} exact copies and {found['near_pairs']:,} near pairs"
    lines = [
        f"{found['data']}: {sets} images, {found['readable']:,} readable",
        f"{pairs} (cosine of {how} from {found['threshold']:g}), in {found['groups']:,} groups",
    ]
    for one in found["shared"]:
        total = found["images"][one["part"]]
        share = 100 * (one["exact"] + one["near"]) / total
        lines.append(
            f"{one['part']} images that are in {one['other']}: {one['exact']:,} exactly, {one['near']:,} more nearly "
            f"({share:.2g} % of {total:,})"
        )
    if (differ := found["labels_differ"]) is not None:
        lines.append(f"pairs of different classes: {differ['exact']:,} exact, {differ['near']:,} near")
    return "\n".join([*lines, *(f"wrote {path}" for path in found["files"])])
