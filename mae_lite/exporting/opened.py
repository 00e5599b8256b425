"""Models as a user would have them after opening an export: called, and looked into after each block.

Shapes: B images, C channels, H side in pixels, T tokens, D width.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

EMBEDDING = "the patch embedding"
_BLOCK = re.compile(r"(?:^|\.)((?:layers\.\d+\.)?blocks\.\d+)(?=\.|$)")
Tap = tuple[nn.Module, Literal["in", "out"]]
"""A module, and whether what enters it is meant or what it returns."""


class Opened(Protocol):
    """A model of any kind."""

    def __call__(self, images: Tensor) -> Tensor:
        """Return the output for normalised float32 images [B, C, H, H]."""
        ...

    def states(self, images: Tensor) -> dict[str, Tensor]:
        """Return the tokens [B, T, D] after the embedding and after each block, in order, by the block's name."""
        ...


class Place(NamedTuple):
    """One operation of a graph."""

    scope: str
    """Name of the module that it belongs to."""
    entering: str | None
    """Name of the first value that it reads; None where that is no value of the graph."""
    leaving: str
    """Name of the value that it makes."""


def block_of(scope: str) -> str | None:
    """Return the block that a module is a part of, e.g. blocks.3 or layers.0.blocks.1; None outside of blocks."""
    found = _BLOCK.search(scope)
    return None if found is None else found[1]


def borders(places: Iterable[Place]) -> dict[str, str]:
    """Return the names of the values that leave the embedding and each block of a graph, its operations in order."""
    found: dict[str, str] = {}
    for place in places:
        block = block_of(place.scope)
        if block is None:
            continue
        if not found and place.entering is not None:
            found[EMBEDDING] = place.entering
        found[block] = place.leaving  # the last operation of a block stays
    return found


class TorchModel:
    """A module, whoever built it."""

    def __init__(self, run: Callable[[Tensor], Tensor], taps: Mapping[str, Tap]) -> None:
        """Keep how to call it and where to look."""
        self._run, self._taps = run, taps

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return the output."""
        return self._run(images)

    @torch.no_grad()
    def states(self, images: Tensor) -> dict[str, Tensor]:
        """Return what passes the taps."""
        seen: dict[str, Tensor] = {}
        handles = [_hooked(name, *tap, seen) for name, tap in self._taps.items()]
        try:
            self._run(images)
        finally:
            for handle in handles:
                handle.remove()
        return {name: seen[name] for name in self._taps if name in seen}


def _hooked(name: str, module: nn.Module, side: Literal["in", "out"], seen: dict[str, Tensor]) -> Any:
    def before(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        seen[name] = inputs[0] if inputs else named["hidden_states"]

    def after(_: nn.Module, __: Any, output: Any) -> None:
        seen[name] = output[0] if isinstance(output, tuple) else output

    if side == "in":
        return module.register_forward_pre_hook(before, with_kwargs=True)
    return module.register_forward_hook(after)


def of_timm(model: Any, run: Callable[[Tensor], Tensor]) -> TorchModel:
    """Return a timm model, with a tap on each of its blocks.

    Args:
        model: has modules called blocks.N or layers.N.blocks.N.
        run: calls it, perhaps from within another module.
    """
    blocks = {name: module for name, module in model.named_modules() if block_of(name) == name}
    taps: dict[str, Tap] = {EMBEDDING: (next(iter(blocks.values())), "in")} if blocks else {}
    return TorchModel(run, taps | {name: (module, "out") for name, module in blocks.items()})
