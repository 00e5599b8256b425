"""Ways to a classifier of small photographs: on CIFAR-10 or data of its size, and from some classes to others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from mae_lite import recipes
from mae_lite.config import Recipe, Supervised
from mae_lite.studies.claimed import claim, looks
from mae_lite.studies.values import Analysis, Claim, Pretraining, Row, Scale, Study, Task

_BATCH = 128
"""Of everything that is not done at full scale."""
_TINY: dict[Scale, dict[str, Any]] = {
    "smoke": {"width": 48, "depth": 2, "num_heads": 6},
    "cpu": {"width": 96, "depth": 4, "num_heads": 6},
}
_TEACHER_FACTOR = 2
"""How much wider the teacher is where encoders are made smaller."""
_SHARE = 0.2
"""Of the pre-training images, where encoders are made smaller: 10,000 of 50,000."""
_PRETRAINING_EPOCHS = 20.0
_RATES = {"mae": 4e-3, "distilled_mae": 4e-3, "mocov3": 3e-4, "supervised": 2.5e-3, "finetune": 5e-3,
          "scratch": 6.25e-4}  # fmt: skip
"""lr_per_256 of small encoders: those of scratch, MAE, D-MAE and MoCo-v3, each with its fine-tuning's, are the best of
six settings each (benchmarks/results/cifar10_search_cpu.json), and so is that of supervised pre-training
(cifar10-scarce_search_cpu.json). The teacher has MAE's."""
_LONGER = 3.0
"""Epochs of a second scratch: as much arithmetic as MAE's pre-training and fine-tuning with all labels take."""
_KEPT: dict[Scale, tuple[Analysis, ...]] = {
    "smoke": (),
    "cpu": (Analysis(name="kept", kind="layers", rows=("MAE",), seeds=3),),
    "full": (Analysis(name="kept", kind="layers", rows=("MoCo-v3", "MAE")),),
}


class _Data(NamedTuple):
    """What a study of this module works on."""

    images: int
    test_images: int
    classes: int
    part: str | None


def study(scale: Scale) -> Study:
    """Return the study of all ten classes; docs/studies.md says what the scales are."""
    data = _Data(50_000, 10_000, 10, None)
    rows = (*_scratches(scale), *_pretrained(scale))
    notes = ("The longer scratch has one seed.",) if scale == "cpu" else ()
    made = _study("cifar10", "Pre-training on CIFAR-10", scale, data, rows, _tasks(scale, data), notes, _KEPT[scale])
    few = made.tasks[-1].name
    claims = (
        claim("With enough labels, MAE is ahead of training from scratch.", "MAE", "scratch"),
        claim("With enough labels, MAE is ahead of MoCo-v3.", "MAE", "MoCo-v3"),
        *looks("MAE", "MoCo-v3", made.analyses),
        claim("Distilling the teacher's last attention improves the higher layers.", "D-MAE", "MAE", kind="similarity"),
        claim("Distillation helps where labels are enough.", "D-MAE", "MAE"),
        claim("Distillation helps where labels are scarce.", "D-MAE", "MAE", task=few),
    )
    return _with_claims(made, claims)


