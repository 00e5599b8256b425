"""Five ways to a classifier of handwritten digits from five labels per class."""

from __future__ import annotations

from mae_lite import recipes
from mae_lite.config import Recipe
from mae_lite.studies.claimed import claim, looks
from mae_lite.studies.values import Analysis, Pretraining, Row, Scale, Study, Task, few_updates

_IMAGES, _UPDATES = 1346, 1000
_BOUND = "supervised"
_CLAIMS = (
    claim("MAE is ahead of training from scratch.", "MAE", "scratch"),
    claim("MAE is ahead of MoCo-v3.", "MAE", "MoCo-v3"),
    claim("Where labels are scarce, supervised pre-training is ahead of MAE.", _BOUND, "MAE"),
    claim("Where labels are scarce, distillation helps.", "D-MAE", "MAE"),
)


def study(scale: Scale) -> Study:
    """Return the study; smoke cuts every training to 20 updates, cpu and full are the same."""
    teacher = Pretraining(recipe=_recipe("digits-mae-wide"))
    starts = {
        _BOUND: Pretraining(recipe=_recipe("digits-supervised")),
        "MoCo-v3": Pretraining(recipe=_recipe("digits-mocov3")),
        "MAE": Pretraining(recipe=_recipe("digits-mae")),
        "D-MAE": Pretraining(recipe=_recipe("digits-d-mae"), teacher=teacher),
    }
    tuned = recipes.get("digits-finetune")
    looked = (_BOUND, "scratch", *list(starts)[1:])
    analyses = (
        Analysis(name="encoders", rows=looked, images=400),
        Analysis(name="blocks", kind="probe", rows=looked),
        Analysis(name="kept", kind="layers", rows=("MoCo-v3", "MAE")),
    )
    return Study(
        name="digits-smoke" if scale == "smoke" else "digits",
        title="Pre-training on handwritten digits: five ways",
        notes=(
            f"Every pre-training has {_UPDATES:,} updates of 128 images, each with settings of its own, and every "
            "fine-tuning from pre-trained weights is digits-finetune, whose settings were chosen for MAE.",
            "Supervised pre-training has seen the labels of all 1,346 training images, which the others have not: it "
            "says what labels are worth, and is no fair opponent where there are five of each class.",
            "D-MAE is MAE with attention distillation. Its teacher is digits-mae-wide, trained once with the first "
            "seed; the teacher's updates come on top of its own.",
            "A seed decides initial values, batches, augmentation and the labelled images, in pre-training and after.",
        ),
        data="digits",
        images=_IMAGES,
        test_images=451,
        classes=10,
        rows=(
            Row(name="scratch", finetuning=recipes.get("digits-scratch")),
            *(
                Row(name=name, pretraining=start, finetuning=tuned, bound=name == _BOUND)
                for name, start in starts.items()
            ),
        ),
        tasks=(Task(name="5 labels per class"),),
        seeds=(0, 1, 2),
        analyses=analyses,
        claims=(*_CLAIMS, *looks("MAE", "MoCo-v3", analyses)),
        runtime={"workers": 0, "probe_every_epochs": 30.0, "probe_images": 600, "accelerator": "cpu"},
        gflops_per_second=40.0,
        hardware="one CPU core",
        updates=20 if scale == "smoke" else None,
    )


def _recipe(name: str) -> Recipe:
    return few_updates(recipes.get(name), _UPDATES, _IMAGES)
