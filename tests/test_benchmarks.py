"""The benchmarks on a CPU with tiny sizes: that they run and write what they say, not how fast."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from mae_lite import config, recipes
from tests.benching import BENCHMARKS, TINY, jpeg, module, write_cifar

KINDS = get_args(get_args(config.Method)[0])
"""Every method's settings."""


@pytest.fixture
def no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA", str(tmp_path / "absent"))


def facts(out: Path, name: str) -> Any:
    """Return the results of a JSON after a look at what all of them hold."""
    content = json.loads((out / f"gpu_{name}.json").read_text())
    for key in ("command", "date", "device", "software", "sources"):
        assert content[key], key
    assert content["tiny"] is True
    assert content["driver"] is None
    return content["results"]


def test_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert module("gpu_reference", monkeypatch).main([*TINY, "--out", str(tmp_path), "--date", "2026-01-01"]) == 0
    rows = facts(tmp_path, "reference")
    assert {row["precision"] for row in rows} == {"fp32", "bf16"}
    assert len(rows) == 14
    assert all(row["difference"] < row["allowed"] for row in rows)
    assert json.loads((tmp_path / "gpu_reference.json").read_text())["date"] == "2026-01-01"


def test_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert module("gpu_steps", monkeypatch).main([*TINY, "--out", str(tmp_path)]) == 0
    results = facts(tmp_path, "steps")
    rows = {(row["model"], row["mode"]): row for row in results["steps"]}
    assert rows["mae_lite MAE", "bf16, compiled"]["skipped"] == "torch.compile is left out of the dry run"
    ours = ("mae_lite MAE", "bf16"), ("mae_lite MAE", "fp32"), ("mae_lite MAE, 32 px", "bf16")
    theirs = ("timm classification", "bf16"), ("transformers ViTMAE", "fp16")
    for key in (*ours, *(key for key in theirs if "skipped" not in rows[key])):
        row = rows[key]
        assert row["ms_min"] <= row["ms"] <= row["ms_max"]
        assert row["images_per_second"] == pytest.approx(row["batch"] / row["ms"] * 1e3)
        assert 0 < row["tflops"] == pytest.approx(row["images_per_second"] * row["gflops_per_image"] / 1e3)
        assert row["share_of_matmul"] > 0


def test_steps_say_what_failed_and_what_had_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = module("gpu_steps", monkeypatch)

    def broken(*_: object) -> None:
        raise ValueError("no such thing")

    monkeypatch.setitem(steps.MAKERS, "timm classification", broken)
    assert steps.main([*TINY, "--out", str(tmp_path)]) == 0
    rows = {(row["model"], row["mode"]): row for row in facts(tmp_path, "steps")["steps"]}
    assert rows["timm classification", "bf16"]["failed"] == "ValueError: no such thing"
    assert "ms" in rows["mae_lite MAE", "fp32"]
    monkeypatch.setitem(steps.MAKERS, "mae_lite MAE", broken)
    assert steps.main([*TINY, "--out", str(tmp_path)]) == 1
    assert json.loads((tmp_path / "gpu_steps.json").read_text())["passed"] is False
    assert steps.main([*TINY, "--out", str(tmp_path), "--seconds", "0"]) == 0
    assert all("skipped" in row for row in facts(tmp_path, "steps")["steps"])
    assert json.loads((tmp_path / "gpu_steps.json").read_text())["passed"] is False, "it is not done"


def test_ours_stands_beside_the_usual_training_of_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = module("gpu_steps", monkeypatch)
    rows = [
        {"model": model, "mode": mode, "batch": batch, "ms": ms}
        for model, mode, batch, ms in (
            (steps.OURS, "bf16", 8, 2.0),
            (steps.THEIRS, "fp16", 8, 7.0),
            (steps.THEIRS, "bf16", 8, 6.0),
            (steps.OURS, "bf16", 16, 4.0),
            (steps.OURS_SMALL, "bf16", 8, 1.0),
        )
    ]
    steps.compared(rows)
    assert [row.get("times_transformers") for row in rows] == [3.5, None, None, None, None]


