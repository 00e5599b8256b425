"""DINO: initial values, slow formulas, schedules, other sizes, ranks, real images, and what is left for fine-tuning."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import spawn

from mae_lite import config, methods, recipes, training
from mae_lite.config import Recipe
from mae_lite.data.loader import evaluation_loader
from mae_lite.data.opening import open_source
from mae_lite.data.sources import Source, subset
from mae_lite.data.transforms import EvalTransform
from mae_lite.engine.optim import build_optimizer
from mae_lite.errors import ConfigError
from mae_lite.evaluation.features import Features, extract
from mae_lite.evaluation.probes import feature_std, weighted_knn
from mae_lite.methods.across_ranks import mean_of_all
from mae_lite.methods.dino import (
    PrototypeHead,
    SelfDistillation,
    class_tokens,
    distillation_loss,
    teacher_temperature_at,
)
from mae_lite.models.vit import build_encoder, interpolated_positions, sincos_table
from mae_lite.predicting.models import load_encoder
from mae_lite.rundir import read_rows
from tests import toy
from tests.test_methods import assert_normal, assert_uniform, pictures
from tests.test_training import tensors, trained

Floats = npt.NDArray[np.float64]
RANKS = 2


def dino(recipe: Recipe) -> SelfDistillation:
    method = methods.build(recipe, 0)
    assert isinstance(method, SelfDistillation)
    return method


def views(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return views [count, 2, 1, 8, 8] and local views [count, 2, 1, 4, 4]."""
    large, small = pictures(2 * count, 1, 8, seed), pictures(2 * count, 1, 4, seed + 1)
    return large.reshape(count, 2, 1, 8, 8), small.reshape(count, 2, 1, 4, 4)


def loss_of(method: SelfDistillation, count: int = 6) -> Any:
    large, small = views(count)
    return method(large, torch.zeros(count), {}, small)


@pytest.fixture(scope="module")
def fresh() -> SelfDistillation:
    return dino(recipes.derive(recipes.get("dino-tiny"), encoder={"depth": 2}, method={"prototypes": 4096}))


def test_initial_values(fresh: SelfDistillation) -> None:
    head = fresh.student_head
    linear = [module for module in head.layers if isinstance(module, nn.Linear)]
    assert [type(module).__name__ for module in head.layers] == ["Linear", "GELU", "Linear", "GELU", "Linear"]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(192, 2048), (2048, 2048), (2048, 256)]
    for layer in linear:
        assert_normal(layer.weight, 0.02)
        assert not layer.bias.any()
    assert head.prototypes.shape == (4096, 256)
    assert_normal(head.prototypes, 0.02)
    assert_uniform(fresh.student.blocks[0].mlp.fc1.weight, (6 / (192 + 768)) ** 0.5)
    assert torch.equal(fresh.student.pos_embed, sincos_table(192, 14, "mae"))
    assert not fresh.centre.any()


def test_the_teacher_starts_as_a_copy_and_is_not_trained(fresh: SelfDistillation) -> None:
    for follower, leader in ((fresh.encoder, fresh.student), (fresh.teacher_head, fresh.student_head)):
        assert not any(parameter.requires_grad for parameter in follower.parameters())
        for name, value in leader.state_dict().items():
            assert torch.equal(follower.state_dict()[name], value), name
            assert follower.state_dict()[name].data_ptr() != value.data_ptr()


