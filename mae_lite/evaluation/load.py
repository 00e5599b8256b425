"""Models back from run folders and files, as plain modules."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_never

import torch
from torch import Tensor

from mae_lite import config, files, methods, rundir
from mae_lite.engine import checkpoint
from mae_lite.errors import CheckpointError, ConfigError
from mae_lite.methods.base import Method
from mae_lite.models import weights
from mae_lite.overrides import build

_log = logging.getLogger(__name__)
_HEADS = ("decoder.*", "matching.*", "projector.*", "predictor.*", "momentum_encoder.*", "momentum_projector.*")
"""What methods train beside the encoder; fine-tuning leaves it behind."""


@dataclass(frozen=True)
class LoadedRun:
    """A model of a run and what belongs to it."""

    model: Any
    """The timm model, in eval mode."""
    recipe: config.Recipe
    classes: tuple[str, ...] | None
    data: str
    step: int
    """Updates behind the weights."""


def load_run(path: Path) -> LoadedRun:
    """Load the newest weights of a run (their moving average where the recipe keeps one).

    Raises:
        CheckpointError: when there is no usable checkpoint.
    """
    record, recipe = _described(path, "a run folder, e.g. runs/NAME")
    classes = tuple(record["classes"]) if record["classes"] is not None else None
    found = checkpoint.newest(path)
    if found is None:
        raise CheckpointError(f"{str(path)!r} has no checkpoint yet", fix="wait for the run's first checkpoint")
    step, contents = found
    method = methods.build(recipe, len(classes or ()))
    weights.load_into(method, method_tensors(contents), source=f"{path} step {step}")
    return LoadedRun(method.encoder.eval(), recipe, classes, record["data"], step)


def _described(run: Path, what: str) -> tuple[dict[str, Any], config.Recipe]:
    """Return what ``recipe.json`` says of a run, and the recipe in it."""
    record = rundir.read_json(run / "recipe.json", what)
    if not (isinstance(record.get("recipe"), dict) and {"classes", "data"} <= record.keys()):
        raise CheckpointError(
            f"{str(run)!r} is not a run folder: its recipe.json was not written by a run", fix=f"give {what}"
        )
    try:
        return record, build(config.Recipe, record["recipe"])
    except ConfigError as error:
        raise CheckpointError(
            f"the recipe of {str(run)!r} cannot be used here: {error.what}",
            found=error.found,
            expected=error.expected,
            fix="use the version of mae_lite that wrote it (its provenance.json says which)",
        ) from error


def method_tensors(contents: dict[str, bytes]) -> dict[str, Tensor]:
    """Return the weights of a checkpoint by the method's names; the moving average where there is one."""
    if "ema.safetensors" not in contents:
        return weights.from_bytes(contents["model.safetensors"], "model.safetensors")
    averaged = weights.from_bytes(contents["ema.safetensors"], "ema.safetensors")
    return {name.removeprefix("module."): value for name, value in averaged.items() if name.startswith("module.")}


def load_encoder(path: str | Path) -> torch.nn.Module:
    """Return the encoder or classifier of a run folder as a timm model in eval mode.

    Raises:
        CheckpointError: when there is no usable checkpoint.
    """
    model: torch.nn.Module = load_run(Path(path)).model
    return model


def initial_tensors(
    init: str, encoder: config.Encoder, *, flag: str = "--init", heads_flag: str = "--encoder.num-heads"
) -> dict[str, Tensor]:
    """Read the weights of ``--init`` or ``--teacher`` by the method's names.

    Args:
        init: a run folder, a checkpoint folder, a timm folder, or a file.
        encoder: what they will be loaded into; heads are compared, since shapes cannot tell them apart.
        flag: what gave ``init``, for messages.
        heads_flag: what sets the number of heads, for messages.

    Raises:
        CheckpointError: when they cannot be read or have another number of heads.
    """
    path = Path(init)
    if not path.exists():
        nearby = sorted(str(p) for p in path.parent.glob("*") if p.is_dir())[:5] if path.parent.is_dir() else []
        where = f"; folders nearby: {', '.join(nearby)}" if nearby else ""
        raise CheckpointError(f"{flag} {init!r} does not exist{where}", fix="give a run folder or a checkpoint file")
    if path.is_file():
        _log.warning("%s does not say its number of heads; it is taken to be %d", init, encoder.num_heads)
        return weights.read_file(path)
    if (path / "config.json").exists():
        settings = rundir.read_json(path / "config.json", "a timm folder")
        heads = settings.get("model_args", {}).get("num_heads")
        if heads is None:
            _log.warning("%s does not say its number of heads; it is taken to be %d", init, encoder.num_heads)
        _check_heads(init, heads, encoder, heads_flag)
        if (path / files.MANIFEST).exists():
            files.read_folder(path)  # refuses what was damaged since it was written
        return weights.read_file(path / "model.safetensors")
    run = path.parent.parent if (path / files.MANIFEST).exists() else path
    _, recipe = _described(run, f"a run folder, a checkpoint folder or a file with {flag}")
    _check_heads(init, recipe.encoder.num_heads, encoder, heads_flag)
    if run != path:
        return method_tensors(files.read_folder(path))
    found = checkpoint.newest(run)
    if found is None:
        raise CheckpointError(f"{init!r} has no checkpoint yet", fix="finish that run first")
    state = rundir.read_json(run / "status.json", "a run folder").get("state")
    _log.log(
        logging.INFO if state == "finished" else logging.WARNING,
        "%s %s, step %d (%s)",
        "starting from" if flag == "--init" else "the teacher is",
        init,
        found[0],
        state,
    )
    return method_tensors(found[1])


