"""The command line: which command, and how errors end it."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

from mae_lite import __version__
from mae_lite.commands import COMMANDS
from mae_lite.errors import EXIT_INTERRUPTED, ConfigError, DiskError, MaeLiteError, nearest, plain_handler
from mae_lite.launch import first_rank
from mae_lite.terminal import say

_EVERYWHERE = ("--debug", "--quiet", "--verbose")
"""Options of every command."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code (see :mod:`mae_lite.errors`)."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    if not debug:  # read when torch is imported; a rank that has gone would be told of in C++
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        _set_messages(words)
        words = [word for word in words if word not in _EVERYWHERE]
        return _dispatch(words)
    except MaeLiteError as error:
        if debug:
            raise
        if first_rank() or not error.shared:
            say(f"error: {error}", aside=True)
        return error.exit_code
    except KeyboardInterrupt:
        if debug:
            raise
        say("stopped", aside=True)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if debug:
            raise
        explained = DiskError(str(error), fix="check the disk and the permissions; --debug shows where it happened")
        say(f"error: {explained}", aside=True)
        return explained.exit_code


def _set_messages(words: Sequence[str]) -> None:
    """Let more or fewer messages through, to standard error.

    Raises:
        ConfigError: when both are asked for.
    """
    quiet, verbose = "--quiet" in words, "--verbose" in words
    handler = plain_handler("%(asctime)s %(name)s: %(message)s" if verbose else "%(message)s")
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("mae_lite").setLevel(logging.WARNING if quiet else logging.INFO)
    if quiet and verbose:
        raise ConfigError("--quiet and --verbose", found="both", expected="one of them", fix="drop one")


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        say(_usage())
        return 0
    if words[0] == "--version":
        say(f"mae-lite {__version__}")
        return 0
    command, *rest = words
    if command not in COMMANDS:
        raise ConfigError(f"unknown command {command!r}{nearest(command, COMMANDS)}", fix="mae-lite --help lists them")
    return COMMANDS[command](rest)


def _usage() -> str:
    lines = [f"  {name:<10} {(function.__doc__ or '').splitlines()[0]}" for name, function in COMMANDS.items()]
    return "\n".join(
        [
            "mae-lite: small Vision Transformers that work",
            "",
            "usage: mae-lite COMMAND [--help] [--quiet] [--verbose] [--debug] ...",
            "",
            *lines,
            "",
            "--quiet: warnings and results alone; --verbose: messages with their time, and other libraries';",
            "--debug: where an error happened; NO_COLOR=1: no colours; mae-lite --version",
        ]
    )


if __name__ == "__main__":
    raise SystemExit(main())
