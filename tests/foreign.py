"""Checkpoints as other libraries write them, with random weights: the names are theirs, written out by hand.

Everything starts from a Vision Transformer of width 32, 2 blocks, 4 x 4 patches of 4 x 4 pixels and 2 heads, by our
names; ``torch.equal`` after a conversion then judges the renaming.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mae_lite import config
from mae_lite.methods.mae import Decoder
from mae_lite.models.vit import build_encoder

Tensors = dict[str, Tensor]
ENCODER = config.Encoder(image_size=16, patch_size=4, width=32, depth=2, num_heads=2)
DECODER = config.MAE(decoder_width=16, decoder_depth=1, decoder_heads=2)
_PAIRS = ("weight", "bias")


def randomised(module: torch.nn.Module) -> Tensors:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(value.shape, generator=generator) * 0.2 for name, value in module.state_dict().items()}


def encoder() -> Tensors:
    return randomised(build_encoder(ENCODER, seed=0))


def decoder() -> Tensors:
    return randomised(Decoder(ENCODER, DECODER))


def ours(*, with_decoder: bool = False) -> Tensors:
    found = {f"encoder.{name}": value for name, value in encoder().items()}
    return found | ({f"decoder.{name}": value for name, value in decoder().items()} if with_decoder else {})


def below(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + name: value for name, value in tensors.items()}


def timm() -> Tensors:
    return encoder()


def mae() -> Tensors:
    """Return the original MAE's full checkpoint, as its visualisation files are too."""
    found = {name if name == "mask_token" else f"decoder_{name}": value for name, value in decoder().items()}
    return encoder() | found


def public() -> Tensors:
    return below("module.model.", mae())


def public_base_encoder() -> Tensors:
    return below("module.base_encoder.", mae())


def beit_style() -> Tensors:
    """Return biases of q and v alone, and layer scale, as in BEiT's code."""
    found = encoder()
    for block in range(ENCODER.depth):
        bias = found.pop(f"blocks.{block}.attn.qkv.bias")
        found[f"blocks.{block}.attn.q_bias"], found[f"blocks.{block}.attn.v_bias"] = bias[:32], bias[64:]
        for number in (1, 2):
            found[f"blocks.{block}.gamma_{number}"] = torch.rand(32, generator=torch.Generator().manual_seed(number))
    return found


def mocov3() -> Tensors:
    projector = {"head.0.weight": torch.ones(8, 32), "head.1.running_mean": torch.ones(8)}
    found = below("module.base_encoder.", encoder() | projector)
    found |= below("module.momentum_encoder.", {name: value + 1 for name, value in (encoder() | projector).items()})
    return found | {"module.predictor.0.weight": torch.ones(8, 8)}


def _hugging_face_blocks(start: str, tensors: Tensors, depth: int) -> Tensors:
    found: Tensors = {}
    for block in range(depth):
        here, there = f"blocks.{block}.", f"{start}.{block}."
        for kind in _PAIRS:
            parts = tensors[f"{here}attn.qkv.{kind}"].chunk(3)
            for word, value in zip(("query", "key", "value"), parts, strict=True):
                found[f"{there}attention.attention.{word}.{kind}"] = value.clone()
            found[f"{there}attention.output.dense.{kind}"] = tensors[f"{here}attn.proj.{kind}"]
            found[f"{there}intermediate.dense.{kind}"] = tensors[f"{here}mlp.fc1.{kind}"]
            found[f"{there}output.dense.{kind}"] = tensors[f"{here}mlp.fc2.{kind}"]
            found[f"{there}layernorm_before.{kind}"] = tensors[f"{here}norm1.{kind}"]
            found[f"{there}layernorm_after.{kind}"] = tensors[f"{here}norm2.{kind}"]
    return found


def hugging_face_vit() -> Tensors:
    own = encoder()
    found = {"embeddings.cls_token": own["cls_token"], "embeddings.position_embeddings": own["pos_embed"]}
    for kind in _PAIRS:
        found[f"embeddings.patch_embeddings.projection.{kind}"] = own[f"patch_embed.proj.{kind}"]
        found[f"layernorm.{kind}"] = own[f"norm.{kind}"]
        found[f"pooler.dense.{kind}"] = torch.zeros(32)
    return found | _hugging_face_blocks("encoder.layer", own, ENCODER.depth)


