"""``mae-lite convert``: weights of any known layout in, one of three formats out, compared before they appear."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from mae_lite import config, files
from mae_lite.errors import CheckpointError, ConfigError
from mae_lite.evaluation import incoming
from mae_lite.evaluation.incoming import Incoming
from mae_lite.methods.mae import Decoder
from mae_lite.models import hugging_face, layouts, plain, sizes, timm_folder, weights
from mae_lite.models.relative import TABLE, has_tables, resized_tables
from mae_lite.models.vit import build_classifier, build_encoder, resized_positions

_EPS = 1e-6
_MODEL = ("encoder.", "decoder.")
"""What the formats hold; a run has more, such as the heads and the second encoder of contrastive methods."""
_TOLERANCE = 1e-4
"""Largest difference of a token's channel that rounding can explain, relative to the largest value (if above 1)."""


@dataclass(frozen=True)
class Order:
    """What to convert into what; the fields are those of the command."""

    source: str
    out: Path
    to: Literal["ours", "timm", "huggingface"] = "ours"
    heads: int | None = None
    decoder_heads: int | None = None
    image_size: int | None = None
    prefix: str = ""


@dataclass(frozen=True)
class _Model:
    """A plain Vision Transformer by our names, at the size of its source or already resized."""

    tensors: dict[str, Tensor]
    encoder: config.Encoder
    decoder: config.MAE | None
    preparation: Mapping[str, Any]
    pooling: Literal["token", "avg"]
    classes: tuple[str, ...] | None

    @property
    def outputs(self) -> int:
        """Outputs of the classification head; 0 when there is none."""
        head = self.tensors.get("encoder.head.weight")
        return 0 if head is None else len(head)


def convert(order: Order) -> list[str]:
    """Convert, compare and publish.

    Args:
        order: what into what.

    Returns:
        What was done, a line each.

    Raises:
        ConfigError: when the output folder exists already.
        CheckpointError: when the source cannot be read, does not say its heads, or the result computes something else.
    """
    if order.out.exists():
        raise ConfigError(f"{str(order.out)!r} exists already", fix="give another folder, or remove this one")
    source = incoming.read(order.source, order.prefix)
    notes: list[str] = []
    model = _described(source, order, notes)
    written = _written(model, order, notes)
    differences = _differences(source, model, written["model.safetensors"])
    if order.image_size not in (None, model.encoder.image_size):
        model = _resized(model, order.image_size or 0, order.source, notes)
        written = _written(model, order, [])
    files.make_folder(order.out.parent)
    files.publish_folder(order.out, written)
    encoder = model.encoder
    size = f"width {encoder.width}, depth {encoder.depth}, {encoder.num_heads} heads, patches of {encoder.patch_size}"
    return [
        f"read as: {source.found.layout}",
        f"encoder: {size} in images of {encoder.image_size} pixels, {encoder.channels} channels",
        f"decoder: {_decoder_words(model.decoder)}",
        *(f"note: {note}" for note in notes),
        *differences,
        f"written for {order.to}: {order.out}",
    ]


def _decoder_words(decoder: config.MAE | None) -> str:
    if decoder is None:
        return "none; in further pre-training it starts anew"
    return f"width {decoder.decoder_width}, depth {decoder.decoder_depth}, {decoder.decoder_heads} heads"


