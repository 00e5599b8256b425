"""``mae-lite transfer``: weights on every set of a suite, each with the settings that are best for it there."""

from __future__ import annotations

import dataclasses
import logging
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mae_lite import files
from mae_lite.errors import MaeLiteError, NumericsError, Stopped, StudyError, plain
from mae_lite.processes import stop_signals_raise
from mae_lite.report import compose, page
from mae_lite.studies.suites import Suite
from mae_lite.studying import forecast, running, set_data, starts, transfer_results
from mae_lite.studying.cells import Cell, cells
from mae_lite.studying.running import Outcome
from mae_lite.studying.stages import Stage
from mae_lite.terminal import tell
from mae_lite.timing.clock import clock

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Order:
    """What is transferred where; the fields are those of the command."""

    suite: Suite
    weights: tuple[str, ...]
    """Run folders, or what else --init takes."""
    root: Path
    """Run folders of all suites stand here; this one's table, page and logs in a folder of its name."""
    processes: int | None = None
    """Stages at once; None takes the processors, or the GPUs where there are some."""
    heads: int | None = None
    """Attention heads of weights that do not say."""

    @property
    def folder(self) -> Path:
        """Folder of the table, the page and the logs."""
        return self.root / self.suite.name


def plan(wanted: Order) -> forecast.Plan:
    """Return all stages with commands, states and forecasts; nothing is written and no data are read.

    Raises:
        MaeLiteError: when the weights, or a set and the weights, are no good.
    """
    found = cells(wanted.suite, starts.read(wanted.weights, wanted.heads), wanted.root)
    counts = [one.images for one in wanted.suite.sets if one.images is not None]
    unknown = [one.name for one in wanted.suite.sets if one.images is None]
    images = f"{sum(counts):,} training images in {len(counts)} sets"
    images += f" (how many {', '.join(unknown)} has is not known: their training counts nothing)" if unknown else ""
    processes = wanted.processes or len(os.sched_getaffinity(0))
    return forecast.Plan(wanted.suite, _forecast(wanted.suite, found), processes, images)


def _forecast(suite: Suite, found: Iterable[Cell]) -> list[forecast.Forecast]:
    return forecast.of_stages(suite, [stage for cell in found for stage in _stages(cell)])


def _stages(cell: Cell) -> list[Stage]:
    """Return all stages of a cell; stand-ins for those that come after a choice."""
    point = cell.chosen()
    later = cell.to_come() if point is None else _finals(cell)
    return [*cell.trials().values(), *later]


def _finals(cell: Cell) -> list[Stage]:
    point = cell.chosen()
    return [] if point is None else [one for final in cell.finals(point) for one in (final.tuned, final.measured)]


def run(wanted: Order) -> tuple[dict[str, Any], MaeLiteError | None]:
    """Carry out all that is missing, and write the result.

    Returns:
        What ``transfer.json`` holds, and what is to be raised once it has been shown: nothing when all is well; Stopped
        after a signal; StudyError when stages failed, or a set's images are no good, after everything else.

    Raises:
        MaeLiteError: when no set's images are good, or weights are not.
        DiskError: when something else is carried out in the same folder.
        Stopped: when a signal came between stages.
    """
    models = starts.read(wanted.weights, wanted.heads)
    found = cells(wanted.suite, models, wanted.root)
    starts.quiet()
    graphics = running.gpus(wanted.suite.runtime)
    processes = wanted.processes or len(graphics) or len(os.sched_getaffinity(0))
    files.make_folder(wanted.root)
    lock = files.Lock(wanted.root / "study.lock", f"pid {os.getpid()} on {socket.gethostname()}")
    try:
        with stop_signals_raise():
            planned = _forecast(wanted.suite, found)
            done = sum(item.state == "done" for item in planned)
            left = clock(forecast.wall_seconds(planned, processes))
            tell(f"{wanted.suite.title}: {len(planned)} stages, {done} done; about {left} left, {processes} at once")
            failed = _unusable(found)
            able = [cell for cell in found if cell.set.name not in failed]
            pool = running.Pool(processes, wanted.folder / "logs", graphics, tell)
            outcome = _carried_out(pool, able)
            summary = _write(wanted, models, found)
    except KeyboardInterrupt:
        raise _stopped() from None
    finally:
        lock.release()
    return summary, _stopped() if outcome.stopped else _unfinished(wanted, able, outcome, failed)


