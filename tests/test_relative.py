"""Relative positions: against a slow formula, from MAE weights, at another resolution, out to timm's BEiT."""

from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor

from mae_lite import cli, methods, recipes, training
from mae_lite.config import Encoder, Recipe, Supervised
from mae_lite.data.opening import open_source
from mae_lite.data.sources import subset
from mae_lite.engine.optim import build_optimizer
from mae_lite.errors import CheckpointError, ConfigError
from mae_lite.evaluation.load import load_initial
from mae_lite.evaluation.teacher import load_teacher
from mae_lite.models import plain
from mae_lite.models.relative import resized_tables
from mae_lite.models.vit import build_classifier
from mae_lite.predicting.models import load_encoder
from mae_lite.rundir import read_rows
from tests import toy
from tests.test_training import tensors, trained

TABLE = "encoder.blocks.0.attn.relative.relative_position_bias_table"


def tuned(**changes: Any) -> Recipe:
    """Return the toy classifier that fine-tunes with relative positions on digits, 16 patches and 2 blocks."""
    encoder = {"positions": "sincos", "init": "xavier", "patch_size": 2, "depth": 2}
    recipe = toy.classifier(start="pretrained", encoder=encoder, method={"relative_positions": True})
    return recipes.derive(recipe, **changes)


def painted(**changes: Any) -> Recipe:
    return toy.mae(encoder={"patch_size": 2, "depth": 2}, **changes)


def filled(model: Any, seed: int = 0) -> None:
    """Give every table random values."""
    random = torch.Generator().manual_seed(seed)
    for block in model.blocks:
        table = block.attn.relative.relative_position_bias_table
        table.data = torch.randn(table.shape, generator=random)


def slow_bias(table: Tensor, grid: int) -> Tensor:
    """Return the bias [H, T, T] of every query (row) and key (column), an offset at a time."""
    tokens, special = 1 + grid**2, (2 * grid - 1) ** 2
    bias = torch.empty(table.shape[1], tokens, tokens)
    for query in range(tokens):
        for key in range(tokens):
            if query and key:
                (row, column), (other, across) = divmod(query - 1, grid), divmod(key - 1, grid)
                line = (row - other + grid - 1) * (2 * grid - 1) + column - across + grid - 1
            else:  # class token to patch, patch to class token, class token to itself
                line = special + (2 if query == key else 1 if query else 0)
            bias[:, query, key] = table[line]
    return bias


