"""What a study is: recipes, data, downstream tasks, seeds and analyses, as one frozen value."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from mae_lite import recipes
from mae_lite.config import Config, Recipe

Scale = Literal["smoke", "cpu", "full"]


class Pretraining(Config):
    """Weights that a study makes; those that several rows start from are made once."""

    recipe: Recipe
    teacher: Pretraining | None = None
    """What ``recipe`` learns from; it is trained once, with the study's first seed, and teaches all seeds."""


class Row(Config):
    """One row of the result: a way to come to a classifier."""

    name: str = Field(pattern=r"^[^<>&]+$")
    """What the table and the figures call it."""
    pretraining: Pretraining | None = None
    """None trains from scratch."""
    finetuning: Recipe
    """How the classifier is trained."""
    bound: bool = False
    """Whether it knows what the others do not, so that it bounds them from above instead of competing."""
    published: float | None = None
    """Top-1 in percent that the source reports."""


class Task(Config):
    """Labels that all rows are fine-tuned on."""

    name: str
    data: str | None = None
    """None takes the study's."""
    changes: dict[str, Any] = Field(default_factory=dict)
    """Settings of every row's fine-tuning, as ``recipes.derive`` takes them."""


class Analysis(Config):
    """A look into the encoders of some rows at the first seed; CKA compares the first with each of the others."""

    name: str
    rows: tuple[str, ...]
    images: int = Field(1000, ge=10)


class Study(Config):
    """A comparison that can be repeated: every row on every task with every seed, and the analyses."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    """Name of its folder."""
    title: str
    notes: tuple[str, ...] = ()
    """Sentences below the table: what is fair, and what is not."""
    data: str | None = None
    """Images that are used where no --data is given; None asks for it."""
    images: int = Field(ge=1)
    """Training images of these data: what forecasts, and epochs that are cut, are reckoned with."""
    test_images: int = Field(ge=1)
    """Test images of these data."""
    classes: int = Field(ge=2)
    """Classes of these data."""
    rows: tuple[Row, ...]
    tasks: tuple[Task, ...]
    seeds: tuple[int, ...]
    against: str | None = None
    """Row that the others are compared with, seed by seed; None compares every two."""
    analyses: tuple[Analysis, ...] = ()
    runtime: dict[str, Any] = Field(default_factory=dict)
    """How its trainings are carried out, as fields of ``config.Runtime``; nothing that decides a result."""
    gflops_per_second: float = Field(gt=0.0)
    """Speed of one process that a forecast assumes."""
    hardware: str
    """What has this speed."""
    start_seconds: float = Field(5.0, ge=0.0)
    """Time that a process takes to begin."""

    updates: int | None = Field(None, ge=1)
    """Cut every training to so many updates, for a quick look; None leaves them."""

    def shorter(self, updates: int | None, seeds: int | None) -> Study:
        """Return this study with every training cut to ``updates``, and its first ``seeds`` seeds; None leaves them."""
        changes: dict[str, Any] = {} if updates is None else {"updates": updates}
        changes |= {} if seeds is None else {"seeds": self.seeds[:seeds]}
        return Study.model_validate(dict(self) | changes)

    def pretrained(self, recipe: Recipe, seed: int) -> Recipe:
        """Return a pre-training recipe as it is run with ``seed``."""
        return self._cut(recipes.derive(recipe, seed=seed))

    def finetuned(self, row: Row, task: Task, seed: int) -> Recipe:
        """Return a row's fine-tuning as it is run on ``task`` with ``seed``."""
        return self._cut(recipes.derive(row.finetuning, **{**task.changes, "seed": seed}))

    def trained_on(self, recipe: Recipe) -> int:
        """Return how many images a recipe trains on (see :func:`trained_on`)."""
        return trained_on(recipe, self.images, self.classes)

    def _cut(self, recipe: Recipe) -> Recipe:
        return recipe if self.updates is None else few_updates(recipe, self.updates, self.trained_on(recipe))


def trained_on(recipe: Recipe, images: int, classes: int) -> int:
    """Return how many of ``images`` a recipe trains on: all, some of each class, or those not kept for validation."""
    if recipe.labels_per_class is not None:
        return min(recipe.labels_per_class * classes, images)
    if recipe.label_fraction is not None:
        return max(int(recipe.label_fraction * images), classes)
    return images - int(images * recipe.validation_fraction)


def few_updates(recipe: Recipe, updates: int, images: int) -> Recipe:
    """Return ``recipe`` with a schedule of ``updates``, a tenth of them warm-up, where it trains on ``images``."""
    per_epoch = max(images // recipe.global_batch_size, 1)
    return recipes.derive(recipe, epochs=updates / per_epoch, warmup_epochs=updates / 10 / per_epoch)
