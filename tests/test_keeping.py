"""A part of pre-trained weights: which values stay, which start anew, and what cannot be asked for."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mae_lite import cli, config, methods, recipes, training
from mae_lite.errors import CheckpointError, ConfigError
from mae_lite.evaluation.load import load_initial
from mae_lite.models import weights
from mae_lite.models.vit import build_encoder
from tests import toy

ENCODER = config.Encoder(image_size=8, patch_size=4, channels=1, width=16, depth=4, num_heads=2)
AROUND = ("encoder.head.", "encoder.fc_norm.", "encoder.norm.", "encoder.patch_embed.", "encoder.cls", "encoder.pos")


def recipe(which: Any, **method: Any) -> config.Recipe:
    settings = {"keep_blocks": which, **method}
    return toy.classifier(start="pretrained", encoder=ENCODER.model_dump(), method=settings)


@pytest.fixture
def pretrained(tmp_path: Path) -> str:
    """Write weights none of which is an initial value."""
    state = {name: torch.randn_like(value) for name, value in build_encoder(ENCODER, seed=9).state_dict().items()}
    (tmp_path / "pretrained.safetensors").write_bytes(weights.to_bytes(state))
    return str(tmp_path / "pretrained.safetensors")


def parts(which: Any, init: str, **method: Any) -> tuple[set[str], set[str]]:
    """Return which of the parts of a classifier have the values of ``init``, and which are as without it."""
    chosen = recipe(which, **method)
    built = methods.build(chosen, 10)
    fresh = {name: value.clone() for name, value in built.state_dict().items()}
    load_initial(built, chosen, init)
    given = weights.read_file(Path(init))
    kept, anew = set(), set()
    for name, value in built.state_dict().items():
        part = name.split(".")[2] if ".blocks." in name else next(start for start in AROUND if name.startswith(start))
        own: Tensor | None = given.get(name.removeprefix("encoder."))
        if own is not None and torch.equal(value, own):
            kept.add(part)
        else:
            assert torch.equal(value, fresh[name]), name
            anew.add(part)
    assert not kept & anew
    return kept, anew


BEFORE = {"encoder.patch_embed.", "encoder.cls", "encoder.pos"}


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        (None, {"0", "1", "2", "3", "encoder.norm.", *BEFORE}),
        (("first", 4), {"0", "1", "2", "3", "encoder.norm.", *BEFORE}),
        (("last", 4), {"0", "1", "2", "3", "encoder.norm.", *BEFORE}),
        (("first", 1), {"0", *BEFORE}),
        (("first", 3), {"0", "1", "2", *BEFORE}),
        (("last", 1), {"3", "encoder.norm."}),
        (("last", 3), {"1", "2", "3", "encoder.norm."}),
        (("first", 0), set()),
        (("last", 0), set()),
    ],
)
def test_what_stays_and_what_starts_anew(which: Any, expected: set[str], pretrained: str) -> None:
    kept, anew = parts(which, pretrained, pooling="token")
    assert kept == expected
    assert kept | anew == {"0", "1", "2", "3", "encoder.norm.", "encoder.head.", *BEFORE}


def test_the_mean_of_tokens_has_a_new_norm_whatever_is_kept(pretrained: str) -> None:
    assert parts(("last", 2), pretrained)[0] == {"2", "3"}
    assert parts(("first", 2), pretrained)[0] == {"0", "1", *BEFORE}


def test_relative_positions_go_with_their_block(tmp_path: Path) -> None:
    state = build_encoder(ENCODER, seed=9, relative_positions=True).state_dict()
    tables = {name: torch.randn_like(value) for name, value in state.items() if "bias_table" in name}
    (tmp_path / "w.safetensors").write_bytes(weights.to_bytes(state | tables))
    chosen = recipe(("last", 1), relative_positions=True)
    built = methods.build(chosen, 10)
    load_initial(built, chosen, str(tmp_path / "w.safetensors"))
    found = {name: value for name, value in built.state_dict().items() if "bias_table" in name}
    assert len(found) == 4
    for name, value in found.items():
        assert torch.equal(value, tables[name.removeprefix("encoder.")] if ".3." in name else torch.zeros_like(value))


def test_the_words_say_which_blocks_are_new(pretrained: str, caplog: pytest.LogCaptureFixture) -> None:
    said = {
        ("first", 3): "the first 3 of 4 blocks are kept; block 4 starts anew, and so do the final LayerNorm",
        ("last", 2): "the last 2 of 4 blocks are kept; blocks 1 to 2 start anew, and so do patch projection, class "
        "token and positions",
        ("first", 0): "nothing is kept: all 4 blocks and what lies before and behind them start anew",
        ("last", 4): "all 4 blocks are kept",
    }
    with caplog.at_level(logging.INFO, logger="mae_lite"):
        for which, words in said.items():
            caplog.clear()
            parts(which, pretrained)
            assert f"{pretrained}: {words}" in caplog.messages


def test_a_run_keeps_its_setting_and_its_digest(tmp_path: Path, pretrained: str) -> None:
    plain, part = recipe(None), recipe(("first", 1))
    assert (
        "keep_blocks" in plain.method.model_dump() and plain.digest() != part.digest() != recipe(("last", 1)).digest()
    )
    assert recipe(("first", 0)).digest() != plain.digest()
    out = tmp_path / "run"
    training.run(part, toy.runtime(out, init=pretrained, stop_after_steps=2))
    assert recipes.get(str(out / "recipe.json")) == part
    training.run(part, toy.runtime(out, init=pretrained))  # goes on
    with pytest.raises(ConfigError, match=r"method\.keep_blocks: .*first.* -> None"):
        training.run(plain, toy.runtime(out, init=pretrained))


def test_what_cannot_be_kept_is_refused(tmp_path: Path, pretrained: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=r"found first 5, expected 0 to encoder\.depth 4\nFix: .*blocks first 4"):
        recipe(("first", 5))
    with pytest.raises(ConfigError, match="found last 1, expected None, since the recipe starts from random weights"):
        toy.classifier(method={"keep_blocks": ("last", 1)})
    with pytest.raises(ConfigError, match="stages of different widths"):
        toy.swin_classifier(method={"keep_blocks": ("last", 1)})
    deeper = recipes.derive(recipe(("first", 1)), encoder={"depth": 5})
    with pytest.raises(CheckpointError, match=r"found 4, expected 5, of which the first 1 are kept\nFix: .*depth 4"):
        load_initial(methods.build(deeper, 10), deeper, pretrained)
    words = ["finetune", "digits-finetune", "--data", "digits", "--init", pretrained, "--out", str(tmp_path / "run")]
    for value, said in (("middle 3", "'first' or 'last'"), ("first -1", "greater than or equal to 0"), ("3", "method")):
        assert cli.main([*words, "--method.keep-blocks", *value.split()]) == ConfigError.exit_code
        assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
