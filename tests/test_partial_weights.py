"""Weights that lack a tensor, have one too many or one of another shape: nothing is loaded by half in silence."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mae_lite import config, files, methods, recipes, training
from mae_lite.errors import CheckpointError, ConfigError, MaeLiteError
from mae_lite.evaluation.load import load_initial
from mae_lite.models import weights
from mae_lite.models.vit import build_encoder
from tests import toy

State = dict[str, Tensor]
NUMBERS = ("float16", "bfloat16", "float64", "int8")


@pytest.fixture(autouse=True)
def _no_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)


def recipe_of(kind: str) -> config.Recipe:
    """Return the toy of a method, which takes weights to start from."""
    return toy.EVERY[kind](**{"start": "pretrained"} if kind == "supervised" else {})


def checkpoint(run: Path, recipe: config.Recipe, state: State) -> str:
    """Write a run with this state as its checkpoint; return the folder of the checkpoint."""
    files.make_folder(run / "checkpoints")
    record = {"recipe": recipe.model_dump(mode="json"), "classes": [str(n) for n in range(10)], "data": "digits"}
    files.write_json(run / "recipe.json", record)
    files.publish_folder(run / "checkpoints/step_1", {"model.safetensors": weights.to_bytes(state)})
    return str(run / "checkpoints/step_1")


def missing(state: State, key: str) -> str:
    del state[key]
    return f"{key}: missing"


def misspelt(state: State, key: str) -> str:
    state[f"{key}_"] = state.pop(key)
    return f"{key}: missing"


def doubled(state: State, key: str) -> str:
    state[key] = torch.stack([state[key], state[key]])
    return f"{key}: {list(state[key].shape)} for "


def longer(state: State, key: str) -> str:
    state[key] = torch.cat([state[key].reshape(-1), torch.zeros(1)])
    return f"{key}: {list(state[key].shape)} for "


def complex_numbers(state: State, key: str) -> str:
    state[key] = state[key].to(torch.complex64)
    return f"tensor {key!r} holds complex numbers"


def stranger(state: State, key: str) -> str:
    state[f"encoder.{key}.stranger"] = torch.zeros(3)
    return f"encoder.{key}.stranger: [3] not in the model"


RULES: tuple[Callable[[State, str], str], ...] = (missing, misspelt, doubled, longer, complex_numbers, stranger)
ANEW = {
    "feature_distillation": "matching.",
    "maskfeat": "painter.pred.",
    "simmim": "painter.pred.",
    "distilled_simmim": "painter.pred.",
    "supervised": "encoder.head.",
}
"""The part of a method that starts anew, as a whole and aloud, where what is there does not fit."""


@pytest.mark.parametrize("kind", toy.EVERY)
def test_no_change_of_a_state_is_loaded_in_silence(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe = recipe_of(kind)
    source: Any = methods.build(recipe, 10)
    with torch.no_grad():
        for value in source.parameters():
            value.add_(1.0)
    good = {key: value.clone() for key, value in source.state_dict().items()}
    last = [key for key in good if key.startswith(ANEW.get(kind, "decoder.pred."))][-1:]
    caplog.set_level(logging.INFO)
    model: Any = methods.build(recipe, 10)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    refused = 0
    keys = [*[*good][:: max(1, len(good) // 3)], *last]
    for number, (key, rule) in enumerate(itertools.product(keys, RULES)):
        state = dict(good)
        words = rule(state, key)
        place = checkpoint(tmp_path / str(number), recipe, state)
        caplog.clear()
        try:
            load_initial(model, recipe, place)
        except CheckpointError as error:
            assert words in str(error), (key, rule.__name__)
            now = model.state_dict()
            assert all(torch.equal(value, now[name]) for name, value in before.items()), (key, rule.__name__)
            refused += 1
        else:
            assert key.startswith(ANEW[kind]), (key, rule.__name__)
            assert f"that it lacks start anew ({ANEW[kind]}" in caplog.text
            part = [name for name in good if name.startswith(ANEW[kind])]
            now = model.state_dict()
            assert not any(torch.equal(now[name], good[name]) for name in part), "a half of it was taken"
            model = methods.build(recipe, 10)
    assert refused >= len(RULES) * (len(keys) - 2)
    load_initial(model, recipe, checkpoint(tmp_path / "good", recipe, good))
    same = {key for key, value in model.state_dict().items() if torch.equal(value, good[key])}
    assert {key for key in good if key not in same} <= {"encoder.head.weight", "encoder.head.bias"}


@pytest.fixture
def encoder() -> State:
    """Return the tensors of the toy encoder, by the names of timm."""
    return dict(build_encoder(toy.mae().plain_encoder, 1).state_dict())


def written(path: Path, state: State) -> str:
    path.write_bytes(weights.to_bytes(state))
    return str(path)


@pytest.mark.parametrize("kind", NUMBERS)
def test_another_kind_of_number_is_told_once(
    kind: str, encoder: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    as_saved = {
        key: (100 * value if kind == "int8" else value).to(getattr(torch, kind)) for key, value in encoder.items()
    }
    model: Any = methods.build(toy.mae(), 0)
    load_initial(model, toy.mae(), written(tmp_path / "w.safetensors", as_saved))
    told = [record.getMessage() for record in caplog.records if "became" in record.getMessage()]
    assert len(told) == 1 and f"{len(encoder)} tensors of {kind} became float32" in told[0]
    assert ("quantised" in told[0]) == (kind == "int8")
    state = model.encoder.state_dict()
    assert all(torch.equal(state[key], value.float()) for key, value in as_saved.items())


def test_numbers_that_a_cast_would_make_infinite_are_refused(encoder: State, tmp_path: Path) -> None:
    encoder["norm.weight"] = encoder["norm.weight"].double() * 1e300
    place = written(tmp_path / "w.safetensors", encoder)
    with pytest.raises(
        CheckpointError, match=r"'encoder.norm.weight' holds numbers too large for float32: found float64"
    ):
        load_initial(methods.build(toy.mae(), 0), toy.mae(), place)


@pytest.mark.parametrize("shape", [(0,), (2, 5, 16), (1, 7, 16), (1, 1, 16), (1, 0, 16), (1, 10, 8), (5, 16)])
def test_positions_of_no_grid_are_refused(shape: tuple[int, ...], encoder: State, tmp_path: Path) -> None:
    encoder["pos_embed"] = torch.zeros(shape)
    place = written(tmp_path / "w.safetensors", encoder)
    with pytest.raises(MaeLiteError, match=r"pos_embed: \[|position table"):
        load_initial(methods.build(toy.mae(), 0), toy.mae(), place)


# --allow-missing


def start(place: str, *patterns: str) -> Any:
    model: Any = methods.build(toy.mae(), 0)
    load_initial(model, toy.mae(), place, patterns)
    return model


def test_what_may_be_missing_is_named_and_the_rest_is_loaded(
    encoder: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lacks = {key: value + 1 for key, value in encoder.items() if key not in ("norm.weight", "blocks.0.attn.qkv.bias")}
    place = written(tmp_path / "w.safetensors", lacks)
    with pytest.raises(CheckpointError, match="in 2 of") as caught:
        start(place)
    assert "--allow-missing encoder.blocks.0.attn.qkv.bias encoder.norm.weight" in caught.value.fix
    with pytest.raises(CheckpointError, match="in 1 of") as caught:
        start(place, "encoder.norm.*")
    assert "--allow-missing encoder.norm.* encoder.blocks.0.attn.qkv.bias" in caught.value.fix
    caplog.clear()
    state = start(place, "encoder.norm.*", "*.qkv.bias").encoder.state_dict()
    assert "these start anew: encoder.blocks.0.attn.qkv.bias, encoder.norm.weight\n" in caplog.text
    assert all(torch.equal(state[key], value) for key, value in lacks.items())
    assert bool(state["norm.weight"].eq(1).all())


@pytest.mark.parametrize(
    ("patterns", "says"),
    [
        (
            ("encoder.norm.*", "encoder.nrom.*"),
            r"'encoder.nrom.*', which no .*patterns of what it lacks: encoder.norm.w",
        ),
        (("encoder.norm.weight", "encoder.blocks.*"), "'encoder.blocks.*', which no tensor has that"),
    ],
)
def test_a_pattern_that_allows_nothing_is_refused(
    patterns: tuple[str, ...], says: str, encoder: State, tmp_path: Path
) -> None:
    del encoder["norm.weight"]
    with pytest.raises(ConfigError, match=says.replace("*", r"\*").replace(r".\*", ".*")) as caught:
        start(written(tmp_path / "w.safetensors", encoder), *patterns)
    assert caught.value.fix == f"--allow-missing {patterns[0]}"


def test_what_does_not_fit_is_not_missing(encoder: State, tmp_path: Path) -> None:
    encoder["norm.weight"] = torch.zeros(3)
    encoder["blocks.1.norm1.weight"] = torch.zeros(16)
    with pytest.raises(CheckpointError, match="in 2 of") as caught:
        start(written(tmp_path / "w.safetensors", encoder), "*")
    assert "--allow-missing" not in caught.value.fix


def test_a_run_takes_the_patterns(encoder: State, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    del encoder["norm.weight"]
    place = written(tmp_path / "w.safetensors", encoder)
    settings = {"init": place, "stop_after_steps": 1, "probe_images": 0}
    recipe = recipes.derive(toy.mae(), global_batch_size=2)
    with pytest.raises(CheckpointError, match=r"encoder.norm.weight: missing \[16\]"):
        training.run(recipe, toy.runtime(tmp_path / "run", **settings))
    with pytest.raises(ConfigError, match="a start without --init' lacks"):
        training.run(recipe, toy.runtime(tmp_path / "run", **{**settings, "init": None}, allow_missing=["encoder.*"]))
    assert training.run(recipe, toy.runtime(tmp_path / "run", **settings, allow_missing=["encoder.norm.*"])).step == 1
    assert "these start anew: encoder.norm.weight" in caplog.text
    again = toy.runtime(tmp_path / "run", **{**settings, "stop_after_steps": 2})
    assert training.run(recipe, again).step == 2, "what it began from is known by its hash"
