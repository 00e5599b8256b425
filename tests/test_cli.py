"""The command line: listings, help, and every setting as a flag."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from mae_lite import __version__, cli, commands, config, costs, overrides, recipes
from mae_lite.errors import ConfigError
from tests.test_errors import assert_contract

Captured = pytest.CaptureFixture[str]
ALL = recipes.names()
BASES: dict[str, dict[str, Any]] = {name: {**recipes.get(name).model_dump(), "data": "digits"} for name in ALL}
LEAVES = [(name, leaf) for name in ALL for leaf in overrides.leaf_fields(config.Request, BASES[name])]


def call(*words: str) -> int:
    """Return the exit code of a command, whether it returns or exits."""
    try:
        return cli.main(list(words))
    except SystemExit as end:
        assert end.code is None or isinstance(end.code, int)
        return end.code or 0


def request(*words: str, name: str = "digits-scratch") -> config.Request:
    return overrides.build(config.Request, overrides.parse(words, config.Request, BASES[name]))


def test_recipes_lists_everything(capsys: Captured) -> None:
    assert call("recipes") == 0
    text = capsys.readouterr().out
    for name in ALL:
        recipe = recipes.get(name)
        line, expected, source = text[text.index(f"\n{name} ") :].splitlines()[1:4]
        numbers = line.split()
        assert numbers[0] == name
        assert float(numbers[1]) == pytest.approx(costs.model_parameters(recipe) / 1e6, abs=0.006)
        assert float(numbers[3]) == pytest.approx(costs.forward_gflops(recipe.encoder), rel=0.01)
        assert float(numbers[4]) == pytest.approx(costs.step_gflops(recipe), rel=0.01)
        assert expected.strip() == f"expect  {recipe.note.expected}"
        assert source.strip() == f"source  {recipe.note.source}"


def test_recipes_are_found_by_name_and_method(capsys: Captured) -> None:
    assert call("recipes", "digits", "mae") == 0
    text = capsys.readouterr().out
    listed = [line.split()[0] for line in text.splitlines() if " M " in line]
    assert listed == ["digits-mae", "digits-mae-wide", "digits-d-mae"]
    assert "mae-lite pretrain RECIPE" in text and "mae-lite finetune RECIPE\n" not in text
    assert call("recipes", "supervised", "cifar10", "--json") == 0
    found = [values["name"] for values in json.loads(capsys.readouterr().out)]
    assert {"cifar10-finetune", "cifar10-scratch", "cifar10-supervised"} <= set(found)
    assert all(name in ALL and "cifar10" in name for name in found)
    assert call("recipes", "--json", "SUPERVISED", "cifar10") == 0
    assert [values["name"] for values in json.loads(capsys.readouterr().out)] == found
    assert call("recipes", "digits", "mocov4") == 2
    assert "nearest: 'mocov3'" in capsys.readouterr().err
    code = call("recipes", "cifra10")
    assert_contract(capsys.readouterr().err, code, 2, mentions=("'cifra10'", "nearest: 'cifar10", "mae-lite recipes"))


def test_recipes_as_json_are_recipes(capsys: Captured) -> None:
    assert call("recipes", "--json-output") == 0
    listed = json.loads(capsys.readouterr().out)
    assert [config.Recipe.model_validate(values) for values in listed] == [recipes.get(name) for name in ALL]


def test_windows_is_refused_in_words() -> None:
    """Else the first import of fcntl would be the message."""
    code = "import sys; sys.platform = 'win32'; import mae_lite"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 1 and "ImportError: mae_lite does not run on Windows itself" in found.stderr
    assert found.stderr.splitlines()[-1].startswith("Fix: install it in the Windows Subsystem for Linux")


@pytest.mark.parametrize("words", [(), ("-h",), ("--help",), ("help",)])
def test_usage_names_every_command(words: tuple[str, ...], capsys: Captured) -> None:
    assert call(*words) == 0
    text = capsys.readouterr().out
    for command in commands.COMMANDS:
        (line,) = [line for line in text.splitlines() if line.split()[:1] == [command]]
        assert len(line.split()) > 3


def test_version(capsys: Captured) -> None:
    assert call("--version") == 0
    assert capsys.readouterr().out == f"mae-lite {__version__}\n"


@pytest.mark.parametrize("command", list(commands.COMMANDS))
def test_every_command_has_help(command: str, capsys: Captured) -> None:
    assert call(command, "--help") == 0
    captured = capsys.readouterr()
    assert f"mae-lite {command}" in captured.out and captured.err == ""
    shown = "--help" in captured.out  # of commands that take a recipe, the recipe's page shows them
    assert shown or command in ("pretrain", "finetune", "bench", "plan", "layers")


def test_help_of_a_command_names_its_recipes(capsys: Captured) -> None:
    for command in ("pretrain", "finetune"):
        assert call(command, "--help") == 0
        listed = capsys.readouterr().out.partition("recipes: ")[2].splitlines()[0].split(", ")
        assert listed == [name for name in ALL if command in recipes.commands_for(recipes.get(name))]
        labelled = {name: isinstance(recipes.get(name).method, config.Supervised) for name in listed}
        assert {"scratch", "supervised-tiny"} <= set(listed) and ("mae-tiny" in labelled) == (command == "pretrain")
        assert ("finetune-improved" in labelled) == all(labelled.values()) == (command == "finetune")


@pytest.mark.parametrize("name", ["digits-mae", "finetune-improved"])
def test_help_of_a_recipe_shows_every_field(name: str, capsys: Captured) -> None:
    command = "finetune" if name.startswith("finetune") else "pretrain"
    assert call(command, name, "--help") == 0
    text = capsys.readouterr().out
    for recipe, leaf in LEAVES:
        if recipe == name and not leaf.endswith("kind"):
            assert f"--{leaf.replace('_', '-')} " in text.replace("\n", " "), leaf


def words_of(value: Any) -> list[str]:
    """Write a value as a person would."""
    return [str(item) for item in value] if isinstance(value, tuple) else [str(value)]


@pytest.mark.parametrize("recipe", ALL)
def test_every_field_takes_its_own_value_back(recipe: str) -> None:
    before = request(name=recipe)
    leaves = [leaf for name, leaf in LEAVES if name == recipe]
    assert len(leaves) > 55 and len(set(leaves)) == len(leaves)
    for leaf in leaves:
        value: Any = before
        for step in leaf.split("."):
            value = getattr(value, step)
        flag = leaf.replace("_", "-")
        assert request(f"--{flag}", *words_of(value), name=recipe) == before, leaf
        assert request(f"--{leaf}", *words_of(value), name=recipe) == before, leaf
        if not isinstance(value, tuple):
            assert request(f"--{flag}={value}", name=recipe) == before, leaf


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        (("--encoder.depth", "6"), "encoder.depth", 6),
        (("--encoder.depth=6",), "encoder.depth", 6),
        (("--epochs", "1e2"), "epochs", 100.0),
        (("--lr-per-256", ".5"), "lr_per_256", 0.5),
        (("--seed", "7"), "seed", 7),
        (("--augmentation.crop-scale", "0.2", "1"), "augmentation.crop_scale", (0.2, 1.0)),
        (("--augmentation.crop-scale", "None"), "augmentation.crop_scale", None),
        (("--augmentation.mean", "0.5"), "augmentation.mean", (0.5,)),
        (("--optimizer.no-decay",), "optimizer.no_decay", ()),
        (("--optimizer.no-decay", "tokens"), "optimizer.no_decay", ("tokens",)),
        (("--tensorboard",), "tensorboard", True),
        (("--tensorboard", "False"), "tensorboard", False),
        (("--progress=no",), "progress", False),
        (("--clip-grad-norm", "1"), "clip_grad_norm", 1.0),
        (("--labels-per-class", "None"), "labels_per_class", None),
        (("--out", "a folder/ü"), "out", "a folder/ü"),
        (("--out=--odd",), "out", "--odd"),
        (("--out=a=b",), "out", "a=b"),
        (("--out", "-odd"), "out", "-odd"),
        (("--data", "None"), "data", "None"),
        (("--out", "None"), "out", None),
        (("--encoder.width", "48", "--encoder.num-heads", "4"), "encoder.width", 48),
    ],
)
def test_flags_set_fields(words: tuple[str, ...], field: str, value: Any) -> None:
    built: Any = request(*words)
    for step in field.split("."):
        built = getattr(built, step)
    assert built == value and type(built) is type(value)


@pytest.mark.parametrize(
    ("words", "mentions"),
    [
        (("--mask-ratio", "0.5"), ("--mask-ratio",)),
        (("--encoder.dept", "6"), ("--encoder.dept", "nearest: 'encoder.depth'", "Fix: --encoder.depth VALUE")),
        (("--depth", "6"), ("nearest: 'encoder.depth'",)),
        (("--warmup-epoch", "6"), ("nearest: 'warmup-epochs'",)),
        (("--lr", "6"), ("--lr",)),
        (("--mixup", "0.2"), ("nearest: 'method.mixup'",)),
        (("--encoder", "vit"), ("--encoder",)),
        (("--xyzzy=1",), ("--xyzzy", "--help")),
        (("--seed", "1", "--seed", "2"), ("--seed", "twice")),
        (("--seed=1", "--seed", "2"), ("--seed", "twice")),
        (("--lr-per-256", "1", "--lr_per_256", "2"), ("twice",)),
        (("stray",), ("'stray'",)),
        (("-x", "1"), ("'-x'",)),
        (("--seed",), ("--seed", "no value", "Fix: --seed VALUE")),
        (("--seed", "1", "2"), ("seed", "('1', '2')")),
        (("--seed=",), ("seed", "''")),
        (("--encoder.depth", "six"), ("encoder.depth", "'six'", "integer")),
        (("--encoder.depth", "6.5"), ("encoder.depth", "'6.5'")),
        (("--encoder.depth", "None"), ("encoder.depth", "'None'")),
        (("--tensorboard", "maybe"), ("tensorboard", "'maybe'")),
        (("--precision", "fp16"), ("precision", "'fp16'", "'bf16' or 'fp32'")),
        (("--loading", "residnet"), ("loading", "'residnet' (nearest: 'resident')", "'workers'")),
        (("--augmentation.crop-scale", "0.2"), ("augmentation.crop_scale",)),
        (("--augmentation.crop-scale", "0.2", "0.5", "1"), ("augmentation.crop_scale",)),
        (("--optimizer.no-decay", "norms"), ("optimizer.no_decay", "'norms'")),
        (("--encoder.depth", "0", "--seed", "-1"), ("encoder.depth", "'0'", "seed", "'-1'", "these fields")),
    ],
)
def test_wrong_flags_are_explained(words: tuple[str, ...], mentions: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        request(*words)
    message = str(caught.value)
    assert [mention for mention in mentions if mention not in message] == [], message
    assert message.count("\nFix: ") == 1 and "pydantic" not in message and "http" not in message


def test_the_other_optimiser_and_its_fields() -> None:
    """Another kind starts from its own defaults, and its fields are flags wherever they stand."""
    sgd = request("--optimizer.momentum", "0.8", "--optimizer.kind", "sgd").optimizer
    assert sgd == config.SGD(momentum=0.8)
    assert request("--optimizer.kind=adamw").optimizer == request().optimizer
    with pytest.raises(ConfigError, match=r"unknown option --optimizer\.betas"):
        request("--optimizer.kind", "sgd", "--optimizer.betas", "0", "0")
    with pytest.raises(ConfigError, match=r"optimizer"):
        request("--optimizer.kind", "lamb")


def test_parse_leaves_its_base_alone() -> None:
    before = json.dumps(BASES["mae-tiny"], default=str)
    overrides.parse(["--encoder.depth", "1", "--optimizer.betas", "0", "0"], config.Request, BASES["mae-tiny"])
    assert json.dumps(BASES["mae-tiny"], default=str) == before
