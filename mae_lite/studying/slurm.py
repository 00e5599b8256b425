"""A study as SLURM jobs: an array for each round of its graph, each waiting for the round before, and the page last."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

import jinja2

from mae_lite import files
from mae_lite.errors import ConfigError, DiskError
from mae_lite.studying.graph import Graph
from mae_lite.studying.running import command
from mae_lite.studying.stages import Stage


def submit(graph: Graph, folder: Path, options: Sequence[str], last: Sequence[str]) -> list[str]:
    """Write a script for each round with stages that are not done, and hand them to ``sbatch``.

    A round waits until the one before has ended, however it did: what needs a stage that failed fails at once with its
    own message, and everything else is carried out.

    Args:
        graph: of the study.
        folder: of the study; scripts and logs go below it.
        options: of sbatch, without their dashes, e.g. "partition=gpu".
        last: words of the command that writes the table and the page in the end.

    Returns:
        Lines for people, with the numbers of the jobs.

    Raises:
        ConfigError: for an option that cannot be one.
        DiskError: when sbatch is missing or refuses a script.
    """
    for option in options:
        if option.startswith("-") or not option.isprintable():
            raise ConfigError(
                "slurm_options", found=repr(option), expected="options of sbatch without dashes",
                fix="--slurm-options partition=gpu gres=gpu:1 time=24:00:00",
            )  # fmt: skip
    logs = folder.absolute() / "logs"
    files.make_folder(logs)
    waiting = [[stage for stage in level if stage.state() != "done"] for level in graph.levels()]
    rounds = [[(stage.name, command(stage)) for stage in level] for level in waiting if level]
    rounds.append([("report", command(Stage("report", "", folder, tuple(last))))])
    lines, job = [], ""
    for number, tasks in enumerate(rounds):
        script = folder / "slurm" / f"round-{number}.sh"
        files.make_folder(script.parent)
        files.write_text(script, _script(f"{folder.name}-{number}", tasks, logs, options))
        job = _sbatch(script, job)
        lines.append(f"job {job}: {script}, {len(tasks)} tasks")
    return lines


def _script(name: str, tasks: Sequence[tuple[str, Sequence[str]]], logs: Path, options: Sequence[str]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mae_lite.studying"),
        autoescape=False,  # a shell script, whose words are quoted here
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    stages = [{"command": shlex.join(words), "log": shlex.quote(str(logs / f"{stage}.log"))} for stage, words in tasks]
    here = shlex.quote(str(Path.cwd()))
    return environment.get_template("level.sh.j2").render(name=name, options=options, here=here, stages=stages)


def _sbatch(script: Path, after: str) -> str:
    """Submit a script; return the number of its job."""
    words = ["sbatch", "--parsable", *([f"--dependency=afterany:{after}"] if after else []), str(script)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError as error:
        raise DiskError(
            "--slurm", found=f"no sbatch that runs: {error}", expected="SLURM's sbatch on PATH",
            fix="give the command on a login node of the cluster, or drop --slurm",
        ) from error  # fmt: skip
    job = done.stdout.strip().split(";")[0]
    if done.returncode or not job:
        raise DiskError(
            f"sbatch refuses {str(script)!r}", found=(done.stderr or done.stdout).strip() or f"exit {done.returncode}",
            fix="give what this cluster asks for with --slurm-options, e.g. partition=gpu time=24:00:00",
        )  # fmt: skip
    return job
