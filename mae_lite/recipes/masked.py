"""SimMIM and MaskFeat, MAE with MaskFeat's target, a hierarchical student; and the siblings of all at 32 px.

The settings are the papers', where they say them; positions are fixed as in the other recipes, where the papers train
them. Hidden patches of MaskFeat are drawn one by one, where its paper draws blocks.
"""

from __future__ import annotations

from mae_lite.config import LabNote
from mae_lite.recipes import derive, published
from mae_lite.recipes.cifar10 import CIFAR10_FINETUNE, CIFAR10_MAE_TINY
from mae_lite.recipes.imagenet import FINETUNE_IMPROVED, MAE_TINY

_MASKFEAT = "Masked Feature Prediction for Self-Supervised Visual Pre-Training (Wei et al. 2022)"
_SIMMIM = "SimMIM: a Simple Framework for Masked Image Modeling (Xie et al. 2022)"
_SMALL_IMAGES = {"image_size": 32, "patch_size": 4}
_SMALL_SWIN = {
    "kind": "swin",
    "image_size": 32,
    "patch_size": 2,
    "depths": (2, 2, 2),
    "num_heads": (3, 6, 12),
    "window_size": 4,
}

MASKFEAT_TINY = derive(
    MAE_TINY,
    "maskfeat-tiny",
    LabNote(
        source=f"{_MASKFEAT}, its settings for ImageNet with this project's ViT-Tiny",
        command="mae-lite pretrain maskfeat-tiny --data IMAGENET",
        cost="300 epochs at 7.5 GFLOP per image: the encoder sees all tokens",
        expected="not measured yet",
    ),
    method={"kind": "maskfeat", "mask_ratio": 0.4},
    augmentation={"crop_scale": (0.5, 1.0), "interpolation": "bicubic"},
    optimizer={"betas": (0.9, 0.999), "no_decay": ("vectors", "tokens")},
    global_batch_size=2048,
    epochs=300,
    warmup_epochs=30,
    lr_per_256=2e-4,
    clip_grad_norm=0.02,
)

MASKFEAT_SMALL = derive(
    MASKFEAT_TINY,
    "maskfeat-small",
    LabNote(
        source="maskfeat-tiny with the encoder of mae-small",
        command="mae-lite pretrain maskfeat-small --data IMAGENET",
        cost="300 epochs; about 3.7 times maskfeat-tiny",
        expected="not measured yet",
    ),
    encoder={"name": "vit_small_patch16_224", "width": 384, "num_heads": 12},
)

MAE_HOG_TINY = derive(
    MAE_TINY,
    "mae-hog-tiny",
    LabNote(
        source=f"mae-tiny with the target of {_MASKFEAT}",
        command="mae-lite pretrain mae-hog-tiny --data IMAGENET",
        cost="400 epochs at 1.9 GFLOP per image",
        expected="not measured yet; 78.0 % is what mae-tiny reaches",
    ),
    method={"kind": "mae_hog"},
)

SIMMIM_TINY = derive(
    MAE_TINY,
    "simmim-tiny",
    LabNote(
        source=f"{_SIMMIM}, the settings of simmim-swin-tiny with this project's ViT-Tiny",
        command="mae-lite pretrain simmim-tiny --data IMAGENET",
        cost="400 epochs at 7.7 GFLOP per image: the encoder sees all tokens",
        expected="not measured yet",
    ),
    method={"kind": "simmim", "mask_ratio": 0.6, "mask_unit_px": 32},
    augmentation={"crop_scale": (0.67, 1.0), "interpolation": "bicubic"},
    optimizer={"betas": (0.9, 0.99), "no_decay": ("vectors", "tokens")},
    global_batch_size=2048,
    epochs=400,
    warmup_epochs=10,
    warmup_start_lr=2e-6,
    lr_per_256=5e-5,
    clip_grad_norm=5.0,
)

SIMMIM_SWIN_TINY = derive(
    SIMMIM_TINY,
    "simmim-swin-tiny",
    LabNote(
        source=f"{_SIMMIM}, with Swin-Tiny",
        command="mae-lite pretrain simmim-swin-tiny --data IMAGENET",
        cost="400 epochs at 27.6 GFLOP per image",
        expected="not measured yet; below the 77.4 % of d2-simmim-swin-tiny",
    ),
    encoder={"kind": "swin"},
)

FINETUNE_SWIN_TINY = derive(
    FINETUNE_IMPROVED,
    "finetune-swin-tiny",
    LabNote(
        source="finetune-improved with the encoder of simmim-swin-tiny, so that students are compared alike",
        command="mae-lite finetune finetune-swin-tiny --init RUN --data IMAGENET",
        cost="300 epochs at 26.9 GFLOP per image",
        expected=published.expected_of("finetune-swin-tiny"),
    ),
    encoder={"kind": "swin"},
)

SIMMIM_SWIN_BASE = derive(
    SIMMIM_SWIN_TINY,
    "simmim-swin-base",
    LabNote(
        source="simmim-swin-tiny with Swin-Base, the teacher of d2-simmim-swin-tiny",
        command="mae-lite pretrain simmim-swin-base --data IMAGENET",
        cost="400 epochs; about 3.4 times simmim-swin-tiny",
        expected="not measured yet",
    ),
    encoder={
        "name": "swin_base_patch4_window7_224",
        "width": 128,
        "depths": (2, 2, 18, 2),
        "num_heads": (4, 8, 16, 32),
    },
)