def init_digest(init: str | None) -> str | None:
    """Return a hash of the weights that ``--init`` names, without loading them; None when there are none to hash."""
    if init is None:
        return None
    path = Path(init)
    newest = rundir.checkpoints(path)
    for file in (path, path / files.MANIFEST, *(folder / files.MANIFEST for _, folder in newest[:1])):
        if file.is_file():
            with file.open("rb") as handle:
                return hashlib.file_digest(handle, "sha256").hexdigest()
    return None


def _check_heads(init: str, heads: int | None, encoder: config.Encoder, flag: str) -> None:
    if heads is not None and heads != encoder.num_heads:
        raise CheckpointError(
            f"{init!r} was trained with another number of attention heads",
            found=str(heads),
            expected=str(encoder.num_heads),
            fix=f"{flag} {heads}",
        )


def load_initial(method: Method, recipe: config.Recipe, init: str | None) -> None:
    """Load the weights that a run starts from; a classification head always starts new.

    Raises:
        ConfigError: when the recipe and ``init`` do not go together.
        CheckpointError: when the weights do not fit.
    """
    if init is None:
        if recipe.start == "pretrained":
            raise ConfigError(
                f"recipe {recipe.name!r} fine-tunes pre-trained weights",
                found="no --init",
                expected="weights to start from",
                fix="add --init RUN, or use a recipe that trains from scratch",
            )
        return
    if recipe.start == "random" and isinstance(recipe.method, config.Supervised):
        raise ConfigError(
            f"recipe {recipe.name!r} starts from random weights",
            found=f"--init {init}",
            expected="no --init",
            fix="drop --init, or use a fine-tuning recipe",
        )
    tensors, fresh = _start(initial_tensors(init, recipe.encoder), recipe, init)
    dropped = ["encoder.head.*", *_HEADS]
    if isinstance(recipe.method, config.Supervised) and recipe.method.pooling == "mean":
        dropped.append("encoder.norm.*")
    weights.load_into(method, tensors, new=fresh, dropped=dropped, source=init)


def _start(tensors: dict[str, Tensor], recipe: config.Recipe, init: str) -> tuple[dict[str, Tensor], list[str]]:
    """Return what a method starts from, and the patterns of names that start anew."""
    match recipe.method:
        case config.Supervised() as method:
            pooled = ["encoder.fc_norm.*"] if method.pooling == "mean" else []
            kept = {name: value for name, value in tensors.items() if not name.startswith("encoder.head.")}
            return kept, ["encoder.head.*", *pooled]
        case config.MAE() | config.DistilledMAE():
            kept, fresh = _with_decoder(tensors, recipe, init)
            return kept, [*fresh, "matching.*"]
        case config.MoCoV3():
            return _with_followers(tensors, init)
        case never:
            assert_never(never)


def _with_decoder(tensors: dict[str, Tensor], recipe: config.Recipe, init: str) -> tuple[dict[str, Tensor], list[str]]:
    if not any(name.startswith("decoder.") for name in tensors):
        _log.warning("%s has no decoder: it starts anew", init)
        return tensors, ["decoder.*"]
    if tensors["encoder.patch_embed.proj.weight"].shape[1] != recipe.encoder.channels:
        _log.warning("%s painted other channels: the decoder's last layer starts anew", init)
        kept = {name: value for name, value in tensors.items() if not name.startswith("decoder.pred.")}
        return kept, ["decoder.pred.*"]
    return tensors, []


def _with_followers(tensors: dict[str, Tensor], init: str) -> tuple[dict[str, Tensor], list[str]]:
    """Let the momentum encoder start where the encoder does, unless the weights bring one."""
    if any(name.startswith("momentum_encoder.") for name in tensors):
        return tensors, []
    _log.warning("%s has no momentum encoder: it starts as a copy; projector and predictor start anew", init)
    own = {name: value for name, value in tensors.items() if name.startswith("encoder.")}
    copies = {f"momentum_{name}": value for name, value in own.items() if not name.startswith("encoder.head.")}
    return tensors | copies, ["projector.*", "predictor.*", "momentum_projector.*"]
