"""Models to look into: runs, checkpoints of any known layout, timm folders and timm's own, with how they see images."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch

from mae_lite import config, draws, shipped
from mae_lite.errors import CheckpointError, ConfigError, nearest
from mae_lite.evaluation import incoming
from mae_lite.evaluation.building import built, is_swin, preparation
from mae_lite.evaluation.teacher import fetched
from mae_lite.evaluation.token_teacher import from_timm_folder, timm_settings
from mae_lite.models.taps import oddity

_TIMM = "timm:"


@dataclass(frozen=True)
class Analysed:
    """A model and what its input has to be."""

    source: str
    """What the user gave."""
    model: Any
    """A plain Vision Transformer of timm in eval mode."""
    augmentation: config.Augmentation
    """Mean, deviation and evaluation crop of its images."""
    method: str = ""
    """Kind of the pre-training method, where the source says it."""

    @property
    def channels(self) -> int:
        """Channels of its images."""
        return int(self.model.patch_embed.proj.in_channels)

    @property
    def side_px(self) -> int:
        """Side of its images."""
        return int(self.model.patch_embed.img_size[0])

    @property
    def patch_px(self) -> int:
        """Side of its patches."""
        return int(self.model.patch_embed.patch_size[0])

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        rows, columns = self.model.patch_embed.grid_size
        return int(rows), int(columns)


def load(source: str, *, heads: int | None = None, random: bool = False, seed: int = 0) -> Analysed:
    """Return the model that ``source`` names.

    Args:
        source: timm:NAME, pretrained:NAME, a timm folder, a run, a checkpoint folder, a folder of ``mae-lite convert``,
            or a file.
        heads: attention heads, where the source does not say.
        random: whether a timm:NAME starts with initial values instead of published weights.
        seed: of these values.

    Raises:
        ConfigError: for a NAME that timm does not have.
        CheckpointError: when the weights cannot be read, or belong to no plain Vision Transformer.
    """
    method, place = "", shipped.resolved(source)
    if source.startswith(_TIMM):
        model = _of_timm(source, random, seed)
        known = model.pretrained_cfg
    elif (settings := timm_settings(Path(place))) is not None:
        model, known = from_timm_folder(Path(place), partial(_check, source)), settings.get("pretrained_cfg") or {}
    else:
        if (Path(place) / "recipe.json").exists():
            method = incoming.described(Path(source), "a run folder")[1].method.kind
        model, known = _of_weights(source, heads)
    _check(source, model)
    augmentation = preparation(source, model.patch_embed.proj.in_channels, known)
    return Analysed(source, model.eval(), augmentation, method)


def _check(source: str, model: Any) -> None:
    """Refuse what is no plain Vision Transformer for square images.

    Raises:
        CheckpointError: says what it is.
    """
    if (found := oddity(model)) is not None:
        raise _refused(source, found)
    embed = model.patch_embed
    if len({*embed.img_size}) > 1 or len({*embed.patch_size}) > 1:
        found = f"images of {embed.img_size} and patches of {embed.patch_size} pixels"
        raise _refused(source, found, "square images and patches", "give another model")


def _of_timm(source: str, random: bool, seed: int) -> Any:
    architecture = source.removeprefix(_TIMM)
    known = timm.list_models()
    if architecture.partition(".")[0] not in known:
        raise ConfigError(
            source,
            found=f"{architecture!r}{nearest(architecture.partition('.')[0], known)}",
            expected="a Vision Transformer of timm",
            fix="timm:vit_tiny_patch16_224",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draws.key(seed, "init") >> 1)
        if random:
            return timm.create_model(architecture, pretrained=False, num_classes=0)
        return fetched(source, architecture, "--random for its initial values, or give a folder that timm wrote")


def _of_weights(source: str, heads: int | None) -> tuple[Any, dict[str, Any]]:
    found = incoming.read(source)
    if is_swin(found):
        raise _refused(source, "a Swin transformer, whose tokens are merged and whose attention is local")
    # One number is asked for all models: those that state their own keep it.
    model = built(source, found, heads if found.heads is None else None, head=False)
    return model, {"mean": found.mean, "std": found.std, "crop_pct": found.crop}


def labels_of(sources: Sequence[str]) -> list[str]:
    """Return a short name for each model that can stand in a file's name: its last part, with a number if need be."""
    found: list[str] = []
    for source in sources:
        stem = source.rstrip("/").split("/")[-1].removeprefix(_TIMM).removeprefix(shipped.PREFIX)
        if stem in ("encoder", "classifier"):
            stem = source.rstrip("/").split("/")[-2] if "/" in source.rstrip("/") else stem
        name = "".join(sign if sign.isalnum() or sign in "-." else "_" for sign in stem).strip(".") or "model"
        numbered = (name if number == 1 else f"{name}-{number}" for number in itertools.count(1))
        found.append(next(candidate for candidate in numbered if candidate not in found))
    return found


def _refused(
    source: str,
    found: str,
    expected: str = "a plain Vision Transformer, whose tokens and attention mean the same in every block",
    fix: str = "give a run, a checkpoint or a timm model of that kind, e.g. timm:vit_tiny_patch16_224",
) -> CheckpointError:
    return CheckpointError(f"{source!r} cannot be analysed", found=found, expected=expected, fix=fix)