def test_waits_of_the_host_are_found_by_their_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    timing, modes = module("gpu_timing", monkeypatch), list[str]()

    def step() -> None:
        assert modes == ["warn"]
        for what in ("called a synchronizing CUDA operation", "something else"):
            warnings.warn(what, stacklevel=1)

    monkeypatch.setattr(timing, "wait", lambda _: None)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    line = step.__code__.co_firstlineno + 3
    assert timing.host_waits(step, torch.device("cuda")) == [f"test_benchmarks.py:{line}"]
    assert modes == ["warn", "default"]
    assert timing.host_waits(step, torch.device("cpu")) is None


def test_methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = module("gpu_methods", monkeypatch)
    assert benchmark.main([*TINY, "--out", str(tmp_path)]) == 0
    results = facts(tmp_path, "methods")
    found = {(row["recipe"], row["mode"]): row for row in results["rows"]}
    kinds = {recipes.get(name).method.kind for name in benchmark.RECIPES}
    assert kinds == {kind.model_fields["kind"].default for kind in KINDS}  # none is forgotten
    for name in benchmark.RECIPES:
        assert found[name, "fp32"]["difference"] == 0.0
        assert 0 <= found[name, "bf16"]["difference"] <= results["allowed"]
        assert found[name, "bf16"]["ms"] > 0 and "skipped" in found[name, "bf16, compiled"]
    monkeypatch.setattr(benchmark, "ALLOWED", -1.0)
    assert benchmark.main([*TINY, "--out", str(tmp_path)]) == 1


@pytest.mark.usefixtures("no_data")
def test_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = module("gpu_end_to_end", monkeypatch)
    assert benchmark.main([*TINY, "--out", str(tmp_path), "--workers", "0"]) == 0
    results = facts(tmp_path, "end_to_end")
    assert results["images"] == {"kind": "generated", "count": 16, "mean_kb": pytest.approx(1.5, abs=1.0)}
    assert list(results["images_per_second"]) == ["JPEG pack", "pixel pack", "resident"]
    own = results["steps_alone"]["mae_lite MAE, bf16"]
    for speeds in results["images_per_second"].values():
        assert speeds["run"] > 0
        assert speeds["share of the step's speed"] == pytest.approx(speeds["loader alone"] / own)


@pytest.mark.parametrize(("side", "runs"), [("mae", ["mae", "mae-fine"]), ("scratch", ["scratch", "scratch-longer"])])
def test_cifar(side: str, runs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path / "data" / "cifar10")
    monkeypatch.setenv("DATA", str(tmp_path / "data"))
    benchmark = module("gpu_cifar", monkeypatch)
    assert benchmark.main([side, *TINY, "--out", str(tmp_path), "--runs", str(tmp_path / "runs")]) == 0
    rows = facts(tmp_path, f"cifar_{side}")
    assert [row["run"] for row in rows] == runs
    assert all(row["updates"] > 0 for row in rows)
    assert 0 <= rows[-1]["test_top1"] <= 1
    assert rows[-1]["test_images"] == 40


def test_study_tells_first_what_pre_training_gains(monkeypatch: pytest.MonkeyPatch) -> None:
    from mae_lite import studies

    benchmark, study = module("gpu_study", monkeypatch), studies.get("cifar10")
    made = list(benchmark.parts(study))
    assert [len(part.rows) for part in made] == [2, 3, 4, 6] and made[-1] == study
    assert all(row in study.rows for part in made for row in part.rows)


@pytest.mark.slow
def test_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path / "data" / "cifar10", images=1000)
    monkeypatch.setenv("DATA", str(tmp_path / "data"))
    benchmark = module("gpu_study", monkeypatch)
    assert benchmark.main([*TINY, "--out", str(tmp_path), "--runs", str(tmp_path / "runs")]) == 0
    (number,) = facts(tmp_path, "cifar10_study")["numbers"]
    assert number["method"] == "scratch" and number["split"] == "test" and 0 <= number["top1_percent"] <= 100
    assert str(tmp_path) not in (tmp_path / "gpu_cifar10_study.json").read_text().split('"results"')[1]


