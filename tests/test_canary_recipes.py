"""Settings are data: whatever words and tags a recipe holds, nothing of it is run, looked up or written elsewhere."""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mae_lite import cli, recipes
from mae_lite.config import Recipe
from mae_lite.errors import ConfigError
from mae_lite.overrides import leaf_fields
from tests import toy

CANARY = Path("canary")
PYTHON = "__import__('pathlib').Path('canary').touch()"
SHELL = "touch canary"
WORDS = {
    "python": PYTHON,
    "interpolation": f"${{eval:{PYTHON}}}",
    "f-string": f"{{{PYTHON}}}",
    "template": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "yaml tag": f"!!python/object/apply:os.system ['{SHELL}']",
    "shell": f"$({SHELL})",
    "backticks": f"`{SHELL}`",
    "separator": f"x; {SHELL}",
    "pipe": f"| {SHELL}",
    "name of a class": "os.system",
    "way out": "../../x",
    "absolute": "/x",
}
OBJECTS: dict[str, Any] = {
    "hydra": {"_target_": "os.system", "command": SHELL},
    "hydra, partial": {"_target_": "builtins.eval", "_args_": [PYTHON], "_partial_": True},
    "lightning": {"class_path": "os.system", "init_args": {"command": SHELL}},
    "jsonpickle": {"py/object/apply": "os.system", "py/tuple": [SHELL]},
    "yaml tag": {"!!python/object/apply:os.system": [SHELL]},
    "reduce": {"__reduce__": ["os.system", [SHELL]]},
    "class": {"__class__": "os.system", "kind": "os.system"},
}
FREE = ("note.source", "note.command", "note.cost", "note.expected", "parent")
"""Fields that hold any text."""
LATER = ("encoder.name", "augmentation.randaugment")
"""Fields whose words timm knows; they are compared with its own when the run is built."""
PAGES = ("encoder", "method", "optimizer", "augmentation", "reading", "note")


@pytest.fixture(autouse=True)
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work two folders below an empty one, in which nothing may appear."""
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    yield tmp_path
    assert not CANARY.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]
    assert not Path("/x").exists()


def test_the_canary_would_sing() -> None:
    for sing in (lambda: eval(PYTHON), lambda: subprocess.run(SHELL, shell=True, check=True)):
        sing()
        assert CANARY.exists()
        CANARY.unlink()


def with_field(name: str, value: Any) -> dict[str, Any]:
    """Return the toy classifier, as JSON has it, with one field replaced."""
    values: dict[str, Any] = toy.classifier().model_dump(mode="json")
    *pages, leaf = name.split(".")
    page = values
    for one in pages:
        page = page[one]
    page[leaf] = value
    return values


def refused(values: Any) -> ConfigError:
    """Return the error of a recipe file with these values."""
    Path("r.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError) as caught:
        recipes.get("r.json")
    assert not CANARY.exists()
    return caught.value


@pytest.mark.parametrize("words", WORDS)
def test_words_in_a_field_are_words(words: str) -> None:
    names = [name for name in leaf_fields(Recipe, toy.classifier().model_dump()) if name not in FREE]
    assert len(names) > 50
    for name in names:
        if name in LATER or (name, words) == ("name", "name of a class"):  # which is a fine name for a recipe
            continue
        error = refused(with_field(name, WORDS[words]))
        assert name.rpartition(".")[2] in error.what or name.partition(".")[0] in error.what, (name, error.what)


@pytest.mark.parametrize("what", OBJECTS)
def test_an_object_in_the_place_of_a_page_is_an_unknown_field(what: str) -> None:
    for page in (*PAGES, "epochs", "name"):
        value = OBJECTS[what]
        error = refused(
            with_field(page, {**with_field("name", "x").get(page, {}), **value} if page in PAGES else value)
        )
        assert page in error.what, (page, error.what)
    assert "unknown field" in refused({**toy.classifier().model_dump(mode="json"), **OBJECTS[what]}).what
    refused(OBJECTS[what])


def test_a_run_with_such_words_wherever_any_text_is_taken_runs_none(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = toy.classifier().model_dump(mode="json")
    recipe["note"] = dict.fromkeys(recipe["note"], " ".join(WORDS.values()))
    recipe["parent"] = WORDS["way out"]
    Path("r.json").write_text(json.dumps(recipe))
    quiet = "--tensorboard no --progress no --workers 0 --accelerator cpu --stop-after-steps 1".split()
    assert cli.main(["finetune", "r.json", "--data", "digits", "--out", "run", *quiet]) == 0, capsys.readouterr().err
    assert cli.main(["report", "run", "--out", "page.html"]) == 0
    capsys.readouterr()
    for name, words in itertools.product(LATER, ("python", "shell", "way out")):
        Path("r.json").write_text(json.dumps(with_field(name, WORDS[words])))
        assert cli.main(["finetune", "r.json", "--data", "digits", "--out", "other", *quiet]) == 2
        error = capsys.readouterr().err
        assert name in error and error.count("Fix: ") == 1 and "Traceback" not in error


@pytest.mark.parametrize(
    "name", ["../../x", "/x", "a/b", "..", ".hidden", "", "x" * 81, "a\nb", "-x", "$(touch canary)"]
)
def test_a_name_that_leads_elsewhere_makes_no_folder(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("r.json").write_text(json.dumps(with_field("name", name)))
    assert cli.main(["finetune", "r.json", "--data", "digits"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: name: found ") and error.count("\nFix: ") == 1
    assert not Path("runs").exists()


@pytest.mark.parametrize("file", ["r.yaml", "r.yml", "r.py", "r.json"])
def test_other_languages_are_not_read(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(file).write_text(f"name: !!python/object/apply:os.system ['{SHELL}']\n")
    assert cli.main(["pretrain", file, "--data", "digits"]) == 2
    error = capsys.readouterr().err
    assert repr(file) in error and error.count("\nFix: ") == 1
