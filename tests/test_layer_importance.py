"""Accuracy against the number of kept blocks: planted weights, the command, stopping, words, bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mae_lite import cli, config, figures, recipes, training
from mae_lite.data.digits import Digits
from mae_lite.data.loader import evaluation_loader, to_device
from mae_lite.data.transforms import EvalTransform
from mae_lite.errors import EXIT_STOPPED, ConfigError, DataError, DiskError
from mae_lite.layer_importance import curve, measure, points
from mae_lite.models import weights
from mae_lite.models.vit import build_encoder
from mae_lite.processes import Pool
from mae_lite.rundir import checkpoints
from tests import toy

ENCODER = config.Encoder(image_size=8, patch_size=2, channels=1, width=32, depth=4, num_heads=4)


def tuning(**changes: Any) -> config.Recipe:
    """Return a fine-tuning of the smallest encoder, 2 blocks, in 6 updates."""
    encoder = {"depth": 2}
    return recipes.derive(toy.classifier(start="pretrained", encoder=encoder), **changes)


def of_run(folder: Path) -> str:
    training.run(toy.mae(encoder={"depth": 2}), toy.runtime(folder, stop_after_steps=2))
    return str(folder)


def ordered(init: str, out: Path, **changes: Any) -> measure.Order:
    order: dict[str, Any] = {"recipe": tuning(), "runtime": toy.runtime(out, init=init), "seeds": (0,)}
    return measure.Order(**{**order, **changes})


# A planted case: the lower half knows digits, the upper half is random


def planted(path: Path) -> str:
    """Write an encoder of 4 blocks, trained with labels, the upper 2 made random afterwards."""
    augmentation = toy.mae().augmentation
    (batch,) = evaluation_loader(Digits("train"), EvalTransform(augmentation, 8, 1), batch_size=2000, channels=1)
    images = to_device(batch, torch.device("cpu"), augmentation.mean, augmentation.std).images
    encoder: Any = build_encoder(ENCODER, seed=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = nn.Linear(32, 10)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=2e-3)
    for step in range(120):
        some = torch.randint(0, len(images), (128,), generator=torch.Generator().manual_seed(step))
        outputs = head(encoder.forward_features(images[some])[:, 1:].mean(dim=1))
        optimizer.zero_grad()
        nn.functional.cross_entropy(outputs, batch.labels[some]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    random = build_encoder(ENCODER, seed=5).state_dict()
    upper = {name: value for name, value in random.items() if name.startswith(("blocks.2.", "blocks.3.", "norm."))}
    path.write_bytes(weights.to_bytes({**encoder.state_dict(), **upper}))
    return str(path)


@pytest.mark.slow
def test_planted_random_blocks_carry_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    init, out = planted(tmp_path / "planted.safetensors"), tmp_path / "curve"
    words = ["layers", init, "digits-finetune", "--data", "digits", "--keep", "2", "3", "--seeds", "0"]
    shape = ["--encoder.width", "32", "--encoder.depth", "4", "--layer-decay", "1", "--tensorboard", "false"]
    short = ["--labels-per-class", "10", "--epochs", "20", "--warmup-epochs", "2", "--global-batch-size", "100"]
    run = ["--processes", "2", "--workers", "0", "--out", str(out), "--accelerator", "cpu"]
    assert cli.main([*words, *shape, *short, *run]) == 0
    said = capsys.readouterr().out
    found = json.loads((out / "layers.json").read_text())
    first, last = ({row["blocks"]: row["gain"]["mean"] for row in found[side]} for side in ("first", "last"))
    assert list(first) == [0, 2, 3, 4] and first[0] == last[0] == 0 and first[4] == last[4]
    assert first[4] > 10
    assert abs(first[2] - first[4]) < first[4] / 4 and abs(first[3] - first[4]) < first[4] / 4  # flat from there
    assert abs(last[2]) < first[4] / 4  # nothing
    assert found["sentence"] in said and (out / "layers.svg").read_text().startswith("<svg")


# The command's parts


def test_which_runs_there_are() -> None:
    assert points.counts(12, None) == (0, 3, 6, 9, 12) and points.counts(3, None) == (0, 1, 2, 3)
    assert points.counts(1, None) == (0, 1) and points.counts(12, [6]) == (0, 6, 12) == points.counts(12, [12, 6, 0])
    kept = list(points.kept(12, (0, 3, 12)))
    assert [point.name for point in kept] == ["all", "none", "first-3", "last-3"]
    assert [point.setting for point in kept] == [None, ("first", 0), ("first", 3), ("last", 3)]
    base = tuning()
    assert points.recipe_of(base, kept[0], base.seed) == base  # fine-tuning as it always is
    with pytest.raises(ConfigError, match=r"keep: found 13, expected 0 to encoder\.depth 12\nFix: --keep 0 3 6 9 12"):
        points.counts(12, [3, 13])


@pytest.mark.slow
def test_finished_runs_are_not_repeated_and_others_go_on(tmp_path: Path) -> None:
    init, out = of_run(tmp_path / "pretrained"), tmp_path / "curve"
    begun = points.recipe_of(tuning(), points.Kept("last", 1, 2), 0)
    training.run(begun, toy.runtime(out / "keep-last-1-seed-0", init=init, stop_after_steps=2))
    found = measure.measure(ordered(init, out))
    runs = {path.parent.name for path in out.glob("*/recipe.json")}
    assert runs == {f"keep-{name}-seed-0" for name in ("none", "all", "first-1", "last-1")}
    starts = json.loads((out / "keep-last-1-seed-0" / "provenance.json").read_text())["starts"]
    assert [start["resumed_at"] for start in starts] == [0, 2]
    told = json.loads((out / "layers.json").read_text())
    assert told["images"] == 451 and told["blocks"] == 2 and told["sentence"] == found.sentence()
    top1 = json.loads(next((out / "keep-all-seed-0" / "eval").iterdir()).read_text())["top1"]
    assert told["first"][-1]["top1"]["by_seed"] == [100 * top1] == told["last"][-1]["top1"]["by_seed"]
    assert figures.COLOURS["mae"].lower() in (out / "layers.svg").read_text()

    def times() -> list[int]:
        manifests = [checkpoints(run)[0][1] / "manifest.json" for run in out.glob("keep-*")]
        return [path.stat().st_mtime_ns for path in (*manifests, *out.glob("*/eval/*"))]

    before = times()
    assert measure.measure(ordered(init, out)) == found and times() == before
    with pytest.raises(ConfigError, match="holds another run"):
        measure.measure(ordered(init, out, recipe=tuning(epochs=4)))


@pytest.mark.slow
def test_a_signal_lets_runs_save_and_stop(tmp_path: Path) -> None:
    init, out = of_run(tmp_path / "pretrained"), tmp_path / "curve"
    words = ["layers", init, "digits-finetune", "--data", "digits", "--encoder.width", "16", "--encoder.num-heads", "2"]
    words += ["--encoder.patch-size", "4", "--encoder.depth", "2", "--epochs", "100000", "--out", str(out)]
    words += ["--tensorboard", "false", "--processes", "2", "--seeds", "0", "--save-every-steps", "1"]
    command = [sys.executable, "-m", "mae_lite.cli", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        deadline = time.monotonic() + 120
        while len(list(out.glob("*/checkpoints/step_*/manifest.json"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == EXIT_STOPPED and "the same command continues" in said, said
    states = [json.loads(path.read_text()) for path in out.glob("*/status.json")]
    assert states and {state["state"] for state in states} == {"stopped"}
    for state in states:
        with pytest.raises(ProcessLookupError):
            os.kill(state["pid"], 0)


@pytest.mark.slow
def test_a_worker_that_is_gone_is_explained() -> None:
    said: list[str] = []
    with pytest.raises(DiskError, match=r"a worker process ended without a word(.|\n)*fewer --processes"):
        with Pool(1, said.append) as pool:
            pool.finish([os.getpid, lost])
    assert said == ["    1 of 2 runs finished"]


def lost() -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


# Words


def curves(**values: tuple[float, ...]) -> curve.Curves:
    names = {name.replace("_", "-"): value for name, value in values.items()}
    counts = tuple(sorted({0, 12, *(int(name.split("-")[1]) for name in names if "-" in name)}))
    return curve.Curves("m", 12, counts, tuple(range(len(names["all"]))), names)


def test_the_sentence_says_who_carries_what() -> None:
    found = curves(none=(70.0, 72.0), all=(80.0, 82.0), first_3=(78.0, 80.0), last_3=(71.0, 73.0))
    assert found.sentence() == (
        "m: 81.0 ± 12.7 % with all 12 blocks kept and 71.0 ± 12.7 % with none: pre-training is worth 10.0 ± 0.0 "
        "points. The first 3 blocks alone carry 8.0 ± 0.0 of them, the last 3 carry 1.0 ± 0.0 (95 % intervals over "
        "2 seeds, paired)."
    )
    single = curves(none=(70.0,), all=(80.0,), first_1=(78.0,), last_1=(69.0,), first_9=(81.0,), last_9=(75.0,))
    assert single.sentence() == (
        "m: 80.0 % with all 12 blocks kept and 70.0 % with none: pre-training is worth 10.0 points. The first block "
        "alone carries 8.0 of them, the last one carries -1.0 (one seed, so that nothing is said of chance)."
    )
    assert single.numbers()["last"][1] == {
        "blocks": 1,
        "top1": {"mean": 69.0, "half_width": None, "by_seed": [69.0]},
        "gain": {"mean": -1.0, "half_width": None, "by_seed": [-1.0]},
    }
    assert [line.split() for line in single.as_text().splitlines()[2:6]][3] == ["12", "80.0", "80.0"]


@pytest.mark.parametrize(("none", "every"), [((70.0, 75.0), (80.0, 76.0)), ((70.0,), (70.0,)), ((70.0,), (69.0,))])
def test_a_difference_of_nothing_is_not_shared_out(none: tuple[float, ...], every: tuple[float, ...]) -> None:
    found = curves(none=none, all=every, first_3=every, last_3=none)
    assert "is not above chance" in found.sentence() and "carry" not in found.sentence()


def test_the_figure_has_the_numbers_at_their_places() -> None:
    drawn = curves(none=(70.0,), all=(80.0,), first_3=(78.0,), last_3=(71.0,)).figure("mae")
    assert all(f">{word}<" in drawn for word in ("the first n kept", "the last n kept", "top-1 accuracy, %", "3", "12"))
    assert drawn.count(figures.COLOURS["mae"].lower()) >= 3 and "n of 12" in drawn


@pytest.mark.filterwarnings("error")
def test_long_names_leave_room_for_the_curves() -> None:
    names = [f"digits-finetune (method.keep_blocks ['first', {count}], from pretrained)" for count in range(6)]
    drawn = figures.curves(
        {name: [([0.0, 1.0], [1.0, 2.0])] for name in names}, dict.fromkeys(names, "#000000"), "x", "y"
    )
    assert all(name in drawn.replace("&#x27;", "'") for name in names)


# Bad input


def test_bad_input_is_explained_before_anything_is_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    init, out = of_run(tmp_path / "pretrained"), str(tmp_path / "out")
    small = ["--encoder.width", "16", "--encoder.num-heads", "2", "--encoder.patch-size", "4", "--encoder.depth", "2"]
    cases: list[tuple[int, str, list[str]]] = [
        (2, "the pre-trained run is missing", ["--data", "digits"]),
        (2, "the recipe is missing", [init, "--data", "digits"]),
        (2, "no fine-tuning of pre-trained weights", [init, "digits-scratch", "--data", "digits"]),
        (2, "no fine-tuning of pre-trained weights", [init, "digits-mae", "--data", "digits"]),
        (2, "keep: found 3, expected 0 to encoder.depth 2", [init, "digits-finetune", *small, "--keep", "3"]),
        (2, "greater than or equal to 0", [init, "digits-finetune", *small, "--keep", "-1"]),
        (2, "--init is not read here", [init, "digits-finetune", *small, "--init", "other"]),
        (2, "--seed is not read here", [init, "digits-finetune", *small, "--seed", "3"]),
        (2, "each once", [init, "digits-finetune", *small, "--seeds", "1", "1"]),
        (2, "drop it, or use --keep", [init, "digits-finetune", *small, "--method.keep-blocks", "first", "1"]),
        (2, "stop_after_steps is not read", [init, "digits-finetune", *small, "--stop-after-steps", "1"]),
        (2, "devices is not read here", [init, "digits-finetune", *small, "--devices", "2"]),
        (3, "nowhere", [init, "digits-finetune", *small, "--test-data", "nowhere"]),
        (4, "has another encoder", [init, "digits-finetune"]),
        (4, "does not exist", ["nowhere", "digits-finetune"]),
    ]
    for code, words, arguments in cases:
        data = [] if "--data" in arguments else ["--data", "digits"]
        assert cli.main(["layers", *arguments, *data, "--out", out]) == code, words
        error = capsys.readouterr().err
        assert words in error and "Fix: " in error, error
    assert not Path(out).exists()


def test_training_images_are_no_test_images(tmp_path: Path) -> None:
    init = of_run(tmp_path / "pretrained")
    with pytest.raises(DataError, match="these are the images the run was trained on"):
        measure.measure(ordered(init, tmp_path / "out", test_data="digits#train"))
