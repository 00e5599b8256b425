"""Parameters and arithmetic of a recipe, counted without building it (and without importing torch).

A multiply-add counts as two operations; a training step costs three forward passes, except of what is not trained.
"""

from __future__ import annotations

from typing import assert_never

from mae_lite import config


def encoder_parameters(encoder: config.Encoder) -> int:
    """Return the parameters of the encoder with its position table and without a head."""
    width, values = encoder.width, encoder.channels * encoder.patch_size**2
    projection = width * values + width
    tokens = width + (encoder.patches + 1) * width
    blocks = encoder.depth * (12 * width**2 + 13 * width)
    return projection + tokens + blocks + 2 * width


def forward_gflops(encoder: config.Encoder) -> float:
    """Return the GFLOPs of encoding one image, all patches visible: the cost of using the model."""
    return _encode(encoder, encoder.patches) / 1e9


def step_gflops(recipe: config.Recipe) -> float:
    """Return the GFLOPs of one training step per image."""
    encoder = recipe.encoder
    match recipe.method:
        case config.MAE() as method:
            kept = method.kept(encoder.patches)
            forward = _encode(encoder, kept) + _decode(encoder, method, kept)
        case config.DistilledMAE() as method:
            kept = method.kept(encoder.patches)
            student, teacher = _match(encoder, method, kept)
            forward = _encode(encoder, kept) + _decode(encoder, method, kept) + student + teacher / 3
        case config.FeatureDistillation() as method:
            student, teacher = _match_features(encoder, method)
            forward = _encode(encoder, encoder.patches) + student + teacher / 3
        case config.Supervised():
            forward = _encode(encoder, encoder.patches)
        case config.MoCoV3() as method:
            return _contrast(encoder, method) / 1e9
        case never:
            assert_never(never)
    return 3 * forward / 1e9


def _encode(encoder: config.Encoder, patches: int) -> float:
    return _project(encoder, patches) + _blocks(encoder.depth, patches + 1, encoder.width)


def _project(encoder: config.Encoder, patches: int) -> float:
    return 2 * patches * encoder.channels * encoder.patch_size**2 * encoder.width


def _contrast(encoder: config.Encoder, method: config.MoCoV3) -> float:
    """Count both views: trained once, encoded once more for the keys."""
    hidden, output = method.hidden_width, method.output_width
    projector = 2 * hidden * (encoder.width + hidden + output)
    predictor = 2 * hidden * 2 * output
    keys = _encode(encoder, encoder.patches) + projector
    frozen = _project(encoder, encoder.patches) if method.freeze_patch_projection else 0
    return 2 * (3 * (keys + predictor) - 2 * frozen + keys)


def _match(encoder: config.Encoder, method: config.DistilledMAE, kept: int) -> tuple[float, float]:
    """Return the operations of comparing with the teacher: the student's, and the teacher's as far as it runs."""
    tokens, guide, pairs = kept + 1, method.teacher(encoder), method.pairs(encoder.depth)
    blocks = max(block for _, block in pairs)  # attention is compared before a block is run
    teacher = 2 * kept * encoder.channels * encoder.patch_size**2 * guide.width + _blocks(blocks, tokens, guide.width)
    if method.target == "hidden":
        return len(pairs) * 2.0 * tokens * encoder.width * guide.width, teacher
    heads = 2 * encoder.num_heads * guide.num_heads * tokens**2
    student = len(pairs) * (_logits(tokens, encoder.width) + heads)
    return student, teacher + len(pairs) * _logits(tokens, guide.width)


def _match_features(encoder: config.Encoder, method: config.FeatureDistillation) -> tuple[float, float]:
    """Return the operations of the student's linear map, and of the teacher's forward pass.

    The teacher is taken to have plain blocks, four times as wide inside; gated ones of timm cost about as much.
    """
    guide = method.teacher(encoder)
    blocks = _blocks(guide.depth, guide.patches + method.teacher_prefix_tokens, guide.width)
    return 2.0 * encoder.patches * encoder.width * guide.width, _project(guide, guide.patches) + blocks


def _logits(tokens: int, width: int) -> float:
    return 4 * tokens * width**2 + 2 * tokens**2 * width


def _decode(encoder: config.Encoder, method: config.Masking, kept: int) -> float:
    width, values = method.decoder_width, encoder.channels * encoder.patch_size**2
    maps = 2 * (kept + 1) * encoder.width * width + 2 * (encoder.patches - kept) * width * values
    return maps + _blocks(method.decoder_depth, encoder.patches + 1, width)


def _blocks(depth: int, tokens: int, width: int) -> float:
    return depth * (24 * tokens * width**2 + 4 * tokens**2 * width)
