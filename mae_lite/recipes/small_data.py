"""Few photographs, for instance 10,000 images and 1,000 labels, at 32 px.

The settings were tried on CIFAR-10 (JPEG q75 copy) with a smaller encoder, on images that were kept out of training:
docs/small_data.md has every number. mocov3 and dino have their small-data remedies in cifar10-mocov3 and cifar10-dino.
"""

from __future__ import annotations

from mae_lite.config import LabNote
from mae_lite.recipes import derive
from mae_lite.recipes.cifar10 import CIFAR10_FINETUNE, CIFAR10_MAE_TINY, CIFAR10_SCRATCH

_TRIED = "docs/small_data.md: own search on CIFAR-10 (JPEG q75 copy), 10,000 images"

SMALL_DATA_MAE = derive(
    CIFAR10_MAE_TINY,
    "small-data-mae",
    LabNote(
        source=_TRIED,
        command="mae-lite pretrain small-data-mae --data train.parquet",
        cost="30 epochs at 0.6 GFLOP per image",
        expected="see small-data-finetune",
    ),
    global_batch_size=128,
    epochs=30,
    warmup_epochs=3,
    lr_per_256=2e-3,
)

SMALL_DATA_FINETUNE = derive(
    CIFAR10_FINETUNE,
    "small-data-finetune",
    LabNote(
        source=_TRIED,
        command="mae-lite finetune small-data-finetune --init RUN --data train.parquet",
        cost="60 epochs at 2.2 GFLOP per image",
        expected="docs/small_data.md, with 1,000 labels and a smaller encoder",
    ),
    global_batch_size=100,
    epochs=60,
    warmup_epochs=6,
    lr_per_256=2e-3 * 256 / 100,
    layer_decay=0.75,
)

SMALL_DATA_SCRATCH = derive(
    CIFAR10_SCRATCH,
    "small-data-scratch",
    LabNote(
        source=f"{_TRIED}: the opponent of small-data-finetune, with its budget and the best rate of its own",
        command="mae-lite finetune small-data-scratch --data train.parquet",
        cost="as small-data-finetune",
        expected="docs/small_data.md, with 1,000 labels and a smaller encoder",
    ),
    global_batch_size=100,
    epochs=60,
    warmup_epochs=6,
    lr_per_256=5e-4 * 256 / 100,
)

RECIPES = (SMALL_DATA_MAE, SMALL_DATA_FINETUNE, SMALL_DATA_SCRATCH)
