"""The teacher of feature distillation: any Vision Transformer of timm that has one token per patch.

Registers, rotary positions, other patches, positions of another resolution and other means are all right; what the
recipe says of width, depth, heads, patch and prefix tokens must be so, because costs and the linear map follow it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from mae_lite import config, files, rundir, shipped
from mae_lite.errors import CheckpointError, ConfigError, nearest
from mae_lite.evaluation.load import initial_weights, refuse_tables
from mae_lite.methods.teacher import Teacher
from mae_lite.models import weights
from mae_lite.models.vit import build_encoder

_log = logging.getLogger(__name__)
_NOT_NEEDED = ("head.*", "head_dist.*", "fc_norm.*", "norm.*")
"""What follows the tokens: they are normalised anew when they are compared."""


def load_token_teacher(
    recipe: config.Recipe, method: config.FeatureDistillation, name: str, fetch: Callable[[str], Any] | None
) -> Teacher:
    """Return the teacher ``name``, set to the student's grid of patches.

    Args:
        recipe: the student's.
        method: the method of ``recipe``.
        name: a timm folder, timm:NAME, or else the weights of a plain Vision Transformer: a run, a checkpoint, a file.
        fetch: gives the pre-trained model of a timm NAME; None when ``name`` is a path.

    Raises:
        ConfigError: when timm does not know NAME.
        CheckpointError: when the weights cannot be read, give no grid of tokens, or are not what the recipe says.
    """
    if fetch is not None:
        model = _fetched(name, fetch)
        pixels = (model.pretrained_cfg.get("mean"), model.pretrained_cfg.get("std"))
    elif (settings := timm_settings(place := Path(shipped.resolved(name)))) is not None:
        model = from_timm_folder(place, partial(_require_tokens, name))
        known = settings.get("pretrained_cfg") or {}
        pixels = (known.get("mean"), known.get("std"))
    else:
        model, pixels = _from_weights(name, method.teacher(recipe.plain_encoder))
    _check_numbers(name, model, recipe.plain_encoder, method)
    _set_side(name, model, method.teacher(recipe.plain_encoder))
    mean, std = _normalisation(name, pixels, recipe)
    deciding = [type(model).__name__, method.teacher_heads, mean, std]
    identity = weights.to_bytes(model.state_dict()) + json.dumps(deciding).encode()
    return Teacher(model, files.sha256(identity), mean, std)


def _fetched(name: str, fetch: Callable[[str], Any]) -> Any:
    architecture = name.partition(":")[2]
    known = timm.list_models()
    if architecture.partition(".")[0] not in known:
        raise ConfigError(
            f"--teacher {name}",
            found=f"{architecture!r}{nearest(architecture.partition('.')[0], known)}",
            expected="a Vision Transformer of timm",
            fix="--teacher timm:vit_base_patch14_reg4_dinov2",
        )
    return fetch(architecture)


def timm_settings(path: Path) -> Mapping[str, Any] | None:
    """Return what stands in a timm folder's description; None for everything else."""
    if not (path / "config.json").exists():
        return None
    settings = rundir.read_json(path / "config.json", "a folder that timm wrote")
    return settings if "architecture" in settings else None


def from_timm_folder(path: Path, check: Callable[[Any], None], *, head: bool = False) -> Any:
    """Build what ``config.json`` describes, at its own resolution, and load its tensors: every one but the head's.

    Args:
        path: the folder.
        check: raises for a model that is not wanted, before its weights are read.
        head: whether the head is wanted too, where there is one; then every tensor has to fit.

    Raises:
        CheckpointError: when timm cannot build it, or the weights are missing or do not fit.
    """
    if (path / files.MANIFEST).exists():
        files.read_folder(path)  # refuses what was damaged since it was written
    without: dict[str, Any] = {} if head else {"num_classes": 0}
    try:
        model: Any = timm.create_model(f"local-dir:{path}", pretrained=False, **without)
    except (AssertionError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"timm cannot build what {str(path / 'config.json')!r} describes",
            found=f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}",
            fix="give a folder that this version of timm can read, or timm:NAME",
        ) from error
    check(model)
    file = next((path / name for name in ("model.safetensors", "pytorch_model.bin") if (path / name).exists()), None)
    if file is None:
        raise CheckpointError(
            f"{str(path)!r} has no weights",
            found="config.json alone",
            expected="model.safetensors beside it",
            fix="copy the whole folder",
        )
    weights.load_into(model, weights.read_file(file), dropped=() if head else _NOT_NEEDED, source=str(path))
    return model


