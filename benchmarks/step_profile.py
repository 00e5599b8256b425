"""Where the time of a training step on a CPU goes, by kind of operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

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


def shares(step: Callable[[Tensor], object], images: Tensor, updates: int) -> dict[str, Any]:
    """Return the milliseconds of a step and the share of each group of operations, after a step that does not count."""
    step(images)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        for _ in range(updates):
            step(images)
    spent = dict.fromkeys((*GROUPS, "other"), 0.0)
    for event in found.key_averages():
        starts = (name for name, names in GROUPS.items() if event.key.startswith(names))
        spent[next(starts, "other")] += event.self_cpu_time_total
    total = sum(spent.values())
    return {
        "milliseconds_per_step": total / 1e3 / updates,
        "shares": {name: value / total for name, value in spent.items()},
    }