def test_the_seed_decides_initial_values() -> None:
    first, again, other = (dino(toy.dino(seed=seed)).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    same = {name for name in first if torch.equal(first[name], other[name])}
    fixed = ("norm", "bias", "pos_embed", "centre")
    assert not {name for name in same if not any(word in name for word in fixed)}


def test_gradient_reaches_what_is_trained() -> None:
    recipe = toy.dino()
    method = dino(recipe)
    loss_of(method).loss.backward()
    trained_names = set()
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
            trained_names.add(name)
        else:
            assert parameter.grad is None, name
    kept = {name for name, _ in method.named_parameters()} - trained_names
    assert {name for name in kept if not name.startswith(("encoder.", "teacher_head."))} == {"student.pos_embed"}
    assert not any(name.startswith(("encoder.", "teacher_head.")) for name in trained_names)
    grouped = [name for group in build_optimizer(method, recipe).param_groups for name in group["names"]]
    assert sorted(grouped) == sorted(trained_names)


def softmax(values: Floats) -> Floats:
    powers = np.exp(values - values.max())
    result: Floats = powers / powers.sum()
    return result


def test_loss_is_the_slow_formula() -> None:
    """Every student's view against every teacher's view but its own, sharpened and centred, one pair at a time."""
    method = dino(toy.dino())
    method.centre.copy_(torch.linspace(-0.3, 0.3, 24))
    method.before_step(2 / 84)  # half-way
    before = copy.deepcopy(method)
    output = loss_of(method)
    large, small = views(6)
    with torch.no_grad():
        of_student = [view for images in (large, small) for view in images.unbind(dim=1)]
        said = [before.student_head(class_tokens(before.student, view)).double().numpy() for view in of_student]
        heard = [before.teacher_head(before.encoder(view)).double().numpy() for view in large.unbind(dim=1)]
    centre, pairs, entropies = before.centre.double().numpy(), [], []
    for image in range(6):
        for t, teacher in enumerate(heard):
            target = softmax((teacher[image] - centre) / 0.055)
            entropies.append(-float((target * np.log(target)).sum()))
            for s, student in enumerate(said):
                if s != t:
                    pairs.append(-float((target * np.log(softmax(student[image] / 0.1))).sum()))
    assert len(pairs) == 6 * 2 * 3
    assert output.loss.item() == pytest.approx(np.mean(pairs), rel=1e-5)
    assert output.logs["teacher_entropy"].item() == pytest.approx(np.mean(entropies), rel=1e-4)
    with torch.no_grad():
        features = torch.cat([before.student(view) for view in large.unbind(dim=1)]).numpy()
    assert output.logs["view_feature_std"].item() == pytest.approx(feature_std(features), rel=1e-3)
    moved = 0.9 * centre + 0.1 * np.mean(heard, axis=(0, 1))
    assert np.allclose(method.centre.numpy(), moved, atol=1e-6)


def test_a_head_compares_directions_alone() -> None:
    head = PrototypeHead(5, config.DINO(hidden_width=7, bottleneck_width=3, prototypes=4))
    features = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    cosines = head(features)
    tokens = head.layers(features)
    for row in range(6):
        for k in range(4):
            expected = tokens[row] @ head.prototypes[k] / (tokens[row].norm() * head.prototypes[k].norm())
            assert cosines[row, k].item() == pytest.approx(expected.item(), abs=1e-5)
    with torch.no_grad():
        head.prototypes.mul_(torch.tensor([[1.0], [5.0], [0.1], [300.0]]))
    assert torch.allclose(head(features), cosines, atol=1e-6)


def test_centring_and_sharpening_work_against_each_other() -> None:
    """What all images share is taken away; a lower temperature leaves less open (section 5.3)."""
    random = torch.Generator().manual_seed(0)
    outputs = torch.randn(8, 2, 24, generator=random) * 0.05
    shifted = outputs + torch.randn(24, generator=random)
    logits = torch.randn(8, 2, 24, generator=random)
    for temperature, centre in ((0.04, shifted.mean(dim=(0, 1))), (0.04, torch.zeros(24))):
        targets = ((shifted - centre) / temperature).softmax(dim=2)
        favourites = len(torch.unique(targets.argmax(dim=2)))
        assert (favourites > 8) if centre.any() else (favourites == 1)
    entropies = [torch.special.entr((outputs / t).softmax(dim=2)).sum(dim=2).mean().item() for t in (0.02, 0.04, 1.0)]
    assert entropies == sorted(entropies) and entropies[2] == pytest.approx(math.log(24), abs=0.01)
    uniform = torch.full((8, 2, 24), 1 / 24)
    assert distillation_loss(torch.zeros_like(logits), uniform).item() == pytest.approx(math.log(24), rel=1e-6)


def test_evaluating_does_not_move_the_centre() -> None:
    method = dino(toy.dino()).eval()
    loss_of(method)
    assert not method.centre.any()


def test_schedules_are_in_epochs() -> None:
    settings = config.DINO()
    warm = {0.0: 0.04, 10.0: 0.05, 15.0: 0.055, 30.0: 0.07, 31.0: 0.07, 400.0: 0.07}
    for epoch, temperature in warm.items():
        assert teacher_temperature_at(epoch, settings) == pytest.approx(temperature, rel=1e-12)
    assert teacher_temperature_at(0.0, config.DINO(teacher_warmup_epochs=0)) == 0.07
    method = dino(toy.dino())
    for epoch, stays in ((0.0, True), (1.99 / 84, True), (2 / 84, False)):
        loss_of(method).loss.backward()
        method.after_backward(epoch)
        assert (method.student_head.prototypes.grad is None) == stays
        assert method.student_head.layers[0].weight.grad is not None


def test_the_teacher_follows() -> None:
    method = dino(toy.dino(method={"momentum": 0.9}))
    before = copy.deepcopy(method.state_dict())
    with torch.no_grad():
        for parameter in (*method.student.parameters(), *method.student_head.parameters()):
            parameter.add_(1.0)
    method.after_step(4, 12)  # the update that was made is number 3
    share = 0.1 * (1 + math.cos(math.pi / 4)) / 2
    for name, parameter in method.named_parameters():
        if name.startswith(("encoder.", "teacher_head.")):
            assert torch.allclose(parameter, before[name] + share, atol=1e-6), name


def test_the_run_freezes_prototypes_and_warms_the_teacher(tmp_path: Path) -> None:
    recipe = toy.dino(optimizer={"weight_decay": 0.0, "final_weight_decay": None})
    start = dino(recipe).student_head.prototypes
    training.run(recipe, toy.runtime(tmp_path / "run", stop_after_steps=2))
    assert torch.equal(tensors(tmp_path / "run")["student_head.prototypes"], start)
    assert not any("prototypes" in name for name in tensors(tmp_path / "run", "optimizer"))
    training.run(recipe, toy.runtime(tmp_path / "run", stop_after_steps=4))
    found = tensors(tmp_path / "run")
    assert not torch.equal(found["student_head.prototypes"], start)
    assert found["centre"].abs().max() > 0
    rows = read_rows(tmp_path / "run")
    assert {"loss", "view_feature_std", "teacher_entropy"} <= rows[-1].keys()


def test_other_sizes_are_encoded_with_the_same_positions() -> None:
    encoder: Any = build_encoder(config.Encoder(image_size=32, patch_size=8, width=24, depth=2, num_heads=2), 0)
    same, small = pictures(3, 3, 32), pictures(3, 3, 16)
    assert torch.allclose(class_tokens(encoder, same), encoder(same), atol=1e-5)
    other: Any = build_encoder(config.Encoder(image_size=16, patch_size=8, width=24, depth=2, num_heads=2), 0)
    table = encoder.pos_embed[0, 1:].reshape(1, 4, 4, 24).permute(0, 3, 1, 2)
    halved = nn.functional.interpolate(table, size=(2, 2), mode="bicubic", antialias=True)
    places = torch.cat([encoder.pos_embed[:, :1], halved.permute(0, 2, 3, 1).reshape(1, 4, 24)], dim=1)
    other.load_state_dict({**encoder.state_dict(), "pos_embed": places})
    assert torch.allclose(class_tokens(encoder, small), other(small), atol=1e-5)
    assert torch.equal(interpolated_positions(encoder.pos_embed, 4), encoder.pos_embed)


def test_mixed_precision_changes_the_loss_by_rounding_only() -> None:
    exact = loss_of(dino(toy.dino())).loss
    method = dino(toy.dino())
    with torch.autocast("cpu", torch.bfloat16):
        output = loss_of(method)
    output.loss.backward()
    assert output.loss.dtype == output.logs["teacher_entropy"].dtype == method.centre.dtype == torch.float32
    assert output.loss.item() == pytest.approx(exact.item(), rel=0.05)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in method.parameters() if p.requires_grad)


