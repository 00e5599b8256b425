"""Completion of commands and options in a shell, made by tyro from what --help explains."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from mae_lite import recipes
from mae_lite.cli_words import Page, page_of

SHELLS = ("bash", "zsh", "fish")
Command = Callable[[Sequence[str]], int]


def script(shell: str, commands: Mapping[str, Command]) -> str:
    """Return what a shell reads to complete ``mae-lite``; ``shell`` is one of :data:`SHELLS`."""
    import tyro

    printed = io.StringIO()
    shapes: dict[str, Callable[..., Any]] = {name: _shape(name, command) for name, command in commands.items()}
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        tyro.extras.subcommand_cli_from_dict(
            shapes,
            prog="mae-lite",
            args=["--tyro-print-completion", shell],
            config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff),
        )
    lines = printed.getvalue().splitlines()
    # An explanation of two lines would be offered as two words.
    lines = [line.replace("\\n", " ") if line.startswith("COMPLETION_SPEC") else line for line in lines]
    # Where tyro knows nothing to offer, as for a recipe's data, bash offers files.
    script = "\n".join(line.replace("complete -F", "complete -o default -F") for line in lines)
    return script.replace("\t", " ")  # one stands in a comment, and nothing that may move a cursor is printed


def full_page(name: str, command: Command) -> Page:
    """Return usage and options of a command, for one that needs a recipe to know its options those of the first."""
    page = page_of(command)
    if page.options is not None:
        return page
    words = [fitting(name)[0] if word == "RECIPE" else word for word in places(page.usage)]
    return page._replace(options=page_of(command, *words).options)


def places(usage: str) -> list[str]:
    """Return the words in capitals that come first in a line of usage, as ``["RUN...", "RECIPE"]``."""
    found = re.match(r"mae-lite \S+((?: [A-Z]+(?:\.\.\.)?)*)", usage)
    return found.group(1).split() if found else []


def fitting(command: str) -> list[str]:
    """Return the recipes that a command takes, MAE's and the improved fine-tuning before others."""
    wanted = {"pretrain": "pretrain", "finetune": "finetune", "layers": "finetune"}.get(command)
    found = [name for name in recipes.names() if wanted in (None, *recipes.commands_for(recipes.get(name)))]
    return sorted(found, key=lambda name: name not in ("mae-tiny", "finetune-improved"))


def _shape(name: str, command: Command) -> type:
    """Return a class whose fields are the options of a command; tyro understands these."""
    import tyro

    options = full_page(name, command).options
    assert options is not None
    field: Any = Annotated[type(options), tyro.conf.arg(name="")]
    made = dataclasses.make_dataclass(name, [("options", field, dataclasses.field(default=options))])
    made.__doc__ = (command.__doc__ or "").splitlines()[0].partition(":")[0]
    return made
