"""The paper's recipes for ImageNet-1k at 224 px: pre-training, fine-tuning, training from scratch.

Source of all settings: *A Closer Look at Self-Supervised Lightweight Vision Transformers* and its public tables.
"""

from __future__ import annotations

from mae_lite.config import DINO, MAE, AdamW, Augmentation, Encoder, LabNote, MoCoV3, Recipe, Supervised
from mae_lite.recipes import derive, published

_PAPER = "A Closer Look at Self-Supervised Lightweight Vision Transformers"

MAE_TINY = Recipe(
    name="mae-tiny",
    note=LabNote(
        source=f"{_PAPER}, section 3 and appendix A",
        command="mae-lite pretrain mae-tiny --data IMAGENET",
        cost="400 epochs at 1.9 GFLOP per image; the paper used 8 GPUs",
        expected=published.expected_after("mae-tiny"),
    ),
    encoder=Encoder(),
    method=MAE(mask_ratio=0.75, decoder_depth=1, decoder_width=96, decoder_heads=3),
    augmentation=Augmentation(crop_scale=(0.08, 1.0), interpolation="random", flip=0.5),
    optimizer=AdamW(betas=(0.9, 0.95), weight_decay=0.05, no_decay=("vectors",)),
    global_batch_size=4096,
    epochs=400,
    warmup_epochs=40,
    lr_per_256=1.5e-4,
)

MAE_SMALL = derive(
    MAE_TINY,
    "mae-small",
    LabNote(
        source=f"{_PAPER}, table of larger models",
        command="mae-lite pretrain mae-small --data IMAGENET",
        cost="400 epochs; about 3.8 times mae-tiny",
        expected=published.expected_after("mae-small"),
    ),
    encoder={"name": "vit_small_patch16_224", "width": 384, "num_heads": 12},
    method={"decoder_width": 192, "decoder_heads": 6},
)

MAE_BASE = derive(
    MAE_TINY,
    "mae-base",
    LabNote(
        source="Masked Autoencoders Are Scalable Vision Learners (He et al. 2022), A.1; the paper's teacher",
        command="mae-lite pretrain mae-base --data IMAGENET",
        cost="1600 epochs; a large run on many GPUs",
        expected="83.6 % ImageNet top-1 after He et al.'s own fine-tuning",
    ),
    encoder={"name": "vit_base_patch16_224", "width": 768, "num_heads": 12},
    method={"decoder_depth": 8, "decoder_width": 512, "decoder_heads": 16},
    epochs=1600,
)

MOCOV3_TINY = Recipe(
    name="mocov3-tiny",
    note=LabNote(
        source=f"{_PAPER}, section 3, after Chen, Xie, He 2021 (MoCo-v3), whose remedy of a frozen patch projection it "
        "leaves out; bilinear crops as theirs",
        command="mae-lite pretrain mocov3-tiny --data IMAGENET",
        cost="400 epochs at 20.4 GFLOP per image, both views and their keys; the paper used 8 GPUs",
        expected=published.expected_after("mocov3-tiny"),
    ),
    encoder=Encoder(),
    method=MoCoV3(hidden_width=4096, output_width=256, temperature=0.2, momentum=0.99, freeze_patch_projection=False),
    augmentation=Augmentation(
        views=2,
        crop_scale=(0.08, 1.0),
        interpolation="bilinear",
        jitter=(0.4, 0.4, 0.2, 0.1),
        jitter_probability=0.8,
        blur=(1.0, 0.1),
        blur_sigma=(0.1, 2.0),
        grey=0.2,
        flip=0.5,
        solarise=(0.0, 0.2),
    ),
    optimizer=AdamW(betas=(0.9, 0.999), weight_decay=0.1, no_decay=()),
    global_batch_size=1024,
    epochs=400,
    warmup_epochs=40,
    warmup_start_lr=1e-6,
    lr_per_256=1.5e-4,
)

MOCOV3_SMALL = derive(
    MOCOV3_TINY,
    "mocov3-small",
    LabNote(
        source="Chen, Xie, He 2021, ViT-S/16: 6 heads of 64 channels; otherwise mocov3-tiny",
        command="mae-lite pretrain mocov3-small --data IMAGENET",
        cost="400 epochs; about 3.6 times mocov3-tiny",
        expected="not measured yet",
    ),
    encoder={"name": "vit_small_patch16_224", "width": 384, "num_heads": 6},
)