def test_drop_path_is_the_students_alone() -> None:
    method = dino(toy.dino(encoder={"drop_path": 0.9, "depth": 3}))
    images = pictures(16, 1, 8)
    assert torch.equal(method.encoder(images), method.encoder(images))
    assert not torch.equal(method.student(images), method.student(images))


def test_the_collapse_watch_sees_both_collapses() -> None:
    method = dino(toy.dino())
    large, small = views(1)
    one = method(large[:, :1].expand(6, 2, -1, -1, -1), torch.zeros(6), {}, small.expand(6, -1, -1, -1, -1))
    assert one.logs["view_feature_std"].item() < 1e-3
    with torch.no_grad():
        method.teacher_head.prototypes.copy_(method.teacher_head.prototypes[:1].expand(24, -1))
    method.centre.zero_()
    everything = method(large, torch.zeros(1), {}, small)
    assert everything.logs["teacher_entropy"].item() == pytest.approx(math.log(24), rel=1e-4)


def _rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS)
    method = dino(toy.dino())
    large, small = views(8)
    part = slice(rank * 4, rank * 4 + 4)
    output = method(large[part], torch.zeros(4), {}, small[part])
    rows = torch.arange(6.0).reshape(3, 2) + 100 * rank
    torch.save(
        {"centre": method.centre, "loss": output.loss.detach(), "mean": mean_of_all(rows)}, f"{folder}/{rank}.pt"
    )
    distributed.destroy_process_group()


