"""Runs as a whole: accumulation, ranks, workers, signals, resume, starting weights."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mae_lite import methods, recipes, training
from mae_lite.config import Recipe, Runtime
from mae_lite.engine.signals import StopSignals
from mae_lite.errors import CheckpointError, ConfigError, DiskError
from mae_lite.methods.mae import MaskedAutoencoder
from mae_lite.methods.mocov3 import MomentumContrast
from mae_lite.report import repeat
from mae_lite.report.read import read
from mae_lite.rundir import checkpoints, read_rows
from tests import toy
from tests.figures_of import tally

ROOT = Path(__file__).parent.parent


def tensors(run: Path, name: str = "model") -> dict[str, Tensor]:
    """Return the tensors of a run's newest checkpoint."""
    return load_file(checkpoints(run)[0][1] / f"{name}.safetensors")


def furthest(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Return the largest difference, relative to the largest weight of each tensor."""
    assert one.keys() == other.keys()
    return max(float((one[k] - other[k]).abs().max() / other[k].abs().max().clamp(min=1e-3)) for k in one)


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in read_rows(run) if "loss" in row]


def trained(recipe: Recipe, out: Path, **changes: Any) -> Path:
    training.run(recipe, toy.runtime(out, **changes))
    return out


SGD: dict[str, Any] = {"optimizer": {"kind": "sgd"}, "lr_per_256": 1.0}
"""Adam turns rounding into steps of full size where a gradient is zero (a key's bias); SGD shows the gradients."""


@pytest.mark.parametrize(
    "recipe",
    [toy.mae(), toy.mae(**SGD), toy.classifier(global_batch_size=16, method={"mixup": 0.2, "cutmix": 1.0}, **SGD)],
    ids=["adamw", "sgd", "mixup"],
)
def test_micro_batches_add_up_to_the_batch(tmp_path: Path, recipe: Recipe) -> None:
    whole = trained(recipe, tmp_path / "whole")
    parts = trained(recipe, tmp_path / "parts", micro_batch_size=4)
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-6)
    if recipe.optimizer.kind == "sgd":
        assert furthest(tensors(parts), tensors(whole)) < 1e-6


def test_four_micro_batches_give_the_same_gradients() -> None:
    """In float64, where rounding does not hide a wrong weight: one batch against four micro-batches."""
    recipe = toy.mae()
    method = methods.build(recipe, 0).double()
    images = torch.rand(16, 1, 8, 8, dtype=torch.float64)
    noise = method.draw(0, 3, range(16))["noise"]
    labels = torch.zeros(16, dtype=torch.int64)
    whole = torch.autograd.grad(method(images, labels, {"noise": noise}).loss, _trainable(method))
    for parameter in method.parameters():
        parameter.grad = None
    for start in range(0, 16, 4):
        rows = range(start, start + 4)
        drawn = method.draw(0, 3, rows)
        assert torch.equal(drawn["noise"], noise[start : start + 4])
        (method(images[start : start + 4], labels[:4], drawn).loss / 4).backward()
    for parameter, expected in zip(_trainable(method), whole, strict=True):
        assert parameter.grad is not None
        # the loss is float32, as in training, and so is its rounding
        assert float((parameter.grad - expected).norm() / expected.norm().clamp(min=1e-12)) < 1e-6


def _trainable(method: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [parameter for parameter in method.parameters() if parameter.requires_grad]


def by_torchrun() -> list[str]:
    """Return what comes before a command, as people start it; forks of tests/pairs.py do the same in less time."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launcher = ["torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1", f"--master-port={port}"]
    return ["-m", *launcher, "-m", "mae_lite"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mae", "classifier"])
def test_two_processes_equal_one(tmp_path: Path, kind: str) -> None:
    """By torchrun, with probes; and fine-tuning that mixes images. tests/test_every_method.py has all methods."""
    recipe = {
        "mae": toy.mae(**SGD),
        "classifier": toy.classifier(method={"mixup": 0.4}, global_batch_size=20, **SGD),
    }[kind]
    probes = {"probe_every_epochs": 3 / 84, "probe_images": 200} if kind == "mae" else {}
    one = trained(recipe, tmp_path / "one", **probes)
    (tmp_path / "recipe.json").write_text(recipe.model_dump_json())
    job = ["finetune" if kind == "classifier" else "pretrain", str(tmp_path / "recipe.json"), "--data", "digits"]
    flags = ["--out", str(tmp_path / "two"), "--workers", "0", "--log-every-steps", "2", "--save-every-steps", "2"]
    flags += ["--tensorboard", "false", "--accelerator", "cpu"]
    flags += [word for name, value in probes.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    launcher = by_torchrun() if kind == "mae" else [str(ROOT / "tests" / "pairs.py"), str(tmp_path / "logs"), "command"]
    done = subprocess.run(
        [sys.executable, *launcher, *job, *flags],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    two = tmp_path / "two"
    status = json.loads((two / "status.json").read_text())
    assert status["state"] == "finished", done.stdout + done.stderr
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    assert furthest(tensors(two), tensors(one)) < 1e-5
    probed = [[row for row in read_rows(run) if "rankme" in row] for run in (one, two)]
    assert len(probed[0]) == len(probed[1]) == (3 if kind == "mae" else 0)
    for first, second in zip(*probed, strict=True):
        assert second == pytest.approx(first, rel=1e-4, abs=0.026)  # one query of 40 may lie on the border
    assert [path.name for path in sorted(two.glob("previews/*"))] == [p.name for p in sorted(one.glob("previews/*"))]


@pytest.mark.slow
def test_a_compiled_run_is_the_run_up_to_rounding_and_resumes_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Any]] = []
    genuine = torch.compile

    def noted(model: Any, **settings: Any) -> Any:
        seen.append(settings)
        return genuine(model, **settings)

    monkeypatch.setattr(torch, "compile", noted)
    recipe = toy.mae(**SGD)
    plain, whole = trained(recipe, tmp_path / "plain"), trained(recipe, tmp_path / "whole", compiled=True)
    assert losses(whole) == pytest.approx(losses(plain), rel=1e-5)
    assert furthest(tensors(whole), tensors(plain)) < 1e-4
    trained(recipe, tmp_path / "parts", compiled=True, stop_after_steps=3)
    parts = trained(recipe, tmp_path / "parts", compiled=True)
    assert furthest(tensors(parts), tensors(whole)) == 0
    assert len(seen) >= 3  # Fabric compiles what it has wrapped once more
    assert all(settings == {"dynamic": False} for settings in seen)


def test_compiling_needs_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"none of the C\+\+ compilers.*\n?.*Fix: install g\+\+"):
        trained(toy.mae(), tmp_path / "run", compiled=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_finishes_the_step_saves_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    reference = trained(toy.mae(), tmp_path / "reference")
    for last in range(1, 6):
        sent: list[float] = []

        def after_step(self: object, step: int, total_steps: int, last: int = last, sent: list[float] = sent) -> None:
            del self, total_steps
            if step == last:
                sent.append(time.perf_counter())
                os.kill(os.getpid(), number)

        with monkeypatch.context() as patch:
            patch.setattr(MaskedAutoencoder, "after_step", after_step)
            outcome = training.run(toy.mae(), toy.runtime(tmp_path / f"run {last}"))
        seconds = time.perf_counter() - sent[0]
        assert (outcome.state, outcome.step) == ("stopped", last)
        assert checkpoints(outcome.folder)[0][0] == last
        assert json.loads((outcome.folder / "status.json").read_text())["state"] == "stopped"
        resumed = training.run(toy.mae(), toy.runtime(outcome.folder))
        assert (resumed.state, resumed.step) == ("finished", 6)
        assert _equal(tensors(reference), tensors(resumed.folder))
        assert losses(reference) == losses(resumed.folder)
        tally("signals", seconds=seconds)


def test_the_second_signal_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals() as signals:
        signal.raise_signal(signal.SIGTERM)
        assert (signals.requested, ended) == ("SIGTERM", [])
        signal.raise_signal(signal.SIGTERM)
        assert ended == [128 + signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    "recipe",
    [
        toy.classifier(ema_decay=0.9, encoder={"drop_path": 0.5}, method={"mixup": 0.8, "cutmix": 1.0}),
        toy.classifier(optimizer={"kind": "sgd"}, clip_grad_norm=1.0, validation_fraction=0.2),
        toy.mae(method={"normalize_target": False}),
        toy.mocov3(),
        toy.dino(),
        toy.mae_hog(),
        toy.maskfeat(),
        toy.simmim_swin(encoder={"drop_path": 0.5}),
    ],
    ids=["ema", "sgd", "mae", "mocov3", "dino", "mae_hog", "maskfeat", "simmim_swin"],
)
def test_resumed_runs_are_the_same_runs(tmp_path: Path, recipe: Recipe) -> None:
    """Stop after 1, 2, ... updates, with other numbers of workers, and compare with a run in one go."""
    whole = trained(recipe, tmp_path / "whole")
    for stop, workers in ((1, 0), (2, 1), (3, 0)):
        training.run(recipe, toy.runtime(tmp_path / "parts", stop_after_steps=stop, workers=workers))
    parts = trained(recipe, tmp_path / "parts")
    for name in ("model", "optimizer", *(("ema",) if recipe.ema_decay else ())):
        assert _equal(tensors(parts, name), tensors(whole, name)), name
    timeless = [[_timeless(row) for row in read_rows(run)] for run in (parts, whole)]
    assert timeless[0] == timeless[1]


def _timeless(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in toy.TIMES}


def _equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_finetuning_starts_from_the_pretrained_encoder(tmp_path: Path) -> None:
    pretrained = trained(toy.mae(), tmp_path / "mae")
    recipe = recipes.derive(toy.classifier(), start="pretrained", encoder={"positions": "sincos", "init": "xavier"})
    before = tensors(pretrained)
    # the first update has rate 0 under warm-up, so one update shows the starting weights
    for source in (pretrained, checkpoints(pretrained)[0][1], pretrained / "encoder"):
        out = tmp_path / f"fine-{source.name}"
        training.run(recipe, toy.runtime(out, init=str(source), stop_after_steps=1))
        after = tensors(out)
        shared = [name for name in after if name in before]
        assert len(shared) >= 15
        assert all(torch.equal(after[name], before[name]) for name in shared)
        assert "encoder.norm.weight" not in after
        assert "encoder.fc_norm.weight" in after


def test_pretraining_continues_with_the_decoder(tmp_path: Path) -> None:
    first = trained(toy.mae(), tmp_path / "first")
    training.run(toy.mae(seed=1), toy.runtime(tmp_path / "second", init=str(first), stop_after_steps=1))
    assert _equal(tensors(first), tensors(tmp_path / "second"))


def test_init_and_recipe_must_agree(tmp_path: Path) -> None:
    pretrained = trained(toy.mae(), tmp_path / "mae")
    fine = recipes.derive(toy.classifier(), start="pretrained")
    with pytest.raises(ConfigError, match="no --init"):
        training.run(fine, toy.runtime(tmp_path / "a"))
    with pytest.raises(ConfigError, match="starts from random weights"):
        training.run(toy.classifier(), toy.runtime(tmp_path / "b", init=str(pretrained)))
    other_heads = recipes.derive(fine, encoder={"num_heads": 4})
    with pytest.raises(CheckpointError, match="attention heads"):
        training.run(other_heads, toy.runtime(tmp_path / "c", init=str(pretrained)))


def test_finetuning_at_another_resolution_resizes_positions_aloud(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pretrained = trained(toy.mae(), tmp_path / "mae")
    recipe = recipes.derive(toy.classifier(), start="pretrained", encoder={"image_size": 16})
    training.run(recipe, toy.runtime(tmp_path / "fine", init=str(pretrained), stop_after_steps=1))
    assert "positions resized from a 2 x 2 grid to 4 x 4" in caplog.text
    assert tensors(tmp_path / "fine")["encoder.pos_embed"].shape == (1, 17, 16)


def test_best_checkpoint_is_kept(tmp_path: Path) -> None:
    recipe = toy.classifier(epochs=8, validation_fraction=0.2)
    run = trained(recipe, tmp_path / "run", save_every_steps=5)
    state = json.loads((checkpoints(run)[0][1] / "state.json").read_text())
    measured = [row for row in read_rows(run) if "val_top1" in row]
    assert state["best"] == max(row["val_top1"] for row in measured)
    kept = [step for step, _ in checkpoints(run)]
    assert kept[0] == 16
    assert set(kept) == {*kept[:2], state["best_step"]}


def test_same_command_finds_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = toy.runtime(tmp_path).model_dump() | {"out": None}
    first = training.run(toy.mae(), Runtime.model_validate(settings | {"stop_after_steps": 2}))
    again = training.run(toy.mae(), Runtime.model_validate(settings))
    other = training.run(toy.mae(seed=1), Runtime.model_validate(settings))
    assert first.folder == again.folder != other.folder
    assert (first.state, again.state, again.step) == ("paused", "finished", 6)


def test_tensorboard_and_provenance(tmp_path: Path) -> None:
    run = trained(toy.mae(), tmp_path / "run", tensorboard=True)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss")] == [2, 4, 6]
    start = json.loads((run / "provenance.json").read_text())["starts"][0]
    assert start["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert start["device"].startswith("cpu")


def test_a_run_from_before_a_setting_existed_goes_on(tmp_path: Path) -> None:
    run = trained(toy.mae(), tmp_path / "run", stop_after_steps=2)
    record = json.loads((run / "recipe.json").read_text())
    for page, names in (("augmentation", ("local_views", "local_size", "local_scale")), ("optimizer", ("final_",))):
        for name in [name for name in record["recipe"][page] if name.startswith(names)]:
            del record["recipe"][page][name]
    (run / "recipe.json").write_text(json.dumps(record))
    assert training.run(toy.mae(), toy.runtime(run)).state == "finished"


def test_other_starting_weights_are_another_run(tmp_path: Path) -> None:
    """Fine-tuning must not take an old result for one from weights that were trained further meanwhile."""
    training.run(toy.mae(), toy.runtime(tmp_path / "mae", stop_after_steps=2))
    fine = recipes.derive(toy.classifier(), start="pretrained", encoder={"positions": "sincos", "init": "xavier"})
    init = str(tmp_path / "mae")
    first = training.run(fine, toy.runtime(tmp_path / "fine", init=init))
    again = training.run(fine, toy.runtime(tmp_path / "fine", init=init))
    assert (first.state, again.state) == ("finished", "finished")
    trained(toy.mae(), tmp_path / "mae")
    with pytest.raises(ConfigError, match="init_sha256"):
        training.run(fine, toy.runtime(tmp_path / "fine", init=init))


@pytest.mark.parametrize("begun", ["exact", "fast", None])
def test_a_run_keeps_to_the_pixels_it_was_begun_with(begun: Literal["exact", "fast"] | None, tmp_path: Path) -> None:
    """None: by a version that did not write it down, and had the exact way alone."""
    recipe = toy.mae(encoder={"channels": 3}, augmentation={"mean": (0.5,) * 3, "std": (0.25,) * 3})
    ways: dict[str, Any] = {"exact": {"pixels": "exact"}, "fast": {}}
    own, other = ("fast", "exact") if begun == "fast" else ("exact", "fast")
    training.run(recipe, toy.runtime(tmp_path, stop_after_steps=1, **ways[own]))
    record = json.loads((tmp_path / "recipe.json").read_text())
    assert record["pixels"] == json.loads((tmp_path / "provenance.json").read_text())["starts"][0]["pixels"] == own
    if begun is None:
        del record["pixels"]
        (tmp_path / "recipe.json").write_text(json.dumps(record))
    with pytest.raises(ConfigError, match=f"(?s)pixels: '{own}' -> '{other}'.*Fix: repeat the saved settings"):
        training.run(recipe, toy.runtime(tmp_path, **ways[other]))
    assert training.run(recipe, toy.runtime(tmp_path, stop_after_steps=2, **ways[own])).step == 2
    assert ("--pixels exact" in repeat.command(read(tmp_path))) == (own == "exact")


def test_grey_images_have_one_way(tmp_path: Path) -> None:
    training.run(toy.mae(), toy.runtime(tmp_path, stop_after_steps=1, pixels="fast"))
    assert training.run(toy.mae(), toy.runtime(tmp_path, stop_after_steps=2, pixels="exact")).step == 2
    assert "--pixels" not in repeat.command(read(tmp_path))


_SHORT = [
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"), "the device", "20.00 GiB"),
    (MemoryError(), "the machine", "width 16"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"), "the machine", "you tried 9 bytes"),
]


@pytest.mark.parametrize(("error", "who", "said"), _SHORT)
def test_out_of_memory_is_explained_and_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, who: str, said: str
) -> None:
    def after_step(_: object, step: int, __: int) -> None:
        if step == 4:
            raise error

    with monkeypatch.context() as short, pytest.raises(DiskError, match="--micro-batch-size 6;") as caught:
        short.setattr(MaskedAutoencoder, "after_step", after_step)
        training.run(toy.mae(global_batch_size=24), toy.runtime(tmp_path / "run", micro_batch_size=12))
    assert f"{who} ran out of memory: found micro-batches of 12 images of 8 pixels for toy-mae" in str(caught.value)
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["state"] == "failed" and said in status["message"]
    assert [step for step, _ in checkpoints(tmp_path / "run")] == [2]
    outcome = training.run(toy.mae(global_batch_size=24), toy.runtime(tmp_path / "run", micro_batch_size=6))
    assert outcome.state == "finished"


def test_out_of_memory_where_micro_batches_change_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def after_step(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(MomentumContrast, "after_step", after_step)
    with pytest.raises(DiskError, match=r"micro-batches of 16 .*\nFix: use more --devices") as caught:
        training.run(toy.mocov3(), toy.runtime(tmp_path / "run"))
    assert "--micro-batch-size" not in str(caught.value)


def test_other_errors_of_pytorch_are_left_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def after_step(*_: object) -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(MaskedAutoencoder, "after_step", after_step)
    with pytest.raises(RuntimeError, match="shapes differ"):
        training.run(toy.mae(), toy.runtime(tmp_path / "run"))


def test_finished_models_protect_their_folder(tmp_path: Path) -> None:
    run = trained(toy.mae(), tmp_path / "run")
    for _, folder in checkpoints(run):
        shutil.rmtree(folder)
    with pytest.raises(ConfigError, match="holds another run"):
        training.run(toy.mae(encoder={"depth": 2}), toy.runtime(run))
