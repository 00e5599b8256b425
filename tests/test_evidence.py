"""What a page concludes: expected numbers, accuracy against cost, analyses, and which recipe to take."""

from __future__ import annotations

import functools
import importlib
import json
import shlex
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from mae_lite import cli, config, costs, figures, overrides, recipes, studies
from mae_lite.errors import CheckpointError
from mae_lite.recipes import published
from mae_lite.report import drawings, origins, page
from mae_lite.report.compose import Report, compose
from mae_lite.report.lineage import Lineage
from mae_lite.report.read import read
from mae_lite.report.tables import Table
from mae_lite.studies.values import Study
from mae_lite.studying import graph, recommending, results
from mae_lite.studying.study import Order, as_text, only_report
from tests import stored
from tests.test_report import PAYLOADS, Reader
from tests.test_studies import measured

IMAGENET = {"images": 50_000, "fingerprint": {"sha256": "val"}}


def imagenet(root: Path, name: str, recipe: str, top1: float | None = None, **changes: Any) -> Path:
    """Write a finished run on all of ImageNet; ``recorded`` changes what its recipe.json says of the images."""
    settings = recipes.derive(recipes.get(recipe), **changes.pop("settings", {}))
    recorded = {"classes": ["x"] * 1000, "fingerprint": {"count": 1_281_167}, **changes.pop("recorded", {})}
    measured = {} if top1 is None else {"top1": top1, "evaluation": IMAGENET}
    run = stored.run(root, name, settings, data="imagenet", losses=(), **{**measured, **changes})
    record = json.loads((run / "recipe.json").read_text())
    stored.write(run / "recipe.json", record | recorded)
    return run


def table(report: Report, name: str) -> Table:
    (found,) = [one for one in report.tables if one.name == name]
    return found


def ledger(root: Path) -> dict[str, list[str]]:
    return {row[0].text: [cell.text for cell in row[1:]] for row in table(compose([root]), "ledger").rows}


