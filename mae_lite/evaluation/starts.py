"""What each method takes of weights that a run starts from, and what it makes of the parts that they lack."""

from __future__ import annotations

import logging
from typing import assert_never

from torch import Tensor

from mae_lite import config
from mae_lite.models.relative import TABLE, has_tables

_log = logging.getLogger(__name__)


def start(tensors: dict[str, Tensor], recipe: config.Recipe, init: str) -> tuple[dict[str, Tensor], list[str]]:
    """Return what a method starts from, and the patterns of names that start anew; say aloud what does.

    Args:
        tensors: by the method's names.
        recipe: of the run that starts.
        init: what to call the tensors in messages.
    """
    match recipe.method:
        case config.Supervised() as method:
            pooled = ["encoder.fc_norm.*"] if method.pooling == "mean" else []
            kept = {name: value for name, value in tensors.items() if not name.startswith("encoder.head.")}
            offsets = [f"*.{TABLE}"] if method.relative_positions and not has_tables(tensors) else []
            if offsets:
                _log.info("%s has no relative positions: they start at zero", init)
            return kept, ["encoder.head.*", *pooled, *offsets]
        case config.MAE() | config.DistilledMAE() | config.HOGAutoencoder() as method:
            kept, fresh = _with_decoder(tensors, recipe.plain_encoder, method, init)
            return kept, [*fresh, "matching.*"]
        case config.MaskFeat():
            shape = (config.hog_values(recipe.plain_encoder), recipe.plain_encoder.width)
            return _with_painter(tensors, shape, init)
        case config.SimMIM() | config.DistilledSimMIM() as method:
            width, stride = method.painted(recipe.encoder)
            kept, fresh = _with_painter(tensors, (stride**2 * recipe.encoder.channels, width), init)
            return kept, [*fresh, "matching.*"]
        case config.FeatureDistillation() as method:
            return _with_map(tensors, method, init), ["matching.*"]
        case config.MoCoV3():
            return _with_followers(tensors, init)
        case config.DINO():
            return _with_student(tensors, init)
        case never:
            assert_never(never)


def _with_decoder(
    tensors: dict[str, Tensor], encoder: config.Encoder, method: config.Masking, init: str
) -> tuple[dict[str, Tensor], list[str]]:
    if not any(name.startswith("decoder.") for name in tensors):
        _log.warning("%s has no decoder: it starts anew", init)
        return tensors, ["decoder.*"]
    projection, last = tensors.get("encoder.patch_embed.proj.weight"), tensors.get("decoder.pred.weight")
    if projection is None or last is None or projection.ndim != 4 or last.ndim != 2:
        return tensors, []  # loading says what is wrong
    channels = projection.shape[1]
    if channels != encoder.channels or len(last) != method.values(encoder):
        what = "painted other channels" if channels != encoder.channels else "predicted something else"
        _log.warning("%s %s: the decoder's last layer starts anew", init, what)
        kept = {name: value for name, value in tensors.items() if not name.startswith("decoder.pred.")}
        return kept, ["decoder.pred.*"]
    return tensors, []


def _with_painter(tensors: dict[str, Tensor], shape: tuple[int, int], init: str) -> tuple[dict[str, Tensor], list[str]]:
    """Keep the mask token, and the layer behind the encoder where it has ``shape``: values of a token, its width."""
    layer = tensors.get("painter.pred.weight")
    if layer is None:
        _log.warning("%s has no mask token and no layer behind the encoder: they start anew", init)
        return tensors, ["painter.*"]
    if layer.shape != shape:
        _log.warning("%s predicted something else: the layer behind the encoder starts anew", init)
        kept = {name: value for name, value in tensors.items() if not name.startswith("painter.pred.")}
        return kept, ["painter.pred.*"]
    return tensors, []


def _with_map(tensors: dict[str, Tensor], method: config.FeatureDistillation, init: str) -> dict[str, Tensor]:
    """Leave out a map to tokens of another width, or to something else than tokens."""
    found = tensors.get("matching.weight")
    if found is not None and found.shape[:1] == (method.teacher_width,):
        return tensors
    _log.warning("%s has no map to tokens of width %d: it starts anew", init, method.teacher_width)
    return {name: value for name, value in tensors.items() if not name.startswith("matching.")}


def _with_followers(tensors: dict[str, Tensor], init: str) -> tuple[dict[str, Tensor], list[str]]:
    """Let the momentum encoder start where the encoder does, unless the weights bring one."""
    if any(name.startswith("momentum_encoder.") for name in tensors):
        return tensors, []
    _log.warning("%s has no momentum encoder: it starts as a copy; projector and predictor start anew", init)
    own = {name: value for name, value in tensors.items() if name.startswith("encoder.")}
    copies = {f"momentum_{name}": value for name, value in own.items() if not name.startswith("encoder.head.")}
    return tensors | copies, ["projector.*", "predictor.*", "momentum_projector.*"]


def _with_student(tensors: dict[str, Tensor], init: str) -> tuple[dict[str, Tensor], list[str]]:
    """Let the student start where the encoder, its average, does, unless the weights bring one."""
    if any(name.startswith("student.") for name in tensors):
        return tensors, []
    _log.warning("%s has no student: it starts as a copy; the heads start anew", init)
    own = {name.removeprefix("encoder."): value for name, value in tensors.items() if name.startswith("encoder.")}
    copies = {f"student.{name}": value for name, value in own.items() if not name.startswith("head.")}
    return tensors | copies, ["student_head.*", "teacher_head.*", "centre"]
