"""What a launcher such as torchrun says to each of its processes, in variables of the environment."""

from __future__ import annotations

import os

from mae_lite.errors import ConfigError


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


def first_rank() -> bool:
    """Say whether this process is the one of several that speaks; one that cannot tell does."""
    # torchrun sets RANK, Fabric's own launcher LOCAL_RANK
    try:
        return number("RANK", number("LOCAL_RANK", 0)) == 0
    except ConfigError:
        return True
