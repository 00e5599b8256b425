"""Where a device works beside the host, an update that is not finite is passed over, and asked for one update later."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from mae_lite import config, files, left_out, recipes, rundir, training
from mae_lite.config import Recipe
from mae_lite.data.batch import Batch
from mae_lite.engine import feed, update
from mae_lite.engine.feed import Feed
from mae_lite.engine.update import Updates
from mae_lite.errors import DataError, NotFinite, NumericsError
from mae_lite.methods.mae import MaskedAutoencoder
from mae_lite.timing import rates
from tests import poison, toy
from tests.test_feed import rows, state

UPDATES = 6
"""Of a run here."""


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the CPU for a device that works beside the host."""
    monkeypatch.setattr(feed, "WORK_BESIDE", ("cpu",))


def short(**changes: Any) -> Recipe:
    """Return a toy MAE whose gradients are clipped."""
    return toy.mae(clip_grad_norm=0.02, **changes)


def refusing(monkeypatch: pytest.MonkeyPatch, *at: int) -> None:
    """Take the updates ``at``, of all that are made, for not finite; their gradients are, so that making them shows."""
    calls, original = list[int](), update._is_finite

    def is_finite(loss: Tensor, norm: Tensor) -> Tensor:
        calls.append(len(calls))
        return original(loss, norm) & (calls[-1] not in at)

    monkeypatch.setattr(update, "_is_finite", is_finite)


def failed(out: Path, at: int, **settings: Any) -> tuple[str, dict[str, bytes], list[dict[str, Any]]]:
    """Return what is left of a run whose update ``at`` fails: the error, the bundle and the rows."""
    with pytest.raises(NumericsError) as caught:
        training.run(short(), toy.runtime(out, stop_after_steps=UPDATES, **settings))
    bundle = files.read_folder(out / "failed" / f"step_{at}")
    return str(caught.value).replace(str(out), "OUT"), dict(bundle), rows(out)


LOOKED_AT = [
    {"log_every_steps": 100, "save_every_steps": 100},
    {"log_every_steps": 1, "save_every_steps": 100},
    {"log_every_steps": 2, "save_every_steps": 3},
]


@pytest.mark.parametrize("settings", LOOKED_AT, ids=["never", "rows", "both"])
@pytest.mark.parametrize("at", [0, 1, 2, UPDATES - 1])
def test_what_is_kept_does_not_depend_on_when_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, settings: dict[str, Any]
) -> None:
    with monkeypatch.context() as patched:
        refusing(patched, at)
        expected = failed(tmp_path / "waited", at, **settings)
        assert f"update {at}: " in expected[0]
    monkeypatch.setattr(feed, "WORK_BESIDE", ("cpu",))
    refusing(monkeypatch, at)
    assert failed(tmp_path / "beside", at, **settings) == expected


def test_a_probe_is_not_shown_what_was_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seldom = {"log_every_steps": 100, "save_every_steps": 100, "probe_every_epochs": 3 / 84}
    found = []
    for name, devices in (("waited", ()), ("beside", ("cpu",))):
        monkeypatch.setattr(feed, "WORK_BESIDE", devices)
        with monkeypatch.context() as patched:
            refusing(patched, 2)
            found.append(failed(tmp_path / name, 2, **seldom))
    assert found[0] == found[1]
    assert [row["step"] for row in found[0][2]] == [0]


@pytest.mark.parametrize("at", [0, 1, 2, UPDATES - 1])
@pytest.mark.parametrize("settings", LOOKED_AT, ids=["never", "rows", "both"])
def test_the_run_goes_on_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, settings: dict[str, Any]
) -> None:
    ends = []
    for name, devices in (("waited", ()), ("beside", ("cpu",))):
        monkeypatch.setattr(feed, "WORK_BESIDE", devices)
        with monkeypatch.context() as patched:
            refusing(patched, at)
            once = toy.runtime(tmp_path / name, on_nan="rollback", stop_after_steps=UPDATES, **settings)
            training.run(short(), once)
        assert left_out.read(tmp_path / name) == (at,)
        ends.append((state(tmp_path / name), rows(tmp_path / name)))
    assert ends[0] == ends[1]


def test_one_before_an_update_that_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = []
    settings = {"log_every_steps": 100, "save_every_steps": 100, "stop_after_steps": UPDATES, "on_nan": "rollback"}
    for name, devices in (("waited", ()), ("beside", ("cpu",))):
        monkeypatch.setattr(feed, "WORK_BESIDE", devices)
        with monkeypatch.context() as patched:
            refusing(patched, 3, 4 + 2)  # the second start fails at update 2, and leaves out 3
            training.run(short(), toy.runtime(tmp_path / name, **settings))
        assert left_out.read(tmp_path / name) == (3, 2)
        bundle = dict(files.read_folder(tmp_path / name / "failed" / "step_2"))
        ends.append((state(tmp_path / name), rows(tmp_path / name), bundle))
    assert ends[0] == ends[1]