def hugging_face_mae() -> Tensors:
    own = decoder()
    found = {name: value for name, value in hugging_face_vit().items() if not name.startswith("pooler.")}
    found = below("vit.", found)
    found |= {"decoder.mask_token": own["mask_token"], "decoder.decoder_pos_embed": own["pos_embed"]}
    for part in ("embed", "norm", "pred"):
        found |= {f"decoder.decoder_{part}.{kind}": own[f"{part}.{kind}"] for kind in _PAIRS}
    return found | _hugging_face_blocks("decoder.decoder_layers", own, DECODER.decoder_depth)


def solo_learn() -> Tensors:
    own = decoder()
    found = below("backbone.", encoder()) | {"classifier.weight": torch.ones(10, 32), "classifier.bias": torch.ones(10)}
    return found | {f"decoder.{'' if name == 'mask_token' else 'decoder_'}{name}": v for name, v in own.items()}


def solo_learn_contrastive() -> Tensors:
    found = below("backbone.", encoder()) | below("momentum_backbone.", encoder())
    found |= {f"{part}.0.weight": torch.ones(8, 32) for part in ("projector", "predictor", "momentum_projector")}
    return found | {"classifier.weight": torch.ones(10, 32), "queue": torch.ones(2, 8, 4)}


def lightly() -> Tensors:
    own = decoder()
    found = below("backbone.vit.", encoder()) | {"backbone.mask_token": torch.zeros(1, 1, 32)}
    return found | {f"decoder.{'' if name == 'mask_token' else 'decoder_'}{name}": v for name, v in own.items()}


def lightly_contrastive() -> Tensors:
    found = below("backbone.vit.", encoder()) | below("backbone_momentum.vit.", encoder())
    return found | {"projection_head.layers.0.weight": torch.ones(8, 32)}


def _mmpretrain_blocks(start: str, tensors: Tensors, depth: int) -> Tensors:
    found: Tensors = {}
    names = {
        "ln1": "norm1",
        "attn.qkv": "attn.qkv",
        "attn.proj": "attn.proj",
        "ln2": "norm2",
        "ffn.layers.0.0": "mlp.fc1",
        "ffn.layers.1": "mlp.fc2",
    }
    for block in range(depth):
        for theirs, name in names.items():
            for kind in _PAIRS:
                found[f"{start}.{block}.{theirs}.{kind}"] = tensors[f"blocks.{block}.{name}.{kind}"]
    return found


def mmpretrain() -> Tensors:
    own, inner = encoder(), decoder()
    found = {"backbone.cls_token": own["cls_token"], "backbone.pos_embed": own["pos_embed"]}
    found |= {"neck.mask_token": inner["mask_token"], "neck.decoder_pos_embed": inner["pos_embed"]}
    for kind in _PAIRS:
        found[f"backbone.patch_embed.projection.{kind}"] = own[f"patch_embed.proj.{kind}"]
        found[f"backbone.ln1.{kind}"] = own[f"norm.{kind}"]
        found |= {f"neck.decoder_{part}.{kind}": inner[f"{part}.{kind}"] for part in ("embed", "norm", "pred")}
    found |= {"data_preprocessor.mean": torch.zeros(3, 1, 1)}
    found |= _mmpretrain_blocks("backbone.layers", own, ENCODER.depth)
    return found | _mmpretrain_blocks("neck.decoder_blocks", inner, DECODER.decoder_depth)


LAYOUTS: dict[str, tuple[Callable[[], Tensors], str, bool]] = {
    "timm": (timm, "timm, DeiT or MAE encoder", False),
    "mae": (mae, "MAE or MAE-lite with a decoder", True),
    "public": (public, "MAE or MAE-lite with a decoder", True),
    "public_base_encoder": (public_base_encoder, "MoCo-v3", True),
    "mocov3": (mocov3, "MoCo-v3", False),
    "hugging_face_vit": (hugging_face_vit, "Hugging Face ViT", False),
    "hugging_face_mae": (hugging_face_mae, "Hugging Face ViTMAE", True),
    "solo_learn": (solo_learn, "solo-learn", True),
    "solo_learn_contrastive": (solo_learn_contrastive, "solo-learn", False),
    "lightly": (lightly, "LightlySSL", True),
    "lightly_contrastive": (lightly_contrastive, "LightlySSL", False),
    "mmpretrain": (mmpretrain, "mmpretrain", True),
    "ours": (ours, "mae_lite", False),
}
"""By name: the tensors, what the layout is called, and whether there is a decoder."""
