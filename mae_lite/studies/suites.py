"""Suites of labelled sets that pre-trained weights are transferred to, by name; a file names other places and sets."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field, model_validator

from mae_lite import overrides, recipes
from mae_lite.config import Config, Recipe
from mae_lite.errors import ConfigError, nearest
from mae_lite.studies.values import few_updates, trained_on

VALIDATION = 0.1
"""Share of the training images that a point of the grid is measured on, where the data bring none for that."""
_TUNED = "transfer-cifar100"
_DECIDED = ("lr_per_256", "layer_decay", "seed", "validation_fraction")
Rate = Annotated[float, Field(gt=0.0)]
Decay = Annotated[float, Field(gt=0.0, le=1.0)]


class Point(NamedTuple):
    """One combination of a grid."""

    lr_per_256: float
    layer_decay: float

    @property
    def name(self) -> str:
        """Part of a stage's name."""
        return f"rate-{self.lr_per_256:g}-decay-{self.layer_decay:g}"


class Set(Config):
    """A labelled set, and how a classifier is fine-tuned on it."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    data: str
    """As --data takes it."""
    test_data: str | None = None
    """Test images, where they are not the test part of ``data``."""
    recipe: str
    """Recipe of the fine-tuning; its encoder becomes that of the weights."""
    changes: dict[str, Any] = Field(default_factory=dict)
    """Settings of the recipe, as ``recipes.derive`` takes them."""
    lr_per_256: tuple[Rate, ...] = Field(min_length=1)
    """Learning rates of the grid, at a batch of 256."""
    layer_decay: tuple[Decay, ...] = Field(min_length=1)
    """Layer decays of the grid."""
    images: int | None = Field(None, ge=1)
    """Training images: what forecasts, and epochs that are cut, are reckoned with; None leaves them out."""
    test_images: int | None = Field(None, ge=1)
    classes: int | None = Field(None, ge=2)

    @property
    def test(self) -> str:
        """Where the test images are, as ``mae-lite evaluate`` takes it."""
        return self.test_data or self.data

    def points(self) -> list[Point]:
        """Return the grid."""
        return [Point(rate, decay) for rate in self.lr_per_256 for decay in self.layer_decay]

    @model_validator(mode="after")
    def _check(self) -> Set:
        for name in ("lr_per_256", "layer_decay"):
            values = getattr(self, name)
            if len({*values}) < len(values):
                raise ConfigError(f"{name} of {self.name!r}", found=f"{values}", expected="each once", fix="drop one")
        for name in _DECIDED:
            if name in self.changes:
                where = f"{name} of {self.name!r}, beside its changes" if name in _DECIDED[:2] else "no such change"
                raise ConfigError(
                    f"changes of {self.name!r}",
                    found=name,
                    expected="settings that neither the grid nor the suite decides",
                    fix=f"give {where}",
                )
        if self.recipe.endswith(".json") or recipes.get(self.recipe).start != "pretrained":
            raise ConfigError(
                f"recipe of {self.name!r}",
                found=repr(self.recipe),
                expected="one of this program, by name, that fine-tunes pre-trained weights",
                fix=f"recipe = '{_TUNED}', and what is to differ from it below changes",
            )
        recipes.derive(recipes.get(self.recipe), **self.changes)
        return self


class Suite(Config):
    """Sets, and how often each is repeated."""

    name: str
    title: str
    notes: tuple[str, ...] = ()
    """Sentences for the page: what is the source's, and what is not."""
    sets: tuple[Set, ...]
    usual: Mapping[str, Any]
    """Recipe and grid of a set that a file names without them."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """The grid has the first alone."""
    runtime: dict[str, Any] = Field(default_factory=dict)
    """How trainings are carried out, as fields of ``config.Runtime``; nothing that decides a result."""
    gflops_per_second: float = Field(10_000.0, gt=0.0)
    """Speed of one process that a forecast assumes."""
    hardware: str = "one GPU"
    """What has this speed."""
    start_seconds: float = Field(5.0, ge=0.0)
    """Time that a process takes to begin."""
    updates: int | None = Field(None, ge=1)
    """Cut every training to so many updates, for a quick look; None leaves them."""

    def shorter(self, updates: int | None, seeds: int | None) -> Suite:
        """Return this suite with every training cut to ``updates``, and its first ``seeds`` seeds; None leaves them.

        Raises:
            ConfigError: when a set does not say how many images it has, so that no epochs make so many updates.
        """
        unknown = [one.name for one in self.sets if one.images is None or one.classes is None]
        if updates is not None and unknown:
            raise ConfigError(
                "updates",
                found=f"nothing of how many images and classes {unknown[0]!r} has",
                expected="these numbers, to make epochs of updates",
                fix=f"write images = N and classes = N below [{unknown[0]}], or drop --updates",
            )
        changes: dict[str, Any] = {} if updates is None else {"updates": updates}
        changes |= {} if seeds is None else {"seeds": self.seeds[:seeds]}
        return self.model_copy(update=changes)

    def tried(self, recipe: Recipe, one: Set, point: Point) -> Recipe:
        """Return the fine-tuning that measures a point of the grid, on images kept out of training."""
        return self._run(recipe, one, point, seed=self.seeds[0], validation_fraction=VALIDATION)

    def final(self, recipe: Recipe, one: Set, point: Point, seed: int) -> Recipe:
        """Return the fine-tuning at the best point, on all training images."""
        return self._run(recipe, one, point, seed=seed, validation_fraction=0.0)

    def _run(self, recipe: Recipe, one: Set, point: Point, **settings: Any) -> Recipe:
        made = recipes.derive(recipe, **point._asdict(), **settings)
        if self.updates is None:
            return made
        return few_updates(made, self.updates, trained_on(made, one.images or 1, one.classes or 2))


def names() -> list[str]:
    """Return the names of all suites."""
    return list(_SUITES)


def get(name: str, sources: Path | None = None, sets: Sequence[str] | None = None) -> Suite:
    """Return the suite called ``name``.

    Args:
        name: one of :func:`names`.
        sources: a TOML file with a table for each set that lies elsewhere, or is the user's own.
        sets: names of the sets to take; None takes all.

    Raises:
        ConfigError: for an unknown suite or set, or a file that cannot be used.
    """
    if name not in _SUITES:
        raise ConfigError(
            "suite", found=f"{name!r}{nearest(name, _SUITES)}", expected=f"one of {', '.join(_SUITES)}",
            fix="choose one of them with --suite",
        )  # fmt: skip
    suite = _SUITES[name]
    if sources is not None:
        suite = _with_sources(suite, sources)
    if sets is None:
        return suite
    known = {one.name: one for one in suite.sets}
    if missing := [one for one in sets if one not in known] or ([] if sets else ["none"]):
        raise ConfigError(
            "sets",
            found=f"{missing[0]!r}{nearest(missing[0], known)}",
            expected=f"some of {', '.join(known)}",
            fix=f"--sets {next(iter(known))}, or describe the set in a file: --sources FILE",
        )
    return suite.model_copy(update={"sets": tuple(known[one] for one in dict.fromkeys(sets))})


def _with_sources(suite: Suite, path: Path) -> Suite:
    """Return ``suite`` with the sets of a file: other places of its own, and new ones behind them."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"sources {str(path)!r} cannot be read",
            found=str(error),
            expected="a TOML file with a table for each set",
            fix='write for instance: [birds] on one line, data = "folder_of_birds" on the next',
        ) from error
    found = {one.name: one for one in suite.sets}
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise ConfigError(
                f"sources {str(path)!r}: {name}", found=repr(table), expected="a table for each set", fix=f"[{name}]"
            )
        found[name] = _from_table(suite, found.get(name), name, table, path)
    return suite.model_copy(update={"sets": tuple(found.values())})


