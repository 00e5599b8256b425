"""The models that come with the package: small, whole, and as good as their pages say."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

import mae_lite
from mae_lite import cli, files, recipes, shipped, training
from mae_lite.data.opening import open_source
from mae_lite.data.sources import subset
from mae_lite.errors import CheckpointError
from tests import toy
from tests.test_errors import assert_contract

LARGEST_MB = 3.0
CLASSIFIERS = [
    pytest.param(name, marks=() if name.startswith("digits") else (pytest.mark.slow, pytest.mark.needs_data))
    for name in shipped.names()
    if "finetuned" in name
]


def page(name: str) -> str:
    return (shipped.FOLDER / name / "README.md").read_text()


def test_there_are_models_for_examples() -> None:
    assert {"digits-mae", "digits-mae-finetuned"} <= set(shipped.names())


@pytest.mark.parametrize("name", shipped.names())
def test_a_model_is_small_whole_and_described(name: str) -> None:
    folder = shipped.FOLDER / name
    contents = files.read_folder(folder)  # every file has its SHA-256
    assert {path.name for path in folder.iterdir()} == {*contents, files.MANIFEST}
    assert sum(map(len, contents.values())) < LARGEST_MB * 1e6
    assert {"README.md", "config.json", "model.safetensors"} == set(contents)
    text = page(name)
    assert f"pretrained:{name}" in text and "mae-lite pretrain" in text and "Apache-2.0" in text
    assert not re.search(r"/(tmp|home|work|root)/", text + contents["config.json"].decode())
    own: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    ours: Any = mae_lite.load_encoder(f"pretrained:{name}")
    side, channels = ours.patch_embed.img_size[0], ours.patch_embed.proj.in_channels
    images = torch.rand(2, channels, side, side)
    with torch.no_grad():
        assert torch.equal(ours.forward_features(images), own.forward_features(images))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_is_as_good_as_its_page_says(name: str, request: pytest.FixtureRequest) -> None:
    (said,) = re.findall(r"Top-1 accuracy: ([0-9.]+) % of the ([0-9,]+) test images", page(name))
    kind = name.partition("-")[0]
    data = "digits" if kind == "digits" else str(request.getfixturevalue("shared_data") / kind / "test.parquet")
    source = open_source(data, "test")
    assert source.classes is not None and said[1] == f"{len(source):,}"
    found = list(mae_lite.predict(f"pretrained:{name}", data, top=1))
    right = sum(item.classes[0] == source.classes[label] for item, label in zip(found, source.labels, strict=True))
    assert 100 * right / len(found) == pytest.approx(float(said[0]), abs=0.3)  # other processors round differently


def test_a_name_stands_wherever_weights_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tuned = recipes.derive(recipes.get("digits-finetune"), epochs=2, warmup_epochs=1)
    runtime = toy.runtime(tmp_path / "run", init="pretrained:digits-mae")
    assert training.run(tuned, runtime).state == "finished"
    recorded = json.loads((tmp_path / "run" / "recipe.json").read_text())
    manifest = shipped.FOLDER / "digits-mae" / files.MANIFEST
    assert recorded["init_sha256"] == files.sha256(manifest.read_bytes())
    words = ["--data", "digits", "--images", "20", "--importance", "none", "--out", str(tmp_path / "analysis")]
    assert cli.main(["analyze", "pretrained:digits-mae", "pretrained:digits-mae-finetuned", *words]) == 0
    assert (tmp_path / "analysis" / "cka-digits-mae+digits-mae-finetuned.svg").exists()
    assert cli.main(["predict", "pretrained:digits-mae-finetuned", "digits", "--top", "1", "--json"]) == 0
    assert '"model": "pretrained:digits-mae-finetuned"' in capsys.readouterr().out


def test_a_run_becomes_a_model_to_ship(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    release = importlib.import_module("release")
    start, tuned = recipes.get("digits-mae"), recipes.get("digits-finetune")
    training.run(recipes.derive(start, epochs=0.3, warmup_epochs=0.1), toy.runtime(tmp_path / "start"))
    tuned = recipes.derive(tuned, epochs=2, warmup_epochs=1)
    training.run(tuned, toy.runtime(tmp_path / "run", init=str(tmp_path / "start")))
    words = [str(tmp_path / "run"), "toy", "--about", "A toy.", "--out", str(tmp_path / "out")]
    assert release.main(words) == 0
    text = (tmp_path / "out" / "toy" / "README.md").read_text()
    assert "of the 451 test images, 10 classes" in text and "--init runs/start" in text and str(tmp_path) not in text
    (made,) = mae_lite.predict(tmp_path / "out" / "toy", subset(open_source("digits", "test"), np.array([3])), top=1)
    (plain,) = mae_lite.predict(tmp_path / "run", subset(open_source("digits", "test"), np.array([3])), top=1)
    assert made.probabilities == pytest.approx(plain.probabilities, abs=1e-2)


@pytest.mark.parametrize(
    "words", [("predict", "pretrained:digit-mae", "digits"), ("analyze", "pretrained:", "--data", "digits")]
)
def test_unknown_names_are_explained(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(list(words))
    message = assert_contract(capsys.readouterr().err, code, CheckpointError.exit_code, mentions=[words[1]])
    assert "does not come with mae_lite" in message and "pretrained:digits-mae" in message
