"""Order and loading: the same samples and pixels for every division of the work."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mae_lite.config import Augmentation
from mae_lite.data import workers
from mae_lite.data.bad_files import BadFiles
from mae_lite.data.loader import Batch, Plan, evaluation_loader, to_device, training_loader, watched
from mae_lite.data.opening import open_source
from mae_lite.data.pixels import Picture
from mae_lite.data.sources import Source, subset
from mae_lite.data.transforms import DRAWS, EvalTransform, Pixels, TrainTransform
from mae_lite.errors import ConfigError, DataError, DiskError
from tests import toy
from tests.test_data_folder import plant

AUGMENTATION = Augmentation(crop_scale=(0.3, 1.0), rotate_degrees=10.0, erasing=0.5, mean=(0.5,), std=(0.25,))


@pytest.fixture(scope="module")
def digits() -> Source:
    """Return 100 digits."""
    return subset(open_source("digits"), np.arange(100))


def load(source: Source, plan: Plan, start: int = 0, stop: int = 8, workers: int = 0) -> list[Batch]:
    """Return the training batches of some updates."""
    transform = TrainTransform(AUGMENTATION, 8, 1)
    loader = training_loader(source, transform, plan, channels=1, start_step=start, stop_step=stop, workers=workers)
    batches = list(loader)
    assert len(batches) == len(loader)
    return batches


def joined(batches: list[Batch]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return all images, labels and ids in order."""
    return (
        torch.cat([batch.images for batch in batches]),
        torch.cat([batch.labels for batch in batches]),
        torch.cat([batch.ids for batch in batches]),
    )


def same(one: list[Batch], other: list[Batch]) -> bool:
    """Return whether two lists of batches hold the same samples, pixel for pixel."""
    return all(torch.equal(a, b) for a, b in zip(joined(one), joined(other), strict=True))


PLAN = Plan(samples=100, global_batch_size=24, micro_batch_size=24, seed=3)  # 4 updates per epoch, 4 samples dropped


def test_batches(digits: Source) -> None:
    batches = load(digits, PLAN)
    assert len(batches) == 8
    for step, batch in enumerate(batches):
        assert batch.images.shape == (24, 1, 8, 8) and batch.images.dtype == torch.uint8
        assert batch.labels.dtype == batch.ids.dtype == torch.int64
        assert batch.ids.tolist() == PLAN.rows(step).tolist()
        assert (batch.labels.numpy() == digits.labels[batch.ids.numpy()]).all()


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [1, 3])
def test_results_do_not_depend_on_workers(digits: Source, workers: int) -> None:
    assert same(load(digits, PLAN), load(digits, PLAN, workers=workers))


@pytest.mark.parametrize("start", [1, 4, 6])
def test_results_do_not_depend_on_the_first_step(digits: Source, start: int) -> None:
    assert same(load(digits, PLAN)[start:], load(digits, PLAN, start=start))


def test_epochs_differ_in_order_and_augmentation(digits: Source) -> None:
    plan = Plan(samples=100, global_batch_size=100, micro_batch_size=100, seed=3)
    first, second = load(digits, plan, stop=2)
    assert sorted(first.ids.tolist()) == sorted(second.ids.tolist()) == list(range(100))
    assert first.ids.tolist() != second.ids.tolist()
    by_id = [batch.images[batch.ids.argsort()] for batch in (first, second)]
    assert (by_id[0] != by_id[1]).flatten(1).any(1).float().mean() > 0.95


def test_keys_of_erasing_differ_by_sample_and_epoch() -> None:
    settings = {"crop_scale": None, "flip": 0.0, "erasing": 1.0, "mean": (0.5,), "std": (0.25,)}
    twice = subset(open_source("digits"), [0, 0])
    plan = Plan(samples=2, global_batch_size=2, micro_batch_size=2, seed=0)
    transform = TrainTransform(Augmentation.model_validate(settings), 8, 1)
    loader = training_loader(twice, transform, plan, channels=1, start_step=0, stop_step=2)
    assert len({image.numpy().tobytes() for batch in loader for image in batch.images}) == 4


def test_seed_changes_everything(digits: Source) -> None:
    other = Plan(samples=100, global_batch_size=24, micro_batch_size=24, seed=4)
    assert not same(load(digits, PLAN, stop=1), load(digits, other, stop=1))


