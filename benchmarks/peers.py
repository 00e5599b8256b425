"""Others' models with our sizes, for the benchmarks that stand them beside ours."""

from __future__ import annotations

import importlib
from typing import Any

from mae_lite import config


def vit_mae(recipe: config.Recipe) -> Any:
    """Return transformers' MAE for pre-training with the sizes of ``recipe``; its initial values are its own."""
    transformers: Any = importlib.import_module("transformers")
    encoder, method = recipe.plain_encoder, recipe.method
    assert isinstance(method, config.MAE)
    settings = transformers.ViTMAEConfig(
        image_size=encoder.image_size,
        patch_size=encoder.patch_size,
        hidden_size=encoder.width,
        num_hidden_layers=encoder.depth,
        num_attention_heads=encoder.num_heads,
        intermediate_size=4 * encoder.width,
        decoder_hidden_size=method.decoder_width,
        decoder_num_hidden_layers=method.decoder_depth,
        decoder_num_attention_heads=method.decoder_heads,
        decoder_intermediate_size=4 * method.decoder_width,
        mask_ratio=method.mask_ratio,
        norm_pix_loss=method.normalize_target,
    )
    return transformers.ViTMAEForPreTraining(settings)
