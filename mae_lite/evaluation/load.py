"""Models back from run folders and files, as plain modules."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mae_lite import config, files, methods, rundir, shipped
from mae_lite.errors import CheckpointError
from mae_lite.evaluation import incoming, keeping, starts
from mae_lite.methods.base import Method
from mae_lite.models import weights
from mae_lite.models.fitting import check_patterns
from mae_lite.models.relative import has_tables

_log = logging.getLogger(__name__)
HEADS_FLAG = "--encoder.num-heads"
_HEADS = (
    *("decoder.*", "matching.*", "painter.*"),
    *("projector.*", "predictor.*", "momentum_encoder.*", "momentum_projector.*"),
    *("student.*", "student_head.*", "teacher_head.*", "centre"),
)
"""What methods train beside the encoder; fine-tuning leaves it behind."""


@dataclass(frozen=True)
class LoadedRun:
    """A model of a run and what belongs to it."""

    model: Any
    """The timm model, or the method around it, in eval mode."""
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
    run = load_method(path)
    return replace(run, model=run.model.encoder)


def load_method(path: Path) -> LoadedRun:
    """Load what :func:`load_run` does with all that was trained beside the encoder: ``model`` is the whole method.

    Raises:
        CheckpointError: when there is no usable checkpoint.
    """
    record, recipe = incoming.described(path, "a run folder, e.g. runs/NAME")
    classes = tuple(record["classes"]) if record["classes"] is not None else None
    step, contents = incoming.newest(path)
    method = methods.build(recipe, len(classes or ()))
    weights.load_into(method, incoming.method_tensors(contents), source=f"{path} step {step}")
    return LoadedRun(method.eval(), recipe, classes, record["data"], step)


def initial_tensors(
    init: str, encoder: config.Encoder | config.Swin, *, flag: str = "--init", heads_flag: str = HEADS_FLAG
) -> dict[str, Tensor]:
    """Read the weights of ``--init`` or ``--teacher`` by the method's names.

    Args:
        init: a run folder, a checkpoint folder, a folder of timm, Hugging Face or ``mae-lite convert``, or a file.
        encoder: what they will be loaded into; heads are compared, since shapes cannot tell them apart (but Swin's).
        flag: what gave ``init``, for messages.
        heads_flag: what sets the number of heads, for messages.

    Raises:
        CheckpointError: when they cannot be read or have another number of heads.
    """
    return initial_weights(init, encoder, flag=flag, heads_flag=heads_flag).found.tensors


def initial_weights(
    init: str, encoder: config.Encoder | config.Swin, *, flag: str, heads_flag: str
) -> incoming.Incoming:
    """Do what :func:`initial_tensors` does; return all that the source says, for instance mean and deviation."""
    found = incoming.read(init, flag=flag)
    if isinstance(encoder, config.Encoder):
        if found.heads is None:
            _log.warning("%s does not say its number of heads; it is taken to be %d", init, encoder.num_heads)
        _check_heads(init, found, encoder, heads_flag)
    for words in _differences(found):
        _log.warning("%s: %s", init, words)
    return found


def _differences(source: incoming.Incoming) -> Iterator[str]:
    """Yield what was changed or left out on the way in."""
    if source.found.dropped:
        names = ", ".join(source.found.dropped[:3])
        yield f"{len(source.found.dropped)} tensors of {source.found.layout} are not used here ({names}, ...)"
    yield from source.found.notes
    if source.eps is not None and source.eps != 1e-6:
        yield f"its LayerNorm adds {source.eps:g}, the one here 1e-06"


def init_digest(init: str | None) -> str | None:
    """Return a hash of the weights that ``--init`` names, without loading them; None when there are none to hash."""
    if init is None:
        return None
    path = Path(shipped.resolved(init))
    newest = [folder / files.MANIFEST for _, folder in rundir.checkpoints(path)[:1]]
    for file in (path, path / files.MANIFEST, path / "model.safetensors", *newest):
        if file.is_file():
            with file.open("rb") as handle:
                return hashlib.file_digest(handle, "sha256").hexdigest()
    return None


def _check_heads(init: str, found: incoming.Incoming, encoder: config.Encoder, flag: str) -> None:
    if found.heads is None or found.heads == encoder.num_heads:
        return
    differ = found.differences(encoder) if flag == HEADS_FLAG else {}
    if len(differ) > 1:  # heads are but one of them
        theirs, ours = (
            ", ".join(f"{name.replace('_', ' ')} {both[place]}" for name, both in differ.items()) for place in (0, 1)
        )
        raise CheckpointError(
            f"{init!r} has another encoder", found=theirs, expected=ours, fix=found.shape_flags(encoder)
        )
    raise CheckpointError(
        f"{init!r} was trained with another number of attention heads",
        found=str(found.heads),
        expected=str(encoder.num_heads),
        fix=f"{flag} {found.heads}",
    )


def check_initial(recipe: config.Recipe, classes: int, init: str, allow_missing: Sequence[str] = ()) -> None:
    """Refuse what :func:`load_initial` refuses, before a run folder is made; how weights fit is said when they load.

    Args:
        recipe: of the run.
        classes: of its images.
        init: as the user gave it.
        allow_missing: as the user gave it.

    Raises:
        ConfigError: as :func:`load_initial`.
        CheckpointError: as :func:`load_initial`.
    """
    talking = [logging.getLogger(name) for name in ("mae_lite.evaluation", "mae_lite.models")]
    levels = [one.level for one in talking]
    try:
        for one in talking:
            one.setLevel(logging.ERROR)
        with torch.device("meta"):  # shapes alone, without the memory and the time of initial values
            method = methods.build(recipe, classes)
        load_initial(method, recipe, init, allow_missing)
    finally:
        for one, level in zip(talking, levels, strict=True):
            one.setLevel(level)


def load_initial(method: Method, recipe: config.Recipe, init: str | None, allow_missing: Sequence[str] = ()) -> None:
    """Load the weights that a run starts from; a classification head always starts new.

    Raises:
        ConfigError: when the recipe and ``init`` do not go together, or ``allow_missing`` allows nothing.
        CheckpointError: when the weights do not fit.
    """
    incoming.check_start(recipe, init)
    if init is None:
        check_patterns(allow_missing, (), "a start without --init")
        return
    source = initial_weights(init, recipe.encoder, flag="--init", heads_flag=HEADS_FLAG)
    _check_tables(source.found.tensors, recipe, init)
    tensors, fresh = starts.start(source.found.tensors, recipe, init)
    if isinstance(recipe.method, config.Supervised) and recipe.method.keep_blocks is not None:
        tensors, anew = keeping.kept(tensors, recipe.plain_encoder.depth, recipe.method.keep_blocks, init)
        fresh = [*fresh, *anew]
    dropped = ["encoder.head.*", *_HEADS]
    if isinstance(recipe.method, config.Supervised) and recipe.method.pooling == "mean":
        dropped.append("encoder.norm.*")
    try:
        weights.load_into(method, tensors, new=fresh, dropped=dropped, allow_missing=allow_missing, source=init)
    except CheckpointError as error:
        if not (flags := source.shape_flags(recipe.encoder)):
            raise
        fix = f"{flags} (the encoder of that run), or {error.fix}"
        raise CheckpointError(error.what, found=error.found, expected=error.expected, fix=fix) from error


def _check_tables(tensors: dict[str, Tensor], recipe: config.Recipe, init: str) -> None:
    """Refuse weights with relative positions where the recipe has no place for them."""
    match recipe.method:
        case config.Supervised(relative_positions=True):
            return
        case config.Supervised():
            refuse_tables(init, tensors, "--method.relative-positions false", "--method.relative-positions true")
        case method:
            found = f"the method {method.kind}, which has none"
            refuse_tables(init, tensors, found, "give the weights that it was fine-tuned from")


def refuse_tables(name: str, tensors: Mapping[str, Tensor], found: str, fix: str) -> None:
    """Refuse weights with relative positions.

    Args:
        name: what to call them.
        tensors: by our names.
        found: what has no place for them.
        fix: what to do.

    Raises:
        CheckpointError: when ``tensors`` hold tables.
    """
    if has_tables(tensors):
        raise CheckpointError(
            f"{name!r} was trained with relative positions",
            found=found,
            expected="a place for them: without them it computes something else",
            fix=fix,
        )
