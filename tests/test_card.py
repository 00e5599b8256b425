"""The card of a model tells the truth: its numbers are those that others compute, and nothing in it is run."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml  # type: ignore[import-untyped]

import mae_lite
from mae_lite import cli, files, training
from mae_lite.cards import estimates, fresh, speed, words
from mae_lite.cards.readme import readme
from mae_lite.data.opening import open_source
from mae_lite.errors import ConfigError
from mae_lite.predicting.models import load_classifier
from mae_lite.report.card import contents
from tests import toy

Captured = pytest.CaptureFixture[str]
QUICK = ("--seconds", "0", "--memory", "false")
MODEL = "pretrained:digits-mae-finetuned"
HOSTILE = '</script><img src=x onerror=alert(1)>"|`: [x](y)\n---\n\x85\u2028'


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    training.run(toy.classifier(encoder={"depth": 2}), toy.runtime(folder))
    return folder


@pytest.fixture
def run(trained: Path) -> str:
    shutil.copytree(trained, "run")
    return "run"


def card(*words: str) -> int:
    return cli.main(["card", *words, *QUICK])


def read(folder: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(Path(folder, "card.json").read_text())
    return record


def front_matter(text: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return found


def test_quality_is_what_plain_numpy_and_evaluate_say(run: str, capsys: Captured) -> None:
    assert card(run, "--compare", "100000") == 0, capsys.readouterr().err
    found = read("run/card")["quality"]
    capsys.readouterr()
    assert cli.main(["evaluate", run, "--json-output", "true"]) == 0
    judged = json.loads(capsys.readouterr().out)
    assert (found["top1"], found["balanced_accuracy"], found["top5"]) == (
        judged["top1"],
        judged["macro"],
        judged["top5"],
    )
    assert {one["class"]: one["accuracy"] for one in found["per_class"]} == judged["per_class"]
    assert found["confusion"] == judged["confusion"] and found["images"] == 451
    model: Any = load_classifier(run)
    source = open_source("digits", "test")
    with torch.no_grad():
        scores = model(torch.stack([model.transform(source.example(place).data) for place in range(451)])).numpy()
    shares = np.exp(scores - scores.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    said, sure = shares.argmax(1), shares.max(1)
    matrix = [[int(((source.labels == row) & (said == column)).sum()) for column in range(10)] for row in range(10)]
    assert found["confusion"] == matrix
    error = 0.0
    for low in range(15):
        inside = (sure > low / 15) & (sure <= (low + 1) / 15)
        if inside.any():
            error += inside.mean() * abs((said == source.labels)[inside].mean() - sure[inside].mean())
    assert found["calibration"]["ece"] == pytest.approx(error, abs=1e-4)
    worst = read("run/card")["mistakes"][0]
    wrong = np.where(said != source.labels, sure, 0)
    assert worst["probability"] == pytest.approx(wrong.max(), abs=1e-5)
    assert (worst["label"], worst["predicted"]) == (str(source.labels[wrong.argmax()]), str(said[wrong.argmax()]))


def test_from_python_it_is_the_same_card(run: str) -> None:
    found = mae_lite.card(Path(run), "card", licence="mit", seconds=0.0, memory=False, compare=20)
    assert found == {"out": "card", **read("card")} and found["licence"] == "mit"
    assert 0 <= found["quality"]["top1"] <= 1 and Path("card/card.html").exists() and Path("card/README.md").exists()
    with pytest.raises(ConfigError, match="licens"):
        mae_lite.card(run, licens="mit")


def test_intervals() -> None:
    assert estimates.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe 1998, table I
    assert estimates.wilson(0, 20)[0] == 0 and 0.1 < estimates.wilson(0, 20)[1] < 0.2
    lost, (low, high) = estimates.drop([True] * 60 + [False] * 40, [True] * 50 + [False] * 46 + [True] * 4)
    assert lost == pytest.approx(0.06) and low < 0.06 < high
    assert (high - low) / 2 == pytest.approx(1.96 * (15 - 36 / 102) ** 0.5 / 102, abs=1e-4)


def test_calibration_error_of_too_sure_and_too_modest_bins() -> None:
    random = np.random.default_rng(1)
    sure = np.concatenate([random.uniform(0.1, 1.0, 500), [1 / 15, 2 / 15, 1.0]])
    right = random.uniform(size=503) < 0.55  # modest below, too sure above
    wanted, signs = 0.0, set()
    for number in range(15):
        inside = [place for place in range(503) if number / 15 < sure[place] <= (number + 1) / 15]
        if inside:
            gap = sum(float(right[place]) - sure[place] for place in inside) / len(inside)
            signs.add(gap > 0)
            wanted += abs(gap) * len(inside) / 503
    found = estimates.calibration(sure, right)
    assert signs == {True, False} and found["ece"] == pytest.approx(wanted, abs=1e-12)
    assert sum(one["images"] for one in found["bins"]) == 503
    assert (found["bins"][0]["images"], found["bins"][0]["high"]) == (1, 1 / 15)  # the upper border belongs to a bin
    assert found["mean_confidence"] == pytest.approx(sure.mean())


def test_forms_share_one_card_with_their_export(capsys: Captured) -> None:
    words = ["--images", "digits", "--to", "timm", "timm-half", "--out", "out", *QUICK]
    assert cli.main(["export", MODEL, *words]) == 0, capsys.readouterr().err
    record, exported = read("out"), json.loads(Path("out/export.json").read_text())
    for own, theirs in zip(record["forms"], exported["forms"], strict=True):
        assert (own["form"], own["accuracy"], own["bytes"]) == (theirs["form"], theirs["accuracy"], theirs["bytes"])
        assert all(0 < one["p50_ms"] <= one["p95_ms"] and one["calls"] >= 20 for one in own["latency"])
    assert files.read_folder(Path("out")).keys() >= {"card.html", "card.json", "README.md", "timm/config.json"}
    assert card("out", "--mistakes", "0") == 0, capsys.readouterr().err  # again, in its place
    assert read("out")["mistakes"] == [] and read("out")["quality"] == record["quality"]
    assert files.read_folder(Path("out"))["card.html"] == Path("out/card.html").read_bytes()
    Path("out/README.md").write_text("mine")
    assert card("out") == 2 and "not as it was written last" in capsys.readouterr().err
    assert Path("out/README.md").read_text() == "mine"
    Path("out/timm/model.safetensors").write_bytes(b"other")
    assert card("out", "--out", "new") == 4 and "not what was exported" in capsys.readouterr().err


def test_no_card() -> None:
    words = ["--images", "digits", "--to", "timm", "--out", "out", "--card", "false"]
    assert cli.main(["export", MODEL, *words]) == 0
    assert not Path("out/card.html").exists()


def test_front_matter_is_what_the_hub_reads(run: str) -> None:
    from huggingface_hub import ModelCard

    assert card(run, "--licence", "apache-2.0") == 0
    text = Path("run/card/README.md").read_text()
    found, record = front_matter(text), read("run/card")
    assert found["license"] == "apache-2.0" and found["pipeline_tag"] == "image-classification"
    (result,) = found["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == pytest.approx(record["quality"]["top1"], abs=1e-6)
    data: Any = ModelCard(text).data
    assert data.license == "apache-2.0" and [one.metric_type for one in data.eval_results] == ["accuracy"] * 2
    assert "not stated" not in text and record["provenance"]["fingerprint"]["count"] > 0


def hostile() -> dict[str, Any]:
    assert card(MODEL, "--images", "digits", "--out", "plain") == 0
    record = read("plain")
    text = json.dumps(record).replace('"class": "3"', json.dumps({"class": HOSTILE})[1:-1])
    text = text.replace('"label": "3"', json.dumps({"label": HOSTILE})[1:-1])
    changed: dict[str, Any] = json.loads(text)
    return {**changed, "title": HOSTILE, "classes": [HOSTILE, *record["classes"][1:]]}


class Tags(HTMLParser):
    """Lists the elements of a page and their handlers of events."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.handlers: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on")]


