"""SimMIM with a teacher: the losses against slow formulas, what decoupling changes, and every refusal."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mae_lite import recipes, training
from mae_lite.cli import main
from mae_lite.config import Recipe
from mae_lite.errors import CheckpointError, ConfigError
from mae_lite.evaluation.teacher import load_teacher
from mae_lite.methods import build
from mae_lite.methods.distilled_simmim import DistilledPixelRegression, block_inputs
from mae_lite.methods.mask_tokens import encode_masked, project_masked
from mae_lite.methods.teacher import Teacher
from mae_lite.models.encoders import build_encoder
from mae_lite.predicting.models import load_encoder
from tests import toy
from tests.test_distillation import softmax
from tests.test_masked import mask_of
from tests.test_methods import pictures
from tests.test_training import tensors, trained

DECOUPLED = toy.distilled_swin(method={"weight": 0.5})
LAST = toy.distilled_swin(method={"decoupled_at": None})
KINDS = pytest.mark.parametrize("recipe", [DECOUPLED, LAST], ids=["decoupled", "last"])


def method_of(recipe: Recipe) -> DistilledPixelRegression:
    method = build(recipe, 0)
    assert isinstance(method, DistilledPixelRegression)
    method.teacher = Teacher(build(recipes.derive(toy.painter(recipe), seed=7), 0), "")
    return method


def step(method: DistilledPixelRegression, count: int = 4) -> Any:
    return method(pictures(count, 1, 8), torch.zeros(count), method.draw(0, 0, range(count)))


def slow_logits(norm: Any, attention: Any, states: Tensor, side: int) -> Any:
    """Return logits [B, H, T, T] pair by pair in float64: scaled products, and the bias of the pair's offset."""
    with torch.no_grad():
        tokens = norm(states).flatten(1, 2).double().numpy()
        weight, bias = attention.qkv.weight.double().numpy(), attention.qkv.bias.double().numpy()
        table = attention.relative_position_bias_table.double().numpy()
    width, heads = tokens.shape[-1], attention.num_heads
    size = width // heads
    logits = np.zeros((len(tokens), heads, side**2, side**2))
    for b, head, i, j in np.ndindex(*logits.shape):
        rows = slice(head * size, (head + 1) * size)
        query = weight[rows] @ tokens[b, i] + bias[rows]
        key = weight[width:][rows] @ tokens[b, j] + bias[width:][rows]
        down, right = i // side - j // side + side - 1, i % side - j % side + side - 1
        logits[b, head, i, j] = sum(query * key) / size**0.5 + table[down * (2 * side - 1) + right, head]
    return logits


