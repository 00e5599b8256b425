"""Models out: a folder that ``timm.create_model("local-dir:FOLDER", pretrained=True)`` loads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from mae_lite import config
from mae_lite.models import relative, weights
from mae_lite.models.encoders import timm_arguments


def contents(
    model: nn.Module, recipe: config.Recipe, classes: Sequence[str] | None, *, pooling: str = "token"
) -> dict[str, bytes]:
    """Return the files of a timm folder: ``config.json`` and ``model.safetensors``.

    Args:
        model: a timm Vision Transformer or Swin transformer, with a head when ``classes`` is given.
        recipe: says how the model was built and how its input is prepared.
        classes: names of the head's outputs, or None for an encoder without a head.
        pooling: timm's name of the pooling, "token" or "avg"; Swin always averages.
    """
    augmentation = recipe.augmentation
    preparation = {"mean": augmentation.mean, "std": augmentation.std, "crop_pct": augmentation.eval_crop}
    return described(model, recipe.encoder, preparation, classes, len(classes or ()), pooling)


def described(
    model: nn.Module,
    encoder: config.Encoder | config.Swin,
    preparation: Mapping[str, Any],
    classes: Sequence[str] | None,
    outputs: int,
    pooling: str,
) -> dict[str, bytes]:
    """Return the files of a timm folder for a model of any origin.

    Args:
        model: a timm Vision Transformer or Swin transformer; one with relative positions becomes timm's BEiT.
        encoder: how it was built.
        preparation: of its input: ``mean`` and ``std`` per channel, ``crop_pct``.
        classes: names of the head's outputs, where they are known.
        outputs: of the head; 0 when there is none.
        pooling: timm's name of the pooling, "token" or "avg"; Swin always averages.
    """
    plain = isinstance(encoder, config.Encoder)
    head: dict[str, Any] = {"num_classes": outputs, "global_pool": pooling if plain else "avg"}
    name, arguments, state = encoder.name, timm_arguments(encoder), model.state_dict()
    if relative.has_tables(state):
        name, arguments, state = relative.BEIT, arguments | relative.BEIT_ARGUMENTS, relative.as_beit(state)
    settings = {
        "architecture": name,
        **head,
        # Without num_classes: timm takes the one above, and transformers passes both on, which is one too many.
        "model_args": {**arguments, "global_pool": head["global_pool"], "drop_path_rate": 0.0},
        "pretrained_cfg": {
            "input_size": [encoder.channels, encoder.image_size, encoder.image_size],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": preparation["crop_pct"],
            "mean": list(preparation["mean"]),
            "std": list(preparation["std"]),
            "num_classes": head["num_classes"],
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head" if plain else "head.fc",
        },
    }
    if classes is not None:
        settings["label_names"] = list(classes)
    return {
        "config.json": json.dumps(settings, indent=2).encode(),
        "model.safetensors": weights.to_bytes(state),
    }
