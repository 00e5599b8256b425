"""Speed of a training step on the device alone: MAE of ViT-Tiny at 224 px, beside plain alternatives of the same run.

A step is forward, backward and AdamW on random images that lie on the device; drawing masks and copying images, which a
run does meanwhile, are left out. The alternatives: a classification step of timm's own ViT-Tiny, which sees all
patches, and MAE as in transformers, with our sizes, where that is installed: in bf16, and as it is usually trained, in
fp16 with scaled gradients. Beside them our MAE for images of 32 px, patch 4. TFLOP/s count what the arithmetic of the
model needs (mae_lite.costs), and stand next to the device's rate for a large matrix product. The kernel share is, as
the profiler has it, how much of the time the device computes.

    python benchmarks/gpu_steps.py [--seconds 400] [--device cpu --tiny]
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gpu_record
import timm
import torch
from gpu_timing import forget_peak, kernel_share, matmul_tflops, milliseconds, peak_gb, wait
from peers import vit_mae
from torch import Tensor, nn

from mae_lite import config, costs, recipes
from mae_lite.engine.optim import build_optimizer
from mae_lite.methods import build

BATCHES = (1024, 4096, 256, 2048, 512)
"""The most telling first, should the time not suffice."""
_TINY: dict[str, Any] = {"image_size": 32, "patch_size": 8, "width": 48, "depth": 2}


@dataclass(frozen=True)
class Trainee:
    """A model with all that a step needs."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss: Callable[[Any], Tensor]
    """Takes the model, or the model compiled."""
    gflops: float
    """Arithmetic of a step, per image."""


Maker = Callable[[int, torch.device, bool], Trainee]
"""(batch, device, tiny) -> what to time."""
OURS, OURS_SMALL, THEIRS = "mae_lite MAE", "mae_lite MAE, 32 px", "transformers ViTMAE"
PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
"""What the name of a mode begins with."""


def recipe_of(tiny: bool) -> config.Recipe:
    """Return the recipe that is measured."""
    recipe = recipes.get("mae-tiny")
    return recipes.derive(recipe, encoder=_TINY) if tiny else recipe


def ours(batch: int, device: torch.device, tiny: bool) -> Trainee:
    """Make our MAE."""
    return _mae(recipe_of(tiny), batch, device)


def ours_small(batch: int, device: torch.device, tiny: bool) -> Trainee:
    """Make our MAE for images of 32 px, patch 4."""
    recipe = recipes.get("cifar10-mae-tiny")
    return _mae(recipes.derive(recipe, encoder={"width": 48, "depth": 2}) if tiny else recipe, batch, device)


def _mae(recipe: config.Recipe, batch: int, device: torch.device) -> Trainee:
    method = build(recipe, 0).to(device)
    images, noise = _images(batch, recipe, device), torch.rand(batch, recipe.encoder.patches, device=device)
    labels = torch.full((batch,), -1, device=device)
    return Trainee(
        method,
        build_optimizer(method, recipe),
        lambda model: model(images, labels, {"noise": noise}).loss,
        costs.step_gflops(recipe),
    )


def timm_classification(batch: int, device: torch.device, tiny: bool) -> Trainee:
    """Make timm's ViT-Tiny as it is, 3 heads, with 1,000 classes."""
    encoder = recipe_of(tiny).plain_encoder
    sizes: dict[str, Any] = {"img_size": encoder.image_size, "patch_size": encoder.patch_size}
    if tiny:
        sizes |= {"embed_dim": encoder.width, "depth": encoder.depth}
    model: nn.Module = timm.create_model("vit_tiny_patch16_224", num_classes=1000, **sizes).to(device)
    images, labels = _images(batch, recipe_of(tiny), device), torch.randint(1000, (batch,), device=device)
    return Trainee(
        model,
        torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True),
        lambda model: nn.functional.cross_entropy(model(images), labels),
        3 * costs.forward_gflops(encoder),
    )


def transformers_mae(batch: int, device: torch.device, tiny: bool) -> Trainee:
    """Make MAE as in transformers, with our sizes."""
    recipe = recipe_of(tiny)
    model: nn.Module = vit_mae(recipe).to(device)
    images = _images(batch, recipe, device)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return Trainee(
        model,
        torch.optim.AdamW(trainable, lr=1e-4, fused=True),
        lambda model: model(pixel_values=images).loss,
        costs.step_gflops(recipe),
    )


MAKERS: dict[str, Maker] = {
    OURS: ours,
    OURS_SMALL: ours_small,
    "timm classification": timm_classification,
    THEIRS: transformers_mae,
}
VARIANTS = (
    (OURS, "bf16"),
    (OURS, "bf16, compiled"),
    ("timm classification", "bf16"),
    (THEIRS, "bf16"),
    (THEIRS, "fp16"),
    (OURS_SMALL, "bf16"),
    (OURS_SMALL, "bf16, compiled"),
    (OURS, "fp32"),
    ("timm classification", "bf16, compiled"),
    (THEIRS, "bf16, compiled"),
)


