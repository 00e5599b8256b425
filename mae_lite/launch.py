"""What a launcher such as torchrun says to each of its processes, in variables of the environment."""

from __future__ import annotations

import os
import shlex
import sys

from mae_lite.errors import ConfigError

_TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def number(name: str, default: int, *, least: int = 0) -> int:
    """Return a number that a launcher set, or ``default`` where it did not.

    Raises:
        ConfigError: when it is no whole number, or less than ``least``.
    """
    given = os.environ.get(name)
    if given is None:
        return default
    if not given.strip().isdecimal() or int(given) < least:
        raise ConfigError(
            f"the environment's {name}",
            found=repr(given),
            expected=f"a whole number, at least {least}, as torchrun sets it",
            fix=f"unset {name}, or start with torchrun --nproc-per-node N -m mae_lite ...",
        )
    return int(given)


def check() -> None:
    """Refuse what a launcher has said by halves, or what contradicts itself.

    Raises:
        ConfigError: naming the variable.
    """
    ranks, here = number("WORLD_SIZE", 1, least=1), number("LOCAL_WORLD_SIZE", 1, least=1)
    for name, limit in (("RANK", ranks), ("LOCAL_RANK", max(here, 1 if "RANK" in os.environ else ranks))):
        if number(name, 0) >= limit:
            raise _wrong(name, os.environ[name], f"less than {limit}, the number of processes")
    port = number("MASTER_PORT", 1)
    if not 0 < port < 2**16:
        raise _wrong("MASTER_PORT", str(port), "a port, 1 to 65535")
    if "RANK" in os.environ or "LOCAL_WORLD_SIZE" in os.environ:
        for name in _TORCHRUN:
            if ranks > 1 and name not in os.environ:
                raise _wrong(name, "nothing, though others that torchrun sets are there", "all of them")


def _wrong(name: str, found: str, expected: str) -> ConfigError:
    started = "start with torchrun --nproc-per-node N -m mae_lite ..., which sets it"
    set_here = ", ".join(known for known in (*_TORCHRUN, name) if known in os.environ)
    return ConfigError(
        f"the environment's {name}",
        found=found,
        expected=expected,
        fix=f"{started}, or unset {set_here} to train in one process",
    )


def command() -> str:
    """Return the command line by which this program was started, as people give it."""
    words = shlex.join(sys.argv[1:])
    if "LOCAL_WORLD_SIZE" not in os.environ:
        return f"mae-lite {words}"
    here, ranks = number("LOCAL_WORLD_SIZE", 1, least=1), number("WORLD_SIZE", 1, least=1)
    elsewhere = " ... (on each machine, as before)" if ranks > here else ""
    return f"torchrun --nproc-per-node {here} -m mae_lite {words}{elsewhere}"


def first_rank() -> bool:
    """Say whether this process is the one of several that speaks; one that cannot tell does."""
    # torchrun sets RANK, Fabric's own launcher LOCAL_RANK
    try:
        return number("RANK", number("LOCAL_RANK", 0)) == 0
    except ConfigError:
        return True
