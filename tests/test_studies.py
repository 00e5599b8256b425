"""Studies as values, their graphs, forecasts and tables; no stage is run here."""

from __future__ import annotations

import json
import math
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from scipy.special import stdtrit
from scipy.stats import ttest_rel

from mae_lite import config, costs, files, recipes, studies
from mae_lite.cli import main
from mae_lite.config import Recipe
from mae_lite.errors import ConfigError
from mae_lite.overrides import build, parse
from mae_lite.studies import ablation
from mae_lite.studies.values import Analysis, Scale, Study
from mae_lite.studying import forecast, graph, recommending, results
from mae_lite.studying.graph import Graph
from mae_lite.studying.stages import Stage

SCALES: tuple[Scale, ...] = ("smoke", "cpu", "full")


def graph_of(study: Study, root: Path = Path("runs/studies")) -> Graph:
    return graph.build(study, root, study.data or "DATA")


def recipe_from(stage: Stage) -> Recipe:
    """Read a training command as the command line does."""
    flags = list(stage.words[2:])
    values = parse(flags, config.Request, recipes.get(stage.words[1]).model_dump())
    return build(config.Request, values).split()[0]


STUDIES: list[tuple[str, str | None]] = [(name, None) for name in studies.names() if name != "ablation"]
STUDIES += [("ablation", recipe) for recipe in ablation.SUBJECTS]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("name", "subject"), STUDIES)
def test_commands_say_what_the_graph_means(name: str, subject: str | None, scale: Scale) -> None:
    """A flag that is lost between recipe and command would train something else under the recipe's hash."""
    stages = graph_of(studies.get(name, scale, subject)).stages
    trainings = [stage for stage in stages.values() if stage.kind in ("pretrain", "finetune")]
    assert len(trainings) > 5
    for stage in trainings:
        assert stage.recipe is not None
        assert recipe_from(stage).digest() == stage.recipe.digest()
        assert stage.words[0] in recipes.commands_for(stage.recipe)


@pytest.mark.parametrize(("name", "subject"), STUDIES)
def test_stages_come_after_what_they_need(name: str, subject: str | None) -> None:
    made = graph_of(studies.get(name, recipe=subject))
    seen: set[str] = set()
    for stage in made.stages.values():
        assert set(stage.needs) <= seen
        for need in stage.needs:
            assert str(made.stages[need].folder) in stage.words
        seen.add(stage.name)
    levels = made.levels()
    assert sorted(stage.name for level in levels for stage in level) == sorted(made.stages)
    place = {stage.name: number for number, level in enumerate(levels) for stage in level}
    assert all(place[need] < place[stage.name] for stage in made.stages.values() for need in stage.needs)


