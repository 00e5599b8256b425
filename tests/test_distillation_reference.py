"""Distillation losses, logits and gradient norms computed with the public implementation, reproduced by ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor

from mae_lite import recipes
from mae_lite.config import DistilledMAE, Recipe
from mae_lite.methods import build
from mae_lite.methods.distilled import DistilledAutoencoder, block_inputs
from mae_lite.methods.mae import embed, patchify
from mae_lite.methods.teacher import Teacher
from mae_lite.models import weights
from mae_lite.models.taps import attention_logits
from mae_lite.models.vit import build_encoder

FILE = Path(__file__).parent / "fixtures" / "distillation.safetensors"
SETTINGS: dict[str, dict[str, Any]] = {
    "attention": {"target": "attention"},
    "hidden": {"target": "hidden", "blocks": ((1, 1), (2, 2))},
    "decoupled": {"target": "attention", "decoupled_at": 1},
}
TOTALS = {"attention": "mae_plus_attention", "hidden": "mae_plus_hidden", "decoupled": "decoupled"}
EXTRA = {"norm1": "blocks.2.norm1", "qkv": "blocks.2.attn.qkv"}
"""The public implementation's block beyond the last, by our names."""


@pytest.fixture(scope="module")
def numbers() -> dict[str, Tensor]:
    return load_file(FILE)


def recipe(kind: str) -> Recipe:
    with safetensors.safe_open(FILE, "pt") as file:
        facts = file.metadata()
    student, teacher = json.loads(facts["student_config"]), json.loads(facts["teacher_config"])
    assert SETTINGS["decoupled"]["decoupled_at"] == int(facts["decoupled_decode_before_block"])
    return recipes.derive(
        recipes.get("mae-tiny"),
        encoder={
            "image_size": student["img_size"],
            "patch_size": student["patch_size"],
            "width": student["embed_dim"],
            "depth": student["depth"],
            "num_heads": student["num_heads"],
        },
        method={
            "kind": "distilled_mae",
            "mask_ratio": float(facts["mask_ratio"]),
            "decoder_width": student["decoder_embed_dim"],
            "decoder_depth": student["decoder_depth"],
            "decoder_heads": student["decoder_num_heads"],
            "teacher_width": teacher["embed_dim"],
            "teacher_depth": teacher["depth"],
            "teacher_heads": teacher["num_heads"],
            **SETTINGS[kind],
        },
    )


def under(numbers: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in numbers.items() if key.startswith(prefix)}


def ours(names: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors of the public implementation by our names."""
    extra = {f"matching.extra.{mine}.": f"{theirs}." for mine, theirs in EXTRA.items()}
    adapters = {"head_adapter": 0, "hidden_adapter_1": 0, "hidden_adapter_final": 1}
    found: dict[str, Tensor] = {}
    rest = dict(names)
    for name in names:
        for mine, theirs in extra.items():
            if name.startswith(theirs):
                found[mine + name.removeprefix(theirs)] = rest.pop(name)
        if name in adapters:
            found[f"matching.maps.{adapters[name]}.weight"] = rest.pop(name)
    return found | weights.canonical_names(rest)


def reference(numbers: dict[str, Tensor], kind: str) -> DistilledAutoencoder:
    settings = recipe(kind)
    method = build(settings, 0)
    assert isinstance(method, DistilledAutoencoder) and isinstance(settings.method, DistilledMAE)
    tensors = under(numbers, "decoupled_student." if kind == "decoupled" else "student.")
    names = ("hidden_adapter_1", "hidden_adapter_final") if kind == "hidden" else ("head_adapter",)
    tensors |= {name: numbers[f"in.{name}"].squeeze() for name in names}
    weights.load_into(method, ours(tensors), source="student")
    model = build_encoder(settings.method.teacher(settings.plain_encoder), seed=0)
    weights.load_into(model, under(numbers, "teacher."), source="teacher")
    method.teacher = Teacher(model, "")
    return method


def noise(numbers: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"noise": torch.argsort(numbers["in.ids_shuffle"], dim=1).float()}


@pytest.mark.parametrize("kind", SETTINGS)
def test_losses_and_gradients(numbers: dict[str, Tensor], kind: str) -> None:
    method = reference(numbers, kind)
    output = method(numbers["in.images"], torch.zeros(4), noise(numbers))
    painting = numbers["out.decoupled_mae_loss" if kind == "decoupled" else "out.mae_loss"].item()
    distilling = numbers["out.decoupled_attention_loss" if kind == "decoupled" else f"out.{kind}_loss"].item()
    assert output.logs["loss_mae"].item() == pytest.approx(painting, rel=1e-5)
    assert output.logs["loss_distill"].item() == pytest.approx(distilling, rel=1e-5)
    assert output.loss.item() == pytest.approx(painting + distilling, rel=1e-5)
    output.loss.backward()
    norms = {name: p.grad.norm().item() for name, p in method.named_parameters() if p.grad is not None}
    expected = ours(under(numbers, f"out.grad_norm.{TOTALS[kind]}."))
    if kind == "decoupled":  # the file has no number for the map of heads here
        assert norms.pop("matching.maps.0.weight") > 0
    assert norms.keys() == expected.keys()
    worst = max(abs(norm / expected[name].item() - 1) for name, norm in norms.items() if expected[name].item() > 1e-6)
    print(f"{kind}: gradient norms differ by {worst:.1e} at most")
    for name, norm in norms.items():
        assert norm == pytest.approx(expected[name].item(), rel=1e-4, abs=1e-7), name


def test_logits_of_the_last_block(numbers: dict[str, Tensor]) -> None:
    patches = patchify(numbers["in.images"], 16)
    visible = numbers["in.ids_shuffle"][:, :4]
    student, decoupled = reference(numbers, "attention"), reference(numbers, "decoupled")
    assert student.teacher is not None and decoupled.matching.extra is not None
    for encoder, name in ((student.encoder, "student"), (student.teacher.model, "teacher")):
        states = block_inputs(encoder, embed(encoder, patches, visible), {1})
        last = encoder.blocks[1]
        with torch.no_grad():
            logits = attention_logits(last.norm1, last.attn, states[1])
        expected = numbers[f"out.{name}_logits"]
        assert float((logits - expected).norm() / expected.norm()) < 1e-5, name
    states = block_inputs(decoupled.encoder, embed(decoupled.encoder, patches, visible), {2})
    extra = decoupled.matching.extra
    with torch.no_grad():
        logits = attention_logits(extra.norm1, extra, states[2])
    expected = numbers["out.decoupled_student_logits"]
    assert float((logits - expected).norm() / expected.norm()) < 1e-5
