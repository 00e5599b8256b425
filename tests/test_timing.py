"""bench and plan: what is timed is what a run does, what is reckoned is right, and what to do about it."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mae_lite import costs, probing, recipes, training
from mae_lite.advice import Starving, when_starved
from mae_lite.cli import main
from mae_lite.config import Recipe
from mae_lite.data.sources import Source, subset
from mae_lite.engine import loop, update
from mae_lite.errors import ConfigError
from mae_lite.evaluation import accuracy
from mae_lite.rundir import checkpoints, read_rows
from mae_lite.timing import bench, forecast, rates
from mae_lite.timing.clock import clock
from tests import toy
from tests.benching import jpeg


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("kind", sorted(toy.EVERY))
def test_every_method_is_timed_and_forecast(kind: str, tmp_path: Path) -> None:
    recipe = toy.EVERY[kind]()
    runtime = toy.runtime(tmp_path / "unused", **toy.teacher_of(recipe, tmp_path / "teacher"))
    found = bench.bench(recipe, runtime, None, 0.0)
    assert found["batch"] == recipe.global_batch_size
    for row in found["images_per_second"].values():
        assert row["measured"] > 0 and row["share"] == pytest.approx(row["measured"] / row["limit"])
    assert 0 <= found["waiting_share"] < 1
    plan = forecast.forecast(recipe, runtime, 0.0)
    assert plan["updates"] == 6 or kind == "supervised"
    assert plan["images"] == plan["updates"] * recipe.global_batch_size
    assert not (tmp_path / "unused").exists() and not (tmp_path / "runs").exists()


def test_limits_are_reckoned_from_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "matrix_rate", lambda *_: 3e12)
    monkeypatch.setattr(bench, "copy_bandwidth", lambda *_: 5e9)
    monkeypatch.setattr(rates, "decode_rate", lambda *_: 700.0)
    monkeypatch.setattr(rates, "conversion_rate", lambda *_: 90.0)
    monkeypatch.setattr(rates, "reading_rate", lambda *_: 300.0)
    monkeypatch.setattr(rates, "step_rate", lambda *_: 150.0)
    monkeypatch.setattr(rates, "together_rate", lambda *_: (80.0, 0.4))
    recipe = toy.mae()
    found = bench.bench(recipe, toy.runtime(Path("unused")), 8, 1.0)
    shares = {name: row["share"] for name, row in found["images_per_second"].items()}
    assert shares == pytest.approx(
        {"reading": 300 / 700, "step": 150 * costs.step_gflops(recipe) / 3000, "together": 80 / 100}
    )
    said = bench.as_text(found)
    assert "decoding alone, 1 x 700" in said and "3.00 TFLOP/s" in said and "5.0 GB/s" in said
    assert "40% of the time is spent waiting for images" in said and "can make a pack" not in said
    still = {"rotate_degrees": 0.0, "shear_degrees": 0.0, "translate": 0.0, "zoom": (1.0, 1.0)}
    found = bench.bench(toy.mae(augmentation=still), toy.runtime(Path("unused"), loading="resident"), 8, 1.0)
    assert found["images_per_second"]["reading"]["limit"] == 5e9 / (1 * 8 * 8)
    said = bench.as_text(found)
    assert "no workers" in said and "copying the views alone" in said and "waiting for images" not in said


def test_making_a_pack_is_timed_where_it_can_be_made(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(number, 300))
    small = {"image_size": 32, "width": 24, "depth": 1}
    recipe = recipes.derive(recipes.get("mae-tiny"), encoder=small, global_batch_size=4)
    found = bench.bench(recipe, toy.runtime(tmp_path / "run", data=str(tmp_path)), 2, 0.0)
    rate = found["limits"]["conversion_images_per_second_per_core"]
    assert rate > 0 and f"mae-lite prepare can make a pack of {rate:,.0f} images/s on each core" in bench.as_text(found)


def test_a_forecast_is_reckoned_from_the_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = iter([500.0, 612.0, 612.0])
    monkeypatch.setattr(forecast, "peak_memory_mb", lambda _: next(peaks))
    monkeypatch.setattr(forecast, "_available_mb", lambda _: 2000.0)
    monkeypatch.setattr(rates, "reading_rate", lambda *_: 100.0)
    monkeypatch.setattr(rates, "step_rate", lambda *_: 300.0)
    recipe = toy.mae(global_batch_size=64, epochs=10)
    found = forecast.forecast(recipe, toy.runtime(Path("unused")), 1.0)
    assert found["updates"] == 10 * (1346 // 64) and found["images"] == 210 * 64
    assert found["images_per_second"]["together"] == pytest.approx(75.0)  # reading and step share the cores
    assert found["seconds"] == pytest.approx(210 * 64 / 75)
    assert found["memory_mb_per_image"] == pytest.approx(2.0)  # 112 MB more for 56 images more
    assert found["largest_micro_batch"] == int((1800 - (612 - 128)) / 2)
    assert found["workers_that_keep_up"] == 3
    said = forecast.as_text(found)
    assert "210 of 64 images" in said and "3 min at 75 images/s" in said and "about 658 would fit into 2.0 GB" in said
    assert "of checkpoints" in said and "probes come on top" in said and found["validation"]["times"] == 0


def test_validation_is_forecast(monkeypatch: pytest.MonkeyPatch) -> None:
    """As often as the run measures, each time all images; what starts anew for each time counts once in it."""
    monkeypatch.setattr(rates, "reading_rate", lambda *_: 100.0)
    monkeypatch.setattr(rates, "step_rate", lambda *_: 300.0)
    monkeypatch.setattr(rates, "validation_seconds", lambda *_: 60.0)
    recipe = toy.classifier(epochs=10, global_batch_size=64, labels_per_class=None, validation_fraction=0.1)
    found = forecast.forecast(recipe, toy.runtime(Path("unused"), validate_every_epochs=3), 0.0)
    assert found["validation"] == {"images": 136, "times": 4, "seconds": 240.0}
    assert found["seconds"] == pytest.approx(found["images"] / 75 + 240)
    assert not found["probes"]
    said = forecast.as_text(found)
    assert "3 min of training at 75 images/s" in said and "4 min of looking at 136 validation images 4 times" in said


@pytest.mark.parametrize(
    ("workers", "images", "seconds", "measured", "expected"),
    [
        (0, 200, 9.0, [1, 200], 3.0),  # all of a few
        (0, 700, 9.0, [1, 256, 700], 7.0),
        (0, 25_600, 9.0, [1, 256, 768], 201.0),  # a second to start, and two for each batch
        (4, 25_600, 9.0, [1, 1024, 3072], 51.0),  # of which four are made at once
        (4, 25_600, 2.0, [1, 1024], 3.0 * 25),  # a part takes long, so that one is enough
    ],
)
def test_many_validation_images_are_reckoned_from_parts(
    workers: int, images: int, seconds: float, measured: list[int], expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = toy.classifier(validation_fraction=0.1)
    setting = rates.open_setting(recipe, toy.runtime(Path("unused"), workers=workers))
    assert setting.held_out is not None
    setting.held_out = subset(setting.held_out, np.arange(images) % len(setting.held_out))
    sizes, now = list[int](), [0.0]

    def validation(_job: loop.Job, part: Source, folder: Path | None) -> loop.Probe:
        assert folder is None  # bad images of a part say nothing of the whole
        sizes.append(len(part))

        def measure(*_: Any) -> dict[str, float]:
            now[0] += 1 + 2 * math.ceil(math.ceil(len(part) / 256) / max(workers, 1))
            return {}

        return loop.Probe(measure, 1.0)

    monkeypatch.setattr("mae_lite.probing.validation", validation)
    monkeypatch.setattr(rates, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    assert rates.validation_seconds(setting, seconds) == pytest.approx(expected)
    assert sizes == measured


def test_what_is_validated_for_a_forecast_is_the_model_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = rates.open_setting(toy.classifier(ema_decay=0.9, validation_fraction=0.1), toy.runtime(Path("unused")))
    seen, measure = list[Any](), accuracy.measure

    def watched(model: Any, *rest: Any, **named: Any) -> Any:
        seen.append(model)
        return measure(model, *rest, **named)

    monkeypatch.setattr(probing, "measure", watched)
    assert rates.validation_seconds(setting, 1.0) > 0
    assert setting.job.ema is not None and all(model is setting.job.ema.module.encoder for model in seen) and seen
    without = rates.open_setting(toy.mae(), toy.runtime(Path("unused")))
    assert without.held_out is None and rates.validation_seconds(without, 1.0) == 0


@pytest.mark.parametrize("every", [1.0, 1.5, 0.4])
def test_a_run_validates_as_often_as_was_forecast(tmp_path: Path, every: float) -> None:
    recipe = toy.classifier(validation_fraction=0.1)
    runtime = toy.runtime(tmp_path / "run", validate_every_epochs=every)
    found = forecast.forecast(recipe, runtime, 0.0)
    training.run(recipe, runtime)
    assert found["validation"]["times"] == sum("val_top1" in row for row in read_rows(tmp_path / "run")) > 0


@pytest.mark.parametrize(("every", "end"), [(1.0, 5), (2.5, 10), (2.5, 11), (0.4, 3), (100.0, 7), (21.0, 63)])
def test_probes_are_counted_as_they_come(every: float, end: int) -> None:
    count = loop.times_due(every, end)
    assert count == len({math.ceil(every * n) for n in range(1, int(end / every) + 1)} | {end})


def test_checkpoints_take_what_the_forecast_says(tmp_path: Path) -> None:
    recipe = toy.mae(ema_decay=0.9)
    found = forecast.forecast(recipe, toy.runtime(tmp_path / "run"), 0.0)
    training.run(recipe, toy.runtime(tmp_path / "run", stop_after_steps=2))
    newest = checkpoints(tmp_path / "run")[0][1]
    written = sum(file.stat().st_size for file in newest.glob("*.safetensors")) / 1e6
    assert found["checkpoint_mb"] == pytest.approx(written, rel=0.2)  # a toy's names take a share of its files


def test_what_is_timed_is_the_loops_own_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """And each on other images, in the order of a run."""
    seen, original = list[tuple[int, list[int]]](), update._backward

    def watched(job: loop.Job, step: int, foods: Any, parts: Any) -> Any:
        numbers = original(job, step, foods, parts)
        (part,) = parts
        seen.append((step, part.ids.tolist()))
        return numbers

    monkeypatch.setattr(update, "_backward", watched)
    setting = rates.open_setting(toy.mae(), toy.runtime(Path("unused")), 4)
    rates.together_rate(setting, 0.0)
    assert [step for step, _ in seen] == [0, 1, 2, 3]
    assert [ids for _, ids in seen] == [setting.job.plan.rows(step).tolist() for step in range(4)]
    seen.clear()
    rates.step_rate(setting, 0.0)
    assert len({tuple(ids) for _, ids in seen}) == 1


@pytest.mark.parametrize(
    ("recipe", "batch", "expected"),
    [(toy.mae(), None, 16), (toy.mae(), 5, 5), (toy.mae(global_batch_size=128), None, 64), (toy.mocov3(), 8, 8)],
)
def test_the_batch(recipe: Recipe, batch: int | None, expected: int) -> None:
    setting = rates.open_setting(recipe, toy.runtime(Path("unused")), batch)
    assert setting.batch == expected == setting.job.plan.micro_batch_size


def test_fine_tuning_needs_no_weights_to_be_timed() -> None:
    recipe = recipes.derive(toy.classifier(), start="pretrained")
    assert rates.step_rate(rates.open_setting(recipe, toy.runtime(Path("unused"))), 0.0) > 0


def test_two_devices_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"devices: found 2(.|\n)*Fix: --devices 1"):
        rates.open_setting(toy.mae(), toy.runtime(Path("unused"), devices=2))


def test_commands(capsys: pytest.CaptureFixture[str]) -> None:
    tiny = ["--data", "digits", "--encoder.depth", "1", "--seconds", "0", "--workers", "0"]
    for command, key in (("bench", "limits"), ("plan", "largest_micro_batch")):
        assert main([command, "digits-mae", *tiny]) == 0
        assert "digits-mae on digits: 1,346 images" in capsys.readouterr().out
        assert main([command, "digits-mae", *tiny, "--json"]) == 0
        assert key in json.loads(capsys.readouterr().out)
        with pytest.raises(SystemExit):
            main([command, "digits-mae", "--help"])
        assert "--seconds" in capsys.readouterr().out
    assert main(["bench", "--data", "digits"]) == ConfigError.exit_code
    assert "the recipe is missing" in capsys.readouterr().err


def test_advice() -> None:
    known: dict[str, Any] = {"packed": False, "workers": 2, "cpus": 8}
    assert when_starved(0.19, **known) == ""
    assert when_starved(0.5, **known) == (
        "50% of the time is spent waiting for images: make a pack once with mae-lite prepare DATA PACK and train on "
        "that, or read with more processes: --workers 8"
    )
    assert "more or faster CPU cores" in when_starved(0.5, packed=True, workers=8, cpus=8)


def test_a_run_that_starves_says_so_once() -> None:
    watch = Starving(packed=False, workers=1, cpus=1)
    heard = [watch.heard({"reading_share": share, "seconds": 30.0}) for share in (0.1, 0.5, 0.9, 0.9)]
    assert heard == ["", when_starved(0.3, packed=False, workers=1, cpus=1), "", ""]
    assert watch.heard({"knn_top1": 0.5}) == ""
    fed = Starving(packed=False, workers=1, cpus=1)
    assert {fed.heard({"reading_share": 0.1, "seconds": 40.0}) for _ in range(5)} == {""}


def test_runs_say_what_reading_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("mae_lite.advice._LOOKED_AT_SECONDS", 0.0)
    monkeypatch.setattr("mae_lite.advice.STARVED", 0.0)
    with caplog.at_level(logging.WARNING):
        training.run(toy.mae(), toy.runtime(tmp_path / "run"))
    rows = [row for row in read_rows(tmp_path / "run") if "loss" in row]
    assert all(0 < row["reading_share"] < 1 for row in rows)
    assert sum("waiting for images" in record.message for record in caplog.records) == 1


def test_durations() -> None:
    found = [clock(seconds) for seconds in (4, 95, 7260, 270_000)]
    assert found == ["4 s", "2 min", "2 h 1 min", "3 d 3 h"]
