"""Finds the first module that makes numbers which are not finite, on the way forward or back."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

_FUNCTION = re.compile(r"Function '(\w+)' returned nan values")


@dataclass(frozen=True)
class First:
    """Where numbers stop being finite."""

    module: str
    kind: str
    """The module's class."""
    way: str
    """forward, or backward: then the gradient of what enters the module."""
    lowest: float
    """The range of what enters the module, without what is not finite; on the way back, of its gradient's source."""
    highest: float
    entered: bool
    """Whether what enters is finite: if not, it was spoiled between this module and the one before it."""
    rows: tuple[int, ...] | None
    """Samples of the micro-batch whose part of the numbers is not finite; None where that cannot be told."""


@dataclass
class Watch:
    """What was seen while watching."""

    batch: int
    """Samples of the micro-batch."""
    first: First | None = None
    function: str | None = None
    """Autograd's function that returned NaN, where it did."""
    _handles: list[Any] = field(default_factory=list)

    @contextmanager
    def over(self, model: nn.Module) -> Iterator[Watch]:
        """Watch every module of ``model`` inside the block."""
        for name, module in model.named_modules():
            self._handles.append(module.register_forward_hook(self._forward(name or type(module).__name__)))
        try:
            yield self
        finally:
            for handle in self._handles:
                handle.remove()

    def backward(self, go: Callable[[], None]) -> None:
        """Carry out ``go``, a backward pass, and note which function made NaN, if one did."""
        try:
            with warnings.catch_warnings(), torch.autograd.set_detect_anomaly(True):
                warnings.simplefilter("ignore")  # the traceback of the library's own code
                go()
        except RuntimeError as error:
            found = _FUNCTION.search(str(error))
            if found is None:
                raise
            self.function = found[1]

    def _forward(self, name: str) -> Callable[..., None]:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            for value in _tensors(output):
                if self.first is None and not _finite(value):
                    self.first = self._described(name, module, "forward", inputs, value)
            for value in _tensors(inputs):
                if value.requires_grad:
                    look_back = self._backward(name, module, value.detach())
                    self._handles.append(value.register_hook(look_back))  # type: ignore[no-untyped-call]

        return look

    def _backward(self, name: str, module: nn.Module, entered: Tensor) -> Callable[[Tensor], None]:
        def look(gradient: Tensor) -> None:
            if self.first is None and not _finite(gradient):
                self.first = self._described(name, module, "backward", entered, gradient)

        return look

    def _described(self, name: str, module: nn.Module, way: str, inputs: Any, broken: Tensor) -> First:
        values = [value.detach().float() for value in _tensors(inputs)]
        whole = [value[value.isfinite()] for value in values]
        every = torch.cat([value.flatten() for value in whole] or [torch.zeros(0)])
        low, high = (every.min().item(), every.max().item()) if len(every) else (float("nan"), float("nan"))
        rows = None
        if broken.ndim and broken.shape[0] == self.batch:
            rows = tuple((~broken.detach().isfinite()).reshape(self.batch, -1).any(dim=1).nonzero().flatten().tolist())
        return First(name, type(module).__name__, way, low, high, all(map(_finite, values)), rows)


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of floats in nested tuples, lists and mappings."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _finite(value: Tensor) -> bool:
    return bool(value.isfinite().all())