D2_SIMMIM_SWIN_TINY = derive(
    SIMMIM_SWIN_TINY,
    "d2-simmim-swin-tiny",
    LabNote(
        source="A Closer Look at Self-Supervised Lightweight Vision Transformers, journal version (D2-MAE) with a "
        "hierarchical student: painting from block 8, attention of the last map from an extra block",
        command="mae-lite pretrain d2-simmim-swin-tiny --teacher RUN --data IMAGENET",
        cost="400 epochs at 57.5 GFLOP per image; the teacher is simmim-swin-base",
        expected=published.expected_after("d2-simmim-swin-tiny"),
    ),
    method={"kind": "distilled_simmim", "decoupled_at": 8},
)

CIFAR10_MASKFEAT_TINY = derive(
    MASKFEAT_TINY,
    "cifar10-maskfeat-tiny",
    LabNote(
        source="maskfeat-tiny at 32 px, patch 4: cells of 2 x 2 pixels, so that a patch still has 2 x 2 of them",
        command="mae-lite pretrain cifar10-maskfeat-tiny --data train.parquet",
        cost="300 epochs of 50,000 images at 2.2 GFLOP per image: a GPU",
        expected="not measured yet",
    ),
    encoder=_SMALL_IMAGES,
    augmentation={"eval_crop": 1.0},
    global_batch_size=512,
)

CIFAR10_MAE_HOG_TINY = derive(
    CIFAR10_MAE_TINY,
    "cifar10-mae-hog-tiny",
    LabNote(
        source="mae-hog-tiny at 32 px, patch 4: cells of 2 x 2 pixels, so that a patch still has 2 x 2 of them",
        command="mae-lite pretrain cifar10-mae-hog-tiny --data train.parquet",
        cost="400 epochs of 50,000 images at 0.6 GFLOP per image: a GPU",
        expected="not measured yet",
    ),
    method={"kind": "mae_hog"},
)

CIFAR10_SIMMIM = derive(
    SIMMIM_TINY,
    "cifar10-simmim",
    LabNote(
        source="simmim-tiny at 32 px, patch 4; the hidden squares are again 2 x 2 patches",
        command="mae-lite pretrain cifar10-simmim --data train.parquet",
        cost="400 epochs of 50,000 images at 2.2 GFLOP per image: a GPU",
        expected="not measured yet",
    ),
    encoder=_SMALL_IMAGES,
    method={"mask_unit_px": 8},
    augmentation={"eval_crop": 1.0},
    global_batch_size=512,
)

CIFAR10_SIMMIM_SWIN = derive(
    CIFAR10_SIMMIM,
    "cifar10-simmim-swin",
    LabNote(
        source="cifar10-simmim with Swin-Tiny's first three widths, 2 blocks each, patch 2, windows of 4 x 4",
        command="mae-lite pretrain cifar10-simmim-swin --data train.parquet",
        cost="400 epochs of 50,000 images at 1.1 GFLOP per image: a GPU",
        expected="not measured yet",
    ),
    encoder=_SMALL_SWIN,
)

CIFAR10_SIMMIM_SWIN_WIDE = derive(
    CIFAR10_SIMMIM_SWIN,
    "cifar10-simmim-swin-wide",
    LabNote(
        source="cifar10-simmim-swin at twice the width, the teacher of cifar10-d2-simmim-swin",
        command="mae-lite pretrain cifar10-simmim-swin-wide --data train.parquet",
        cost="400 epochs of 50,000 images; about 4.0 times cifar10-simmim-swin",
        expected="not measured yet",
    ),
    encoder={"width": 192, "num_heads": (6, 12, 24)},
)

CIFAR10_D2_SIMMIM_SWIN = derive(
    CIFAR10_SIMMIM_SWIN,
    "cifar10-d2-simmim-swin",
    LabNote(
        source="d2-simmim-swin-tiny at 32 px: painting from block 4 of 6, at the same depth",
        command="mae-lite pretrain cifar10-d2-simmim-swin --teacher RUN --data train.parquet",
        cost="400 epochs of 50,000 images at 2.4 GFLOP per image: a GPU; the teacher is cifar10-simmim-swin-wide",
        expected="not measured yet",
    ),
    method={
        "kind": "distilled_simmim",
        "mask_unit_px": 8,
        "decoupled_at": 4,
        "teacher_width": 192,
        "teacher_depths": (2, 2, 2),
        "teacher_heads": (6, 12, 24),
    },
)

CIFAR10_FINETUNE_SWIN = derive(
    CIFAR10_FINETUNE,
    "cifar10-finetune-swin",
    LabNote(
        source="cifar10-finetune with the encoder of cifar10-simmim-swin",
        command="mae-lite finetune cifar10-finetune-swin --init RUN --data train.parquet",
        cost="100 epochs of 50,000 images at 1.1 GFLOP per image: a GPU",
        expected="not measured yet",
    ),
    encoder=_SMALL_SWIN,
)

RECIPES = (
    MASKFEAT_TINY,
    MASKFEAT_SMALL,
    MAE_HOG_TINY,
    SIMMIM_TINY,
    SIMMIM_SWIN_TINY,
    SIMMIM_SWIN_BASE,
    D2_SIMMIM_SWIN_TINY,
    FINETUNE_SWIN_TINY,
    CIFAR10_MASKFEAT_TINY,
    CIFAR10_MAE_HOG_TINY,
    CIFAR10_SIMMIM,
    CIFAR10_SIMMIM_SWIN,
    CIFAR10_SIMMIM_SWIN_WIDE,
    CIFAR10_D2_SIMMIM_SWIN,
    CIFAR10_FINETUNE_SWIN,
)
