"""The teacher of a distilled SimMIM: a run of SimMIM, for its mask token is needed too."""

from __future__ import annotations

from pathlib import Path

from mae_lite import config, files
from mae_lite.errors import CheckpointError
from mae_lite.evaluation.load import load_method
from mae_lite.methods.teacher import Teacher
from mae_lite.models import weights

_SHAPE = ("image_size", "channels", "patch_size", "width", "depths", "num_heads", "window_size")
_FLAGS = {"width": "teacher-width", "depths": "teacher-depths", "num_heads": "teacher-heads"}


def load_painter(recipe: config.Recipe, method: config.DistilledSimMIM, name: str) -> Teacher:
    """Return the teacher ``name``: encoder, mask token and all.

    Args:
        recipe: the student's.
        method: the method of ``recipe``.
        name: a run folder.

    Raises:
        CheckpointError: when it is no run of SimMIM with a Swin transformer, or one of another shape.
    """
    run = load_method(Path(name))
    found = run.recipe.encoder
    if not isinstance(run.recipe.method, config.Squares) or not isinstance(found, config.Swin):
        raise CheckpointError(
            f"the teacher {name!r} has no mask token and windows",
            found=f"a run of the method {run.recipe.method.kind}",
            expected="a run of SimMIM with a Swin transformer, which sees what the student sees",
            fix="train one: mae-lite pretrain simmim-swin-base --data DATA",
        )
    assert isinstance(recipe.encoder, config.Swin)  # the recipe has checked it
    expected = method.teacher(recipe.encoder)
    wrong = [part for part in _SHAPE if getattr(found, part) != getattr(expected, part)]
    if wrong:
        ours = [part for part in wrong if part in _FLAGS]
        raise CheckpointError(
            f"the teacher {name!r} is not the one that the recipe describes",
            found=", ".join(f"{part} {_words(getattr(found, part))}" for part in wrong),
            expected=", ".join(f"{part} {_words(getattr(expected, part))}" for part in wrong),
            fix=" ".join(f"--method.{_FLAGS[part]} {_words(getattr(found, part))}" for part in ours)
            if ours == wrong
            else "give a teacher pre-trained with the student's image size, patch size, window size and channels",
        )
    if (seen := _pixels(run.recipe)) != _pixels(recipe):
        raise CheckpointError(
            f"the teacher {name!r} was trained with other means",
            found=f"mean {seen[0]}, std {seen[1]}",
            expected=f"the student's, mean {recipe.augmentation.mean}, std {recipe.augmentation.std}",
            fix=f"--augmentation.mean {_words(seen[0])} --augmentation.std {_words(seen[1])}",
        )
    return Teacher(run.model, files.sha256(weights.to_bytes(run.model.state_dict())))


def _pixels(recipe: config.Recipe) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return recipe.augmentation.mean, recipe.augmentation.std


def _words(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
