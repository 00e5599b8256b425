"""Pre-trained weights that are transferred: what tells them from others, and what a fine-tuning recipe becomes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mae_lite import config, files, methods, overrides, recipes
from mae_lite.analysis.loading import labels_of
from mae_lite.errors import CheckpointError, ConfigError
from mae_lite.evaluation import incoming
from mae_lite.evaluation.load import init_digest, load_initial
from mae_lite.models import sizes
from mae_lite.models.relative import has_tables
from mae_lite.studying.stages import Start

_NOT_SHAPE = {"positions", "init", "drop_path"}
"""Of an encoder's settings those that a recipe keeps: how new weights begin, and how they are trained."""


@dataclass(frozen=True)
class Model:
    """Weights and the shape of their encoder."""

    label: str
    """What tables and figures call it."""
    weights: str
    """As --init takes them."""
    identity: str
    """Hash of the weights; where they have none, their path."""
    encoder: config.Encoder | config.Swin
    relative_positions: bool
    mean: tuple[float, ...] | None
    """Of the images that the weights have seen, where that is known; likewise the deviation."""
    std: tuple[float, ...] | None

    @property
    def start(self) -> Start:
        """Where a fine-tuning begins."""
        return Start(self.weights, self.identity, stage=False)

    def adapted(self, recipe: config.Recipe) -> config.Recipe:
        """Return a fine-tuning recipe with this encoder, at the size and with the normalisation of its images.

        Raises:
            ConfigError: when no recipe is made of both.
        """
        changes: dict[str, Any] = {"encoder": self.encoder.model_dump(exclude=_NOT_SHAPE)}
        if self.mean is not None and self.std is not None:
            changes["augmentation"] = {"mean": self.mean, "std": self.std}
        if self.relative_positions:
            changes["method"] = {"relative_positions": True}
        return recipes.derive(recipe, **changes)

    def check(self, recipe: config.Recipe, classes: int = 2) -> None:
        """Load the weights into what an adapted ``recipe`` trains, so that misfits come to light before any run.

        Raises:
            CheckpointError: when they do not fit.
        """
        load_initial(methods.build(recipe, classes), recipe, self.weights)


def read(sources: Sequence[str], heads: int | None = None) -> list[Model]:
    """Read run folders, checkpoints, or whatever else --init takes.

    Args:
        sources: their paths.
        heads: attention heads of those that do not say.

    Raises:
        CheckpointError: when one cannot be read, or does not say what encoder it is.
        ConfigError: when the same weights are given twice.
    """
    models: list[Model] = []
    for label, source in zip(labels_of(sources), sources, strict=True):
        model = _read(label, source, heads)
        same = next((other for other in models if other.identity == model.identity), None)
        if same is not None:
            raise ConfigError(
                f"{source!r}", found=f"the weights of {same.weights!r}", expected="others", fix="give each once"
            )
        models.append(model)
    return models


def _read(label: str, source: str, heads: int | None) -> Model:
    found = incoming.read(source)
    tensors = {name: value for name, value in found.found.tensors.items() if name.startswith("encoder.")}
    return Model(
        label=label,
        weights=source,
        identity=init_digest(source) or source,
        encoder=_encoder(source, found, tensors, heads),
        relative_positions=has_tables(tensors),
        mean=found.mean,
        std=found.std,
    )


def _encoder(
    source: str, found: incoming.Incoming, tensors: dict[str, Tensor], heads: int | None
) -> config.Encoder | config.Swin:
    """Return the encoder as a run or ``mae-lite convert`` describes it, else as its tensors tell it."""
    path = Path(source)
    run = path.parent.parent if (path / files.MANIFEST).exists() and path.parent.name == "checkpoints" else path
    if run.is_dir() and (run / "recipe.json").exists():
        return incoming.described(run, "a run folder")[1].encoder
    if found.settings.get("kind") == "mae_lite":
        return overrides.build(config.Encoder, found.settings["encoder"])
    if any(name.startswith("encoder.layers.") for name in tensors):
        raise CheckpointError(
            f"{source!r} is a Swin transformer that does not say its windows",
            expected="the folder of the run that made it",
            fix="give the run folder, with its recipe.json",
        )
    token = tensors.get("encoder.cls_token")
    width = 0 if token is None else token.shape[-1]
    asked = heads if found.heads is None else None  # one number is asked for all: those that state their own keep it
    return sizes.encoder_size(tensors, sizes.chosen_heads(asked, found.heads, width, source), source)


def quiet() -> None:
    """Leave out of the log how weights fit, which every run says in its own."""
    for name in ("mae_lite.evaluation", "mae_lite.models"):
        logging.getLogger(name).setLevel(logging.ERROR)
