"""Pre-training with labels, the small siblings of fine-tuning and scratch, and transfer to other data sets.

Labels of any set pre-train: a folder with class folders, a CSV, parquet, a set of torchvision. The head stays behind
when the run is given to fine-tuning with --init.
"""

from __future__ import annotations

from mae_lite.config import LabNote
from mae_lite.recipes import derive, published
from mae_lite.recipes.cifar10 import CIFAR10_FINETUNE, CIFAR10_SCRATCH
from mae_lite.recipes.imagenet import FINETUNE_IMPROVED, SCRATCH

_PAPER = "A Closer Look at Self-Supervised Lightweight Vision Transformers"
_SMALL = {"name": "vit_small_patch16_224", "width": 384}

SUPERVISED_TINY = derive(
    SCRATCH,
    "supervised-tiny",
    LabNote(
        source=f"{_PAPER}, section 4: the improved recipe on labels, from random weights; an opponent of mae-tiny",
        command="mae-lite pretrain supervised-tiny --data IMAGENET",
        cost="300 epochs at 7.5 GFLOP per image",
        expected=f"{published.expected_of('supervised-tiny')}, before any fine-tuning; ahead of MAE on scarce "
        "downstream data",
    ),
)

SCRATCH_SMALL = derive(
    SCRATCH,
    "scratch-small",
    LabNote(
        source=f"{_PAPER}, table of larger models: no pre-training, the improved recipe",
        command="mae-lite finetune scratch-small --data IMAGENET",
        cost="300 epochs at 27.6 GFLOP per image",
        expected=published.expected_of("scratch-small"),
    ),
    encoder=_SMALL,
)

SUPERVISED_SMALL = derive(
    SCRATCH_SMALL,
    "supervised-small",
    LabNote(
        source="supervised-tiny for ViT-Small",
        command="mae-lite pretrain supervised-small --data IMAGENET",
        cost="300 epochs at 27.6 GFLOP per image",
        expected=f"{published.expected_of('supervised-small')}, before any fine-tuning",
    ),
)

FINETUNE_IMPROVED_SMALL = derive(
    FINETUNE_IMPROVED,
    "finetune-improved-small",
    LabNote(
        source=f"{_PAPER}, table of larger models",
        command="mae-lite finetune finetune-improved-small --init RUN --data IMAGENET",
        cost="300 epochs at 27.6 GFLOP per image",
        expected=published.expected_of("finetune-improved-small"),
    ),
    encoder=_SMALL,
    layer_decay=0.75,
)

FINETUNE_IMPROVED_100 = derive(
    FINETUNE_IMPROVED,
    "finetune-improved-100",
    LabNote(
        source="finetune-improved for a third of the epochs (the paper's maintainers, in answer to a question)",
        command="mae-lite finetune finetune-improved-100 --init RUN --data IMAGENET",
        cost="100 epochs at 7.5 GFLOP per image",
        expected=published.expected_of("finetune-improved-100"),
    ),
    epochs=100,
)

FINETUNE_IMPROVED_MOCOV3 = derive(
    FINETUNE_IMPROVED,
    "finetune-improved-mocov3",
    LabNote(
        source=f"{_PAPER}, appendix A: the improved recipe with the layer decay that is best for MoCo-v3",
        command="mae-lite finetune finetune-improved-mocov3 --init RUN --data IMAGENET",
        cost="300 epochs at 7.5 GFLOP per image",
        expected=published.expected_of("finetune-improved-mocov3"),
    ),
    layer_decay=0.75,
)

FINETUNE_IMPROVED_SMALL_MOCOV3 = derive(
    FINETUNE_IMPROVED_SMALL,
    "finetune-improved-small-mocov3",
    LabNote(
        source="finetune-improved-small with the 6 heads of mocov3-small",
        command="mae-lite finetune finetune-improved-small-mocov3 --init RUN --data IMAGENET",
        cost="300 epochs at 27.6 GFLOP per image",
        expected="not measured yet",
    ),
    encoder={"num_heads": 6},
)

CIFAR10_FINETUNE_MOCOV3 = derive(
    CIFAR10_FINETUNE,
    "cifar10-finetune-mocov3",
    LabNote(
        source="finetune-improved-mocov3 at 32 px, patch 4",
        command="mae-lite finetune cifar10-finetune-mocov3 --init RUN --data train.parquet",
        cost="100 epochs of 50,000 images at 2.2 GFLOP per image: a GPU",
        expected="not measured yet",
    ),
    layer_decay=0.75,
)

FINETUNE_IMPROVED_RPE = derive(
    FINETUNE_IMPROVED,
    "finetune-improved-rpe",
    LabNote(
        source=f"{_PAPER}, journal version: the improved recipe with relative positions, and longer",
        command="mae-lite finetune finetune-improved-rpe --init RUN --data IMAGENET",
        cost="1000 epochs at 7.5 GFLOP per image",
        expected=published.expected_of("finetune-improved-rpe"),
    ),
    method={"relative_positions": True},
    epochs=1000,
)

CIFAR10_FINETUNE_RPE = derive(
    CIFAR10_FINETUNE,
    "cifar10-finetune-rpe",
    LabNote(
        source="finetune-improved-rpe at 32 px, patch 4, as long as cifar10-finetune",
        command="mae-lite finetune cifar10-finetune-rpe --init RUN --data train.parquet",
        cost="100 epochs of 50,000 images at 2.2 GFLOP per image: a GPU",
        expected="not measured yet",
    ),
    method={"relative_positions": True},
)

TRANSFER_CIFAR100 = derive(
    FINETUNE_IMPROVED,
    "transfer-cifar100",
    LabNote(
        source=f"{_PAPER}, appendix: transfer to other classification tasks; rate and layer decay are CIFAR-100's, "
        "other sets are searched on a small grid",
        command="mae-lite finetune transfer-cifar100 --init RUN --data torchvision:cifar100",
        cost="50 epochs of 50,000 images at 7.5 GFLOP per image",
        expected="not measured yet",
    ),
    method={"mixup": 0.0},
    augmentation={"randaugment": None},
    optimizer={"kind": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 0.0},
    clip_grad_norm=1.0,
    global_batch_size=512,
    epochs=50,
    warmup_epochs=10,
    lr_per_256=0.05,
    layer_decay=0.75,
)

CIFAR10_SUPERVISED = derive(
    CIFAR10_SCRATCH,
    "cifar10-supervised",
    LabNote(
        source="supervised-tiny at 32 px, patch 4",
        command="mae-lite pretrain cifar10-supervised --data train.parquet",
        cost="100 epochs of 50,000 images at 2.2 GFLOP per image: a GPU",
        expected="not measured yet",
    ),
)

RECIPES = (
    SUPERVISED_TINY,
    SCRATCH_SMALL,
    SUPERVISED_SMALL,
    FINETUNE_IMPROVED_SMALL,
    FINETUNE_IMPROVED_100,
    FINETUNE_IMPROVED_MOCOV3,
    FINETUNE_IMPROVED_SMALL_MOCOV3,
    CIFAR10_FINETUNE_MOCOV3,
    FINETUNE_IMPROVED_RPE,
    CIFAR10_FINETUNE_RPE,
    TRANSFER_CIFAR100,
    CIFAR10_SUPERVISED,
)