def _described(source: Incoming, order: Order, notes: list[str]) -> _Model:
    """Say of the tensors what the formats need, note what is assumed, and check that they are whole."""
    found, name = source.found, order.source
    tensors = {key: value.float() for key, value in found.tensors.items() if key.startswith(_MODEL)}
    kinds = sorted({str(value.dtype).removeprefix("torch.") for value in found.tensors.values()} - {"float32"})
    notes += [f"{' and '.join(kinds)} became float32"] if kinds else []
    notes += found.notes
    dropped = [*found.dropped, *sorted(key for key in found.tensors if not key.startswith(_MODEL))]
    if dropped:
        more = ", ..." if len(dropped) > 5 else ""
        notes.append(f"{len(dropped)} tensors were left out: {', '.join(dropped[:5])}{more}")
    _refuse_swin(tensors, name)
    token = tensors.get("encoder.cls_token")
    width = 0 if token is None else token.shape[-1]
    heads = sizes.chosen_heads(order.heads, source.heads, width, name)
    encoder = sizes.encoder_size(tensors, heads, name)
    if order.heads is None and source.heads is None:
        notes.append(f"{heads} heads, as every published model of width {width} has; --heads says otherwise")
    tensors = _painting(tensors, encoder, notes)
    decoder, inner = None, sizes.decoder_width(tensors)
    if inner is not None:
        count = sizes.chosen_heads(order.decoder_heads, source.decoder_heads, inner, name, "decoder-")
        decoder = sizes.decoder_size(tensors, count, name)
    if "encoder.fc_norm.weight" in tensors and "encoder.norm.weight" in tensors:
        raise CheckpointError(
            f"{name!r} has two final norms", expected="one, before or after pooling", fix="give another checkpoint"
        )
    pooling: Literal["token", "avg"] = "avg" if "encoder.fc_norm.weight" in tensors else "token"
    if source.pooling == "avg" and pooling == "token" and "encoder.head.weight" in tensors:
        tensors = {key: value for key, value in tensors.items() if not key.startswith("encoder.head.")}
        notes.append("the head, which averaged normalised tokens, was left out: classifiers here normalise the average")
    model = _Model(tensors, encoder, decoder, _preparation(source, encoder, notes), pooling, source.classes)
    _build(model, name)
    if decoder is not None:
        own = {k.removeprefix("decoder."): v for k, v in tensors.items() if k.startswith("decoder.")}
        weights.load_into(Decoder(encoder, decoder), own, source=f"the decoder of {name}")
    return model


def _refuse_swin(tensors: Mapping[str, Tensor], source: str) -> None:
    if any(key.startswith("encoder.layers.") for key in tensors):
        raise CheckpointError(
            f"{source!r} is a Swin transformer",
            expected="a plain Vision Transformer, which every format here can hold",
            fix="take the folder encoder/ or classifier/ of a finished run, which timm reads",
        )


def _painting(tensors: dict[str, Tensor], encoder: config.Encoder, notes: list[str]) -> dict[str, Tensor]:
    """Return ``tensors`` without a decoder that predicts something else than pixels: no format has a word for it."""
    layer = tensors.get("decoder.pred.weight")
    if layer is None or len(layer) == encoder.channels * encoder.patch_size**2:
        return tensors
    notes.append("the decoder, which predicts no pixels, was left out")
    return {key: value for key, value in tensors.items() if not key.startswith("decoder.")}


def _preparation(source: Incoming, encoder: config.Encoder, notes: list[str]) -> dict[str, Any]:
    channels, usual = encoder.channels, config.Augmentation()
    mean, std, crop = source.mean, source.std, source.crop
    if mean is None or std is None or len(mean) != channels or len(std) != channels:
        colour = channels == len(usual.mean)
        mean, std = (usual.mean, usual.std) if colour else ((0.5,) * channels, (0.25,) * channels)
        name = "ImageNet's" if colour else "0.5 and 0.25"
        notes.append(f"the source does not say how its input is normalised: {name} mean and deviation were written")
    return {"mean": list(mean), "std": list(std), "crop_pct": usual.eval_crop if crop is None else crop}


def _build(model: _Model, source: str) -> Any:
    """Build the timm model and load every encoder tensor; what does not fit is an error."""
    own = {k.removeprefix("encoder."): v for k, v in model.tensors.items() if k.startswith("encoder.")}
    tables = has_tables(own)
    if model.outputs or model.pooling == "avg":
        pooling: Literal["mean", "token"] = "mean" if model.pooling == "avg" else "token"
        built: Any = build_classifier(model.encoder, model.outputs, pooling, seed=0, relative_positions=tables)
    else:
        built = build_encoder(model.encoder, seed=0, relative_positions=tables)
    weights.load_into(built, own, source=source)
    return built.eval()