def _from_weights(name: str, shape: config.Encoder) -> tuple[Any, tuple[Any, Any]]:
    """Load a plain Vision Transformer; its depth, width and patch are those of the weights, to be compared later."""
    source = initial_weights(name, shape, flag="--teacher", heads_flag="--method.teacher-heads")
    own = {key.removeprefix("encoder."): v for key, v in source.found.tensors.items() if key.startswith("encoder.")}
    refuse_tables(name, own, "a teacher that is built without them", "give the folder classifier/ of its run, a BEiT")
    projection, table = own.get("patch_embed.proj.weight"), own.get("pos_embed")
    depth = len({key.split(".")[1] for key in own if key.startswith("blocks.")})
    if projection is None or projection.ndim != 4 or table is None or table.ndim != 3 or not depth:
        raise _no_grid(name, ", ".join(sorted(own)[:5]) or "none of its tensors")
    width, channels, patch = (int(number) for number in projection.shape[:3])
    grid = round(max(table.shape[1] - 1, 1) ** 0.5)
    heads = {} if width % shape.num_heads == 0 else {"num_heads": 1}  # the width is refused before heads matter
    found = {"width": width, "channels": channels, "patch_size": patch, "depth": depth, "image_size": grid * patch}
    model: Any = build_encoder(config.Encoder.model_validate(shape.model_dump() | found | heads), seed=0)
    if "norm.weight" not in own:  # a classifier that pools the mean; tokens are normalised when they are compared
        model.norm = nn.Identity()
    weights.load_into(model, own, dropped=_NOT_NEEDED, source=name)
    return model, (source.mean, source.std)


def _require_tokens(name: str, model: Any) -> None:
    """Refuse ConvNets, mixers and whatever else has no blocks of tokens behind a patch projection."""
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    blocks, prefix = getattr(model, "blocks", None), getattr(model, "num_prefix_tokens", None)
    if patch is None or prefix is None or not isinstance(blocks, nn.Module) or not list(blocks.children()):
        raise _no_grid(name, f"{type(model).__name__}, whose features are not tokens")


def _check_numbers(name: str, model: Any, encoder: config.Encoder, method: config.FeatureDistillation) -> None:
    """Compare what the recipe says of its teacher, all at once."""
    _require_tokens(name, model)
    blocks: list[Any] = list(model.blocks.children())
    patch = model.patch_embed.patch_size
    heads = getattr(getattr(blocks[0], "attn", None), "num_heads", method.teacher_heads)
    found = {"width": model.num_features, "depth": len(blocks), "heads": heads}
    found |= {"patch_size": patch[0] if isinstance(patch, tuple) else patch, "prefix_tokens": model.num_prefix_tokens}
    wrong = {part: n for part, n in found.items() if n != getattr(method, f"teacher_{part}")}
    if wrong:
        expected = ", ".join(f"{part} {getattr(method, f'teacher_{part}')}" for part in wrong)
        raise CheckpointError(
            f"the teacher {name!r} is not the one that the recipe describes",
            found=", ".join(f"{part} {n}" for part, n in wrong.items()),
            expected=expected,
            fix=" ".join(f"--method.teacher-{part.replace('_', '-')} {n}" for part, n in wrong.items()),
        )
    channels = next((m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d)), encoder.channels)
    if channels != encoder.channels:
        raise CheckpointError(
            f"the teacher {name!r} has another number of channels",
            found=f"{channels}",
            expected=f"{encoder.channels}, the student's, for both see the same images",
            fix=f"--encoder.channels {channels}, or a teacher of {encoder.channels}",
        )


def _set_side(name: str, model: Any, shape: config.Encoder) -> None:
    """Let the model take images with the student's grid of patches, and see that it returns a token for each."""
    side, own = (shape.image_size,) * 2, getattr(model.patch_embed, "img_size", None)
    if own not in (None, side):
        if not hasattr(model, "set_input_size"):
            raise CheckpointError(
                f"the teacher {name!r} takes images of one size",
                found=f"{own[0]} px",
                expected=f"{side[0]} px, for a grid of {shape.grid} x {shape.grid} patches",
                fix="give a teacher made for that size, or one whose positions timm can resize",
            )
        model.set_input_size(img_size=side)
        if getattr(model, "pos_embed", None) is not None:
            words = "the teacher %s: positions resized from images of %d px to %d (bicubic)"
            _log.warning(words, name, own[0], side[0])
    prefix, expected = model.num_prefix_tokens, (1, model.num_prefix_tokens + shape.patches, shape.width)
    with torch.no_grad():
        tokens = model.eval().forward_features(torch.zeros(1, shape.channels, *side))
    if tuple(tokens.shape) != expected:
        raise _no_grid(name, f"features {list(tokens.shape)} for {prefix} + {shape.patches} tokens")


def _normalisation(
    name: str, pixels: tuple[Any, Any], recipe: config.Recipe
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation of the pixels that the teacher was trained with; those of the recipe if none are known.

    Raises:
        CheckpointError: when there are not as many as channels.
    """
    if None in pixels:
        _log.warning("the teacher %s does not say its mean and deviation; they are taken to be the recipe's", name)
        return recipe.augmentation.mean, recipe.augmentation.std
    mean, std = (tuple(float(value) for value in values) for values in pixels)
    if not len(mean) == len(std) == recipe.plain_encoder.channels or min(std) <= 0:
        raise CheckpointError(
            f"the teacher {name!r} was trained with other channels",
            found=f"mean {mean}, std {std}",
            expected=f"one number above 0 for each of {recipe.plain_encoder.channels} channels",
            fix="correct pretrained_cfg in its config.json",
        )
    return mean, std


def _no_grid(name: str, found: str) -> CheckpointError:
    return CheckpointError(
        f"the teacher {name!r} has no grid of tokens",
        found=found,
        expected="a Vision Transformer with one token per patch",
        fix="give a Vision Transformer, e.g. --teacher timm:vit_base_patch14_reg4_dinov2",
    )