def scarce(scale: Scale) -> Study:
    """Return the study that pre-trains on six classes, with and without their labels, and transfers to the other four.

    It is the paper's claim on scarce data, where supervised pre-training is ahead (section 4).
    """
    data = _Data(20_000, 4_000, 4, "transfer")
    rates = "Rates are searched with all ten classes, those of supervised pre-training with the four that are learned."
    labels = Pretraining(recipe=_recipe("cifar10-supervised", scale, tuning=False))
    rows = (
        Row(name="scratch", finetuning=_recipe("cifar10-scratch", scale)),
        Row(name="supervised", pretraining=labels, finetuning=_recipe("cifar10-finetune", scale)),
        *_pretrained(scale),
    )
    notes = (
        "Pre-training sees the first six classes, fine-tuning and test images are of the other four: no image and no "
        "class is in both. Only 'supervised' has seen the labels of the six.",
        "benchmarks/class_split.py makes the data.",
        *((rates,) if scale == "cpu" else ()),
    )
    made = _study("cifar10-scarce", "From six classes of CIFAR-10 to the other four", scale, data, rows,
                  _tasks(scale, data), notes, ())  # which blocks carry it is asked with enough labels  # fmt: skip
    few = made.tasks[-1].name
    claims = (
        claim("Where labels are scarce, supervised pre-training is ahead of MAE.", "supervised", "MAE", task=few),
        claim("Where labels are scarce, it is ahead of MoCo-v3.", "supervised", "MoCo-v3", task=few),
        *looks("MAE", "MoCo-v3", made.analyses),
        claim("Distillation helps where labels are scarce.", "D-MAE", "MAE", task=few),
    )
    return _with_claims(made.model_copy(update={"part": "pretrain", "images": 30_000}), claims)


def _with_claims(study: Study, claims: tuple[Claim, ...]) -> Study:
    return Study.model_validate({**dict(study), "claims": claims})


def _study(
    name: str, title: str, scale: Scale, data: _Data, rows: tuple[Row, ...], tasks: tuple[Task, ...],
    notes: tuple[str, ...], kept: tuple[Analysis, ...],
) -> Study:  # fmt: skip
    return Study(
        name=name if scale == "full" else f"{name}-{scale}",
        title=title if scale == "full" else f"{title}, scale {scale}",
        notes=(*notes, *_notes(scale)),
        images=data.images,
        test_images=data.test_images,
        classes=data.classes,
        rows=rows,
        tasks=tasks,
        seeds=(0,) if scale == "smoke" else (0, 1, 2),
        analyses=(_looked_at(scale, [row.name for row in rows if row.longer == 1.0]), *kept),
        runtime={} if scale == "full" else {"workers": 0},
        gflops_per_second=10_000.0 if scale == "full" else 30.0,
        hardware="one GPU" if scale == "full" else "one CPU core",
        updates=10 if scale == "smoke" else None,
    )


def _looked_at(scale: Scale, rows: Sequence[str]) -> Analysis:
    """Return the analysis of all encoders: beside a supervised one, which comes first, with every seed."""
    ordered = sorted(rows, key=lambda name: name != "supervised")
    return Analysis(name="layers", rows=tuple(ordered), images=100 if scale == "smoke" else 1000, seeds=3)


def _scratches(scale: Scale) -> Iterator[Row]:
    recipe = _recipe("cifar10-scratch", scale)
    yield Row(name="scratch", finetuning=recipe)
    if scale == "cpu":
        yield Row(name=f"scratch, {_LONGER:g} x longer", finetuning=recipe, longer=_LONGER, seeds=1)


def _pretrained(scale: Scale) -> tuple[Row, ...]:
    """Return the rows that pre-train without labels; at full scale those that cost many times MAE's have one seed."""
    tuned, teacher = _recipe("cifar10-finetune", scale), Pretraining(recipe=_recipe("cifar10-mae-small", scale))

    def start(name: str, taught: bool = False) -> Pretraining:
        return Pretraining(recipe=_recipe(name, scale), teacher=teacher if taught else None)

    contrast = _recipe("cifar10-finetune-mocov3", scale)
    seeds = 1 if scale == "full" else None
    rows = [
        Row(name="MoCo-v3", pretraining=start("cifar10-mocov3"), finetuning=contrast, seeds=seeds),
        Row(name="MAE", pretraining=start("cifar10-mae-tiny"), finetuning=tuned),
        Row(name="D-MAE", pretraining=start("cifar10-d-mae-tiny", taught=True), finetuning=tuned),
    ]
    if scale == "full":
        decoupled = start("cifar10-d2-mae-tiny", taught=True)
        rows.append(Row(name="D2-MAE", pretraining=decoupled, finetuning=tuned))
        rows.insert(1, Row(name="DINO", pretraining=start("cifar10-dino"), finetuning=contrast, seeds=seeds))
    return tuple(rows)