def test_digits_has_the_stages_that_it_promises() -> None:
    study = studies.get("digits")
    made = graph_of(study)
    kinds = [stage.kind for stage in made.stages.values()]
    # four pre-trainings with three seeds and one teacher; five rows with three seeds
    assert [kinds.count(kind) for kind in ("pretrain", "finetune", "evaluate")] == [13, 15, 15]
    assert [kinds.count(kind) for kind in ("analyze", "probe", "layers")] == [1, 1, 2]
    taught = [stage for stage in made.stages.values() if "--teacher" in stage.words]
    assert len({stage.words[stage.words.index("--teacher") + 1] for stage in taught}) == 1
    updates = {
        stage.name: stage.recipe.epochs * (1346 // stage.recipe.global_batch_size)
        for stage in made.stages.values()
        if stage.kind == "pretrain" and stage.recipe is not None
    }
    assert set(updates.values()) == {1000.0}


def test_analyses_of_each_kind_are_commands_of_their_own(tmp_path: Path) -> None:
    known = studies.get("digits").shorter(3, 2)
    looks = (
        Analysis(name="a", rows=("scratch", "MAE")),
        Analysis(name="b", kind="probe", rows=("scratch", "MAE")),
        Analysis(name="c", kind="layers", rows=("MAE", "D-MAE")),
    )
    study = Study.model_validate(dict(known) | {"analyses": looks, "claims": ()})
    made = graph_of(study, tmp_path)
    assert [(one.kind, one.rows) for one, _ in made.analyses] == [
        ("analyze", ("scratch", "MAE")),
        ("probe", ("scratch", "MAE")),
        ("layers", ("MAE",)),
        ("layers", ("D-MAE",)),
    ]
    _, probe, layers, other = (stage for _, stage in made.analyses)
    assert "--blocks" in probe.words and ("--labels-per-class", "5", "--seed", "0") == probe.words[-6:-2]
    assert layers.words[:3] == ("layers", str(made.stages[layers.needs[0]].folder), "digits-finetune")
    assert layers.words[layers.words.index("--seeds") :][:3] == ("--seeds", "0", "1")
    assert layers.folder != other.folder and layers.images == 8 * 2 * 50
    for stage, name in ((probe, "probe.json"), (layers, "layers.json")):
        assert stage.state() == "new"
        files.make_folder(stage.folder)
        files.write_json(stage.folder / name, {"depth": 3})
        assert stage.state() == "done"
    for rows, found in ((("nobody",), "row 'nobody'"), (("scratch",), "starts from random weights")):
        with pytest.raises(ConfigError, match=f"(?s)analysis 'c' of study 'digits'.*{found}"):
            Study.model_validate(
                dict(known) | {"claims": (), "analyses": (looks[2].model_copy(update={"rows": rows}),)}
            )


def test_folders_follow_all_that_decides_a_result() -> None:
    study = studies.get("digits")
    assert set(graph_of(study).stages) == set(graph_of(study, Path("elsewhere")).stages)
    fewer = graph_of(study.shorter(None, 1)).stages
    alone = {name for name, stage in fewer.items() if stage.kind != "layers"}  # which says what its seeds make together
    assert len(fewer) < len(graph_of(study).stages) and alone < set(graph_of(study).stages)
    assert not set(graph_of(study.shorter(7, None)).stages) & set(graph_of(study).stages)
    assert not set(graph.build(study, Path("runs"), "other").stages) & set(graph_of(study).stages)
    row = study.rows[-1]
    assert row.pretraining is not None and row.pretraining.teacher is not None
    other = recipes.derive(row.pretraining.teacher.recipe, lr_per_256=1.0)
    taught = row.pretraining.model_copy(
        update={"teacher": row.pretraining.teacher.model_copy(update={"recipe": other})}
    )
    changed = study.model_copy(update={"rows": (*study.rows[:-1], row.model_copy(update={"pretraining": taught}))})
    old, new = graph_of(study), graph_of(changed)
    last = [[cell.folder for cell in made.cells if cell.row.name == row.name] for made in (old, new)]
    assert not set(last[0]) & set(last[1])  # another teacher, other weights, all the way down
    rest = [[cell.folder for cell in made.cells if cell.row.name != row.name] for made in (old, new)]
    assert rest[0] == rest[1]


def test_stages_are_done_half_or_new(tmp_path: Path) -> None:
    stages = graph_of(studies.get("digits").shorter(None, 1), tmp_path).stages
    stage = next(stage for stage in stages.values() if stage.kind == "pretrain")
    assert stage.state() == "new"
    files.make_folder(stage.folder / "checkpoints" / "step_5")
    assert stage.state() == "half"
    files.write_json(stage.folder / "status.json", {"state": "finished"})
    assert stage.state() == "half"  # the encoder is not there yet
    files.publish_folder(stage.folder / "encoder", {"config.json": b"{}"})
    assert stage.state() == "done"
    files.write_json(stage.folder / "status.json", {"state": "running"})
    assert stage.state() == "half"
    measured = next(stage for stage in stages.values() if stage.kind == "evaluate")
    files.make_folder(measured.folder / "eval")
    files.write_json(measured.folder / "eval" / "test-1.json", {"data": "other"})
    assert measured.state() == "new"
    files.write_text(measured.folder / "eval" / "test-2.json", '{"data": "dig')
    assert measured.state() == "new"
    files.make_folder(measured.folder)
    files.write_json(measured.folder / "status.json", {"state": "finished", "step": 100})
    whole = {"data": "digits", "split": "val", "asked": "test", "step": 100, "top1": 0.5}  # validation images stand in
    for change in ({"step": 50}, {"asked": "train"}, {"data": "others"}):
        files.write_json(measured.folder / "eval" / "test-2.json", whole | change)
        assert measured.state() == "new"
    probed = {name: value for name, value in whole.items() if name != "top1"}
    files.write_json(measured.folder / "eval" / "probe-test-2.json", probed)
    assert measured.state() == "new"
    files.write_json(measured.folder / "eval" / "test-2.json", whole)
    assert measured.state() == "done"


def measured(study: Study, root: Path, numbers: dict[str, list[float]]) -> dict[str, Any]:
    """Write accuracies where the runs of ``study`` would have them; return the table."""
    made = graph.build(study, root, "digits")
    for cell in made.cells:
        if cell.seed < len(numbers[cell.row.name]):
            files.make_folder(cell.folder / "eval")
            content = {"data": "digits", "split": "test", "top1": numbers[cell.row.name][cell.seed], "images": 451}
            files.write_json(cell.folder / "eval" / "test-1.json", content)
    return results.table(study, made, "digits")


NUMBERS = {
    "scratch": [0.70, 0.75, 0.80],
    "supervised": [0.97, 0.98, 0.99],
    "MoCo-v3": [0.84, 0.91, 0.89],
    "MAE": [0.90, 0.91, 0.95],
    "D-MAE": [0.93, 0.92],
}


def test_table_has_means_intervals_and_paired_differences(tmp_path: Path) -> None:
    study = studies.get("digits")
    found = measured(study, tmp_path, NUMBERS)
    assert not found["complete"] and len(found["numbers"]) == 14
    assert found["numbers"][0]["labels_per_class"] == 5
    json.dumps(found, allow_nan=False)
    mean = next(item for item in found["means"] if item["method"] == "MAE")
    values = [100 * value for value in NUMBERS["MAE"]]
    half = float(stdtrit(2, 0.975)) * math.sqrt(sum((v - sum(values) / 3) ** 2 for v in values) / 2 / 3)
    assert math.isclose(mean["mean"], sum(values) / 3) and math.isclose(mean["half_width_95"], half)
    assert len(found["differences"]) == 10
    pair = next(i for i in found["differences"] if i["method"] == "MAE" and i["minus"] == "MoCo-v3")
    assert pair["values"] == pytest.approx([6.0, 0.0, 6.0])
    assert pair["p_value"] == pytest.approx(ttest_rel(NUMBERS["MAE"], NUMBERS["MoCo-v3"]).pvalue)
    shown = results.differences(found, {"MAE": "#123456"})
    row = next(row for row in shown.rows if (row[0].text, row[1].text) == ("MAE", "MoCo-v3"))
    half = float(stdtrit(2, 0.975)) * 2.0  # deviation sqrt(12), over sqrt(3)
    assert row[2].text == f"+4.0 ± {half:.1f}" and row[2].detail == "+6.0 +0.0 +6.0"
    assert (row[0].colour, row[3].text, row[4].text) == ("#123456", "0.18", "within chance")
    assert pair["beyond_chance"] is bool(ttest_rel(NUMBERS["MAE"], NUMBERS["MoCo-v3"]).pvalue < 0.05) is False
    pair = next(i for i in found["differences"] if i["method"] == "MAE" and i["minus"] == "scratch")
    assert pair["beyond_chance"] is bool(ttest_rel(NUMBERS["MAE"], NUMBERS["scratch"]).pvalue < 0.05) is True
    short = next(i for i in found["differences"] if i["minus"] == "MAE" and i["method"] == "D-MAE")
    assert short["seeds"] == [0, 1]
    text = results.as_text(found)
    assert "MAE minus MoCo-v3: +4.0 ± 8.6   within chance" in text and "92.0 ± 6.6  (90.0 91.0 95.0)" in text
    (said,) = results.headline(study, found)
    assert said.startswith("5 labels per class so far: MAE is best with 92.0 ± 6.6 %")  # D-MAE lacks a seed
    assert "D-MAE +2.0 ± 12.7 (within chance)" in said and said.endswith("Bound from above: supervised 98.0 ± 2.5 %.")


def test_validation_images_stand_in_where_there_are_no_test_images(tmp_path: Path) -> None:
    """An accuracy that was measured in training, beside the choice of the best checkpoint, does not."""
    study = studies.get("digits").shorter(None, 1)
    first, second = graph_of(study, tmp_path).cells[:2]
    files.make_folder(first.folder / "eval")
    about = {"data": "digits", "split": "val", "top1": 0.5, "fingerprint": {"sha256": "ab"}}
    files.write_json(first.folder / "eval" / "val-1.json", about)
    files.make_folder(second.folder)
    files.write_text(second.folder / "metrics.jsonl", '{"step": 1, "val_top1": 0.9}\n')
    found = results.table(study, graph_of(study, tmp_path), "digits")
    numbers = [(item["method"], item["split"], item["top1_percent"]) for item in found["numbers"]]
    assert numbers == [("scratch", "val", 50.0)]
    assert results.headline(study, found) == [
        "5 labels per class so far: scratch is best with 50.0 % on the validation images."
    ]


def test_differences_against_one_row_and_an_empty_table(tmp_path: Path) -> None:
    study = studies.get("digits").model_copy(update={"against": "scratch"})
    pairs = [(item["method"], item["minus"]) for item in measured(study, tmp_path, NUMBERS)["differences"]]
    assert pairs == [(name, "scratch") for name in NUMBERS if name != "scratch"]
    empty = results.table(study, graph_of(study, tmp_path / "nowhere"), "digits")
    assert results.as_text(empty) == "Nothing is measured yet." == results.headline(study, empty)[0]


def test_forecast_counts_arithmetic_and_the_longest_chain(tmp_path: Path) -> None:
    study = studies.get("digits")
    found = forecast.forecast(study, graph_of(study, tmp_path))
    one = next(item for item in found if item.stage.words[1] == "digits-mae")
    expected = study.start_seconds + 100 * 1346 * costs.step_gflops(recipes.get("digits-mae")) / study.gflops_per_second
    assert math.isclose(one.seconds, expected)
    total = sum(item.seconds for item in found)
    assert math.isclose(forecast.wall_seconds(found, 2), total / 2)
    by_name = {item.stage.name: item for item in found}

    def chain(name: str) -> float:
        return by_name[name].seconds + max((chain(need) for need in by_name[name].stage.needs), default=0.0)

    assert math.isclose(forecast.wall_seconds(found, 10_000), max(map(chain, by_name)))
    assert total / 2 < 30 * 60  # half an hour on two processors


def test_pre_training_and_transfer_share_no_class() -> None:
    """Pre-training reads one folder of the data, fine-tuning, measuring and analysing another; forecasts know both."""
    study = studies.get("cifar10-scarce", "cpu")
    made = graph.build(study, Path("runs"), "split")
    for stage in made.stages.values():
        place = "split/pretrain" if stage.kind == "pretrain" else "split/transfer"
        assert stage.words[stage.words.index("--data") + 1] == place == stage.data
    trained = {(s.kind, s.recipe.label_fraction, s.recipe.image_fraction, s.recipe.labels_per_class, s.images)
               for s in made.stages.values() if s.recipe and s.kind in ("pretrain", "finetune")}  # fmt: skip
    assert trained == {
        ("pretrain", None, 0.2, None, 6000),
        ("pretrain", 0.2, None, None, 6000),
        ("finetune", 0.2, None, None, 4000),
        ("finetune", None, None, 100, 400),
        ("finetune", None, None, 10, 40),
    }
    seeds = {row.name: {cell.seed for cell in made.cells if cell.row.name == row.name} for row in study.rows}
    assert seeds == {
        "scratch": {0, 1, 2},
        "supervised": {0, 1, 2},
        "MoCo-v3": {0, 1, 2},
        "MAE": {0, 1, 2},
        "D-MAE": {0, 1, 2},
    }
    assert not [stage for stage in made.stages.values() if stage.kind == "layers"]  # it is a claim on enough labels


def test_the_small_study_keeps_blocks_with_every_seed() -> None:
    made = graph.build(studies.get("cifar10", "cpu"), Path("runs"), "cifar10")
    (kept,) = [stage for stage in made.stages.values() if stage.kind == "layers"]
    assert kept.words[kept.words.index("--seeds") + 1 :][:4] == ("0", "1", "2", "--out")


def test_a_longer_row_has_more_of_every_task() -> None:
    study = studies.get("cifar10", "cpu")
    plain, longer = (next(row for row in study.rows if row.name == name) for name in ("scratch", "scratch, 3 x longer"))
    for task in study.tasks:
        one, other = study.finetuned(plain, task, 0), study.finetuned(longer, task, 0)
        assert (other.epochs, other.warmup_epochs) == pytest.approx((3 * one.epochs, 3 * one.warmup_epochs))
        assert recipes.derive(other, epochs=one.epochs, warmup_epochs=one.warmup_epochs).digest() == one.digest()
    made = graph_of(study)
    gflops: dict[str, float] = dict.fromkeys((row.name for row in study.rows), 0.0)
    for cell in made.cells:
        if cell.task == study.tasks[0] and cell.seed == 0:
            gflops[cell.row.name] = recommending._gflops(made, cell.row, cell.task)
    assert gflops["MAE"] < gflops["scratch, 3 x longer"] < 1.2 * gflops["MAE"]


def test_seeds_come_in_turn_and_what_most_depends_on_first() -> None:
    study = studies.get("digits")
    found = forecast.forecast(study, graph_of(study))
    ordered = list(forecast.in_order(found).values())
    assert {stage.name for stage in ordered} == {item.stage.name for item in found}
    seconds = {item.stage.name: item.seconds for item in found}

    def chain(name: str) -> float:
        return seconds[name] + max((chain(item.stage.name) for item in found if name in item.stage.needs), default=0.0)

    last = max(study.seeds)
    places = [
        (s.kind in ("analyze", "probe"), last if s.kind == "layers" else s.recipe.seed, -chain(s.name))
        for s in ordered
        if s.recipe
    ]
    assert places == sorted(places) and len(places) == len(found)
    assert {"analyze", "layers"} < {stage.kind for stage in ordered}
    assert [stage.recipe.name for stage in ordered[:2] if stage.recipe] == ["digits-mocov3", "digits-mae-wide"]


def test_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "runs"
    assert main(["study", "cifar10", "--data", "nowhere", "--dry-run", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "mae-lite pretrain cifar10-mocov3 --data nowhere" in text and "--teacher" in text
    assert "Reckoned, not measured: 50,000 training images" in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "the study is missing"),
        (
            ["digit"],
            "unknown study 'digit' (nearest: 'digits')\nFix: choose one of: digits, cifar10, cifar10-scarce, ",
        ),
        (["ablation"], "the recipe to vary: found none, expected one of mae-tiny, mae-small"),
        (["ablation", "mocov3-tiny"], "the recipe to vary: found 'mocov3-tiny'"),
        (["digits", "digits-mae"], "study 'digits' varies no recipe: found 'digits-mae'"),
        (["cifar10"], "study 'cifar10': found no --data, expected its images"),
        (["cifar10", "--data", "nowhere"], "'nowhere' does not exist"),
        (["digits", "--data", "photos"], "study 'digits' brings its own images: found --data photos"),
        (["digits", "--scale", "tiny"], "scale: found 'tiny', expected 'smoke', 'cpu' or 'full'"),
        (["digits", "--processes", "0"], "processes: found '0'"),
        (["digits", "--seed", "2"], "unknown option --seed (nearest: 'seeds')"),
    ],
)
def test_bad_orders_are_explained(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", *words]) == (3 if "nowhere" in words else 2)
    text = capsys.readouterr().err
    assert said in text and "Fix:" in text


def test_help_names_studies_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["study", "--help"], ["study", "digits", "--help"]):
        with pytest.raises(SystemExit):
            main(words)
    text = capsys.readouterr().out
    assert (
        "studies: digits, cifar10, cifar10-scarce, paper, ablation" in text
        and "--dry-run" in text
        and "--only-report" in text
    )


