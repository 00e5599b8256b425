"""Self-contained HTML: the only module that renders it. Everything but figures, our own style and script is escaped."""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import markupsafe

from mae_lite import files
from mae_lite.report.compose import Report


def render(report: Report) -> str:
    """Return the report as one HTML file that needs no network and runs no script but its own."""
    return _page("page.html.j2", report=report)


def render_card(card: Mapping[str, Any]) -> str:
    """Return the card of a model as such a file; :func:`mae_lite.report.card.view` says what is in it."""
    return _page("card.html.j2", card=card)


def _page(template: str, **shown: Any) -> str:
    script, style = _resource("report.js"), _resource("report.css")
    # The digest allows this very script and no other, whatever a name in a run may try.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return _template(template).render(
        script=markupsafe.Markup(script), style=markupsafe.Markup(style), script_digest=digest, **shown
    )


def render_content(report: Report) -> str:
    """Return what is inside the page's ``main``: what changes while runs go on."""
    return _template("content.html.j2").render(report=report)


def write(report: Report, path: Path) -> None:
    """Write the report to ``path``.

    Raises:
        DiskError: when that is not possible.
    """
    files.make_folder(path.parent)
    files.write_text(path, render(report).encode("utf-8", "backslashreplace").decode())  # folders may have any bytes


def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mae_lite.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = lambda svg: markupsafe.Markup(
        svg
    )  # ours escape their text; report.drawings cleans others
    environment.filters["unbroken"] = _unbroken
    environment.filters["key"] = lambda text: hashlib.sha256(str(text).encode()).hexdigest()[:12]
    return environment.get_template(name)


def _unbroken(text: str) -> markupsafe.Markup:
    """Return commands whose lines end between words only; browsers would also end them at the hyphens of a flag."""
    lines = (
        [markupsafe.Markup("<span>{}</span>").format(word) for word in line.split(" ")] for line in text.split("\n")
    )
    return markupsafe.Markup("\n").join(markupsafe.Markup(" ").join(line) for line in lines)


def _resource(name: str) -> str:
    return (importlib.resources.files("mae_lite.report") / "templates" / name).read_text(encoding="utf-8")