def test_markup_in_names_is_text() -> None:
    record = hostile()
    made = contents(record, [b""] * len(record["mistakes"]))
    page = made["card.html"].decode()
    parser = Tags()
    parser.feed(page)
    assert parser.tags.count("script") == 1 and not parser.handlers and "onerror=alert(1)&gt;" in page
    assert parser.tags.count("img") == len(record["mistakes"])
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy and "default-src 'none'" in policy[1] and not re.search(r"(?:src|href)=\"?https?:", page)
    text = made["README.md"].decode()
    found = front_matter(text)
    assert found["model-index"][0]["name"] == HOSTILE
    body = text.split("---\n", 2)[2]
    assert "<img" not in body.replace("\\<", "") and "[x](y)" not in body


def test_what_is_unknown_is_said(run: str, capsys: Captured) -> None:
    from PIL import Image

    Path("photos").mkdir()
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (9, 9), dtype=np.uint8)
        Image.fromarray(pixels).save(f"photos/{number}.png")
    assert card(run, "--images", "photos") == 0, capsys.readouterr().err
    record = read("run/card")
    assert record["quality"] is None and record["forms"][0]["accuracy"] is None
    assert "No accuracy was measured: the images have no labels." in capsys.readouterr().out
    page, text = Path("run/card/card.html").read_text(), Path("run/card/README.md").read_text()
    assert "are unknown: the images have no labels" in page and "not stated" in page
    assert "model-index" not in text and "metrics" not in front_matter(text)


