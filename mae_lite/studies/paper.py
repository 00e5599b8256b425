"""The paper's rows on ImageNet, with the numbers that its tables report."""

from __future__ import annotations

from mae_lite import recipes
from mae_lite.recipes import published
from mae_lite.studies.values import Analysis, Pretraining, Row, Scale, Study, Task

_IMPROVED = "finetune-improved"


def study(scale: Scale) -> Study:
    """Return the study; smoke cuts every training to 10 updates, cpu and full are the same."""
    base, swin = Pretraining(recipe=recipes.get("mae-base")), Pretraining(recipe=recipes.get("simmim-swin-base"))
    starts = {
        name: Pretraining(recipe=recipes.get(name))
        for name in ("mocov3-tiny", "mae-tiny", "mae-small", "mae-hog-tiny", "maskfeat-tiny", "dino-tiny")
    }
    starts["simmim-swin-tiny"] = Pretraining(recipe=recipes.get("simmim-swin-tiny"))
    for name in ("d-mae-tiny", "d-mae-tiny-hidden", "d2-mae-tiny", "d-mae-small"):
        starts[name] = Pretraining(recipe=recipes.get(name), teacher=base)
    starts["d2-simmim-swin-tiny"] = Pretraining(recipe=recipes.get("d2-simmim-swin-tiny"), teacher=swin)
    return Study(
        name="paper" if scale != "smoke" else "paper-smoke",
        title="A Closer Look at Self-Supervised Lightweight Vision Transformers: its rows on ImageNet",
        notes=(
            "Published numbers stand in table.json beside those measured here. The teacher is mae-base, or "
            "simmim-swin-base, trained once.",
            "Left out: feature distillation, whose teachers are weights of others. Transfer to other data is a command "
            "of its own, mae-lite transfer.",
        ),
        images=1_281_167,
        test_images=50_000,
        classes=1000,
        rows=tuple(_row(name, starts.get(start), tuned) for name, start, tuned in _ROWS),
        tasks=(Task(name="ImageNet"),),
        seeds=(0,),
        against="scratch",
        analyses=(Analysis(name="layers", rows=("scratch", "MoCo-v3", "MAE", "D-MAE", "D2-MAE")),),
        gflops_per_second=10_000.0,
        hardware="one GPU",
        updates=10 if scale == "smoke" else None,
    )


_ROWS: tuple[tuple[str, str, str], ...] = (
    ("scratch", "", "scratch"),
    ("MoCo-v3", "mocov3-tiny", "finetune-improved-mocov3"),
    ("MAE", "mae-tiny", _IMPROVED),
    ("MAE, 100 epochs of fine-tuning", "mae-tiny", "finetune-improved-100"),
    ("MAE, MAE's own fine-tuning", "mae-tiny", "finetune-mae-original"),
    ("MAE, relative positions", "mae-tiny", "finetune-improved-rpe"),
    ("D-MAE", "d-mae-tiny", _IMPROVED),
    ("D-MAE, hidden tokens", "d-mae-tiny-hidden", _IMPROVED),
    ("D2-MAE", "d2-mae-tiny", _IMPROVED),
    ("D2-MAE, relative positions", "d2-mae-tiny", "finetune-improved-rpe"),
    ("MAE on gradients", "mae-hog-tiny", _IMPROVED),
    ("MaskFeat", "maskfeat-tiny", _IMPROVED),
    ("DINO", "dino-tiny", _IMPROVED),
    ("small: scratch", "", "scratch-small"),
    ("small: MAE", "mae-small", "finetune-improved-small"),
    ("small: D-MAE", "d-mae-small", "finetune-improved-small"),
    ("Swin: SimMIM", "simmim-swin-tiny", "finetune-swin-tiny"),
    ("Swin: D2-SimMIM", "d2-simmim-swin-tiny", "finetune-swin-tiny"),
)
"""Name, pre-training ("" for none), fine-tuning."""


def _row(name: str, pretraining: Pretraining | None, tuned: str) -> Row:
    known = published.find(None if pretraining is None else pretraining.recipe.name, tuned)
    top1 = None if known is None else known.top1_percent
    return Row(name=name, pretraining=pretraining, finetuning=recipes.get(tuned), published=top1)