@pytest.mark.parametrize(("ranks", "micro"), [(1, 6), (2, 12), (2, 4), (3, 8), (4, 1)])
def test_ranks_and_micro_batches_divide_the_same_global_batch(digits: Source, ranks: int, micro: int) -> None:
    whole = load(digits, PLAN, stop=5)
    plans = [
        Plan(samples=100, global_batch_size=24, micro_batch_size=micro, seed=3, ranks=ranks, rank=r)
        for r in range(ranks)
    ]
    shares = [load(digits, plan, stop=5) for plan in plans]
    for step, expected in enumerate(whole):
        images, ids = torch.zeros_like(expected.images), torch.full_like(expected.ids, -1)
        for plan, share in zip(plans, shares, strict=True):
            for micro_number in range(plan.micro_batches):
                batch = share[step * plan.micro_batches + micro_number]
                rows = list(plan.micro_rows(micro_number))
                assert (ids[rows] == -1).all()
                images[rows], ids[rows] = batch.images, batch.ids
        assert torch.equal(images, expected.images) and torch.equal(ids, expected.ids)


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_each_sample_at_most_once_per_epoch(samples: int, batch: int, seed: int) -> None:
    if batch > samples:
        with pytest.raises(ConfigError, match=f"Fix: --global-batch-size {samples}"):
            Plan(samples=samples, global_batch_size=batch, micro_batch_size=batch, seed=seed)
        return
    plan = Plan(samples=samples, global_batch_size=batch, micro_batch_size=batch, seed=seed)
    for epoch in range(2):
        steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
        seen = [int(row) for step in steps for row in plan.rows(step)]
        assert len(seen) == len(set(seen)) == samples - samples % batch


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"global_batch_size": 101}, ("100 training images", "--global-batch-size 100")),
        ({"global_batch_size": 25, "ranks": 2}, ("multiple of the 2", "--global-batch-size 2")),
        ({"micro_batch_size": 7}, ("1, 2, 3, 4, 6, 8, 12, 24", "--micro-batch-size 6")),
        ({"ranks": 2, "micro_batch_size": 24}, ("1, 2, 3, 4, 6, 12", "--micro-batch-size 12")),
        ({"micro_batch_size": 0}, ("at least 1",)),
        ({"rank": 1}, ("rank",)),
        ({"samples": 1, "ranks": 2}, ("more images or fewer devices",)),
    ],
)
def test_impossible_plans(change: dict[str, int], words: tuple[str, ...]) -> None:
    values: dict[str, Any] = {"samples": 100, "global_batch_size": 24, "micro_batch_size": 24, "seed": 0, **change}
    with pytest.raises(ConfigError) as caught:
        Plan(**values)
    assert caught.value.exit_code == 2
    for word in ("\nFix: ", *words):
        assert word in str(caught.value)


def test_a_plan_for_another_number_of_samples_is_refused(digits: Source) -> None:
    with pytest.raises(ConfigError, match="100"):
        load(digits, Plan(samples=99, global_batch_size=9, micro_batch_size=9, seed=0))


def test_global_generators_are_left_alone(digits: Source) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index]
    load(digits, PLAN, stop=2, workers=1)
    load(digits, PLAN, stop=2)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # type: ignore[index]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("ranks", "batch_size"), [(1, 7), (1, 200), (3, 5)])
def test_evaluation_sees_every_sample_once_in_order(digits: Source, ranks: int, batch_size: int, workers: int) -> None:
    transform = EvalTransform(Augmentation(eval_crop=1.0, mean=(0.5,), std=(0.5,)), 8, 1)
    batches = [
        batch
        for rank in range(ranks)
        for batch in evaluation_loader(
            digits, transform, batch_size=batch_size, channels=1, workers=workers, ranks=ranks, rank=rank
        )
    ]
    images, labels, ids = joined(batches)
    assert ids.tolist() == list(range(100)) and labels.tolist() == digits.labels.tolist()
    assert images[42, 0].numpy().tolist() == np.asarray(toy.picture(digits, 42, 1)).tolist()
    assert max(len(batch.ids) for batch in batches) <= batch_size


def test_more_ranks_than_samples(digits: Source) -> None:
    transform = EvalTransform(Augmentation(mean=(0.5,), std=(0.5,)), 8, 1)
    few = subset(digits, [0, 1])
    loaders = [evaluation_loader(few, transform, batch_size=4, channels=1, ranks=3, rank=rank) for rank in range(3)]
    assert sorted(int(i) for loader in loaders for batch in loader for i in batch.ids) == [0, 1]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_image_reaches_the_caller_whole(tmp_path: Path, workers: int) -> None:
    source = open_source(str(plant(tmp_path, *(f"a/{i}.png" for i in range(8)))))
    bad = tmp_path / "a/5.png"
    bad.write_bytes(bad.read_bytes()[:40])
    loader = evaluation_loader(source, EvalTransform(Augmentation(), 4, 3), batch_size=2, channels=3, workers=workers)
    seen = []
    with pytest.raises(DataError) as caught:
        for batch in watched(loader, BadFiles("test", 8, "fail", None)):
            seen.append(batch)
    assert len(seen) == 2  # what comes before is delivered
    assert caught.value.what.startswith(f"image {str(bad)!r} cannot be read: damaged or truncated")
    assert str(caught.value).count("Fix: ") == 1 and "Traceback" not in str(caught.value)


