"""What ``mae-lite analyze``, ``layers`` and ``probe`` left: figures, and the sentences that say what they show."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mae_lite import rundir
from mae_lite.errors import CheckpointError, MaeLiteError
from mae_lite.report import drawings
from mae_lite.report.charts import Figure
from mae_lite.report.read import ANALYSES
from mae_lite.report.values import whole

_PNG = b"\x89PNG\r\n\x1a\n"
_MOST_BYTES = 16_000_000


@dataclass
class Findings:
    """All that some analyses show."""

    figures: list[Figure] = field(default_factory=list)
    about: list[str] = field(default_factory=list)
    """A sentence on each analysis: where it lies, and what it looked at."""
    problems: list[str] = field(default_factory=list)
    """What could not be read, or was left out."""


def read(folders: Mapping[Path, Mapping[str, str]]) -> Findings:
    """Read the analyses in some folders; what cannot be read is listed under ``problems``.

    Args:
        folders: what to call the models of each, by the names that they have there.
    """
    found = Findings()
    for folder, names in folders.items():
        for file, command in ANALYSES.items():
            if (folder / file).is_file():
                _add(found, folder, file, command, names)
    return found


def _add(found: Findings, folder: Path, file: str, command: str, names: Mapping[str, str]) -> None:
    where = f"{folder.name}/{file}"
    try:
        content = rundir.read_json(folder / file, "another analysis")
    except MaeLiteError as error:
        found.problems.append(f"{where}: {error.found or error.what}")
        return
    before = len(found.figures)
    for name, said in _listed(content, file):
        try:
            figure, left_out = _figure(folder, name, f"analysis-{len(found.figures)}", said, names)
        except (MaeLiteError, OSError, ValueError) as error:
            found.problems.append(f"{folder.name}/{name}: {getattr(error, 'found', '') or error}")
            continue
        found.figures.append(figure)
        found.problems += [f"{folder.name}/{name}: left out {', '.join(left_out)}"] if left_out else []
    count = whole(content.get("images"))
    looked = "" if count is None else f", of {count:,} images of {content.get('data')} ({content.get('split')})"
    none = "; it has no figures" if len(found.figures) == before else ""
    none += " (mae-lite probe --blocks draws them)" if none and command == "probe" else ""
    found.about.append(f"mae-lite {command}{looked}: {folder}{none}.")


def _listed(content: Mapping[str, Any], file: str) -> Iterator[tuple[str, str]]:
    """Yield the names of the figures that an analysis lists, and what each shows."""
    listed = {"layers.svg": [content.get("sentence", "")]} if file == "layers.json" else content.get("figures")
    for name, said in listed.items() if isinstance(listed, dict) else ():
        yield str(name), " ".join(str(one) for one in said) if isinstance(said, list) else str(said)


def _figure(folder: Path, file: str, name: str, said: str, names: Mapping[str, str]) -> tuple[Figure, list[str]]:
    """Return a figure of a file, and what of it was left out.

    Raises:
        CheckpointError: when it is none, or lies elsewhere.
        OSError, ValueError: when it cannot be read.
    """
    path, caption = folder / file, _renamed(said, names)
    if file not in {one.name for one in folder.iterdir()} or path.is_symlink() or not path.is_file():
        raise _not_shown("no such file in its folder")
    if path.stat().st_size > _MOST_BYTES:
        raise _not_shown(f"{path.stat().st_size:,} bytes")
    if path.suffix == ".png":
        data = path.read_bytes()
        if not data.startswith(_PNG):
            raise _not_shown("no PNG")
        return Figure(name, caption, "", "data:image/png;base64," + base64.b64encode(data).decode()), []
    svg, left_out = drawings.cleaned(_renamed(path.read_text(encoding="utf-8"), names))
    return Figure(name, caption, svg), left_out


def _not_shown(found: str) -> CheckpointError:
    return CheckpointError("a figure cannot be shown", found=found, expected="SVG or PNG", fix="draw it again")


def _renamed(text: str, names: Mapping[str, str]) -> str:
    """Call models what the reader calls them; the names of a study's rows need no escaping in SVG."""
    for old, new in names.items():
        text = text.replace(old, new)
    return text