DINO_TINY = Recipe(
    name="dino-tiny",
    note=LabNote(
        source="Caron et al. 2021 (DINO), section 3 and appendix C, with ViT-Tiny and 400 epochs as mocov3-tiny; other "
        "than theirs: positions are fixed (sin-cos), the norm of the whole gradient is clipped instead of each "
        "parameter's, and there is no drop path",
        command="mae-lite pretrain dino-tiny --data IMAGENET",
        cost="400 epochs at 31.4 GFLOP per image, 2 large and 8 small views",
        expected="not measured yet",
    ),
    encoder=Encoder(),
    method=DINO(
        hidden_width=2048,
        bottleneck_width=256,
        prototypes=65_536,
        student_temperature=0.1,
        teacher_start_temperature=0.04,
        teacher_temperature=0.07,
        teacher_warmup_epochs=30,
        centre_momentum=0.9,
        momentum=0.996,
        freeze_prototypes_epochs=1,
    ),
    augmentation=Augmentation(
        views=2,
        crop_scale=(0.4, 1.0),
        local_views=8,
        local_size=96,
        local_scale=(0.05, 0.4),
        interpolation="bicubic",
        jitter=(0.4, 0.4, 0.2, 0.1),
        jitter_probability=0.8,
        blur=(1.0, 0.1, 0.5),
        blur_sigma=(0.1, 2.0),
        grey=0.2,
        flip=0.5,
        solarise=(0.0, 0.2, 0.0),
    ),
    optimizer=AdamW(betas=(0.9, 0.999), weight_decay=0.04, final_weight_decay=0.4, no_decay=("vectors",)),
    global_batch_size=1024,
    epochs=400,
    warmup_epochs=10,
    lr_per_256=5e-4,
    final_lr=1e-6,
    clip_grad_norm=3.0,
)

DINO_SMALL = derive(
    DINO_TINY,
    "dino-small",
    LabNote(
        source="Caron et al. 2021, ViT-S/16: 6 heads of 64 channels; otherwise dino-tiny",
        command="mae-lite pretrain dino-small --data IMAGENET",
        cost="400 epochs; about 3.6 times dino-tiny",
        expected="not measured yet",
    ),
    encoder={"name": "vit_small_patch16_224", "width": 384, "num_heads": 6},
)

FINETUNE_IMPROVED = Recipe(
    name="finetune-improved",
    note=LabNote(
        source=f"{_PAPER}, section 3: the improved fine-tuning recipe",
        command="mae-lite finetune finetune-improved --init RUN --data IMAGENET",
        cost="300 epochs at 7.5 GFLOP per image; the paper used 8 GPUs",
        expected=published.expected_of("finetune-improved"),
    ),
    start="pretrained",
    encoder=Encoder(),
    method=Supervised(pooling="mean", mixup=0.2, cutmix=0.0, label_smoothing=0.0),
    augmentation=Augmentation(
        crop_scale=(0.08, 1.0), interpolation="bicubic", flip=0.5, randaugment="rand-m10-mstd0.5-inc1"
    ),
    optimizer=AdamW(betas=(0.9, 0.999), weight_decay=0.05, no_decay=("vectors", "tokens")),
    global_batch_size=1024,
    epochs=300,
    warmup_epochs=5,
    lr_per_256=1e-3,
    final_lr=1e-6,
    layer_decay=0.85,
)

FINETUNE_MAE_ORIGINAL = derive(
    FINETUNE_IMPROVED,
    "finetune-mae-original",
    LabNote(
        source="He et al. 2022, appendix A.1; the baseline that the improved recipe is compared with",
        command="mae-lite finetune finetune-mae-original --init RUN --data IMAGENET",
        cost="100 epochs at 7.5 GFLOP per image",
        expected="below finetune-improved for ViT-Tiny: its regularisation is made for large models",
    ),
    encoder={"drop_path": 0.1},
    method={"mixup": 0.8, "cutmix": 1.0, "label_smoothing": 0.1},
    augmentation={"randaugment": "rand-m9-mstd0.5-inc1", "erasing": 0.25},
    epochs=100,
)

SCRATCH = derive(
    FINETUNE_IMPROVED,
    "scratch",
    LabNote(
        source=f"{_PAPER}, table 1: no pre-training, the improved recipe",
        command="mae-lite finetune scratch --data IMAGENET",
        cost="300 epochs at 7.5 GFLOP per image",
        expected=published.expected_of("scratch"),
    ),
    start="random",
    encoder={"positions": "learned", "init": "trunc_normal"},
    layer_decay=1.0,
)

RECIPES = (
    MAE_TINY,
    MAE_SMALL,
    MAE_BASE,
    MOCOV3_TINY,
    MOCOV3_SMALL,
    DINO_TINY,
    DINO_SMALL,
    FINETUNE_IMPROVED,
    FINETUNE_MAE_ORIGINAL,
    SCRATCH,
)
