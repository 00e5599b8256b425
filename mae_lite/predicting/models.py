"""Encoders and classifiers as plain modules, each with what makes its input of an image.

They come from run folders, checkpoint folders, folders of timm, of Hugging Face and of ``mae-lite convert``, and files;
classifiers from ONNX files too.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from mae_lite import config, shipped
from mae_lite.data.prepared import Prepare
from mae_lite.errors import CheckpointError
from mae_lite.evaluation import incoming
from mae_lite.evaluation.building import built, check_names, is_swin, preparation
from mae_lite.evaluation.load import load_run
from mae_lite.evaluation.token_teacher import from_timm_folder, timm_settings
from mae_lite.models.onnx_session import network_of
from mae_lite.models.pyramid import Pyramid, oddity
from mae_lite.predicting import onnx_model

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Found:
    """A model and what its source says of it."""

    model: Any
    augmentation: config.Augmentation
    image_size: int
    channels: int
    classes: tuple[str, ...] | None
    """Names of the outputs, where the source has them."""
    about: str
    """What it is, for messages."""
    reading: config.Reading = field(default_factory=config.Reading)

    @property
    def transform(self) -> Prepare:
        """What makes the model's input of an image."""
        return Prepare(self.augmentation, self.image_size, self.channels, self.reading)


def load_encoder(path: str | Path, *, heads: int | None = None) -> nn.Module:
    """Return a model of timm in eval mode: an encoder, with its head where it is a classifier.

    Args:
        path: a run folder, a checkpoint folder, a folder of timm, Hugging Face or ``mae-lite convert``, or a file.
        heads: attention heads, where the source does not say.

    Returns:
        The model, with ``transform``, which makes an input [C, S, S] of an image: a path, its bytes, a Pillow image or
        an array. ``model.forward_features(x)`` gives the tokens [B, T, D] of inputs [B, C, S, S].

    Raises:
        CheckpointError: when the weights cannot be read, or belong to no model that is known here.
    """
    found = _read(str(path), heads)
    found.model.transform = found.transform
    model: nn.Module = found.model
    return model


def load_classifier(path: str | Path, *, heads: int | None = None) -> nn.Module:
    """Return a classifier in eval mode: a model of timm, or an ONNX file as a module.

    Args:
        path: as :func:`load_encoder` takes it; or an ONNX file that ``mae-lite export`` wrote, or the folder of one,
            which onnxruntime computes on the CPU.
        heads: attention heads, where the source does not say.

    Returns:
        The model: inputs [B, C, S, S] to scores [B, K], with ``transform`` as :func:`load_encoder` has it, and
        ``classes``, the K names of the scores; their numbers from 0 where the source has no names.

    Raises:
        CheckpointError: when the weights cannot be read, or have no classification head.
        ConfigError: for an ONNX file where onnxruntime is not installed.
    """
    source = str(path)
    network = network_of(Path(source))
    found = _read(source, heads) if network is None else _of_onnx(source, network, heads)
    outputs = int(getattr(found.model, "num_classes", 0))
    if not outputs:
        raise CheckpointError(
            f"{source!r} cannot name classes",
            found=f"{found.about} without a classification head",
            expected="a classifier, such as a fine-tuned run",
            fix=f"fine-tune it first: mae-lite finetune RECIPE --init {shlex.quote(source)} --data DATA",
        )
    classes = found.classes
    if classes is None:
        _log.warning("%s has no names for its %d classes; they are numbered from 0", source, outputs)
        classes = tuple(map(str, range(outputs)))
    check_names(source, classes, outputs)
    found.model.transform, found.model.classes = found.transform, classes
    model: nn.Module = found.model
    return model