def _images(batch: int, recipe: config.Recipe, device: torch.device) -> Tensor:
    return torch.randn(batch, 3, recipe.encoder.image_size, recipe.encoder.image_size, device=device)


def step_of(trainee: Trainee, mode: str, device: torch.device) -> Callable[[], None]:
    """Return one training step as a function."""
    model = torch.compile(trainee.model, dynamic=False) if "compiled" in mode else trainee.model
    optimizer, precision = trainee.optimizer, PRECISIONS[mode[:4]]
    scaler = torch.amp.GradScaler(device.type, enabled=precision is torch.float16)

    def step() -> None:
        with torch.autocast(device.type, dtype=precision, enabled=precision is not torch.float32):
            loss = trainee.loss(model)
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)

    return step


def measure(name: str, mode: str, batch: int, device: torch.device, tiny: bool) -> dict[str, Any]:
    """Time one variant at one batch."""
    forget_peak(device)
    trainee = MAKERS[name](batch, device, tiny)
    step = step_of(trainee, mode, device)
    start = time.perf_counter()
    step()
    wait(device)
    first = time.perf_counter() - start
    times = milliseconds(step, device, seconds=0.01 if tiny else 1.0)
    speed = batch / (times["ms"] / 1e3)
    return {
        "images_per_second": speed,
        **times,
        "first_step_seconds": first,
        "peak_gb": peak_gb(device),
        "gflops_per_image": trainee.gflops,
        "tflops": speed * trainee.gflops / 1e3,
        "kernel_share": kernel_share(step, device, int(times["calls"])),
    }


def _refused(name: str, mode: str, options: argparse.Namespace, left: float) -> str | None:
    """Say why a variant is not measured; None when it is."""
    if "compiled" in mode and options.tiny:
        return "torch.compile is left out of the dry run"
    if name.startswith("transformers") and importlib.util.find_spec("transformers") is None:
        return "transformers is not installed"
    if left < (90 if "compiled" in mode else 15):
        return f"out of time: {left:.0f} s left of --seconds {options.seconds:g}"
    return None


def rows(options: argparse.Namespace, device: torch.device) -> Iterator[dict[str, Any]]:
    """Yield one row for each variant and batch; what fails or is left out says why."""
    end = time.monotonic() + options.seconds
    for batch in (4,) if options.tiny else BATCHES:
        for name, mode in VARIANTS:
            row: dict[str, Any] = {"model": name, "mode": mode, "batch": batch}
            reason = _refused(name, mode, options, end - time.monotonic())
            if reason is not None:
                yield row | {"skipped": reason}
                continue
            try:
                yield row | measure(name, mode, batch, device, options.tiny)
            except torch.OutOfMemoryError:
                yield row | {"skipped": "out of device memory"}
            except Exception as error:  # an alternative that fails must not hide the other numbers
                yield row | {"failed": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
            if "compiled" in mode:
                torch.compiler.reset()


def text(row: dict[str, Any]) -> str:
    """Return a row for people."""
    head = f"{row['model']:22}{row['mode']:16}{row['batch']:>6}"
    if "ms" not in row:
        return f"{head}  {row.get('skipped') or 'FAILED: ' + row['failed']}"
    peak = "" if row["peak_gb"] is None else f"{row['peak_gb']:8.1f} GB"
    busy = "" if row["kernel_share"] is None else f"{100 * row['kernel_share']:6.0f} % in kernels"
    speed = f"{row['images_per_second']:>11,.0f} images/s{row['ms']:>10.2f} ms{row['tflops']:>9.2f} TFLOP/s"
    return f"{head}{speed}{peak}{busy}"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write; the exit code is 1 when a variant of ours failed."""
    parser = gpu_record.options_of(__doc__)
    parser.add_argument("--seconds", type=float, default=400, help="start no variant that would end later")
    options = parser.parse_args(argv)
    device = gpu_record.device_of(options)
    side = 64 if options.tiny else 8192
    products = {name: matmul_tflops(device, dtype, side) for name, dtype in PRECISIONS.items()}
    print(f"a product of {side} x {side} matrices: " + ", ".join(f"{k} {v:.3g} TFLOP/s" for k, v in products.items()))
    found = []
    for row in rows(options, device):
        if "tflops" in row:
            row["share_of_matmul"] = row["tflops"] / products[row["mode"][:4]]
        print(text(row), flush=True)
        found.append(row)
    passed = not any("failed" in row for row in found if row["model"] in (OURS, OURS_SMALL))
    results = {"matmul_tflops": products, "matmul_side": side, "steps": found}
    gpu_record.write(options, "steps", sys.argv[1:] if argv is None else argv, results, passed=passed)
    return 0 if passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