class Deadly(EvalTransform):
    """Ends the process that uses it."""

    def __call__(self, picture: object, out: object = None) -> npt.NDArray[np.uint8]:  # noqa: ARG002
        signal.raise_signal(signal.SIGKILL)
        raise AssertionError


def test_a_dead_worker_is_an_error_not_a_hang(digits: Source) -> None:
    loader = evaluation_loader(digits, Deadly(AUGMENTATION, 8, 1), batch_size=4, channels=1, workers=1)
    found = r"(?s)process that reads images died.*worker 0 was killed by SIGKILL, at 'digit.*Fix: "
    with pytest.raises(DiskError, match=found):
        next(iter(loader))


class Harmed(EvalTransform):
    """Harms the process that makes picture 5 of its share, as long as the file is there, which it removes if told."""

    def __init__(self, flag: Path, harm: Callable[[], None], once: bool) -> None:
        super().__init__(AUGMENTATION, 8, 1)
        self.flag, self.harm, self.once, self.made = flag, harm, once, 0

    def __call__(self, picture: Picture, out: Pixels | None = None) -> Pixels:
        self.made += 1
        if self.made == 5 and self._still():
            self.harm()
        return super().__call__(picture, out)

    def _still(self) -> bool:
        if not self.once:
            return self.flag.exists()
        try:
            self.flag.unlink()  # of two processes that come here at once, one removes it
        except FileNotFoundError:
            return False
        return True


HARMS: dict[str, tuple[Callable[[], None], str]] = {
    "hangs": (lambda: time.sleep(1000), "hangs"),
    "exits": (lambda: os._exit(9), "ended with exit code 9"),
}


@pytest.mark.parametrize("name", HARMS)
@pytest.mark.parametrize("once", [True, False])
def test_a_lost_worker_is_replaced_once_and_then_named(
    digits: Source, tmp_path: Path, name: str, once: bool, caplog: pytest.LogCaptureFixture
) -> None:
    harm, said = HARMS[name]
    flag = tmp_path / "flag"
    flag.touch()
    few = subset(digits, np.arange(30))
    loader = evaluation_loader(few, Harmed(flag, harm, once), batch_size=3, channels=1, workers=2)
    loader.patience_s = 2.0
    before = {process.pid for process in multiprocessing.active_children()}
    if once:
        expected = list(evaluation_loader(few, EvalTransform(AUGMENTATION, 8, 1), batch_size=3, channels=1))
        found = list(loader)
        assert len(found) == len(expected) == 10
        for ours, theirs in zip(found, expected, strict=True):
            assert torch.equal(ours.images, theirs.images) and torch.equal(ours.ids, theirs.ids)
    else:
        with pytest.raises(DiskError, match=rf"(?s)did again.*worker [01] {said}, at '.*Fix: "):
            list(loader)
    assert sum("are started again" in line and said in line for line in caplog.messages) == 1
    for process in multiprocessing.active_children():
        if process.pid not in before:
            process.join(timeout=10)  # killed, and perhaps not gone yet
            assert process.exitcode is not None