def _written(model: _Model, order: Order, notes: list[str]) -> dict[str, bytes]:
    """Return the files of the format asked for."""
    if order.to == "ours":
        return _ours(model, order)
    if order.to == "timm":
        if model.decoder is not None:
            notes.append("timm has no decoder: it was left out")
        built = _build(model, order.source)
        return timm_folder.described(
            built, model.encoder, model.preparation, model.classes, model.outputs, model.pooling
        )
    if model.outputs:
        notes.append("ViTModel has no classification head: it was left out")
    if model.decoder is None:
        notes.append("ViTModel's pooler starts anew: load it with add_pooling_layer=False")
    tensors = {name: value for name, value in model.tensors.items() if not name.startswith("encoder.head.")}
    written = hugging_face.contents(tensors, model.encoder, model.decoder, order.source)
    return {**written, "preprocessor_config.json": hugging_face.preprocessor(model.encoder, model.preparation)}


def _ours(model: _Model, order: Order) -> dict[str, bytes]:
    settings = {
        "kind": "mae_lite",
        "format": 1,
        "source": order.source,
        "encoder": model.encoder.model_dump(mode="json"),
        "decoder": None if model.decoder is None else model.decoder.model_dump(mode="json"),
        "pooling": model.pooling,
        "classes": None if model.classes is None else list(model.classes),
        **model.preparation,
    }
    return {
        "config.json": json.dumps(settings, indent=2).encode(),
        "model.safetensors": weights.to_bytes(model.tensors),
    }


@torch.no_grad()
def _differences(source: Incoming, model: _Model, written: bytes) -> list[str]:
    """Compare what was written, read back, with what the source computes on one image, and say how far they are apart.

    Raises:
        CheckpointError: when the difference is more than rounding.
    """
    heads, renamed = model.encoder.num_heads, source.found.renamed
    shape = (1, model.encoder.channels, model.encoder.image_size, model.encoder.image_size)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    again = layouts.recognise(weights.from_bytes(written, "model.safetensors"), "model.safetensors").tensors
    ours = _build(replace(model, tensors=again), "model.safetensors").forward_features(images)
    judges = {"the formula on the source's own tensors": plain.tokens(renamed, images, heads, _EPS)}
    if source.found.layout.startswith("Hugging Face") and source.settings and hugging_face.installed():
        settings = {**source.settings, "layer_norm_eps": _EPS}
        judges["transformers"] = hugging_face.tokens(source.raw, settings, images)
    lines = []
    for judge, expected in judges.items():
        difference = (ours - expected).abs().max().item()
        if not difference <= _TOLERANCE * max(1.0, expected.abs().max().item()):
            raise CheckpointError(
                "the converted encoder computes something else than its source",
                found=f"a difference of {difference:.1e} from {judge}",
                expected=f"at most {_TOLERANCE:g} of the largest value",
                fix="check that the weights are finite, and --heads; nothing was written",
            )
        lines.append(f"largest difference from {judge}: {difference:.1e}")
    if source.eps is not None and source.eps != _EPS:
        change = (ours - plain.tokens(renamed, images, heads, source.eps)).abs().max().item()
        lines.append(f"LayerNorm adds {_EPS:g} here, {source.eps:g} in the source: that changes tokens by {change:.1e}")
    return lines


def _resized(model: _Model, image_size: int, source: str, notes: list[str]) -> _Model:
    """Resize the position tables for images of another side."""
    encoder = model.encoder
    if image_size % encoder.patch_size:
        below = max(image_size // encoder.patch_size, 1) * encoder.patch_size
        raise ConfigError(
            "--image-size",
            found=str(image_size),
            expected=f"a multiple of the patch size {encoder.patch_size} of {source!r}",
            fix=f"--image-size {below} (or {below + encoder.patch_size})",
        )
    larger = config.Encoder.model_validate({**encoder.model_dump(), "image_size": image_size})
    tensors = {
        name: resized_positions(value, larger.patches + 1) if name.endswith("pos_embed") else value
        for name, value in model.tensors.items()
    }
    rows = (2 * larger.grid - 1) ** 2 + 3
    tensors |= resized_tables(tensors, {name: rows for name in tensors if name.endswith(TABLE)})
    notes.append(f"positions resized from a {encoder.grid} x {encoder.grid} grid to {larger.grid} x {larger.grid}")
    return replace(model, tensors=tensors, encoder=larger)