def test_the_gradient_that_is_not_finite_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With numbers that are really not finite, from a white picture."""
    found = []
    for name, devices in (("waited", ()), ("beside", ("cpu",))):
        monkeypatch.setattr(feed, "WORK_BESIDE", devices)
        out = tmp_path / name
        with pytest.raises(NumericsError, match=r"gradients are not finite from encoder\.cls_token on") as caught:
            training.run(poison.recipe(), toy.runtime(out, **poison.settings(tmp_path), log_every_steps=100))
        found.append((str(caught.value).replace(str(out), "OUT"), poison.bundle(out, 3)))
    assert found[0] == found[1]


@pytest.mark.usefixtures("beside")
def test_it_is_asked_for_when_the_next_is_on_its_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = list[tuple[str, int]]()
    backward, prepare, answer = update._backward, Feed.prepare, update._answer

    def watched(job: Any, step: int, foods: Any, seen: Any) -> Any:
        events.append(("backward", step))
        return backward(job, step, foods, seen)

    def preparing(self: Feed, step: int, part: range) -> None:
        events.append(("prepared", step))
        prepare(self, step, part)

    def answering(finite: Tensor) -> Callable[[], bool]:
        asked, number = answer(finite), max(step for what, step in events if what == "backward")

        def ask() -> bool:
            events.append(("asked", number))
            return asked()

        return ask

    monkeypatch.setattr(update, "_backward", watched)
    monkeypatch.setattr(Feed, "prepare", preparing)
    monkeypatch.setattr(update, "_answer", answering)
    training.run(short(), toy.runtime(tmp_path, log_every_steps=100, save_every_steps=100, stop_after_steps=4))
    first = [("backward", 0), ("prepared", 1), ("backward", 1), ("prepared", 2)]
    then = [("backward", 2), ("prepared", 3), ("asked", 1), ("backward", 3), ("prepared", 4), ("asked", 2)]
    assert events == [*first, *then, ("asked", 3)]


CLASSIFIER = toy.classifier()
ASKED_LATER = [
    (short(), {}, True),
    (toy.distilled(), {}, True),
    (toy.simmim_swin(), {}, True),
    (CLASSIFIER, {}, True),
    (recipes.derive(CLASSIFIER, optimizer={"kind": "sgd", "momentum": 0.9}), {}, True),
    (short(), {"micro_batch_size": 8}, False),
    (recipes.derive(CLASSIFIER, ema_decay=0.9), {}, False),
    (toy.mocov3(), {}, False),
    (toy.dino(), {}, False),
]


@pytest.mark.usefixtures("beside")
@pytest.mark.parametrize(("recipe", "settings", "expected"), ASKED_LATER)
def test_only_what_the_optimiser_changes_can_be_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, recipe: Recipe, settings: dict[str, Any], expected: bool
) -> None:
    if recipe.method.kind == "distilled_mae":
        settings = {**settings, "teacher": toy.teacher_weights(tmp_path / "teacher.safetensors", recipe)}
    found, original = list[bool](), update._can_pass_over

    def watched(job: Any) -> bool:
        found.append(original(job))
        return found[-1]

    monkeypatch.setattr(update, "_can_pass_over", watched)
    training.run(recipe, toy.runtime(tmp_path / "run", stop_after_steps=1, **settings))
    assert found == [expected]


def everything(job: Any) -> dict[str, Any]:
    """Return weights, the optimiser's state, its rates and the gradients."""
    optimizer = job.optimizer.optimizer.state_dict()
    moments = {f"{n}.{key}": value for n, one in optimizer["state"].items() for key, value in one.items()}
    rates = {f"rate {n}": torch.tensor(group["lr"]) for n, group in enumerate(optimizer["param_groups"])}
    gradients = {f"gradient {name}": p.grad for name, p in job.method.named_parameters() if p.grad is not None}
    found = {**job.method.state_dict(), **moments, **rates, **gradients}
    return {name: value.clone() for name, value in found.items()}


@pytest.mark.parametrize("recipe", [short(), CLASSIFIER, recipes.derive(CLASSIFIER, optimizer={"kind": "sgd"})])
def test_an_update_that_was_passed_over_left_nothing(monkeypatch: pytest.MonkeyPatch, recipe: Recipe) -> None:
    """Neither in the weights nor in the optimiser, whose count of updates is among its state."""
    ends = []
    for devices in ((), ("cpu",)):
        monkeypatch.setattr(feed, "WORK_BESIDE", devices)
        job = rates.open_setting(recipe, toy.runtime(Path("unused")), 16).job
        updates, made = Updates(job, rates._endless(job)), list[int]()
        with monkeypatch.context() as patched:
            refusing(patched, 2)
            with pytest.raises(NotFinite) as caught:
                for step in range(4):
                    updates.make(step)
                    made.append(step)
        assert caught.value.blamed == 2 and made == [0, 1, 2][: 3 if devices else 2]
        assert [one.ids.tolist() for one in updates.seen] == [job.plan.rows(2).tolist()]
        ends.append(everything(job))
    assert ends[0].keys() == ends[1].keys() and all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


