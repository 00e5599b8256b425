"""What is done to weights on their way into a model, each thing said aloud, and what is said where they do not fit."""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mae_lite.errors import CheckpointError, ConfigError
from mae_lite.models.relative import TABLE, resized_tables
from mae_lite.models.vit import adapted_projection, resized_positions

_log = logging.getLogger(__name__)


def fitted(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Return ``tensors`` as a model takes them; one whose shape cannot be adapted keeps it.

    Args:
        tensors: by the model's own names.
        own: what the model has under these names.
        source: what to call the tensors in messages.

    Raises:
        CheckpointError: for what no cast makes the model's numbers, or positions of no square grid.
    """
    fitting = cast(tensors, {key: own[key].dtype for key in tensors}, source)
    for key, value in fitting.items():
        wanted = own[key].shape
        if key.endswith("pos_embed") and value.ndim == 3 and _alike(value, wanted) and value.shape[1] != wanted[1]:
            fitting[key] = resized_positions(value, wanted[1])
        elif key.endswith("patch_embed.proj.weight") and value.ndim == 4 and value.shape[1]:
            fitting[key] = adapted_projection(value, wanted[1])
    tables = {key: len(own[key]) for key, value in fitting.items() if key.endswith(TABLE) and value.ndim == 2}
    return fitting | resized_tables(fitting, tables)


def _alike(table: Tensor, wanted: torch.Size) -> bool:
    """Say whether a table of positions differs in their number alone."""
    return table.shape[0] == wanted[0] and table.shape[2] == wanted[2]


def cast(tensors: Mapping[str, Tensor], wanted: Mapping[str, torch.dtype], source: str) -> dict[str, Tensor]:
    """Return ``tensors`` as the kinds of number in ``wanted``, by name, and say once what became of which.

    Raises:
        CheckpointError: for complex numbers, which would lose a half, and for finite ones that would become infinite.
    """
    others = {key: value for key, value in tensors.items() if value.dtype != wanted[key]}
    found = {key: value.to(wanted[key]) for key, value in others.items() if not value.is_complex()}
    for key, value in others.items():
        if value.is_complex() or not torch.equal(value.isfinite(), found[key].isfinite()):
            what = "complex numbers" if value.is_complex() else f"numbers too large for {_name(wanted[key])}"
            raise CheckpointError(
                f"{source!r}: tensor {key!r} holds {what}",
                found=f"{_name(value.dtype)} {list(value.shape)}",
                expected=_name(wanted[key]),
                fix="save it as dense floats",
            )
    if others:
        kinds = " and ".join(sorted({_name(value.dtype) for value in others.values()}))
        become = " and ".join(sorted({_name(wanted[key]) for key in others}))
        whole = not all(value.is_floating_point() for value in others.values())
        note = "; of whole numbers, such as quantised weights, the scale is not known here" if whole else ""
        level = logging.WARNING if whole else logging.INFO
        _log.log(
            level, "%s: %d tensors of %s became %s, as the model has it%s", source, len(others), kinds, become, note
        )
    return {**tensors, **found}


def _name(kind: torch.dtype) -> str:
    return str(kind).removeprefix("torch.")


def unfit(source: str, problems: Sequence[str], count: int, anew: Sequence[str]) -> CheckpointError:
    """Return the error that names the first five ``problems``.

    Args:
        source: what to call the weights.
        problems: a tensor each.
        count: tensors of the model.
        anew: patterns of ``--allow-missing`` that would do; none where it would not help.
    """
    more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
    allow = " ".join(anew) if len(anew) <= 5 else "PATTERN ..."
    return CheckpointError(
        f"{source!r} does not fit the model in {len(problems)} of {count} tensors",
        found="; ".join(problems[:5]) + more,
        fix="use a recipe with the encoder that these weights were trained with"
        + (f", or let what is missing start anew: --allow-missing {allow}" if anew else ""),
    )


def check_patterns(patterns: Sequence[str], missing: Sequence[str], source: str) -> None:
    """Refuse a pattern that allows nothing: it is misspelt, or these are not the weights that it was meant for.

    Raises:
        ConfigError: names it, and what is missing.
    """
    vain = [pattern for pattern in patterns if not any(fnmatch.fnmatchcase(key, pattern) for key in missing)]
    if not vain:
        return
    lacks = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
    raise ConfigError(
        "allow_missing",
        found=f"{vain[0]!r}, which no tensor has that {source!r} lacks",
        expected=f"patterns of what it lacks: {lacks}" if missing else "no patterns, since it lacks nothing",
        fix=f"--allow-missing {' '.join(one for one in patterns if one not in vain) or 'PATTERN ...'}"
        if missing
        else "drop --allow-missing",
    )
