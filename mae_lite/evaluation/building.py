"""Models out of weights from anywhere: the size that the tensors tell, and every one of them loaded."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import nn

from mae_lite import config, overrides
from mae_lite.errors import CheckpointError, ConfigError
from mae_lite.evaluation.incoming import Incoming
from mae_lite.models import sizes, weights
from mae_lite.models.relative import has_tables
from mae_lite.models.vit import build_classifier, build_encoder

_log = logging.getLogger(__name__)
_HEAD = ("head.*", "fc_norm.*")


def is_swin(found: Incoming) -> bool:
    """Say whether the weights are a Swin transformer's, whose tensors do not tell how to build it."""
    return any(name.startswith("encoder.layers.") for name in found.found.tensors)


def built(source: str, found: Incoming, heads: int | None, *, head: bool) -> Any:
    """Build the plain Vision Transformer whose size the tensors tell, at its own resolution, and load them.

    Args:
        source: what to call the weights in messages.
        found: the weights; no Swin transformer's.
        heads: attention heads, as the user says.
        head: whether a classification head comes along, where there is one.

    Returns:
        A model of timm, not yet in eval mode.

    Raises:
        CheckpointError: when the tensors are no whole Vision Transformer, or nobody knows its number of heads.
    """
    tensors = {name: value for name, value in found.found.tensors.items() if name.startswith("encoder.")}
    for note in found.found.notes:
        _log.warning("%s: %s", source, note)
    token = tensors.get("encoder.cls_token")
    number = sizes.chosen_heads(heads, found.heads, 0 if token is None else token.shape[-1], source)
    encoder = sizes.encoder_size(tensors, number, source)
    own = {name.removeprefix("encoder."): value for name, value in tensors.items()}
    tables = has_tables(own)
    if head and "head.weight" in own:
        pooling: Literal["mean", "token"] = "mean" if "fc_norm.weight" in own else "token"
        outputs = len(own["head.weight"])
        model: Any = build_classifier(encoder, outputs, pooling, seed=0, relative_positions=tables)
        weights.load_into(model, own, source=source)
    else:
        model = build_encoder(encoder, seed=0, relative_positions=tables)
        if "norm.weight" not in own:  # a classifier that averages tokens first: what comes after is its head's
            model.norm = nn.Identity()
        weights.load_into(model, own, dropped=_HEAD, source=source)
    if found.eps is not None:
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = found.eps
    return model


def preparation(source: str, channels: int, known: Mapping[str, Any]) -> config.Augmentation:
    """Return how the images of a model are cropped and normalised in evaluation; what is not known is told.

    Args:
        source: what to call the model in messages.
        channels: of its images.
        known: ``mean``, ``std``, ``crop_pct``, ``interpolation`` and ``crop_mode`` as timm calls them, where they are
            known; the last two are always bicubic and center here.

    Raises:
        CheckpointError: for numbers that are none.
    """
    usual = config.Augmentation()
    mean, std = (known.get(name) for name in ("mean", "std"))
    if not mean or not std or len(mean) != channels or len(std) != channels:
        same = channels == len(usual.mean)
        mean, std = (usual.mean, usual.std) if same else ((0.5,) * channels, (0.25,) * channels)
        _log.warning("%s does not say how its images are normalised; mean %s, deviation %s", source, mean, std)
    crop = known.get("crop_pct") or usual.eval_crop
    for name, here in (("interpolation", "bicubic"), ("crop_mode", "center")):
        if known.get(name) not in (None, here):
            _log.warning("%s was made for %s %r; here it is %r", source, name, known[name], here)
    settings = {"mean": tuple(mean), "std": tuple(std), "eval_crop": crop, "randaugment": None}
    try:
        return overrides.build(config.Augmentation, settings)
    except ConfigError as error:
        raise CheckpointError(
            f"{source!r} says how its images are prepared in a way that is not possible: {error.what}",
            found=error.found,
            expected=error.expected,
            fix="correct it in its config.json",
        ) from error


def check_names(source: str, names: Sequence[str], outputs: int) -> None:
    """Refuse names of classes that are not one for each output of a head.

    Raises:
        CheckpointError: with both numbers.
    """
    if len(names) != outputs:
        raise CheckpointError(
            f"the class names of {source!r} do not fit its head",
            found=f"{len(names)} names",
            expected=f"{outputs}, one for each output",
            fix="correct them where they stand: in its config.json, or an ONNX file's metadata",
        )
