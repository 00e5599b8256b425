"""Relative positions: against a slow formula, from MAE weights, at another resolution, out to timm's BEiT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from mae_lite import cli, methods, recipes, training
from mae_lite.config import Recipe, Supervised
from mae_lite.engine.optim import build_optimizer
from mae_lite.evaluation.load import load_encoder
from mae_lite.models.vit import build_classifier
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


def test_what_cannot_hold_tables_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(tuned(start="random"), tmp_path / "run")
    assert cli.main(["convert", str(run), str(tmp_path / "out"), "--to", "timm"]) == 4
    message = capsys.readouterr().err
    assert "relative positions" in message and "Fix: " in message and "classifier" in message
    recipe = tmp_path / "plain.json"
    recipe.write_text(tuned(method={"relative_positions": False}).model_dump_json())
    for source in (run, run / "classifier"):
        words = ["finetune", str(recipe), "--data", "digits", "--init", str(source), "--out", str(tmp_path / "other")]
        assert cli.main(words) == 4
        message = capsys.readouterr().err
        assert "relative" in message and "Fix: " in message
