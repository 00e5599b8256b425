"""The reference numbers of the tests on a GPU: in float32 with the tests' tolerances, and under bf16.

bf16 keeps 8 bits of a number, a relative step of 0.4 %. Its tolerances are about five times what autocast on a CPU
gives for the same fixtures (the loss: forty times); they find a wrong formula, not a wrong digit.

    python benchmarks/gpu_reference.py [--device cpu --tiny]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import gpu_record
import torch
from safetensors.torch import load_file
from torch import Tensor

sys.path.insert(0, str(gpu_record.ROOT))

from mae_lite import config
from mae_lite.methods.mae import patchify
from mae_lite.models import layouts, weights
from mae_lite.models.vit import build_encoder
from tests.test_reference import FIXTURES, reference_mae, relative

TOLERANCES = {
    "fp32": {"latent": 1e-5, "prediction": 1e-5, "loss": 1e-5, "gradient norm": 1e-4, "tokens": 1e-4},
    "bf16": {"latent": 2.5e-2, "prediction": 2.5e-2, "loss": 1e-3, "gradient norm": 2.5e-2, "tokens": 7.5e-2},
}
"""Relative differences; of ``tokens`` the largest absolute one, as in the test."""
Difference = tuple[str, str, float]
"""What was compared, the key of its tolerance, and the difference."""


def forward(numbers: dict[str, Tensor], device: torch.device) -> Iterator[Difference]:
    """Compare the encoder's tokens and the decoder's prediction."""
    model = reference_mae(numbers, normalize=True).to(device)
    order = numbers["in.ids_shuffle"].to(device)
    latent = model.encode(patchify(numbers["in.images"].to(device), 16), order[:, : model.kept])
    yield "latent", "latent", relative(latent.float().cpu(), numbers["out.latent"])
    prediction = model.decoder(latent, order)
    yield "prediction", "prediction", relative(prediction.float().cpu(), numbers["out.pred"])


def loss_and_gradients(
    numbers: dict[str, Tensor], target: str, device: torch.device, autocast: torch.autocast
) -> Iterator[Difference]:
    """Compare the loss and the gradient norm of every parameter; of these report the worst."""
    model = reference_mae(numbers, normalize=target == "norm_pix").to(device)
    noise = torch.argsort(numbers["in.ids_shuffle"], dim=1).float().to(device)
    with autocast:
        loss = model(numbers["in.images"].to(device), torch.zeros(4, device=device), {"noise": noise}).loss
    expected = numbers[f"out.{target}.loss"].item()
    yield f"{target} loss", "loss", abs(loss.item() / expected - 1)
    loss.backward()
    prefix = f"out.{target}.grad_norm."
    public = {key.removeprefix(prefix): value for key, value in numbers.items() if key.startswith(prefix)}
    norms = {name: value.grad.norm().item() for name, value in model.named_parameters() if value.grad is not None}
    reference = {name: value.item() for name, value in weights.canonical_names(public).items()}
    assert norms.keys() == reference.keys()
    differences = {name: abs(norms[name] / reference[name] - 1) for name in norms}
    worst = max(differences, key=lambda name: differences[name])
    yield f"{target} gradient norm, worst of {len(norms)}: {worst}", "gradient norm", differences[worst]


def public_checkpoint(device: torch.device) -> Difference:
    """Compare the tokens of a checkpoint in the public format."""
    file = FIXTURES / "mae_tiny_public_format.pth.tar"
    tensors = layouts.recognise(weights.read_file(file), str(file)).tensors
    ours = {key.removeprefix("encoder."): value for key, value in tensors.items() if key.startswith("encoder.")}
    model: Any = build_encoder(config.Encoder(depth=2, num_heads=12), seed=0)
    weights.load_into(model, ours, source="public checkpoint")
    reference = load_file(FIXTURES / "mae_tiny_public_format.safetensors")
    tokens = model.eval().to(device).forward_features(reference["in.images"].float().to(device))
    return "public checkpoint's tokens", "tokens", (tokens.float().cpu() - reference["out.tokens"]).abs().max().item()


def compare(precision: str, device: torch.device) -> list[dict[str, Any]]:
    """Return every comparison at one precision."""
    numbers = load_file(FIXTURES / "mae_forward.safetensors")
    autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
    found: list[Difference] = []
    with torch.no_grad(), autocast:
        found += [*forward(numbers, device), public_checkpoint(device)]
    for target in ("norm_pix", "raw_pix"):
        found += loss_and_gradients(numbers, target, device, autocast)
    allowed = TOLERANCES[precision]
    return [
        {
            "precision": precision,
            "what": what,
            "difference": difference,
            "allowed": allowed[key],
            "passed": difference < allowed[key],
        }
        for what, key, difference in found
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Compare, print and write; the exit code is 1 when a comparison failed."""
    options = gpu_record.options_of(__doc__).parse_args(argv)
    device = gpu_record.device_of(options)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    rows = [row for precision in TOLERANCES for row in compare(precision, device)]
    for row in rows:
        verdict = "ok" if row["passed"] else "FAILED"
        print(f"{verdict:7}{row['precision']}  {row['difference']:.1e} of {row['allowed']:.0e}  {row['what']}")
    passed = all(row["passed"] for row in rows)
    gpu_record.write(options, "reference", sys.argv[1:] if argv is None else argv, rows, passed=passed)
    return 0 if passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
