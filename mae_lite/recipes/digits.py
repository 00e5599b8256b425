"""A small ViT on scikit-learn's 8 x 8 digits: the whole road in minutes on a laptop.

The settings of MAE, fine-tuning and scratch come from the search in docs/digits.md, made on a validation part of the
training images; those of the other pre-trainings were not searched.
"""

from __future__ import annotations

from mae_lite.config import MAE, AdamW, Augmentation, Encoder, LabNote, Recipe, Supervised
from mae_lite.recipes import derive

_ENCODER = Encoder(image_size=8, channels=1, patch_size=2, width=96, depth=3, num_heads=4)
_LIGHT = Augmentation(
    crop_scale=None,
    flip=0.0,
    rotate_degrees=10.0,
    translate=1 / 16,
    zoom=(0.9, 1.1),
    eval_crop=1.0,
    mean=(0.305,),
    std=(0.376,),
)

_SLANTED = _LIGHT.model_validate({**_LIGHT.model_dump(), "shear_degrees": 10.0})

DIGITS_MAE = Recipe(
    name="digits-mae",
    note=LabNote(
        source="own search, docs/digits.md",
        command="mae-lite pretrain digits-mae --data digits",
        cost="5,000 updates, 5 to 6 minutes on one CPU core",
        expected="see digits-finetune",
    ),
    encoder=_ENCODER,
    method=MAE(mask_ratio=0.6, decoder_depth=1, decoder_width=32, decoder_heads=2),
    augmentation=_LIGHT,
    optimizer=AdamW(betas=(0.9, 0.95), weight_decay=0.05, no_decay=("vectors",)),
    global_batch_size=128,
    epochs=500,
    warmup_epochs=25,
    lr_per_256=4e-3,
    precision="fp32",
)

DIGITS_FINETUNE = Recipe(
    name="digits-finetune",
    note=LabNote(
        source="own search, docs/digits.md",
        command="mae-lite finetune digits-finetune --init RUN --data digits",
        cost="100 updates, seconds on one CPU core",
        expected="see make demo",
    ),
    start="pretrained",
    encoder=_ENCODER,
    method=Supervised(mixup=0.2),
    augmentation=_SLANTED,
    optimizer=AdamW(),
    labels_per_class=5,
    global_batch_size=50,
    epochs=100,
    warmup_epochs=10,
    lr_per_256=2e-3 * 256 / 50,
    final_lr=1e-6,
    layer_decay=0.6,
    precision="fp32",
)

DIGITS_SCRATCH = derive(
    DIGITS_FINETUNE,
    "digits-scratch",
    LabNote(
        source="own search, docs/digits.md: digits-finetune's budget with the learning rate that is best for scratch",
        command="mae-lite finetune digits-scratch --data digits",
        cost="100 updates, seconds on one CPU core",
        expected="see make demo",
    ),
    start="random",
    encoder={"positions": "learned", "init": "trunc_normal"},
    lr_per_256=1e-3 * 256 / 50,
    layer_decay=1.0,
)

DIGITS_SCRATCH_LONGER = derive(
    DIGITS_SCRATCH,
    "digits-scratch-longer",
    LabNote(
        source="own search, docs/digits.md: what scratch reaches with four times the updates",
        command="mae-lite finetune digits-scratch-longer --data digits",
        cost="400 updates, half a minute on one CPU core",
        expected="see make demo",
    ),
    epochs=400,
    warmup_epochs=40,
)

_UNSEARCHED = "digits-mae with its data, batches and epochs"

DIGITS_MAE_WIDE = derive(
    DIGITS_MAE,
    "digits-mae-wide",
    LabNote(
        source="digits-mae at twice the width: the teacher of digits-d-mae",
        command="mae-lite pretrain digits-mae-wide --data digits",
        cost="5,000 updates, about 10 minutes on one CPU core",
        expected="not measured yet",
    ),
    encoder={"width": 192},
)

DIGITS_D_MAE = derive(
    DIGITS_MAE,
    "digits-d-mae",
    LabNote(
        source=f"{_UNSEARCHED}, and the distillation of d-mae-tiny: the last block's attention of digits-mae-wide",
        command="mae-lite pretrain digits-d-mae --teacher RUN --data digits",
        cost="5,000 updates, about 8 minutes on one CPU core",
        expected="not measured yet",
    ),
    method={
        "kind": "distilled_mae",
        **DIGITS_MAE.method.model_dump(include={"mask_ratio", "decoder_depth", "decoder_width", "decoder_heads"}),
        "teacher_width": 192,
        "teacher_depth": 3,
        "teacher_heads": 4,
    },
)

DIGITS_MOCOV3 = derive(
    DIGITS_MAE,
    "digits-mocov3",
    LabNote(
        source=f"{_UNSEARCHED}; mocov3-tiny's optimiser and, at 1 channel and 8 px, views that are turned, moved and "
        "zoomed instead of cropped and coloured; a narrow head, a frozen patch projection (as cifar10-mocov3)",
        command="mae-lite pretrain digits-mocov3 --data digits",
        cost="5,000 updates, about 20 minutes on one CPU core",
        expected="not measured yet",
    ),
    method={"kind": "mocov3", "hidden_width": 256, "output_width": 64, "freeze_patch_projection": True},
    augmentation={"views": 2, "rotate_degrees": 20.0, "translate": 1 / 8, "zoom": (0.8, 1.2), "shear_degrees": 10.0},
    optimizer={"betas": (0.9, 0.999), "weight_decay": 0.1, "no_decay": ()},
    lr_per_256=1e-3,
)

DIGITS_SUPERVISED = derive(
    DIGITS_SCRATCH,
    "digits-supervised",
    LabNote(
        source="digits-scratch on the labels of all 1,346 training images, with digits-mae's batches and epochs. Where "
        "few labels are asked for afterwards this is an upper bound, no opponent: it has seen all of them",
        command="mae-lite pretrain digits-supervised --data digits",
        cost="5,000 updates, about 7 minutes on one CPU core",
        expected="not measured yet",
    ),
    labels_per_class=None,
    global_batch_size=128,
    epochs=500,
    warmup_epochs=25,
    lr_per_256=2e-3,
)

RECIPES = (
    DIGITS_MAE,
    DIGITS_FINETUNE,
    DIGITS_SCRATCH,
    DIGITS_SCRATCH_LONGER,
    DIGITS_MAE_WIDE,
    DIGITS_D_MAE,
    DIGITS_MOCOV3,
    DIGITS_SUPERVISED,
)