@pytest.mark.parametrize("devices", [(), ("cpu",)])
def test_images_that_fail_do_not_hide_it(monkeypatch: pytest.MonkeyPatch, devices: tuple[str, ...]) -> None:
    """It came first; and if all was well with it, they are what is told."""
    monkeypatch.setattr(feed, "WORK_BESIDE", devices)
    for refused, expected in (((2,), NotFinite), ((), DataError)):
        job = rates.open_setting(short(), toy.runtime(Path("unused")), 16).job
        updates = Updates(job, three_good_ones(rates._endless(job)))
        with monkeypatch.context() as patched:
            refusing(patched, *refused)
            with pytest.raises(expected):
                for step in range(4):
                    updates.make(step)


class Held:
    """Something in memory."""


@pytest.mark.usefixtures("beside")
def test_no_memory_for_its_gradients_once_more_does_not_hide_it(monkeypatch: pytest.MonkeyPatch) -> None:
    job = rates.open_setting(short(), toy.runtime(Path("unused")), 16).job
    updates, steps, backward = Updates(job, rates._endless(job)), list[int](), update._backward
    alive, before = set[int](), list[set[int]]()

    def full(job: Any, step: int, *others: Any) -> Any:
        steps.append(step)
        held = Held()  # as an update holds what its gradients need
        before.append(alive.copy())
        alive.add(id(held))
        weakref.finalize(held, alive.discard, id(held))
        if len(steps) == 4:
            raise torch.OutOfMemoryError("full")
        numbers = backward(job, step, *others)
        if len(steps) == 5:
            raise torch.OutOfMemoryError("full, with some gradients made")
        return numbers

    monkeypatch.setattr(update, "_backward", full)
    refusing(monkeypatch, 2)
    with pytest.raises(NotFinite, match="update 2: "):
        for step in range(4):
            updates.make(step)
    assert steps == [0, 1, 2, 3, 2] and not any(before)
    assert all(parameter.grad is None for parameter in job.method.parameters())


def three_good_ones(batches: Iterator[Batch]) -> Iterator[Batch]:
    yield from itertools.islice(batches, 3)
    raise DataError("the fourth cannot be read", fix="none")


def test_what_was_refused_is_not_passed_over_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """By other updates of the same job."""
    monkeypatch.setattr(feed, "WORK_BESIDE", ("cpu",))
    job = rates.open_setting(short(), toy.runtime(Path("unused")), 16).job
    refusing(monkeypatch, 1)
    updates = Updates(job, rates._endless(job))
    updates.make(0)
    updates.make(1)
    before = everything(job)
    Updates(job, rates._endless(job)).make(2)
    after = everything(job)
    assert all(not torch.equal(before[name], after[name]) for name in before if name.startswith("encoder.blocks"))


@pytest.mark.parametrize(
    "change",
    [{}, {"ranks": 2}, {"micro_batches": 2}, {"fused": False}, {"ema": True}, {"buffer": True}, {"device": "cpu"}],
    ids=lambda change: "-".join(change) or "as it is",
)
def test_each_reason_not_to_pass_over(change: dict[str, Any]) -> None:
    method = MaskedAutoencoder(short(), config.MAE(decoder_width=8, decoder_heads=2))
    if "buffer" in change:
        method.register_buffer("mean", torch.zeros(3))
    job: Any = SimpleNamespace(
        fabric=SimpleNamespace(device=torch.device(change.get("device", "cuda")), world_size=change.get("ranks", 1)),
        plan=SimpleNamespace(micro_batches=change.get("micro_batches", 1)),
        optimizer=torch.optim.AdamW(method.parameters(), fused=change.get("fused", True)),
        method=method,
        ema=change.get("ema"),
    )
    assert update._can_pass_over(job) == (not change)


class Arrival:
    """An event of a device after which a flag is on the host; it counts how often it was waited for."""

    waited = 0

    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        Arrival.waited += 1


def test_a_gpu_is_waited_for_only_where_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", Arrival)
    monkeypatch.setattr(Arrival, "waited", 0)
    for finite in (True, False):
        flag: Any = SimpleNamespace(device=torch.device("cuda"), to=lambda *_, finite=finite, **__: finite)
        ask, before = update._answer(flag), Arrival.waited
        assert ask() == finite and Arrival.waited == before + 1


def test_a_host_that_computes_itself_asks_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update, "_answer", lambda _: pytest.fail("there is nothing to ask for later"))
    training.run(short(), toy.runtime(tmp_path / "run", stop_after_steps=UPDATES))
    assert rundir.checkpoints(tmp_path / "run")[0][0] == UPDATES


def test_a_norm_whose_square_overflows_is_not_finite() -> None:
    method: Any = torch.nn.Linear(1, 1, bias=False)
    for size, fine in ((1e18, True), (1e20, False)):
        method.weight.grad = torch.full((1, 1), size)
        norm = update._norm(method)
        assert norm == size and bool(update._is_finite(torch.tensor(1.0), norm)) == fine
    assert not update._is_finite(torch.tensor(torch.nan), torch.tensor(1.0))
