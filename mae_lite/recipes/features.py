"""Feature distillation: the patch tokens of a strong teacher on unmasked images, and its sibling at 32 px.

The teacher is given with --teacher; its shape stands in the recipe, so that its cost is known. Betas, warm-up, batch
and what is exempt from decay are this project's choice.
"""

from __future__ import annotations

from mae_lite.config import AdamW, Augmentation, Encoder, FeatureDistillation, LabNote, Recipe
from mae_lite.recipes import derive

FEATURE_DISTILL_TINY = Recipe(
    name="feature-distill-tiny",
    note=LabNote(
        source="after Wei et al. 2022, Contrastive Learning Rivals Masked Image Modeling in Fine-tuning via Feature "
        "Distillation; teacher DINOv2 ViT-B/14 with registers (Darcet et al. 2023)",
        command="mae-lite pretrain feature-distill-tiny --teacher timm:vit_base_patch14_reg4_dinov2 --data IMAGENET",
        cost="300 epochs at 43.5 GFLOP per image, most of it the teacher's",
        expected="not measured yet",
    ),
    encoder=Encoder(),
    method=FeatureDistillation(
        teacher_width=768, teacher_depth=12, teacher_heads=12, teacher_patch_size=14, teacher_prefix_tokens=5
    ),
    augmentation=Augmentation(crop_scale=(0.2, 1.0), interpolation="bicubic", flip=0.5),
    optimizer=AdamW(betas=(0.9, 0.999), weight_decay=0.05, no_decay=("vectors",)),
    global_batch_size=1024,
    epochs=300,
    warmup_epochs=10,
    lr_per_256=2.5e-4,
)

FEATURE_DISTILL_SMALL = derive(
    FEATURE_DISTILL_TINY,
    "feature-distill-small",
    LabNote(
        source="feature-distill-tiny for ViT-Small",
        command="mae-lite pretrain feature-distill-small --teacher timm:vit_base_patch14_reg4_dinov2 --data IMAGENET",
        cost="300 epochs at 63.7 GFLOP per image",
        expected="not measured yet",
    ),
    encoder={"name": "vit_small_patch16_224", "width": 384},
)

CIFAR10_FEATURE_DISTILL_TINY = derive(
    FEATURE_DISTILL_TINY,
    "cifar10-feature-distill-tiny",
    LabNote(
        source="feature-distill-tiny at 32 px, patch 4, with cifar10-mae-small as the teacher",
        command="mae-lite pretrain cifar10-feature-distill-tiny --teacher RUN --data train.parquet",
        cost="300 epochs of 50,000 images at 5.1 GFLOP per image: a GPU",
        expected="not measured yet",
    ),
    encoder={"image_size": 32, "patch_size": 4},
    method={"teacher_width": 384, "teacher_patch_size": 4, "teacher_prefix_tokens": 1},
    augmentation={"eval_crop": 1.0},
    global_batch_size=512,
)

RECIPES = (FEATURE_DISTILL_TINY, FEATURE_DISTILL_SMALL, CIFAR10_FEATURE_DISTILL_TINY)
