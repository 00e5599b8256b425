"""Speed and memory of a training step of MAE on a CPU, beside others of the same sizes in the same run.

A step is what one update of a batch of bytes takes: normalisation, drawing masks, forward, backward and AdamW (fused
for all). Ours is the loop's own update. The others are transformers' ViTMAE and LightlySSL's MAE, each as its
documentation writes it, and left out where not installed; for LightlySSL `pip install --target FOLDER --no-deps
lightly lightly_utils` and FOLDER in PYTHONPATH will do. Contestants take turns; numbers are medians over the rounds,
and ratios the medians of each round's. The limit is the rate of a large matrix product, measured in every round,
over the arithmetic of a step (mae_lite.costs). Memory is the highest resident size during a step over that before it,
in a process of its own, gradients included; weights, optimiser and images are there already.

With --compiled, ours and ViTMAE take part as torch.compile makes them, too. The profile says where the time of our
step goes, by kind of operation.

    python benchmarks/steps.py [--batch 64] [--threads 2] [--rounds 5] [--updates 2] [--compiled]
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from own_step import OwnUpdate
from peers import vit_mae
from step_profile import named_kernels, shares
from torch import Tensor, nn

from mae_lite import config, costs, recipes
from mae_lite.data.loader import Batch, to_device
from mae_lite.exporting.machine import processor
from mae_lite.measuring.limits import matrix_rate
from mae_lite.models.vit import timm_arguments

CPU = torch.device("cpu")
Step = Callable[[Tensor], object]
"""Makes an update from images [B, C, H, H] uint8."""
OURS, COMPILED = "mae_lite", "mae_lite compiled"
THEIRS_COMPILED = "transformers ViTMAE compiled"
NEEDS = {"transformers ViTMAE": "transformers", THEIRS_COMPILED: "transformers", "LightlySSL MAE": "lightly"}


def recipe_of(tiny: bool) -> config.Recipe:
    """Return the recipe that is measured."""
    small: dict[str, Any] = {"image_size": 32, "patch_size": 8, "width": 48, "depth": 2}
    recipe = recipes.get("mae-tiny")
    return recipes.derive(recipe, encoder=small) if tiny else recipe


def ours(recipe: config.Recipe, compiled: bool = False) -> Step:
    """Return the update of the training loop."""
    return OwnUpdate(recipe, CPU, compiled)


def _step(model: nn.Module, loss: Callable[[Tensor], Tensor], recipe: config.Recipe) -> Step:
    """Return the update of a model whose loss takes normalised images."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.05, fused=True)
    mean, std = recipe.augmentation.mean, recipe.augmentation.std

    def step(images: Tensor) -> object:
        nothing = torch.full((len(images),), -1)
        found = loss(to_device(Batch(images, nothing, nothing), CPU, mean, std).images)
        found.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return found

    return step


def transformers_mae(recipe: config.Recipe, compiled: bool = False) -> Step:
    """Return the update of transformers' MAE with our sizes."""
    model = vit_mae(recipe).train()
    if compiled:
        model.compile(dynamic=False)
    return _step(model, lambda images: model(pixel_values=images).loss, recipe)


def lightly_mae(recipe: config.Recipe) -> Step:
    """Return the update of LightlySSL's MAE with our sizes, written with its modules as its documentation does."""
    modules: Any = importlib.import_module("lightly.models.modules")
    tools: Any = importlib.import_module("lightly.models.utils")
    encoder, method = recipe.plain_encoder, recipe.method
    assert isinstance(method, config.MAE)
    ratio = method.mask_ratio
    vit: Any = timm.create_model(encoder.name, num_classes=0, **timm_arguments(encoder))
    backbone = modules.MaskedVisionTransformerTIMM(vit=vit)
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # a later version renames it
        decoder = modules.MAEDecoderTIMM(
            num_patches=encoder.patches,
            patch_size=encoder.patch_size,
            embed_dim=encoder.width,
            decoder_embed_dim=method.decoder_width,
            decoder_depth=method.decoder_depth,
            decoder_num_heads=method.decoder_heads,
        )

    def loss(images: Tensor) -> Tensor:
        size = (len(images), backbone.sequence_length)
        kept, hidden = tools.random_token_mask(size=size, mask_ratio=ratio, device=images.device)
        embedded = decoder.embed(backbone.encode(images=images, idx_keep=kept))
        tokens = tools.set_at_index(tools.repeat_token(decoder.mask_token, size), kept, embedded)
        predicted = decoder.predict(tools.get_at_index(decoder.decode(tokens), hidden))
        target = tools.get_at_index(tools.patchify(images, encoder.patch_size), hidden - 1)
        return nn.functional.mse_loss(predicted, tools.normalize_mean_var(target))

    return _step(nn.ModuleList([backbone, decoder]).train(), loss, recipe)


MAKERS: dict[str, Callable[[config.Recipe], Step]] = {
    OURS: ours,
    COMPILED: partial(ours, compiled=True),
    "transformers ViTMAE": transformers_mae,
    THEIRS_COMPILED: partial(transformers_mae, compiled=True),
    "LightlySSL MAE": lightly_mae,
}


def bytes_of(recipe: config.Recipe, batch: int) -> Tensor:
    """Return random images."""
    encoder = recipe.plain_encoder
    shape = (batch, encoder.channels, encoder.image_size, encoder.image_size)
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def contestants(compiled: bool) -> dict[str, bool]:
    """Return who is asked for, and whether its library is here."""
    asked = [name for name in MAKERS if compiled or name not in (COMPILED, THEIRS_COMPILED)]
    return {name: name not in NEEDS or importlib.util.find_spec(NEEDS[name]) is not None for name in asked}


