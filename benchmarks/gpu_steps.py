"""Speed of a training step on the device alone: MAE of ViT-Tiny at 224 px, beside plain alternatives of the same run.

All begin with bytes on the device and end with new weights. Ours is the training loop's own update: draws, masks,
normalisation, whether all is finite, and AdamW. The alternatives: MAE as in transformers, with our sizes,
where that is installed, in bf16 and as it is usually trained, in fp16 with scaled gradients; and a classification step
of timm's own ViT-Tiny, which sees all patches. Beside them both MAEs for images of 32 px, patch 4. TFLOP/s count what
the arithmetic of the model needs (mae_lite.costs), and stand next to the device's rate for a large matrix product.
``kernel_share`` is how much of the time the device computes, by the profiler, for ours at the first batch, and
``host_waits`` the lines of an update at which the host waits for it;
``times_transformers`` is how many times as fast ours is as ViTMAE in fp16 at the same batch.

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
from gpu_timing import forget_peak, host_waits, kernel_milliseconds, matmul_tflops, milliseconds, peak_gb, wait
from own_step import OwnUpdate
from peers import vit_mae
from torch import Tensor, nn

from mae_lite import config, costs, recipes
from mae_lite.data.batch import normalised

BATCHES = (1024, 4096, 256, 2048, 512)
"""The most telling first, should the time not suffice."""
_TINY: dict[str, Any] = {"image_size": 32, "patch_size": 8, "width": 48, "depth": 2}


OURS, OURS_SMALL = "mae_lite MAE", "mae_lite MAE, 32 px"
THEIRS, THEIRS_SMALL = "transformers ViTMAE", "transformers ViTMAE, 32 px"
TIMM = "timm classification"
PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
"""What the name of a mode begins with."""
VARIANTS = (
    (OURS, "bf16, compiled"),
    (THEIRS, "fp16"),
    (OURS, "bf16"),
    (THEIRS, "bf16"),
    (OURS_SMALL, "bf16, compiled"),
    (THEIRS_SMALL, "fp16"),
    (TIMM, "bf16"),
    (OURS, "fp32"),
    (OURS_SMALL, "bf16"),
    (THEIRS, "bf16, compiled"),
)
_PROFILING_SHARE = 0.3
"""Of the time, for the profiler."""
_PROFILED = 20
"""Steps that the profiler looks at, at most: each makes a thousand events."""


@dataclass(frozen=True)
class Trainee:
    """A training step, and what it computes."""

    step: Callable[[], object]
    gflops: float
    """Arithmetic of a step, per image."""


Maker = Callable[[int, torch.device, bool, str], Trainee]
"""(batch, device, tiny, mode) -> what to time."""


def recipe_of(tiny: bool) -> config.Recipe:
    """Return the recipe that is measured."""
    recipe = recipes.get("mae-tiny")
    return recipes.derive(recipe, encoder=_TINY) if tiny else recipe


def small_recipe_of(tiny: bool) -> config.Recipe:
    """Return the recipe for images of 32 px, patch 4."""
    recipe = recipes.get("cifar10-mae-tiny")
    return recipes.derive(recipe, encoder={"width": 48, "depth": 2}) if tiny else recipe


def bytes_of(batch: int, recipe: config.Recipe, device: torch.device) -> Tensor:
    """Return random images."""
    side = recipe.encoder.image_size
    return torch.randint(256, (batch, recipe.encoder.channels, side, side), dtype=torch.uint8, device=device)


def ours(batch: int, device: torch.device, recipe: config.Recipe, mode: str) -> Trainee:
    """Make our MAE, with all that a run's update does."""
    recipe = recipes.derive(recipe, precision=mode[:4])
    update, images = OwnUpdate(recipe, device, "compiled" in mode), bytes_of(batch, recipe, device)
    return Trainee(lambda: update(images), costs.step_gflops(recipe))


def theirs(batch: int, device: torch.device, recipe: config.Recipe, mode: str) -> Trainee:
    """Make MAE as in transformers, with our sizes."""
    images, augmentation = bytes_of(batch, recipe, device), recipe.augmentation

    def loss(model: Any) -> Tensor:
        found: Tensor = model(pixel_values=normalised(images, augmentation.mean, augmentation.std)).loss
        return found

    return Trainee(plain_step(vit_mae(recipe), loss, mode, device), costs.step_gflops(recipe))


