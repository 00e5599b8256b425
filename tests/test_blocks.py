"""Blocks that remember less and do less: they compute what timm's blocks compute."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func  # type: ignore[import-untyped]
from timm.models.vision_transformer import Block
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch.utils.flop_counter import FlopCounterMode

from mae_lite.methods.mae import patchify, unpatchify
from mae_lite.models.blocks import run_block_for, run_blocks, take


def blocks(depth: int = 2, **settings: Any) -> Any:
    """Return timm's blocks with random weights and biases, 24 wide, 4 heads."""
    torch.manual_seed(0)
    made = torch.nn.Sequential(*(Block(24, 4, qkv_bias=True, **settings) for _ in range(depth)))
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made.double()


def tokens(batch: int = 3, count: int = 7) -> Tensor:
    """Return tokens that want a gradient."""
    return torch.randn(batch, count, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def outcome(model: Any, found: Tensor, given: Tensor) -> list[Tensor]:
    """Return a result and the gradients of its weighted sum."""
    weights = torch.linspace(-1, 1, found.numel(), dtype=found.dtype).reshape(found.shape)
    return [found, *torch.autograd.grad((found * weights).sum(), [given, *model.parameters()])]


@pytest.mark.parametrize("settings", [{}, {"drop_path": 0.5}, {"proj_drop": 0.3}, {"init_values": 0.1}])
def test_blocks_compute_the_same_bits(settings: dict[str, Any]) -> None:
    model, given = blocks(**settings), tokens().requires_grad_()
    torch.manual_seed(5)
    expected = outcome(model, model(given), given)
    torch.manual_seed(5)
    found = outcome(model, run_blocks(model, given), given)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("count", "fused"), [(7, False), (120, True)])
def test_compiled_attention_of_few_tokens_is_matrix_products(count: int, fused: bool) -> None:
    model, given = blocks(), tokens(count=count).requires_grad_()
    seen: set[str] = set()

    def note(graph: Any, _: Any) -> Any:
        seen.update(str(node.target) for node in graph.graph.nodes)
        return make_boxed_func(graph.forward)

    backend = aot_autograd(fw_compiler=note)
    found = outcome(model, torch.compile(run_blocks, backend=backend, dynamic=False)(model, given), given)
    for one, other in zip(found, outcome(model, model(given), given), strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-9)
    assert any("flash_attention" in name for name in seen) == fused


def test_blocks_remember_less_and_multiply_no_more() -> None:
    model, sizes, operations = blocks(), [], []
    for run in (model, lambda given: run_blocks(model, given)):
        kept: dict[int, int] = {}

        def note(tensor: Tensor, kept: dict[int, int] = kept) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        given = tokens().requires_grad_()
        with FlopCounterMode(display=False) as counter:
            with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
                found = run(given)
            found.sum().backward()
        sizes.append(sum(kept.values()))
        operations.append(counter.get_total_flops())
    assert sizes[0] - sizes[1] >= 2 * tokens().numel() * 4 * 8  # what the GELUs of two blocks put out
    assert operations[0] == operations[1]


def test_a_block_for_some_tokens() -> None:
    model, given = blocks(1), tokens().requires_grad_()
    rows = torch.tensor([[3, 1], [0, 6], [2, 5]])
    expected = outcome(model, torch.gather(model(given), 1, rows.unsqueeze(-1).expand(-1, -1, 24)), given)
    for one, other in zip(outcome(model, run_block_for(model[0], given, rows), given), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_take_is_a_gather() -> None:
    values = torch.arange(2 * 5 * 3.0).reshape(2, 5, 3)
    rows = torch.tensor([[4, 0, 4], [1, 2, 3]])
    assert torch.equal(take(values, rows), torch.gather(values, 1, rows.unsqueeze(-1).expand(-1, -1, 3)))
    part, some = values[:, 1:], rows.clamp(max=3)
    assert torch.equal(take(part, some)[1], part[1][some[1]])


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_patches_go_there_and_back(channels: int) -> None:
    images = torch.arange(2 * channels * 8 * 8.0).reshape(2, channels, 8, 8)
    patches = patchify(images, 4)
    assert patches.shape == (2, 4, 16 * channels)
    assert torch.equal(patches[1, 2].reshape(4, 4, channels), images[1, :, 4:, :4].permute(1, 2, 0))
    assert torch.equal(unpatchify(patches, 4, channels), images)
