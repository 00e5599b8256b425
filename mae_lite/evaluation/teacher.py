"""The teacher of a distilling recipe: read, compared with what the recipe says of it, frozen."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

import timm
from torch import Tensor

from mae_lite import config, files
from mae_lite.errors import CheckpointError, ConfigError, nearest, shortly
from mae_lite.evaluation.load import initial_tensors, refuse_tables
from mae_lite.evaluation.painting_teacher import load_painter
from mae_lite.evaluation.token_teacher import load_token_teacher
from mae_lite.methods.teacher import Teacher
from mae_lite.models import weights
from mae_lite.models.vit import build_encoder

_log = logging.getLogger(__name__)
_TIMM = "timm:"
_BY_FILE = "fetch them where there is a network and give the file: --teacher model.safetensors"


def load_teacher(recipe: config.Recipe, name: str | None) -> Teacher | None:
    """Return the teacher that ``recipe`` needs, or None where it needs none.

    Args:
        recipe: says which shape the teacher has.
        name: a run folder, a checkpoint folder, a timm folder, a file, or timm:NAME.

    Raises:
        ConfigError: when the recipe and ``name`` do not go together.
        CheckpointError: when the weights cannot be read, are no Vision Transformer's, or are one's of another shape.
    """
    method = recipe.method
    if not isinstance(method, config.DistilledMAE | config.DistilledSimMIM | config.FeatureDistillation):
        if name is not None:
            raise ConfigError(
                f"recipe {recipe.name!r} learns from no teacher",
                found=f"--teacher {name}",
                expected="no --teacher",
                fix="drop --teacher, or use a recipe that distils, e.g. d-mae-tiny",
            )
        return None
    if name is None:
        raise ConfigError(
            f"recipe {recipe.name!r} learns from a teacher",
            found="no --teacher",
            expected="its weights",
            fix="add --teacher RUN (a finished pre-training run), a timm folder, a weights file or timm:NAME",
        )
    if isinstance(method, config.FeatureDistillation):
        return load_token_teacher(recipe, method, name, partial(fetched, name) if name.startswith(_TIMM) else None)
    if isinstance(method, config.DistilledSimMIM):
        return load_painter(recipe, method, name)
    shape = method.teacher(recipe.plain_encoder)
    model = _from_timm(name, shape) if name.startswith(_TIMM) else _from_weights(name, shape, _final_norm(method))
    return Teacher(model, files.sha256(weights.to_bytes(model.state_dict())))


def _final_norm(method: config.DistilledMAE) -> bool:
    """Whether the teacher's final LayerNorm takes part; a classifier that pools the mean has none."""
    return method.target == "hidden" and any(place == method.teacher_depth for _, place in method.pairs(0))


def _from_weights(name: str, shape: config.Encoder, final_norm: bool) -> Any:
    tensors = initial_tensors(name, shape, flag="--teacher", heads_flag="--method.teacher-heads")
    own = {key.removeprefix("encoder."): value for key, value in tensors.items() if key.startswith("encoder.")}
    refuse_tables(name, own, "attention that is compared without them", "give the weights that it was fine-tuned from")
    _check_shape(name, own or tensors, shape)
    model = build_encoder(shape, seed=0)
    new = () if final_norm else ("norm.*",)
    weights.load_into(model, own, new=new, dropped=("head.*", "fc_norm.*", "norm.*"), source=name)
    return model


def _from_timm(name: str, shape: config.Encoder) -> Any:
    architecture = name.removeprefix(_TIMM)
    known = timm.list_models("*vit*", module="vision_transformer")
    if architecture.partition(".")[0] not in known:
        raise ConfigError(
            f"--teacher {name}",
            found=f"{architecture!r}{nearest(architecture, known)}",
            expected="a plain Vision Transformer of timm",
            fix="--teacher timm:vit_base_patch16_224.mae",
        )
    model = fetched(name, architecture, global_pool="token")
    _check_shape(name, model.state_dict(), shape)
    _check_number(name, "heads", model.blocks[0].attn.num_heads, shape.num_heads, "--method.teacher-heads")
    pixels = model.pretrained_cfg
    _log.info("the teacher %s was trained with mean %s and deviation %s", name, pixels.get("mean"), pixels.get("std"))
    return model


def fetched(name: str, architecture: str, fix: str = _BY_FILE, **settings: Any) -> Any:
    """Return timm's pre-trained model without a head, from its cache or over the network.

    Raises:
        CheckpointError: when its weights are in neither; with ``fix``.
    """
    try:
        return timm.create_model(architecture, pretrained=True, num_classes=0, **settings)
    except Exception as error:  # without a network each library below raises a kind of its own; all mean the same here
        raise CheckpointError(
            f"the weights of {name!r} could not be fetched",
            found=shortly(error),
            expected="a network, or weights that an earlier fetch left in the cache",
            fix=fix,
        ) from error


def _check_shape(name: str, tensors: Mapping[str, Tensor], shape: config.Encoder) -> None:
    """Refuse what :func:`mae_lite.models.weights.load_into` would adapt, and name the setting where it would not."""
    projection, table = tensors.get("patch_embed.proj.weight"), tensors.get("pos_embed")
    depth = len({key.split(".")[1] for key in tensors if key.startswith("blocks.")})
    plain = projection is not None and projection.ndim == 4 and table is not None and table.ndim == 3
    if projection is None or table is None or not plain or not depth or "cls_token" not in tensors:
        raise CheckpointError(
            f"the teacher {name!r} is not a Vision Transformer",
            found=", ".join(sorted(tensors)[:5]) or "none of its tensors",
            expected="cls_token, pos_embed, patch_embed.proj.weight and blocks",
            fix="give the weights of a plain Vision Transformer with a class token",
        )
    width, channels, patch = projection.shape[:3]
    _check_number(name, "pixels along a patch", patch, shape.patch_size, None)
    _check_number(name, "channels", channels, shape.channels, None)
    _check_number(name, "positions (one per patch and the class token's)", table.shape[1], shape.patches + 1, None)
    _check_number(name, "width", width, shape.width, "--method.teacher-width")
    _check_number(name, "depth", depth, shape.depth, "--method.teacher-depth")


def _check_number(name: str, what: str, found: int, expected: int, flag: str | None) -> None:
    if found != expected:
        raise CheckpointError(
            f"the teacher {name!r} has another number of {what}" if flag is None else f"the teacher {name!r}: {what}",
            found=f"{found}",
            expected=f"{expected}, the student's, for both must see the same patches"
            if flag is None
            else f"{expected}",
            fix="give a teacher pre-trained with the student's image size, patch size and channels"
            if flag is None
            else f"{flag} {found}",
        )
