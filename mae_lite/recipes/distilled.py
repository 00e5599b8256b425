"""Distillation inside MAE pre-training: the paper's recipes, and their siblings at 32 px.

The teacher's weights are given with --teacher; its width, depth and heads stand in the recipe.
"""

from __future__ import annotations

from mae_lite.config import LabNote
from mae_lite.recipes import derive, published
from mae_lite.recipes.cifar10 import CIFAR10_MAE_TINY
from mae_lite.recipes.imagenet import MAE_SMALL, MAE_TINY

_PAPER = "A Closer Look at Self-Supervised Lightweight Vision Transformers"
_BASE = {"kind": "distilled_mae", "teacher_width": 768, "teacher_depth": 12, "teacher_heads": 12}
_SMALL = {"kind": "distilled_mae", "teacher_width": 384, "teacher_depth": 12, "teacher_heads": 12}

D_MAE_TINY = derive(
    MAE_TINY,
    "d-mae-tiny",
    LabNote(
        source=f"{_PAPER}, section 5 (D-MAE): the last block's attention of MAE-Base",
        command="mae-lite pretrain d-mae-tiny --teacher RUN --data IMAGENET",
        cost="400 epochs at 10.0 GFLOP per image, most of it the teacher's; the teacher is mae-base, 1600 epochs",
        expected=published.expected_after("d-mae-tiny"),
    ),
    method={**_BASE, "target": "attention"},
)

D_MAE_TINY_HIDDEN = derive(
    D_MAE_TINY,
    "d-mae-tiny-hidden",
    LabNote(
        source=f"{_PAPER}, section 5: the ablation that matches tokens instead of attention",
        command="mae-lite pretrain d-mae-tiny-hidden --teacher RUN --data IMAGENET",
        cost="400 epochs at 10.6 GFLOP per image; the teacher is mae-base",
        expected="below d-mae-tiny's 78.4 %",
    ),
    method={"target": "hidden"},
)

D2_MAE_TINY = derive(
    D_MAE_TINY,
    "d2-mae-tiny",
    LabNote(
        source=f"{_PAPER}, journal version (D2-MAE): reconstruction from block 8, attention from an extra block",
        command="mae-lite pretrain d2-mae-tiny --teacher RUN --data IMAGENET",
        cost="400 epochs at 10.0 GFLOP per image; the teacher is mae-base",
        expected=published.expected_after("d2-mae-tiny"),
    ),
    method={"decoupled_at": 8},
)

D_MAE_SMALL = derive(
    MAE_SMALL,
    "d-mae-small",
    LabNote(
        source=f"{_PAPER}, table of larger models: mae-small with the distillation of d-mae-tiny",
        command="mae-lite pretrain d-mae-small --teacher RUN --data IMAGENET",
        cost="400 epochs at 15.4 GFLOP per image; the teacher is mae-base",
        expected=published.expected_after("d-mae-small"),
    ),
    method={**_BASE, "decoder_width": 192, "decoder_heads": 6},
)

CIFAR10_MAE_SMALL = derive(
    CIFAR10_MAE_TINY,
    "cifar10-mae-small",
    LabNote(
        source="mae-small at 32 px, patch 4: the teacher of the distilled recipes at this size",
        command="mae-lite pretrain cifar10-mae-small --data train.parquet",
        cost="400 epochs of 50,000 images at 2.3 GFLOP per image: a GPU",
        expected="not measured yet",
    ),
    encoder={"name": "vit_small_patch16_224", "width": 384},
    method={"decoder_width": 192, "decoder_heads": 6},
)

CIFAR10_D_MAE_TINY = derive(
    CIFAR10_MAE_TINY,
    "cifar10-d-mae-tiny",
    LabNote(
        source="d-mae-tiny at 32 px, patch 4, with cifar10-mae-small as the teacher",
        command="mae-lite pretrain cifar10-d-mae-tiny --teacher RUN --data train.parquet",
        cost="400 epochs of 50,000 images at 1.3 GFLOP per image: a GPU",
        expected="not measured yet",
    ),
    method={**_SMALL, "target": "attention"},
)

CIFAR10_D_MAE_TINY_HIDDEN = derive(
    CIFAR10_D_MAE_TINY,
    "cifar10-d-mae-tiny-hidden",
    LabNote(
        source="d-mae-tiny-hidden at 32 px, patch 4, with cifar10-mae-small as the teacher",
        command="mae-lite pretrain cifar10-d-mae-tiny-hidden --teacher RUN --data train.parquet",
        cost="400 epochs of 50,000 images at 1.3 GFLOP per image: a GPU",
        expected="not measured yet",
    ),
    method={"target": "hidden"},
)

CIFAR10_D2_MAE_TINY = derive(
    CIFAR10_D_MAE_TINY,
    "cifar10-d2-mae-tiny",
    LabNote(
        source="d2-mae-tiny at 32 px, patch 4, with cifar10-mae-small as the teacher",
        command="mae-lite pretrain cifar10-d2-mae-tiny --teacher RUN --data train.parquet",
        cost="400 epochs of 50,000 images at 1.3 GFLOP per image: a GPU",
        expected="not measured yet",
    ),
    method={"decoupled_at": 8},
)

RECIPES = (
    D_MAE_TINY,
    D_MAE_TINY_HIDDEN,
    D2_MAE_TINY,
    D_MAE_SMALL,
    CIFAR10_MAE_SMALL,
    CIFAR10_D_MAE_TINY,
    CIFAR10_D_MAE_TINY_HIDDEN,
    CIFAR10_D2_MAE_TINY,
)
