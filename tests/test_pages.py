"""What pages of docs/ say to type works, and notebooks run, with a tiny override."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mae_lite import cli
from tests.test_readme import ROOT, blocks, with_override, workplace

__all__ = ["workplace"]
TINY: dict[str, Mapping[str, Any]] = {
    "own_images": {"PRETRAIN_EPOCHS": 1, "FINETUNE_EPOCHS": 1, "SEEDS": (0,)},
    "what_it_sees": {"DECODER_EPOCHS": 1, "IMAGES": 50},
}


def lines_of(page: str) -> list[str]:
    return [line for block in blocks("bash", (ROOT / "docs" / page).read_text()) for line in block.splitlines()]


def run_all(lines: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for line in lines:
        words = with_override(line)
        if "--teacher" in words:
            words += ["--method.teacher-depth", "1"]
        if words[1] == "simmim-tiny":  # a 32-px square would be all of a tiny image
            words += ["--method.mask-unit-px", "16"]
        if words[0] == "finetune":  # to its end: what is not finished is not exported
            words[words.index("--stop-after-steps") + 1] = "9"
            for flag, value in (("--epochs", "1"), ("--warmup-epochs", "0")):
                place = words.index(flag) if flag in words else len(words)
                words[place : place + 2] = [flag, value]
        assert cli.main(words) == 0, f"{line}\n{capsys.readouterr().err}"


@pytest.mark.slow
def test_ten_minutes(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxscript", reason="onnxscript is not installed: the page exports to ONNX")
    lines = lines_of("ten_minutes.md")
    assert len(lines) == 15
    run_all(lines, capsys)
    assert list((workplace / "runs" / "photos-onnx").rglob("model.onnx"))


@pytest.mark.slow
def test_the_page_of_equations(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = lines_of("equations.md")
    assert len(lines) == 10
    run_all(lines, capsys)
    assert all((workplace / "runs" / name / "checkpoints").is_dir() for name in ("mae", "dino", "features"))


def test_the_page_of_shells(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = lines_of("shell.md")
    assert len(lines) == 2
    run_all(lines, capsys)
    assert (workplace / "runs" / "check" / "check.json").is_file()


@pytest.mark.slow
def test_the_page_about_the_report(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for recipe, data, out in (("mae-tiny", "photos", "photos"), ("scratch", "labelled", "photos-scratch")):
        command = "pretrain" if recipe == "mae-tiny" else "finetune"
        run_all([f"mae-lite {command} {recipe} --data {data} --out runs/{out}"], capsys)
    run_all(["mae-lite finetune scratch --data labelled --out runs/photos-fine", *lines_of("report.md")], capsys)
    assert "Photos, first try" in (workplace / "runs" / "report.html").read_text()


def test_headings_of_the_report_are_those_of_its_page() -> None:
    template = (ROOT / "mae_lite" / "report" / "templates" / "content.html.j2").read_text()
    page = (ROOT / "docs" / "report.md").read_text()
    named = re.findall(r"^\d\. \*\*(.*?)\.?\*\*", page, flags=re.MULTILINE)
    headings = " ".join(re.findall(r"<h2>(.*?)</h2>", template)).lower()
    assert len(named) == 8
    for name in named[1:]:
        assert all(part.lower() in headings for part in name.split(", ")), name


def test_the_python_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = blocks("python", (ROOT / "docs" / "api.md").read_text())
    exec(compile(block, "api.md", "exec"), {})  # the page is ours
    assert capsys.readouterr().out.startswith("digit 0 ")


def tiny(source: str, changed: Mapping[str, Any]) -> str:
    """Return a cell of parameters with other values; one that it does not have is an error."""
    tree = ast.parse(source)
    names = {ast.unparse(node.targets[0]) for node in tree.body if isinstance(node, ast.Assign)}
    assert set(changed) <= names
    return source + "\n" + "\n".join(f"{name} = {value!r}" for name, value in changed.items())


@pytest.mark.slow
@pytest.mark.parametrize("name", list(TINY))
def test_notebooks_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed: pip install 'mae_lite[docs]'")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: pip install 'mae_lite[docs]'")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed: pip install 'mae_lite[docs]'")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    book = nbformat.read(ROOT / "docs" / "notebooks" / f"{name}.ipynb", as_version=4)
    (parameters,) = [cell for cell in book.cells if "parameters" in cell.metadata.get("tags", [])]
    saved = [bool(cell.outputs) for cell in book.cells if cell.cell_type == "code"]
    parameters.source = tiny(parameters.source, TINY[name])
    nbclient.NotebookClient(book, timeout=600, kernel_name="python3").execute()
    made = [bool(cell.outputs) for cell in book.cells if cell.cell_type == "code"]
    assert made == saved and any(saved)  # what the site shows was made by these cells


def test_every_notebook_runs_in_a_test() -> None:
    assert {path.stem for path in (ROOT / "docs" / "notebooks").glob("*.ipynb")} == set(TINY)
