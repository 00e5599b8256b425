"""What a convolutional network reaches where a study trains small transformers: a ResNet-18 with the same budget.

For each task of the study it gets what the row "scratch" gets: the same images, batch, augmentation, mixing and number
of updates. Its optimiser is the usual one of its kind (Nesterov momentum, cosine), at the best of six learning rates
on a tenth of the training images, as many as every row of the study had. The first convolution is 3 x 3 without
stride, as small images want it; at scale cpu the pooling behind it stays, which costs a quarter.

    python benchmarks/ceiling.py DATA [--study cifar10] [--scale cpu]

writes benchmarks/results/STUDY_ceiling_SCALE.json after every training; the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from lightning_fabric import Fabric
from torch import nn

from mae_lite import config, files, inputs, loading, recipes, studies
from mae_lite.data.loader import to_device
from mae_lite.data.opening import open_source
from mae_lite.data.sources import Source
from mae_lite.data.splits import aligned
from mae_lite.engine.optim import LearningRate
from mae_lite.engine.ranks import start_fabric
from mae_lite.evaluation.accuracy import measure
from mae_lite.methods.supervised import SupervisedClassifier
from mae_lite.studies.values import Study, Task
from mae_lite.studying.graph import place

RATES = (0.0125, 0.025, 0.05, 0.1, 0.2, 0.4)
"""Peak learning rates for a batch of 128; they grow with the batch."""
BATCH = 128
VALIDATION = 0.1
ROW = "scratch"


class Residual(SupervisedClassifier):
    """The loss of supervised training around a ResNet-18."""

    def __init__(self, recipe: config.Recipe, num_classes: int, pooled: bool) -> None:
        """Build it; the recipe's seed decides its initial values."""
        assert isinstance(recipe.method, config.Supervised)
        super().__init__(recipe, recipe.method, num_classes)
        torch.manual_seed(recipe.seed)
        network: Any = timm.create_model("resnet18", num_classes=num_classes, in_chans=recipe.encoder.channels)
        network.conv1 = nn.Conv2d(recipe.encoder.channels, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
        if not pooled:
            network.maxpool = nn.Identity()
        self.encoder = network


def train(model: Residual, recipe: config.Recipe, runtime: config.Runtime, source: Source, fabric: Fabric) -> int:
    """Train ``model`` as long as ``recipe`` says, at its peak rate; return the number of updates."""
    plan = inputs.plan(recipe, runtime, fabric, len(source))
    rate = LearningRate.of(recipe, plan.steps_per_epoch)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 5e-4}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=rate.peak, momentum=0.9, nesterov=True)
    model.to(fabric.device).train()
    with tempfile.TemporaryDirectory() as folder:
        _, batches = loading.reader(recipe, runtime, source, plan, fabric, Path(folder))
        read = batches(0, rate.total_steps)
        for step in range(rate.total_steps):
            for group in optimizer.param_groups:
                group["lr"] = rate(step)
            for micro in range(plan.micro_batches):
                batch = to_device(next(read), fabric.device, recipe.augmentation.mean, recipe.augmentation.std)
                drawn = model.draw(recipe.seed, step, plan.micro_rows(micro))
                on_device = {name: value.to(fabric.device) for name, value in drawn.items()}
                with fabric.autocast():
                    loss = model(batch.images, batch.labels, on_device).loss
                (loss / plan.micro_batches).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    return rate.total_steps


def accuracy(model: Residual, recipe: config.Recipe, runtime: config.Runtime, source: Source, fabric: Fabric) -> float:
    """Return the top-1 accuracy in percent."""
    batches = inputs.in_order(recipe, runtime, source, None)
    mean, std = recipe.augmentation.mean, recipe.augmentation.std
    found = measure(model.encoder, batches, len(source.classes or ()), device=fabric.device, mean=mean, std=std)
    return 100 * found.top1


def cell(study: Study, task: Task, seed: int, rate: float, options: argparse.Namespace, search: bool) -> dict[str, Any]:
    """Train once and measure: on a part of the training images where rates are compared, else on the test images."""
    row = next(row for row in study.rows if row.name == ROW)
    recipe = recipes.derive(
        study.finetuned(row, task, seed),
        lr_per_256=rate * 256 / BATCH,
        validation_fraction=VALIDATION if search else 0.0,
    )
    data = place(options.data, task.part)
    runtime = config.Runtime(data=data, workers=0, accelerator=options.accelerator)
    fabric = start_fabric(recipe, runtime)
    labelled, held_out = inputs.images(recipe, runtime)
    classes = labelled.classes or ()
    measured = held_out if held_out is not None else aligned(open_source(data, "test"), classes, data)
    start = time.perf_counter()
    model = Residual(recipe, len(classes), options.scale != "full")
    updates = train(model, recipe, runtime, labelled, fabric)
    top1 = accuracy(model, recipe, runtime, measured, fabric)
    about = {"task": task.name, "seed": seed, "rate": rate, "measured_on": "validation" if search else "test"}
    return {**about, "updates": updates, "top1": top1, "seconds": round(time.perf_counter() - start, 1)}


def wanted(
    study: Study, done: Sequence[dict[str, Any]], rates: Sequence[float]
) -> tuple[Task, int, float, bool] | None:
    """Return what is to be trained next: the search first, then every task and seed at the best rate."""
    first = study.tasks[0]
    tried = {row["rate"]: row["top1"] for row in done if row["measured_on"] == "validation"}
    for rate in rates:
        if rate not in tried:
            return first, study.seeds[0], rate, True
    best = max(tried, key=lambda rate: tried[rate])
    tested = {(row["task"], row["seed"]) for row in done if row["measured_on"] == "test"}
    for seed in study.seeds:
        for task in study.tasks:
            if (task.name, seed) not in tested:
                return task, seed, best, False
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is missing, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--study", default="cifar10")
    parser.add_argument("--scale", choices=("smoke", "cpu", "full"), default="cpu")
    parser.add_argument("--accelerator", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    study = studies.get(options.study, options.scale)
    path = options.out or Path("benchmarks/results") / f"{options.study.replace('-', '_')}_ceiling_{options.scale}.json"
    command = ["python", "benchmarks/ceiling.py", "DATA", "--study", options.study, "--scale", options.scale]
    hardware = {"cpus": os.cpu_count(), "machine": platform.machine(), "torch": torch.__version__}
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    while (now := wanted(study, rows, options.rates)) is not None:
        rows.append(cell(study, *now[:3], options, now[3]))
        content = {"model": "timm resnet18, first convolution 3 x 3", "study": study.name, "rows": rows}
        files.make_folder(path.parent)
        files.write_json(path, {**content, "hardware": hardware, "command": command})
        print("{task:<24} seed {seed} rate {rate:<8g} {measured_on:<10} {top1:5.1f} %".format(**rows[-1]), flush=True)
    print(f"-> {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
