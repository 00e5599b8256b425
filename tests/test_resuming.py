"""Going on with a run: which settings may change, what is said and recorded, and what images came and went."""

from __future__ import annotations

import json
import os
import shutil
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import BaseModel

from mae_lite import cli, config, recipes, resuming, rundir, training
from mae_lite.errors import CheckpointError, ConfigError, DiskError
from tests import toy

HASHES = {"init_sha256", "teacher_sha256", "classes"}
"""What stands in a run folder beside settings."""


def pages(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the pages of settings that a field may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from pages(inner)


def fields(page: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the dotted name of every setting, of every kind of encoder, method and optimiser."""
    for name, field in page.model_fields.items():
        inner = list(pages(field.annotation))
        for one in inner:
            yield from fields(one, f"{prefix}{name}.")
        if not inner:
            yield prefix + name


FIELDS = sorted({*fields(config.Recipe), *fields(config.Runtime)})


def saved(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "recipe.json").read_text())
    return content


def starts(folder: Path) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = json.loads((folder / "provenance.json").read_text())["starts"]
    return content


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of 2 of 6 updates, for copying."""
    folder = tmp_path_factory.mktemp("begun") / "run"
    training.run(toy.mae(), toy.runtime(folder, stop_after_steps=2))
    return folder


@pytest.fixture
def run(begun: Path, tmp_path: Path) -> Path:
    """Return a copy of the run that was begun."""
    return Path(shutil.copytree(begun, tmp_path / "run"))


# Every field has a class


@pytest.mark.parametrize("name", FIELDS)
def test_every_setting_has_a_class_and_is_treated_so(name: str, tmp_path: Path) -> None:
    """A record in which this setting alone is another goes on, asks for --override, or is another run."""
    kind = resuming.CLASSES[name]  # a new setting needs one
    path = name if name in ("data", "val_data", "pixels") else f"recipe.{name}"
    folder = tmp_path / "run"
    rundir.RunDir(folder, nested(path, "old")).close()
    (folder / "checkpoints" / "step_7").mkdir()
    if kind == "safe":
        rundir.RunDir(folder, nested(path, "new")).close()
        return
    words = f"--override {name}" if kind == "override" else "needs a new run"
    with pytest.raises(ConfigError, match="saved -> now") as caught:
        rundir.RunDir(folder, nested(path, "new"))
    assert f"{name}: 'old' -> 'new' ({words}" in caught.value.found
    assert (f"--override {name}" in caught.value.fix) == (kind == "override")
    assert saved(folder) == nested(path, "old")
    if kind == "override":
        rundir.RunDir(folder, nested(path, "new"), override=(name,)).close()
        note = {"field": name, "saved": "old", "now": "new", "step": 7}
        assert saved(folder) == {**nested(path, "new"), "overridden": [note]}
    else:
        with pytest.raises(ConfigError, match="cannot change on the way"):
            rundir.RunDir(folder, nested(path, "new"), override=(name,))


def nested(path: str, value: str) -> dict[str, Any]:
    """Return a record that holds one setting."""
    record: dict[str, Any] = {}
    *outer, leaf = path.split(".")
    inner = record
    for key in outer:
        inner = inner.setdefault(key, {})
    inner[leaf] = value
    return {"pixels": "exact", **record}


def test_no_class_is_kept_in_vain() -> None:
    assert set(resuming.CLASSES) - set(FIELDS) == HASHES


# What is said, and what happens


def full(*_: object) -> None:
    raise DiskError("full", fix="x")


def test_more_epochs_go_on_when_told_to(run: Path, tmp_path: Path) -> None:
    training.run(toy.mae(), toy.runtime(run))  # finished
    first = (run / "encoder" / "model.safetensors").read_bytes()
    longer = toy.mae(epochs=9 / 84, seed=0)
    with pytest.raises(ConfigError, match="schedule of all epochs") as caught:
        training.run(longer, toy.runtime(run))
    assert "--override epochs" in caught.value.fix
    with pytest.MonkeyPatch.context() as patch, pytest.raises(DiskError, match="full"):
        patch.setattr(training, "_publish", full)  # between the last checkpoint and the model, as a kill would
        training.run(longer, toy.runtime(run, override=["epochs"]))
    assert (run / "encoder" / "model.safetensors").read_bytes() == first
    outcome = training.run(longer, toy.runtime(run, override=["epochs"]))
    assert (outcome.state, outcome.step) == ("finished", 9)
    assert (run / "encoder" / "model.safetensors").read_bytes() != first
    (note,) = saved(run)["overridden"]
    assert note == {"field": "epochs", "saved": 6 / 84, "now": 9 / 84, "step": 6}
    assert starts(run)[-2]["overridden"] == [note] and "overridden" not in starts(run)[0]
    assert training.run(longer, toy.runtime(run)).state == "finished"  # the new settings are the run's now
    assert cli.main(["report", str(run), "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "Changed on the way" in page and "at step 6" in page


def test_an_overridden_rate_is_used(run: Path) -> None:
    faster = toy.mae(lr_per_256=3.0, final_lr=1.0)
    training.run(faster, toy.runtime(run, override=["lr_per_256", "final_lr"]))
    rates = [row["lr"] for row in rundir.read_rows(run)]
    assert rates[0] < 0.1 < min(rates[1:]) and [one["field"] for one in saved(run)["overridden"]] == [
        "final_lr",
        "lr_per_256",
    ]


def test_grave_changes_offer_no_override(run: Path) -> None:
    other = toy.mae(seed=1, epochs=9 / 84)
    with pytest.raises(ConfigError, match=r"seed: 0 -> 1 \(needs a new run\)") as caught:
        training.run(other, toy.runtime(run, override=["epochs"]))
    assert "--override" not in caught.value.fix and "overridden" not in saved(run)


@pytest.mark.parametrize(
    ("name", "found"), [("epoch", "nearest: 'epochs'"), ("seed", "cannot change on the way"), ("x", "'x'")]
)
def test_names_to_override_are_checked(run: Path, name: str, found: str) -> None:
    with pytest.raises(ConfigError, match=found):
        training.run(toy.mae(), toy.runtime(run, override=[name]))


def test_an_override_needs_its_run(begun: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no --out"):
        training.run(toy.mae(), toy.runtime(begun, override=["epochs"]).model_copy(update={"out": None}))
    shutil.copytree(begun, tmp_path / "near")
    with pytest.raises(CheckpointError, match=r"run folders nearby: .*near"):
        training.run(toy.mae(), toy.runtime(tmp_path / "typo", override=["epochs"]))
    assert not (tmp_path / "typo").exists()


def test_a_run_of_a_newer_version_is_left_alone(run: Path) -> None:
    record = saved(run) | {"format": 99}
    (run / "recipe.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="newer version") as caught:
        training.run(toy.mae(), toy.runtime(run, override=["epochs"]))
    assert "format 99" in str(caught.value) and f"at most {rundir.FORMAT}" in str(caught.value)
    assert caught.value.fix == "upgrade mae_lite" and saved(run) == record


# The images


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder of 20 images in two classes."""
    for number in range(20):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 10 * number).save(path)
    return tmp_path / "photos"


@pytest.mark.parametrize("labelled", [False, True])
def test_changed_images_are_named_and_can_be_gone_on_with(photos: Path, tmp_path: Path, labelled: bool) -> None:
    recipe = toy.classifier(validation_fraction=0.2, labels_per_class=None) if labelled else toy.mae()
    recipe = recipes.derive(recipe, epochs=4, warmup_epochs=1, global_batch_size=8)
    run, where = tmp_path / "run", str(photos)
    training.run(recipe, toy.runtime(run, data=where, stop_after_steps=2))
    (photos / "a" / "00.png").unlink()
    for number in range(5):
        Image.new("L", (8, 8)).save(photos / "b" / f"new{number}.png")
    Image.new("L", (9, 9)).resize((80, 80)).save(photos / "b" / "01.png")
    for _ in range(2):  # and again, though the images were listed anew meanwhile
        with pytest.raises(ConfigError, match="--override data") as caught:
            training.run(recipe, toy.runtime(run, data=where))
        assert "5 added ('b/new0.png', 'b/new1.png', 'b/new2.png', ...)" in caught.value.found
        assert "1 removed ('a/00.png')" in caught.value.found and "1 altered ('b/01.png')" in caught.value.found
    assert training.run(recipe, toy.runtime(run, data=where, override=["data"])).state == "finished"
    assert [note["field"] for note in saved(run)["overridden"]] == ["data"]


# The place


def test_a_place_that_cannot_be_written_is_refused_first(tmp_path: Path) -> None:
    """Neither the images nor the weights, which are not there, are asked for before."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(DiskError, match="a file is where a folder should be"):
        training.run(toy.mae(), toy.runtime(tmp_path / "file" / "run", data="nowhere", init="nowhere"))
    user = os.geteuid()
    if user == 0:  # who may write anywhere
        os.seteuid(65534)
    try:
        with pytest.raises(DiskError, match=r"cannot create the folder '/run-of-nobody'.*\n.*may write to"):
            training.run(toy.mae(), toy.runtime(Path("/run-of-nobody"), data="nowhere", init="nowhere"))
    finally:
        os.seteuid(user)


def test_a_setting_that_is_not_known_makes_another_run() -> None:
    """Such as one of an older version, that was taken out since."""
    found = resuming.changes({"recipe": {"old": 1}, "fingerprint": {}}, {"recipe": {}, "fingerprint": {}})
    with pytest.raises(ConfigError, match=r"old: 1 -> None \(needs a new run\)"):
        resuming.allowed(found, (), "run")