def race(recipe: config.Recipe, options: argparse.Namespace) -> tuple[dict[str, list[float]], list[float]]:
    """Return the images/s of each contestant, and the matrix rate in FLOP/s, by round."""
    images = bytes_of(recipe, options.batch)
    present = [name for name, here in contestants(options.compiled).items() if here]
    steps: dict[str, Step] = {}
    for name in sorted(present, key=lambda name: name == COMPILED):  # ours changes what later ones compile to: last
        steps[name] = MAKERS[name](recipe)
        steps[name](images)
    speeds: dict[str, list[float]] = {name: [] for name in steps}
    rates = []
    for number in range(options.rounds):
        rates.append(matrix_rate(CPU, seconds=0.05 if options.tiny else 0.5))
        for name in sorted(steps, reverse=number % 2 == 1):
            start = time.perf_counter()
            for _ in range(options.updates):
                steps[name](images)
            speeds[name].append(options.batch * options.updates / (time.perf_counter() - start))
    return speeds, rates


def memory_mb(name: str, recipe: config.Recipe, batch: int) -> float:
    """Return by how much a step raises this process's resident size; to be called once in a process."""
    step, images = MAKERS[name](recipe), bytes_of(recipe, batch)
    step(images[:1])  # loads code, and makes the optimiser's state
    before = _resident_mb("VmRSS")
    if name in (COMPILED, THEIRS_COMPILED):
        step(images)  # compiles for this batch, which takes memory that no later step does
    Path("/proc/self/clear_refs").write_text("5")  # the highest size starts anew
    step(images)
    return _resident_mb("VmHWM") - before


def memories(names: Sequence[str], words: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return the memory of each contestant, measured in a process with the options ``words``, and ours over theirs."""
    alone = [sys.executable, __file__, *words, "--memory-of"]
    found = {name: float(subprocess.check_output([*alone, name], text=True).split()[-1]) for name in names}
    over = {one: {name: found[one] / other for name, other in found.items() if name != one} for one in found}
    compiled = {"compiled_memory_over": over[COMPILED]} if COMPILED in over else {}
    return {"memory_mb": found, "memory_over": over[OURS], **compiled}


def _resident_mb(field: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1e3


def profiles(recipe: config.Recipe, options: argparse.Namespace) -> dict[str, Any]:
    """Return where the time of our step goes, and of the compiled one's where that is asked for."""
    images = bytes_of(recipe, options.batch)
    found = {"profile": shares(ours(recipe), images, options.updates)}
    if options.compiled:
        with named_kernels():
            found["compiled_profile"] = shares(ours(recipe, compiled=True), images, options.updates)
    return found


def hardware() -> dict[str, Any]:
    """Return what the numbers depend on."""
    return {
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        **processor(),
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
    }


def over(speeds: dict[str, list[float]], name: str) -> dict[str, float]:
    """Return the median over rounds of how many times as fast as each other contestant ``name`` is."""
    return {
        other: statistics.median(own / its for own, its in zip(speeds[name], found, strict=True))
        for other, found in speeds.items()
        if other != name
    }


def summary(speeds: dict[str, list[float]], rates: list[float], gflops: float) -> dict[str, Any]:
    """Return medians, ratios of ours to each of the others, and our share of the limit."""
    limits = [rate / 1e9 / gflops for rate in rates]

    def share(name: str) -> float:
        return statistics.median(own / most for own, most in zip(speeds[name], limits, strict=True))

    return {
        "images_per_second": {name: statistics.median(found) for name, found in speeds.items()},
        "ours_over": over(speeds, OURS),
        **({"compiled_over": over(speeds, COMPILED)} if COMPILED in speeds else {}),
        "matrix_gflops_per_second": statistics.median(rates) / 1e9,
        "step_gflops_per_image": gflops,
        "share_of_limit": share(OURS),
        **({"compiled_share_of_limit": share(COMPILED)} if COMPILED in speeds else {}),
        "rounds": speeds,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("batch", 64), ("threads", 2), ("rounds", 5), ("updates", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--compiled", action="store_true", help="measure ours and ViTMAE compiled, too: minutes more")
    parser.add_argument("--tiny", action="store_true", help="sizes of a dry run: the numbers mean nothing")
    parser.add_argument("--memory-of", choices=tuple(MAKERS), help="measure its memory alone, and print it")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/steps.json, or steps_compiled.json")
    words = sys.argv[1:] if argv is None else argv
    options = parser.parse_args(words)
    torch.set_num_threads(options.threads)
    recipe = recipe_of(options.tiny)
    if options.memory_of:
        print(memory_mb(options.memory_of, recipe, options.batch))
        return
    names = contestants(options.compiled)
    result = summary(*race(recipe, options), costs.step_gflops(recipe)) | {
        **memories([name for name, here in names.items() if here], words),
        "skipped": {name: f"{NEEDS[name]} is not installed" for name, here in names.items() if not here},
        **profiles(recipe, options),
        "batch": options.batch,
        "hardware": hardware(),
        "command": ["python", "benchmarks/steps.py", *words],
    }
    for key, found in result.items():
        print(key, json.dumps(found, indent=1))
    out = options.out or Path(f"benchmarks/results/steps{'_compiled' * options.compiled}.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
