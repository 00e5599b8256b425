"""Bugs planted into the package, in memory: a function gets the code that its changed source would have.

Every place that holds the function runs the changed code, however it imported it. A bug lasts as long as the process.
"""

from __future__ import annotations

import importlib
import inspect
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Bug:
    """A change of one place in a module."""

    name: str
    module: str
    old: str
    """Text that is there exactly once."""
    new: str


def plant(bug: Bug) -> int:
    """Plant ``bug`` into this process; return how many functions changed.

    Raises:
        AssertionError: when its text is not there once, or nothing changed.
    """
    module = importlib.import_module(bug.module)
    path = Path(str(module.__file__))
    source = path.read_text()
    assert source.count(bug.old) == 1, f"{bug.name}: its text is {source.count(bug.old)} times in {path.name}"
    scratch = types.ModuleType(bug.module)
    scratch.__dict__.update({"__file__": str(path), "__package__": module.__package__})
    # Dataclasses look their module up by its name: it has to stay the one that is known.
    exec(compile(source.replace(bug.old, bug.new), str(path), "exec"), scratch.__dict__)
    changed = 0
    planted = dict(_functions(scratch, bug.module))
    for name, function in _functions(module, bug.module):
        other = planted.get(name)
        if other is not None and other.__code__ != function.__code__:
            function.__code__ = other.__code__
            changed += 1
    assert changed, f"{bug.name}: no function changed"
    return changed


def _functions(place: Any, module: str, prefix: str = "") -> Iterator[tuple[str, types.FunctionType]]:
    """Yield all functions and methods of a module or class that are defined in it, unwrapped."""
    for name, value in list(vars(place).items()):
        if isinstance(value, staticmethod | classmethod):
            value = value.__func__
        if isinstance(value, property):
            value = value.fget
        if inspect.isclass(value) and value.__module__ == module and not prefix:
            yield from _functions(value, module, f"{name}.")
        value = inspect.unwrap(value) if callable(value) and not inspect.isclass(value) else value
        if isinstance(value, types.FunctionType) and value.__module__ == module:
            yield prefix + name, value


BUGS = (
    Bug("a damaged file is taken", "mae_lite.files", "if sha256(data) != digest:", "if False:"),
    Bug(
        "files are written in place",
        "mae_lite.files",
        """    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")

    def work() -> None:
        try:
            disk.write(temporary, data)
            disk.rename(temporary, path)""",
        """    temporary = path

    def work() -> None:
        try:
            disk.write(temporary, data)""",
    ),
    Bug(
        "folders are written in place",
        "mae_lite.files",
        """    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    manifest =""",
        """    temporary = path
    manifest =""",
    ),
    Bug(
        "the old folder is deleted before the new one is there",
        "mae_lite.files",
        "    disk.rename(path, aside)\n",
        "    disk.remove(path)\n",
    ),
    Bug("what stepped aside is deleted", "mae_lite.files", "disk.rename(leftover, original)", "disk.remove(leftover)"),
    Bug("leftovers stay", "mae_lite.files", 'for leftover in folder.glob(f"{TEMPORARY}*"):', "for leftover in ():"),
    Bug(
        "the lock is none",
        "mae_lite.files",
        "fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "pass",
    ),
    Bug("files are not flushed", "mae_lite.files", "            os.fsync(handle.fileno())\n", "            pass\n"),
    Bug(
        "a damaged checkpoint ends the run",
        "mae_lite.engine.checkpoint",
        """            _log.warning("%s; falling back to the checkpoint before", str(error).splitlines()[0])""",
        "            raise",
    ),
    Bug(
        "the optimiser starts anew",
        "mae_lite.engine.checkpoint",
        '    optimizer.load_state_dict({"state": saved,',
        '    dict({"state": saved,',
    ),
    Bug(
        "the average starts anew",
        "mae_lite.engine.checkpoint",
        """    if ema is not None:
        _load(ema""",
        """    if False:
        _load(ema""",
    ),
    Bug(
        "the step alone comes back",
        "mae_lite.engine.checkpoint",
        "return Progress(**state)",
        'return Progress(step=state["step"])',
    ),
    Bug("no checkpoint is kept", "mae_lite.engine.checkpoint", "found[:2]} | {progress.best_step}", "found[:0]}"),
    Bug("the best is not kept", "mae_lite.engine.checkpoint", "} | {progress.best_step}", "}"),
    Bug(
        "what was written is not read back",
        "mae_lite.engine.checkpoint",
        "        files.read_folder(target)\n    except",
        "        pass\n    except",
    ),
    Bug(
        "the images begin anew",
        "mae_lite.engine.loop",
        "job.batches(progress.step, last)",
        "job.batches(0, last)",
    ),
    Bug(
        "drop path is not drawn by the step",
        "mae_lite.engine.update",
        '        torch.manual_seed(draws.key(job.recipe.seed, "drop path", step, *part) >> 1)',
        "        pass",
    ),
    Bug(
        "NaN is taken",
        "mae_lite.engine.update",
        "    return torch.isfinite(norm.square() + loss)",
        "    return torch.isfinite(torch.zeros_like(loss))",
    ),
    Bug(
        "saves may fail for ever",
        "mae_lite.engine.loop",
        "if final or self._failures >= _SAVES_MAY_FAIL:",
        "if False:",
    ),
    Bug(
        "a signal is not heard",
        "mae_lite.engine.loop",
        "job.signals.requested is not None, saver.due()",
        "False, saver.due()",
    ),
    Bug(
        "the order of images is drawn from numpy's own generator",
        "mae_lite.draws",
        "return generator(draw_key).permutation(count)",
        "return np.random.permutation(count)",
    ),
    Bug(
        "no checkpoint is looked for",
        "mae_lite.training",
        "found = state or checkpoint.newest(folder)",
        "found = state",
    ),
    Bug("rows stay behind", "mae_lite.training", "    record.cut(progress.step)\n", "    pass\n"),
    Bug("a row too many is cut", "mae_lite.rundir", 'if 0 < step >= row["step"]]', 'if 0 < step > row["step"]]'),
    Bug(
        "a torn row ends the run",
        "mae_lite.rundir",
        """        except ValueError:
            continue""",
        """        except ValueError:
            raise""",
    ),
    Bug("another run is continued", "mae_lite.resuming", "    if not refused:\n", "    if True:\n"),
)
"""Mistakes of the kind that make a run lose work, or go on as another one, without a word."""
