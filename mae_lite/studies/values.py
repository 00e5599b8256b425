"""What a study is: recipes, data, downstream tasks, seeds and analyses, as one frozen value."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from mae_lite import recipes
from mae_lite.config import Config, Recipe
from mae_lite.errors import ConfigError

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
    seeds: int | None = Field(None, ge=1)
    """Only the first so many of the study's seeds; None takes all."""
    longer: float = Field(1.0, gt=0.0)
    """How many times a task's epochs it is fine-tuned for: training from scratch with the arithmetic of the others."""


class Task(Config):
    """Labels that all rows are fine-tuned on."""

    name: str
    part: str | None = None
    """Folder within the study's data that holds its images; None takes them as they are."""
    images: int | None = Field(None, ge=1)
    """Training images of these; None for as many as pre-training sees."""
    classes: int | None = Field(None, ge=2)
    """Classes of these; None for the study's."""
    changes: dict[str, Any] = Field(default_factory=dict)
    """Settings of every row's fine-tuning, as ``recipes.derive`` takes them."""


class Analysis(Config):
    """A look into the encoders of some rows at the first seed."""

    name: str
    kind: Literal["analyze", "probe", "layers"] = "analyze"
    """A command: analyze compares the first row with each of the others; probe measures the frozen features after every
    block; layers fine-tunes each row with a part of its blocks, with all seeds. The last two use the first task's
    labels."""
    rows: tuple[str, ...]
    images: int = Field(1000, ge=10)
    """How many images are looked at by analyze."""
    seeds: int | None = Field(None, ge=1)
    """The study's first so many seeds; None is one for analyze and probe, and all for layers. The page shows analyze
    and probe of the first; of the others, claims take the numbers."""


class Claim(Config):
    """What a source says of some rows, and the one number that is above zero where it is so."""

    says: str
    """A sentence."""
    kind: Literal["accuracy", "kept", "similarity", "entropy"]
    """What of ``row`` is compared with that of ``over``, seed by seed. accuracy: on ``task``, in points. kept: with the
    first half of its blocks kept, compared with the last half of the same row's, in points. similarity: CKA of its last
    block and that of the analysis' first row. entropy: of its last block's attention, in nats."""
    row: str
    over: str | None = None
    """None for kept alone."""
    task: str | None = None
    """None is the study's first; likewise the first analysis whose kind has the numbers."""


class Study(Config):
    """A comparison that can be repeated: every row on every task with every seed, and the analyses."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    """Name of its folder."""
    title: str
    notes: tuple[str, ...] = ()
    """Sentences below the table: what is fair, and what is not."""
    data: str | None = None
    """Images that are used where no --data is given; None asks for it."""
    part: str | None = None
    """Folder within these data that holds the images of pre-training; None takes them as they are."""
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
    claims: tuple[Claim, ...] = ()
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
        tuned = recipes.derive(row.finetuning, **{**task.changes, "seed": seed})
        if row.longer != 1.0:
            lengths: dict[str, Any] = {
                "epochs": tuned.epochs * row.longer,
                "warmup_epochs": tuned.warmup_epochs * row.longer,
            }
            tuned = recipes.derive(tuned, **lengths)
        return self._cut(tuned, task)

    def trained_on(self, recipe: Recipe, task: Task | None = None) -> int:
        """Return how many images a recipe trains on (see :func:`trained_on`), of pre-training's, or of a task's."""
        images = (task.images if task else None) or self.images
        classes = (task.classes if task else None) or self.classes
        return trained_on(recipe, images, classes)

    @model_validator(mode="after")
    def _check(self) -> Study:
        """Refuse an analysis that nothing could carry out.

        Raises:
            ConfigError: for rows that are not there, or that start from nothing where blocks are to be kept.
        """
        known = {row.name: row for row in self.rows}
        for analysis in self.analyses:
            for name in analysis.rows:
                if name not in known or (analysis.kind == "layers" and known[name].pretraining is None):
                    raise ConfigError(
                        f"analysis {analysis.name!r} of study {self.name!r}",
                        found=f"row {name!r}" + (", which starts from random weights" if name in known else ""),
                        expected=f"rows among {', '.join(known)}",
                        fix="name others in Analysis(rows=...)",
                    )
        for claim in self.claims:
            self._check_claim(claim)
        return self

    def _check_claim(self, claim: Claim) -> None:
        looked = self.looked_at(claim)
        known = [row.name for row in self.rows] if claim.kind == "accuracy" else looked.rows if looked else []
        named = [claim.row] if claim.kind == "kept" else [claim.row, str(claim.over)]
        wrong = [f"row {name!r}" for name in named if name not in known]
        if claim.task not in (None, *(task.name for task in self.tasks)):
            wrong.append(f"task {claim.task!r}")
        if wrong:
            raise ConfigError(
                f"claim {claim.says!r} of study {self.name!r}",
                found=wrong[0],
                expected=f"rows among {', '.join(known) or 'those of an analysis'}, and a task of the study",
                fix="name others in Claim(...)",
            )

    def looked_at(self, claim: Claim) -> Analysis | None:
        """Return the analysis that has the numbers of a claim; None for one on accuracy, or where there is none."""
        kind = {"kept": "layers", "similarity": "analyze", "entropy": "analyze"}.get(claim.kind)
        return next((one for one in self.analyses if one.kind == kind), None)

    def _cut(self, recipe: Recipe, task: Task | None = None) -> Recipe:
        return recipe if self.updates is None else few_updates(recipe, self.updates, self.trained_on(recipe, task))


def trained_on(recipe: Recipe, images: int, classes: int) -> int:
    """Return how many of ``images`` a recipe trains on: all, a share, some of each class, or what validation leaves."""
    if recipe.labels_per_class is not None:
        return min(recipe.labels_per_class * classes, images)
    if recipe.label_fraction is not None:
        return max(int(recipe.label_fraction * images), classes)
    if recipe.image_fraction is not None:
        return max(int(recipe.image_fraction * images), 1)
    return images - int(images * recipe.validation_fraction)


def few_updates(recipe: Recipe, updates: int, images: int) -> Recipe:
    """Return ``recipe`` with a schedule of ``updates``, a tenth of them warm-up, where it trains on ``images``."""
    per_epoch = max(images // recipe.global_batch_size, 1)
    return recipes.derive(recipe, epochs=updates / per_epoch, warmup_epochs=updates / 10 / per_epoch)
