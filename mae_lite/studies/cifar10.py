"""Scratch, MAE, MoCo-v3 and distilled MAE on CIFAR-10, or on other data of its size."""

from __future__ import annotations

from typing import Any

from mae_lite import recipes
from mae_lite.config import Recipe
from mae_lite.studies.values import Analysis, Pretraining, Row, Scale, Study, Task

_DEPTH = {"smoke": 2, "cpu": 4}


def study(scale: Scale) -> Study:
    """Return the study: full has the recipes as they are, cpu a third of their blocks and few epochs, smoke a sixth."""
    small, teacher = _recipe("cifar10-mae-tiny", scale), Pretraining(recipe=_recipe("cifar10-mae-small", scale))
    contrast = Pretraining(recipe=_recipe("cifar10-mocov3", scale))
    distilled = Pretraining(recipe=_recipe("cifar10-d-mae-tiny", scale), teacher=teacher)
    tuned = _recipe("cifar10-finetune", scale)
    few: dict[str, Any] = {"labels_per_class": 100, "validation_fraction": 0.0, "global_batch_size": 100}
    few |= {"epochs": 100.0, "warmup_epochs": 5.0}
    return Study(
        name="cifar10" if scale == "full" else f"cifar10-{scale}",
        title=f"Pre-training on CIFAR-10, scale {scale}",
        notes=_notes(scale),
        images=50_000,
        test_images=10_000,
        classes=10,
        rows=(
            Row(name="scratch", finetuning=_recipe("cifar10-scratch", scale)),
            Row(name="MoCo-v3", pretraining=contrast, finetuning=_recipe("cifar10-finetune-mocov3", scale)),
            Row(name="MAE", pretraining=Pretraining(recipe=small), finetuning=tuned),
            Row(name="D-MAE", pretraining=distilled, finetuning=tuned),
        ),
        tasks=(Task(name="all labels"), Task(name="100 labels per class", changes=few))
        if scale == "full"
        else (Task(name="100 labels per class", changes={**few, "epochs": 50.0}),),
        seeds=(0, 1, 2) if scale == "full" else (0,),
        analyses=(Analysis(name="layers", rows=("scratch", "MoCo-v3", "MAE", "D-MAE"), images=_looked(scale)),),
        runtime={} if scale == "full" else {"workers": 0},
        gflops_per_second=10_000.0 if scale == "full" else 30.0,
        hardware="one GPU" if scale == "full" else "one CPU core",
        updates=10 if scale == "smoke" else None,
    )


def _looked(scale: Scale) -> int:
    return 100 if scale == "smoke" else 1000


def _notes(scale: Scale) -> tuple[str, ...]:
    distilled = "D-MAE is MAE with attention distillation from cifar10-mae-small, trained once with the first seed."
    if scale == "full":
        return (
            distilled,
            "The recipes as they are; MoCo-v3 has the layer decay that the paper found best for it.",
        )
    blocks = f"Encoders, the teacher's too, have {_DEPTH[scale]} blocks instead of 12."
    if scale == "smoke":
        return (distilled, blocks)
    return (
        distilled,
        blocks,
        "Pre-training has 3 epochs, where 400 would be right; the order of methods may change with more.",
    )


def _recipe(name: str, scale: Scale) -> Recipe:
    recipe = recipes.get(name)
    if scale == "full":
        return recipe
    changes: dict[str, Any] = {"encoder": {"depth": _DEPTH[scale]}}
    if recipe.method.kind == "distilled_mae":
        changes["method"] = {"teacher_depth": _DEPTH[scale]}
    changes["global_batch_size"] = 64 if scale == "smoke" else 128
    if recipe.method.kind != "supervised":
        changes |= {"epochs": 3.0, "warmup_epochs": 0.3}
    return recipes.derive(recipe, **changes)
