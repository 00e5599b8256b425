"""What is said on the terminal; nothing else prints. What a user has named must give it no orders."""

from __future__ import annotations

import json
import sys
from typing import Any

from mae_lite.addresses import hidden_in
from mae_lite.errors import plain


def say(text: str = "", *, aside: bool = False) -> None:
    """Print ``text`` at once, harmless and without secrets of URLs (see :func:`mae_lite.errors.plain`).

    Args:
        text: a line or several; names that are not quoted go through :func:`mae_lite.errors.in_line` first.
        aside: whether it is not the result but a word beside it, for standard error.
    """
    print(plain(text), file=sys.stderr if aside else sys.stdout, flush=True)


def tell(text: str) -> None:
    """Print a word beside the result, as :func:`say` does."""
    say(text, aside=True)


def answer(value: Any, text: str, as_json: bool) -> None:
    """Print what a command has found: ``value`` as JSON for programs, or ``text`` for people.

    JSON goes past :func:`say`: its escapes make it harmless, and what is hidden in it has to be hidden before.
    """
    if as_json:
        print(json.dumps(hidden_in(value), indent=2), flush=True)
    else:
        say(text)
