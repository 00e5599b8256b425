"""Distillation inside SimMIM pre-training: a frozen, larger Swin transformer sees the same masked image.

*A Closer Look at Self-Supervised Lightweight Vision Transformers*, journal version, carries D-MAE and D2-MAE over to
Swin-Tiny. What is compared is the attention of the last map, one window, so that every token sees every other: what
the softmax is given, the offsets' biases included, for Swin has no other positions.

Shapes: B images, C channels, H side in pixels, U squares that may be hidden, h side of the last map, T = h² its tokens,
D width there, "Hs" and "Ht" heads of student and teacher.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from timm.models.swin_transformer import WindowAttention
from torch import Tensor, nn

from mae_lite import config, draws
from mae_lite.methods.base import StepOutput
from mae_lite.methods.mask_tokens import project_masked
from mae_lite.methods.simmim import PixelRegression
from mae_lite.methods.teacher import Taught
from mae_lite.models.taps import attention_logits, full_precision
from mae_lite.models.vit import init_linear


class Matching(nn.Module):
    """What is learned for the comparison and dropped after it.

    Decoupled, the extra attention stands behind the encoder's final LayerNorm, which takes the part of its first one,
    and the tokens that are painted from, of another width, have a LayerNorm of their own.
    """

    def __init__(self, encoder: config.Swin, method: config.DistilledSimMIM) -> None:
        """Build the map between heads, which starts as torch starts linear layers, and what decoupling adds."""
        super().__init__()
        self.heads = nn.Linear(encoder.num_heads[-1], method.teacher_heads[-1], bias=False)
        self.extra: WindowAttention | None = None
        self.painting_norm: nn.LayerNorm | None = None
        if method.decoupled_at is not None:
            side = encoder.last_grid
            self.extra = WindowAttention(encoder.last_width, encoder.num_heads[-1], window_size=(side, side))
            del self.extra.proj  # nothing is put out but the logits
            init_linear(self.extra.qkv, "trunc_normal")
            self.painting_norm = nn.LayerNorm(method.painted(encoder)[0], eps=1e-5)  # as timm's Swin has it


class DistilledPixelRegression(PixelRegression, Taught):
    """SimMIM whose encoder also matches a teacher's last attention; the teacher is another SimMIM."""

    def __init__(self, recipe: config.Recipe, method: config.DistilledSimMIM) -> None:
        """Build encoder, mask token, layer and maps; the seed of ``recipe`` decides their initial values."""
        super().__init__(recipe, method)
        encoder = recipe.encoder
        assert isinstance(encoder, config.Swin)  # the recipe has checked it
        self.weight = method.weight
        self.last_block = sum(encoder.depths) - 1
        self.painted_from = self.last_block + 1 if method.decoupled_at is None else method.decoupled_at
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(draws.key(recipe.seed, "init matching") >> 1)
            self.matching = Matching(encoder, method)

    def forward(self, images: Tensor, labels: Tensor, draws: Mapping[str, Tensor]) -> StepOutput:
        """Return the sum of SimMIM's loss and the weighted distillation loss, and both alone as logs."""
        del labels
        hidden = self.hidden(draws)
        mask = self.mask(hidden)
        tokens = project_masked(self.encoder, images, mask, self.painter)
        states = block_inputs(self.encoder, tokens, {self.painted_from, self.last_block, self.last_block + 1})
        painting = self.painting_loss(images, self._painted(states), hidden)
        target = self._target(images, mask)
        with full_precision(images.device):
            weight = self.matching.heads.weight
            mixed = torch.einsum("oh,bhqk->boqk", weight, self._logits(states).to(weight.dtype))
            distilling = (mixed - target).square().mean()
        logs = {"loss_simmim": painting.detach(), "loss_distill": distilling.detach()}
        return StepOutput(painting + self.weight * distilling, logs)

    def _painted(self, states: Mapping[int, Tensor]) -> Tensor:
        """Return what the layer predicts [B, M, s * s * C] from the map it paints from."""
        norm = self.encoder.norm if self.matching.painting_norm is None else self.matching.painting_norm
        return self.painter.pred(norm(states[self.painted_from]).flatten(1, 2))  # type: ignore[no-any-return]

    def _logits(self, states: Mapping[int, Tensor]) -> Tensor:
        """Return the student's logits [B, Hs, T, T]: of the extra attention, or of the last block."""
        if self.matching.extra is None:
            return window_logits(*_last(self.encoder), states[self.last_block])
        return window_logits(self.encoder.norm, self.matching.extra, states[self.last_block + 1])

    @torch.no_grad()
    def _target(self, images: Tensor, mask: Tensor) -> Tensor:
        """Return the logits [B, Ht, T, T] of the teacher's last block, for the image with the same squares hidden."""
        model: Any = self.known_teacher().model
        with self._clock.running(images.device):
            tokens = project_masked(model.encoder, images, mask, model.painter)
            last = sum(len(stage.blocks) for stage in model.encoder.layers) - 1
            states = block_inputs(model.encoder, tokens, {last})
            with full_precision(images.device):
                return window_logits(*_last(model.encoder), states[last])


def _last(encoder: Any) -> tuple[nn.Module, Any]:
    block = encoder.layers[-1].blocks[-1]
    return block.norm1, block.attn


def block_inputs(encoder: Any, tokens: Tensor, wanted: Collection[int]) -> dict[int, Tensor]:
    """Run a map of tokens through the blocks of a Swin transformer, as far as needed.

    Args:
        encoder: timm's.
        tokens: [B, grid, grid, D], what the patch projection puts out.
        wanted: numbers of blocks, counted from 0 through all stages; one more than the last stands for what leaves it.

    Returns:
        [B, h, h, D] for each number in ``wanted``: what enters that block, behind the map between stages.
    """
    states, number, last = dict[int, Tensor](), 0, max(wanted)
    for stage in encoder.layers:
        tokens = stage.downsample(tokens)
        for block in stage.blocks:
            if number in wanted:
                states[number] = tokens
            if number == last:
                return states
            tokens = block(tokens)
            number += 1
    return states | {number: tokens}


def window_logits(norm: nn.Module, attention: Any, tokens: Tensor) -> Tensor:
    """Return what the softmax of a block of one window is given [B, H, T, T], in float32 at least.

    Args:
        norm: the block's first LayerNorm.
        attention: timm's window attention.
        tokens: [B, h, h, D], what enters the block.
    """
    logits = attention_logits(norm, attention, tokens.flatten(1, 2))
    count = logits.shape[-1]
    offsets = attention.relative_position_bias_table[attention.relative_position_index.flatten()]  # [T * T, H]
    found: Tensor = logits + offsets.reshape(count, count, -1).permute(2, 0, 1)
    return found
