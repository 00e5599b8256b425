"""ViT-Tiny's width and depth at 32 px with patch 4, for CIFAR-10 and other small photographs.

The settings follow the ImageNet recipes, with smaller batches because 50,000 images are few.
"""

from __future__ import annotations

from mae_lite.config import LabNote
from mae_lite.recipes import derive
from mae_lite.recipes.imagenet import DINO_TINY, FINETUNE_IMPROVED, MAE_TINY, MOCOV3_TINY, SCRATCH

_SMALL = {"image_size": 32, "patch_size": 4}

CIFAR10_MAE_TINY = derive(
    MAE_TINY,
    "cifar10-mae-tiny",
    LabNote(
        source="mae-tiny at 32 px, patch 4",
        command="mae-lite pretrain cifar10-mae-tiny --data train.parquet",
        cost="400 epochs of 50,000 images at 0.6 GFLOP per image: a GPU",
        expected="not measured yet",
    ),
    encoder=_SMALL,
    augmentation={"crop_scale": (0.2, 1.0), "eval_crop": 1.0},
    global_batch_size=512,
    warmup_epochs=20,
)

CIFAR10_MOCOV3 = derive(
    MOCOV3_TINY,
    "cifar10-mocov3",
    LabNote(
        source="mocov3-tiny at 32 px, patch 4; frozen patch projection (Chen, Xie, He 2021, section 4.2), no blur (as "
        "SimCLR on CIFAR-10, Chen et al. 2020, appendix B.9)",
        command="mae-lite pretrain cifar10-mocov3 --data train.parquet",
        cost="400 epochs of 50,000 images at 6.2 GFLOP per image: a GPU",
        expected="not measured yet; 76.8 % is what mocov3-tiny reaches on ImageNet",
    ),
    encoder=_SMALL,
    method={"freeze_patch_projection": True},
    augmentation={"crop_scale": (0.2, 1.0), "blur": (0.0,), "eval_crop": 1.0},
    global_batch_size=512,
    warmup_epochs=20,
)

CIFAR10_DINO = derive(
    DINO_TINY,
    "cifar10-dino",
    LabNote(
        source="dino-tiny at 32 px, patch 4: local views of 16 px, 4,096 prototypes, no blur (as cifar10-mocov3)",
        command="mae-lite pretrain cifar10-dino --data train.parquet",
        cost="400 epochs of 50,000 images at 10.6 GFLOP per image: a GPU",
        expected="not measured yet",
    ),
    encoder=_SMALL,
    method={"prototypes": 4096},
    augmentation={"local_size": 16, "blur": (0.0,), "eval_crop": 1.0},
    global_batch_size=512,
)

CIFAR10_FINETUNE = derive(
    FINETUNE_IMPROVED,
    "cifar10-finetune",
    LabNote(
        source="finetune-improved at 32 px, patch 4",
        command="mae-lite finetune cifar10-finetune --init RUN --data train.parquet",
        cost="100 epochs of 50,000 images at 2.2 GFLOP per image: a GPU",
        expected="not measured yet",
    ),
    encoder=_SMALL,
    augmentation={"crop_scale": (0.2, 1.0), "eval_crop": 1.0},
    global_batch_size=256,
    epochs=100,
    validation_fraction=0.1,
)

CIFAR10_SCRATCH = derive(
    SCRATCH,
    "cifar10-scratch",
    LabNote(
        source="scratch at 32 px, patch 4: the opponent of cifar10-finetune, with its budget",
        command="mae-lite finetune cifar10-scratch --data train.parquet",
        cost="as cifar10-finetune",
        expected="not measured yet",
    ),
    encoder=_SMALL,
    augmentation={"crop_scale": (0.2, 1.0), "eval_crop": 1.0},
    global_batch_size=256,
    epochs=100,
    validation_fraction=0.1,
)

RECIPES = (CIFAR10_MAE_TINY, CIFAR10_MOCOV3, CIFAR10_DINO, CIFAR10_FINETUNE, CIFAR10_SCRATCH)
