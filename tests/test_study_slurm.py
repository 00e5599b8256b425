"""Studies under SLURM, with a stand-in for sbatch on PATH."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from mae_lite.cli import main
from mae_lite.studying import slurm
from mae_lite.studying.graph import Graph
from mae_lite.studying.stages import STATES, Stage

STAND_IN = """#!/bin/bash
echo "$@" >>{calls}
script="${{@: -1}}"
job=$((100 + $(wc -l <{calls})))
if [ -n "{run}" ]; then
    last=$(sed -n 's/^#SBATCH --array=0-//p' "$script")
    for task in $(seq 0 "$last"); do SLURM_ARRAY_TASK_ID=$task bash "$script"; done
fi
{end}
echo "$job;cluster"
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stand_in(here: Path, *, run: str = "", end: str = "") -> Path:
    """Put an sbatch on PATH, and return the file that it lists its calls in."""
    (here / "bin").mkdir()
    calls = here / "calls"
    calls.touch()
    (here / "bin" / "sbatch").write_text(STAND_IN.format(calls=calls, run=run, end=end))
    (here / "bin" / "sbatch").chmod(0o755)
    return calls


def test_rounds_wait_for_each_other_and_run(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = here / "stu dy"
    monkeypatch.setitem(STATES, "told", lambda s: "done" if (folder / "logs" / f"{s.name}.log").exists() else "new")
    stages = [Stage("a", "told", here, ("recipes",)), Stage("bad", "told", here, ("pretrain", "it's $HOME"))]
    stages.append(Stage("b", "told", here, ("recipes", "--json-output"), ("a",)))
    graph = Graph({one.name: one for one in stages})
    calls = stand_in(here, run="yes")
    lines = slurm.submit(graph, folder, ["partition=gpu", "gres=gpu:1"], ("recipes",))
    assert [line.split(":")[0] for line in lines] == ["job 101", "job 102", "job 103"]
    scripts = [folder / "slurm" / f"round-{number}.sh" for number in range(3)]
    after = ["", "--dependency=afterany:101 ", "--dependency=afterany:102 "]
    expected = [f"--parsable {wait}{script}" for wait, script in zip(after, scripts, strict=True)]
    assert calls.read_text().splitlines() == expected
    text = scripts[0].read_text()
    assert text.startswith("#!/bin/bash\n#SBATCH --job-name=stu dy-0\n#SBATCH --array=0-1\n")
    assert "\n#SBATCH --partition=gpu\n#SBATCH --gres=gpu:1\n" in text
    logs = {path.stem: path.read_text() for path in (folder / "logs").iterdir()}
    assert set(logs) == {"a", "bad", "b", "report"}
    assert "mae-tiny" in logs["a"] and logs["b"].startswith("[") and 'unknown recipe "it\'s $HOME"' in logs["bad"]
    assert len(slurm.submit(graph, folder, [], ("recipes",))) == 1  # all is done but the page


def test_digits_is_submitted_as_its_graph_says(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calls = stand_in(here)
    words = ["study", "digits", "--seeds", "1", "--updates", "3", "--out", "runs"]
    assert main([*words, "--slurm", "--slurm-options", "partition=cpu"]) == 0
    assert "job 105" in capsys.readouterr().out and len(calls.read_text().splitlines()) == 5
    scripts = [(here / "runs" / "digits" / "slurm" / f"round-{number}.sh").read_text() for number in range(5)]
    tasks = [re.findall(r"^\d+\) exec \S+ -m mae_lite (\w+) (\S+)", script, re.MULTILINE) for script in scripts]
    assert [len(found) for found in tasks] == [5, 7, 6, 1, 1]
    first = {recipe for _, recipe in tasks[0]}
    assert first == {"digits-scratch", "digits-supervised", "digits-mocov3", "digits-mae", "digits-mae-wide"}
    last = re.search(r"exec \S+ -m mae_lite (.*) >>", scripts[-1])
    assert last is not None and last[1] == "study digits --out runs --seeds 1 --updates 3 --only-report"
    assert main(last[1].split()) == 0  # nothing is there yet, and that is said
    assert "Nothing is measured yet." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("end", "words", "code", "said"),
    [
        ("echo invalid partition >&2; exit 1", [], 5, "found invalid partition"),
        ("exit 3", [], 5, "found exit 3"),
        ("", ["--slurm-options", "partition=a\nb"], 2, "expected options of sbatch without dashes"),
        ("", ["--dry-run"], 2, "--dry-run --slurm: expected one of them"),
        ("", ["--json"], 2, "--slurm --json: expected one of them"),
    ],
)
def test_refusals_are_explained(
    here: Path, capsys: pytest.CaptureFixture[str], end: str, words: list[str], code: int, said: str
) -> None:
    stand_in(here, end=end)
    assert main(["study", "digits", "--seeds", "1", "--out", "runs", "--slurm", *words]) == code
    text = capsys.readouterr().err
    assert said in text and "Fix:" in text


def test_a_machine_without_slurm_is_explained(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(here))
    assert main(["study", "digits", "--out", "runs", "--slurm"]) == 5
    assert "expected SLURM's sbatch on PATH" in capsys.readouterr().err
    assert main(["study", "digits", "--slurm-options", "partition=a"]) == 2
    assert "--slurm-options is not read here" in capsys.readouterr().err
