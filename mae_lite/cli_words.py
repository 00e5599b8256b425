"""From the words of a command line to positions and options, and to the page that explains them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from mae_lite import overrides
from mae_lite.errors import ConfigError


def options_from(
    words: Sequence[str], model: type[overrides.ModelT], prog: str, base: dict[str, Any]
) -> overrides.ModelT:
    """Return the options that ``words`` set over ``base``; --help prints all of them and ends.

    Raises:
        ConfigError: for unknown options and wrong values.
    """
    if any(word in ("-h", "--help") for word in words):
        _help(model, prog, base)
    return overrides.build(model, overrides.parse(words, model, base))


def _help(model: type[BaseModel], prog: str, base: dict[str, Any]) -> None:
    import tyro

    default = model.model_validate({"data": "DATA", **base} if "data" in model.model_fields else base)
    tyro.cli(
        model,
        prog=prog,
        default=default,
        args=["--help"],
        config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff),
    )


def positional(words: Sequence[str], name: str, usage: str, example: str) -> tuple[str, list[str]]:
    """Return the first of ``words``, which is no option, and the others.

    Raises:
        ConfigError: when it is missing; ``example`` shows the way.
    """
    if words and not _is_flag(words[0]):
        return words[0], list(words[1:])
    if any(word in ("-h", "--help") for word in words):
        print(f"usage: {usage}")
        raise SystemExit(0)
    raise ConfigError(f"{name} is missing", fix=example)


def several(words: Sequence[str], name: str, usage: str, example: str) -> tuple[list[str], list[str]]:
    """Return the words before the first flag, one at least, and the flags (see :func:`flags_of`).

    Raises:
        ConfigError: when there is none; ``example`` shows the way.
    """
    first, rest = positional(words, name, usage, example)
    count = next((place for place, word in enumerate(rest) if _is_flag(word)), len(rest))
    return [first, *rest[:count]], flags_of(rest[count:])


def _is_flag(word: str) -> bool:
    return word.startswith("-") and word != "-"  # alone it means standard input


def flags_of(words: Sequence[str]) -> list[str]:
    """Return ``words`` with --json, which is no name for a field, spelled as the option is."""
    return ["--json-output" if word == "--json" else word for word in words]


def run_folders(words: Sequence[str], command: str) -> tuple[list[Path], list[str]]:
    """Return the run folders at the beginning of ``words``, and the flags after them."""
    usage = f"mae-lite {command} RUN... [--FIELD VALUE ...]"
    folders, rest = several(words, "the run folder", usage, f"mae-lite {command} runs/NAME")
    return [Path(folder) for folder in folders], rest
