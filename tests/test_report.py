"""The report: what it says is computed, what it shows is escaped, and broken run folders do not break it."""

from __future__ import annotations

import html.parser
import json
import math
import os
import shlex
import socket
import statistics
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mae_lite import cli, config, figures, overrides, recipes, rundir
from mae_lite.errors import CheckpointError, DiskError
from mae_lite.report import page, repeat
from mae_lite.report.compose import compose
from mae_lite.report.groups import Estimate
from mae_lite.report.read import read
from mae_lite.report.watch import Watch
from tests import stored
from tests.figures_of import tally


class Reader(html.parser.HTMLParser):
    """Collects the tags, attributes, addresses and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.addresses: list[str] = []
        self.text: list[str] = []
        self.ids: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(sorted(name for name, _ in attrs))))
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_what_was_gained_is_said_with_its_interval(tmp_path: Path) -> None:
    report = compose([stored.comparison(tmp_path)])
    ours, theirs = [85.0, 87.0, 89.0], [65.0, 66.0, 67.0]
    gains = [one - other for one, other in zip(ours, theirs, strict=True)]
    half = 4.302652729911275 * statistics.stdev(gains) / math.sqrt(3)  # t of 2 degrees of freedom at 0.975
    (sentence,) = report.headline
    assert sentence.startswith(
        "With 5 labels per class, MAE pre-training reaches 87.0 % on the test images of digits: "
    )
    assert (
        f"+21.0 ± {half:.1f} points against the same network from scratch with the same number of updates" in sentence
    )
    assert "against nearest (95 % intervals over 3 draws, paired)." in sentence


def test_the_table_has_every_value(tmp_path: Path) -> None:
    report = compose([stored.comparison(tmp_path)])
    accuracy, runs = report.tables
    assert [str(title) for title in accuracy.header] == ["", "2 labels per class", "5 labels per class"]
    rows = {row[0].text: row for row in accuracy.rows}
    assert list(rows) == ["digits-finetune", "digits-scratch", "nearest"]
    assert (rows["digits-finetune"][2].text, rows["digits-finetune"][2].detail) == ("87.0 ± 5.0", "85.0 87.0 89.0")
    assert len(runs.rows) == 13 and len(report.details) == 13
    colours = {row[0].text: row[0].colour for row in accuracy.rows}
    assert colours["digits-finetune"] == figures.COLOURS["mae"]
    assert colours["digits-scratch"] == figures.COLOURS["scratch"]
    by_run = {row[0].text: row[0].colour for row in runs.rows}
    assert by_run["pretrain"] == figures.COLOURS["mae"]  # one method, one colour
    names = {figure.name for figure in report.figures}
    assert {"accuracy", "knn_top1", "rankme", "loss-pre-training", "loss-classification"} <= names
    assert [picture.step for picture in report.sliders[0].pictures] == [10, 20, 30]


@pytest.mark.parametrize("values", [(1.0,), (1.0, 2.0), (3.0, 3.0, 3.0), (1.0, 5.0, 2.0, 8.0)])
def test_intervals_are_students(values: tuple[float, ...]) -> None:
    from scipy.stats import sem, t  # type: ignore[attr-defined]

    estimate = Estimate(values)
    if len(values) == 1:
        assert estimate.half_width is None and estimate.text() == "1.0"
        return
    expected = t.ppf(0.975, len(values) - 1) * sem(values)
    assert estimate.half_width == pytest.approx(expected)


def test_a_pre_training_alone_says_whether_it_learns(tmp_path: Path) -> None:
    run = stored.run(
        tmp_path, "mine", recipes.get("digits-mae"), losses=(0.9, 0.3), probes=({"knn_top1": 0.25}, {"knn_top1": 0.5})
    )
    (sentence,) = compose([run]).headline
    assert sentence == (
        "mine: the loss went from 0.9 to 0.3 in 20 updates, "
        "and nearest neighbours in its features from 25.0 to 50.0 % right."
    )


def test_what_failed_says_why(tmp_path: Path) -> None:
    stored.run(tmp_path, "good", recipes.get("digits-scratch"), top1=0.5)
    stored.run(
        tmp_path, "bad", recipes.get("digits-scratch"), state="failed", message="loss nan\nFix: lower it", steps=7
    )
    report = compose([tmp_path])
    assert "bad failed." in report.headline
    assert "loss nan\nFix: lower it" in "".join(Reader(page.render(report)).text)


def test_the_command_repeats_the_run(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "seed": 3,
        "labels_per_class": None,
        "epochs": 17,
        "augmentation": {"zoom": (0.8, 1.3), "crop_scale": (0.5, 1.0)},
        "optimizer": {"betas": (0.8, 0.99)},
    }
    recipe = recipes.derive(recipes.get("digits-finetune"), **changes)
    run = read(stored.run(tmp_path, "a run", recipe, init="runs/odd name", data="odd 'data'"))
    program, command, name, *words = shlex.split(repeat.command(run))
    assert (program, command, name) == ("mae-lite", "finetune", "digits-finetune")
    base = recipes.get(name).model_dump()
    request = overrides.build(config.Request, overrides.parse(words, config.Request, base))
    again, runtime = request.split()
    assert again == recipe and (runtime.data, runtime.init) == ("odd 'data'", "runs/odd name")
    assert {setting for setting, _, _ in repeat.differences(run)} == {
        "seed", "labels_per_class", "epochs", "augmentation.zoom", "augmentation.crop_scale", "optimizer.betas",
    }  # fmt: skip


def test_a_recipe_that_is_not_known_is_repeated_from_its_file(tmp_path: Path) -> None:
    recipe = recipes.derive(recipes.get("digits-scratch"), "my-own")
    run = read(stored.run(tmp_path, "x", recipe, raw={"parent": "gone"}))
    words = shlex.split(repeat.command(run))
    assert words[2] == str(tmp_path / "x" / "recipe.json") and recipes.get(words[2]).lr_per_256 == recipe.lr_per_256


PAYLOADS = (
    "<script>alert(1)</script>", "</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>",
    "\"><svg onload=alert(1)>", "'><b onclick=alert(1)>", "javascript:alert(1)", "</style><script>1</script>",
    "</pre><iframe src=//x>", "</title><h1>x", "<!--", "-->", "]]>", "<![CDATA[<b>]]>", "&lt;script&gt;", "&#60;b&#62;",
    "{{ 7*7 }}", "{% raw %}", "${7*7}", "`x`", "\\u003cscript\\u003e", "<a href=javascript:x>", "<base href=//x>",
    "<meta http-equiv=refresh content=0>", "<link rel=stylesheet href=//x>", "<object data=x>", "<embed src=x>",
    "<form action=//x><input>", "<details open ontoggle=alert(1)>", "<math><mi xlink:href=x>", "<style>*{}</style>",
    "<svg><script>1</script></svg>", "<x onpointerenter=1>", "onload=alert(1)", "' autofocus onfocus='alert(1)",
    "\" style=\"position:fixed", "</main></body></html><b>", "<textarea>", "<template><b>", "\u202eevil", "<sCrIpT>1",
    "<b\x0bonclick=1>", "%3Cscript%3E",
)  # fmt: skip
FIELDS = (
    "name", "data", "init", "message", "evaluated data", "device", "command", "recipe", "setting", "value",
    "title",
)  # fmt: skip


def filled(root: Path, text: str) -> tuple[Path, str]:
    """Write a run that says ``text`` in every field; return its folder and a title."""
    marked = {field: f"{text}#{place}" for place, field in enumerate(FIELDS)}
    name = marked["name"].replace("/", "|")
    raw = {"name": marked["recipe"], "extra": {marked["setting"]: marked["value"]}, "parent": "digits-mae"}
    run = stored.run(
        root,
        name,
        recipes.get("digits-mae"),
        data=marked["data"],
        init=marked["init"],
        state="failed",
        message=marked["message"],
        top1=0.5,
        evaluation={"data": marked["evaluated data"]},
        start={"device": marked["device"], "command": [marked["command"]]},
        raw=raw,
        previews=(1, 2),
        losses=(),  # figures are slow to draw; their text is tested on its own
    )
    return run, marked["title"]


def besides_words(tags: list[Any]) -> list[Any]:
    """Leave out the plain elements that hold the words of a command."""
    return [tag for tag in tags if tag != ("span", ())]


def test_nothing_in_a_run_becomes_markup(tmp_path: Path) -> None:
    run, title = filled(tmp_path / "plain", "harmless")
    expected = besides_words(Reader(page.render(compose([run], title))).tags)
    assert len(PAYLOADS) * len(FIELDS) >= 400
    tally("payloads", len(PAYLOADS) * len(FIELDS))
    for place, payload in enumerate(PAYLOADS):
        run, title = filled(tmp_path / str(place), payload)
        reader = Reader(page.render(compose([run], title)))
        assert besides_words(reader.tags) == expected, payload
        assert not any(name.startswith("on") for _, names in reader.tags for name in names)
        assert all(address.startswith(("data:image/png", "#")) for address in reader.addresses)
        text = "".join(reader.text)
        for number, field in enumerate(FIELDS):
            shown = f"{payload}#{number}"
            # As it is; in JSON; in a command; as a name of a folder.
            forms = (shown, json.dumps(shown, ensure_ascii=False)[1:-1], shlex.quote(shown), shown.replace("/", "|"))
            assert any(form in text for form in forms), (payload, field)


def test_the_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    text = page.render(compose([stored.comparison(tmp_path)]))
    assert "default-src 'none'" in text and "connect-src" not in text and "http-equiv" in text
    assert len(text) < 2_000_000
    reader = Reader(text)
    assert all(address.startswith(("data:", "#")) for address in reader.addresses)
    assert sum(tag == "script" for tag, _ in reader.tags) == 1
    ours = [name for name in reader.ids if name.startswith(("run-", "slider-", "table-", "figure-"))]
    assert len(ours) == len({*ours}) > 13  # or an update would find the wrong one


def test_the_teachers_share_and_the_spread_of_views_are_shown(tmp_path: Path) -> None:
    taught = ({"teacher_share": 0.5, "seconds": 30.0}, {"teacher_share": 0.9, "seconds": 10.0}, {"teacher_share": "x"})
    stored.run(tmp_path, "taught", recipes.get("feature-distill-tiny"), probes=taught)
    spread = ({"view_feature_std": 0.75}, {"view_feature_std": 0.5})
    stored.run(tmp_path, "views", recipes.get("cifar10-mocov3"), probes=spread)
    report = compose([tmp_path])
    said = {details.run.name: details.summary for details in report.details}
    assert said == {"taught": "finished, the teacher took 60 % of the time", "views": "finished"}
    figure = next(figure for figure in report.figures if figure.name == "view_feature_std")
    assert "collapsed" in figure.caption and "feature spread of views" in figure.svg
    stored.run(tmp_path / "alone", "plain", recipes.get("digits-mae"))
    plain = compose([tmp_path / "alone"])
    assert "teacher" not in plain.details[0].summary
    assert "view_feature_std" not in {figure.name for figure in plain.figures}


def test_figures_follow_the_colour_of_the_page() -> None:
    svg = figures.curves({"a": [([1, 2], [3, 4])]}, {"a": "#123456"}, "update", "<loss> & more")
    assert "currentColor" in svg and "#262626" not in svg and "&lt;loss&gt; &amp; more" in svg
    assert "<text" in svg  # text stays text
    assert svg == figures.curves({"a": [([1, 2], [3, 4])]}, {"a": "#123456"}, "update", "<loss> & more")


@pytest.mark.parametrize(
    "damage",
    [
        ("status.json", "{"),
        ("status.json", "[]"),
        ("provenance.json", "null"),
        ("metrics.jsonl", '{"step": 1}\n{"loss"\n[1]\n{"step": "x", "loss": 3}\n'),
        ("recipe.json", '{"recipe": {"method": 3}}'),
        ("recipe.json", "{}"),
        ("eval/test-1.json", "nonsense"),
        ("bad_files.csv", "\x00"),
        ("provenance.json", '{"starts": [1, {"device": null}]}'),
    ],
)
def test_a_damaged_file_costs_its_part_of_the_page(tmp_path: Path, damage: tuple[str, str]) -> None:
    root = stored.comparison(tmp_path / "runs")
    (root / "mae-5-1" / damage[0]).write_text(damage[1])
    report = compose([root])
    assert len(report.details) == 13
    assert "mae-5-1" in page.render(report)


def test_no_run_is_an_error_that_names_some(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = stored.comparison(tmp_path / "runs")
    (root / "not-a-run").mkdir()
    with pytest.raises(CheckpointError, match=r"(?s)not-a-run.*found no recipe.json; runs nearby: .*mae-2-0.*Fix: "):
        compose([root / "not-a-run"])
    assert cli.main(["report", str(tmp_path / "gone")]) == 4
    assert cli.main(["report"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_the_command_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = stored.comparison(tmp_path / "runs"), tmp_path / "pages" / "x.html"
    assert cli.main(["report", str(root / "pretrain"), str(root), "--out", str(out), "--title", "A <b>title</b>"]) == 0
    shown = capsys.readouterr().out
    assert "MAE pre-training reaches" in shown and str(out) in shown
    assert "<title>A &lt;b&gt;title&lt;/b&gt;</title>" in out.read_text()


@contextmanager
def watching(root: Path) -> Iterator[Watch]:
    server = Watch([root], 0)
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join(10)


def fetch(address: str, **headers: str) -> tuple[int, str, dict[str, str]]:
    request = urllib.request.Request(address, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), dict(error.headers)


def test_watch_shows_what_is_there_now(tmp_path: Path) -> None:
    root = stored.comparison(tmp_path / "runs")
    with watching(root) as server:
        status, text, headers = fetch(server.address)
        assert status == 200 and "data-live" in text and "connect-src 'self'" in text
        assert headers["X-State"] == "13 finished"
        folder = rundir.checkpoints(root)  # read-only: nothing was written
        assert folder == [] and not list(root.rglob("*.html"))
        stored.write(root / "pretrain" / "status.json", {"state": "stopped", "step": 5, "total_steps": 9})
        status, text, headers = fetch(server.address + "content")
        assert "pretrain was stopped and can be resumed." in text and "<html" not in text
        assert headers["X-State"] == "12 finished, 1 stopped"


@pytest.mark.parametrize(
    "path", ["../x", "etc/passwd", "%2e%2e/secret", "pretrain/recipe.json", "..%2f..%2fetc/passwd", "//x"]
)
def test_watch_serves_no_files(tmp_path: Path, path: str) -> None:
    with watching(stored.comparison(tmp_path / "runs")) as server:
        status, text, _ = fetch(server.address + path)
        assert status == 404 and "recipe" not in text
        assert fetch(server.address, Host="evil.example")[0] == 403


def test_watch_listens_on_this_machine_alone(tmp_path: Path) -> None:
    with watching(stored.comparison(tmp_path / "runs")) as server:
        assert server.address.startswith("http://127.0.0.1:")
        with pytest.raises(DiskError, match=r"(?s)port \d+ of 127.0.0.1.*Fix: .*--port 0"):
            Watch([tmp_path / "runs"], int(server.address.rsplit(":", 1)[1].strip("/")))


def pair(root: Path, ours: dict[int, float], theirs: dict[int, float], **changes: Any) -> Path:
    """Write fine-tunings with 5 labels from MAE and from scratch, by seed; ``changes`` are those of scratch."""
    if not (root / "pretrain").exists():
        stored.run(root, "pretrain", recipes.get("digits-mae"))
    for seed, top1 in ours.items():
        tuned = recipes.derive(recipes.get("digits-finetune"), seed=seed)
        stored.run(root, f"mae-{seed}", tuned, init=str(root / "pretrain"), top1=top1)
    for seed, top1 in theirs.items():
        scratch = recipes.derive(recipes.get("digits-scratch"), seed=seed, **changes.get("recipe", {}))
        others = {name: value for name, value in changes.items() if name != "recipe"}
        stored.run(root, f"scratch-{seed}", scratch, **{"top1": top1, **others})
    return root


def said(root: Path) -> str:
    return " ".join(compose([root]).headline)


def test_only_seeds_of_both_make_an_interval(tmp_path: Path) -> None:
    text = said(pair(tmp_path / "some", {0: 0.9, 1: 0.8, 2: 0.7}, {1: 0.6, 2: 0.6}))
    assert "+15.0 ± 63.5 points" in text and "(95 % intervals over 2 draws, paired)" in text
    assert "one seed, so that nothing is said of chance" in said(pair(tmp_path / "one", {0: 0.9, 1: 0.8}, {1: 0.6}))
    none = said(pair(tmp_path / "none", {0: 0.9}, {1: 0.6}))
    assert none == "With 5 labels per class, MAE pre-training reaches 90.0 % on the test images of digits."


def test_a_repeated_seed_and_an_unfinished_run_do_not_count_twice(tmp_path: Path) -> None:
    root = pair(tmp_path / "runs", {0: 0.9, 1: 0.8}, {0: 0.6, 1: 0.6})
    again = recipes.derive(recipes.get("digits-finetune"), seed=0)
    stored.run(root, "mae-0-again", again, init=str(root / "pretrain"), top1=0.1)
    stored.run(root, "mae-2", recipes.derive(again, seed=2), init=str(root / "pretrain"), top1=0.1, state="paused")
    report = compose([root])
    assert "reaches 85.0 %" in report.headline[0] and "mae-2 is paused" in report.headline[1]
    why = "mae-0-again (of a seed that another run has); mae-2 (not finished)"
    assert f"Not compared: {why}." in report.notes


def test_only_accuracies_on_the_same_images_are_compared(tmp_path: Path) -> None:
    root = pair(tmp_path / "runs", {0: 0.9, 1: 0.9}, {0: 0.6, 1: 0.6})
    stored.write(root / "scratch-0" / "eval" / "train-9.json", {"top1": 1.0, "split": "train", "data": "digits"})
    stored.write(root / "scratch-1" / "eval" / "test-9.json", {"top1": 1.0, "split": "test", "data": "other.parquet"})
    assert "+30.0" in said(root)
    elsewhere = {"top1": 0.99, "split": "test", "data": "digits", "fingerprint": {"sha256": "other images"}}
    stored.write(root / "scratch-1" / "eval" / "test-1.json", elsewhere)
    report = compose([root])
    assert "+30.0" in report.headline[0] and "one seed" in report.headline[0]
    assert any("scratch-1" in note for note in report.notes)


def test_two_pre_trainings_are_two_groups(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    for name, epochs, top1 in (("long", 500, 0.95), ("short", 50, 0.6)):
        stored.run(root, f"pre-{name}", recipes.derive(recipes.get("digits-mae"), epochs=epochs))
        stored.run(root, f"fine-{name}", recipes.get("digits-finetune"), init=str(root / f"pre-{name}"), top1=top1)
    stored.run(root, "scratch", recipes.get("digits-scratch"), top1=0.5)
    report = compose([root])
    labels = [row[0].text for row in report.tables[0].rows]
    assert labels[:2] == ["digits-finetune (from pre-long)", "digits-finetune (from pre-short)"]
    which = "digits-finetune (from pre-long), the best of 2 by this very score"
    assert f"reaches 95.0 % on the test images of digits ({which})" in said(root)


def test_a_start_on_other_data_is_no_row_of_the_comparison(tmp_path: Path) -> None:
    """Its classes are others."""
    scratch, root = recipes.get("digits-scratch"), tmp_path / "runs"
    stored.run(root, "labels", scratch, data="six", top1=0.99)
    stored.run(root, "teacher", recipes.get("digits-mae"), data="six")  # no rival: nothing of it was measured
    stored.run(root, "scratch", scratch, data="four", top1=0.6)
    begun = stored.run(root, "from-labels", recipes.get("digits-finetune"), data="four", init=str(root / "labels"))
    assert len(compose([root]).tables[0].rows) == 2  # nothing yet that it is the start of
    stored.write(begun / "eval" / "test-1.json", {"top1": 0.9, "split": "test", "data": "four"})
    report = compose([root])
    assert [row[0].text for row in report.tables[0].rows] == ["digits-finetune on four", "digits-scratch on four"]
    assert report.notes == ["Not compared: labels (a start of runs on other data)."]
    assert "99.0" not in " ".join(report.headline)
    assert {row[0].text: row[7].text for row in report.tables[1].rows}["labels"] == "99.00"


@pytest.mark.parametrize("rival", ["fewer labels", "another start", "no run"])
def test_a_start_that_has_rivals_is_compared(tmp_path: Path, rival: str) -> None:
    scratch, root = recipes.get("digits-scratch"), tmp_path / "runs"
    stored.run(root, "labels", scratch, data="six", top1=0.99)
    stored.run(root, "from-labels", recipes.get("digits-finetune"), data="four", init=str(root / "labels"), top1=0.9)
    if rival == "fewer labels":
        stored.run(root, "few", recipes.derive(scratch, labels_per_class=2), data="six", top1=0.5)
    elif rival == "another start":
        stored.run(root, "other", recipes.derive(scratch, lr_per_256=1e-3), data="six", top1=0.5)
        again = recipes.derive(recipes.get("digits-finetune"), lr_per_256=1e-3)
        stored.run(root, "from-other", again, data="four", init=str(root / "other"), top1=0.8)
    else:
        number = {"name": "resnet", "data": "six", "labels_per_class": 5, "seed": 0, "top1": 0.5}
        stored.write(root / "baselines.json", [number])
    report = compose([root])
    assert not report.notes and "99.0" in {cell.text for row in report.tables[0].rows for cell in row}


def test_a_pre_training_without_labels_has_none(tmp_path: Path) -> None:
    report = compose([stored.comparison(tmp_path)])
    labels = {row[0].text: row[2].text for row in report.tables[1].rows}
    assert labels["pretrain"] == "none" and labels["mae-5-0"] == "5"
    stored.run(tmp_path, "whole", recipes.derive(recipes.get("digits-scratch"), labels_per_class=None))
    report = compose([tmp_path])
    assert {row[0].text: row[2].text for row in report.tables[1].rows}["whole"] == "all"
    assert sorted(row[1].text for row in report.costs.rows) == ["2", "2", "5", "5", "all", "none"]


def test_an_unequal_opponent_is_called_so(tmp_path: Path) -> None:
    smaller = {"encoder": {"depth": 1, "width": 24}, "global_batch_size": 5}
    text = said(pair(tmp_path / "smaller", {0: 0.9}, {0: 0.6}, recipe=smaller))
    assert "another network from scratch (digits-scratch)" in text and "in batches of 5 instead of 50" in text
    assert "with 25 times fewer updates" in said(pair(tmp_path / "few", {0: 0.9}, {0: 0.6}, steps=4))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("eval/test-1.json", '{"top1": NaN, "split": "test", "data": "digits"}'),
        ("eval/test-1.json", '{"top1": 1e999, "split": 3}'),
        ("recipe.json", '{"recipe": {"method": {"kind": "supervised"}, "seed": null, "labels_per_class": "all"}}'),
        ("recipe.json", '{"recipe": {"method": {"kind": "supervised"}, "name": "a$\\\\foo$b_c"}, "data": "$x$"}'),
        ("status.json", '{"state": "running", "step": "many", "total_steps": 1e400, "pid": 99999999}'),
        ("metrics.jsonl", '{"step": 1' + "0" * 400 + ', "loss": 1}\n{"step": 2, "loss": NaN, "lr": Infinity}\n'),
    ],
)
def test_odd_numbers_cost_no_page(tmp_path: Path, file: str, content: str) -> None:
    root = stored.comparison(tmp_path / "runs")
    (root / "mae-5-1" / file).write_text(content)
    (root / "pretrain" / "previews" / "step_99.png").mkdir()
    stored.write(
        root / "baselines.json", [{"name": "x", "data": "digits", "labels_per_class": "5", "seed": 0, "top1": 0.3}]
    )
    assert "mae-5-1" in page.render(compose([root]))


@pytest.mark.parametrize(("count", "states"), [(1, 16), (3, 5), (20, 2)])
def test_previews_of_many_runs_leave_a_page_that_can_be_sent(tmp_path: Path, count: int, states: int) -> None:
    for number in range(count):
        run = stored.run(tmp_path, f"run-{number}", recipes.get("digits-mae"), losses=(), previews=range(20))
        for picture in (run / "previews").iterdir():
            picture.write_bytes(picture.read_bytes().ljust(60_000, b" "))
    report = compose([tmp_path])
    assert {len(slider.pictures) for slider in report.sliders} == {states} and len(report.sliders) == count
    assert all((slider.pictures[0].step, slider.pictures[-1].step) == (0, 19) for slider in report.sliders)
    assert len(page.render(report)) < 4e6


def test_a_run_whose_process_is_gone_does_not_run(tmp_path: Path) -> None:
    run = stored.run(tmp_path, "mine", recipes.get("digits-mae"))
    process = subprocess.Popen(["true"])
    process.wait()
    status = {"state": "running", "step": 1, "total_steps": 9, "host": socket.gethostname()}
    stored.write(run / "status.json", {**status, "pid": process.pid})
    assert "mine ended without a word and can be resumed." in compose([run]).headline
    stored.write(run / "status.json", {**status, "pid": os.getpid()})
    assert "mine is running." in compose([run]).headline


def test_the_command_names_the_validation_data_and_nothing_unrecorded(tmp_path: Path) -> None:
    folder = stored.run(tmp_path, "x", recipes.get("digits-scratch"))
    record = json.loads((folder / "recipe.json").read_text())
    del record["recipe"]["reading"], record["recipe"]["precision"]
    stored.write(folder / "recipe.json", {**record, "val_data": "digits#test"})
    command = repeat.command(read(folder))
    assert "--val-data 'digits#test'" in command and "--reading" not in command and "--precision" not in command


def test_two_teachers_are_two_groups(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    for name, top1 in (("large", 0.9), ("small", 0.7)):
        taught = stored.run(root, f"pre-{name}", recipes.get("digits-mae"))
        record = json.loads((taught / "recipe.json").read_text())
        stored.write(taught / "recipe.json", {**record, "teacher_sha256": name})
        stored.run(root, f"fine-{name}", recipes.get("digits-finetune"), init=str(taught), top1=top1)
    accuracy, runs = compose([root]).tables
    assert [row[1].text for row in accuracy.rows] == ["90.0", "70.0"]
    assert len({row[1].text for row in runs.rows}) == 4
