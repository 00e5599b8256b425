"""Weights on the sets of a suite: what the grid may see, who chooses, what is measured, and what is not repeated."""

from __future__ import annotations

import json
import math
import re
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from mae_lite import cli, recipes, training
from mae_lite.errors import ConfigError
from mae_lite.studies import suites
from mae_lite.studies.suites import Point, Set
from mae_lite.studying import cells, running, set_data, starts
from mae_lite.studying.running import Outcome
from mae_lite.studying.stages import Stage
from tests import toy

SOURCES = """
[digits]
lr_per_256 = [0.0005, 0.02]
layer_decay = [0.5, 1.0]
[digits.changes]
labels_per_class = "None"
global_batch_size = 64
epochs = 1
warmup_epochs = 0

[stripes]
data = "{stripes}"
lr_per_256 = [0.02, 1e30]
layer_decay = [1.0]
[stripes.changes]
labels_per_class = "None"
global_batch_size = 4
epochs = 2
warmup_epochs = 0
"""
"""Training diverges at a rate of 1e30."""


class Here:
    """A pool that carries out stages in this process."""

    ran: ClassVar[list[str]] = []

    def __init__(self, *_: object) -> None:
        pass

    def run(self, stages: Mapping[str, Stage]) -> Outcome:
        outcome = Outcome()
        for stage in stages.values():
            if stage.state() != "done":
                Here.ran.append(stage.name)
                if (code := cli.main(list(stage.words))) or stage.state() != "done":
                    outcome.failed[stage.name] = code
        return outcome


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Carry out stages in this process; return the names of those that are carried out."""
    monkeypatch.setattr(running, "Pool", Here)
    monkeypatch.setattr(Here, "ran", [])
    yield Here.ran


def pretrained(folder: Path, seed: int = 0) -> str:
    training.run(toy.mae(seed=seed), toy.runtime(folder, probe_images=0))
    return str(folder)


def stripes(folder: Path) -> Path:
    """Write images of rows and of columns: 20 to train on, 8 to test."""
    draw = np.random.default_rng(0)
    for split, count in (("train", 10), ("test", 4)):
        for name, axis in (("rows", 0), ("columns", 1)):
            for number in range(count):
                pixels = np.repeat(draw.integers(0, 256, 8, dtype=np.uint8)[:, None], 8, 1)
                place = folder / split / name / f"{number}.png"
                place.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels if axis == 0 else pixels.T).save(place)
    return folder


def words(runs: list[str], place: Path, *more: str) -> list[str]:
    return ["transfer", *runs, "--suite", "digits", "--out", str(place / "out"), *more]


def described(place: Path) -> list[str]:
    """Return the flags that name a file with both sets."""
    (place / "sets.toml").write_text(SOURCES.format(stripes=stripes(place / "stripes")))
    return ["--sources", str(place / "sets.toml"), "--sets", "digits", "stripes"]


def read(path: str | Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path(path).read_text())
    return content


@pytest.mark.slow
def test_the_grid_chooses_on_validation_images_and_the_best_is_trained_on_all(
    tmp_path: Path, here: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [pretrained(tmp_path / name, seed) for seed, name in enumerate(("a", "b"))]
    command = words(runs, tmp_path, *described(tmp_path), "--seeds", "2")
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    found = read(tmp_path / "out" / "digits" / "transfer.json")
    assert found["complete"] and [(row["set"], row["model"]) for row in found["results"]] == [
        (name, run) for name in ("digits", "stripes") for run in "ab"
    ]
    for row in found["results"]:
        check_choice(row)
        check_finals(row, {"digits": (1346, 64, 451), "stripes": (20, 4, 8)}[row["set"]])
    check_averages(found)
    assert "1 of them diverged" in printed and "nothing chosen" not in printed
    assert f"{found['results'][0]['top1']['mean']:.1f} ± " in printed and "average" in printed
    page = (tmp_path / "out" / "digits" / "report.html").read_text()
    assert all(f"</span>{run} on {name}</th>" in page for run in "ab" for name in ("digits", "stripes"))
    assert len(here) == 2 * (4 + 4) + 2 * (2 + 4)
    here.clear()
    assert cli.main([*command, "--json"]) == 0 and here == []  # nothing is repeated, not even what diverged
    assert json.loads(capsys.readouterr().out) == found
    assert cli.main([*words(runs[:1], tmp_path), *command[len(words(runs, tmp_path)) :], "--only-report"]) == 0
    assert read(tmp_path / "out" / "digits" / "transfer.json")["results"] == found["results"][::2]


def check_choice(row: dict[str, Any]) -> None:
    """Find the best point from what the runs have written, and compare."""
    reached: dict[Point, float] = {}
    for trial in row["grid"]:
        recipe = read(Path(trial["run"], "recipe.json"))["recipe"]
        point = Point(recipe["lr_per_256"], recipe["layer_decay"])
        assert point == Point(trial["lr_per_256"], trial["layer_decay"]) and recipe["seed"] == 0
        assert recipe["validation_fraction"] == 0.1 and not Path(trial["run"], "eval").exists()
        if trial["diverged"]:
            assert point.lr_per_256 == 1e30 and read(Path(trial["run"], "status.json"))["error"] == "NotFinite"
            continue
        rows = [json.loads(line) for line in Path(trial["run"], "metrics.jsonl").read_text().splitlines()]
        reached[point] = [item["val_top1"] for item in rows if "val_top1" in item][-1]
        assert trial["val_top1_percent"] == 100 * reached[point]
    assert len(reached) == (1 if row["set"] == "stripes" else 4)
    order = sorted(reached, key=lambda point: (-reached[point], point.lr_per_256, point.layer_decay))
    assert row["chosen"] == order[0]._asdict()


def check_finals(row: dict[str, Any], counts: tuple[int, int, int]) -> None:
    """Compare with the runs' own files, and the interval with another formula of it."""
    images, batch, tests = counts
    assert [final["seed"] for final in row["finals"]] == [0, 1]
    shares: dict[str, list[float]] = {"top1": [], "balanced": []}
    for final in row["finals"]:
        record = read(Path(final["run"], "recipe.json"))
        recipe, status = record["recipe"], read(Path(final["run"], "status.json"))
        assert Point(recipe["lr_per_256"], recipe["layer_decay"]) == Point(**row["chosen"])
        assert recipe["validation_fraction"] == 0 and recipe["seed"] == final["seed"]
        assert record["fingerprint"]["count"] == images
        assert status["total_steps"] == round(recipe["epochs"] * (images // batch))  # fewer without a tenth
        (measured,) = [read(path) for path in Path(final["run"], "eval").iterdir()]
        assert (final["split"], final["images"]) == (measured["split"], measured["images"]) == ("test", tests)
        shares["top1"].append(100 * measured["top1"])
        shares["balanced"].append(100 * statistics.fmean(measured["per_class"].values()))
    for name, values in shares.items():
        half = math.tan(0.475 * math.pi) * abs(values[0] - values[1]) / 2  # with one degree of freedom t is Cauchy's
        assert row[name]["values"] == pytest.approx(values) and row[name]["mean"] == pytest.approx(sum(values) / 2)
        assert row[name]["half_width_95"] == pytest.approx(half)


def check_averages(found: dict[str, Any]) -> None:
    for average in found["averages"]:
        own = [row for row in found["results"] if row["model"] == average["model"]]
        finals = [[final["top1_percent"] for final in row["finals"]] for row in own]
        assert average["top1"]["values"] == pytest.approx(np.mean(finals, axis=0)) and average["sets"] == 2
    assert [average["model"] for average in found["averages"]] == ["a", "b"]


@pytest.mark.slow
def test_a_killed_transfer_repeats_nothing(tmp_path: Path, here: list[str]) -> None:
    """Killed for good after its first stage; what it had begun goes on."""
    run = pretrained(tmp_path / "run")
    command = [*words([run], tmp_path, *described(tmp_path), "--seeds", "1"), "--processes", "1"]
    command.remove("stripes")
    out = tmp_path / "out"
    with subprocess.Popen([sys.executable, "-m", "mae_lite", *command], stdout=subprocess.DEVNULL) as process:
        end = time.monotonic() + 120
        while not finished(out):
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.02)
        process.kill()
    while str(out) in processes():  # stages end with it
        assert time.monotonic() < end
        time.sleep(0.02)
    before = finished(out)
    assert not (out / "digits" / "transfer.json").exists() and 1 <= len(before) < 4
    assert cli.main(command) == 0
    assert len(here) == 4 - len(before) + 2
    after = finished(out)
    assert before.items() <= after.items() and len(after) == 5
    assert read(out / "digits" / "transfer.json")["complete"]


def finished(out: Path) -> dict[Path, int]:
    """Return the finished trainings, and when each wrote its model."""
    found = {}
    for path in out.glob("*/status.json"):
        if '"finished"' in path.read_text():
            found[path.parent] = (path.parent / "classifier" / "manifest.json").stat().st_mtime_ns
    return found


def processes() -> str:
    return subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_a_set_that_cannot_be_read_leaves_the_others(
    tmp_path: Path, here: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run, flags = pretrained(tmp_path / "run"), described(tmp_path)
    (tmp_path / "sets.toml").write_text((tmp_path / "sets.toml").read_text() + '[lost]\ndata = "nowhere"\n')
    command = words([run], tmp_path, *flags[:3], "lost", "stripes", "--seeds", "1")
    assert cli.main(command) == 7
    said = capsys.readouterr()
    assert "lost is left out: data 'nowhere' does not exist" in said.err and "set lost: data 'nowhere'" in said.err
    assert "run on lost: nothing chosen, 0 of 6 points" in said.out and len(here) == 4
    found = read(tmp_path / "out" / "digits" / "transfer.json")
    assert not found["complete"] and found["averages"] == [] and len(found["results"][1]["finals"]) == 1
    command.remove("stripes")
    assert cli.main(command) == 3  # its own error, where nothing else can be done


def test_a_run_is_known_by_its_weights_in_all_its_forms(tmp_path: Path) -> None:
    source = Path(pretrained(tmp_path / "run"))
    shape = toy.mae().encoder
    (checkpoint,) = source.glob("checkpoints/step_*6")
    models = starts.read([str(checkpoint), str(source / "encoder")])
    for model in (*models, *starts.read([str(source)])):
        recipe = model.adapted(recipes.get("transfer-cifar100"))
        for name in ("image_size", "channels", "patch_size", "width", "depth", "num_heads"):
            assert getattr(recipe.encoder, name) == getattr(shape, name)
        assert recipe.augmentation.mean == toy.mae().augmentation.mean
        model.check(recipe)
    public = Path(__file__).parent / "fixtures" / "mae_tiny_public_format.pth.tar"
    (other,) = starts.read([str(public)], heads=12)
    assert (other.encoder.image_size, other.encoder.num_heads, other.encoder.depth) == (224, 12, 2)  # type: ignore[union-attr]
    other.check(other.adapted(recipes.get("transfer-cifar100")))
    suite = suites.get("digits", sets=["digits-few"])

    def folder() -> Path:
        (cell,) = cells.cells(suite, starts.read([str(source)]), tmp_path)
        return cell.finals(Point(0.01, 0.6))[0].tuned.folder

    before = folder()
    assert folder() == before
    training.run(toy.mae(seed=1), toy.runtime(tmp_path / "other", probe_images=0))
    source.rename(tmp_path / "old")
    (tmp_path / "other").rename(source)
    assert folder() != before  # other weights in the same place are another stage
    with pytest.raises(ConfigError, match=r"found the weights of .*, expected others"):
        starts.read([str(source), str(source)])


def test_the_best_point_and_the_edges_of_the_grid(tmp_path: Path) -> None:
    def trial(rate: float, decay: float, top1: float | None) -> cells.Trial:
        return cells.Trial(Point(rate, decay), tmp_path, top1)

    assert cells.best([trial(0.1, 1, 0.5), trial(0.05, 1, 0.7), trial(0.01, 1, 0.7)]) == Point(0.01, 1)
    assert cells.best([trial(0.1, 1, 0.5), trial(0.1, 0.7, 0.5)]) == Point(0.1, 0.7)
    assert (
        cells.best([trial(9, 1, None), trial(0.1, 1, 0.1)]) == Point(0.1, 1) and cells.best([trial(9, 1, None)]) is None
    )
    one = suites.get("paper").sets[0]
    assert cells.at_edge(one, Point(0.05, 0.85)) == [] == cells.at_edge(one, Point(0.05, 1.0))
    assert cells.at_edge(one, Point(0.15, 0.75)) == ["largest learning rate", "smallest layer decay"]


def test_the_plan_of_the_paper_reads_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = pretrained(tmp_path / "run"), tmp_path / "out"
    assert cli.main(["transfer", run, "--out", str(out), "--dry-run"]) == 0
    text = capsys.readouterr().out
    for name in ("cifar10", "cifar100", "flowers102", "oxfordiiitpet", "fgvcaircraft#trainval", "stanfordcars"):
        assert f"--data torchvision:{name}" in text.replace("'", "")
    assert "619,511 training images in 7 sets" in text and not out.exists()
    assert text.count(" try ") == 5 * 9 + 3 and text.count("evaluate-") == 7 * 3
    tuned = recipes.get("transfer-cifar100")
    (alone,) = suites.get("paper", sets=["cifar100"]).sets
    assert alone.points() == [Point(tuned.lr_per_256, tuned.layer_decay)] and alone.changes == {}
    assert (tuned.peak_lr, tuned.epochs, tuned.warmup_epochs, tuned.final_lr) == (0.1, 50, 10, 1e-6)


ORDERS: list[tuple[list[str], str]] = [
    (["--suite", "papr"], "suite: found 'papr' (nearest: 'paper'), expected one of paper, digits"),
    (["--sets", "digit"], "sets: found 'digit' (nearest: 'digits'), expected some of digits"),
    (["--sources", "none.toml"], "sources 'none.toml' cannot be read"),
    (["--dry-run", "--only-report"], "--dry-run --only-report"),
]
FILES: list[tuple[int, str, str]] = [
    (2, "x = 'd'", "x: found 'd', expected a table for each set"),
    (2, "[x]\ndata = 'd'\nepoch = 3", "[x]: unknown field 'epoch'"),
    (2, "[x]\ndata = 'd'\n[x.changes]\nepoch = 3", "unknown field 'epoch' (nearest: 'epochs')"),
    (2, "[x]\ndata = 'd'\n[x.changes]\n'augmentation.flip' = 0.0", "one name, expected 'flip' inside 'augmentation'"),
    (2, "[x]\ndata = 'd'\n[x.changes]\nseed = 3", "changes of 'x': found seed"),
    (2, "[x]\nclasses = 3", "data is missing"),
    (2, "[x]\ndata = 'd'\nrecipe = 'digits-mae'", "recipe of 'x': found 'digits-mae'"),
    (2, "[x]\ndata = 'd'\nlr_per_256 = [1, 1]", "expected each once"),
    (2, "[x]\ndata = 'digits'\n[y]\ndata = 'digits'", "sets 'x' and 'y': found the same data"),
    (3, "[x]\ndata = 'nowhere'", "data 'nowhere' does not exist"),
    (3, "[x]\ndata = 'digits'\ntest_data = 'digits#train'", "the test images are the training images"),
    (3, "[x]\ndata = 'WHOLE/train'", "the test images are the training images"),
    (3, "[x]\ndata = 'DIVIDED'", "has no test images: found only 'train', 'val', expected test images"),
    (3, "[x]\ndata = 'DIVIDED'\ntest_data = 'DIVIDED#val'", "the test images are the validation images"),
]


def test_bad_input_is_explained_before_anything_is_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, place = pretrained(tmp_path / "run"), stripes(tmp_path / "stripes")
    divided = stripes(tmp_path / "divided")
    (divided / "test").rename(divided / "val")
    cases = [(2, flags, said) for flags, said in ORDERS]
    for number, (code, text, said) in enumerate(FILES):
        file = tmp_path / f"{number}.toml"
        file.write_text(text.replace("WHOLE", str(place)).replace("DIVIDED", str(divided)))
        sets = ["x", "y"] if "[y]" in text else ["x"]
        cases.append((code, ["--sources", str(file), "--sets", *sets], said))
    unknown = ["--sources", str(tmp_path / "8.toml"), "--updates", "3"]
    cases.append((2, unknown, "write images = N and classes = N below [x]"))
    for code, flags, said in cases:
        suite = [] if "--suite" in flags else ["--suite", "digits"]
        assert cli.main(["transfer", run, *suite, "--out", str(tmp_path / "out"), *flags]) == code, said
        error = capsys.readouterr().err
        assert said in error and "Fix: " in error, error
    mended = {"name": "x", "data": f"{divided}#train", "test_data": f"{divided}#val"}
    (usual,) = suites.get("digits", sets=["digits-few"]).sets
    assert set_data.check(Set.model_validate(dict(usual) | mended)) == "20 training images, 8 test images, 2 classes"
    for runs, code, said in (
        ([], 2, "the pre-trained run is missing"),
        ([str(place)], 4, "is not a run folder"),
        (["nowhere"], 4, "does not exist"),
    ):
        assert cli.main(words(runs, tmp_path)) == code
        assert said in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*/recipe.json"))


def test_a_signal_between_stages_stops_like_one_within(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(set_data, "check", stop)
    assert cli.main(words([pretrained(tmp_path / "run")], tmp_path)) == 75
    assert "the same command continues" in capsys.readouterr().err


def test_the_page_of_documentation_works(
    tmp_path: Path, here: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parent.parent / "docs" / "transfer.md").read_text()
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("digits-mae", "mae-tiny", "mocov3-tiny")):
        pretrained(tmp_path / "runs" / name, number)
    (text,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "sets.toml").write_text(text)
    commands = [line for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]
    assert len(commands) == 4
    for line in commands:
        program, command, *more = shlex.split(line)
        assert (program, command) == ("mae-lite", "transfer")
        far = "digits" not in more and "--only-report" not in more and "--dry-run" not in more
        tiny = ["--dry-run"] if far else ["--updates", "1", "--seeds", "1"]
        assert cli.main([command, *more, *tiny]) == 0, capsys.readouterr().err
    assert len(here) == 2 * (6 + 1 + 1)
    written = {path.name for path in (tmp_path / "runs" / "transfer" / "digits").iterdir()}
    assert set(re.findall(r"^\| `([\w.]+)` \|", page, re.MULTILINE)) >= {*written} - {"logs"} > {"transfer.json"}
    assert all(f"| `{one.name}` |" in page for name in suites.names() for one in suites.get(name).sets)
