"""A picture of groups, the doubtful ones first: what splits share, different classes, low similarity."""

from __future__ import annotations

import io

from PIL import Image, ImageDraw, ImageFont

from mae_lite.checking.sheet import FOOT, GAP, HEAD, INK, PAPER, TILE, caption, fitted, whole
from mae_lite.config import Reading
from mae_lite.copies.groups import Grouped, Link
from mae_lite.data import images
from mae_lite.data.bad_files import as_row
from mae_lite.errors import DataError

_ROWS, _COLUMNS = 12, 6


def drawn(grouped: Grouped, reading: Reading) -> bytes:
    """Return a PNG: a row for each of up to 12 groups, with its lowest similarity and up to 6 of its images."""
    by_group: dict[int, list[Link]] = {}
    for link in grouped.links:
        by_group.setdefault(link.group, []).append(link)
    chosen = sorted(by_group, key=lambda group: _doubt(grouped, by_group[group]))[:_ROWS]
    high = HEAD + TILE + FOOT
    page = Image.new("RGB", (_COLUMNS * (TILE + GAP) + GAP, len(chosen) * high), PAPER)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(14)
    small = ImageFont.load_default(11)
    for row, group in enumerate(chosen):
        draw.text((GAP, row * high + 8), _title(grouped, group, by_group[group]), fill=INK, font=font)
        for column, number in enumerate(grouped.members[group][:_COLUMNS]):
            place = (GAP + column * (TILE + GAP), row * high + HEAD)
            source, index = grouped.parts.place(number)
            try:
                picture = images.decode(source.example(index), grouped.channels, reading)
            except DataError:  # read before, gone since
                continue
            page.paste(fitted(whole(picture)), place)
            part = grouped.parts.names[grouped.parts.part_of(number)]
            said = f"{part}: {caption(source, index, picture)}"
            draw.text((place[0], place[1] + TILE + 3), said[:32], fill=INK, font=small)
    buffer = io.BytesIO()
    page.save(buffer, format="PNG")
    return buffer.getvalue()


def _doubt(grouped: Grouped, links: list[Link]) -> tuple[bool, bool, float]:
    crossing = any(grouped.parts.part_of(link.first) != grouped.parts.part_of(link.second) for link in links)
    return not crossing, not any(map(grouped.differ, links)), min(link.similarity for link in links)


def _title(grouped: Grouped, group: int, links: list[Link]) -> str:
    count = len(grouped.members[group])
    kind = (
        "equal pixels" if all(link.exact for link in links) else f"cosine from {min(k.similarity for k in links):.3f}"
    )
    more = f", {count - _COLUMNS} not shown" if count > _COLUMNS else ""
    differ = ", of different classes" if any(map(grouped.differ, links)) else ""
    return as_row(f"group {group}: {count} images, {kind}{differ}{more}").strip('"')
