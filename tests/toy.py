"""A recipe small enough to train a thousand times in a test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from mae_lite import recipes, training
from mae_lite.config import DistilledMAE, DistilledSimMIM, Encoder, FeatureDistillation, Recipe, Runtime, Swin
from mae_lite.data.images import decode
from mae_lite.data.sources import Source
from mae_lite.models import weights
from mae_lite.models.vit import build_encoder

TIMES = ("seconds", "images_per_second", "reading_share", "teacher_share")
"""What of a row of metrics the clock decides, and so differs between equal runs."""
_ENCODER = {"image_size": 8, "patch_size": 4, "channels": 1, "width": 16, "depth": 1, "num_heads": 2}


def mae(**changes: Any) -> Recipe:
    """Return MAE on digits: 16 images per update, 2 epochs' worth of a schedule that nobody reaches."""
    toy = recipes.derive(
        recipes.get("digits-mae"),
        "toy-mae",
        encoder=_ENCODER,
        method={"decoder_width": 8, "decoder_heads": 2, "mask_ratio": 0.5},
        global_batch_size=16,
        epochs=6 / 84,  # 1,346 training digits make 84 updates of 16
        warmup_epochs=2 / 84,
    )
    return recipes.derive(toy, **changes)


def distilled(**changes: Any) -> Recipe:
    """Return the toy MAE with a teacher of 3 blocks of another width and number of heads."""
    settings = mae().method.model_dump() | {"kind": "distilled_mae"}
    settings |= {"teacher_width": 24, "teacher_depth": 3, "teacher_heads": 3}
    return recipes.derive(recipes.derive(mae(), "toy-distilled", method=settings), **changes)


def teacher_weights(path: Path, recipe: Recipe, seed: int = 7, **changes: Any) -> str:
    """Write random weights of the teacher that ``recipe`` wants, but for ``changes`` of its shape; return the path."""
    assert isinstance(recipe.method, DistilledMAE | FeatureDistillation)
    shape = Encoder.model_validate(recipe.method.teacher(recipe.plain_encoder).model_dump() | changes)
    path.write_bytes(weights.to_bytes(build_encoder(shape, seed).state_dict()))
    return str(path)


def features(**changes: Any) -> Recipe:
    """Return feature distillation on digits, with a teacher of 2 blocks and larger patches."""
    settings = {"kind": "feature_distillation", "teacher_width": 24, "teacher_depth": 2, "teacher_heads": 3}
    toy = recipes.derive(
        mae(), "toy-features", method={**settings, "teacher_patch_size": 6, "smooth_l1_beta": 0.5}, lr_per_256=1e-2
    )
    return recipes.derive(toy, **changes)


def mocov3(**changes: Any) -> Recipe:
    """Return MoCo-v3 on digits: 16 images per update, every augmentation of grey images."""
    toy = recipes.derive(
        recipes.get("cifar10-mocov3"),
        "toy-mocov3",
        encoder=_ENCODER,
        method={"hidden_width": 32, "output_width": 8},
        augmentation={"jitter": None, "grey": 0.0, "blur": (1.0, 0.1), "mean": (0.305,), "std": (0.376,)},
        global_batch_size=16,
        epochs=6 / 84,
        warmup_epochs=2 / 84,
        precision="fp32",
    )
    return recipes.derive(toy, **changes)


def dino(**changes: Any) -> Recipe:
    """Return DINO on digits: 16 images per update, two local views of a patch, schedules that end on the way."""
    toy = recipes.derive(
        recipes.get("cifar10-dino"),
        "toy-dino",
        encoder=_ENCODER,
        method={
            "hidden_width": 32,
            "bottleneck_width": 8,
            "prototypes": 24,
            "teacher_warmup_epochs": 4 / 84,
            "freeze_prototypes_epochs": 2 / 84,
        },
        augmentation={
            **{"jitter": None, "grey": 0.0, "blur": (1.0, 0.1, 0.5), "mean": (0.305,), "std": (0.376,)},
            **{"local_views": 2, "local_size": 4},
        },
        global_batch_size=16,
        epochs=6 / 84,
        warmup_epochs=2 / 84,
        precision="fp32",
    )
    return recipes.derive(toy, **changes)


_GREY: dict[str, Any] = {"eval_crop": 1.0, "mean": (0.305,), "std": (0.376,)}
_SHORT: dict[str, Any] = {"global_batch_size": 16, "epochs": 6 / 84, "warmup_epochs": 2 / 84, "precision": "fp32"}
SWIN: dict[str, Any] = {"kind": "swin", "image_size": 8, "channels": 1, "patch_size": 1}
SWIN |= {"width": 4, "depths": (2, 1), "num_heads": (2, 2), "window_size": 4}
"""A map of 8 x 8 tokens, in which windows are shifted, then one of 4 x 4, which is one window."""


