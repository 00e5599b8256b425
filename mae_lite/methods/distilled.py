"""Distillation inside MAE pre-training: a larger, frozen teacher sees the same visible patches.

*A Closer Look at Self-Supervised Lightweight Vision Transformers*, section 5 (D-MAE), and its journal version
(decoupled: D2-MAE). Further shapes: T = 1 + K tokens, H heads, D width; "s" the student's, "t" the teacher's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mae_lite import config, draws
from mae_lite.methods.base import StepOutput
from mae_lite.methods.mae import MaskedAutoencoder, embed, patchify
from mae_lite.methods.teacher import Taught
from mae_lite.models.taps import attention_logits, full_precision, in_full
from mae_lite.models.vit import init_linear


class ExtraAttention(nn.Module):
    """What decoupled distillation adds after the last block: a first LayerNorm and queries, keys and values."""

    def __init__(self, encoder: config.Encoder) -> None:
        """Build both with the initial values of the encoder's own blocks."""
        super().__init__()
        self.num_heads = encoder.num_heads
        self.norm1 = nn.LayerNorm(encoder.width, eps=1e-6)
        self.qkv = nn.Linear(encoder.width, 3 * encoder.width)
        init_linear(self.qkv, encoder.init)


class Matching(nn.Module):
    """What is learned for the comparison and dropped after it: a map per matched pair, and the extra attention."""

    def __init__(self, encoder: config.Encoder, method: config.DistilledMAE) -> None:
        """Build them; the maps start as torch starts linear layers."""
        super().__init__()
        attention = method.target == "attention"
        inner, outer = (encoder.num_heads, method.teacher_heads) if attention else (encoder.width, method.teacher_width)
        self.maps = nn.ModuleList(nn.Linear(inner, outer, bias=False) for _ in method.pairs(encoder.depth))
        self.extra = None if method.decoupled_at is None else ExtraAttention(encoder)


class DistilledAutoencoder(MaskedAutoencoder, Taught):
    """MAE whose encoder also matches a teacher's attention or tokens."""

    def __init__(self, recipe: config.Recipe, method: config.DistilledMAE) -> None:
        """Build encoder, decoder and maps; the seed of ``recipe`` decides their initial values."""
        super().__init__(recipe, method)
        encoder = recipe.plain_encoder
        depth = encoder.depth
        self.settings, self.pairs = method, method.pairs(depth)
        self.painted_from = depth if method.decoupled_at is None else method.decoupled_at
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(draws.key(recipe.seed, "init matching") >> 1)
            self.matching = Matching(encoder, method)

    def forward(self, images: Tensor, labels: Tensor, draws: Mapping[str, Tensor]) -> StepOutput:
        """Return the sum of MAE's loss and the weighted distillation loss, and both alone as logs."""
        del labels
        order = torch.argsort(draws["noise"], dim=1, stable=True)  # [B, N]
        patches = patchify(images, self.patch_size)
        visible = order[:, : self.kept]
        states = self._states(patches, visible, {self.painted_from, *(student for student, _ in self.pairs)})
        targets = self._targets(patches, visible)
        painting = self.painting_loss(patches, self.encoder.norm(states[self.painted_from]), order)
        errors = [
            (self._student(states, place, number) - target).square().mean()
            for number, ((place, _), target) in enumerate(zip(self.pairs, targets, strict=True))
        ]
        distilling = torch.stack(errors).sum()
        logs = {"loss_mae": painting.detach(), "loss_distill": distilling.detach()}
        return StepOutput(painting + self.settings.weight * distilling, logs)

    def encode(self, patches: Tensor, visible: Tensor) -> Tensor:
        """Return what the decoder paints from, see :meth:`MaskedAutoencoder.encode`; decoupled, of an earlier block."""
        states = self._states(patches, visible, {self.painted_from})
        return self.encoder.norm(states[self.painted_from])  # type: ignore[no-any-return]

    def _states(self, patches: Tensor, visible: Tensor, wanted: Collection[int]) -> dict[int, Tensor]:
        return block_inputs(self.encoder, embed(self.encoder, patches, visible), wanted)

    def _student(self, states: Mapping[int, Tensor], place: int, number: int) -> Tensor:
        """Return the student's side of pair ``number``, mapped: attention [B, Ht, T, T] or tokens [B, T, Dt]."""
        weight = self.matching.maps[number].get_parameter("weight")
        with full_precision(states[place].device):
            if self.settings.target == "hidden":
                tokens = normed(self.encoder, states, place)
                return nn.functional.linear(tokens, weight.to(tokens.dtype))
            extra = self.matching.extra
            logits = (
                attention_logits(self.encoder.blocks[place].norm1, self.encoder.blocks[place].attn, states[place])
                if extra is None
                else attention_logits(extra.norm1, extra, states[place])
            )
            mixed = torch.einsum("oh,bhqk->boqk", weight.to(logits.dtype), logits)
            return mixed.softmax(dim=-1) if self.settings.use_probabilities else mixed

    @torch.no_grad()
    def _targets(self, patches: Tensor, visible: Tensor) -> list[Tensor]:
        """Return the teacher's side of every pair: attention [B, Ht, T, T] or tokens [B, T, Dt]."""
        model: Any = self.known_teacher().model
        places = [place for _, place in self.pairs]
        with self._clock.running(patches.device):
            states = block_inputs(model, embed(model, patches, visible), places)
            with full_precision(patches.device):
                if self.settings.target == "hidden":
                    return [normed(model, states, place) for place in places]
                found = [attention_logits(model.blocks[at].norm1, model.blocks[at].attn, states[at]) for at in places]
                return [logits.softmax(dim=-1) for logits in found] if self.settings.use_probabilities else found


def block_inputs(encoder: Any, tokens: Tensor, wanted: Collection[int]) -> dict[int, Tensor]:
    """Run ``tokens`` [B, T, D] through the blocks, as far as needed.

    Returns:
        [B, T, D] for each number in ``wanted``: what enters that block, or leaves the last one (number depth).
    """
    states, last = {}, max(wanted)
    for number, block in enumerate((*encoder.blocks, None)):
        if number in wanted:
            states[number] = tokens
        if block is None or number == last:
            break
        tokens = block(tokens)
    return states


def normed(encoder: Any, states: Mapping[int, Tensor], place: int) -> Tensor:
    """Return representation ``place`` [B, T, D]: of a block's first LayerNorm, or (number depth) of the final one."""
    norm = encoder.norm if place == len(encoder.blocks) else encoder.blocks[place].norm1
    return norm(in_full(states[place]))  # type: ignore[no-any-return]
