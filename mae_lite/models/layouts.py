"""The names that other libraries give to the tensors of a Vision Transformer, one row of a table each.

A layout says by which names it is known, how they become ours (``encoder.`` and ``decoder.``, otherwise timm's), and
which may be left out. A name that no rule knows is an error: nothing is loaded by half.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from mae_lite.errors import CheckpointError
from mae_lite.models.fusing import fused
from mae_lite.models.relative import TABLE

Rules = tuple[tuple[str, str], ...]
_WRAPPERS = ("module.", "_orig_mod.", "model.")


@dataclass(frozen=True)
class Layout:
    """How one library names its tensors."""

    name: str
    signs: tuple[str, ...]
    """Patterns; each must match the whole of some name."""
    renames: Rules
    """Pairs of a pattern for a whole name and what it becomes; the first that matches counts."""
    dropped: tuple[str, ...] = ()
    """Patterns of names that belong to training or to another task."""


@dataclass(frozen=True)
class Recognised:
    """Tensors by our names, and how they came to be."""

    layout: str
    tensors: dict[str, Tensor]
    """As our models take them."""
    renamed: dict[str, Tensor]
    """By our names, before anything was merged; what the source itself computed with."""
    dropped: tuple[str, ...]
    """Names in the source that were left out."""
    notes: tuple[str, ...]
    """What was merged, in words."""


def _below(prefix: str, rules: Rules) -> Rules:
    return tuple((prefix + pattern, name) for pattern, name in rules)


_WB = r"(?:weight|bias)"
_BLOCK = rf"blocks\.\d+\.(?:(?:norm[12]|attn\.(?:qkv|proj)|mlp\.fc[12])\.{_WB}|attn\.[qv]_bias|ls[12]\.gamma)"
_TIMM: Rules = (
    (rf"(cls_token|pos_embed|patch_embed\.proj\.{_WB}|{_BLOCK}|(?:norm|fc_norm|head)\.{_WB})", r"encoder.\1"),
    (r"blocks\.(\d+)\.gamma_([12])", r"encoder.blocks.\1.ls\2.gamma"),
    (r"blocks\.(\d+)\.attn\.(?:relative\.)?relative_position_bias_table", rf"encoder.blocks.\1.{TABLE}"),
)
_SWIN: Rules = (
    (rf"(patch_embed\.(?:proj|norm)\.{_WB}|norm\.{_WB})", r"encoder.\1"),
    (rf"(layers\.\d+\.{_BLOCK}|layers\.\d+\.downsample\.(?:norm|reduction)\.{_WB})", r"encoder.\1"),
    (r"(layers\.\d+\.blocks\.\d+\.attn\.relative_position_bias_table)", r"encoder.\1"),
    (rf"(head\.fc\.{_WB})", r"encoder.\1"),
)
_DECODER: Rules = (
    (r"(mask_token)", r"decoder.\1"),
    (rf"decoder_(pos_embed|(?:embed|norm|pred)\.{_WB}|{_BLOCK})", r"decoder.\1"),
)


def _hugging_face(block: str, ours: str) -> Rules:
    """Return the rules of a block, for the names of transformers 4 (and its files) and 5."""
    names = {
        r"attention\.(?:output\.dense|o_proj)": "attn.proj",
        r"layernorm_before": "norm1",
        r"layernorm_after": "norm2",
        r"(?:intermediate\.dense|mlp\.fc1)": "mlp.fc1",
        r"(?:output\.dense|mlp\.fc2)": "mlp.fc2",
    }
    parts = tuple((rf"{block}\.{theirs}\.({_WB})", rf"{ours}.blocks.\1.{name}.\2") for theirs, name in names.items())
    split = r"attention\.(?:attention\.)?([qkv])(?:uery|ey|alue|_proj)"
    return ((rf"{block}\.{split}\.({_WB})", rf"{ours}.blocks.\1.attn.\2.\3"), *parts)


def _mmpretrain(block: str, ours: str) -> Rules:
    names = {
        r"ln([12])": r"norm\2.\3",
        r"attn\.(qkv|proj)": r"attn.\2.\3",
        r"ffn\.layers\.(0)\.0": r"mlp.fc1.\3",
        r"ffn\.layers\.(1)": r"mlp.fc2.\3",
    }
    rules = tuple((rf"{block}\.{theirs}\.({_WB})", rf"{ours}.blocks.\1.{name}") for theirs, name in names.items())
    return (*rules, (rf"{block}\.gamma([12])\.weight", rf"{ours}.blocks.\1.ls\2.gamma"))


_HUGGING_FACE: Rules = (
    (r"embeddings\.(cls_token)", r"encoder.\1"),
    (r"embeddings\.position_embeddings", "encoder.pos_embed"),
    (rf"embeddings\.patch_embeddings\.projection\.({_WB})", r"encoder.patch_embed.proj.\1"),
    (rf"layernorm\.({_WB})", r"encoder.norm.\1"),
    *_hugging_face(r"(?:encoder\.layer|layers)\.(\d+)", "encoder"),
)
_HUGGING_FACE_DECODER: Rules = (
    (r"decoder\.(mask_token)", r"decoder.\1"),
    (rf"decoder\.decoder_(pos_embed|(?:embed|norm|pred)\.{_WB})", r"decoder.\1"),
    *_hugging_face(r"decoder\.decoder_(?:layers|encoder\.layer)\.(\d+)", "decoder"),
)
_MMPRETRAIN: Rules = (
    (r"backbone\.(cls_token|pos_embed)", r"encoder.\1"),
    (rf"backbone\.patch_embed\.projection\.({_WB})", r"encoder.patch_embed.proj.\1"),
    (rf"backbone\.(?:ln1|norm1)\.({_WB})", r"encoder.norm.\1"),
    (rf"backbone\.(?:ln2|norm2)\.({_WB})", r"encoder.fc_norm.\1"),
    (rf"head\.(?:fc|layers\.head)\.({_WB})", r"encoder.head.\1"),
    *_mmpretrain(r"backbone\.layers\.(\d+)", "encoder"),
    (r"neck\.(mask_token)", r"decoder.\1"),
    (rf"neck\.decoder_(pos_embed|(?:embed|norm|pred)\.{_WB})", r"decoder.\1"),
    (rf"neck\.ln1\.({_WB})", r"decoder.norm.\1"),
    *_mmpretrain(r"neck\.decoder_blocks\.(\d+)", "decoder"),
)
_TORCHVISION_LAYER = r"encoder\.layers\.encoder_layer_(\d+)"
_TORCHVISION: Rules = (
    (r"class_token", "encoder.cls_token"),
    (r"encoder\.pos_embedding", "encoder.pos_embed"),
    (rf"conv_proj\.({_WB})", r"encoder.patch_embed.proj.\1"),
    (rf"encoder\.ln\.({_WB})", r"encoder.norm.\1"),
    (rf"heads\.head\.({_WB})", r"encoder.head.\1"),
    (rf"{_TORCHVISION_LAYER}\.ln_([12])\.({_WB})", r"encoder.blocks.\1.norm\2.\3"),
    (rf"{_TORCHVISION_LAYER}\.self_attention\.in_proj_({_WB})", r"encoder.blocks.\1.attn.qkv.\2"),
    (rf"{_TORCHVISION_LAYER}\.self_attention\.out_proj\.({_WB})", r"encoder.blocks.\1.attn.proj.\2"),
    (rf"{_TORCHVISION_LAYER}\.mlp\.(?:0|linear_1)\.({_WB})", r"encoder.blocks.\1.mlp.fc1.\2"),
    (rf"{_TORCHVISION_LAYER}\.mlp\.(?:3|linear_2)\.({_WB})", r"encoder.blocks.\1.mlp.fc2.\2"),
)
_OURS: Rules = (
    *_below(r"encoder\.", _TIMM),
    (rf"(decoder\.(?:mask_token|pos_embed|(?:embed|norm|pred)\.{_WB}|{_BLOCK}))", r"\1"),
)
_TRAINING = (
    r"(?:classifier|projector|predictor|online_classifier|projection_head|prediction_head|student_head|criterion)\..*",
    r"(?:momentum_|teacher_)\w+\..*",
    r"\w+_momentum\..*",
    r"queue(?:_\w+)?",
    r"backbone\.(?:mask_token|head\..*)",
)

LAYOUTS = (
    Layout("mae_lite", (r"encoder\.cls_token", r"encoder\.blocks\..*"), _OURS),
    Layout(
        "MoCo-v3",
        (r"base_encoder\.(?:model\.)?cls_token",),
        _below(r"base_encoder\.(?:model\.)?", _TIMM + _DECODER),
        (r"momentum_encoder\..*", r"predictor\..*", r"base_encoder\.(?:model\.)?head\..*"),
    ),
    Layout(
        "MoCo-v3, momentum encoder only",
        (r"momentum_encoder\.cls_token",),
        _below(r"momentum_encoder\.", _TIMM),
        (r"predictor\..*", r"momentum_encoder\.head\..*"),
    ),
    Layout("MAE or MAE-lite with a decoder", (r"cls_token", r"decoder_embed\.weight"), _TIMM + _DECODER),
    Layout("timm, DeiT or MAE encoder", (r"cls_token", r"blocks\..*"), _TIMM + _DECODER),
    Layout(
        "Hugging Face ViTMAE",
        (r"vit\.embeddings\.cls_token", r"decoder\.decoder_embed\.weight"),
        _below(r"vit\.", _HUGGING_FACE) + _HUGGING_FACE_DECODER,
    ),
    Layout(
        "Hugging Face ViT",
        (r"(?:vit\.)?embeddings\.cls_token", r"(?:vit\.)?embeddings\.position_embeddings"),
        (*_below(r"(?:vit\.)?", _HUGGING_FACE), (rf"classifier\.({_WB})", r"encoder.head.\1")),
        (r"(?:vit\.)?pooler\..*", r"(?:vit\.)?embeddings\.mask_token"),
    ),
    Layout(
        "LightlySSL",
        (r"(?:student_)?backbone\.vit\.cls_token",),
        _below(r"(?:student_)?backbone\.vit\.", _TIMM) + _below(r"decoder\.", _DECODER),
        (*_TRAINING, r"(?:student_)?backbone\.(?:mask_token|vit\.head\..*)"),
    ),
    Layout(
        "mmpretrain",
        (r"backbone\.cls_token", r"backbone\.layers\..*"),
        _MMPRETRAIN,
        (r"data_preprocessor\..*", r"head\..*"),
    ),
    Layout(
        "solo-learn",
        (r"backbone\.cls_token", r"backbone\.blocks\..*"),
        _below(r"backbone\.", _TIMM) + _below(r"decoder\.", _DECODER),
        _TRAINING,
    ),
    Layout(
        "timm Swin",
        (r"patch_embed\.norm\.weight", r"layers\.\d+\.blocks\..*relative_position_bias_table"),
        _SWIN,
        (r"layers\..*\.(?:relative_position_index|attn_mask)",),
    ),
    Layout("torchvision", (r"class_token", r"conv_proj\.weight", r"encoder\.pos_embedding"), _TORCHVISION),
)
_BEYOND = {
    r"dist_token|distillation_token": "a distillation token",
    r"reg_token|register_token": "register tokens",
    r"relative_position|rel_pos": "relative positions",
    r"norm_pre|[qk]_norm|norm_[qk]": "additional norms",
    r"mlp\.w(?:12|[123])\b|fc1_g": "gated layers",
}


def recognise(tensors: Mapping[str, Tensor], source: str, prefix: str = "") -> Recognised:
    """Map tensors of any known layout to our names.

    Args:
        tensors: by the names of the library that wrote them.
        source: what to call them in messages.
        prefix: take only names that begin with this, without it.

    Raises:
        CheckpointError: when the layout is unknown, or names are left over.
    """
    names = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    outside = tuple(name for name in tensors if not name.startswith(prefix))
    names = unwrapped(names)
    layout = next((row for row in LAYOUTS if all(_any(sign, names) for sign in row.signs)), None)
    if layout is None:
        known = ", ".join(row.name for row in LAYOUTS)
        raise CheckpointError(
            f"{source!r} has no known layout",
            found=f"{len(names)} names such as {_first(names or tensors)}",
            expected=f"a Vision Transformer of {known}",
            fix="give another file, or --prefix NAME. of the part that is the Vision Transformer",
        )
    renamed: dict[str, Tensor] = {}
    dropped, unknown = list(outside), list[str]()
    for name, value in names.items():
        ours = _renamed(name, layout.renames)
        if ours is None:
            (dropped if any(re.fullmatch(pattern, name) for pattern in layout.dropped) else unknown).append(name)
        elif ours in renamed:
            unknown.append(name)
        else:
            renamed[ours] = value
    if unknown:
        raise _left_over(source, layout, unknown)
    if not any(name.startswith("decoder.blocks.") for name in renamed):
        dropped += [name for name in names if (_renamed(name, layout.renames) or "").startswith("decoder.")]
        renamed = {name: value for name, value in renamed.items() if not name.startswith("decoder.")}
    merged, notes = fused(renamed, source)
    return Recognised(layout.name, merged, renamed, tuple(sorted(dropped)), notes)


def unwrapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove prefixes that data parallelism, compilation or a training module put before every name."""
    names = dict(tensors)
    for _ in range(4):
        prefix = next((p for p in _WRAPPERS if names and all(name.startswith(p) for name in names)), None)
        if prefix is None:
            break
        names = {name.removeprefix(prefix): value for name, value in names.items()}
    return names


def _any(pattern: str, names: Iterable[str]) -> bool:
    return any(re.fullmatch(pattern, name) for name in names)


def _renamed(name: str, rules: Rules) -> str | None:
    for pattern, ours in rules:
        if match := re.fullmatch(pattern, name):
            return match.expand(ours)
    return None


def _left_over(source: str, layout: Layout, unknown: list[str]) -> CheckpointError:
    beyond = [what for pattern, what in _BEYOND.items() if any(re.search(pattern, name) for name in unknown)]
    parts = f"; it has {' and '.join(beyond)}, which the models here lack" if beyond else ""
    return CheckpointError(
        f"{source!r} looks like {layout.name}, but {len(unknown)} of its names are unknown",
        found=f"{_first(unknown)}{parts}",
        expected="a plain Vision Transformer",
        fix="give another checkpoint, or --prefix NAME. of the part that is one",
    )


def _first(names: Iterable[str]) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - 5} more" if len(listed) > 5 else ""
    return ", ".join(name[:80] for name in listed[:5]) + more
