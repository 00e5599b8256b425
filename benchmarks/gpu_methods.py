"""Every pre-training method in bf16, and compiled: its loss beside that of float32, on the same weights and images.

One recipe of each method at 224 px, with the batch given; teachers have random weights. A loss passes when it differs
from float32's by at most one per cent. A step is forward and backward; its time is the median of three repeats.

    python benchmarks/gpu_methods.py [--batch 128] [--seconds 400] [--device cpu --tiny]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import gpu_record
import torch
from gpu_timing import forget_peak, host_waits, milliseconds, peak_gb
from torch import Tensor

from mae_lite import config, recipes
from mae_lite.methods import build
from mae_lite.methods.base import Method
from mae_lite.methods.teacher import Taught, Teacher
from mae_lite.models.vit import build_encoder

RECIPES = (
    "mae-tiny",
    "d-mae-tiny",
    "d-mae-tiny-hidden",
    "d2-mae-tiny",
    "mae-hog-tiny",
    "feature-distill-tiny",
    "maskfeat-tiny",
    "simmim-tiny",
    "simmim-swin-tiny",
    "d2-simmim-swin-tiny",
    "mocov3-tiny",
    "dino-tiny",
    "supervised-tiny",
    "finetune-improved-rpe",
)
MODES = ("fp32", "bf16", "bf16, compiled")
ALLOWED = 0.01
CLASSES = 1000
_TINY: dict[str, Any] = {"image_size": 32, "patch_size": 8, "width": 48, "depth": 2}
_TINY_SWIN: dict[str, Any] = {"image_size": 32, "patch_size": 4, "width": 12, "depths": (1, 1), "num_heads": (2, 2)}
_TINY_SWIN |= {"window_size": 4}
_TINY_METHODS: dict[str, dict[str, Any]] = {
    "distilled_mae": {"teacher_width": 48, "teacher_depth": 2},
    "feature_distillation": {"teacher_width": 48, "teacher_depth": 2, "teacher_patch_size": 8},
    "simmim": {"mask_unit_px": 8},
    "distilled_simmim": {
        **{"mask_unit_px": 8, "decoupled_at": 1, "teacher_width": 24},
        **{"teacher_depths": (1, 1), "teacher_heads": (2, 2)},
    },
    "mocov3": {"hidden_width": 64, "output_width": 16},
    "dino": {"hidden_width": 64, "bottleneck_width": 16, "prototypes": 128},
}


def recipe_of(name: str, tiny: bool) -> config.Recipe:
    """Return the recipe that is measured, small in a dry run."""
    recipe = recipes.get(name)
    if isinstance(recipe.method, config.FeatureDistillation):  # a teacher that is built here has one class token
        recipe = recipes.derive(recipe, method={"teacher_prefix_tokens": 1})
    if not tiny:
        return recipe
    encoder = _TINY if isinstance(recipe.encoder, config.Encoder) else _TINY_SWIN
    method = dict(_TINY_METHODS.get(recipe.method.kind, {}))
    if isinstance(recipe.method, config.DistilledMAE) and recipe.method.decoupled_at:
        method["decoupled_at"] = 1
    augmentation = {"local_size": 16} if recipe.augmentation.local_views else {}
    return recipes.derive(recipe, encoder=encoder, method=method, augmentation=augmentation)


def method_of(recipe: config.Recipe, device: torch.device) -> Method:
    """Build a method, with a teacher of random weights where it has one."""
    method = build(recipe, CLASSES)
    if isinstance(method, Taught) and isinstance(recipe.method, config.DistilledMAE | config.FeatureDistillation):
        shape = recipe.method.teacher(recipe.plain_encoder)
        method.teacher = Teacher(build_encoder(shape, seed=1), "random weights")
    if isinstance(method, Taught) and isinstance(recipe.method, config.DistilledSimMIM):
        assert isinstance(recipe.encoder, config.Swin)
        painting = {"kind": "simmim", "mask_unit_px": recipe.method.mask_unit_px}
        shapes = recipe.method.teacher(recipe.encoder).model_dump()
        method.teacher = Teacher(
            build(recipes.derive(recipe, method=painting, encoder=shapes), CLASSES), "random weights"
        )
    return method.to(device)


def inputs_of(recipe: config.Recipe, method: Method, batch: int, device: torch.device) -> tuple[Any, ...]:
    """Return what a step is given: images, labels, draws, and local images where the recipe has some."""
    encoder, augmentation = recipe.encoder, recipe.augmentation
    random = torch.Generator().manual_seed(0)

    def images(side: int, *views: int) -> Tensor:
        return torch.randn(batch, *views, encoder.channels, side, side, generator=random).to(device)

    views = () if augmentation.views == 1 else (augmentation.views,)
    labels = torch.randint(CLASSES, (batch,), generator=random).to(device)
    drawn = {name: value.to(device) for name, value in method.draw(0, 0, range(batch)).items()}
    local: tuple[Tensor, ...] = ()
    if augmentation.local_views is not None and augmentation.local_size is not None:
        local = (images(augmentation.local_size, augmentation.local_views),)
    return images(encoder.image_size, *views), labels, drawn, *local


def measure(recipe: config.Recipe, mode: str, batch: int, device: torch.device, tiny: bool) -> dict[str, Any]:
    """Return the loss of the first step and the time of a step."""
    forget_peak(device)
    method = method_of(recipe, device)
    given = inputs_of(recipe, method, batch, device)
    method.before_step(0.0)
    model: Any = torch.compile(method, dynamic=False) if "compiled" in mode else method
    bf16 = mode.startswith("bf16")

    def step() -> Tensor:
        method.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            loss: Any = model(*given).loss
        loss.backward()
        value: Tensor = loss.detach()
        return value

    found: dict[str, Any] = {"loss": float(step()), **milliseconds(step, device, seconds=0.01 if tiny else 0.5)}
    found |= {"images_per_second": batch / found["ms"] * 1e3, "peak_gb": peak_gb(device)}
    return found | {"host_waits": host_waits(step, device)}


def rows(options: argparse.Namespace, device: torch.device) -> Iterator[dict[str, Any]]:
    """Yield a row for each method and mode; what fails or is left out says why."""
    end = time.monotonic() + options.seconds
    batch = 16 if options.tiny else options.batch
    for name in RECIPES:
        exact: float | None = None
        for mode in MODES:
            row: dict[str, Any] = {"recipe": name, "mode": mode, "batch": batch}
            if "compiled" in mode and options.tiny:
                yield row | {"skipped": "torch.compile is left out of the dry run"}
                continue
            if time.monotonic() > end:
                yield row | {"skipped": f"out of time: --seconds {options.seconds:g}"}
                continue
            try:
                row |= measure(recipe_of(name, options.tiny), mode, batch, device, options.tiny)
            except Exception as error:  # one method that fails must not hide the others
                yield row | {"failed": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"}
                continue
            exact = row["loss"] if mode == "fp32" else exact
            if exact is not None:
                row["difference"] = abs(row["loss"] - exact) / abs(exact)
            yield row
            torch.compiler.reset()


def text(row: dict[str, Any]) -> str:
    """Return a row for people."""
    head = f"{row['recipe']:24}{row['mode']:16}"
    if "ms" not in row:
        return f"{head}{row.get('skipped') or 'FAILED: ' + row['failed']}"
    apart = f"{row['difference']:10.2e}" if "difference" in row else f"{'':10}"
    waits = f"  the host waits: {', '.join(row['host_waits'])}" if row.get("host_waits") else ""
    return f"{head}loss {row['loss']:9.5f}{apart}{row['images_per_second']:>11,.0f} images/s{waits}"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write; the exit code is 1 when a loss is too far off or a method failed."""
    parser = gpu_record.options_of(__doc__)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=400, help="start nothing after so long")
    options = parser.parse_args(argv)
    device = gpu_record.device_of(options)
    torch.set_float32_matmul_precision("highest")
    found = []
    for row in rows(options, device):
        print(text(row), flush=True)
        found.append(row)
    passed = all("failed" not in row and row.get("difference", 0.0) <= ALLOWED for row in found)
    results = {"allowed": ALLOWED, "rows": found}
    gpu_record.write(options, "methods", sys.argv[1:] if argv is None else argv, results, passed=passed)
    return 0 if passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
