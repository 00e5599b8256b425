"""Disks that fail, tear and forget: at every operation, something whole and verified stays readable."""

from __future__ import annotations

import errno
import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from mae_lite import files, methods, rundir
from mae_lite.engine import checkpoint
from mae_lite.engine.checkpoint import Progress
from mae_lite.engine.optim import build_optimizer
from mae_lite.errors import CheckpointError, DiskError
from tests import toy
from tests.faulty_disk import KILL, FaultyDisk, at, healthy
from tests.figures_of import tally

ROOT = Path(__file__).parent.parent
WAYS = ((errno.ENOSPC, True), *((n, False) for n in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)))
OLD, NEW = b"old " * 300, b"new " * 500
TWO = {"a.bin": NEW, "b.json": b'{"x": 1}'}


@pytest.fixture(autouse=True)
def own_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the disk back after every test, and spare it the flushing: no test here pulls the plug."""
    monkeypatch.setattr(files, "disk", files.Disk())
    monkeypatch.setattr(os, "fsync", lambda _: None)


def use(disk: files.Disk) -> None:
    files.disk = disk


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def operations(action: Callable[[], object]) -> int:
    """Return how many operations ``action`` takes on a healthy disk."""
    disk = FaultyDisk(healthy)
    use(disk)
    action()
    use(files.Disk())
    return len(disk.operations)


def killed(action: Callable[[], object], position: int, torn: bool) -> bool:
    """Do ``action`` in a fork that is killed at operation ``position``; return whether it was."""
    process = os.fork()
    if not process:
        try:
            use(FaultyDisk(at(position, KILL), torn=torn))
            action()
        finally:
            os._exit(1)
    return os.waitpid(process, 0)[1] == signal.SIGKILL


def every_fault(count: int) -> Iterator[FaultyDisk]:
    """Yield a disk for each position and way of failing: an errno, torn or clean, once or from there on."""
    for position in range(1, count + 1):
        for number, torn in WAYS:
            for always in (False, True):
                yield FaultyDisk(at(position, number, always=always), torn=torn)


def write_a_file(folder: Path) -> None:
    files.write_bytes(folder / "f.json", NEW)


def publish_a_file(folder: Path) -> None:
    with files.published_file(folder / "f.json") as temporary:
        temporary.write_bytes(NEW)


@pytest.mark.parametrize("write", [write_a_file, publish_a_file])
def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, write: Callable[[Path], None]) -> None:
    count = operations(lambda: write(tmp_path)) - (write is publish_a_file)  # its last one tidies up, and may fail
    assert count >= 3
    for trial, disk in enumerate(every_fault(count)):
        folder = tmp_path / str(trial)
        folder.mkdir()
        (folder / "f.json").write_bytes(OLD)
        use(disk)
        with pytest.raises(DiskError, match=r"(?s)E[A-Z]+.*\nFix: "):
            write(folder)
        use(files.Disk())
        assert (folder / "f.json").read_bytes() in (OLD, NEW), disk.operations
        files.sweep(folder)
        assert names(folder) == {"f.json"}
    tally("faults", trial + 1)


def test_nothing_appears_under_the_final_name_of_a_failed_file(tmp_path: Path) -> None:
    for trial, disk in enumerate(every_fault(2)):  # write, rename
        folder = tmp_path / str(trial)
        folder.mkdir()
        use(disk)
        with pytest.raises(DiskError):
            write_a_file(folder)
        assert "f.json" not in names(folder)


def test_published_file_keeps_nothing_of_a_block_that_failed(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(OLD)
    with pytest.raises(ZeroDivisionError), files.published_file(tmp_path / "f") as temporary:
        temporary.write_bytes(NEW)
        print(1 // 0)
    assert names(tmp_path) == {"f"} and (tmp_path / "f").read_bytes() == OLD


def test_a_new_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    count = operations(lambda: files.publish_folder(tmp_path / "count", TWO))
    assert count >= 7
    for trial, disk in enumerate(every_fault(count)):
        folder = tmp_path / str(trial)
        folder.mkdir()
        use(disk)
        with pytest.raises(DiskError):
            files.publish_folder(folder / "step_6", TWO)
        use(files.Disk())
        if "step_6" in names(folder):
            assert files.read_folder(folder / "step_6") == TWO
        files.sweep(folder)
        assert names(folder) <= {"step_6"}
    tally("faults", trial + 1)


def test_an_existing_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    one = {"a.bin": OLD}

    def fresh(name: str) -> Path:
        (tmp_path / name).mkdir()
        files.publish_folder(tmp_path / name / "encoder", one)
        return tmp_path / name

    counted = fresh("count")
    count = operations(lambda: files.publish_folder(counted / "encoder", TWO))
    assert count >= 9
    for trial, disk in enumerate(every_fault(count)):
        folder = fresh(str(trial))
        use(disk)
        try:
            files.publish_folder(folder / "encoder", TWO)
        except DiskError as error:
            assert "Fix: " in str(error)
        use(files.Disk())
        files.sweep(folder)
        assert names(folder) == {"encoder"}, disk.operations
        assert files.read_folder(folder / "encoder") in (one, TWO), disk.operations
    tally("faults", trial + 1)


def test_a_kill_at_any_operation_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    one = {"a.bin": OLD}

    def start(folder: Path) -> None:
        folder.mkdir()
        (folder / "f.json").write_bytes(OLD)
        files.publish_folder(folder / "replaced", one)

    def work(folder: Path) -> None:
        write_a_file(folder)
        files.publish_folder(folder / "new", TWO)
        files.publish_folder(folder / "replaced", TWO)

    start(tmp_path / "count")
    count = operations(lambda: work(tmp_path / "count"))
    assert count >= 19
    for position in range(1, count + 1):
        for torn in (False, True):
            folder = tmp_path / f"{position}-{torn}"
            start(folder)
            assert killed(functools.partial(work, folder), position, torn), position
            files.sweep(folder)
            assert names(folder) - {"new"} == {"f.json", "replaced"}, position
            assert (folder / "f.json").read_bytes() in (OLD, NEW)
            assert files.read_folder(folder / "replaced") in (one, TWO)
            assert not (folder / "new").exists() or files.read_folder(folder / "new") == TWO
    tally("faults", 2 * count)


PASSING = (errno.EIO, errno.ESTALE)
PAUSES = [0.1, 0.5, 2.0]


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("number", PASSING)
def test_an_error_that_passes_is_waited_out(tmp_path: Path, number: int, times: int) -> None:
    """As a disk across a network gives them; what fails ``times`` in a row is done in the end."""

    def work(folder: Path) -> None:
        files.make_folder(folder)
        write_a_file(folder)
        files.publish_folder(folder / "b", {"a.bin": OLD})
        files.publish_folder(folder / "b", TWO)
        files.remove(folder / "f.json")

    count = operations(lambda: work(tmp_path / "count"))
    for position in range(1, count + 1):
        disk = FaultyDisk(at(position, number, times=times), torn=True)
        use(disk)
        work(tmp_path / str(position))
        use(files.Disk())
        tidying = not disk.waited  # deleting what stepped aside may fail; the next start does it
        assert disk.waited == PAUSES[: len(disk.waited)] and (
            not tidying or disk.operations[position - 1][0] == "remove"
        )
        files.sweep(tmp_path / str(position))
        assert names(tmp_path / str(position)) == {"b"}
        assert files.read_folder(tmp_path / str(position) / "b") == TWO
    tally("faults", count)


@pytest.mark.parametrize("number", PASSING)
def test_an_error_that_stays_is_told_after_the_last_attempt(tmp_path: Path, number: int) -> None:
    actions: list[Callable[[], object]] = [
        lambda: write_a_file(tmp_path),
        lambda: files.publish_folder(tmp_path / "b", TWO),
        lambda: files.make_folder(tmp_path / "c"),
        lambda: files.remove(tmp_path / "d"),
    ]
    for action in actions:
        disk = FaultyDisk(at(1, number, always=True))
        use(disk)
        with pytest.raises(DiskError, match=rf"(?s){errno.errorcode[number]}.*\nFix: check the disk"):
            action()
        assert disk.waited == PAUSES
    assert names(tmp_path) == set()
    tally("faults", len(actions))


def test_other_errors_are_not_waited_for(tmp_path: Path) -> None:
    disk = FaultyDisk(at(1, errno.ENOSPC))
    use(disk)
    with pytest.raises(DiskError, match=r"0\.0020 MB are needed, [\d,.]+ MB are free there"):
        write_a_file(tmp_path)
    assert disk.waited == []


def test_sweep_takes_leftovers_only_and_bears_a_disk_that_refuses(tmp_path: Path) -> None:
    (tmp_path / "step_2").mkdir()
    (tmp_path / ".tmp-7-step_4").mkdir()
    (tmp_path / ".tmp-7-step_4" / "model").write_bytes(OLD)
    (tmp_path / ".tmp-7-f").write_bytes(OLD)
    (tmp_path / ".keep").write_bytes(OLD)
    use(FaultyDisk(at(1, errno.EIO, always=True)))
    files.sweep(tmp_path)
    use(files.Disk())
    assert len(names(tmp_path)) == 4
    files.sweep(tmp_path)
    assert names(tmp_path) == {"step_2", ".keep"}


# Checkpoints


Parts = tuple[torch.nn.Module, torch.optim.Optimizer]


@pytest.fixture(scope="module")
def parts() -> Parts:
    """Return a toy method and its optimiser, two updates old."""
    recipe = toy.mae()
    method = methods.build(recipe, 0)
    optimizer = build_optimizer(method, recipe)
    for step in range(2):
        noise = method.draw(0, step, range(4))
        method(torch.rand(4, 1, 8, 8), torch.zeros(4, dtype=torch.int64), noise).loss.backward()
        optimizer.step()
    return method, optimizer


def save(run: Path, step: int, parts: Parts, **progress: float) -> None:
    checkpoint.save(run, Progress(step=step, loss_sum=float(step), **progress), *parts, None)  # type: ignore[arg-type]


@pytest.fixture
def saved(tmp_path: Path, parts: Parts) -> Path:
    """Return a run folder with checkpoints of steps 2 and 4."""
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    save(run, 2, parts)
    save(run, 4, parts)
    return run


def test_every_failed_save_leaves_a_verified_checkpoint(saved: Path, tmp_path: Path, parts: Parts) -> None:
    before = {step: files.read_folder(path) for step, path in rundir.checkpoints(saved)}
    counted = shutil.copytree(saved, tmp_path / "counted")
    count = operations(lambda: save(counted, 6, parts))
    assert count == 10  # remove, make_folder, four writes, sync, rename, sync, remove of step 2
    failed = 0
    for trial, disk in enumerate(every_fault(count)):
        run = shutil.copytree(saved, tmp_path / str(trial))
        use(disk)
        try:
            save(run, 6, parts)
        except DiskError as error:
            failed += 1
            assert str(run / "checkpoints" / "step_6") in str(error) and "\nFix: " in str(error)
        use(files.Disk())
        found = checkpoint.newest(run)
        assert found is not None and found[0] in (4, 6), disk.operations
        if found[0] == 4:
            assert found[1] == before[4]
        else:
            assert json.loads(found[1]["state.json"])["step"] == 6
        # What carries a final name and is newer than the last two is whole.
        assert all(files.read_folder(path) for step, path in rundir.checkpoints(run)[:2])
        files.sweep(run / "checkpoints")
        assert all(name.startswith("step_") for name in names(run / "checkpoints"))
        save(run, 6, parts)  # the disk is well again
        assert [step for step, _ in rundir.checkpoints(run)] == [6, 4]
        shutil.rmtree(run)
    tally("faults", trial + 1)
    assert failed == (count - 1) * len(WAYS) * 2  # only the last, a deletion, is merely a warning


def test_a_kill_at_any_operation_of_a_save_leaves_a_verified_checkpoint(
    saved: Path, tmp_path: Path, parts: Parts
) -> None:
    before = dict(rundir.checkpoints(saved))
    counted = shutil.copytree(saved, tmp_path / "counted")
    count = operations(lambda: save(counted, 6, parts))
    for position in range(1, count + 1):
        for torn in (False, True):
            run = shutil.copytree(saved, tmp_path / f"{position}-{torn}")
            assert killed(functools.partial(save, run, 6, parts), position, torn), position
            found = checkpoint.newest(run)
            assert found is not None and found[0] in (4, 6), position
            assert found[0] == 6 or found[1] == files.read_folder(before[4])
            assert all(files.read_folder(path) for step, path in rundir.checkpoints(run)[:2])
            files.sweep(run / "checkpoints")
            assert all(name.startswith("step_") for name in names(run / "checkpoints"))
            save(run, 6, parts)  # the next start comes past it again
            assert [step for step, _ in rundir.checkpoints(run)] == [6, 4]
    tally("faults", 2 * count)


def test_a_deletion_that_fails_is_a_warning(saved: Path, parts: Parts, caplog: pytest.LogCaptureFixture) -> None:
    use(FaultyDisk(lambda _, name, path: errno.EIO if name == "remove" and path.name == "step_2" else 0))
    save(saved, 6, parts)
    assert [step for step, _ in rundir.checkpoints(saved)] == [6, 4, 2]
    assert "step_2" in caplog.text and "EIO" in caplog.text


def test_a_lying_disk_is_noticed_before_anything_is_deleted(saved: Path, parts: Parts) -> None:
    class Lying(files.Disk):
        def write(self, path: Path, data: bytes) -> None:
            super().write(path, data[:-1] + bytes([data[-1] ^ 1]) if path.name == "model.safetensors" else data)

    use(Lying())
    with pytest.raises(DiskError, match=r"(?s)step_6.*\nFix: "):
        save(saved, 6, parts)
    use(files.Disk())
    found = checkpoint.newest(saved)
    assert found is not None and found[0] == 4
    assert {2, 4} <= {step for step, _ in rundir.checkpoints(saved)}


def test_the_last_two_and_the_best_stay(saved: Path, parts: Parts) -> None:
    for step in (6, 8, 10):
        save(saved, step, parts, best=0.5, best_step=4)
    assert [step for step, _ in rundir.checkpoints(saved)] == [10, 8, 4]
    save(saved, 12, parts, best=0.6, best_step=12)
    assert [step for step, _ in rundir.checkpoints(saved)] == [12, 10]


def damage(path: Path, flip: bool = True) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= flip
    path.write_bytes(data if flip else data[: len(data) // 2])


@pytest.mark.parametrize("flip", [True, False])
def test_a_damaged_newest_falls_back_aloud(
    saved: Path, parts: Parts, flip: bool, caplog: pytest.LogCaptureFixture
) -> None:
    damage(saved / "checkpoints" / "step_4" / "model.safetensors", flip)
    found = checkpoint.newest(saved)
    assert found is not None and found[0] == 2
    assert "step_4" in caplog.text and "falling back" in caplog.text
    assert ("damaged" if flip else "incomplete") in caplog.text
    restored = checkpoint.restore(found[1], *parts, None)
    assert (restored.step, restored.loss_sum) == (2, 2.0)
    save(saved, 4, parts)  # the run comes past the damaged step again
    assert [files.read_folder(path)["state.json"][:1] for _, path in rundir.checkpoints(saved)] == [b"{", b"{"]


def test_a_damaged_newest_does_not_cost_the_last_good_one(saved: Path, parts: Parts) -> None:
    """Step 4 is damaged, the run resumed at 2 and saves 3: 2 is then the only other good one."""
    damage(saved / "checkpoints" / "step_4" / "model.safetensors")
    save(saved, 3, parts)
    assert {2, 3} <= {step for step, _ in rundir.checkpoints(saved)}


def test_no_intact_checkpoint_is_an_error_not_a_new_start(saved: Path, tmp_path: Path) -> None:
    for step in (2, 4):
        damage(saved / "checkpoints" / f"step_{step}" / "state.json")
    with pytest.raises(CheckpointError, match=r"(?s)all 2 checkpoints.*damaged.*\nFix: "):
        checkpoint.newest(saved)
    assert checkpoint.newest(tmp_path / "nothing") is None


FLIPS = 2000
"""Of single bits, in each of four files."""


def lengths(size: int) -> Iterator[int]:
    """Yield every length of a small file, and 200 of a large one."""
    yield from range(size) if size <= 600 else sorted({*range(0, size, max(1, size // 200)), size - 1})


def test_no_truncated_or_flipped_file_is_read(saved: Path) -> None:
    folder = saved / "checkpoints" / "step_4"
    originals = {path: path.read_bytes() for path in sorted(folder.iterdir())}
    assert len(originals) == 4
    choose, tried = random.Random(0), 0
    for path, data in originals.items():
        for length in lengths(len(data)):
            tried += 1
            path.write_bytes(data[:length])
            with pytest.raises(CheckpointError, match=r"(?s)step_4.*\nFix: "):
                files.read_folder(folder)
        tried += FLIPS
        for _ in range(FLIPS):
            bit = choose.randrange(8 * len(data))
            flipped = bytearray(data)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            with pytest.raises(CheckpointError, match=r"(?s)step_4.*\nFix: "):
                files.read_folder(folder)
        path.unlink()
        with pytest.raises(CheckpointError, match=path.name):
            files.read_folder(folder)
        path.write_bytes(data)
        assert len(files.read_folder(folder)) == 3
    tally("corrupted", tried)


@pytest.mark.parametrize("name", ["/dev/zero", "../outside", "sub/../../outside"])
def test_a_manifest_names_files_of_its_folder_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / "outside").write_bytes(OLD)
    (tmp_path / "model" / "sub").mkdir(parents=True)
    manifest = {name: {"sha256": files.sha256(OLD), "bytes": len(OLD)}}
    (tmp_path / "model" / files.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="incomplete"):
        files.read_folder(tmp_path / "model")


# Lock

HOLD = "import sys, time; from pathlib import Path; from mae_lite import files; "
HOLD += "files.Lock(Path(sys.argv[1]), 'pid 4711 on elsewhere'); print('held', flush=True); time.sleep(60)"


def test_a_lock_is_held_once_by_this_process(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    lock = files.Lock(tmp_path / "run.lock", "pid 1 on here")
    for path in (tmp_path / "run.lock", tmp_path / "link" / "run.lock"):
        with pytest.raises(DiskError, match=r"(?s)live run: found pid 1 on here\nFix: "):
            files.Lock(path, "me")
    lock.release()
    lock.release()
    files.Lock(tmp_path / "run.lock", "me").release()


def test_a_lock_of_another_process_names_it_and_ends_with_it(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    path.write_text("pid 12345678901234567890 of long ago, much longer than the next")
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True, cwd=ROOT) as held:
        assert held.stdout is not None and held.stdout.readline() == "held\n"
        for _ in range(2):  # a refused attempt neither takes nor releases it
            with pytest.raises(DiskError, match=r"live run: found pid 4711 on elsewhere\nFix: ") as caught:
                files.Lock(path, "me")
            assert caught.value.exit_code == 5 and repr(str(tmp_path)) in str(caught.value)
        held.send_signal(signal.SIGKILL)
        held.wait()
    files.Lock(path, "me").release()
    assert path.read_text() == "me"


def test_a_lock_that_cannot_be_opened_says_so(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match=r"(?s)open the lock.*ENOENT.*\nFix: "):
        files.Lock(tmp_path / "absent" / "run.lock", "me")


# Rows of metrics


@pytest.fixture
def record(tmp_path: Path) -> Iterator[rundir.RunDir]:
    opened = rundir.RunDir(tmp_path / "run", {"format": 1})
    yield opened
    opened.close()


def test_rows_after_the_checkpoint_are_cut(record: rundir.RunDir) -> None:
    record.cut(0)  # nothing there yet
    for step in (2, 4, 6):
        record.log({"step": step, "loss": 0.5})
    with (record.path / "metrics.jsonl").open("a") as handle:
        handle.write('{"step": 8, "lo')
    assert [row["step"] for row in rundir.read_rows(record.path)] == [2, 4, 6]
    record.cut(4)
    assert (record.path / "metrics.jsonl").read_text().splitlines() == [
        '{"step": 2, "loss": 0.5}',
        '{"step": 4, "loss": 0.5}',
    ]
    record.log({"step": 6, "loss": float("nan")})
    assert rundir.read_rows(record.path)[-1] == {"step": 6, "loss": None}


@pytest.mark.parametrize("torn", [False, True])
def test_a_refused_row_costs_that_row_only(
    record: rundir.RunDir, torn: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    record.log({"step": 2})
    use(FaultyDisk(at(1, errno.ENOSPC), torn=torn))
    for step in (4, 6, 8):
        record.log({"step": step})
    assert rundir.read_rows(record.path) == [{"step": 2}, {"step": 6, "rows_lost_before": 1}, {"step": 8}]
    assert capsys.readouterr().err.count("warning: ") == 1


def test_a_row_half_taken_by_a_full_disk_is_refused_not_forgotten(
    record: rundir.RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system takes what fits and reports it as a shorter count, not as an error."""

    class Short:
        def __enter__(self) -> Short:
            return self

        def __exit__(self, *_: object) -> None:
            return None

        def write(self, data: bytes) -> int:
            return len(data) // 2

    monkeypatch.setattr(Path, "open", lambda *_, **__: Short())
    with pytest.raises(DiskError, match=r"(?s)append to.*\nFix: "):
        files.append_line(record.path / "metrics.jsonl", '{"step": 2}')
