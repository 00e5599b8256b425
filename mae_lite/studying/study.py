"""``mae-lite study``: carry out what is missing of a study, and write its table, its analyses and its page."""

from __future__ import annotations

import dataclasses
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mae_lite import files
from mae_lite.data.sources import Split
from mae_lite.errors import EXIT_STOPPED, ConfigError, StudyError, plain
from mae_lite.report import compose, page
from mae_lite.studies.values import Study
from mae_lite.studying import claims, forecast, graph, recommending, results, running, slurm
from mae_lite.studying.running import Outcome, Pool
from mae_lite.terminal import answer, tell
from mae_lite.timing.clock import clock


@dataclass(frozen=True)
class Order:
    """A study and where it is carried out."""

    study: Study
    data: str
    root: Path
    """Run folders of all studies stand here; this one's table, page and logs in a folder of its name."""
    processes: int | None = None
    """Stages at once; None takes the processors, or the GPUs where there are some."""

    @property
    def folder(self) -> Path:
        """Folder of the table, the page and the logs."""
        return self.root / self.study.name


def order(study: Study, data: str | None, out: str, processes: int | None) -> Order:
    """Return the order of a study.

    Raises:
        ConfigError: when the study needs images that nobody named.
    """
    if data is None:
        raise ConfigError(
            f"study {study.name!r}",
            found="no --data",
            expected="its images, which do not come with this package",
            fix="add --data DATA (a folder of parquet files, of images, ...)",
        )
    return Order(study, data, Path(out), processes)


def plan(wanted: Order) -> forecast.Plan:
    """Return the graph with commands, states and forecasts; nothing is written and no data are read."""
    found = forecast.forecast(wanted.study, graph.build(wanted.study, wanted.root, wanted.data))
    processes = wanted.processes or len(os.sched_getaffinity(0))
    images = f"{wanted.study.images:,} training images"
    return forecast.Plan(wanted.study, found, processes, images)


def run(wanted: Order, as_json: bool = False) -> int:
    """Carry out all that is missing, write the result and print it.

    Returns:
        0, or 75 when it was stopped by a signal; the same command continues.

    Raises:
        DataError: when images are missing that a stage needs; nothing is trained then.
        StudyError: when stages failed; what does not depend on them is carried out all the same.
        DiskError: when another study is carried out in the same folder.
    """
    begun, stages = time.monotonic(), graph.build(wanted.study, wanted.root, wanted.data)
    _open_data(stages)
    gpus = running.gpus(wanted.study.runtime)
    processes = wanted.processes or len(gpus) or len(os.sched_getaffinity(0))
    files.make_folder(wanted.root)
    lock = files.Lock(wanted.root / "study.lock", f"pid {os.getpid()} on {socket.gethostname()}")
    try:
        found = forecast.forecast(wanted.study, stages)
        done = sum(item.state == "done" for item in found)
        left = clock(forecast.wall_seconds(found, processes))
        tell(f"{wanted.study.title}: {len(found)} stages, {done} done; about {left} left with {processes} at once")
        outcome = Pool(processes, wanted.folder / "logs", gpus, tell).run(forecast.in_order(found))
        written = write(wanted, stages)
        answer(written, f"\n{as_text(wanted, written)}", as_json)
    finally:
        lock.release()
    if outcome.stopped:
        tell("stopped; what was finished is kept, the same command continues")
        return EXIT_STOPPED
    _check(wanted, outcome)
    tell(f"({time.monotonic() - begun:.0f} s)")
    return 0


def _open_data(stages: graph.Graph) -> None:
    """Open the images of all that is left to do, once: else every stage would say anew that they are missing."""
    from mae_lite.data.opening import open_source

    splits: dict[str, Split] = {"pretrain": "train", "finetune": "train", "evaluate": "test"}
    waiting = [stage for stage in stages.stages.values() if stage.kind in splits and stage.state() != "done"]
    for data, split in dict.fromkeys((stage.data, splits[stage.kind]) for stage in waiting):
        open_source(data, split)


def only_report(wanted: Order) -> dict[str, Any]:
    """Write table and page of what is finished; return what ``table.json`` holds."""
    return write(wanted, graph.build(wanted.study, wanted.root, wanted.data))


def submit(wanted: Order, options: Sequence[str], last: Sequence[str]) -> str:
    """Hand all that is missing to SLURM; return what to tell.

    Args:
        wanted: the study.
        options: of sbatch, without their dashes.
        last: words of the command that writes table and page in the end.
    """
    stages = graph.build(wanted.study, wanted.root, wanted.data)
    jobs = slurm.submit(stages, wanted.folder, options, last)
    logs = f"logs go to {wanted.folder / 'logs'}; given again, the command submits what is missing then"
    return "\n".join([*jobs, logs])


def write(wanted: Order, stages: graph.Graph) -> dict[str, Any]:
    """Write table and page of what is finished; return what ``table.json`` holds."""
    found = results.table(wanted.study, stages, wanted.data)
    files.make_folder(wanted.folder)
    files.write_json(wanted.folder / "table.json", found)
    trained = [one for one in stages.stages.values() if one.recipe is not None and one.kind in ("pretrain", "finetune")]
    begun = [one.folder for one in trained if (one.folder / "recipe.json").is_file()]
    if not begun:
        return found
    names = {cell.folder: cell.row.name for cell in stages.cells}
    done = [(analysis, stage) for analysis, stage in stages.analyses if stage.state() == "done"]
    models = {stage.folder: dict(zip(stage.needs, analysis.rows, strict=True)) for analysis, stage in done}
    notes = _notes(wanted.study, stages)
    shown = compose.compose(begun, wanted.study.title, notes, names=names, models=models)
    compared = [results.differences(found, shown.colours)] if found["differences"] else []
    advised = [recommending.table(found["recommended"], shown.colours)] if found["recommended"] else []
    claimed = [claims.table(found["claims"])] if found["claims"] else []
    said = results.headline(wanted.study, found)
    added = [*compared, *claimed, *advised]
    page.write(dataclasses.replace(shown, headline=said, tables=[*shown.tables, *added]), wanted.folder / "report.html")
    return found


def as_text(wanted: Order, found: Mapping[str, Any]) -> str:
    """Return the table, and where it and the page lie."""
    lines = [plain(results.as_text(found)), f"The numbers: {wanted.folder / 'table.json'}"]
    if (wanted.folder / "report.html").exists():
        lines.append(f"The page: {wanted.folder / 'report.html'}")
    return "\n".join(lines)


def _notes(study: Study, stages: graph.Graph) -> list[str]:
    """Return the study's notes, what was cut, and which run is which row of an analysis."""
    cut = recommending.why_not(study)
    notes = [*([f"{cut} What follows is said of the whole study."] if cut else []), *study.notes]
    trained = {row.name for row in study.rows if row.pretraining is None}
    trained &= {name for analysis, _ in stages.analyses for name in analysis.rows}
    if trained:
        which = ", ".join(sorted(trained))
        notes.append(f"In the analyses, the encoder of {which} is the trained classifier's: it has no pre-training.")
    return notes


def _check(wanted: Order, outcome: Outcome) -> None:
    if not outcome.failed:
        return
    others = f"; {len(outcome.skipped)} that need them were not begun" if outcome.skipped else ""
    raise StudyError(
        f"{len(outcome.failed)} of the stages of {wanted.study.name!r} failed{others}",
        found=", ".join(outcome.failed),
        fix=f"mend what the last lines above say (all of them: {wanted.folder / 'logs'}), then give the same command",
    )
