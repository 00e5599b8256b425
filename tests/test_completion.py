"""A real shell completes commands and options."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from mae_lite import cli, completion, overrides
from mae_lite.commands import COMMANDS

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def bash_script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shell") / "mae-lite.bash"
    path.write_text(completion.script("bash", COMMANDS))
    return path


def completed(script: Path, *words: str) -> list[str]:
    """Return what bash offers for the last of ``words``."""
    typed = " ".join(f"'{word}'" for word in ("mae-lite", *words))
    asked = f"COMP_WORDS=({typed}); COMP_CWORD={len(words)}; _tyro_mae_lite; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(["bash", "-c", f"source {script}; {asked}"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_commands_are_completed(bash_script: Path) -> None:
    assert completed(bash_script, "p") == sorted(name for name in COMMANDS if name.startswith("p"))


@pytest.mark.parametrize("command", ["pretrain", "check", "layers", "study"])
def test_options_are_completed(command: str, bash_script: Path) -> None:
    page = completion.full_page(command, COMMANDS[command])
    assert page.options is not None
    known = overrides.leaf_fields(type(page.options), page.options.model_dump())
    names = {f"--{name.replace('_', '-')}" for name in known}
    offered = set(completed(bash_script, command, *completion.places(page.usage), "--"))
    assert offered >= {name for name in names if not name.endswith(".kind")}
    assert all(name.startswith("--") for name in offered)


def test_choices_are_completed(bash_script: Path) -> None:
    assert completed(bash_script, "prepare", "photos", "pack", "--kind", "") == ["jpeg", "uint8"]


def test_a_shell_that_is_not_known_is_named(capsys: Captured) -> None:
    assert cli.main(["completion", "fishy"]) == 2
    assert capsys.readouterr().err == (
        "error: the shell: found 'fishy', expected bash, zsh, fish\nFix: mae-lite completion bash\n"
    )


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_every_shell_gets_a_script(shell: str, capsys: Captured) -> None:
    assert cli.main(["completion", shell]) == 0
    printed = capsys.readouterr().out
    assert "mae-lite" in printed and "pretrain" in printed
    assert printed == completion.script(shell, COMMANDS) + "\n"
    if shutil.which(shell):
        assert subprocess.run([shell, "-n"], input=printed, text=True, check=False).returncode == 0, shell
