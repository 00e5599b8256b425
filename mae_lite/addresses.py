"""Addresses of data in text: what of them may be told, and which kinds are no way to data. Nothing is fetched here.

A user, a password or a query of a URL may be secrets, and so they reach neither a file nor a terminal. Every error,
every print and every JSON file goes through :func:`hidden`, so that no caller has to think of it.
"""

from __future__ import annotations

import re
from typing import Any

HIDDEN = "***"
"""Stands where something was left out."""
READ = r"(?:https?|s3|gs)://"
_SCHEME = r"(?:[A-Za-z][A-Za-z0-9+.-]*://|(?:https?|s3|gs|ftp|sftp):/)/*"  # pathlib makes one stroke of two
_SIGN = r"(?![\"'`](?:[\s,;:.)\]}<]|$))\S"  # a quote is part of an address, unless it is the end of one quoted
_USER = rf"(?:(?:(?![/?#]){_SIGN})*@|(?:(?![/?#@:]){_SIGN})*:(?!\d*(?:[/?#\s\"'`]|$))(?:{_SIGN})*@)"
_ADDRESS = re.compile(rf"({_SCHEME})({_USER})?((?:(?![?#]){_SIGN})*)((?:{_SIGN})*)")
_OTHER = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://|(pipe|file|env|data|fd|exec|ftp|sftp|ssh):", re.IGNORECASE)


def hidden(text: str) -> str:
    """Return ``text`` with :data:`HIDDEN` for the user, password, query and fragment of every URL in it."""
    return _ADDRESS.sub(_told, text) if ":/" in text else text


def hidden_in(value: Any) -> Any:
    """Return ``value``, of what JSON takes, with every text in it :func:`hidden`."""
    if isinstance(value, str):
        return hidden(value)
    if isinstance(value, dict):
        return {key: hidden_in(item) for key, item in value.items()}
    return [hidden_in(item) for item in value] if isinstance(value, list | tuple) else value


def is_url(place: str) -> bool:
    """Whether ``place`` is a URL of a kind that is read."""
    return re.match(READ, place) is not None


def lacks_parts(place: str) -> bool:
    """Whether ``place`` is a URL as it was told: something of it was hidden."""
    return is_url(place) and (f"//{HIDDEN}@" in place or place.endswith(f"?{HIDDEN}"))


def other_scheme(place: str) -> str | None:
    """Return the scheme of an address that is no way to data, such as "pipe" or "ftp"; None for all else."""
    match = None if is_url(place) else _OTHER.match(place)
    return None if match is None else (match[1] or match[2]).lower()


def _told(match: re.Match[str]) -> str:
    scheme, user, place, rest = match.groups()
    return f"{scheme}{f'{HIDDEN}@' * bool(user)}{place}{f'?{HIDDEN}' * bool(rest)}"
