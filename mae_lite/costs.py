"""Parameters and arithmetic of a recipe, counted without building it (and without importing torch).

A multiply-add counts as two operations; a training step costs three forward passes, except of what is not trained.
Left out are element-wise operations, histograms of oriented gradients among them.
"""

from __future__ import annotations

import math
from typing import assert_never

from mae_lite import config


def encoder_parameters(encoder: config.Encoder | config.Swin) -> int:
    """Return the parameters of the encoder with its position tables and without a head."""
    if isinstance(encoder, config.Swin):
        return _swin_parameters(encoder)
    width, values = encoder.width, encoder.channels * encoder.patch_size**2
    projection = width * values + width
    tokens = width + (encoder.patches + 1) * width
    blocks = encoder.depth * (12 * width**2 + 13 * width)
    return projection + tokens + blocks + 2 * width


def model_parameters(recipe: config.Recipe) -> int:
    """Return the parameters of what is used: the encoder, with relative positions where the recipe has them."""
    count, method = encoder_parameters(recipe.encoder), recipe.method
    if isinstance(method, config.Supervised) and method.relative_positions:
        encoder = recipe.plain_encoder
        count += encoder.depth * encoder.num_heads * ((2 * encoder.grid - 1) ** 2 + 3)
    return count


def forward_gflops(encoder: config.Encoder | config.Swin) -> float:
    """Return the GFLOPs of encoding one image, all patches visible: the cost of using the model."""
    return _encode_all(encoder) / 1e9


def step_gflops(recipe: config.Recipe) -> float:
    """Return the GFLOPs of one training step per image."""
    match recipe.method:
        case config.MAE() | config.HOGAutoencoder() as method:
            encoder = recipe.plain_encoder
            kept = method.kept(encoder.patches)
            forward = _encode(encoder, kept) + _decode(encoder, method, kept)
        case config.DistilledMAE() as method:
            encoder = recipe.plain_encoder
            kept = method.kept(encoder.patches)
            student, teacher = _match(encoder, method, kept)
            forward = _encode(encoder, kept) + _decode(encoder, method, kept) + student + teacher / 3
        case config.MaskFeat():
            encoder = recipe.plain_encoder
            forward = _encode_all(encoder) + 2 * encoder.patches * encoder.width * config.hog_values(encoder)
        case config.SimMIM() as method:
            forward = _encode_all(recipe.encoder) + _paint(recipe.encoder, method)
        case config.DistilledSimMIM() as method:
            assert isinstance(recipe.encoder, config.Swin)  # the recipe has checked it
            student, teacher = _match_last_map(recipe.encoder, method)
            forward = _encode_all(recipe.encoder) + _paint(recipe.encoder, method) + student + teacher / 3
        case config.FeatureDistillation() as method:
            encoder = recipe.plain_encoder
            student, teacher = _match_features(encoder, method)
            forward = _encode(encoder, encoder.patches) + student + teacher / 3
        case config.Supervised():
            forward = _encode_all(recipe.encoder)
        case config.MoCoV3() as method:
            return _contrast(recipe.plain_encoder, method) / 1e9
        case config.DINO() as method:
            return _distil_itself(recipe.plain_encoder, method, recipe.augmentation) / 1e9
        case never:
            assert_never(never)
    return 3 * forward / 1e9


def _encode_all(encoder: config.Encoder | config.Swin) -> float:
    if isinstance(encoder, config.Swin):
        return _encode_swin(encoder)
    return _encode(encoder, encoder.patches)


def _swin_parameters(encoder: config.Swin) -> int:
    """Count the projection and its norm, the blocks with their tables of positions, the maps between stages, a norm."""
    total = encoder.width * (encoder.channels * encoder.patch_size**2 + 3) + 2 * encoder.last_width
    for stage, (depth, heads) in enumerate(zip(encoder.depths, encoder.num_heads, strict=True)):
        width, window = encoder.width << stage, min(encoder.window_size, encoder.grid >> stage)
        total += depth * (12 * width**2 + 13 * width + (2 * window - 1) ** 2 * heads)
        total += (2 * width**2 + 4 * width) * (stage > 0)  # four neighbours of half the width, normalised, become one
    return total


def _encode_swin(encoder: config.Swin) -> float:
    """Count all stages; attention works on maps that are filled up to whole windows."""
    total = 2.0 * encoder.patches * encoder.channels * encoder.patch_size**2 * encoder.width
    for stage, depth in enumerate(encoder.depths):
        width, side = encoder.width << stage, encoder.grid >> stage
        window = min(encoder.window_size, side)
        seen = (math.ceil(side / window) * window) ** 2
        total += depth * (8 * seen * width**2 + 4 * seen * window**2 * width + 16 * side**2 * width**2)
        total += 4 * side**2 * width**2 * (stage > 0)
    return total


def _paint(encoder: config.Encoder | config.Swin, method: config.Squares) -> float:
    """Count the one layer that paints a square of pixels for each token of a map."""
    return 2 * encoder.image_size**2 * method.painted(encoder)[0] * encoder.channels


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


def _distil_itself(encoder: config.Encoder, method: config.DINO, augmentation: config.Augmentation) -> float:
    """Count all views through the student, trained, and those of full size through the teacher."""
    hidden, bottleneck = method.hidden_width, method.bottleneck_width
    head = 2 * (hidden * (encoder.width + hidden + bottleneck) + bottleneck * method.prototypes)
    full = augmentation.views * (_encode(encoder, encoder.patches) + head)
    if augmentation.local_views is None or augmentation.local_size is None:
        return 4 * full
    patches = (augmentation.local_size // encoder.patch_size) ** 2
    return 4 * full + 3 * augmentation.local_views * (_encode(encoder, patches) + head)


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


def _match_last_map(encoder: config.Swin, method: config.DistilledSimMIM) -> tuple[float, float]:
    """Return the operations of comparing the last attention: the student's, and the teacher's, but its last block."""
    guide, tokens = method.teacher(encoder), encoder.last_grid**2
    width = guide.last_width
    unused = 24 * tokens * width**2 + 4 * tokens**2 * width
    heads = 2 * encoder.num_heads[-1] * guide.num_heads[-1] * tokens**2
    return _logits(tokens, encoder.last_width) + heads, _encode_swin(guide) - unused + _logits(tokens, width)


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
    """Count the decoder, whose last block makes queries and all that follows for hidden patches only."""
    width, tokens, hidden = method.decoder_width, encoder.patches + 1, encoder.patches - kept
    maps = 2 * (kept + 1) * encoder.width * width + 2 * hidden * width * method.values(encoder)
    last = 4 * tokens * width**2 + 20 * hidden * width**2 + 4 * hidden * tokens * width
    return maps + _blocks(method.decoder_depth - 1, tokens, width) + last


def _blocks(depth: int, tokens: int, width: int) -> float:
    return depth * (24 * tokens * width**2 + 4 * tokens**2 * width)