@pytest.mark.parametrize("fused", [True, False])
def test_attention_is_the_slow_formula(fused: bool) -> None:
    method: Any = methods.build(tuned(), 10)
    filled(method.encoder)
    attention = method.encoder.blocks[0].attn
    attention.fused_attn = fused
    assert attention.relative.relative_position_bias_table.shape == (7 * 7 + 3, 2)
    x = torch.randn(3, 17, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        query, key, value = attention.qkv(x).reshape(3, 17, 3, 2, 8).permute(2, 0, 3, 1, 4)
        logits = query @ key.transpose(-2, -1) / 8**0.5 + slow_bias(attention.relative.relative_position_bias_table, 4)
        expected = attention.proj((logits.softmax(dim=-1) @ value).transpose(1, 2).reshape(3, 17, 16))
        assert torch.allclose(attention(x), expected, atol=1e-5)


def test_tables_start_at_zero_and_change_nothing_there() -> None:
    relative, plain = (
        methods.build(recipes.derive(tuned(), method={"relative_positions": on}), 10).encoder for on in (True, False)
    )
    state = {name: value for name, value in relative.state_dict().items() if "relative" not in name}
    plain.load_state_dict(state)
    tables = [value for name, value in relative.named_parameters() if "relative" in name]
    assert len(tables) == 2 and not any(bool(table.any()) for table in tables)
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(relative(images), plain(images), atol=1e-6)


def test_a_table_belongs_to_its_block_and_decays() -> None:
    recipe = tuned(layer_decay=0.5)
    method = methods.build(recipe, 10)
    method(torch.randn(6, 1, 8, 8), torch.arange(6), {}).loss.backward()
    places = {
        name: (group["lr_scale"], group["weight_decay"])
        for group in build_optimizer(method, recipe).param_groups
        for name in group["names"]
    }
    for block in range(2):
        stem = f"encoder.blocks.{block}.attn"
        assert (
            places[f"{stem}.{TABLE.partition('attn.')[2]}"]
            == places[f"{stem}.qkv.weight"]
            == (0.5 ** (2 - block), 0.05)
        )
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_mae_weights_keep_all_biases_and_the_run_can_be_read_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    before = trained(painted(), tmp_path / "mae")
    bias = tensors(before)["encoder.blocks.0.attn.qkv.bias"]
    assert bias.chunk(3)[1].any()
    start = trained(tuned(lr_per_256=1e-9), tmp_path / "start", init=str(before), stop_after_steps=1)
    assert "has no relative positions: they start at zero" in caplog.text
    assert torch.allclose(tensors(start)["encoder.blocks.0.attn.qkv.bias"], bias, atol=1e-6)

    run = trained(tuned(lr_per_256=1.0), tmp_path / "run", init=str(before))
    assert tensors(run)[TABLE].any()
    again = trained(tuned(lr_per_256=1.0), tmp_path / "again", init=str(before), stop_after_steps=3)
    training.run(tuned(lr_per_256=1.0), toy.runtime(again, init=str(before)))
    assert all(torch.equal(value, tensors(again)[name]) for name, value in tensors(run).items())

    images = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    beit: Any = timm.create_model(f"local-dir:{run / 'classifier'}", pretrained=True).eval()
    assert type(beit).__name__ == "Beit"
    with torch.no_grad():
        ours: Tensor = load_encoder(run)(images)
        assert torch.allclose(ours, beit(images), atol=1e-5)
        for block in beit.blocks:
            block.attn.relative_position_bias_table.zero_()
        assert not torch.allclose(ours, beit(images), atol=1e-3)


@pytest.mark.parametrize("pooling", ["mean", "token"])
def test_beit_computes_the_same_at_paper_size(pooling: Any, tmp_path: Path) -> None:
    from mae_lite import files
    from mae_lite.models import timm_folder

    recipe = recipes.derive(recipes.get("finetune-improved-rpe"), encoder={"depth": 2})
    assert isinstance(recipe.method, Supervised) and recipe.method.relative_positions
    model: Any = build_classifier(recipe.plain_encoder, 7, pooling, seed=0, relative_positions=True).eval()
    filled(model)
    for block in model.blocks:
        torch.nn.init.normal_(block.attn.qkv.bias)  # of the keys too: the softmax must not see it
    classes = [str(number) for number in range(7)]
    contents = timm_folder.contents(model, recipe, classes, pooling="avg" if pooling == "mean" else "token")
    files.publish_folder(tmp_path / "beit", contents)
    beit = timm.create_model(f"local-dir:{tmp_path / 'beit'}", pretrained=True).eval()
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(model(images), beit(images), atol=1e-5)


def test_another_resolution_resizes_tables_aloud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = trained(tuned(start="random", lr_per_256=1.0), tmp_path / "small")
    larger = tuned(lr_per_256=1e-9, encoder={"image_size": 12})
    run = trained(larger, tmp_path / "large", init=str(before), stop_after_steps=1)
    assert "relative positions resized from a 4 x 4 grid to 6 x 6 (bicubic)" in caplog.text
    small, large = tensors(before)[TABLE], tensors(run)[TABLE]
    assert (len(small), len(large)) == (7**2 + 3, 11**2 + 3)
    assert torch.allclose(small[-3:], large[-3:], atol=1e-6)
    corners = (0, 6, 42, 48), (0, 10, 110, 120)  # the farthest offsets stay the farthest
    for old, new in zip(*corners, strict=True):
        assert (small[old] - large[new]).abs().max() < 0.5 * small[:-3].std()


def slow_bicubic(old: int, new: int) -> Tensor:
    """Return the share [new, old] that each old place has in a new one: Keys' cubic kernel, shares adding up to 1."""
    shares = torch.zeros(new, old)
    for place in range(new):
        for source in range(old):
            x = abs((place + 0.5) * old / new - (source + 0.5))
            inner, outer = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
            shares[place, source] = inner if x < 1 else outer if x < 2 else 0.0
    return shares / shares.sum(dim=1, keepdim=True)


def test_resizing_is_bicubic_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    random = torch.Generator().manual_seed(0)
    tables = {str(block): torch.randn(5 * 5 + 3, 2, generator=random) for block in range(2)}
    found = resized_tables(tables, {"0": 9 * 9 + 3, "1": 9 * 9 + 3})
    assert caplog.text.count("resized from a 3 x 3 grid to 5 x 5 (bicubic)") == 1
    for block, table in tables.items():
        expected = torch.einsum("iy,jx,yxh->ijh", *[slow_bicubic(5, 9)] * 2, table[:-3].reshape(5, 5, 2))
        assert torch.allclose(found[block][:-3].reshape(9, 9, 2), expected, atol=1e-5)
        assert torch.allclose(found[block][40], table[12], atol=1e-6)  # no offset stays no offset
        assert torch.equal(found[block][-3:], table[-3:])
    assert resized_tables(tables, {"0": 28}) == {}
    with pytest.raises(CheckpointError, match=r"found 29 rows, expected \(2 h - 1\)² \+ 3"):
        resized_tables({"x": torch.zeros(29, 2)}, {"x": 84})
    with pytest.raises(CheckpointError, match="found 19 rows"):  # 16 + 3 is no odd square
        resized_tables({"x": torch.zeros(19, 2)}, {"x": 84})


def test_the_seed_gives_what_it_gives_without_and_the_model_can_be_copied() -> None:
    encoder = tuned().plain_encoder
    relative, plain = (build_classifier(encoder, 10, "mean", 3, on).eval() for on in (True, False))
    state = relative.state_dict()
    assert all(torch.equal(state[name], value) for name, value in plain.state_dict().items())
    filled(relative)
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    other = copy.deepcopy(relative)
    filled(other, seed=1)
    with torch.no_grad():
        expected = relative(images)
        assert torch.equal(pickle.loads(pickle.dumps(relative))(images), expected)
        assert not torch.allclose(other(images), expected, atol=1e-3)  # a copy has its own tables
        assert torch.equal(relative(images), expected)


def test_mixed_precision_keeps_the_gradient_of_the_tables() -> None:
    method: Any = methods.build(tuned(), 10)
    with torch.autocast("cpu", torch.bfloat16):
        loss = method(torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(6), {}).loss
    loss.backward()
    gradient = method.get_parameter(TABLE).grad
    assert gradient.dtype == torch.float32 and torch.isfinite(gradient).all() and gradient.any()


def test_the_written_out_formula_has_the_bias_too() -> None:
    method: Any = methods.build(tuned(method={"pooling": "token"}), 10)
    filled(method.encoder)
    table = method.get_parameter(TABLE).detach()
    assert torch.equal(plain.relative_bias(table, 17), slow_bias(table, 4))
    images = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    state = {f"encoder.{name}": value for name, value in method.encoder.state_dict().items()}
    with torch.no_grad():
        assert torch.allclose(plain.tokens(state, images, 2), method.encoder.forward_features(images), atol=1e-5)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run whose published weights, an average, have tables that have left zero."""
    recipe = tuned(start="random", lr_per_256=1.0, ema_decay=0.5)
    return trained(recipe, tmp_path_factory.mktemp("relative") / "run")


@pytest.mark.parametrize("source", [".", "classifier"])
def test_convert_and_init_read_a_run_and_its_beit(
    run: Path, source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    images = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected: Tensor = load_encoder(run)(images)
    assert cli.main(["convert", str(run / source), str(tmp_path / "ours")]) == 0
    assert "largest difference from the formula" in capsys.readouterr().out
    assert cli.main(["convert", str(tmp_path / "ours"), str(tmp_path / "timm"), "--to", "timm"]) == 0
    beit: Any = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    assert type(beit).__name__ == "Beit"
    with torch.no_grad():
        assert torch.allclose(beit(images), expected, atol=1e-5)
    for place in (run / source, tmp_path / "ours", tmp_path / "timm"):
        caplog.clear()
        method = methods.build(tuned(), 10)
        load_initial(method, tuned(), str(place))
        assert torch.equal(method.get_parameter(TABLE), tensors(run, "ema")[f"module.{TABLE}"])
        assert "start at zero" not in caplog.text


def test_convert_resizes_tables(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["convert", str(run), str(tmp_path / "larger"), "--image-size", "12"]) == 0
    assert "relative positions resized from a 4 x 4 grid to 6 x 6" in capsys.readouterr().err
    larger = tuned(encoder={"image_size": 12})
    caplog.clear()
    load_initial(methods.build(larger, 10), larger, str(tmp_path / "larger"))
    assert "resized" not in caplog.text


def test_what_cannot_hold_tables_says_so(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["convert", str(run), str(tmp_path / "out"), "--to", "huggingface"]) == 4
    message = capsys.readouterr().err
    assert "relative positions" in message and "Fix: --to timm" in message
    without = tuned(method={"relative_positions": False})
    for recipe, fix in ((without, "--method.relative-positions true"), (painted(), "that it was fine-tuned from")):
        file = tmp_path / f"{recipe.method.kind}.json"
        file.write_text(recipe.model_dump_json())
        command = "finetune" if recipe is without else "pretrain"
        for source in (run, run / "classifier"):
            words = [command, str(file), "--data", "digits", "--init", str(source), "--out", str(tmp_path / "other")]
            assert cli.main(words) == 4
            message = capsys.readouterr().err
            assert "was trained with relative positions" in message and fix in message


def test_such_a_run_teaches_features_through_its_beit_alone(run: Path) -> None:
    shape = {"teacher_width": 16, "teacher_depth": 2, "teacher_heads": 2, "teacher_patch_size": 2}
    features = toy.features(encoder={"patch_size": 2}, method=shape)
    with pytest.raises(CheckpointError, match=r"with relative positions(.|\n)*Fix: give the folder classifier/"):
        load_teacher(features, str(run))
    teacher = load_teacher(features, str(run / "classifier"))
    assert teacher is not None and type(teacher.model).__name__ == "Beit"
    del shape["teacher_patch_size"]
    attention = toy.distilled(encoder={"patch_size": 2, "depth": 2}, method=shape)
    for source in (run, run / "classifier"):  # its logits would be compared without the bias
        with pytest.raises(CheckpointError, match=r"with relative positions(.|\n)*that it was fine-tuned from"):
            load_teacher(attention, str(source))


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("vit_base_patch16_clip_224", "'norm_pre.weight'"),
        ("vit_small_patch14_dinov2", "'blocks.0.ls1.gamma'"),
        ("vit_base_patch16_224_miil", "no 'blocks.0.attn.qkv.bias'"),
        ("test_vit", "an MLP of 72 for a width of 24"),
    ],
)
def test_what_beit_could_not_publish_is_refused_before_training(name: str, what: str) -> None:
    encoder = Encoder(name=name, image_size=12, patch_size=4, width=24, depth=2, num_heads=3)
    with pytest.raises(ConfigError, match=rf"(?s)one with {re.escape(what)}.*BEiT"):
        build_classifier(encoder, 7, "mean", 0, relative_positions=True)


@pytest.mark.slow
@pytest.mark.needs_data
def test_thirty_steps_on_photographs(tmp_path: Path, shared_data: Path, arrow_cache: Path) -> None:
    del arrow_cache
    recipe = recipes.derive(
        recipes.get("cifar10-finetune-rpe"),
        start="random",
        encoder={"patch_size": 8, "width": 96, "depth": 3, "num_heads": 6},
        method={"mixup": 0.0},
        augmentation={"randaugment": None},
        global_batch_size=64,
        epochs=30 / 40,  # 2,560 images make 40 updates
        warmup_epochs=5 / 40,
        validation_fraction=0.0,
        lr_per_256=8e-3,
        precision="fp32",
    )
    images = subset(open_source(str(shared_data / "cifar10" / "test.parquet"), "train"), np.arange(2560))
    runtime = toy.runtime(tmp_path / "run", log_every_steps=10, save_every_steps=1000)
    out = training.run(recipe, runtime, images=images).folder
    found = [row["loss"] for row in read_rows(out) if "loss" in row]
    print(found)
    assert len(found) == 3 and found[-1] < found[0] - 0.05
    assert 1e-3 < float(tensors(out)[TABLE].abs().max()) < 1.0