def test_studies_are_frozen() -> None:
    with pytest.raises(ConfigError, match="unknown study"):
        studies.get("none")
    with pytest.raises(ValueError, match="frozen"):
        studies.get("digits").seeds = (1,)  # type: ignore[misc]


def test_the_paper_has_its_published_numbers() -> None:
    study = studies.get("paper")
    published = {row.name: row.published for row in study.rows if row.published is not None}
    assert sorted(published.values()) == [75.8, 76.2, 76.8, 77.4, 78.0, 78.4, 78.7, 79.0, 79.4, 80.2, 82.1, 82.5]
    for row in study.rows:  # each stands in the lab note of what it measures, or of what it starts from
        notes = [row.finetuning.note.expected]
        notes += [] if row.pretraining is None else [row.pretraining.recipe.note.expected]
        assert row.published is None or any(f"{row.published:.1f}" in note for note in notes), row.name


@pytest.mark.parametrize("subject", ablation.SUBJECTS)
def test_an_ablation_changes_one_factor_at_a_time(subject: str) -> None:
    study = studies.get("ablation", recipe=subject)
    base = study.rows[0]
    assert base.pretraining is not None and base.pretraining.recipe == recipes.get(subject)
    digests = set()
    for row in study.rows:
        assert row.pretraining is not None
        before, after = row.pretraining.recipe.digest(), row.finetuning.digest()
        digests.add((before, after))
        tuned_alone = before == base.pretraining.recipe.digest()
        heads = row.name.endswith("heads")  # one factor in both, for the weights to fit
        assert row is base or tuned_alone != (after == base.finetuning.digest()) or heads
    assert len(digests) == len(study.rows) > 15


def test_plans_need_no_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["paper"], ["ablation", "mae-tiny"], ["cifar10"]):
        assert main(["study", *words, "--dry-run", "--out", str(tmp_path / "runs")]) == 0
        assert "--data DATA" in capsys.readouterr().out


def test_the_page_of_documentation_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parent.parent / "docs" / "studies.md").read_text()
    monkeypatch.chdir(tmp_path)
    commands = [line for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]
    assert len(commands) == 2
    for line in commands:
        program, *words = shlex.split(line)
        assert program == "mae-lite" and main([*words, *([] if "--dry-run" in words else ["--dry-run"])]) == 0
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    capsys.readouterr()
    exec(code, {})
    assert "mae-lite finetune digits-scratch-longer --data digits" in capsys.readouterr().out
    assert all(f"| `{name}" in page for name in studies.names())
    assert list(tmp_path.iterdir()) == []