def _from_table(suite: Suite, known: Set | None, name: str, table: dict[str, Any], path: Path) -> Set:
    base: dict[str, Any] = {**suite.usual, "name": name} if known is None else known.model_dump()
    if "data" in table:  # test images elsewhere belong to the data that were replaced
        base.pop("test_data", None)
    try:
        return overrides.build(Set, {**base, **_nothing(table), "name": name})
    except ConfigError as error:
        raise ConfigError(
            f"sources {str(path)!r}, [{name}]: {error.what}", found=error.found, expected=error.expected, fix=error.fix
        ) from error


def _nothing(table: dict[str, Any]) -> dict[str, Any]:
    """Return ``table`` with "None", which TOML has no value for, as flags read it."""
    words = {name: _nothing(value) if isinstance(value, dict) else value for name, value in table.items()}
    return {name: None if value == "None" else value for name, value in words.items()}


_RATES, _DECAYS = (0.015, 0.05, 0.15), (0.75, 0.85, 1.0)
_USUAL: dict[str, Any] = {"recipe": _TUNED, "lr_per_256": _RATES, "layer_decay": _DECAYS}


def _photographs(name: str, data: str, images: int, test_images: int, classes: int, **more: Any) -> Set:
    numbers = {"images": images, "test_images": test_images, "classes": classes}
    return Set.model_validate({**_USUAL, "name": name, "data": f"torchvision:{data}", **numbers, **more})