def test_a_run_that_is_not_finished(run: str, capsys: Captured) -> None:
    status = json.loads(Path("run/status.json").read_text())
    Path("run/status.json").write_text(json.dumps({**status, "state": "stopped"}))
    assert card(run) == 4
    message = capsys.readouterr().err
    assert "is not finished" in message and "Fix:" in message and not Path("run/card").exists()


def test_a_licence_is_a_name(capsys: Captured) -> None:
    assert card(MODEL, "--licence", "see my page") == ConfigError.exit_code
    assert "licence" in capsys.readouterr().err


def test_memory_is_that_of_the_form(tmp_path: Path) -> None:
    from mae_lite.cards.memory import peak
    from mae_lite.shipped import resolved

    found = peak("timm", Path(resolved(MODEL)), (1, 8))
    assert 50 < found["libraries_mb"] <= found["peak_mb"] < 5000
    assert peak("timm", tmp_path, (1, 8))["peak_mb"] is None
    assert set(fresh._OPENERS) >= {"torch", "timm", "onnx", "onnx-int8", "torch-export", "huggingface"}


def test_slow_and_fast_take_turns_and_are_told_apart() -> None:
    calls: list[str] = []

    class Sleeper:
        def __init__(self, name: str, milliseconds: float) -> None:
            self.name, self.seconds = name, milliseconds / 1e3

        def __call__(self, images: torch.Tensor) -> torch.Tensor:
            calls.append(self.name)
            time.sleep(self.seconds)
            return images

        def states(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"": images}

    forms: dict[str, speed.Opener] = {"slow": lambda: Sleeper("slow", 4), "fast": lambda: Sleeper("fast", 1)}
    found = speed.latencies(forms, torch.zeros(1, 1, 2, 2), [1, 2], 0.0)
    assert [one["threads"] for one in found["slow"]] == [1, 2] and speed.thread_counts(6) == [1, 2, 4, 6]
    assert found["slow"][0]["p50_ms"] >= 4 and 1 <= found["fast"][0]["p50_ms"] < found["slow"][0]["p50_ms"]
    changes = sum(one != other for one, other in itertools.pairwise(calls))
    assert changes == 7  # two turns each, for two numbers of threads
    rates = speed.throughputs(forms, torch.zeros(1, 1, 2, 2), 1, 0.0)
    assert [one["batch"] for one in rates["slow"]] == [*speed.BATCHES]
    assert rates["slow"][3]["images_per_second"] <= 64 / 4e-3
    (row, half) = speed.on_device(torch.nn.Flatten(), torch.zeros(1, 1, 2, 2), torch.device("cpu"), 0.0)
    assert row["numbers"] == "float32" and half["batches"][-1]["batch"] == 256 and row["p50_ms"] > 0


def test_readme_names_no_folder_of_this_machine() -> None:
    assert card(MODEL, "--images", "digits", "--out", "plain") == 0
    record = read("plain")
    record["measured_on"]["data"] = "folder:/home/me/secret/photos"
    assert "secret" not in readme(record) and "photos" in readme(record)


def test_a_gain_is_a_loss_the_other_way_round() -> None:
    assert words.gained(0.012, (-0.001, 0.02)) == "-1.20 (-2.00 to +0.10)"
    assert words.gained(0.0, (0.0, 0.0)) == "+0.00 (+0.00 to +0.00)"
