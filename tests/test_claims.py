"""Claims of a source beside what a study measured: differences, intervals, verdicts. No stage is run here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mae_lite import files, studies
from mae_lite.errors import ConfigError
from mae_lite.report.groups import Estimate
from mae_lite.studies.values import Analysis, Claim, Scale, Study
from mae_lite.studying import claims, graph, results
from mae_lite.studying.graph import Graph
from tests.test_studies import NUMBERS, measured

LOOKS = (
    Claim(says="likeness", kind="similarity", row="MAE", over="scratch"),
    Claim(says="width", kind="entropy", row="MoCo-v3", over="MAE"),
    Claim(says="lower layers", kind="kept", row="MAE"),
)


def study_with(*said: Claim, **changes: Any) -> Study:
    digits = studies.get("digits")
    seeds = [one.model_copy(update={"seeds": 2}) if one.kind == "analyze" else one for one in digits.analyses]
    return Study.model_validate({**dict(digits), "analyses": tuple(seeds), "claims": said, **changes})


def found(study: Study, root: Path) -> list[dict[str, Any]]:
    return list(results.table(study, graph.build(study, root, "digits"), "digits")["claims"])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((), "not measured"),
        ((0.1,), "so with one seed"),
        ((-0.1,), "not so with one seed"),
        ((1.0, 1.2, 0.9), "reproduced"),
        ((-1.0, -1.2, -0.9), "the opposite"),
        ((1.0, -1.0, 0.5), "within chance"),
        ((0.0, 0.0), "within chance"),
    ],
)
def test_verdicts(values: tuple[float, ...], said: str) -> None:
    assert claims.verdict(Estimate(values) if values else None) == said


def test_accuracies_are_compared_seed_by_seed(tmp_path: Path) -> None:
    better = Claim(says="MAE is ahead of scratch.", kind="accuracy", row="MAE", over="scratch")
    worse = Claim(says="Scratch is ahead of D-MAE.", kind="accuracy", row="scratch", over="D-MAE")
    table = measured(study_with(better, worse), tmp_path, NUMBERS)
    first, second = table["claims"]
    assert first["values"] == pytest.approx([20.0, 16.0, 15.0]) and first["seeds"] == [0, 1, 2]
    assert (first["verdict"], first["unit"]) == ("reproduced", "points")
    assert second["seeds"] == [0, 1] and second["values"] == pytest.approx([-23.0, -17.0])
    assert second["verdict"] == "within chance"  # two seeds, whose interval is wide
    text = results.as_text(table)
    assert "claim: MAE is ahead of scratch.\n  MAE minus scratch, 5 labels per class: +17.0 ± 6.6 points" in text
    shown = claims.table(table["claims"])
    assert [cell.text for cell in shown.rows[0]] == [
        "MAE is ahead of scratch.", "MAE minus scratch, 5 labels per class", "+17.0 ± 6.6 points", "reproduced",
    ]  # fmt: skip
    assert [row[2].detail for row in shown.rows] == ["3 seeds", "2 seeds"]


def write_looks(made: Graph) -> None:
    """Write what analyze and layers would: last blocks of which the numbers rise from row to row, and with the seed."""
    looked = [(analysis, 0, stage) for analysis, stage in made.analyses]
    for analysis, seed, stage in [*looked, *made.repeated]:
        files.make_folder(stage.folder)
        if analysis.kind == "analyze":
            names = [f"run-{number}" for number in range(len(analysis.rows))]
            models = {name: {"entropy_nats": [[9.0], [n - seed, n + seed + 1.0]]} for n, name in enumerate(names)}
            files.write_json(stage.folder / "attention.json", {"models": models})
            for number, name in enumerate(names[1:], 1):
                cka = [[1.0, 1.0], [1.0, 0.9 - number / 10 - seed / 100 * (number == 3)]]
                files.write_json(stage.folder / f"cka-{names[0]}+{name}.json", {"cka": cka})
            files.write_json(stage.folder / "analysis.json", {"models": {name: {} for name in names}})
        if analysis.kind == "layers":
            points = {"first": [50.0, 60.0, 70.0], "last": [50.0, 52.0, 54.0]}
            sides = {
                side: [
                    {"blocks": n, "top1": {"by_seed": [one - n, one]}} for n, one in zip((0, 1, 2), values, strict=True)
                ]
                for side, values in points.items()
            }
            files.write_json(stage.folder / "layers.json", {"blocks": 2, "seeds": [0, 1], **sides})


def test_layers_are_compared_by_what_the_analyses_wrote(tmp_path: Path) -> None:
    study = study_with(*LOOKS)
    assert [item["verdict"] for item in found(study, tmp_path)] == ["not measured"] * 3
    made = graph.build(study, tmp_path, "digits")
    assert [(analysis.kind, seed) for analysis, seed, _ in made.repeated] == [("analyze", 1)]
    write_looks(made)
    # rows of the analysis: supervised, scratch, MoCo-v3, MAE, D-MAE
    likeness, width, kept = found(study, tmp_path)
    assert likeness["values"] == pytest.approx([0.6 - 0.8, 0.59 - 0.8]) and likeness["verdict"] == "the opposite"
    assert likeness["what"] == "CKA of the last block and that of supervised, MAE minus scratch"
    assert width["values"] == pytest.approx([-1.0, -1.0]) and width["unit"] == "nats"
    assert kept["values"] == pytest.approx([8.0, 8.0]) and kept["verdict"] == "reproduced"


def test_a_row_without_a_seed_is_compared_where_it_has_one(tmp_path: Path) -> None:
    digits = studies.get("digits")
    rows = [row.model_copy(update={"seeds": 1}) if row.name == "MoCo-v3" else row for row in digits.rows]
    study = study_with(*LOOKS, rows=tuple(rows))
    write_looks(graph.build(study, tmp_path, "digits"))
    likeness, width, _ = found(study, tmp_path)
    assert likeness["seeds"] == [0, 1] and width["seeds"] == [0]
    assert width["verdict"] == "not so with one seed"


def test_a_study_that_was_cut_claims_nothing(tmp_path: Path) -> None:
    assert found(study_with(*LOOKS).shorter(5, None), tmp_path) == []


@pytest.mark.parametrize(
    ("claim", "said"),
    [
        (Claim(says="x", kind="accuracy", row="BYOL", over="MAE"), "row 'BYOL'"),
        (Claim(says="x", kind="accuracy", row="MAE"), "row 'None'"),
        (Claim(says="x", kind="accuracy", row="MAE", over="scratch", task="many labels"), "task 'many labels'"),
        (Claim(says="x", kind="kept", row="D-MAE"), "row 'D-MAE'"),
        (Claim(says="x", kind="entropy", row="MAE", over="teacher"), "row 'teacher'"),
    ],
)
def test_claims_on_what_is_not_there_are_refused(claim: Claim, said: str) -> None:
    with pytest.raises(ConfigError, match="claim 'x' of study 'digits'") as error:
        study_with(claim)
    assert said in str(error.value) and "Fix:" in str(error.value)


@pytest.mark.parametrize("name", ["cifar10", "cifar10-scarce"])
@pytest.mark.parametrize("scale", ["smoke", "cpu", "full"])
def test_studies_of_photographs_have_their_claims(name: str, scale: Scale) -> None:
    study = studies.get(name, scale)
    kinds = [claim.kind for claim in study.claims]
    assert len(kinds) >= 5 and {"accuracy", "similarity", "entropy"} <= set(kinds)
    assert ("kept" in kinds) == (scale != "smoke" and name == "cifar10")  # a claim on enough labels
    longer = any(row.longer != 1.0 for row in study.rows)  # where MAE over scratch is claimed, at equal arithmetic
    assert longer == (scale == "cpu" and name == "cifar10") == any("longer" in note for note in study.notes)
    looked = next(one for one in study.analyses if one.kind == "analyze")
    assert looked.rows[0] == ("supervised" if name == "cifar10-scarce" else "scratch")
    text = json.dumps(study.model_dump(mode="json"))
    assert Study.model_validate(json.loads(text)).claims == study.claims


def test_kept_blocks_are_those_of_layers() -> None:
    study = study_with(LOOKS[2])
    looked = study.looked_at(study.claims[0])
    assert isinstance(looked, Analysis) and looked.kind == "layers"


def test_a_damaged_analysis_is_a_seed_less(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = graph.build(study_with(*LOOKS), tmp_path, "digits")
    write_looks(made)
    (_, _, second), *_ = made.repeated
    (second.folder / "attention.json").write_text('{"models": {"run-0": {}')
    assert [item["seeds"] for item in found(study_with(*LOOKS), tmp_path)] == [[0, 1], [0], [0, 1]]
    assert f"{second.folder} cannot be read, so that claims lack its numbers" in caplog.text
    (kept,) = [stage for analysis, stage in made.analyses if analysis.rows == ("MAE",)]
    (kept.folder / "layers.json").write_text('{"blocks": 2}')
    assert [item["seeds"] for item in found(study_with(*LOOKS), tmp_path)] == [[0, 1], [0], []]


def test_nothing_is_repeated_without_what_the_others_are_compared_with(tmp_path: Path) -> None:
    digits = studies.get("digits")
    rows = [row.model_copy(update={"seeds": 1}) if row.name == "supervised" else row for row in digits.rows]
    assert graph.build(study_with(*LOOKS, rows=tuple(rows)), tmp_path, "digits").repeated == []
