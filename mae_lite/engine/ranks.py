"""Devices and ranks: setting Fabric up, and doing things once for all ranks."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor

from mae_lite import launch
from mae_lite.config import Recipe, Runtime
from mae_lite.errors import ConfigError, MaeLiteError, shortly
from mae_lite.rundir import resident_peak_mb

T = TypeVar("T")
_TIMEOUT = timedelta(minutes=30)
"""For a deadlock, and what one rank does while others wait; that a rank has gone shows sooner (``engine.peers``)."""


def start_fabric(recipe: Recipe, runtime: Runtime) -> Fabric:
    """Return a launched Fabric for the devices of ``runtime``; torchrun's and SLURM's settings are detected.

    bf16 means mixed precision on a CUDA device and float32 elsewhere.

    Raises:
        ConfigError: when the devices asked for are not there.
    """
    cuda = runtime.accelerator == "cuda" or (runtime.accelerator == "auto" and torch.cuda.is_available())
    if runtime.accelerator == "cuda" and not torch.cuda.is_available():
        raise ConfigError("accelerator", found="cuda, but PyTorch sees no GPU", fix="--accelerator cpu")
    if runtime.accelerator == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("accelerator", found="mps, but this machine has none", fix="--accelerator cpu")
    if cuda and runtime.devices > torch.cuda.device_count():
        found = f"{runtime.devices}, but PyTorch sees {torch.cuda.device_count()} GPUs"
        raise ConfigError("devices", found=found, fix=f"--devices {torch.cuda.device_count()}")
    launch.check()
    devices, nodes = runtime.devices, 1
    if "LOCAL_WORLD_SIZE" in os.environ:  # started by torchrun
        devices = launch.number("LOCAL_WORLD_SIZE", 1, least=1)
        nodes = max(1, launch.number("WORLD_SIZE", devices, least=1) // devices)
    fabric = Fabric(
        accelerator="cuda" if cuda else "cpu" if runtime.accelerator == "auto" else runtime.accelerator,
        devices=devices,
        num_nodes=nodes,
        strategy=DDPStrategy(timeout=_TIMEOUT) if devices * nodes > 1 else "auto",
        precision="bf16-mixed" if cuda and recipe.precision == "bf16" else "32-true",
    )
    _launch(fabric)
    atexit.register(_disconnect)
    if cuda:
        torch.cuda.reset_peak_memory_stats(fabric.device)
    return fabric


def _launch(fabric: Fabric) -> None:
    port = os.environ.get("MASTER_PORT", "")
    try:
        fabric.launch()
    except ValueError as error:  # what a launcher says and --devices contradict each other
        fix = "srun with --ntasks-per-node equal to --devices, or torchrun --nproc-per-node N -m mae_lite ..."
        raise ConfigError(
            "devices", found=shortly(error), expected="as many as processes were started", fix=fix
        ) from error
    except torch.distributed.DistError as error:
        if "EADDRINUSE" in str(error) or "address already in use" in str(error):
            raise ConfigError(
                "the environment's MASTER_PORT",
                found=f"{port}, on which another program listens already",
                expected="a free port",
                fix="torchrun --master-port PORT with another one, or torchrun --standalone, which finds one",
            ) from error
        raise ConfigError(
            "the environment's WORLD_SIZE",
            found=f"{launch.number('WORLD_SIZE', 1)} processes that did not meet: {shortly(error)}",
            expected="as many processes as it says, which reach MASTER_ADDR and MASTER_PORT",
            fix="torchrun --nproc-per-node N -m mae_lite ..., on each machine with the same --rdzv-endpoint",
        ) from error


def averaged(fabric: Fabric, value: Tensor) -> Tensor:
    """Return the mean of a scalar over the ranks, on its device: what is not finite on one is not finite on any."""
    if fabric.world_size == 1:
        return value
    total = value.detach().clone()
    torch.distributed.all_reduce(total)
    return total / fabric.world_size


def _disconnect() -> None:
    # Exiting with gloo's threads alive now and then aborts the process after its work is done. Fabric closes NCCL.
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized() and distributed.get_backend() == "gloo":
        distributed.destroy_process_group()


def peak_memory_mb(device: torch.device) -> float:
    """Return the most memory held so far, in megabytes: by tensors on a GPU, elsewhere by this process."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    return resident_peak_mb()


def free_memory_bytes(device: torch.device) -> int:
    """Return how much memory is left: on a GPU its own, elsewhere what this machine can give to its programs."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def on_rank_zero(fabric: Fabric, action: Callable[[], T]) -> T | None:
    """Do ``action`` on the first rank while the others wait.

    Returns:
        The action's result on the first rank, None on the others.

    Raises:
        MaeLiteError: on every rank, when the action raised it on the first.
    """
    result: T | None = None
    error: MaeLiteError | None = None
    if fabric.is_global_zero:
        try:
            result = action()
        except MaeLiteError as raised:
            error = raised
    error = fabric.broadcast(error)
    if error is not None:
        error.shared = True
        raise error
    return result
