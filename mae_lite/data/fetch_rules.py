"""Where the fetcher goes: to https, to plain http on this machine alone, and where redirects may lead it."""

from __future__ import annotations

import asyncio
import ipaddress
import os
from typing import Any
from urllib.parse import urlsplit

from mae_lite.addresses import lacks_parts, other_scheme
from mae_lite.errors import ConfigError, DataError

ALLOW_HTTP = "MAE_LITE_ALLOW_HTTP"
"""Variable of the environment; "1" allows plain http to other machines, where anyone on the way can change data."""


def check_kind(place: str) -> None:
    """Refuse an address that is no way to data: a command, a file behind a URL, a protocol that is not read.

    Raises:
        ConfigError: names its scheme alone, for the rest may hold secrets.
    """
    scheme = None if os.path.exists(place) else other_scheme(place)
    if scheme is not None:
        raise ConfigError(
            "data",
            found=f"an address that begins with {scheme}:",
            expected="a path, or shards behind https://, s3:// or gs://; commands are not run and no other URLs read",
            fix="copy the files here and give their path, or --data 'shards:https://HOST/train-{000..127}.tar'",
        )


def check(url: str) -> None:
    """Refuse a URL that must not be fetched.

    Raises:
        ConfigError: when it is plain http to another machine, or was taken from a record, which keeps no secrets.
    """
    if lacks_parts(url):
        raise ConfigError(
            f"{url!r} is not whole: users, passwords and queries of URLs are not recorded",
            expected="the address with all its parts",
            fix="give the whole address again, with --data 'shards:https://...'",
        )
    parts = urlsplit(url)
    if parts.scheme == "http" and not _is_here(parts.hostname or "") and os.environ.get(ALLOW_HTTP) != "1":
        raise ConfigError(
            f"{url!r} is plain http",
            expected="https, since anyone on the way can read and change what http brings",
            fix=f"write https://, or set {ALLOW_HTTP}=1 where you trust the network",
        )


def traces() -> list[Any]:
    """Return what makes an aiohttp session ask :func:`check_redirect` before it follows a redirect."""
    import aiohttp

    trace = aiohttp.TraceConfig()

    async def redirected(_session: Any, _context: Any, about: Any) -> None:
        where = about.response.headers.get("Location") or about.response.headers.get("URI") or ""
        await check_redirect(str(about.response.url), str(about.response.url.join(type(about.url)(where))))

    trace.on_request_redirect.append(redirected)
    return [trace]


async def check_redirect(source: str, target: str) -> None:
    """Refuse a redirect that a stranger's server must not make: off https, off the web, or into a private network.

    Within one host all addresses are alike. A name is looked up here and again when it is connected to; a server of
    names that answers differently within this moment is not noticed.

    Raises:
        DataError: says where it would have led.
    """
    old, new = urlsplit(source), urlsplit(target)
    reason = ""
    if new.scheme not in ("http", "https"):
        reason = f"to {new.scheme}:"
    elif new.scheme == "http" and old.scheme == "https":
        reason = f"from https to {target!r}"
    elif new.hostname != old.hostname and (private := await _private(new.hostname or "")):
        reason = f"to {target!r}, the private address {private}"
    elif new.scheme == "http" and new.hostname != old.hostname and os.environ.get(ALLOW_HTTP) != "1":
        reason = f"to {target!r}, plain http"
    if reason:
        raise DataError(
            f"{source!r} redirects {reason}",
            expected="the file, or a redirect to a public https address",
            fix="give the address of the file itself, where you trust it",
        )


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def _private(host: str) -> str | None:
    """Return the first address of ``host`` that is not public; None where all are, or none is known."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None)
    except OSError:  # the connection will say so
        return None
    for address in (str(entry[4][0]).partition("%")[0] for entry in found):
        known = ipaddress.ip_address(address)
        if not (getattr(known, "ipv4_mapped", None) or known).is_global:
            return address
    return None
