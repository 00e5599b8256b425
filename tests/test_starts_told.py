"""What is said of the weights that a command starts from: their encoder, and that they are not finished."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
from pathlib import Path

import pytest

from mae_lite import methods, recipes, training
from mae_lite.config import Recipe
from mae_lite.errors import CheckpointError, ConfigError
from mae_lite.evaluation.load import load_run
from mae_lite.methods.base import Method
from tests import stored, toy


@pytest.fixture
def small(tmp_path: Path) -> str:
    training.run(toy.mae(), toy.runtime(tmp_path / "small"))
    return str(tmp_path / "small")


@pytest.mark.parametrize(
    ("encoder", "flags"),
    [
        ({"depth": 2}, "--encoder.depth 1"),
        ({"width": 32, "depth": 2, "num_heads": 4}, "--encoder.width 16 --encoder.depth 1 --encoder.num-heads 2"),
        ({"image_size": 16, "patch_size": 8}, "--encoder.image-size 8 --encoder.patch-size 4"),
    ],
)
def test_another_encoder_is_named_whole(small: str, tmp_path: Path, encoder: dict[str, int], flags: str) -> None:
    """One message has every flag; a flag at a time was a way through three errors."""
    tuned = recipes.derive(toy.classifier(start="pretrained"), encoder=encoder)
    with pytest.raises(CheckpointError) as caught:
        training.run(tuned, toy.runtime(tmp_path / "tuned", init=small))
    assert caught.value.fix.startswith(flags), caught.value
    words = {word: value for word, value in zip(flags.split()[::2], flags.split()[1::2], strict=True)}
    changes = {word.removeprefix("--encoder.").replace("-", "_"): int(value) for word, value in words.items()}
    training.run(recipes.derive(tuned, encoder=changes), toy.runtime(tmp_path / "again", init=small))


def test_all_that_differs_is_said_when_heads_do(small: str, tmp_path: Path) -> None:
    """Another width is no matter of heads."""
    for encoder, what, found in (
        ({"width": 32, "num_heads": 4}, "has another encoder", "width 16, num heads 2"),
        ({"num_heads": 4}, "was trained with another number of attention heads", "2"),
        ({"num_heads": 4, "image_size": 16}, "was trained with another number of attention heads", "2"),
    ):
        tuned = recipes.derive(toy.classifier(start="pretrained"), encoder=encoder)
        with pytest.raises(CheckpointError) as caught:
            training.run(tuned, toy.runtime(tmp_path / "tuned", init=small))
        assert what in caught.value.what and caught.value.found == found
        assert not (tmp_path / "tuned").exists()


def test_a_batch_of_more_images_than_there_are_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"global_batch_size"):
        training.run(toy.classifier(global_batch_size=100), toy.runtime(tmp_path / "large"))  # of 20 images
    assert not (tmp_path / "large").exists()


def test_images_of_another_size_are_no_other_encoder(small: str, tmp_path: Path) -> None:
    tuned = recipes.derive(toy.classifier(start="pretrained"), encoder={"image_size": 16})
    assert training.run(tuned, toy.runtime(tmp_path / "tuned", init=small)).state == "finished"


def test_weights_of_an_unfinished_run_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole, part = tmp_path / "whole", tmp_path / "part"
    training.run(toy.classifier(), toy.runtime(whole))
    training.run(toy.classifier(), toy.runtime(part, stop_after_steps=3))
    with caplog.at_level(logging.WARNING):
        load_run(whole)
        assert not caplog.messages
        load_run(part)
    assert caplog.messages == [f"{part} is not finished (paused): these are its weights at step 3 of 6"]


def test_a_start_is_tried_without_memory(small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is built to see whether weights fit has shapes alone; the method is built once."""
    devices, build = [], methods.build

    def built(recipe: Recipe, classes: int) -> Method:
        method = build(recipe, classes)
        devices.append({value.device.type for value in method.state_dict().values()})
        return method

    monkeypatch.setattr(methods, "build", built)
    training.run(toy.classifier(start="pretrained"), toy.runtime(tmp_path / "tuned", init=small))
    assert devices == [{"meta"}, {"cpu"}]


@pytest.mark.parametrize("use", ["evaluate", "init"])
@pytest.mark.parametrize(
    ("state", "alive", "told", "fix"),
    [
        ("failed", False, "failed", "start it again"),
        ("running", True, "running", "wait for its first checkpoint"),
        ("running", False, "interrupted", "start it again"),
    ],
)
def test_a_run_without_a_checkpoint_says_why(
    tmp_path: Path, state: str, alive: bool, told: str, fix: str, use: str
) -> None:
    """Nobody is told to wait for a process that is no more."""
    process = os.getpid()
    if not alive:
        process = (gone := subprocess.Popen(["true"])).pid
        gone.wait()
    run = stored.run(tmp_path, "run", recipes.get("digits-finetune"), state=state, losses=())
    stored.write(run / "recipe.json", json.loads((run / "recipe.json").read_text()) | {"classes": ["0", "1"]})
    status = json.loads((run / "status.json").read_text()) | {"pid": process, "host": socket.gethostname()}
    stored.write(run / "status.json", status)
    with pytest.raises(CheckpointError, match=f"has no checkpoint yet: found a run that is {told}") as caught:
        if use == "evaluate":
            load_run(run)
        else:
            training.run(toy.classifier(start="pretrained"), toy.runtime(tmp_path / "tuned", init=str(run)))
    assert caught.value.fix.startswith(fix)
    assert not (tmp_path / "tuned").exists()


@pytest.mark.parametrize("init", [None, "small"])
def test_a_start_that_cannot_be_leaves_no_folder(small: str, tmp_path: Path, init: str | None) -> None:
    recipe = toy.classifier(start="random" if init else "pretrained")
    with pytest.raises(ConfigError, match="starts from random weights" if init else "fine-tunes pre-trained weights"):
        training.run(recipe, toy.runtime(tmp_path / "run", init=small if init else None))
    assert not (tmp_path / "run").exists()


def test_weights_that_do_not_fit_leave_no_folder(small: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The same --out is free for the next try, and what is taken of the weights is said once."""
    tuned, runtime = toy.classifier(start="pretrained"), toy.runtime(tmp_path / "run", init=small)
    with pytest.raises(CheckpointError, match="does not fit the model"):
        training.run(recipes.derive(tuned, encoder={"width": 24}), runtime)
    assert not (tmp_path / "run").exists()
    with caplog.at_level(logging.WARNING):
        assert training.run(tuned, runtime).state == "finished"
    assert len(caplog.messages) == len(set(caplog.messages))