def timm_classification(batch: int, device: torch.device, tiny: bool, mode: str) -> Trainee:
    """Make timm's ViT-Tiny as it is, 3 heads, with 1,000 classes."""
    recipe = recipe_of(tiny)
    encoder, augmentation = recipe.plain_encoder, recipe.augmentation
    sizes: dict[str, Any] = {"img_size": encoder.image_size, "patch_size": encoder.patch_size}
    if tiny:
        sizes |= {"embed_dim": encoder.width, "depth": encoder.depth}
    model: nn.Module = timm.create_model("vit_tiny_patch16_224", num_classes=1000, **sizes)
    images, labels = bytes_of(batch, recipe, device), torch.randint(1000, (batch,), device=device)

    def loss(model: Any) -> Tensor:
        return nn.functional.cross_entropy(model(normalised(images, augmentation.mean, augmentation.std)), labels)

    return Trainee(plain_step(model, loss, mode, device), 3 * costs.forward_gflops(encoder))


MAKERS: dict[str, Maker] = {
    OURS: lambda batch, device, tiny, mode: ours(batch, device, recipe_of(tiny), mode),
    OURS_SMALL: lambda batch, device, tiny, mode: ours(batch, device, small_recipe_of(tiny), mode),
    THEIRS: lambda batch, device, tiny, mode: theirs(batch, device, recipe_of(tiny), mode),
    THEIRS_SMALL: lambda batch, device, tiny, mode: theirs(batch, device, small_recipe_of(tiny), mode),
    TIMM: timm_classification,
}


def plain_step(
    model: nn.Module, loss: Callable[[Any], Tensor], mode: str, device: torch.device
) -> Callable[[], object]:
    """Return the step that a plain training loop makes, as torch's documentation writes it."""
    model = model.to(device).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)
    called = torch.compile(model, dynamic=False) if "compiled" in mode else model
    precision = PRECISIONS[mode[:4]]
    scaler = torch.amp.GradScaler(device.type, enabled=precision is torch.float16)

    def step() -> None:
        with torch.autocast(device.type, dtype=precision, enabled=precision is not torch.float32):
            found = loss(called)
        scaler.scale(found).backward()  # type: ignore[no-untyped-call]
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)

    return step


def measure(name: str, mode: str, batch: int, device: torch.device, tiny: bool) -> dict[str, Any]:
    """Time one variant at one batch."""
    forget_peak(device)
    trainee = MAKERS[name](batch, device, tiny, mode)
    start = time.perf_counter()
    trainee.step()
    wait(device)
    first = time.perf_counter() - start
    times = milliseconds(trainee.step, device, seconds=0.01 if tiny else 1.0)
    speed = batch / (times["ms"] / 1e3)
    return {
        "images_per_second": speed,
        **times,
        "first_step_seconds": first,
        "peak_gb": peak_gb(device),
        "gflops_per_image": trainee.gflops,
        "tflops": speed * trainee.gflops / 1e3,
    }


def profiled(row: dict[str, Any], device: torch.device, tiny: bool) -> dict[str, Any]:
    """Return where a variant waits for the device, and the share of its time in kernels, or why that is not known."""
    waits = None
    try:
        trainee = MAKERS[row["model"]](row["batch"], device, tiny, row["mode"])
        for _ in range(2):  # the first update is waited for
            trainee.step()
        waits = host_waits(trainee.step, device)
        spent = kernel_milliseconds(trainee.step, device, min(int(row["calls"]), _PROFILED))
    except Exception as error:  # a profiler that cannot look must not cost the numbers
        return {"host_waits": waits, "kernel_share": None, "kernel_share_unknown": f"{type(error).__name__}: {error}"}
    return {"host_waits": waits, "kernel_share": None if spent is None else spent / row["ms"]}


def _refused(name: str, mode: str, options: argparse.Namespace, left: float) -> str | None:
    """Say why a variant is not measured; None when it is."""
    if "compiled" in mode and options.tiny:
        return "torch.compile is left out of the dry run"
    if name in (THEIRS, THEIRS_SMALL) and importlib.util.find_spec("transformers") is None:
        return "transformers is not installed"
    if left < (90 if "compiled" in mode else 15):
        return f"out of time: {left:.0f} s left for timing"
    return None