@pytest.mark.slow
def test_the_centre_is_that_of_all_ranks(tmp_path: Path) -> None:
    launch: Any = spawn
    launch(_rank, (str(tmp_path),), nprocs=RANKS)
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(RANKS)]
    whole = dino(toy.dino())
    loss = loss_of(whole, 8).loss
    assert torch.equal(parts[0]["centre"], parts[1]["centre"])
    assert torch.allclose(parts[0]["centre"], whole.centre, atol=1e-7)
    assert (parts[0]["loss"] + parts[1]["loss"]) / 2 == pytest.approx(loss.item(), rel=1e-5)
    assert parts[0]["mean"].tolist() == [52.0, 53.0]


def test_accumulation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"(?s)micro_batch_size.*found 4.*16 images.*Fix: drop --micro-batch-size"):
        training.run(toy.dino(), toy.runtime(tmp_path / "run", micro_batch_size=4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"global_batch_size": 1}, r"(?s)global_batch_size.*found 1.*at least 2.*Fix: --global-batch-size"),
        (
            {"augmentation": {"views": 3, "blur": (0.1,), "solarise": (0.0,)}},
            r"(?s)views.*found 3.*Fix: --augmentation.views 2",
        ),
        ({"augmentation": {"local_size": 6}}, r"(?s)augmentation.local_size.*found 6.*multiple of.*4.*local-size 8"),
        ({"augmentation": {"local_size": None}}, r"(?s)local_size.*None.*local_views, local_scale.*local-size 96"),
        ({"augmentation": {"local_views": None, "local_size": None}}, r"(?s)local_views.*local_scale.*local-size 96"),
        ({"augmentation": {"local_scale": (0.05, 1.4)}}, r"(?s)local_scale.*upper end.*local-scale 0.05 0.4"),
        ({"augmentation": {"local_scale": (0.4, 0.05)}}, r"(?s)augmentation.local_scale.*low <= high"),
        ({"augmentation": {"blur": (1.0, 0.1)}}, r"(?s)augmentation.blur.*2 values.*one more for the local.*Fix: "),
        ({"encoder": {"positions": "learned"}}, r"not read in DINO pre-training"),
        ({"labels_per_class": 3}, r"not read in DINO pre-training"),
        ({"method": {"teacher_temperature": 0.0}}, r"method.teacher_temperature"),
        ({"method": {"prototypes": 1}}, r"method.prototypes"),
        ({"optimizer": {"final_weight_decay": -0.1}}, r"optimizer.final_weight_decay"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        toy.dino(**changes)


@pytest.mark.parametrize("recipe", [toy.mae(), toy.mocov3(), toy.classifier()], ids=lambda recipe: recipe.name)
def test_other_methods_take_no_local_views(recipe: Recipe) -> None:
    local = {"local_views": 2, "local_size": 4, "local_scale": (0.1, 0.4), "blur": (0.0,), "solarise": (0.0,)}
    with pytest.raises(ConfigError, match=r"(?s)augmentation.local_views.*found 2.*one size.*Fix: drop"):
        recipes.derive(recipe, augmentation=local)


def test_without_local_views_two_large_ones_are_compared(tmp_path: Path) -> None:
    none = dict.fromkeys(("local_views", "local_size", "local_scale"))
    recipe = toy.dino(augmentation={**none, "blur": (1.0, 0.1), "solarise": (0.0, 0.2)})
    assert training.run(recipe, toy.runtime(tmp_path / "run")).state == "finished"


def test_finetuning_takes_the_teacher_and_drops_the_rest_aloud(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pretrained = trained(toy.dino(), tmp_path / "dino")
    source = tensors(pretrained)
    assert not torch.equal(source["encoder.cls_token"], source["student.cls_token"])
    published: Any = load_encoder(pretrained)
    assert torch.equal(published.cls_token, source["encoder.cls_token"])
    recipe = recipes.derive(toy.classifier(), start="pretrained", encoder={"positions": "sincos", "init": "xavier"})
    caplog.set_level("INFO")
    for number, init in enumerate((pretrained, pretrained / "encoder")):
        run = tmp_path / f"fine-{number}"
        changes = recipes.derive(recipe, lr_per_256=1e-9)
        training.run(changes, toy.runtime(run, init=str(init), stop_after_steps=1))
        tuned = tensors(run)
        assert not any(name.startswith(("student", "teacher", "centre")) for name in tuned)
        for name, value in tuned.items():
            if not name.startswith(("encoder.head", "encoder.fc_norm")):
                assert torch.allclose(value, source[name], atol=1e-6), name
    assert "tensors not needed here were dropped" in caplog.text


def test_pretraining_goes_on_from_other_weights(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """From MAE and MoCo-v3 the student starts where the encoder does; they start anew beside a DINO encoder."""
    still = {"weight_decay": 0.0, "final_weight_decay": None}
    recipe = toy.dino(lr_per_256=1e-9, final_lr=0.0, optimizer=still)
    runs = {"mae": trained(toy.mae(), tmp_path / "mae"), "mocov3": trained(toy.mocov3(), tmp_path / "mocov3")}
    for kind, source in runs.items():
        run = trained(recipe, tmp_path / f"from-{kind}", init=str(source), stop_after_steps=1)
        assert "has no student: it starts as a copy; the heads start anew" in caplog.text
        caplog.clear()
        found = tensors(run)
        for name, value in tensors(source).items():
            if name.startswith("encoder."):
                assert torch.allclose(found[name], value, atol=1e-6), name
                assert torch.allclose(found[name.replace("encoder.", "student.", 1)], value, atol=1e-6), name
    again = tensors(trained(recipe, tmp_path / "again", init=str(tmp_path / "from-mae"), stop_after_steps=1))
    first = tensors(tmp_path / "from-mae")
    assert "has no student" not in caplog.text
    assert torch.allclose(again["student_head.prototypes"], first["student_head.prototypes"], atol=1e-6)
    assert not torch.equal(again["centre"], first["centre"])  # it went on
    trained(toy.mae(), tmp_path / "back", init=str(tmp_path / "from-mae"), stop_after_steps=1)
    trained(toy.mocov3(), tmp_path / "back-mocov3", init=str(tmp_path / "from-mae"), stop_after_steps=1)
    assert "has no decoder" in caplog.text and "has no momentum encoder" in caplog.text


def small_recipe(steps: int) -> Recipe:
    """Return cifar10-dino for ``steps`` updates of 48 images.

    A teacher that shall get anywhere in so few updates moves faster, but at a momentum of 0.9 features collapse. The
    centre must keep up with it: at 0.9 it lags behind, and the teacher's entropy swings between 0 and log K. A cold
    teacher tells images apart that are still much alike, and more colour jitter leaves less of a short cut.
    """
    return recipes.derive(
        recipes.get("cifar10-dino"),
        encoder={"patch_size": 8, "width": 64, "depth": 3, "num_heads": 4},
        method={
            **{"hidden_width": 256, "bottleneck_width": 64, "prototypes": 1024},
            **{"teacher_start_temperature": 0.015, "teacher_temperature": 0.015, "freeze_prototypes_epochs": 0.1},
            **{"momentum": 0.99, "centre_momentum": 0.5},
        },
        augmentation={"local_views": 1, "jitter": (0.4, 0.4, 0.4, 0.1), "grey": 0.4},
        global_batch_size=48,
        epochs=steps / 100,  # 4,800 images make 100 updates
        warmup_epochs=0.25,
        lr_per_256=4e-3,
        precision="fp32",
    )


def photographs(shared_data: Path) -> Source:
    return open_source(str(shared_data / "cifar10" / "test.parquet"), "train")


def learned(recipe: Recipe, images: Source, folder: Path) -> list[dict[str, Any]]:
    """Train and return the rows of metrics."""
    training.run(recipe, toy.runtime(folder, log_every_steps=5, save_every_steps=1000, probe_images=0), images=images)
    return [row for row in read_rows(folder) if "loss" in row]


@pytest.mark.slow
@pytest.mark.needs_data
def test_thirty_steps_on_photographs_learn(shared_data: Path, arrow_cache: Path, tmp_path: Path) -> None:
    """The student comes to agree with its teacher: what the loss has beyond the teacher's entropy falls."""
    del arrow_cache
    rows = learned(small_recipe(30), subset(photographs(shared_data), np.arange(4800)), tmp_path / "run")
    beyond = [row["loss"] - row["teacher_entropy"] for row in rows]
    print(beyond, [row["view_feature_std"] for row in rows])
    assert beyond[-1] < 0.6 * beyond[0]
    assert rows[-1]["view_feature_std"] > 0.5


@pytest.mark.slow
@pytest.mark.needs_data
def test_features_of_photographs_get_better_and_do_not_collapse(
    shared_data: Path, arrow_cache: Path, tmp_path: Path
) -> None:
    """Nearest neighbours on images that were never trained on, with features of a random and of a trained encoder."""
    del arrow_cache
    recipe = small_recipe(200)
    rows, trained_std = better_than_random(recipe, dino(recipe).encoder, shared_data, tmp_path / "run")
    later = [row["view_feature_std"] for row in rows if row["step"] > 100]  # it dips at first, and comes back
    assert trained_std > 0.5 and min(later) > 0.5
    assert all(1.0 < row["teacher_entropy"] < 0.95 * math.log(1024) for row in rows)


def better_than_random(recipe: Recipe, random: Any, shared_data: Path, run: Path) -> tuple[list[dict[str, Any]], float]:
    """Train on 4,800 photographs, and find neighbours of unseen ones better than with the encoder ``random``.

    Returns:
        The rows of metrics, and the standard deviation of the trained encoder's normalised features times sqrt(D).
    """
    images = photographs(shared_data)
    rows = learned(recipe, subset(images, np.arange(4800)), run)
    known, unseen = subset(images, np.arange(3000)), subset(images, np.arange(6500, 10_000))
    found = {}
    for name, encoder in (("random", random), ("trained", load_encoder(run))):
        bank, queries = (class_token_features(encoder, recipe, source) for source in (known, unseen))
        accuracy = weighted_knn(bank.values, bank.labels, queries.values, queries.labels)
        found[name] = accuracy, feature_std(queries.values)
    print(found, [round(row["view_feature_std"], 2) for row in rows])
    assert found["trained"][0] > found["random"][0] + 0.005
    return rows, found["trained"][1]


def class_token_features(encoder: Any, recipe: Recipe, source: Source) -> Features:
    augmentation, device = recipe.augmentation, torch.device("cpu")
    loader = evaluation_loader(source, EvalTransform(augmentation, 32, 3), batch_size=250, channels=3)
    return extract(encoder, loader, device=device, mean=augmentation.mean, std=augmentation.std, token="class")
