"""The next update is prepared while a device computes, and nothing but the time of it differs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mae_lite import files, left_out, rundir, training
from mae_lite.data.batch import Batch
from mae_lite.engine import feed, meter
from mae_lite.engine.feed import Feed
from mae_lite.errors import DataError
from tests import poison, toy

FILES = ("model.safetensors", "optimizer.safetensors")


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the CPU for a device that works beside the host."""
    monkeypatch.setattr(feed, "WORK_BESIDE", ("cpu",))


def state(run: Path) -> dict[str, bytes]:
    (_, newest), *_ = rundir.checkpoints(run)
    content = files.read_folder(newest)
    return {name: content[name] for name in FILES}


def rows(run: Path) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name not in toy.TIMES} for row in rundir.read_rows(run)]


@pytest.mark.parametrize("micro_batch_size", [16, 4])
@pytest.mark.parametrize("loading", ["workers", "resident"])
def test_what_is_prepared_is_what_would_have_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loading: str, micro_batch_size: int
) -> None:
    plain = {"rotate_degrees": 0.0, "shear_degrees": 0.0, "translate": 0.0, "zoom": (1.0, 1.0)}
    recipe = toy.mae(augmentation=plain)
    settings = {"loading": loading, "micro_batch_size": micro_batch_size}
    training.run(recipe, toy.runtime(tmp_path / "plain", **settings))
    monkeypatch.setattr(feed, "WORK_BESIDE", ("cpu",))
    training.run(recipe, toy.runtime(tmp_path / "ahead", stop_after_steps=3, **settings))
    training.run(recipe, toy.runtime(tmp_path / "ahead", **settings))
    assert state(tmp_path / "ahead") == state(tmp_path / "plain")
    assert rows(tmp_path / "ahead") == rows(tmp_path / "plain")


def test_updates_that_fail_are_left_out_as_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"on_nan": "rollback", **poison.settings(tmp_path)}
    for name, devices in (("plain", ()), ("ahead", ("cpu",))):
        monkeypatch.setattr(feed, "WORK_BESIDE", devices)
        training.run(poison.recipe(), toy.runtime(tmp_path / name, **settings))
        assert left_out.read(tmp_path / name) == (3,)
    assert state(tmp_path / "ahead") == state(tmp_path / "plain")
    bundles = [poison.bundle(tmp_path / name, 3) for name in ("ahead", "plain")]
    assert bundles[0] == bundles[1]


def feeding(batches: Any) -> Feed:
    """Return the feed of a job without random numbers."""
    method = SimpleNamespace(draw=lambda seed, step, rows: {"step": torch.tensor([seed, step, rows.start])})
    parts = {"method": method, "fabric": SimpleNamespace(device=torch.device("cpu"))}
    job: Any = SimpleNamespace(**parts, recipe=SimpleNamespace(seed=5))
    return Feed(job, iter(batches))


def batch(number: int) -> Batch:
    return Batch(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), torch.tensor([-1]), torch.tensor([number]))


def failing() -> Any:
    yield batch(0)
    raise DataError("no more", fix="none")


@pytest.mark.usefixtures("beside")
def test_what_fails_is_raised_when_it_is_taken() -> None:
    fed = feeding(failing())
    food = fed.take(0, range(3, 4))
    assert food.batch.ids.tolist() == [0] and food.drawn["step"].tolist() == [5, 0, 3]
    fed.prepare(1, range(4))
    with pytest.raises(DataError, match="no more"):
        fed.take(1, range(4))


@pytest.mark.usefixtures("beside")
def test_what_fails_is_raised_when_it_is_left_out() -> None:
    fed = feeding(failing())
    fed.take(0, range(1))
    fed.prepare(1, range(1))
    with pytest.raises(DataError, match="no more"):
        fed.leave_out()


@pytest.mark.parametrize("devices", [(), ("cpu",)])
def test_one_is_left_out_prepared_or_not(monkeypatch: pytest.MonkeyPatch, devices: tuple[str, ...]) -> None:
    monkeypatch.setattr(feed, "WORK_BESIDE", devices)
    fed = feeding(map(batch, range(3)))
    fed.prepare(0, range(1))
    fed.leave_out()
    assert fed.take(1, range(1)).batch.ids.tolist() == [1]
    fed.leave_out()
    with pytest.raises(StopIteration):
        fed.take(3, range(1))


def test_a_host_that_computes_itself_prepares_nothing() -> None:
    taken = list[int]()
    fed = feeding(batch(taken.append(number) or number) for number in range(2))  # type: ignore[func-returns-value]
    fed.take(0, range(1))
    fed.prepare(1, range(1))
    assert taken == [0]


class Event:
    """An event of a device that gets idle 2 seconds before somebody asks, or is busy."""

    busy = False

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        assert not self.busy, "the device is never waited for"

    def query(self) -> bool:
        return not self.busy

    def elapsed_time(self, later: Event) -> float:
        del later
        return 2000.0


@pytest.mark.parametrize(("kind", "busy", "expected"), [("cuda", False, 2.0), ("cuda", True, 0.0), ("cpu", False, 5.0)])
def test_waiting_is_what_the_device_lost(
    monkeypatch: pytest.MonkeyPatch, kind: str, busy: bool, expected: float
) -> None:
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(Event, "busy", busy)
    clock = iter([10.0, 15.0])
    monkeypatch.setattr(meter, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    waited = meter.Waited(iter([batch(0)]), torch.device(kind))
    assert next(waited).ids.tolist() == [0]
    assert waited.read() == expected and waited.read() == 0.0