def rows(options: argparse.Namespace, device: torch.device, end: float) -> Iterator[dict[str, Any]]:
    """Yield one row for each variant and batch; what fails or is left out, as it would end too late, says why."""
    for batch in (4,) if options.tiny else BATCHES:
        for name, mode in VARIANTS:
            row: dict[str, Any] = {"model": name, "mode": mode, "batch": batch}
            reason = _refused(name, mode, options, end - time.monotonic())
            if reason is not None:
                yield row | {"skipped": reason}
                continue
            try:
                yield row | measure(name, mode, batch, device, options.tiny)
            except Exception as error:  # an alternative that fails must not hide the other numbers
                first = str(error).partition("\n")[0]
                full = isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error)  # or wrapped
                yield row | ({"skipped": "out of device memory"} if full else
                             {"failed": f"{type(error).__name__}: {first}"})  # fmt: skip
            if "compiled" in mode:
                torch.compiler.reset()


def compared(found: Sequence[dict[str, Any]]) -> None:
    """Tell each row of ours how many times as fast it is as transformers in fp16 at the same batch."""
    plain = {(row["model"], row["batch"]): row["ms"] for row in found if row["mode"] == "fp16" and "ms" in row}
    for row in found:
        other = {OURS: THEIRS, OURS_SMALL: THEIRS_SMALL}.get(row["model"])
        if "ms" in row and (other, row["batch"]) in plain:
            row["times_transformers"] = plain[other, row["batch"]] / row["ms"]


def text(row: dict[str, Any]) -> str:
    """Return a row for people."""
    head = f"{row['model']:27}{row['mode']:16}{row['batch']:>6}"
    if "ms" not in row:
        return f"{head}  {row.get('skipped') or 'FAILED: ' + row['failed']}"
    peak = "" if row["peak_gb"] is None else f"{row['peak_gb']:8.1f} GB"
    return f"{head}{row['images_per_second']:>11,.0f} images/s{row['ms']:>10.2f} ms{row['tflops']:>9.2f} TFLOP/s{peak}"


def look_at(found: Sequence[dict[str, Any]], device: torch.device, options: argparse.Namespace, end: float) -> None:
    """Profile ours at the first batch; a profiler that looked once stays attached, so that it comes after all times."""
    for row in found:
        left = end - time.monotonic()
        if row["model"] not in (OURS, OURS_SMALL) or "ms" not in row or row["batch"] != found[0]["batch"]:
            continue
        if left < (60 if "compiled" in row["mode"] else 15):
            row |= {"kernel_share": None, "kernel_share_unknown": f"out of time: {left:.0f} s left"}
            continue
        row |= profiled(row, device, options.tiny)
        if row["kernel_share"] is not None:
            waits = ", ".join(row["host_waits"]) or "nowhere"
            share = f"{row['kernel_share']:.0%} in kernels, the host waits {waits}"
            print(f"{row['model']}, {row['mode']}, batch {row['batch']}: {share}")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write; the exit code is 1 when a variant of ours failed.

    What has nothing beside it, for want of time or of transformers, is to be measured again.
    """
    parser = gpu_record.options_of(__doc__)
    parser.add_argument("--seconds", type=float, default=400, help="start no variant that would end later")
    options = parser.parse_args(argv)
    device, end = gpu_record.device_of(options), time.monotonic() + options.seconds
    measured = end - _PROFILING_SHARE * options.seconds
    side = 64 if options.tiny else 8192
    products = {name: matmul_tflops(device, dtype, side) for name, dtype in PRECISIONS.items()}
    print(f"a product of {side} x {side} matrices: " + ", ".join(f"{k} {v:.3g} TFLOP/s" for k, v in products.items()))
    found = []
    for row in rows(options, device, measured):
        if "tflops" in row:
            row["share_of_matmul"] = row["tflops"] / products[row["mode"][:4]]
        print(text(row), flush=True)
        found.append(row)
    compared(found)
    look_at(found, device, options, end)
    failed = any("failed" in row for row in found if row["model"] in (OURS, OURS_SMALL))
    passed = not failed and any("times_transformers" in row for row in found if row["model"] == OURS)
    results = {"matmul_tflops": products, "matmul_side": side, "steps": found}
    gpu_record.write(options, "steps", sys.argv[1:] if argv is None else argv, results, passed=passed)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
