"""A page for every command, made of what its --help explains."""

from __future__ import annotations

import re
from typing import Any, get_args

from pydantic import BaseModel

from mae_lite import overrides
from mae_lite.commands import COMMANDS
from mae_lite.completion import fitting, full_page, places

_TWICE = ("note.", "name", "parent")
"""Fields of a recipe that only say what it is."""


def pages() -> dict[str, str]:
    """Return the text of each page by its path."""
    found = {f"commands/{name}.md": page(name) for name in COMMANDS}
    lines = [f"| [`{name}`]({name}.md) | {_about(name)} |" for name in COMMANDS]
    text = "# All commands\n\n| command | what it does |\n|---|---|\n" + "\n".join(lines)
    text += "\n\n`mae-lite --version` prints the version, `--debug` after any command shows where an error happened. "
    text += "What exit codes mean: [runs](../runs.md#exit-codes).\n"
    return {"commands/all.md": text} | found


def page(name: str) -> str:
    """Return the page of one command."""
    explained = full_page(name, COMMANDS[name])
    usage = "\n".join(line for line in explained.usage.splitlines() if not line.startswith("recipes:"))
    parts = [f"# mae-lite {name}", f"{_about(name)}.", f"```text\n{usage}\n```"]
    if "RECIPE" in places(usage):
        known = fitting(name)
        parts.append(f"`RECIPE` is one of {', '.join(f'`{each}`' for each in known)}.")
        parts.append(
            f"Values below are those of `{known[0]}`; `mae-lite {name} {usage_words(usage)} --help` has others'."
        )
    options = explained.options
    if options is not None and type(options).model_fields:
        parts += ["## Options", table(options)]
    return "\n\n".join(parts) + "\n"


def usage_words(usage: str) -> str:
    """Return the words that come before the options."""
    return " ".join(places(usage))


def table(options: BaseModel) -> str:
    """Return the options as tables of Markdown: those of the command, then each page of settings."""
    values = options.model_dump()
    sections: dict[str, list[str]] = {}
    for name, field in overrides.leaves(type(options), values):
        if name.startswith(_TWICE[0]) or name in _TWICE or name.endswith(".kind"):
            continue
        value: Any = values
        for step in name.split("."):
            value = value[step]
        words = (field.description or "").replace("\n", " ").replace("|", "\\|")
        line = f"| `--{name.replace('_', '-')}` | {_default(value)} | {words}{_choices(field.annotation)} |"
        sections.setdefault(name.rpartition(".")[0], []).append(line)
    head = "| option | default | what |\n|---|---|---|\n"
    return "\n\n".join(
        (f"### {section}\n\n" if section else "") + head + "\n".join(lines) for section, lines in sections.items()
    )


def _default(value: Any) -> str:
    written = " ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
    return f"`{written}`" if written else ""


def _choices(annotation: Any) -> str:
    words = [word for word in _literals(annotation) if isinstance(word, str)]
    return f" One of {', '.join(f'`{word}`' for word in words)}." if words else ""


def _literals(annotation: Any) -> list[Any]:
    found: list[Any] = []
    for item in get_args(annotation):
        found += [item] if isinstance(item, str) else _literals(item)
    return found


def _about(name: str) -> str:
    first = (COMMANDS[name].__doc__ or "").splitlines()[0]
    return re.sub(r": mae-lite .*|\.$", "", first)
