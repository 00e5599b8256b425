"""The page about dense tasks and its examples, with a tiny override, and the measure that they print."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tyro
from PIL import Image
from torch import Tensor

import mae_lite
from examples import detection, segmentation
from examples.scenes import Scenes, pyramids, scenes
from mae_lite import cli
from mae_lite.errors import ConfigError
from mae_lite.models.taps import tapped
from tests.test_readme import ROOT, blocks

PAGE = (ROOT / "docs" / "dense.md").read_text()
DIGITS = "pretrained:digits-mae"
TINY = ["--steps", "2", "--images", "4"]


@pytest.fixture(scope="module")
def train() -> Scenes:
    return scenes("train", 12, seed=0)


def test_scenes_are_what_they_say(train: Scenes) -> None:
    again, other, test = scenes("train", 12, seed=0), scenes("train", 12, seed=1), scenes("test", 12, seed=0)
    assert torch.equal(train.images, again.images) and torch.equal(train.masks, again.masks)
    assert not torch.equal(train.images, other.images) and not torch.equal(train.images, test.images)
    assert train.images.shape == (12, 1, 24, 24) and 0 <= train.images.min() < 0.2 < 0.7 < train.images.max() <= 1
    for mask, boxes, labels in zip(train.masks, train.boxes, train.labels, strict=True):
        assert 1 <= len(boxes) == len(labels) <= 3
        inside = torch.zeros_like(mask)
        for (left, top, right, bottom), label in zip(boxes.int().tolist(), labels.tolist(), strict=True):
            part = mask[top:bottom, left:right] == 1 + label
            assert part.any(dim=0)[[0, -1]].all() and part.any(dim=1)[[0, -1]].all()  # nothing to spare at any edge
            inside[top:bottom, left:right] += 1
        assert int(inside.max()) == 1 and not mask[inside == 0].any()


def test_both_encoders_carry_the_same_levels() -> None:
    random, trained = (pyramid.state_dict() for pyramid in pyramids(DIGITS, 8, freeze=False, seed=0).values())
    own = mae_lite.load_encoder(DIGITS).state_dict()
    for name, value in trained.items():
        assert torch.equal(value, own[name.removeprefix("encoder.")] if name.startswith("encoder.") else random[name])
    assert not torch.equal(random["encoder.blocks.2.attn.qkv.weight"], own["blocks.2.attn.qkv.weight"])
    assert not torch.equal(random["encoder.patch_embed.proj.weight"], own["patch_embed.proj.weight"])


@pytest.mark.slow
@pytest.mark.parametrize("freeze", [False, True])
@pytest.mark.parametrize("example", [segmentation, detection])
def test_what_is_trained_moves_and_the_loss_falls(example: Any, freeze: bool, train: Scenes) -> None:
    pyramid = mae_lite.load_pyramid(DIGITS, channels=64, freeze=freeze)
    before = {name: value.clone() for name, value in pyramid.state_dict().items()}
    test = scenes("test", 3, seed=0)
    result = example.train_and_test(pyramid, train, test, steps=10, seed=0)
    moved = {name for name, value in pyramid.state_dict().items() if not torch.equal(value, before[name])}
    assert {name for name in before if name.startswith("levels.")} <= moved
    assert any(name.startswith("encoder.") for name in moved) is not freeze
    assert len(result.losses) == 10 and result.losses[-1] < 0.8 * result.losses[0]
    assert len(result.predicted) == 3
    if example is segmentation:
        assert result.predicted.shape == (3, 24, 24) and 0 <= result.score <= 1
        assert 0 <= int(result.predicted.min()) <= int(result.predicted.max()) <= 10
    else:
        for boxes in result.predicted:
            assert boxes["boxes"].shape == (len(boxes["scores"]), 4) and 0 <= result.score <= 1
            assert set(boxes["labels"].tolist()) <= set(range(10))
            assert torch.equal(boxes["scores"], boxes["scores"].sort(descending=True).values)


def found(*rows: tuple[float, int, float]) -> dict[str, Tensor]:
    """Return squares of 10 pixels: the left edge, label and score of each."""
    edges = [[left, 0.0, left + 10.0, 10.0] for left, _, _ in rows]
    return {
        "boxes": torch.tensor(edges).reshape(-1, 4),
        "labels": torch.tensor([label for _, label, _ in rows], dtype=torch.int64),
        "scores": torch.tensor([score for _, _, score in rows]),
    }


@pytest.mark.parametrize(
    ("predicted", "expected"),
    [
        ([found((0, 3, 0.9), (20, 3, 0.5)), found((0, 3, 0.4))], 1.0),
        ([found((0, 3, 0.9)), found()], 1 / 3),  # two are missed
        ([found(), found()], 0.0),
        ([found((0, 4, 0.9), (20, 4, 0.5)), found()], 0.0),  # of another class
        ([found((0, 3, 0.9), (2, 3, 0.8)), found()], 1 / 3),  # the second time, the same box is wrong
        ([found((2, 3, 0.9), (40, 3, 0.8), (20, 3, 0.5)), found((4, 3, 0.7))], (1 + 2 / 4) / 3),
    ],
)
def test_average_precision_by_hand(predicted: list[dict[str, Tensor]], expected: float) -> None:
    """Boxes are right at an overlap of 8 / 12 (2 pixels off), wrong at 6 / 14 (4 pixels off)."""
    truth = [found((0, 3, 1.0), (20, 3, 1.0)), found((0, 3, 1.0))]
    assert detection.average_precision(predicted, truth) == pytest.approx(expected)


def test_average_precision_is_a_mean_over_classes() -> None:
    truth = [found((0, 3, 1.0), (20, 5, 1.0))]
    assert detection.average_precision([found((0, 3, 0.5))], truth) == 0.5


def example_of(line: str) -> tuple[Callable[..., Any], list[str]]:
    """Return the function of ``python -m examples.NAME ...`` and its words."""
    python, dash, name, *words = shlex.split(line)
    assert (python, dash) == ("python", "-m")
    return importlib.import_module(name).main, words


@pytest.mark.slow
def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed: the page needs it")
    monkeypatch.chdir(tmp_path)
    examples: list[str] = []
    for line in (line for block in blocks("bash", PAGE) for line in block.splitlines()):
        if line.startswith("mae-lite"):
            assert cli.main(shlex.split(line)[1:]) == 0, f"{line}\n{capsys.readouterr().err}"
        else:
            function, words = example_of(line)
            capsys.readouterr()
            results = tyro.cli(function, args=[*words, *TINY])
            assert list(results) == ["random", DIGITS] and capsys.readouterr().out.count("\n") == 3
            examples.append(line)
            if "--out" in words:
                with Image.open(words[words.index("--out") + 1]) as picture:
                    assert min(picture.size) > 200 and len(np.unique(np.asarray(picture.convert("L")))) > 50
    assert len(examples) >= 2
    names: list[dict[str, Any]] = []
    for block in blocks("python", PAGE):
        names.append({})
        exec(compile(block, "dense.md", "exec"), names[-1])  # the page is ours
    whole, detecting, timm_maps, hugging_face = names
    assert [tuple(level.shape) for level in whole["levels"].values()] == [(1, 128, *size) for size in whole["SIZES"]]
    assert len(detecting["found"]) == 1
    encoder = mae_lite.load_encoder(DIGITS)
    with torch.no_grad():
        images = torch.rand(2, 1, 8, 8)
        states = tapped(encoder, images).states
        for level, state in zip(timm_maps["model"](images), states[1:], strict=True):
            assert (level.flatten(2).transpose(1, 2) - state[:, 1:]).abs().max() < 1e-4 * state.abs().max()
        hidden = hugging_face["model"](images, output_hidden_states=True).hidden_states
        for ours, theirs in zip(states, hidden, strict=True):
            assert (ours - theirs).abs().max() < 1e-4 * ours.abs().max()
        pyramid = mae_lite.load_pyramid(DIGITS, channels=4)
        final = hugging_face["model"](images).last_hidden_state[:, 1:].transpose(1, 2).unflatten(2, (4, 4))
        assert (pyramid.last_map(images) - final).abs().max() < 1e-4 * final.abs().max()
        last = pyramid.last_map(hugging_face["images"])
        apart = (hugging_face["last"] - last).abs().max() / last.abs().max()
        assert 0 < apart < 0.2  # the page says that positions of other sizes differ
    assert [tuple(level.shape) for level in timm_maps["maps"]] == [(1, 96, 16, 12)] * 3


@pytest.mark.parametrize("name", ["segmentation", "detection"])
def test_numbers_on_the_page_are_of_the_default_budget(name: str) -> None:
    settings = inspect.signature(example_of(f"python -m examples.{name}")[0]).parameters
    images, steps = (settings[key].default for key in ("images", "steps"))
    assert f"{images} training scenes" in PAGE and f"{steps} updates" in PAGE
    assert re.search(rf"python -m examples\.{name}( --out \S+)?$", PAGE, flags=re.MULTILINE)


def test_bad_words_end_an_example_with_what_to_do() -> None:
    for example in (segmentation, detection):
        for words, mention in (({"steps": 0}, "--steps"), ({"images": -1}, "--images")):
            with pytest.raises(ConfigError, match=f"{mention}: found"):
                example.main(**words)
    command = [sys.executable, "-m", "examples.segmentation", "--images", "1", "--model", "pretrained:digit-mae"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 4 and "nearest: 'digits-mae'" in done.stderr and "\nFix: " in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