def only_report(wanted: Order) -> dict[str, Any]:
    """Write table and page of what is finished; return what ``transfer.json`` holds."""
    models = starts.read(wanted.weights, wanted.heads)
    return _write(wanted, models, cells(wanted.suite, models, wanted.root))


def _unusable(found: Sequence[Cell]) -> dict[str, MaeLiteError]:
    """Open the images of every set with something left to do; return the reason for each that is no good.

    Raises:
        MaeLiteError: when none is good, and none has been used before.
    """
    waiting = {cell.set.name: cell.set for cell in found if any(one.state() != "done" for one in _stages(cell))}
    failed: dict[str, MaeLiteError] = {}
    for name, one in waiting.items():
        try:
            tell(f"{name}: {set_data.check(one)}")
        except MaeLiteError as error:
            failed[name] = error
    if failed and len(failed) == len({cell.set.name for cell in found}):
        first: MaeLiteError = next(iter(failed.values()))
        raise first
    for name, reason in failed.items():
        tell(plain(f"{name} is left out: {reason}"))
    return failed


def _carried_out(pool: running.Pool, able: Sequence[Cell]) -> Outcome:
    """Measure the grids, then carry out the best points."""
    tried = pool.run({stage.name: stage for cell in able for stage in cell.trials().values()})
    for name, code in list(tried.failed.items()):
        if code == NumericsError.exit_code:
            del tried.failed[name]
            tell(f"{name} diverged, which is an answer: its settings are not chosen")
    if tried.stopped:
        return tried
    last = pool.run({stage.name: stage for cell in able for stage in _finals(cell)})
    return Outcome(
        [*tried.finished, *last.finished],
        {**tried.failed, **last.failed},
        [*tried.skipped, *last.skipped],
        last.stopped,
    )


def _write(wanted: Order, models: Sequence[starts.Model], found: Sequence[Cell]) -> dict[str, Any]:
    """Write table and page of what is finished."""
    summary = transfer_results.table(wanted.suite, models, found)
    files.make_folder(wanted.folder)
    files.write_json(wanted.folder / "transfer.json", summary)
    names = {one.folder: cell.name for cell in found for one in _finals(cell) if one.trains}
    begun = [folder for folder in names if (folder / "recipe.json").is_file()]
    if begun:
        cut = f"Every training was cut to {wanted.suite.updates} updates: this shows that everything works."
        notes = [*([] if wanted.suite.updates is None else [cut]), *wanted.suite.notes]
        notes += transfer_results.choices(summary)
        shown = compose.compose(begun, wanted.suite.title, notes, names=names)
        said = transfer_results.headline(summary)
        page.write(dataclasses.replace(shown, headline=said), wanted.folder / "report.html")
    return summary


def as_text(wanted: Order, summary: Mapping[str, Any]) -> str:
    """Return the table, and where it and the page lie."""
    lines = [transfer_results.as_text(summary), "", f"The numbers: {wanted.folder / 'transfer.json'}"]
    if (wanted.folder / "report.html").exists():
        lines.append(f"The page: {wanted.folder / 'report.html'}")
    return "\n".join(lines)


def _unfinished(
    wanted: Order, able: Sequence[Cell], outcome: Outcome, failed: Mapping[str, MaeLiteError]
) -> StudyError | None:
    """Say what is missing in the end, if anything is."""
    lost = [cell.name for cell in able if cell.chosen() is None and len(cell.tried()) == len(cell.set.points())]
    if not (outcome.failed or failed or lost):
        return None
    parts = [f"stages {', '.join(outcome.failed)} (logs: {wanted.folder / 'logs'})"] if outcome.failed else []
    parts += [f"the whole grid of {name} diverged" for name in lost]
    parts += [f"set {name}: {error.what}" for name, error in failed.items()]
    return StudyError(
        f"suite {wanted.suite.name!r} is not whole",
        found="; ".join(parts),
        fix="mend what the lines above say, then give the same command; what is finished is kept",
    )


def _stopped() -> Stopped:
    return Stopped("the transfer is stopped; what was finished is kept", fix="the same command continues")
