"""Images in the memory of the device: the loader's batches, without a loader; and who decides about it."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from mae_lite import cli, loading, recipes, training
from mae_lite.config import Augmentation, Recipe
from mae_lite.data.batch import Batch
from mae_lite.data.batched import BatchTransform
from mae_lite.data.loader import training_loader
from mae_lite.data.plan import Plan
from mae_lite.data.resident import Resident
from mae_lite.data.sources import Example, Source
from mae_lite.data.transforms import TrainTransform
from mae_lite.engine.ranks import free_memory_bytes
from mae_lite.errors import ConfigError, DataError
from mae_lite.rundir import read_rows
from tests import toy
from tests.test_batched import smooth

CPU = torch.device("cpu")
SIDE = 24
BAD = (3, 11)
RECIPES = ("mae-tiny", "mocov3-small", "dino-small")
"""One view; two; two and local ones."""
STILL = {"rotate_degrees": 0.0, "shear_degrees": 0.0, "translate": 0.0, "zoom": (1.0, 1.0)}


class Pictures(Source):
    """Arrays of one size, of which some may be damaged files, or have another size."""

    name, in_memory, split, classes = "pictures", True, None, ("a", "b")

    def __init__(self, bad: tuple[int, ...] = (), others: tuple[int, ...] = (), count: int = 30) -> None:
        self.pixels = smooth(count, 40)[:, :, :32].transpose(0, 2, 3, 1).copy()  # [N, 32, 40, 3]
        self.labels = np.arange(count, dtype=np.int64) % 2
        self.bad, self.others = bad, others

    def example(self, index: int) -> Example:
        shown = self.pixels[index, :, :-2] if index in self.others else self.pixels[index]
        return Example(f"picture {index}", b"no image" if index in self.bad else shown)

    def fingerprint(self) -> dict[str, int | str]:
        return {"count": len(self), "sha256": "0"}


def augmentation(name: str) -> Augmentation:
    found = recipes.get(name).augmentation
    return Augmentation(**dict(found) | ({"local_size": 12} if found.local_size else {}))


def plan(**changes: int) -> Plan:
    settings: dict[str, Any] = {"samples": 30, "global_batch_size": 12, "micro_batch_size": 12, "seed": 5}
    return Plan(**settings | changes)


def resident(source: Source, name: str, order: Plan, start: int = 0, stop: int = 5) -> list[Batch]:
    held = Resident(source, CPU, channels=3, limit_bytes=10**9)
    return list(held.batches(BatchTransform(augmentation(name), SIDE, 3), order, start, stop))


def read(source: Source, name: str, order: Plan, start: int = 0, stop: int = 5) -> list[Batch]:
    transform = TrainTransform(augmentation(name), SIDE, 3, "fast")
    return list(training_loader(source, transform, order, channels=3, start_step=start, stop_step=stop))


def tensors(batch: Batch) -> dict[str, torch.Tensor]:
    found = {"images": batch.images, "labels": batch.labels, "ids": batch.ids, "local": batch.local_images}
    return {name: value for name, value in found.items() if value is not None}


def assert_equal(one: list[Batch], other: list[Batch]) -> None:
    assert len(one) == len(other) > 0
    for first, second in zip(one, other, strict=True):
        assert tensors(first).keys() == tensors(second).keys() and first.bad == second.bad
        assert all(torch.equal(value, tensors(second)[key]) for key, value in tensors(first).items())


@pytest.mark.parametrize("bad", [(), BAD])
@pytest.mark.parametrize("name", RECIPES)
def test_batches_are_the_loaders(name: str, bad: tuple[int, ...]) -> None:
    source = Pictures(bad)
    found, expected = resident(source, name, plan()), read(source, name, plan())
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours.ids, theirs.ids) and torch.equal(ours.labels, theirs.labels)
        assert ours.bad == theirs.bad
        assert ours.images.shape == theirs.images.shape and ours.images.dtype == torch.uint8
        apart = (ours.images.int() - theirs.images.int()).abs().float()
        assert apart.mean() < 0.2 and apart.flatten(1).mean(1).max() < 2  # in steps of 1/255
        assert (ours.local_images is None) == (theirs.local_images is None) == (name != "dino-small")
        if ours.local_images is not None and theirs.local_images is not None:
            assert ours.local_images.shape == theirs.local_images.shape
            assert (ours.local_images.int() - theirs.local_images.int()).abs().float().mean() < 0.2
    assert {item.index for batch in found for item in batch.bad} == set(bad)
    assert not set(bad) & set(torch.cat([batch.ids for batch in found]).tolist())


@pytest.mark.parametrize("name", RECIPES)
def test_starting_anywhere_gives_the_same(name: str) -> None:
    assert_equal(resident(Pictures(BAD), name, plan(), 3), resident(Pictures(BAD), name, plan())[3:])


def test_ranks_and_micro_batches_take_their_rows() -> None:
    source = Pictures(BAD)
    (whole,) = resident(source, "mocov3-small", plan(), 2, 3)
    parts = [
        part
        for rank in range(2)
        for part in resident(source, "mocov3-small", plan(ranks=2, rank=rank, micro_batch_size=3), 2, 3)
    ]
    assert len(parts) == 4
    for name, value in tensors(whole).items():
        assert torch.equal(torch.cat([tensors(part)[name] for part in parts]), value)
    assert tuple(item for part in parts for item in part.bad) == whole.bad


def test_workers_decode_the_same() -> None:
    alone = Resident(Pictures(BAD), CPU, channels=3, limit_bytes=10**9)
    helped = Resident(Pictures(BAD), CPU, channels=3, limit_bytes=10**9, workers=2)
    good = [index for index in range(30) if index not in BAD]
    assert alone.images.shape == (30, 3, 32, 40)
    assert torch.equal(alone.images[good], helped.images[good]) and alone.bad == helped.bad
    assert (alone.images[good].permute(0, 2, 3, 1).numpy() == Pictures().pixels[good]).all()


@pytest.mark.parametrize("name", RECIPES)
def test_device_is_never_waited_for(name: str) -> None:
    held = Resident(Pictures(BAD), CPU, channels=3, limit_bytes=10**9)
    # Tensors of this device have no values: whatever would read one back raises.
    held.images, held.labels = held.images.to("meta"), held.labels.to("meta")
    for batch in held.batches(BatchTransform(augmentation(name), SIDE, 3), plan(), 0, 3):
        assert {value.device.type for value in tensors(batch).values()} == {"meta"}


def test_nearly_all_bad_is_an_error() -> None:
    with pytest.raises(DataError, match=r"(?s)nearly all images of 'pictures' seem unusable.*'picture 0'"):
        Resident(Pictures(tuple(range(30))), CPU, channels=3, limit_bytes=10**9)
    late = Resident(Pictures(count=200, bad=tuple(range(1, 200))), CPU, channels=3, limit_bytes=10**9)
    with pytest.raises(DataError, match="nearly all images"):
        list(late.batches(BatchTransform(augmentation("mae-tiny"), SIDE, 3), plan(samples=200), 0, 9))


@pytest.mark.parametrize("count", [30, 1000])  # the last one of a thousand is seen when it is decoded
@pytest.mark.parametrize("workers", [0, 1])
def test_other_sizes_are_refused(count: int, workers: int) -> None:
    source = Pictures(others=(count // 2 + 3,), count=count)
    with pytest.raises(ConfigError, match=r"(?s)images of 40 x 32 and of 38 x 32 pixels.*Fix:.*prepare DATA PACK"):
        Resident(source, CPU, channels=3, limit_bytes=10**9, workers=workers)


def test_too_little_memory_is_refused_before_all_is_decoded() -> None:
    source = Pictures(others=(7,), count=1000)  # would be found by decoding all
    with pytest.raises(ConfigError, match=r"(?s)0\.00384 GB for 1,000 images of 40 x 32 pixels.*at most 0\.003 GB"):
        Resident(source, CPU, channels=3, limit_bytes=3 * 10**6)


def still(**changes: Any) -> Recipe:
    """Return the toy MAE with nothing but flips, which whole batches get to the bit."""
    return toy.mae(augmentation={**STILL, "flip": 0.5}, **changes)


def run(recipe: Recipe, folder: Path, **changes: Any) -> list[float]:
    """Train; return the losses."""
    training.run(recipe, toy.runtime(folder, **changes))
    return [row["loss"] for row in read_rows(folder) if "loss" in row]


def ways(folder: Path) -> list[str]:
    return [start["loading"] for start in json.loads((folder / "provenance.json").read_text())["starts"]]


def test_a_run_learns_the_same(tmp_path: Path) -> None:
    expected = run(still(), tmp_path / "workers")
    assert run(still(), tmp_path / "resident", loading="resident") == expected
    assert len(expected) > 2 and all(map(math.isfinite, expected))
    assert (ways(tmp_path / "workers"), ways(tmp_path / "resident")) == (["workers"], ["resident"])


def test_a_run_goes_on_as_it_was_begun(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = run(still(), tmp_path / "whole", loading="resident")
    with caplog.at_level(logging.WARNING):
        run(still(), tmp_path / "parts", loading="resident", stop_after_steps=2)
        run(still(), tmp_path / "parts", stop_after_steps=4)
        assert "begun with" not in caplog.text
        assert run(still(), tmp_path / "parts", loading="workers") == expected
    assert "begun with --loading resident and goes on with workers" in caplog.text
    assert ways(tmp_path / "parts") == ["resident", "resident", "workers"]


def test_bad_images_of_a_run_are_listed(tmp_path: Path) -> None:
    colours = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
    recipe = toy.mae(encoder={"channels": 3}, global_batch_size=10, augmentation={**STILL, **colours})
    listed = []
    for way in ("workers", "resident"):
        settings = toy.runtime(tmp_path / way, loading=way, data="pictures", stop_after_steps=3)
        training.run(recipe, settings, Pictures(BAD))
        listed.append((tmp_path / way / "bad_files.csv").read_text())
    assert listed[0] == listed[1] and listed[0].count("picture") == len(BAD)
    settings = toy.runtime(tmp_path / "strict", loading="resident", data="pictures", on_bad="fail")
    with pytest.raises(DataError, match="picture"):
        training.run(recipe, settings, Pictures(BAD))


@pytest.mark.parametrize(
    ("changes", "runtime", "words"),
    [
        (
            {"augmentation": {**STILL, "rotate_degrees": 5.0, "erasing": 0.5}},
            {},
            "rotate_degrees 5.0 and .*erasing 0.5",
        ),
        ({"augmentation": STILL}, {"pixels": "exact"}, "pixels 'exact'.*Fix: --pixels fast"),
    ],
)
def test_what_cannot_be_is_refused(changes: Any, runtime: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"(?s)loading: found 'resident' with .*{words}"):
        run(toy.mae(**changes), tmp_path, loading="resident", **runtime)


class Held:
    """What would lie on a GPU."""

    limits: tuple[int, ...] = ()

    def __init__(self, *_: object, limit_bytes: int, **__: object) -> None:
        Held.limits += (limit_bytes,)
        if limit_bytes < 100:
            raise ConfigError("loading", found="too much", expected="less", fix="none")


@pytest.mark.parametrize("begun", [None, "workers", "resident"])
@pytest.mark.parametrize(
    ("recipe", "settings", "free", "expected"),
    [
        (still(), {}, 1000, "resident"),
        (still(), {}, 150, "workers"),
        (still(), {"loading": "workers"}, 1000, "workers"),
        (still(), {"loading": "resident"}, 150, "resident"),
        (still(), {"pixels": "exact"}, 1000, "workers"),
        (toy.mae(), {}, 1000, "workers"),  # it turns its images
    ],
)
def test_who_decides_on_a_gpu(
    recipe: Recipe,
    settings: Any,
    free: int,
    expected: str,
    begun: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loading, "Resident", Held)
    monkeypatch.setattr(loading, "free_memory_bytes", lambda _: free)
    monkeypatch.setattr(Held, "limits", ())
    fabric = cast("Fabric", SimpleNamespace(device=torch.device("cuda"), world_size=1, global_rank=0))
    found, _ = loading.reader(recipe, toy.runtime(tmp_path, **settings), Pictures(), plan(), fabric, tmp_path, begun)
    if begun == "workers" and "loading" not in settings:
        assert found == "workers" and Held.limits == ()
    else:
        assert found == expected
        assert Held.limits in ((), (free if settings.get("loading") == "resident" else free // 2,))


def test_free_memory_is_some_of_the_machines() -> None:
    assert 10**7 < free_memory_bytes(CPU) < 10**14


@pytest.mark.slow
@pytest.mark.needs_data
def test_cifar10_learns_the_same(shared_data: Path, arrow_cache: Path, tmp_path: Path) -> None:
    del arrow_cache
    words = [
        "pretrain",
        "cifar10-mae-tiny",
        "--data",
        str(shared_data / "cifar10" / "test.parquet"),
        "--progress",
        "false",
    ]
    words += ["--encoder.width", "48", "--encoder.depth", "2", "--encoder.num-heads", "4", "--global-batch-size", "64"]
    words += ["--stop-after-steps", "12", "--log-every-steps", "4", "--workers", "0", "--tensorboard", "false"]
    losses = []
    for way in ("workers", "resident"):
        folder = tmp_path / way
        assert cli.main([*words, "--accelerator", "cpu", "--loading", way, "--out", str(folder)]) == 0
        losses.append([row["loss"] for row in read_rows(folder) if "loss" in row])
    assert len(losses[0]) == 3
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert losses[1][-1] < losses[1][0]