def mae_hog(**changes: Any) -> Recipe:
    """Return the toy MAE with the gradients of its patches as the target."""
    method = {"kind": "mae_hog", "decoder_width": 8, "decoder_heads": 2, "mask_ratio": 0.5}
    return recipes.derive(recipes.derive(mae(), "toy-mae-hog", method=method), **changes)


def maskfeat(**changes: Any) -> Recipe:
    """Return MaskFeat on digits: 16 images per update, patches of 4 cells of 2 x 2 pixels."""
    toy = recipes.derive(
        recipes.get("maskfeat-tiny"), "toy-maskfeat", encoder=_ENCODER, augmentation=_GREY, lr_per_256=4e-3, **_SHORT
    )
    return recipes.derive(toy, **changes)


def simmim(**changes: Any) -> Recipe:
    """Return SimMIM on digits with a plain encoder: squares of 2 x 2 patches of 2 x 2 pixels."""
    toy = recipes.derive(
        recipes.get("cifar10-simmim"),
        "toy-simmim",
        encoder={**_ENCODER, "patch_size": 2},
        method={"mask_unit_px": 4},
        augmentation=_GREY,
        lr_per_256=4e-3,
        **_SHORT,
    )
    return recipes.derive(toy, **changes)


def simmim_swin(**changes: Any) -> Recipe:
    """Return SimMIM on digits with a hierarchical encoder; a square is 2 x 2 tokens of its last map."""
    return recipes.derive(recipes.derive(simmim(), "toy-simmim-swin", encoder=SWIN), **changes)


def distilled_swin(**changes: Any) -> Recipe:
    """Return the toy SimMIM with a teacher of another width, depth and number of heads; painting from block 1 of 3."""
    method = {"kind": "distilled_simmim", "mask_unit_px": 4, "decoupled_at": 1}
    teacher = {"teacher_width": 8, "teacher_depths": (1, 2), "teacher_heads": (2, 4)}
    return recipes.derive(recipes.derive(simmim_swin(), "toy-distilled-swin", method={**method, **teacher}), **changes)


def painter(recipe: Recipe, **changes: Any) -> Recipe:
    """Return the recipe of the SimMIM that teaches ``recipe``, but for ``changes`` of its encoder."""
    assert isinstance(recipe.method, DistilledSimMIM) and isinstance(recipe.encoder, Swin)
    method = {"kind": "simmim", "mask_unit_px": recipe.method.mask_unit_px}
    shape = recipe.method.teacher(recipe.encoder).model_dump() | changes
    return recipes.derive(recipe, "toy-painter", method=method, encoder=shape)


def swin_classifier(**changes: Any) -> Recipe:
    """Return the toy classifier with the hierarchical encoder of :func:`simmim_swin`, to be fine-tuned."""
    toy = recipes.derive(classifier(), "toy-swin-classifier", start="pretrained", encoder=SWIN, layer_decay=0.5)
    return recipes.derive(toy, **changes)


def classifier(**changes: Any) -> Recipe:
    """Return a classifier on digits from scratch, 2 labels per class."""
    toy = recipes.derive(
        recipes.get("digits-scratch"),
        "toy-classifier",
        encoder=_ENCODER,
        method={"mixup": 0.0},
        global_batch_size=10,
        labels_per_class=2,
        epochs=3,
        warmup_epochs=1,
    )
    return recipes.derive(toy, **changes)


EVERY: dict[str, Callable[..., Recipe]] = {
    "mae": mae,
    "distilled_mae": distilled,
    "feature_distillation": features,
    "mae_hog": mae_hog,
    "maskfeat": maskfeat,
    "simmim": simmim_swin,
    "distilled_simmim": distilled_swin,
    "mocov3": mocov3,
    "dino": dino,
    "supervised": classifier,
}
"""A toy of every kind of method."""


def teacher_of(recipe: Recipe, folder: Path) -> dict[str, str]:
    """Return the part of a runtime that gives ``recipe`` its teacher, of random weights; empty where it has none."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(recipe.method, DistilledSimMIM):
        few = recipes.derive(painter(recipe), global_batch_size=2)
        training.run(few, runtime(folder / "teacher", stop_after_steps=1))
        return {"teacher": str(folder / "teacher")}
    if not isinstance(recipe.method, DistilledMAE | FeatureDistillation):
        return {}
    return {"teacher": teacher_weights(folder / "teacher.safetensors", recipe)}


def runtime(out: Path, **changes: Any) -> Runtime:
    """Return quiet settings with a row of metrics and a checkpoint every other update."""
    settings: dict[str, Any] = {
        "data": "digits",
        "workers": 0,
        "log_every_steps": 2,
        "save_every_steps": 2,
        "tensorboard": False,
        "progress": False,
        "accelerator": "cpu",
        "out": str(out),
    }
    return Runtime.model_validate({**settings, **changes})


def picture(source: Source, index: int, channels: int) -> Image.Image:
    """Return an image of a source as the guard decodes it: grey for 1 channel, colour for 3."""
    image = decode(source.example(index), channels)
    assert isinstance(image, Image.Image)
    return image
