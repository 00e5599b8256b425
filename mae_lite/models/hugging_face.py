"""Models out to Hugging Face: names and config.json, without the library; and the library as a judge, where it is."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mae_lite import config
from mae_lite.errors import CheckpointError
from mae_lite.models import weights
from mae_lite.models.relative import has_tables

_EPS = 1e-6
_BLOCK = re.compile(r"blocks\.(\d+)\.([\w.]+)\.(weight|bias)")
_PARTS = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
_ENCODER = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
}


def contents(
    tensors: Mapping[str, Tensor],
    encoder: config.Encoder,
    decoder: config.MAE | None,
    source: str,
    classes: Sequence[str] | None = None,
) -> dict[str, bytes]:
    """Return the files of ``ViTMAEForPreTraining``, ``ViTForImageClassification`` or ``ViTModel``.

    Args:
        tensors: by our names; a classification head must have been taken out where there are no ``classes``.
        encoder: their encoder.
        decoder: their decoder, if any.
        source: what to call them in messages.
        classes: names of the outputs of a head on the class token.

    Raises:
        CheckpointError: for what these classes cannot: averaging tokens before the norm, relative positions.
    """
    if has_tables(tensors):
        raise CheckpointError(
            f"{source!r} has relative positions",
            expected="absolute positions alone, as these classes have",
            fix="--to timm, whose BEiT has both",
        )
    if "encoder.norm.weight" not in tensors:
        raise CheckpointError(
            f"{source!r} is a classifier that averages its tokens before the last norm",
            expected="an encoder with a norm of its own: ViTModel has no other",
            fix="--to timm, or convert the pre-trained weights that it came from",
        )
    model = "ViTModel" if decoder is None else "ViTMAEForPreTraining"
    model = model if classes is None else "ViTForImageClassification"
    renamed: dict[str, Tensor] = {}
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        renamed |= _theirs(rest, value, model != "ViTModel") if part == "encoder" else _theirs_decoder(rest, value)
    settings = {"architectures": [model], **_settings(encoder, decoder)}
    if classes is not None:
        settings["id2label"] = {str(number): name for number, name in enumerate(classes)}
        settings["label2id"] = {name: number for number, name in enumerate(classes)}
    return {"config.json": json.dumps(settings, indent=2).encode(), "model.safetensors": weights.to_bytes(renamed)}


def _settings(encoder: config.Encoder, decoder: config.MAE | None) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "model_type": "vit" if decoder is None else "vit_mae",
        "hidden_size": encoder.width,
        "num_hidden_layers": encoder.depth,
        "num_attention_heads": encoder.num_heads,
        "intermediate_size": 4 * encoder.width,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": _EPS,
        "image_size": encoder.image_size,
        "patch_size": encoder.patch_size,
        "num_channels": encoder.channels,
        "qkv_bias": True,
    }
    if decoder is not None:
        settings |= {
            "decoder_hidden_size": decoder.decoder_width,
            "decoder_num_hidden_layers": decoder.decoder_depth,
            "decoder_num_attention_heads": decoder.decoder_heads,
            "decoder_intermediate_size": 4 * decoder.decoder_width,
            "mask_ratio": decoder.mask_ratio,
            "norm_pix_loss": decoder.normalize_target,
        }
    return settings


def _theirs(name: str, value: Tensor, prefixed: bool) -> dict[str, Tensor]:
    start = "vit." if prefixed else ""
    if name.startswith("head."):
        return {f"classifier.{name.removeprefix('head.')}": value}
    if name in _ENCODER:
        return {start + _ENCODER[name]: value}
    return _block(name, value, f"{start}encoder.layer")


def _theirs_decoder(name: str, value: Tensor) -> dict[str, Tensor]:
    if name == "mask_token":
        return {"decoder.mask_token": value}
    if name.startswith("blocks."):
        return _block(name, value, "decoder.decoder_layers")
    return {f"decoder.decoder_{name}": value}


def _block(name: str, value: Tensor, start: str) -> dict[str, Tensor]:
    match = _BLOCK.fullmatch(name)
    if match is None:
        raise CheckpointError(f"{name!r} has no place in a Hugging Face model", fix="--to timm")
    number, part, kind = match.groups()
    if part == "attn.qkv":
        names = [f"{start}.{number}.attention.attention.{word}.{kind}" for word in ("query", "key", "value")]
        return dict(zip(names, value.chunk(3), strict=True))
    return {f"{start}.{number}.{_PARTS[part]}.{kind}": value}


def installed() -> bool:
    """Whether ``transformers`` can be imported."""
    return importlib.util.find_spec("transformers") is not None


def quiet_library() -> Any:
    """Return ``transformers``, told not to print progress bars and advice."""
    import transformers

    library: Any = transformers
    library.utils.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()
    return library


@torch.no_grad()
def tokens(named: Mapping[str, Tensor], settings: Mapping[str, Any], images: Tensor) -> Tensor:
    """Return the encoder's tokens [B, 1 + N, D] as ``transformers`` computes them.

    Args:
        named: tensors by their names in the file, whichever class wrote it.
        settings: the content of ``config.json``.
        images: [B, C, H, H].
    """
    library = quiet_library()
    wanted = {name: value for name, value in named.items() if not name.startswith(("decoder.", "classifier."))}
    own = {name: value for name, value in settings.items() if name not in ("architectures", "torch_dtype", "dtype")}
    result: Tensor
    if settings.get("model_type") == "vit_mae":
        chosen = library.ViTMAEConfig(**{**own, "mask_ratio": 0.0})
        model = library.ViTMAEModel.from_pretrained(None, config=chosen, state_dict=wanted).eval()
        order = torch.arange((images.shape[-1] // chosen.patch_size) ** 2, dtype=torch.float32)
        result = model(images, noise=order.expand(len(images), -1)).last_hidden_state
        return result
    chosen = library.ViTConfig(**own)
    model = library.ViTModel.from_pretrained(None, config=chosen, state_dict=wanted, add_pooling_layer=False)
    result = model.eval()(images).last_hidden_state
    return result


def preprocessor(encoder: config.Encoder, preparation: Mapping[str, Any]) -> bytes:
    """Return ``preprocessor_config.json``; ``mean`` and ``std`` of ``preparation`` have a value per channel."""
    side = {"height": encoder.image_size, "width": encoder.image_size}
    settings = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": side,
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": preparation["mean"],
        "image_std": preparation["std"],
    }
    return json.dumps(settings, indent=2).encode()
