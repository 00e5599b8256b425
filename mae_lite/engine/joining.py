"""Processes that share the work of a command that does not train."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch

from mae_lite import launch
from mae_lite.engine.peers import Peers


@contextmanager
def joined(kept: str) -> Iterator[tuple[int, int]]:
    """Join the processes that torchrun has started; yield rank and number. Without torchrun this process is alone.

    They wait for each other at the end of the block.

    Args:
        kept: what the next start finds of the work, for the message of a rank that was lost.

    Raises:
        MaeLiteError: on every rank, when one raised it in the block.
        PeerError: when a rank was killed or lost, or has a bug.
    """
    if launch.number("WORLD_SIZE", 1, least=1) == 1:
        yield 0, 1
        return
    distributed = torch.distributed
    distributed.init_process_group("gloo", timeout=timedelta(days=1))  # a slow disk may keep one for hours
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    with Peers(rank, ranks, distributed.barrier, lambda: f"{kept}: {launch.command()}") as peers, peers.together():
        yield rank, ranks
    peers.part()
    distributed.destroy_process_group()