def seen_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a process that has ended count as alive until somebody joins it, as it does for a moment.

    Its connections break before that, which is how a batch that it left is missed.
    """
    kind, joined = multiprocessing.process.BaseProcess, set[int | None]()
    join, exitcode = kind.join, vars(kind)["exitcode"].fget

    def joining(self: multiprocessing.process.BaseProcess, timeout: float | None = None) -> None:
        join(self, timeout)
        joined.add(self.pid)

    monkeypatch.setattr(kind, "join", joining)
    monkeypatch.setattr(kind, "exitcode", property(lambda self: exitcode(self) if self.pid in joined else None))
    monkeypatch.setattr(kind, "is_alive", lambda self: self.pid not in joined)


@pytest.mark.parametrize("seen", [True, False])
def test_a_worker_that_dies_while_nobody_waits_for_it_is_replaced_too(
    digits: Source, seen: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As when the machine is out of memory in the midst of an update."""
    few = subset(digits, np.arange(60))
    expected = list(evaluation_loader(few, EvalTransform(AUGMENTATION, 8, 1), batch_size=3, channels=1))
    before = {process.pid for process in multiprocessing.active_children()}
    found = []
    loader = evaluation_loader(few, EvalTransform(AUGMENTATION, 8, 1), batch_size=3, channels=1, workers=2)
    loader.patience_s = 30.0
    batches = iter(loader)
    found.append(next(batches))
    time.sleep(0.5)  # an update, in which both read ahead
    first, second = sorted(
        process.pid or 0 for process in multiprocessing.active_children() if process.pid not in before
    )
    os.kill(first, signal.SIGKILL)
    if seen:
        os.kill(second, signal.SIGKILL)
    time.sleep(0.2)
    with monkeypatch.context() as patched:
        if not seen:
            seen_late(patched)
        found += batches
    (line,) = (line for line in caplog.messages if "are started again" in line)
    assert "was killed by SIGKILL" in line and (seen or ("worker 0" in line and "worker 1" not in line))
    assert len(found) == len(expected) == 20
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours.images, theirs.images) and torch.equal(ours.ids, theirs.ids)


def test_a_connection_that_ends_without_a_word_tells_of_its_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    process = multiprocessing.Process(target=os._exit, args=(9,))
    process.start()
    time.sleep(0.2)
    seen_late(monkeypatch)
    assert workers._is_lost(EOFError(), [process])
    assert workers._what_happened([process], workers.Slots(1)) == "worker 0 ended with exit code 9, at 'no image'"
    assert not workers._is_lost(EOFError(), [])
    assert not workers._is_lost(RuntimeError("a bug"), [process])


SCRIPT = """
import multiprocessing, os, signal, sys, time
import numpy as np
from mae_lite.config import Augmentation
from mae_lite.data.folder import Folder
from mae_lite.data.loader import evaluation_loader
from mae_lite.data.transforms import EvalTransform
from pathlib import Path
source, transform = Folder(Path(sys.argv[1])), EvalTransform(Augmentation(), 4, 3)
loader = evaluation_loader(source, transform, batch_size=1, channels=3, workers=1)
batches = iter(loader)
next(batches)
(worker,) = multiprocessing.active_children()
time.sleep(0.2)
for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM):
    os.kill(worker.pid, number)
time.sleep(0.2)
print(sum(1 for _ in batches), flush=True)
batches = iter(loader)
next(batches)
raise ValueError("left in the middle")
"""


def test_workers_outlive_signals_and_end_with_the_program(tmp_path: Path) -> None:
    plant(tmp_path, *(f"a/{i}.png" for i in range(60)))
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "59"
    assert done.returncode == 1 and "left in the middle" in done.stderr


def test_normalisation() -> None:
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).repeat(2, 3, 1, 1)
    batch = Batch(images, torch.tensor([1, 2]), torch.tensor([3, 4]))
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    moved = to_device(batch, "cpu", mean, std)
    for channel in range(3):
        expected = (images[:, channel].double() / 255 - mean[channel]) / std[channel]
        assert torch.allclose(moved.images[:, channel].double(), expected, atol=1e-6)
    assert moved.images.dtype == torch.float32 and batch.images.dtype == torch.uint8
    assert moved.labels.tolist() == [1, 2] and moved.ids.tolist() == [3, 4]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("views", [1, 2])
def test_colours_travel_pixel_by_pixel_and_are_parted_on_the_device(digits: Source, views: int, workers: int) -> None:
    transform = TrainTransform(Augmentation(views=views), 8, 3, "fast")
    (batch,) = training_loader(digits, transform, PLAN, channels=3, start_step=0, stop_step=1, workers=workers)
    pixels, parted = batch.images.flatten(0, -4), replace(batch, images=batch.images.contiguous())
    assert pixels.shape == (24 * views, 3, 8, 8) and pixels.is_contiguous(memory_format=torch.channels_last)
    one, other = (to_device(from_it, "cpu", (0.5,), (0.25,)).images for from_it in (batch, parted))
    assert one.is_contiguous() and torch.equal(one, other)


def test_everything_a_worker_needs_can_be_pickled(digits: Source) -> None:
    transform = TrainTransform(Augmentation(randaugment="rand-m9-mstd0.5-inc1"), 8, 3)
    again = pickle.loads(pickle.dumps((digits, transform)))
    u = np.full(DRAWS, 0.4, dtype=np.float32)
    image = toy.picture(digits, 0, 3)
    assert (again[1](toy.picture(again[0], 0, 3), u, 5) == transform(image, u, 5)).all()
