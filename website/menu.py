"""Where each page stands in the menu of the site."""

from __future__ import annotations

import json
from collections.abc import Iterable

from mae_lite.errors import ConfigError

MENU: dict[str, tuple[str, ...]] = {
    "Start": ("index.md", "ten_minutes.md", "digits.md", "notebooks/own_images.md", "notebooks/what_it_sees.md"),
    "Images": ("data.md", "small_data.md", "which_recipe.md", "duplicates.md"),
    "Methods": ("methods.md", "equations.md"),
    "Results": ("runs.md", "loggers.md", "report.md", "predict.md", "probes.md", "analysis.md", "dense.md"),
    "Comparisons": ("studies.md", "studies/*", "transfer.md"),
    "Models in and out": ("weights.md", "export.md", "push.md"),
    "Machines": ("scale.md", "reliability.md", "security.md", "shell.md"),
    "Commands": ("commands/*",),
    "Inside": ("design.md", "contributing.md", "api.md"),
}
"""Pages by section, in their order; ``*`` takes all of a folder. A page that is not there is left out."""


def menu(pages: Iterable[str]) -> dict[str, list[str]]:
    """Return the sections that have pages, with these.

    Args:
        pages: paths below the folder of all pages.

    Raises:
        ConfigError: for a page that no section names.
    """
    left = sorted(pages)
    found: dict[str, list[str]] = {}
    for section, names in MENU.items():
        for name in names:
            fitting = [page for page in left if page == name or (name[-1] == "*" and page.startswith(name[:-1]))]
            left = [page for page in left if page not in fitting]
            found.setdefault(section, []).extend(fitting)
    if left:
        raise ConfigError(
            "pages of the site",
            found=f"in no menu: {', '.join(left)}",
            expected="each page in one section",
            fix="add them to a section of MENU in website/menu.py",
        )
    return {section: names for section, names in found.items() if names}


def as_toml(found: dict[str, list[str]]) -> str:
    """Return the menu as Zensical reads it; strings of JSON are strings of TOML."""
    sections = [f"{{ {json.dumps(section)} = {json.dumps(names)} }}" for section, names in found.items()]
    return "nav = [\n  " + ",\n  ".join(sections) + ",\n]"