@KINDS
def test_the_loss_is_the_slow_formula(recipe: Recipe) -> None:
    method, images = method_of(recipe), pictures(2, 1, 8)
    assert method.teacher is not None
    output = step(method, 2)
    hidden = method.hidden(method.draw(0, 0, range(2)))
    mask = torch.from_numpy(mask_of(method, hidden, 8))
    student, teacher, matching = method.encoder, method.teacher.model, method.matching
    with torch.no_grad():
        entered = {
            name: block_inputs(whole.encoder, project_masked(whole.encoder, images, mask, whole.painter), {0, 1, 2, 3})
            for name, whole in (("student", method), ("teacher", teacher))
        }
    guide = teacher.encoder.layers[1].blocks[1]
    target = slow_logits(guide.norm1, guide.attn, entered["teacher"][2], 4)
    if matching.extra is None:
        block = student.layers[1].blocks[0]
        ours = slow_logits(block.norm1, block.attn, entered["student"][2], 4)
        painted_from, norm, stride = entered["student"][3], student.norm, 2
    else:
        ours = slow_logits(student.norm, matching.extra, entered["student"][3], 4)
        assert matching.painting_norm is not None
        painted_from, norm, stride = entered["student"][1], matching.painting_norm, 1
    weight = matching.heads.weight.detach().double().numpy()
    mixed = np.stack([sum(w * ours[:, head] for head, w in enumerate(row)) for row in weight], axis=1)
    distilling = float(((mixed - target) ** 2).mean())
    with torch.no_grad():
        predicted = method.painter.pred(norm(painted_from)).numpy()
    errors = []
    for image, y, x in np.argwhere(mask.numpy()).tolist():
        painted = predicted[image, y // stride, x // stride, y % stride * stride + x % stride]
        errors.append(abs(float(painted) - float(images[image, 0, y, x])))
    assert output.logs["loss_distill"].item() == pytest.approx(distilling, rel=1e-4)
    assert output.logs["loss_simmim"].item() == pytest.approx(float(np.mean(errors)), rel=1e-4)
    assert output.loss.item() == pytest.approx(float(np.mean(errors)) + method.weight * distilling, rel=1e-4)


def test_logits_are_what_timm_puts_into_its_softmax() -> None:
    model, seen = build_encoder(toy.distilled_swin().encoder, seed=3).eval(), list[Tensor]()
    encoder: Any = model
    attention = encoder.layers[1].blocks[0].attn
    attention.fused_attn = False
    attention.attn_drop.register_forward_hook(lambda *parts: seen.append(parts[1][0]))
    images = pictures(2, 1, 8)
    with torch.no_grad():
        final = encoder.forward_features(images)
        states = block_inputs(encoder, encoder.patch_embed(images), {2, 3})
    logits = slow_logits(encoder.layers[1].blocks[0].norm1, attention, states[2], 4)
    assert np.allclose(softmax(logits), seen[0].numpy(), atol=1e-6)
    assert torch.allclose(encoder.norm(states[3]), final, atol=1e-6)


def test_without_a_teacher_it_is_simmim() -> None:
    """The same painter on the same tokens, of which the teacher knows nothing."""
    method = method_of(LAST)
    plain: Any = build(toy.simmim_swin(), 0)
    hidden = method.hidden(method.draw(0, 0, range(4)))
    with torch.no_grad():
        tokens = encode_masked(method.encoder, pictures(4, 1, 8), method.mask(hidden), method.painter)
        assert torch.equal(plain.predict(pictures(4, 1, 8), hidden), method.painter.pred(tokens))
        loss = plain(pictures(4, 1, 8), torch.zeros(4), method.draw(0, 0, range(4))).loss
    assert torch.equal(step(method).logs["loss_simmim"], loss)


def test_decoupled_paints_from_an_earlier_block() -> None:
    """Later blocks learn from the teacher alone."""
    method = method_of(DECOUPLED)
    output = step(method)
    with torch.no_grad():
        method.encoder.layers[1].blocks[0].mlp.fc2.bias += torch.arange(8.0)  # a constant would end at the LayerNorm
        changed = step(method)
    assert torch.equal(changed.logs["loss_simmim"], output.logs["loss_simmim"])
    assert not torch.equal(changed.logs["loss_distill"], output.logs["loss_distill"])


@KINDS
def test_gradients_reach_the_student_and_nothing_of_the_teacher(recipe: Recipe) -> None:
    method = method_of(recipe)
    assert method.teacher is not None
    before = copy.deepcopy(method.teacher.model.state_dict())
    method.train()
    step(method).loss.backward()
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in method.parameters())
    for name, parameter in method.teacher.model.named_parameters():
        assert parameter.grad is None and torch.equal(parameter, before[name])
    assert not any("teacher" in name for name in method.state_dict())