def _longer(batch: int, epochs: float) -> dict[str, Any]:
    """Return the changes for a small set, with CIFAR-100's share of warm-up."""
    return {"global_batch_size": batch, "epochs": epochs, "warmup_epochs": epochs / 5}


PAPER = Suite(
    name="paper",
    title="Transfer to other classification tasks",
    notes=(
        "CIFAR-100's settings are the paper's, all of them, so that it has no grid. On the other sets rate and layer "
        "decay come from a grid; its values, and the batches and epochs of the sets below 10,000 images, are this "
        "program's choice, since the paper's public recipe does not say them.",
        "Flowers is trained on its 1,020 training images, and its grid measured on its own 1,020 validation images, "
        "which the final runs do not train on. Published numbers often train on both.",
        "iNaturalist is the small training part of 2021, measured on the published validation images, since test "
        "labels are not public.",
    ),
    usual=_USUAL,
    sets=(
        _photographs("cifar10", "cifar10", 50_000, 10_000, 10),
        _photographs("cifar100", "cifar100", 50_000, 10_000, 100, lr_per_256=(0.05,), layer_decay=(0.75,)),
        _photographs("flowers", "flowers102", 1020, 6149, 102, changes=_longer(64, 200)),
        _photographs("pets", "oxfordiiitpet", 3680, 3669, 37, changes=_longer(128, 100)),
        _photographs(
            "aircraft", "fgvcaircraft#trainval", 6667, 3333, 100,
            test_data="torchvision:fgvcaircraft#test", changes=_longer(128, 100),
        ),
        _photographs("cars", "stanfordcars", 8144, 8041, 196, changes=_longer(128, 100)),
        _photographs(
            "inaturalist", "inaturalist#2021_train_mini", 500_000, 100_000, 10_000,
            test_data="torchvision:inaturalist#2021_valid", layer_decay=(0.75,),
        ),
    ),
)  # fmt: skip

_DIGITS = {"recipe": "digits-finetune", "lr_per_256": (5e-3, 1e-2, 2e-2), "layer_decay": (0.6, 0.8)}
_NUMBERS = {"data": "digits", "images": 1346, "test_images": 451, "classes": 10}
_ALL = {"labels_per_class": None, "global_batch_size": 128, "epochs": 15.0, "warmup_epochs": 1.5}

DIGITS = Suite(
    name="digits",
    title="Transfer to handwritten digits",
    notes=("This tries the command where it is quick; the digits are those that digits-mae was pre-trained on.",),
    usual=_DIGITS,
    sets=(
        Set.model_validate(
            {**_DIGITS, **_NUMBERS, "name": "digits", "changes": _ALL, "lr_per_256": (2e-3, 4e-3, 8e-3)}
        ),
        Set.model_validate({**_DIGITS, **_NUMBERS, "name": "digits-few"}),
    ),
    runtime={"workers": 0, "accelerator": "cpu"},
    gflops_per_second=40.0,
    hardware="one CPU core",
)

_SUITES = {suite.name: suite for suite in (PAPER, DIGITS)}
