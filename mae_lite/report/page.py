"""Self-contained HTML pages: the only module that renders HTML. Everything but our own figures is escaped."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import markupsafe

from mae_lite import files


@dataclass(frozen=True)
class Table:
    """A table whose first column names the row."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Figure:
    """A figure with its caption: SVG made by :mod:`mae_lite.figures`, or a PNG."""

    caption: str
    svg: str = ""
    png: bytes = b""

    @property
    def markup(self) -> markupsafe.Markup:
        """The SVG as trusted markup; it comes from our own drawing code, which escapes its text."""
        return markupsafe.Markup(self.svg)

    @property
    def source(self) -> str:
        """The PNG as a data URI."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


@dataclass(frozen=True)
class Page:
    """What a page says, in order."""

    title: str
    headline: str
    notes: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    commands: Sequence[str] = field(default_factory=tuple)


def render(page: Page) -> str:
    """Return the page as one HTML file that needs no network."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mae_lite.report"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("page.html.j2").render(page=page)


def write(page: Page, path: Path) -> None:
    """Write the page to ``path``.

    Raises:
        DiskError: when that is not possible.
    """
    files.write_text(path, render(page))
