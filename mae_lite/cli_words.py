"""From the words of a command line to positions and options, and to the page that explains them."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from mae_lite import config, overrides
from mae_lite.errors import ConfigError
from mae_lite.terminal import say

_ASKED: dict[str, Any] = {"data": "DATA", "out": "OUT", "reading": config.Reading().model_dump()}
"""What stands in a page of help for fields that have no default."""

_JSON = "json_output"
"""The field of whoever prints a table; its option is --json, too."""

_MEANINGS = {
    "RUN": "a run folder, such as runs/NAME",
    "MODEL": "a run folder or a checkpoint in it; a folder that timm, Hugging Face or mae-lite convert wrote; a file\n"
    "    of weights; or pretrained:NAME, a model that comes along",
    "IMAGES": "files, folders, patterns in quotes, - for paths on standard input; or alone a data set, as DATA is\n"
    "    elsewhere. Here MODEL may be an ONNX file too, which mae-lite export wrote",
    "DATA": "a folder of images, a parquet file, a pack, digits, or what else docs/data.md names",
}
"""What capitals in a line of usage stand for."""


class Page(NamedTuple):
    """What --help is about to say."""

    usage: str
    """The line, or lines, that show how the command is written."""
    options: BaseModel | None
    """Every option with its default; None where a first word decides which there are."""


_pages: ContextVar[list[Page] | None] = ContextVar("pages", default=None)
"""Where :func:`page_of` gathers pages of help that would be printed otherwise."""


def page_of(command: Callable[[Sequence[str]], int], *words: str) -> Page:
    """Return what ``command`` would print for ``words`` and --help, so that documents and completion never differ."""
    found: list[Page] = []
    token = _pages.set(found)
    try:
        with contextlib.suppress(SystemExit):
            command([*words, "--help"])
    finally:
        _pages.reset(token)
    return found[0]


def options_from(
    words: Sequence[str], model: type[overrides.ModelT], prog: str, base: dict[str, Any]
) -> overrides.ModelT:
    """Return the options that ``words`` set over ``base``; --help prints all of them and ends.

    Raises:
        ConfigError: for unknown options and wrong values.
    """
    if any(word in ("-h", "--help") for word in words):
        _help(model, prog, base)
    if _JSON in model.model_fields:  # --json is no name for a field: models of pydantic have a method of that name
        words = ["--json-output" if word == "--json" else word for word in words]
    return overrides.build(model, overrides.parse(words, model, base))


def _help(model: type[BaseModel], prog: str, base: dict[str, Any], usage: str | None = None) -> None:
    fields = model.model_fields
    asked = {name: value for name, value in _ASKED.items() if name in fields and fields[name].is_required()}
    default = model.model_validate({**asked, **base})
    gathered = _pages.get()
    if gathered is not None:
        gathered.append(Page(prog if usage is None else usage, default))
        raise SystemExit(0)
    import tyro

    if usage is not None:
        say(f"usage: {usage}\n")
    with _without_colours() if os.environ.get("NO_COLOR") else contextlib.nullcontext():
        tyro.cli(
            model,
            prog=prog,
            default=default,
            args=["--help"],
            config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff),
        )


@contextlib.contextmanager
def _without_colours() -> Iterator[None]:
    """Print what is printed within at its end, as to a pipe: tyro does not ask for NO_COLOR, but for a terminal."""
    kept = io.TextIOWrapper(io.BytesIO(), encoding=sys.stdout.encoding)
    try:
        with contextlib.redirect_stdout(kept):
            yield
    finally:
        kept.seek(0)
        say(kept.read().removesuffix("\n"))


def positional(
    words: Sequence[str], name: str, usage: str, example: str, options: type[BaseModel] | None = None
) -> tuple[str, list[str]]:
    """Return the first of ``words``, which is no option, and the others.

    Args:
        words: of the command line.
        name: what the first of them is.
        usage: the line that --help prints instead.
        example: a command, for whom the first word is missing.
        options: all options of the command, which --help prints below ``usage``.

    Raises:
        ConfigError: when it is missing; ``example`` shows the way.
    """
    if words and not _is_flag(words[0]):
        return words[0], list(words[1:])
    if any(word in ("-h", "--help") for word in words):
        usage = _explained(usage)
        if options is not None:
            _help(options, " ".join(usage.split()[:2]), {}, usage)
        gathered = _pages.get()
        if gathered is None:
            say(f"usage: {usage}")
        else:
            gathered.append(Page(usage, None))
        raise SystemExit(0)
    raise ConfigError(f"{name} is missing", fix=example)


def _explained(usage: str) -> str:
    """Return usage with a line below it for each word in capitals that needs one."""
    asked = set(re.findall(r"\b[A-Z]+\b", usage.splitlines()[0]))
    return "\n".join([usage, *(f"{word}: {text}" for word, text in _MEANINGS.items() if word in asked)])


def several(
    words: Sequence[str], name: str, usage: str, example: str, options: type[BaseModel] | None = None
) -> tuple[list[str], list[str]]:
    """Return the words before the first flag, one at least, and those from it on.

    The arguments are those of :func:`positional`.

    Raises:
        ConfigError: when there is none; ``example`` shows the way.
    """
    first, rest = positional(words, name, usage, example, options)
    count = next((place for place, word in enumerate(rest) if _is_flag(word)), len(rest))
    return [first, *rest[:count]], list(rest[count:])


def _is_flag(word: str) -> bool:
    return word.startswith("-") and word != "-"  # alone it means standard input


def run_folders(words: Sequence[str], command: str, options: type[BaseModel]) -> tuple[list[Path], list[str]]:
    """Return the run folders at the beginning of ``words``, and the flags after them."""
    usage = f"mae-lite {command} RUN... [--FIELD VALUE ...]"
    folders, rest = several(words, "the run folder", usage, f"mae-lite {command} runs/NAME", options)
    return [Path(folder) for folder in folders], rest