@pytest.mark.usefixtures("no_data")
def test_cifar_without_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert module("gpu_cifar", monkeypatch).main(["mae", *TINY, "--out", str(tmp_path)]) == 77
    assert "skipped: no train.parquet and no test.parquet" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.json"))


def test_done_means_this_device_these_sources_and_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = module("gpu_record", monkeypatch)
    options = record.options_of("").parse_args([*TINY, "--out", str(tmp_path)])
    assert not record.done(options, "x")
    path = record.write(options, "x", [], {})
    assert record.done(options, "x")
    assert record.main(["x", *TINY, "--out", str(tmp_path)]) == 0
    facts = json.loads(path.read_text())
    for key, other in (("device", "another"), ("sources", "another"), ("tiny", False), ("passed", False)):
        path.write_text(json.dumps(facts | {key: other}))
        assert not record.done(options, "x"), key


def test_no_gpu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    record = module("gpu_record", monkeypatch)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit, match="--device cpu --tiny"):
        record.device_of(record.options_of("").parse_args([]))


def test_make_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    write_cifar(tmp_path / "cifar")
    for number in range(6):
        folder = tmp_path / "photos" / ("cat" if number % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.jpg").write_bytes(jpeg(number, side=96) if number else jpeg(0)[:200])
    pack = module("make_pack", monkeypatch)
    words = ["--images", str(tmp_path / "photos"), "--cifar10", str(tmp_path / "cifar"), "--side", "64"]
    assert pack.main([*words, "--out", str(tmp_path / "pack")]) == 0
    made = sorted((tmp_path / "pack" / "images").rglob("*.jpg"))
    assert len(made) == 5
    assert {path.parent.name for path in made} == {"cat", "dog"}
    assert all(Image.open(path).size == (64, 64) for path in made)
    assert "1 could not be read" in capsys.readouterr().out
    original, copy = (tmp_path / name / "train.parquet" for name in ("cifar", "pack/cifar10"))
    assert copy.read_bytes() == original.read_bytes()
    smaller = ["--out", str(tmp_path / "small"), "--limit-mb", "0.006"]
    assert pack.main([*words, *smaller]) == 0
    assert sum(path.stat().st_size for path in (tmp_path / "small" / "images").rglob("*.jpg")) <= 6000
    with pytest.raises(SystemExit, match="exists"):
        pack.main([*words, "--out", str(tmp_path / "pack")])


def test_prepare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").mkdir()
    for number in range(6):
        (tmp_path / "x" / f"{number}.jpg").write_bytes(jpeg(number, 300))
    out = tmp_path / "prepare.json"
    words = [str(tmp_path / "x"), "--images", "4", "--rounds", "2", "--out", str(out)]
    assert module("prepare", monkeypatch).main(words) == 0
    results = json.loads(out.read_text())["results"]
    assert results["images"] == 4
    for clock in ("images_per_cpu_second", "images_per_second"):
        ratio = results[clock]["prepare / bare loop"]
        assert 0 < ratio["min"] <= ratio["median"] <= ratio["max"]


def test_resizing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").mkdir()
    for number in range(4):
        (tmp_path / "x" / f"{number}.jpg").write_bytes(jpeg(number, 300))
    out = tmp_path / "resizing.json"
    module("resizing", monkeypatch).main([str(tmp_path / "x"), "--images", "3", "--rounds", "2", "--out", str(out)])
    found = json.loads(out.read_text())["results"]
    assert found["Pillow"]["ratio"] == 1 and found["Pillow"]["mean_difference"] == 0
    assert found["torch"]["crops_per_second"] > 0 and found["torch"]["mean_difference"] < 0.1
    assert str(tmp_path) not in json.dumps(json.loads(out.read_text())["command"][:3])


def test_missing_packages_are_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    site = module("gpu_site", monkeypatch)
    versions = {"pydantic": None, "pydantic-core": "2.0", "typing-extensions": "4.9", "pillow": "11.0"}
    needs = {
        "pydantic.whl": ["pydantic-core==2.50.4", "typing-extensions>=4.16"],
        "pydantic_core.whl": ["typing-extensions>=4.14"],
        "typing_extensions.whl": [],
    }
    wheels = {name.removesuffix(".whl").replace("_", "-"): Path(name) for name in needs}

    def lacks(need: Any) -> bool:
        version = versions.get(need.name, "not asked")
        return version is None or (need.name in versions and not need.specifier.contains(version))

    monkeypatch.setattr(site, "lacks", lacks)
    monkeypatch.setattr(site, "wheel_requirements", lambda path: [site.Requirement(line) for line in needs[path.name]])
    chosen, unmet = site.chosen(wheels)
    assert [path.name for path in chosen] == sorted(needs)
    assert [line.partition(" ")[0] for line in unmet] == ["pillow>=12"]


def queue(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the queue's script."""
    return subprocess.run(
        ["bash", str(BENCHMARKS / "gpu_queue.sh"), *TINY, "--out", str(tmp_path / "results")],
        env=os.environ | {"PYTHON": sys.executable, "DATA": str(tmp_path / "data")} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_queue_skips_what_is_done_and_goes_on_after_a_failure(tmp_path: Path) -> None:
    first = queue(tmp_path, ONLY="cifar_mae reference")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "done: 1\n  reference\nskipped: 1\n  cifar_mae (nothing" in first.stdout
    second = queue(tmp_path, ONLY="reference")
    assert "skipped: 1\n  reference (measured already)" in second.stdout
    (tmp_path / "data" / "cifar10").mkdir(parents=True)
    for name in ("train", "test"):
        (tmp_path / "data" / "cifar10" / f"{name}.parquet").write_bytes(b"not parquet")
    images = tmp_path / "data" / "images"
    images.mkdir()
    for number in range(8):
        (images / f"{number}.jpg").write_bytes(jpeg(number))
    third = queue(tmp_path, ONLY="end_to_end cifar_scratch", LIMIT="1")
    assert third.returncode == 1
    assert third.stdout.count("cut short after 1 s") == 2
    fourth = queue(tmp_path, ONLY="end_to_end cifar_scratch", FORCE="1")
    assert fourth.returncode == 1
    assert "done: 1\n  end_to_end\n" in fourth.stdout
    assert "failed: 1\n  cifar_scratch (exit code 1)" in fourth.stdout


def test_deploy_says_how_many_times_as_fast_as_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    def form(name: str, *p50_ms: float) -> dict[str, Any]:
        times = [{"threads": count, "p50_ms": ms} for count, ms in zip((1, 2), p50_ms, strict=True)]
        return {"form": name, "bytes": 2_000_000, "memory": None, "latency": times, "throughput": {}}

    card = {"forms": [form("torch", 9.0, 6.0), form("onnx", 3.0, 8.0)], "machine": {"cpus": 2}}
    found = module("deploy", monkeypatch).summary(card, 224)["forms"]
    assert [row["times_torch"] for row in found["onnx"]["latency"]] == [3.0, 0.75]
    assert [row["times_torch"] for row in found["torch"]["latency"]] == [1.0, 1.0]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is read from Linux's /proc")
def test_cpu_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark, out = module("steps", monkeypatch), tmp_path / "steps.json"
    monkeypatch.setattr(benchmark, "MAKERS", {name: benchmark.MAKERS[name] for name in ("mae_lite", "LightlySSL MAE")})
    monkeypatch.setattr(benchmark, "NEEDS", {"LightlySSL MAE": "no_such_package"})
    words = ["--tiny", "--batch", "4", "--threads", "1", "--rounds", "3", "--updates", "1", "--out", str(out)]
    threads = torch.get_num_threads()
    try:
        benchmark.main(words)
    finally:
        torch.set_num_threads(threads)
    found = json.loads(out.read_text())
    assert found["skipped"] == {"LightlySSL MAE": "no_such_package is not installed"}
    assert len(found["rounds"]["mae_lite"]) == 3
    limit = found["matrix_gflops_per_second"] / found["step_gflops_per_image"]
    assert 0 < found["share_of_limit"] < 1
    assert found["share_of_limit"] == pytest.approx(found["images_per_second"]["mae_lite"] / limit, rel=0.9)
    assert 0 < found["memory_mb"]["mae_lite"] < 100
    assert sum(found["profile"]["shares"].values()) == pytest.approx(1)
    assert all(
        found["profile"]["shares"][name] > 0 for name in module("step_profile", monkeypatch).GROUPS if name != "AdamW"
    )
    assert found["hardware"]["threads"] == 1


def test_ratios_of_steps_are_those_of_each_round(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = {"mae_lite": [10.0, 30.0, 50.0], "other": [5.0, 20.0, 50.0]}
    found = module("steps", monkeypatch).summary(speeds, [100e9, 200e9, 400e9], 2.0)
    assert found["ours_over"] == {"other": 1.5}
    assert found["images_per_second"] == {"mae_lite": 30.0, "other": 20.0}
    assert found["share_of_limit"] == pytest.approx(0.25)  # of 0.2, 0.3 and 0.25


def test_profiles_of_steps_know_compiled_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    profile = module("step_profile", monkeypatch)
    plain, weight = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)

    def forward(images: torch.Tensor) -> torch.Tensor:
        return torch.softmax(weight(torch.nn.functional.gelu(plain(images))), -1)

    compiled, images = torch.compile(forward), torch.randn(64, 8)
    torch.autograd.backward(compiled(images).sum())
    with profile.named_kernels():
        shares = profile.shares(lambda rows: torch.autograd.backward(compiled(rows).square().sum()), images, 2)
    assert all(shares["shares"][name] > 0 for name in ("matrix products", "attention", "GELU"))


@pytest.mark.slow
def test_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "ranks.json"
    words = ["--tiny", "--batch", "4", "--rounds", "1", "--updates", "2", "--out", str(out)]
    module("ranks", monkeypatch).main(words)
    found = json.loads(out.read_text())
    assert found["two_over_one"] == pytest.approx(found["rounds"][0][1] / found["rounds"][0][0])
    assert found["batch_of_each_process"] == 4


@pytest.mark.slow
def test_the_probe_is_timed(tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "probe.json"
    monkeypatch.setenv("MAE_LITE_CACHE", str(tmp_path / "cache"))  # put back at the end, as the script changes it
    words = [
        str(shared_data / "cifar10"),
        "--images",
        "30",
        "--width",
        "8",
        "--epochs",
        "1",
        "--rounds",
        "1",
        "--out",
        str(out),
    ]
    threads = torch.get_num_threads()
    try:
        module("probe", monkeypatch).main(words)
    finally:
        torch.set_num_threads(threads)
    found = json.loads(out.read_text())
    assert found["ratios"]["ten heads at once / one head"] > 0
    whole = found["seconds"]["probe with ten rates"], found["seconds"]["probe with one rate"]
    ratio = found["ratios"]["probe with ten rates / with one, from images"]
    assert ratio == pytest.approx(whole[0][0] / whole[1][0], abs=0.01)


def test_data_are_divided_by_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["a", "b", "c"]
    about = {"info": {"features": {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}}}
    labels = [2, 0, 1, 2, 0]
    images = [{"bytes": bytes([number]), "path": None} for number in range(5)]
    table = pa.table({"image": images, "label": labels}).replace_schema_metadata({"huggingface": json.dumps(about)})
    for split in ("train", "test"):
        pq.write_table(table, tmp_path / f"{split}.parquet")
    module("class_split", monkeypatch).main([str(tmp_path), str(tmp_path / "out"), "--first", "2"])
    found = {part: pq.read_table(tmp_path / "out" / part / "train.parquet") for part in ("pretrain", "transfer")}
    assert [row["bytes"] for row in found["pretrain"]["image"].to_pylist()] == [b"\1", b"\2", b"\4"]
    assert found["pretrain"]["label"].to_pylist() == [0, 1, 0]
    assert [row["bytes"] for row in found["transfer"]["image"].to_pylist()] == [b"\0", b"\3"]
    assert found["transfer"]["label"].to_pylist() == [0, 0]
    kept = json.loads(found["transfer"].schema.metadata[b"huggingface"])["info"]["features"]["label"]["names"]
    assert kept == ["c"]


def test_the_analysis_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = module("analysis", monkeypatch).measure(10, None, ["none"])
    assert set(found) == {"forward_s", "importance_none_s", "peak_mib"} and min(found.values()) > 0
