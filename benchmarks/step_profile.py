"""Where the time of a training step on a CPU goes, by kind of operation."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch._inductor import config as inductor

GROUPS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"),
    "attention": ("aten::_scaled_dot_product_flash_attention",),
    "GELU": ("aten::gelu",),
    "LayerNorm": ("aten::native_layer_norm",),
    "copies and gathers": ("aten::copy_", "aten::cat", "aten::index_select", "aten::index_add", "aten::gather"),
    "bias gradients": ("aten::sum",),
    "AdamW": ("aten::_fused_adamw_", "Optimizer.step"),
}
"""Operations by the start of their names, the first match counts."""
FUSED = {
    "attention": ("softmax", "scaled_dot_product"),
    "GELU": ("gelu",),
    "LayerNorm": ("layer_norm",),
    "copies and gathers": ("copy", "clone", "cat", "index", "gather"),
    "bias gradients": ("sum",),
}
"""What torch.compile made of several operations, by a part of the name, the first match counts; matrix products, those
of its attention among them, stay what they are."""


def shares(step: Callable[[Tensor], object], images: Tensor, updates: int) -> dict[str, Any]:
    """Return the milliseconds of a step and the share of each group of operations, after a step that does not count.

    A compiled step tells its kernels apart where it compiles with ``named_kernels``.
    """
    step(images)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        for _ in range(updates):
            step(images)
    spent = dict.fromkeys((*GROUPS, "other"), 0.0)
    for event in found.key_averages():
        spent[_group(event.key)] += event.self_cpu_time_total
    total = sum(spent.values())
    return {
        "milliseconds_per_step": total / 1e3 / updates,
        "shares": {name: value / total for name, value in spent.items()},
    }


def named_kernels() -> AbstractContextManager[None]:
    """Return a context in which what torch.compile makes for a CPU is seen by the profiler, kernel by kernel.

    What was compiled before is forgotten: it would be used again, unseen.
    """
    torch.compiler.reset()
    return inductor.patch({"cpp.enable_kernel_profile": True})  # type: ignore[no-any-return]


def _group(operation: str) -> str:
    if "cpp_fused" in operation:
        return next((name for name, parts in FUSED.items() if any(part in operation for part in parts)), "other")
    return next((name for name, starts in GROUPS.items() if operation.startswith(starts)), "other")