def _tasks(scale: Scale, data: _Data) -> tuple[Task, ...]:
    """Return the labels to fine-tune on; few labels are passed often enough for some hundred updates."""

    def task(name: str, batch: int, epochs: float, **labels: Any) -> Task:
        changes = {**labels, "global_batch_size": batch, "epochs": epochs, "warmup_epochs": epochs / 20}
        changes["validation_fraction"] = 0.0
        return Task(name=name, part=data.part, images=data.images, classes=data.classes, changes=changes)

    if scale == "full":
        return (
            Task(name="all labels", part=data.part, images=data.images, classes=data.classes),
            task("10 % of the labels", 256, 200.0, label_fraction=0.1),
            task("1 % of the labels", 100, 200.0, label_fraction=0.01),
            task("10 labels per class", 10 * data.classes, 400.0, labels_per_class=10),
        )
    few = task("100 labels per class", 100, 4000 / data.classes / 10, labels_per_class=100)
    if scale == "smoke":
        return (few,)
    return (
        task("all labels", _BATCH, 400 * _BATCH / (_SHARE * data.images), label_fraction=_SHARE),
        few,
        task("10 labels per class", 5 * data.classes, 200.0, labels_per_class=10),
    )


def _notes(scale: Scale) -> tuple[str, ...]:
    distilled = "D-MAE is MAE with attention distillation from a wider MAE, trained once with the first seed."
    if scale == "full":
        return (distilled, "The recipes as they are; MoCo-v3 and DINO have the layer decay that the paper found best "
                "for MoCo-v3.")  # fmt: skip
    size = _TINY[scale]
    smaller = f"Encoders have {size['depth']} blocks of {size['width']} channels instead of 12 of 192, the teacher "
    smaller += f"{_TEACHER_FACTOR * size['width']} channels."
    if scale == "smoke":
        return (distilled, smaller)
    return (
        distilled,
        smaller,
        f"Pre-training has {_PRETRAINING_EPOCHS:.0f} epochs of a fifth of the images, where 400 of all would be right; "
        "'all labels' is a fifth of each class. The order of methods may change with more.",
        "The teacher saw the first seed's fifth of the images: with other seeds D-MAE rests on more images than MAE.",
        "The learning rates of scratch, of MAE, of D-MAE and of MoCo-v3, "
        "each with its fine-tuning, are the best of six settings each, on a tenth of the training images. "
        "The teacher has MAE's.",
    )


def _recipe(name: str, scale: Scale, tuning: bool = True) -> Recipe:
    """Return a recipe as it is run at ``scale``; with ``tuning`` false a classifier pre-trains, as the others do."""
    recipe = recipes.get(name)
    if scale == "full":
        return recipe
    size = dict(_TINY[scale])
    if name == "cifar10-mae-small":
        size["width"] *= _TEACHER_FACTOR
    changes: dict[str, Any] = {"encoder": size, "global_batch_size": _BATCH}
    if recipe.method.kind == "distilled_mae":
        teacher = {"width": _TEACHER_FACTOR * size["width"], "depth": size["depth"], "heads": size["num_heads"]}
        changes["method"] = {f"teacher_{key}": value for key, value in teacher.items()}
    if recipe.method.kind == "mocov3":  # made for wide encoders, its heads would cost ten times what these do
        changes["method"] = {"hidden_width": 4 * size["width"], "output_width": size["width"]}
    supervised = isinstance(recipe.method, Supervised)
    rate: str = recipe.method.kind
    if supervised and tuning:
        rate = "scratch" if recipe.start == "random" else "finetune"
    if rate in _RATES:
        changes["lr_per_256"] = _RATES[rate]
    if not (supervised and tuning):
        changes |= {"epochs": _PRETRAINING_EPOCHS, "warmup_epochs": _PRETRAINING_EPOCHS / 10}
        changes |= {"label_fraction" if supervised else "image_fraction": _SHARE}
    return recipes.derive(recipe, **changes)
