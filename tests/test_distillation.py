"""Distilling runs: the teacher stays as it is and out of all files, the slow formulas, resume, and every refusal."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mae_lite import config, recipes, rundir, training
from mae_lite.config import Recipe
from mae_lite.errors import CheckpointError, ConfigError
from mae_lite.evaluation.load import load_run
from mae_lite.evaluation.teacher import load_teacher
from mae_lite.methods import build, distilled
from mae_lite.methods.distilled import DistilledAutoencoder, block_inputs
from mae_lite.methods.mae import embed, patchify
from mae_lite.methods.teacher import Teacher
from mae_lite.models.vit import build_encoder
from mae_lite.predicting.models import load_encoder
from mae_lite.report import repeat
from mae_lite.report.read import read
from mae_lite.rundir import checkpoints, read_rows
from tests import toy

SGD: dict[str, Any] = {"optimizer": {"kind": "sgd"}, "lr_per_256": 1.0}
KINDS: dict[str, dict[str, Any]] = {
    "attention": {},
    "two blocks": {"blocks": ((0, 0), (1, 2))},
    "probabilities": {"use_probabilities": True},
    "hidden": {"target": "hidden"},
    "two representations": {"target": "hidden", "blocks": ((0, 1), (2, 2))},
    "decoupled": {"decoupled_at": 1, "weight": 0.5},
}


def recipe_of(kind: str, **changes: Any) -> Recipe:
    """Return a toy recipe with a student of two blocks."""
    return recipes.derive(toy.distilled(encoder={"depth": 2}, method=KINDS[kind]), **changes)


def method_of(recipe: Recipe, seed: int = 7) -> DistilledAutoencoder:
    method = build(recipe, 0)
    assert isinstance(method, DistilledAutoencoder) and isinstance(recipe.method, config.DistilledMAE)
    method.teacher = Teacher(build_encoder(recipe.method.teacher(recipe.plain_encoder), seed), "")
    return method


def pictures(count: int) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def step(method: DistilledAutoencoder, count: int = 6) -> Any:
    return method(pictures(count), torch.zeros(count), method.draw(0, 0, range(count)))


def slow_attention(norm: Any, attention: Any, states: Tensor) -> Any:
    """Return logits [B, H, T, T] token by token, head by head, in float64."""
    with torch.no_grad():
        tokens = norm(states).double().numpy()
        weight, bias = attention.qkv.weight.double().numpy(), attention.qkv.bias.double().numpy()
    batch, count, width = tokens.shape
    heads = attention.num_heads
    size = width // heads
    logits = np.zeros((batch, heads, count, count))
    for b, head, i, j in np.ndindex(*logits.shape):
        rows = slice(head * size, (head + 1) * size)
        query = weight[rows] @ tokens[b, i] + bias[rows]
        key = weight[width:][rows] @ tokens[b, j] + bias[width:][rows]
        logits[b, head, i, j] = sum(query * key) / size**0.5
    return logits


def softmax(values: Any) -> Any:
    exponents = np.exp(values - values.max(axis=-1, keepdims=True))
    return exponents / exponents.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("kind", ["attention", "probabilities", "two blocks"])
def test_attention_loss_is_the_slow_formula(kind: str) -> None:
    method = method_of(recipe_of(kind))
    assert method.teacher is not None
    output = step(method, 2)
    patches = patchify(pictures(2), 4)
    visible = torch.argsort(method.draw(0, 0, range(2))["noise"], dim=1)[:, : method.kept]
    expected = 0.0
    for (student, teacher), head_map in zip(method.pairs, method.matching.maps, strict=True):
        sides = []
        for encoder, number in ((method.encoder, student), (method.teacher.model, teacher)):
            with torch.no_grad():
                states = block_inputs(encoder, embed(encoder, patches, visible), {number})[number]
            block = encoder.blocks[number]
            sides.append(slow_attention(block.norm1, block.attn, states))
        weight = head_map.get_parameter("weight").detach().double().numpy()
        mixed = np.stack([sum(w * sides[0][:, h] for h, w in enumerate(row)) for row in weight], axis=1)
        target = sides[1]
        if kind == "probabilities":
            mixed, target = softmax(mixed), softmax(target)
        expected += float(((mixed - target) ** 2).mean())
    assert output.logs["loss_distill"].item() == pytest.approx(expected, rel=1e-4)
    assert output.loss.item() == pytest.approx(output.logs["loss_mae"].item() + expected, rel=1e-4)


def test_logits_are_what_timm_puts_into_its_softmax() -> None:
    """And representations what its forward passes on: nothing is computed that the teacher does not compute itself."""
    model: Any = build_encoder(toy.mae(encoder={"depth": 2}).plain_encoder, seed=3).eval()
    images, seen = pictures(2), list[Tensor]()
    attention = model.blocks[1].attn
    attention.fused_attn = False
    attention.attn_drop.register_forward_hook(lambda *parts: seen.append(parts[1][0]))
    with torch.no_grad():
        final = model.forward_features(images)
    everything = torch.arange(4).expand(2, -1)
    states = block_inputs(model, embed(model, patchify(images, 4), everything), {1, 2})
    logits = slow_attention(model.blocks[1].norm1, attention, states[1])
    assert np.allclose(softmax(logits), seen[0].numpy(), atol=1e-6)
    assert torch.allclose(model.norm(states[2]), final, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_the_student_and_nothing_of_the_teacher(kind: str) -> None:
    method = method_of(recipe_of(kind))
    assert method.teacher is not None
    before = copy.deepcopy(method.teacher.model.state_dict())
    method.train()
    assert not method.teacher.model.training
    step(method).loss.backward()
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
        else:
            assert name in ("encoder.pos_embed", "decoder.pos_embed")
    owned = {id(parameter) for parameter in method.parameters()}
    for name, parameter in method.teacher.model.named_parameters():
        assert parameter.grad is None and not parameter.requires_grad and id(parameter) not in owned, name
        assert torch.equal(parameter, before[name])
    assert copy.deepcopy(method).teacher is method.teacher  # what an average of the weights does


def test_the_teacher_moves_along_but_is_no_part_of_the_state() -> None:
    method = method_of(recipe_of("decoupled"))
    assert method.teacher is not None
    method.double()
    assert {value.dtype for value in method.teacher.model.state_dict().values()} == {torch.float64}
    names = {name.split(".")[0] for name in method.state_dict()}
    assert names == {"encoder", "decoder", "matching"}
    extra = sorted(name for name in method.state_dict() if name.startswith("matching.extra"))
    assert extra == [f"matching.extra.{part}" for part in ("norm1.bias", "norm1.weight", "qkv.bias", "qkv.weight")]


@pytest.mark.parametrize("kind", ["attention", "two representations", "decoupled"])
def test_mixed_precision_compares_in_float32(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method, seen = method_of(recipe_of(kind)), list[Tensor]()
    exact = step(method).logs["loss_distill"].item()
    for name in ("attention_logits", "normed"):
        original = getattr(distilled, name)

        def kept(*parts: Any, original: Any = original) -> Tensor:
            seen.append(original(*parts))
            return seen[-1]

        monkeypatch.setattr(distilled, name, kept)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = step(method)
    assert len(seen) == 2 * len(method.pairs) and {value.dtype for value in seen} == {torch.float32}
    assert output.logs["loss_distill"].dtype == torch.float32
    # the blocks before the compared one run in bfloat16, all that follows does not
    assert output.logs["loss_distill"].item() == pytest.approx(exact, rel=0.02)
    assert not any(bool((value == value.bfloat16().float()).all()) for value in seen)


def test_decoupled_paints_from_an_earlier_block() -> None:
    """Later blocks learn from the teacher alone."""
    method = method_of(recipe_of("decoupled"))
    patches = patchify(pictures(4), 4)
    visible = torch.argsort(method.draw(0, 0, range(4))["noise"], dim=1)[:, : method.kept]
    tokens = embed(method.encoder, patches, visible)
    assert torch.equal(method.encode(patches, visible), method.encoder.norm(method.encoder.blocks[0](tokens)))
    output = step(method)
    with torch.no_grad():
        method.encoder.blocks[1].mlp.fc2.bias += torch.arange(16.0)  # a constant would end at the next LayerNorm
        changed = step(method)
    assert torch.equal(changed.logs["loss_mae"], output.logs["loss_mae"])
    assert not torch.equal(changed.logs["loss_distill"], output.logs["loss_distill"])


def tensors(run: Path, name: str = "model") -> dict[str, Tensor]:
    return load_file(checkpoints(run)[0][1] / f"{name}.safetensors")


def everything(run: Path) -> Any:
    """Return what two equal runs must share, by hash where it is a file."""
    rows = [{key: value for key, value in row.items() if key not in toy.TIMES} for row in read_rows(run)]
    newest = checkpoints(run)[0][1]
    hashes = json.loads((newest / "manifest.json").read_text())
    return rows, hashes, (run / "encoder" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("kind", ["attention", "hidden", "decoupled"])
def test_a_resumed_run_is_the_same_run(tmp_path: Path, kind: str) -> None:
    recipe = recipe_of(kind)
    teacher = toy.teacher_weights(tmp_path / "teacher.safetensors", recipe)
    for stop in (None, 1, 3, None):  # a row is due every other update: pauses fall between rows too
        out = tmp_path / ("parts" if (tmp_path / "whole").exists() else "whole")
        training.run(recipe, toy.runtime(out, teacher=teacher, stop_after_steps=stop))
    assert everything(tmp_path / "parts") == everything(tmp_path / "whole")
    for row in read_rows(tmp_path / "whole"):
        if "loss" in row:
            weight = 0.5 if kind == "decoupled" else 1.0
            assert row["loss"] == pytest.approx(row["loss_mae"] + weight * row["loss_distill"], rel=1e-5)
            assert 0 < row["teacher_share"] < 1


def test_run_folder(tmp_path: Path) -> None:
    """Adapters and teacher are not in what is published; the student loads without its teacher, and fine-tunes."""
    recipe = recipe_of("decoupled", ema_decay=0.9)
    teacher = toy.teacher_weights(tmp_path / "teacher.safetensors", recipe)
    run = training.run(recipe, toy.runtime(tmp_path / "run", teacher=teacher)).folder
    Path(teacher).unlink()
    plain = build_encoder(recipe.plain_encoder, seed=0).state_dict()
    assert load_file(run / "encoder" / "model.safetensors").keys() == plain.keys()
    assert load_encoder(run).state_dict().keys() == plain.keys()
    assert load_run(run).recipe == recipe
    record = json.loads((run / "recipe.json").read_text())
    assert record["teacher"] == teacher and len(record["teacher_sha256"]) == 64
    trained = {name.rpartition("/")[0] for name in tensors(run, "optimizer")}
    assert {name.split(".")[0] for name in trained} == {"encoder", "decoder", "matching"}
    assert f"--teacher {teacher} " in repeat.command(read(run))
    fine = recipes.derive(
        toy.classifier(), start="pretrained", encoder={"depth": 2, "positions": "sincos", "init": "xavier"}
    )
    for source in (run, run / "encoder"):
        out = tmp_path / f"fine-{source.name}"
        training.run(fine, toy.runtime(out, init=str(source), stop_after_steps=1))
        assert not any(name.startswith("matching") for name in tensors(out))


def test_plain_mae_goes_on_with_a_teacher(tmp_path: Path) -> None:
    recipe = recipe_of("attention")
    teacher = toy.teacher_weights(tmp_path / "teacher.safetensors", recipe)
    plain = training.run(toy.mae(encoder={"depth": 2}), toy.runtime(tmp_path / "plain")).folder
    run = training.run(recipe, toy.runtime(tmp_path / "run", teacher=teacher, init=str(plain), stop_after_steps=1))
    before, after = tensors(plain), tensors(run.folder)  # the first update has rate 0
    assert after.keys() - before.keys() == {"matching.maps.0.weight"}
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_another_teacher_is_another_run(tmp_path: Path) -> None:
    recipe = recipe_of("attention")
    teacher = toy.teacher_weights(tmp_path / "teacher.safetensors", recipe)
    training.run(recipe, toy.runtime(tmp_path / "run", teacher=teacher, stop_after_steps=2))
    toy.teacher_weights(tmp_path / "teacher.safetensors", recipe, seed=8)
    with pytest.raises(ConfigError, match="teacher_sha256"):
        training.run(recipe, toy.runtime(tmp_path / "run", teacher=teacher))
    runtime = toy.runtime(tmp_path)
    folders = {rundir.default_folder(recipe, runtime, None, digest) for digest in (None, "a", "b")}
    assert len(folders) == 3


def test_a_run_teaches(tmp_path: Path) -> None:
    """By its folder, a checkpoint, its timm folder, and a file of its weights: the same teacher each time."""
    shape = {"depth": 3, "width": 24, "num_heads": 3}
    run = training.run(toy.mae(encoder=shape), toy.runtime(tmp_path / "teacher")).folder
    places = (run, checkpoints(run)[0][1], run / "encoder", run / "encoder" / "model.safetensors")
    found = [load_teacher(recipe_of("hidden"), str(place)) for place in places]
    assert len({teacher.sha256 for teacher in found if teacher is not None}) == 1
    assert all(teacher is not None and not teacher.model.training for teacher in found)
    training.run(recipe_of("hidden"), toy.runtime(tmp_path / "student", teacher=str(run)))
    again = recipe_of("attention", encoder={"depth": 2})
    student = {"teacher_depth": 2, "teacher_width": 16, "teacher_heads": 2}
    assert load_teacher(recipes.derive(again, method=student), str(tmp_path / "student")) is not None


def test_a_classifier_teaches_attention(tmp_path: Path) -> None:
    """It has pooled its tokens, so that its final LayerNorm is another one."""
    shape = {"depth": 3, "width": 24, "num_heads": 3}
    run = training.run(toy.classifier(encoder=shape), toy.runtime(tmp_path / "teacher")).folder
    assert load_teacher(recipe_of("attention"), str(run)) is not None
    with pytest.raises(CheckpointError, match=r"norm\.weight: missing"):
        load_teacher(recipe_of("hidden"), str(run))


def losses(run: Path) -> list[tuple[float, ...]]:
    return [
        tuple(row[name] for name in ("loss", "loss_mae", "loss_distill")) for row in read_rows(run) if "loss" in row
    ]


def assert_close(one: Path, other: Path) -> None:
    for first, second in zip(losses(one), losses(other), strict=True):
        assert first == pytest.approx(second, rel=1e-5)
    ours, theirs = tensors(one), tensors(other)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert float((value - theirs[name]).abs().max() / theirs[name].abs().max().clamp(min=1e-3)) < 1e-5, name


@pytest.mark.parametrize("kind", ["two blocks", "decoupled", "hidden"])
def test_micro_batches_add_up(tmp_path: Path, kind: str) -> None:
    recipe = recipe_of(kind, **SGD)
    teacher = toy.teacher_weights(tmp_path / "teacher.safetensors", recipe)
    training.run(recipe, toy.runtime(tmp_path / "whole", teacher=teacher))
    training.run(recipe, toy.runtime(tmp_path / "parts", teacher=teacher, micro_batch_size=4))
    assert_close(tmp_path / "parts", tmp_path / "whole")


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    recipe = recipe_of("decoupled", **SGD)
    teacher = toy.teacher_weights(tmp_path / "teacher.safetensors", recipe)
    training.run(recipe, toy.runtime(tmp_path / "one", teacher=teacher))
    (tmp_path / "recipe.json").write_text(recipe.model_dump_json())
    words = [str(Path(__file__).parent / "pairs.py"), str(tmp_path / "logs"), "command"]
    words += ["pretrain", str(tmp_path / "recipe.json"), "--data", "digits", "--teacher", teacher]
    words += ["--out", str(tmp_path / "two"), "--workers", "0", "--log-every-steps", "2", "--save-every-steps", "2"]
    words += ["--tensorboard", "false", "--accelerator", "cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    assert_close(tmp_path / "two", tmp_path / "one")


def test_a_recipe_and_its_teacher_go_together(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no --teacher(.|\n)*Fix: add --teacher RUN"):
        training.run(recipe_of("attention"), toy.runtime(tmp_path / "a"))
    with pytest.raises(ConfigError, match=r"learns from no teacher(.|\n)*Fix: drop --teacher"):
        training.run(toy.mae(), toy.runtime(tmp_path / "b", teacher="runs/x"))
    with pytest.raises(CheckpointError, match="--teacher 'nowhere' does not exist"):
        load_teacher(recipe_of("attention"), "nowhere")
    method: Any = build(recipe_of("attention"), 0)
    with pytest.raises(ConfigError, match="has no teacher"):
        step(method)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"patch_size": 2}, r"pixels along a patch: found 2, expected 4"),
        ({"image_size": 16}, r"number of positions.*found 17, expected 5"),
        ({"channels": 3}, r"number of channels: found 3, expected 1"),
        ({"width": 12}, r"width: found 12, expected 24(.|\n)*Fix: --method.teacher-width 12"),
        ({"depth": 1}, r"depth: found 1, expected 3(.|\n)*Fix: --method.teacher-depth 1"),
    ],
)
def test_a_teacher_of_another_shape(tmp_path: Path, shape: dict[str, int], message: str) -> None:
    recipe = recipe_of("attention")
    teacher = toy.teacher_weights(tmp_path / "teacher.safetensors", recipe, **shape)
    with pytest.raises(CheckpointError, match=message):
        load_teacher(recipe, teacher)


def test_a_teacher_with_other_heads(tmp_path: Path) -> None:
    run = training.run(
        toy.mae(encoder={"depth": 3, "width": 24, "num_heads": 2}), toy.runtime(tmp_path / "run", stop_after_steps=1)
    ).folder
    with pytest.raises(CheckpointError, match=r"heads: found 2, expected 3\nFix: --method.teacher-heads 2"):
        load_teacher(recipe_of("attention"), str(run))


def test_a_teacher_that_is_no_vision_transformer(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"layer1.0.conv1.weight": torch.zeros(2)}, tmp_path / "resnet.safetensors")
    with pytest.raises(CheckpointError, match=r"layer1\.0\.conv1\.weight, expected a Vision Transformer"):
        load_teacher(recipe_of("attention"), str(tmp_path / "resnet.safetensors"))


def test_teachers_of_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    recipe = recipe_of("attention")
    with pytest.raises(ConfigError, match=r"nearest: 'vit_tiny_patch16_224'"):
        load_teacher(recipe, "timm:vit_tinny_patch16_224")
    with pytest.raises(ConfigError, match="plain Vision Transformer"):
        load_teacher(recipe, "timm:resnet50")

    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    with monkeypatch.context() as patch:
        patch.setattr(timm, "create_model", unreachable)
        with pytest.raises(
            CheckpointError, match=r"could not be fetched: found OSError: no route(.|\n)*--teacher model"
        ):
            load_teacher(recipe, "timm:vit_base_patch16_224.mae")
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **rest: create(name, **{**rest, "pretrained": False}))
    tiny = recipes.derive(
        recipes.get("d-mae-tiny"), method={"teacher_width": 192, "teacher_depth": 12, "teacher_heads": 3}
    )
    found = load_teacher(tiny, "timm:vit_tiny_patch16_224.augreg_in21k")
    assert found is not None and found.model.blocks[0].attn.num_heads == 3
    with pytest.raises(CheckpointError, match=r"heads: found 3, expected 12\nFix: --method.teacher-heads 3"):
        load_teacher(recipes.derive(tiny, method={"teacher_heads": 12}), "timm:vit_tiny_patch16_224")
    with pytest.raises(CheckpointError, match="another number of pixels along a patch"):
        load_teacher(recipe, "timm:vit_tiny_patch16_224")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks": ((2, 0),)}, r"found 2:0, expected student:teacher, 0 to 1 and 0 to 2"),
        ({"blocks": ((0, 3),)}, r"found 0:3"),
        ({"blocks": ((-1, 0),)}, r"found -1:0"),
        ({"blocks": ()}, "one pair or more"),
        ({"blocks": ((0, 0), (0, 0))}, "each once"),
        ({"blocks": ("0:x",)}, "method.blocks"),
        ({"target": "hidden", "blocks": ((3, 0),)}, r"0 to 2 and 0 to 3"),
        ({"target": "hidden", "decoupled_at": 1}, "decoupled_at is not read"),
        ({"target": "hidden", "use_probabilities": True}, "use_probabilities is not read"),
        ({"decoupled_at": 3}, r"1 to encoder.depth 2"),
        ({"decoupled_at": 1, "blocks": ((0, 0),)}, "blocks is not read"),
        ({"teacher_width": 25}, "teacher_width"),
        ({"weight": 0.0}, "weight"),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe_of("attention", method=changes)


def test_pairs_of_blocks_as_flags() -> None:
    from mae_lite import overrides

    base = {**recipes.get("d-mae-tiny").model_dump(), "data": "x"}
    words = ["--method.blocks", "5:5", "11:11"]
    built = overrides.build(config.Request, overrides.parse(words, config.Request, base))
    assert isinstance(built.method, config.DistilledMAE) and built.method.blocks == ((5, 5), (11, 11))
    assert overrides.flags([("method.blocks", built.method.model_dump(mode="json")["blocks"])]) == words


@pytest.mark.needs_data
@pytest.mark.parametrize("kind", ["attention", "hidden", "decoupled"])
def test_photographs_lower_both_losses(tmp_path: Path, shared_data: Path, kind: str) -> None:
    """A tiny student of a random teacher on CIFAR-10: 30 updates."""
    changes = {"decoupled_at": 2} if kind == "decoupled" else KINDS[kind]
    size = {"depth": 3, "width": 48, "num_heads": 4}
    recipe = recipes.derive(
        recipes.get("cifar10-d-mae-tiny"),
        encoder=size,
        method={"teacher_width": 96, "teacher_depth": 3, "teacher_heads": 6, "decoder_width": 24, **changes},
        global_batch_size=32,
        epochs=30 / 312,
        warmup_epochs=0,
        lr_per_256=4e-2,
        precision="fp32",
    )
    teacher = toy.teacher_weights(tmp_path / "teacher.safetensors", recipe)
    data = str(shared_data / "cifar10" / "test.parquet")
    settings = {"data": data, "teacher": teacher, "log_every_steps": 10}
    outcome = training.run(recipe, toy.runtime(tmp_path / "run", **settings))
    rows = [row for row in read_rows(outcome.folder) if "loss" in row]
    assert outcome.step == 30 and len(rows) == 3
    print([{name: round(row[name], 4) for name in ("loss_mae", "loss_distill", "teacher_share")} for row in rows])
    assert rows[-1]["loss_mae"] < rows[0]["loss_mae"]
    assert rows[-1]["loss_distill"] < rows[0]["loss_distill"]
