"""A small ViT on scikit-learn's 8 x 8 digits: the whole road in minutes on a laptop."""

from __future__ import annotations

from mae_lite.config import MAE, AdamW, Augmentation, Encoder, LabNote, Recipe, Supervised
from mae_lite.recipes import derive

_ENCODER = Encoder(image_size=8, channels=1, patch_size=2, width=96, depth=3, num_heads=12)
_LIGHT = Augmentation(
    crop_scale=None,
    flip=0.0,
    rotate_degrees=10.0,
    translate=0.1,
    zoom=(0.9, 1.1),
    eval_crop=1.0,
    mean=(0.305,),
    std=(0.376,),
)

DIGITS_MAE = Recipe(
    name="digits-mae",
    note=LabNote(
        source="own search, docs/digits.md",
        command="mae-lite pretrain digits-mae --data digits",
        cost="about 2 minutes on one CPU core",
        expected="see digits-finetune",
    ),
    encoder=_ENCODER,
    method=MAE(mask_ratio=0.6, decoder_depth=1, decoder_width=48, decoder_heads=3),
    augmentation=_LIGHT,
    optimizer=AdamW(betas=(0.9, 0.95), weight_decay=0.05, no_decay=("vectors",)),
    global_batch_size=256,
    epochs=600,
    warmup_epochs=30,
    lr_per_256=1e-3,
)

DIGITS_FINETUNE = Recipe(
    name="digits-finetune",
    note=LabNote(
        source="own search, docs/digits.md",
        command="mae-lite finetune digits-finetune --init RUN --data digits --labels-per-class 5",
        cost="seconds on one CPU core",
        expected="see make demo",
    ),
    start="pretrained",
    encoder=_ENCODER,
    method=Supervised(),
    augmentation=_LIGHT,
    optimizer=AdamW(),
    global_batch_size=20,
    epochs=100,
    warmup_epochs=5,
    lr_per_256=1e-2,
    final_lr=1e-6,
    layer_decay=0.75,
)

DIGITS_SCRATCH = derive(
    DIGITS_FINETUNE,
    "digits-scratch",
    LabNote(
        source="own search, docs/digits.md",
        command="mae-lite finetune digits-scratch --data digits --labels-per-class 5",
        cost="seconds on one CPU core",
        expected="see make demo",
    ),
    start="random",
    encoder={"positions": "learned", "init": "trunc_normal"},
    layer_decay=1.0,
)

DIGITS_SCRATCH_LONGER = derive(
    DIGITS_SCRATCH,
    "digits-scratch-longer",
    LabNote(
        source="own search, docs/digits.md",
        command="mae-lite finetune digits-scratch-longer --data digits --labels-per-class 5",
        cost="seconds on one CPU core",
        expected="see make demo",
    ),
    epochs=300,
)

RECIPES = (DIGITS_MAE, DIGITS_FINETUNE, DIGITS_SCRATCH, DIGITS_SCRATCH_LONGER)