def test_published_numbers_stand_beside_what_was_measured(tmp_path: Path) -> None:
    teacher = imagenet(tmp_path, "base", "mae-base")
    start = imagenet(tmp_path, "d-mae", "d-mae-tiny", raw={"seed": 3})
    stored.write(start / "recipe.json", json.loads((start / "recipe.json").read_text()) | {"teacher": str(teacher)})
    for seed, top1 in enumerate((0.780, 0.786)):
        changes = {"settings": {"seed": seed}, "init": str(start)}
        imagenet(tmp_path, f"tuned-{seed}", "finetune-improved", top1, **changes)
    imagenet(tmp_path, "scratch", "scratch", 0.7512, settings={"precision": "fp32"})
    rows = ledger(tmp_path)
    assert rows["finetune-improved"] == ["d-mae-tiny", "78.4", "78.3 ± 3.8", "-0.1", "nothing, as far as is recorded"]
    assert rows["scratch"] == ["none", "75.8", "75.1", "-0.7", "nothing, as far as is recorded"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"settings": {"epochs": 30}}, "scratch: epochs 30 instead of 300"),
        ({"recorded": {"classes": ["a", "b"]}}, "2 classes instead of 1,000"),
        ({"recorded": {"fingerprint": {"count": 9}}}, "scratch trained on 9 images instead of 1,281,167"),
        ({"evaluation": {"images": 451}}, "measured on 451 images instead of 50,000"),
        ({"evaluation": {"images": None}}, "measured on an unknown number of images instead of 50,000"),
    ],
)
def test_what_differs_is_named_instead_of_compared(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    imagenet(tmp_path, "mine", "scratch", 0.5, **changes)
    assert ledger(tmp_path) == {"scratch": ["none", "75.8", "50.0", "not comparable", said]}


def test_another_or_unknown_teacher_is_no_comparison(tmp_path: Path) -> None:
    for name, teacher in (("none", None), ("small", imagenet(tmp_path / "small", "teacher", "mae-small"))):
        start = imagenet(tmp_path / name, "start", "d-mae-tiny")
        record = json.loads((start / "recipe.json").read_text())
        stored.write(start / "recipe.json", record | {"teacher": "gone" if teacher is None else str(teacher)})
        imagenet(tmp_path / name, "mine", "finetune-improved", 0.784, init=str(start))
    (unknown,), (small,) = ledger(tmp_path / "none").values(), ledger(tmp_path / "small").values()
    assert unknown[3:] == ["not comparable", "the teacher is not known to be mae-base: its run cannot be read"]
    assert small[3:] == ["not comparable", "the teacher is mae-small instead of mae-base"]


def test_no_ledger_where_nothing_is_published(tmp_path: Path) -> None:
    assert {one.name for one in compose([stored.comparison(tmp_path)]).tables} == {"accuracy", "runs"}
    imagenet(tmp_path / "other", "start", "mae-tiny")
    imagenet(tmp_path / "other", "mine", "finetune-mae-original", 0.7, init=str(tmp_path / "other" / "start"))
    assert {one.name for one in compose([tmp_path / "other"]).tables} == {"accuracy", "runs"}


def test_every_published_number_is_of_known_recipes_and_in_their_notes() -> None:
    assert len({(one.pretraining, one.finetuning) for one in published.NUMBERS}) == len(published.NUMBERS)
    for one in published.NUMBERS:
        names = [name for name in (one.finetuning, one.pretraining) if name is not None]
        assert all(f"{one.top1_percent:.1f} %" in recipes.get(name).note.expected for name in names)
        taught = one.pretraining is not None and "--teacher" in recipes.get(one.pretraining).note.command
        assert taught == (one.teacher is not None)
        assert recipes.get(one.finetuning).start == ("random" if one.pretraining is None else "pretrained")


def test_arithmetic_is_that_of_all_that_was_trained(tmp_path: Path) -> None:
    """The classifier's updates, its pre-training's and the teacher's, which two runs need and each counts in full."""
    teacher = stored.run(tmp_path, "teacher", recipes.get("digits-mae-wide"), steps=1000)
    start = stored.run(tmp_path, "start", recipes.get("digits-d-mae"), steps=500)
    stored.write(start / "recipe.json", json.loads((start / "recipe.json").read_text()) | {"teacher": str(teacher)})
    parts = [("digits-mae-wide", 1000, 128), ("digits-d-mae", 500, 128), ("digits-finetune", 100, 50)]
    expected = sum(costs.step_gflops(recipes.get(name)) * steps * batch for name, steps, batch in parts)
    for seed in (0, 1):
        tuned = recipes.derive(recipes.get("digits-finetune"), seed=seed)
        run = read(stored.run(tmp_path, f"tuned-{seed}", tuned, init=str(start), top1=0.9 + seed / 50))
        past = Lineage([run]).past(run)
        assert [one.name for one in past.runs] == [f"tuned-{seed}", "start", "teacher"]
        assert past.gflops() == pytest.approx(expected)
    stored.run(tmp_path, "scratch", recipes.get("digits-scratch"), top1=0.7)
    lost = recipes.derive(recipes.get("digits-finetune"), layer_decay=0.9)
    stored.run(tmp_path, "lost", lost, init="gone", top1=0.8)
    (figure,) = [one for one in compose([tmp_path]).figures if one.name.startswith("cost-")]
    assert "on digits with 5 labels per class" in figure.caption and "95 % intervals over seeds" in figure.caption
    assert figure.caption.endswith("can be read: digits-finetune (layer_decay 0.9, from gone).")
    shown = [name for name in ("digits-finetune (from start)", "digits-scratch") if name in figure.svg]
    assert len(shown) == 2 and "from gone" not in figure.svg and "arithmetic of all training, TFLOP" in figure.svg


def test_a_point_stands_where_its_numbers_are() -> None:
    """Ten times the arithmetic is as far to the right again; the bar ends where the interval does."""
    values = {"a": (1.0, 50.0, 10.0), "b": (10.0, 70.0, None), "c": (100.0, 60.0, None)}
    svg = figures.against(values, dict.fromkeys(values, "#123456"), "cost", "accuracy")
    places = [(float(use.get("x", "")), float(use.get("y", ""))) for use in marks(svg)]
    caps, ((x1, y1), (x2, y2), (x3, y3)) = places[:2], places[2:5]
    assert x2 - x1 == pytest.approx(x3 - x2, rel=1e-3) and y1 - y3 == pytest.approx(y3 - y2, rel=1e-3)
    assert sorted(y for _, y in caps) == pytest.approx([y3, y1 + (y1 - y3)], rel=1e-3)


def marks(svg: str) -> list[ElementTree.Element]:
    """Return the marks of a figure's points in their order; those of the axes are black and stand in other groups."""
    return [use for use in ElementTree.fromstring(svg).iter() if "123456" in use.get("style", "") and use.get("x")]


def analysis(folder: Path, file: str = "analysis.json", **drawn: str) -> Path:
    """Write an analysis with figures by their names without ending."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, svg in drawn.items():
        (folder / f"{name}.svg").write_text(svg)
    said = {f"{name}.svg": [f"What {name} shows.", "And more."] for name in drawn}
    stored.write(folder / file, {"images": 1000, "data": "digits", "split": "train", "figures": said})
    return folder


@functools.cache
def drawn(label: str = "<CKA> & more") -> str:
    return figures.curves({"a": [([1, 2], [3, 4])]}, {"a": "#123456"}, "block", label)


def test_analyses_stand_in_the_page_with_their_sentences(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    stored.run(root, "start", recipes.get("digits-mae"), losses=())
    analysis(root / "analysis", cka=drawn())
    (root / "layers").mkdir()
    (root / "layers" / "layers.svg").write_text(drawn("top-1"))
    stored.write(
        root / "layers" / "layers.json", {"sentence": "The first carry most.", "images": 451, "data": "digits"}
    )
    probe = analysis(tmp_path / "elsewhere" / "probe", "probe.json", knn=drawn("kNN"))
    analysis(root / "plain", "probe.json")
    report = compose([root, probe])
    said = ["What cka shows. And more.", "The first carry most.", "What knn shows. And more."]
    assert [figure.caption for figure in report.findings.figures] == said and report.findings.problems == []
    assert report.findings.about[0] == f"mae-lite analyze, of 1,000 images of digits (train): {root / 'analysis'}."
    assert report.findings.about[2].endswith("it has no figures (mae-lite probe --blocks draws them).")
    text = page.render(report)
    reader = Reader(text)
    assert all(words in "".join(reader.text) for words in said) and "What the encoders compute" in text
    assert sum(tag == "svg" for tag, _ in reader.tags) == 3 and len(reader.ids) == len({*reader.ids})
    assert Reader(page.render(compose([probe]))).text.count("What the encoders compute") > 0  # no run is needed
    (tmp_path / "empty").mkdir()
    assert cli.main(["report", str(tmp_path / "empty")]) == 4


def test_pictures_of_an_analysis_are_shown_and_other_files_are_not(tmp_path: Path) -> None:
    folder = analysis(tmp_path / "analysis", cka=drawn())
    content = json.loads((folder / "analysis.json").read_text())
    stored.run(tmp_path, "start", recipes.get("digits-mae"), losses=(), previews=(1,))
    (folder / "tokens.png").write_bytes((tmp_path / "start" / "previews" / "step_1.png").read_bytes())
    (folder / "odd.png").write_bytes(b"GIF89a")
    (folder / "torn.svg").write_text("<svg><g>")
    (folder / "list.svg").write_text("<html xmlns='http://www.w3.org/1999/xhtml'>x</html>")
    (folder / "bomb.svg").write_text("<!DOCTYPE svg [<!ENTITY a 'x'>]><svg>&a;</svg>")
    (tmp_path / "secret.svg").write_text("<svg><text>secret</text></svg>")
    (folder / "link.svg").symlink_to(tmp_path / "secret.svg")
    names = ("tokens.png", "odd.png", "torn.svg", "list.svg", "bomb.svg", "gone.svg", "../secret.svg", "link.svg", "")
    content["figures"] |= {name: ["Said."] for name in names}
    stored.write(folder / "analysis.json", content)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "analysis.json").write_text("{")
    found = compose([tmp_path]).findings
    assert [bool(figure.uri) for figure in found.figures] == [False, True]
    assert {problem.split(": ")[0] for problem in found.problems} == {
        *(f"analysis/{name}" for name in names[1:]), "damaged/analysis.json",
    }  # fmt: skip
    text = page.render(compose([tmp_path]))
    assert "secret<" not in text and text.count("data:image/png") == 2 and "not shown: analysis/torn.svg" in text


BAD = (
    "<script>alert(1)</script>", "<style>*{position:fixed}</style>", "<foreignObject><b/></foreignObject>",
    '<a href="javascript:alert(1)"><text>x</text></a>', '<g onload="alert(1)"/>', '<image href="http://evil/x.png"/>',
    '<use href="http://evil/x.svg#a"/>', '<path style="fill: url(http://evil/x)"/>', '<animate attributeName="href"/>',
    '<path style="fill: url(#a), URL(evil)"/>', '<set attributeName="onload"/>', '<svg onload="x"/>',
    '<image href="data:image/svg+xml;base64,AAAA"/>', '<h:script xmlns:h="http://www.w3.org/1999/xhtml">1</h:script>',
    "<g><script>a</script><script>b</script></g>",
)  # fmt: skip


@pytest.mark.parametrize("bad", BAD)
def test_a_planted_script_does_not_reach_the_page(tmp_path: Path, bad: str) -> None:
    planted = drawn().replace("</svg>", f"{bad}</svg>")
    harmless = page.render(compose([analysis(tmp_path / "x", cka=drawn())]))
    report = compose([analysis(tmp_path / "y", cka=planted)])
    reader = Reader(page.render(report))
    extra = Counter(tag for tag, _ in reader.tags) - Counter(tag for tag, _ in Reader(harmless).tags)
    assert set(extra) <= {"p", "g", "path", "use", "image", "text"}
    names = {name for tag, found in reader.tags for name in found if tag in ("g", "path", "use", "image", "svg")}
    assert not any(name.startswith("on") for name in names) and "evil" not in page.render(report)
    assert all(address.startswith(("data:image/png", "#")) for address in reader.addresses)
    (problem,) = report.findings.problems
    assert problem.startswith("y/cka.svg: left out ")


def test_what_an_analysis_says_does_not_become_markup(tmp_path: Path) -> None:
    expected = Counter(tag for tag, _ in Reader(page.render(compose([analysis(tmp_path / "x", cka=drawn())]))).tags)
    for place, payload in enumerate(PAYLOADS):
        folder = analysis(tmp_path / str(place), cka=drawn())
        content = json.loads((folder / "analysis.json").read_text())
        content |= {"figures": {"cka.svg": [payload]}, "data": payload, "split": payload}
        stored.write(folder / "analysis.json", content)
        reader = Reader(page.render(compose([folder])))
        assert Counter(tag for tag, _ in reader.tags) == expected and payload in "".join(reader.text)


def test_figures_of_ours_pass_whole() -> None:
    colours = {"a": "#123456"}
    ours = [
        drawn(),
        figures.heatmap([[0.1, None], [0.5, 1.0]], "block", "block", "CKA"),
        figures.points(["1", "2"], {"a": [[1, 2], [3]]}, colours, "block", "top-1, %"),
        figures.against({"a": (1.0, 2.0, 0.5)}, colours, "TFLOP", "top-1, %"),
    ]
    for svg in ours:
        kept, left_out = drawings.cleaned(svg)
        before, after = (Counter(one.tag for one in ElementTree.fromstring(text).iter()) for text in (svg, kept))
        assert left_out == []
        assert {tag.rpartition("}")[2] for tag in before - after} <= {
            "metadata",
            "RDF",
            "Work",
            "type",
            "format",
            "style",
        }
        texts = [[one.text for one in ElementTree.fromstring(text).iter() if "text" in one.tag] for text in (svg, kept)]
        assert texts[0] == texts[1] != []
        points = [
            value[1:] for one in ElementTree.fromstring(kept).iter() if (value := one.get("href", "")).startswith("#")
        ]
        assert {*points} <= {one.get("id") for one in ElementTree.fromstring(kept).iter()}
    with pytest.raises(CheckpointError, match="another root"):
        drawings.cleaned("<g/>")


def part_of(name: str, numbers: dict[str, list[float]]) -> Study:
    """Return a study with the rows and as many seeds as there are numbers, so that they are all of it."""
    known, most = studies.get(name), max(map(len, numbers.values()))
    rows = [
        row.model_copy(update={"seeds": len(numbers[row.name]) if len(numbers[row.name]) < most else None})
        for row in known.rows
        if row.name in numbers
    ]
    return known.model_copy(update={"rows": tuple(rows), "seeds": known.seeds[:most], "analyses": (), "claims": ()})


def test_drawings_that_copy_copies_are_cut() -> None:
    levels = "".join(f'<g id="a{n}">{f"""<use href="#a{n - 1}"/>""" * 10}</g>' for n in range(1, 9))
    once = '<path id="p" d="M 0 0"/><use href="#p"/>'
    head = '<svg xmlns="http://www.w3.org/2000/svg">'
    kept, left_out = drawings.cleaned(f'{head}<path id="a0" d="M 0 0"/>{levels}{once}</svg>')
    assert kept.count("<use href=") == 11 and left_out == ["href"]  # ten of a path, and one more
    assert drawings.cleaned(f'{head}<rect fill="image-set(x.png)"/></svg>')[1] == ["fill"]
    assert drawings.cleaned(f'{head}<rect transform="translate(1 2) scale(3)" clip-path="url(#c)"/></svg>')[1] == []


def test_runs_inside_an_analysis_are_no_rows_of_a_page(tmp_path: Path) -> None:
    run = stored.run(tmp_path, "mine", recipes.get("digits-scratch"), losses=(), top1=0.5)
    layers = tmp_path / "layers"
    stored.run(layers, "keep-all-seed-0", recipes.get("digits-finetune"), losses=(), top1=0.9)
    stored.write(layers / "layers.json", {"data": "digits", "sentence": "Lower blocks matter."})
    shown = compose([run, layers])
    assert [one.run.name for one in shown.details] == ["mine"]
    assert any("mae-lite layers" in text for text in shown.findings.about)


def test_a_start_is_where_it_is_named_before_what_is_called_like_it(tmp_path: Path) -> None:
    """Converted weights beside the runs do not become a run of their name."""
    (tmp_path / "converted" / "mae").mkdir(parents=True)
    stored.run(tmp_path / "runs", "mae", recipes.get("digits-mae"), losses=())
    tuned = tmp_path / "runs" / "tuned"
    assert origins.place(tuned, str(tmp_path / "converted" / "mae")) is None
    assert origins.place(tuned, str(tmp_path / "gone" / "mae")) == tmp_path / "runs" / "mae"


def advice(tmp_path: Path, numbers: dict[str, list[float]]) -> dict[str, Any]:
    (found,) = measured(part_of("digits", numbers), tmp_path, numbers)["recommended"]
    return dict(found)


def test_means_over_other_seeds_are_no_rivals(tmp_path: Path) -> None:
    """MoCo-v3 has the highest mean, of the one seed on which MAE is better still."""
    numbers = {"scratch": [0.3, 0.31, 0.32], "MoCo-v3": [0.60], "MAE": [0.62, 0.54, 0.55]}
    found = advice(tmp_path, numbers)
    assert (found["best"], found["not_known"], found["seeds"]) == ("MAE", ["MoCo-v3"], 3)
    words = recommending.in_words(found)
    assert words.endswith("over scratch. Too few seeds to say of chance: MoCo-v3.")
    assert recommending.table([found], {}).rows[0][6].text == "MoCo-v3 (too few seeds to say)"
    study = part_of("digits", numbers)
    (said,) = results.headline(study, measured(study, tmp_path / "again", numbers))
    assert said.startswith("5 labels per class: MAE is best with 57.0") and "MoCo-v3 -2.0" in said


def test_an_unfinished_study_advises_nothing(tmp_path: Path) -> None:
    numbers = {"scratch": [0.3, 0.31, 0.32], "MAE": [0.62, 0.54, 0.55]}
    study = part_of("digits", numbers)
    found = measured(study, tmp_path, numbers | {"MAE": [0.62, 0.54]})
    assert found["recommended"] == [] and not found["complete"]
    assert results.headline(study, found)[0].startswith("5 labels per class so far: ")


def test_the_cheapest_within_chance_is_advised(tmp_path: Path) -> None:
    """D-MAE is best, MAE within chance of it at half the cost; MoCo-v3 is beyond, and supervised knows too much."""
    numbers = {"scratch": [0.70, 0.72, 0.74], "supervised": [0.99, 0.99, 0.99], "MoCo-v3": [0.80, 0.81, 0.82]}
    found = advice(tmp_path, numbers | {"MAE": [0.90, 0.91, 0.93], "D-MAE": [0.91, 0.92, 0.92]})
    assert (found["best"], found["within_chance"], found["advice"]) == ("D-MAE", ["MAE"], "MAE")
    assert found["compared"] == ["scratch", "MoCo-v3", "MAE", "D-MAE"] and found["seeds"] == 3
    gain = found["gain_over_scratch"]
    assert gain["mean"] == pytest.approx(58 / 3) and gain["values"] == pytest.approx([20.0, 19.0, 19.0])
    assert gain["half_width_95"] == pytest.approx(4.302652729911275 / 3)  # deviation 1/sqrt(3), over sqrt(3)
    assert found["behind_best"]["values"] == pytest.approx([-1.0, -1.0, 1.0])
    updates = {"digits-mae": (1000, 128), "digits-finetune": (100, 50)}
    spent = sum(costs.step_gflops(recipes.get(name)) * count * batch for name, (count, batch) in updates.items())
    assert found["gflops"] == pytest.approx(spent, rel=0.06)  # epochs of 1,346 images, of which updates leave some out
    near = recommending.table([found], {}).rows[0][6]
    assert near.text == "D-MAE (ahead by +0.3 ± 2.9 points)"
    assert recommending.in_words(found) == (
        "5 labels per class: take MAE, which costs least of all at most 1 point behind the best, D-MAE (-0.3 ± 2.9); "
        "+19.3 ± 1.4 points over scratch."
    )


def test_the_gain_is_over_the_strongest_scratch_however_few_seeds_it_has() -> None:
    single = {"scratch": {0: 70.0, 1: 71.0}, "longer": {0: 75.0}, "elsewhere": {7: 99.0}, "MAE": {0: 80.0, 1: 80.0}}
    found = recommending.choice(single, dict.fromkeys(single, 1.0), ["scratch", "longer", "elsewhere"])
    assert (found["advice"], found["scratch"], found["gain_over_scratch"]["values"]) == ("MAE", "longer", [5.0])
    assert recommending.choice(single, dict.fromkeys(single, 1.0), ["elsewhere"])["scratch"] is None
    better = {**single, "MAE": {0: 60.0, 1: 60.0}}
    found = recommending.choice(better, dict.fromkeys(single, 1.0), ["scratch", "longer"])
    assert (found["advice"], found["scratch"], found["gain_over_scratch"]) == ("scratch", "scratch", None)


def test_what_is_far_behind_is_not_advised_for_being_within_chance(tmp_path: Path) -> None:
    found = advice(tmp_path, {"scratch": [0.64, 0.76, 0.77], "MAE": [0.87, 0.82, 0.86]})
    assert (found["advice"], found["within_chance"]) == ("MAE", ["scratch"])
    assert recommending.in_words(found).endswith("With these seeds, within chance of the best: scratch.")


def test_commands_of_an_advice_train_what_was_measured(tmp_path: Path) -> None:
    study = studies.get("digits")
    found = advice(tmp_path, {"scratch": [0.7], "D-MAE": [0.9]})
    program = [line.split()[:3] for line in found["commands"]]
    assert program == [["mae-lite", command, f"digits-{name}"] for command, name in (
        ("pretrain", "mae-wide"), ("pretrain", "d-mae"), ("finetune", "finetune"),
    )]  # fmt: skip
    places = {word for line in found["commands"] for word in line.split() if word.startswith("runs/")}
    assert places == {"runs/digits-mae-wide", "runs/digits-d-mae"}
    made = graph.build(study, tmp_path, "digits").stages.values()
    epochs = next(stage.recipe.epochs for stage in made if stage.recipe and stage.recipe.name == "digits-d-mae")
    assert f"--epochs {epochs}" in found["commands"][1] and "--seed" not in " ".join(found["commands"])


def test_one_seed_is_said_and_a_cut_study_advises_nothing(tmp_path: Path) -> None:
    found = advice(tmp_path / "one", {"scratch": [0.7], "MoCo-v3": [0.89], "MAE": [0.9]})
    assert (found["advice"], found["within_chance"], found["seeds"]) == ("MAE", [], 1)
    words = "take MAE, the best of 3 (one seed, so that nothing is said of chance); +20.0 points over scratch."
    assert recommending.in_words(found).endswith(words)
    row = recommending.table([found], {}).rows[0]
    assert [cell.text for cell in row[1:]][3:6] == ["90.0", "+20.0", "not known from one seed"] and row[
        4
    ].detail == "one seed"
    cut = studies.get("digits", "smoke")
    numbers = {row.name: [0.5, 0.6] for row in cut.rows}
    content = measured(cut, tmp_path / "cut", numbers)
    assert content["means"] and content["recommended"] == []
    (said,) = results.headline(cut, content)
    assert "cut to 20 updates" in said and "best" not in said
    assert recommending.why_not(cut) == "No recipe is advised: every training was cut to 20 updates."


def test_sizes_of_encoders_are_advised_apart(tmp_path: Path) -> None:
    numbers = {
        "scratch": [0.75], "MAE": [0.78], "small: scratch": [0.8], "small: MAE": [0.79], "Swin: SimMIM": [0.9],
    }  # fmt: skip
    found = measured(part_of("paper", numbers), tmp_path, numbers)["recommended"]
    assert [(item["advice"], item["compared"]) for item in found] == [
        ("MAE", ["scratch", "MAE"]), ("small: scratch", ["small: scratch", "small: MAE"]),
    ]  # fmt: skip
    assert found[1]["gain_over_scratch"] is None and "M parameters" in recommending.table(found, {}).rows[0][0].text


def carried_out(study: Study, root: Path, numbers: dict[str, list[float]]) -> Order:
    """Write the run folders of a study, as if all of it had been trained and measured."""
    made = graph.build(study, root, "digits")
    top1 = {cell.folder: numbers[cell.row.name][cell.seed] for cell in made.cells}
    for stage in made.stages.values():
        if stage.recipe is None or stage.kind not in ("pretrain", "finetune"):
            continue
        changes: dict[str, Any] = {
            "steps": round(stage.recipe.epochs * (stage.images // stage.recipe.global_batch_size))
        }
        changes |= {"top1": top1[stage.folder]} if stage.folder in top1 else {}
        given = dict(zip(stage.words[2::2], stage.words[3::2], strict=False))
        run = stored.run(root, stage.name, stage.recipe, init=given.get("--init"), losses=(), **changes)
        record = json.loads((run / "recipe.json").read_text())
        stored.write(run / "recipe.json", record | {"teacher": given.get("--teacher")})
    layers = next(stage.folder for stage in made.stages.values() if stage.kind == "layers")
    stored.run(layers, "keep-all-seed-0", recipes.get("digits-finetune"), losses=(), top1=0.123)
    stored.write(layers / "layers.json", {"data": "digits", "sentence": "Lower blocks matter."})
    (_, looked), *_ = made.analyses
    name = looked.needs[-1]
    analysis(looked.folder, cka=figures.curves({name: [([1, 2], [3, 4])]}, {name: "#123456"}, "block", "CKA"))
    return Order(study, "digits", root)


def test_the_page_of_a_study_concludes(tmp_path: Path) -> None:
    numbers = {"scratch": [0.70, 0.72, 0.74], "supervised": [0.99, 0.99, 0.99], "MoCo-v3": [0.80, 0.81, 0.82]}
    order = carried_out(
        studies.get("digits"), tmp_path, numbers | {"MAE": [0.90, 0.91, 0.93], "D-MAE": [0.91, 0.92, 0.92]}
    )
    said = as_text(order, only_report(order))
    assert "5 labels per class: take MAE, which costs least" in said
    text = (order.folder / "report.html").read_text()
    reader = Reader(text)
    shown = "".join(reader.text)
    assert (
        "Which recipe for your data?" in shown
        and "\nmae-lite finetune digits-finetune --data digits --init runs/digits-mae" in shown
    )
    assert 'id="figure-cost-0"' in text and all(name in shown for name in ("MoCo-v3", "D-MAE", "arithmetic of all"))
    assert sum("analysis-" in name for name in reader.ids) == 1  # the other has no drawing
    (drawing,) = [part for part in text.split('<figure id="figure-') if part.startswith("analysis-0")]
    assert "D-MAE</text>" in drawing and "digits-d-mae-" not in drawing.split("</svg>")[0]
    assert "keep-all-seed-0" not in shown and "12.3" not in shown  # what layers trains is no row of the study
    table = json.loads((order.folder / "table.json").read_text())
    assert table["recommended"][0]["advice"] == "MAE"


def test_the_page_of_advice_is_what_the_script_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parent.parent
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    script = importlib.import_module("which_recipe")
    script.main(["--out", str(tmp_path / "page.md")])
    written = (tmp_path / "page.md").read_text()
    assert written == (root / "docs" / "which_recipe.md").read_text(), "python benchmarks/which_recipe.py"
    for line in written.splitlines():  # every command is one that the command line takes
        if line.startswith("mae-lite "):
            _, command, name, *words = shlex.split(line)
            values = overrides.parse(words, config.Request, recipes.get(name).model_dump())
            recipe = overrides.build(config.Request, values).split()[0]
            assert command in recipes.commands_for(recipe)


def test_the_script_takes_the_demo_and_studies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Advice at 2 and 5 labels of a demo, and that of a study, by independent arithmetic."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    script = importlib.import_module("which_recipe")
    found, out = tmp_path / "results", tmp_path / "page.md"
    stored.write(found / "small_data.json", json.loads((script.RESULTS / "small_data.json").read_text()))
    stored.write(found / "study_x.json", {"recommended": [advice(tmp_path / "x", {"scratch": [0.7], "MAE": [0.9]})]})
    script.main(["--demo", str(stored.comparison(tmp_path / "demo")), "--results", str(found), "--out", str(out)])
    first, second, _, study = script.advices(found)
    assert [item["labels_per_class"] for item in (first, second)] == [2, 5]
    assert first["advice"] == "MAE, 100 updates" and first["gain_over_scratch"]["values"] == pytest.approx([20, 21, 22])
    spent = costs.step_gflops(recipes.get("digits-mae")) * 128 + costs.step_gflops(recipes.get("digits-finetune")) * 20
    assert first["gflops"] == pytest.approx(100 * spent)
    assert study["source"] == "study_x.json" and study["commands"][-1].startswith("mae-lite finetune digits-finetune")
    assert "| digits, 0.34 M parameters | 1,346 | 5 | scratch; MAE | MAE | **MAE**: 90.0 % |" in out.read_text()