def load_pyramid(
    path: str | Path,
    *,
    channels: int = 256,
    scales: Sequence[float] | None = None,
    freeze: bool = False,
    heads: int | None = None,
    seed: int = 0,
) -> Pyramid:
    """Return an encoder with a simple feature pyramid (ViTDet), in eval mode, for detection and segmentation.

    Args:
        path: as :func:`load_encoder` takes it; a plain Vision Transformer without relative positions.
        channels: O, of each level.
        scales: sizes of the levels as multiples of the patch grid, of 4, 2, 1 and 0.5, largest first; None takes all
            of these that have a stride of whole pixels.
        freeze: whether the encoder keeps its weights and stays in eval mode.
        heads: attention heads, where the source does not say.
        seed: decides the initial values of the levels, which nobody has trained yet.

    Returns:
        The model: normalised images [B, C, H, W], H and W multiples of the patch, to an ordered dictionary of maps
        [B, O, H / s, W / s], finest first, named "0", "1", ... It has ``strides`` (s of each level), ``channels``
        (O of each level), ``out_channels`` (O, as torchvision's detectors ask for), ``encoder``, and ``transform`` as
        :func:`load_encoder` has it, whose ``mean`` and ``std`` normalise images of any size.

    Raises:
        CheckpointError: when the weights cannot be read, or belong to no plain Vision Transformer.
        ConfigError: for channels and scales that cannot be; when called, for images that do not fit.
    """
    source = str(path)
    found = _read(source, heads)
    if odd := oddity(found.model):
        raise CheckpointError(
            f"{source!r} cannot carry a feature pyramid",
            found=odd,
            expected="a plain Vision Transformer with square patches and absolute positions",
            fix="give another model, such as a run of mae-tiny, or the weights that this one was fine-tuned from",
        )
    pyramid = Pyramid(found.model, channels, scales, freeze=freeze, seed=seed).eval()
    pyramid.transform = found.transform
    return pyramid


def _read(source: str, heads: int | None) -> _Found:
    path = Path(shipped.resolved(source))
    if (path / "recipe.json").exists():
        found = _of_run(path)
    elif (settings := timm_settings(path)) is not None:
        found = _of_timm(source, path, settings)
    else:
        incoming.refuse_exports(source, path)
        return _of_weights(source, heads)
    _check_heads(source, found.model, heads)
    return found


def _of_run(path: Path) -> _Found:
    run = load_run(path)
    recipe = run.recipe
    supervised = isinstance(recipe.method, config.Supervised)
    return _Found(
        run.model,
        recipe.augmentation,
        recipe.encoder.image_size,
        recipe.encoder.channels,
        run.classes if supervised else None,
        "a run that trained a classifier" if supervised else f"a pre-training run ({recipe.method.kind})",
        recipe.reading,
    )


def _of_timm(source: str, path: Path, settings: Mapping[str, Any]) -> _Found:
    model = from_timm_folder(path, lambda _: None, head=True).eval()
    known = model.pretrained_cfg
    sides = getattr(getattr(model, "patch_embed", None), "img_size", None) or known["input_size"][1:]
    if len({*sides}) != 1:
        raise CheckpointError(
            f"{source!r} takes oblong images",
            found=" x ".join(map(str, sides)),
            expected="square ones",
            fix="give another model",
        )
    channels = next((part.in_channels for part in model.modules() if isinstance(part, nn.Conv2d)), 3)
    names = settings.get("label_names")
    return _Found(
        model,
        preparation(source, channels, known),
        int(sides[0]),
        channels,
        tuple(map(str, names)) if isinstance(names, list | tuple) else None,
        f"a timm model ({settings['architecture']})",
    )


def _of_onnx(source: str, network: Path, heads: int | None) -> _Found:
    said = onnx_model.read(source, network)
    _check_heads(source, said.model, heads)
    return _Found(said.model, said.augmentation, said.image_size, said.channels, said.classes, "an ONNX file")


def _of_weights(source: str, heads: int | None) -> _Found:
    found = incoming.read(source)
    if is_swin(found):
        raise CheckpointError(
            f"{source!r} is a Swin transformer, whose tensors do not tell how to build it",
            expected="its run, or a folder that timm reads",
            fix="give the run folder, or the folder encoder/ or classifier/ in it",
        )
    model = built(source, found, heads, head=True).eval()
    channels = int(model.patch_embed.proj.in_channels)
    # Hugging Face's processor squeezes the whole image into a square; of the crops here, the largest is nearest to it.
    crop = found.crop or (1.0 if "hidden_size" in found.settings else None)
    return _Found(
        model,
        preparation(source, channels, {"mean": found.mean, "std": found.std, "crop_pct": crop}),
        int(model.patch_embed.img_size[0]),
        channels,
        found.classes,
        f"weights of {found.found.layout}",
    )


def _check_heads(source: str, model: Any, asked: int | None) -> None:
    """Refuse a number of heads that is not the model's own, which is known.

    Raises:
        CheckpointError: says how many it has.
    """
    blocks: Any = getattr(model, "blocks", None)
    plain = isinstance(blocks, nn.Sequential | nn.ModuleList)
    stated = getattr(getattr(blocks[0], "attn", None), "num_heads", None) if plain else None
    if asked not in (None, stated):
        raise CheckpointError(
            f"{source!r} states how its attention is made",
            found=f"--heads {asked}",
            expected="no --heads" if stated is None else f"{stated}",
            fix="drop --heads",
        )