def test_mixed_precision_compares_in_float32() -> None:
    method = method_of(DECOUPLED)
    exact = step(method).logs["loss_distill"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = step(method).logs["loss_distill"]
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(exact.item(), rel=0.02)


def test_a_run_teaches_and_its_student_is_fine_tuned(tmp_path: Path) -> None:
    teacher = trained(toy.painter(DECOUPLED), tmp_path / "teacher")
    run = trained(DECOUPLED, tmp_path / "run", teacher=str(teacher))
    assert {name.split(".")[0] for name in tensors(run)} == {"encoder", "painter", "matching"}
    assert load_encoder(run).state_dict().keys() == build_encoder(DECOUPLED.encoder, 0).state_dict().keys()
    fine = trained(toy.swin_classifier(), tmp_path / "fine", init=str(run), stop_after_steps=1)  # its rate is 0
    name = "encoder.layers.0.blocks.1.mlp.fc1.weight"
    assert torch.equal(tensors(fine)[name], tensors(run)[name])
    further = trained(toy.simmim_swin(), tmp_path / "further", init=str(run), stop_after_steps=1)
    assert torch.allclose(tensors(further)["painter.mask_token"], tensors(run)["painter.mask_token"], atol=1e-5)
    again = trained(DECOUPLED, tmp_path / "again", init=str(run), teacher=str(run_of_student(tmp_path)))
    assert len(tensors(again)) == len(tensors(run))


def run_of_student(folder: Path) -> Path:
    """Return a taught run that is itself the teacher that the recipe wants: squares hidden, and a mask token."""
    shape = toy.painter(DECOUPLED).encoder.model_dump()
    return trained(
        recipes.derive(LAST, encoder=shape), folder / "wide", teacher=str(folder / "teacher"), stop_after_steps=1
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 4}, r"found width 4, expected width 8\nFix: --method.teacher-width 4"),
        ({"depths": (2, 1)}, r"found depths 2 1, expected depths 1 2\nFix: --method.teacher-depths 2 1"),
        ({"num_heads": (2, 2)}, r"num_heads 2 2(.|\n)*Fix: --method.teacher-heads 2 2"),
        ({"window_size": 8}, r"window_size 8, expected window_size 4\nFix: give a teacher pre-trained with"),
    ],
)
def test_a_teacher_of_another_shape(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    other = trained(toy.painter(DECOUPLED, **changes), tmp_path / "run", stop_after_steps=1)
    with pytest.raises(CheckpointError, match=message):
        load_teacher(DECOUPLED, str(other))


def test_other_teachers(tmp_path: Path) -> None:
    plain = trained(toy.simmim(), tmp_path / "plain", stop_after_steps=1)
    with pytest.raises(CheckpointError, match=r"no mask token and windows: found a run of the method simmim"):
        load_teacher(DECOUPLED, str(plain))
    with pytest.raises(CheckpointError, match=r"timm:swin_base_patch4_window7_224"):
        load_teacher(DECOUPLED, "timm:swin_base_patch4_window7_224")
    grey = recipes.derive(toy.painter(DECOUPLED), augmentation={"mean": (0.5,)})
    bright = trained(grey, tmp_path / "bright", stop_after_steps=1)
    with pytest.raises(CheckpointError, match=r"other means: found mean \(0.5,\)(.|\n)*Fix: --augmentation.mean 0.5"):
        load_teacher(DECOUPLED, str(bright))
    with pytest.raises(ConfigError, match=r"no --teacher(.|\n)*Fix: add --teacher RUN"):
        training.run(DECOUPLED, toy.runtime(tmp_path / "none"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": {"window_size": 2}}, r"(?s)window_size: found 2, expected at least 4.*Fix: .*window-size 4"),
        ({"method": {"teacher_depths": (1, 2, 1)}}, r"(?s)teacher_depths: found 3 values.*2 stages.*Fix: give 2"),
        ({"method": {"teacher_heads": (3,)}}, r"teacher_heads: found 1 values"),
        ({"method": {"teacher_heads": (3, 4)}}, r"encoder.width: found 8"),
        ({"method": {"decoupled_at": 3}}, r"(?s)decoupled_at: found 3, expected 1 to 2.*Fix: --method.decoupled-at 2"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipes.derive(DECOUPLED, **changes)


def test_a_plain_student_is_another_method() -> None:
    with pytest.raises(ConfigError, match=r"(?s)encoder.kind: .*expected swin.*--method.kind distilled_mae"):
        recipes.derive(toy.simmim(), method={"kind": "distilled_simmim", "mask_unit_px": 4})


def test_the_command_line_names_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["pretrain", "d2-simmim-swin-tiny", "--help"])
    assert "--method.teacher-depths" in capsys.readouterr().out
