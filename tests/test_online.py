"""Probes in the loop: which images, when, what they leave behind, and that training does not notice."""

from __future__ import annotations

import errno
import json
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from torch import Tensor

import mae_lite
from mae_lite import files, inputs, methods, probing, training
from mae_lite.config import Runtime
from mae_lite.data.opening import open_source
from mae_lite.data.sources import Indices, subset
from mae_lite.engine import loop
from mae_lite.errors import ConfigError
from mae_lite.evaluation import features, online
from mae_lite.methods.mae import MaskedAutoencoder
from mae_lite.rundir import checkpoints, read_rows
from tests import toy
from tests.faulty_disk import FaultyDisk
from tests.test_training import tensors

CPU = torch.device("cpu")
PROBES = {"probe_every_epochs": 2 / 84, "probe_images": 60}
"""Every other update of the toy recipe."""
KEYS = ["knn_top1", "linear_top1", "rankme", "feature_std"]


def probed(out: Path, **changes: Any) -> Path:
    training.run(toy.mae(), toy.runtime(out, **{**PROBES, **changes}))
    return out


def measured(run: Path) -> list[dict[str, Any]]:
    return [row for row in read_rows(run) if "rankme" in row]


# Which images


@settings(deadline=None)
@given(
    labels=arrays.arrays(np.int64, st.integers(1, 200), elements=st.integers(-1, 30)),
    limit=st.integers(10, 300),
    seed=st.integers(0, 5),
)
def test_bank_and_queries_are_disjoint_and_know_the_same_classes(labels: Indices, limit: int, seed: int) -> None:
    chosen = online.choose(labels, limit, seed)
    both = np.concatenate([chosen.bank, chosen.queries])
    assert len(np.unique(both)) == len(both) <= limit
    assert both.min() >= 0 and both.max() < len(labels)
    again = online.choose(labels, limit, seed)
    assert np.array_equal(again.bank, chosen.bank) and np.array_equal(again.queries, chosen.queries)
    counts = np.unique(labels[labels >= 0], return_counts=True)[1]
    assert bool(chosen.reason) == (len(chosen.queries) == 0) == ((counts >= 2).sum() < 2)
    if not chosen.reason:
        assert set(labels[chosen.queries]) == set(labels[chosen.bank])
        assert labels[both].min() >= 0
        assert len(chosen.queries) <= len(chosen.bank)


def test_digits_are_all_used_and_a_fifth_asks() -> None:
    labels = open_source("digits", "train").labels
    chosen = online.choose(labels, 2500, seed=0)
    assert len(chosen.bank) + len(chosen.queries) == len(labels) == 1346
    assert len(chosen.queries) == pytest.approx(1346 / 5, abs=5)
    few = online.choose(labels, 100, seed=0)
    assert np.bincount(labels[few.queries]).tolist() == [2] * 10
    assert np.bincount(labels[few.bank]).tolist() == [8] * 10
    assert not np.array_equal(online.choose(labels, 100, seed=1).bank, few.bank)


def test_of_many_classes_a_part_is_asked_about() -> None:
    chosen = online.choose(np.repeat(np.arange(1000), 9), 2500, seed=0)
    assert (len(chosen.bank), len(chosen.queries)) == (2000, 500)


@pytest.mark.parametrize(
    ("labels", "limit", "reason"),
    [
        ([-1] * 50, 100, "no labels"),
        ([0, 1, 2, 3, 3], 100, r"fewer than two classes \(of 4\) have 2 images"),
        ([0, 1] * 20, 9, "too few"),
    ],
)
def test_what_cannot_be_asked_is_skipped_aloud(
    labels: list[int], limit: int, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    chosen = online.choose(np.array(labels), limit, seed=0)
    assert len(chosen.queries) == 0 < len(chosen.bank) <= limit
    with caplog.at_level(logging.INFO):
        online.announce(chosen)
    (record,) = caplog.records
    assert record.getMessage().startswith("no kNN and no linear probe: ")
    assert re.search(reason, record.getMessage())


# When


def test_the_rhythm_is_about_twenty_times_and_one_image_in_twenty() -> None:
    runtime, large = Runtime(data="x"), 1_000_000

    def every(epochs: float, images: int, **changes: Any) -> float:
        recipe = toy.mae(epochs=epochs, warmup_epochs=0)
        return probing.rhythm(recipe, runtime.model_copy(update=changes), images)

    assert every(400, large) == 20
    assert every(5, large) == 1
    assert every(1, large) == 1
    assert every(0.99, large) == float("inf")
    assert every(100, 5000) == pytest.approx(10)  # 2,500 images each time, of 50,000 read in between
    assert every(100, 1000) == pytest.approx(20)
    assert every(100, 1000, probe_images=0) == 5
    assert every(0.5, 1000, probe_every_epochs=0.1) == 0.1


def test_each_probe_keeps_its_rhythm_and_rows_hold_what_was_measured_then(tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []

    def probe(name: str, value: float) -> Any:
        def measure(step: int, encoder: Any) -> dict[str, float]:
            assert not encoder.training and not torch.is_grad_enabled()
            seen.append((name, step))
            return {name: value + step}

        return measure

    with pytest.MonkeyPatch.context() as patch:
        found = (
            loop.Probe(probe("often", 0.0), 2 / 84, at_start=True),
            loop.Probe(probe("rarely", 10.0), 4 / 84),
            loop.Probe(probe("late", 20.0), float("inf")),
        )
        patch.setattr(probing, "probes", lambda *_: found)
        training.run(toy.mae(), toy.runtime(tmp_path / "run"))
    assert seen == [("often", s) for s in (0, 2)] + [("often", 4), ("rarely", 4)] + [
        ("often", 6),
        ("rarely", 6),
        ("late", 6),
    ]
    rows = [row for row in read_rows(tmp_path / "run") if "often" in row]
    assert rows == [
        {"step": 0, "epoch": 0.0, "often": 0.0},
        {"step": 2, "epoch": 0.0238, "often": 2.0},
        {"step": 4, "epoch": 0.0476, "often": 4.0, "rarely": 14.0},
        {"step": 6, "epoch": 0.0714, "often": 6.0, "rarely": 16.0, "late": 26.0},
    ]
    state = json.loads((checkpoints(tmp_path / "run")[1][1] / "state.json").read_text())
    assert state["measured"] == {"often": 4.0, "rarely": 14.0}


def test_short_runs_are_not_probed_but_pictured_at_their_end(tmp_path: Path) -> None:
    training.run(toy.mae(), toy.runtime(tmp_path / "run"))
    assert measured(tmp_path / "run") == []
    assert [path.name for path in (tmp_path / "run" / "previews").iterdir()] == ["step_6.png"]


def test_classifiers_are_validated_not_probed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="validate-every-epochs"):
        training.run(toy.classifier(), toy.runtime(tmp_path / "run", probe_every_epochs=1))


# What they leave


def test_rows_and_previews_of_a_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        run = probed(tmp_path / "run")
    assert "kNN and linear on 50 training images, about 10 others" in caplog.text  # six of each class, one of them asks
    rows = measured(run)
    assert [list(row) for row in rows] == [["step", "epoch", *KEYS]] * 4
    assert [row["step"] for row in rows] == [0, 2, 4, 6]
    assert all(0 <= row[key] <= 1 for row in rows for key in KEYS[:2])
    assert all(1 <= row["rankme"] <= 16 and 0 < row["feature_std"] < 1.5 for row in rows)
    status = json.loads((run / "status.json").read_text())
    assert {key: status[key] for key in KEYS} == {key: rows[-1][key] for key in KEYS}
    pictures = {path.name: np.asarray(Image.open(path)) for path in (run / "previews").iterdir()}
    assert sorted(pictures) == ["step_0.png", "step_2.png", "step_4.png", "step_6.png"]
    third = len(pictures["step_0.png"]) // 3
    for picture in pictures.values():
        assert np.array_equal(picture[: 2 * third], pictures["step_0.png"][: 2 * third])  # the same images and masks
    assert not np.array_equal(pictures["step_0.png"][2 * third :], pictures["step_6.png"][2 * third :])


def test_cost_stands_in_the_status(tmp_path: Path) -> None:
    training.run(toy.mae(), toy.runtime(tmp_path / "run", stop_after_steps=2))
    first = json.loads((tmp_path / "run" / "status.json").read_text())
    training.run(toy.mae(), toy.runtime(tmp_path / "run"))
    second = json.loads((tmp_path / "run" / "status.json").read_text())
    rows = read_rows(tmp_path / "run")
    assert second["seconds"] == pytest.approx(sum(row["seconds"] for row in rows), abs=1e-3)
    assert second["seconds"] > first["seconds"] > 0
    assert 50 < first["peak_memory_mb"] <= second["peak_memory_mb"]
    assert not any("memory" in key for row in rows for key in row)


def test_without_labels_only_label_free_numbers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    random = np.random.default_rng(0)
    images = [random.integers(256, size=(8, 8), dtype=np.uint8) for _ in range(40)]
    source = mae_lite.from_dataset(images)
    with caplog.at_level(logging.INFO):
        training.run(toy.mae(epochs=2, warmup_epochs=1), toy.runtime(tmp_path / "run", probe_every_epochs=1.0), source)
    assert "no kNN and no linear probe: the images have no labels" in caplog.text
    assert [list(row) for row in measured(tmp_path / "run")] == [["step", "epoch", "rankme", "feature_std"]] * 3


def test_no_probe_images_leaves_the_previews(tmp_path: Path) -> None:
    run = probed(tmp_path / "run", probe_images=0)
    assert measured(run) == []
    assert len(list((run / "previews").iterdir())) == 4


def test_a_disk_full_for_previews_costs_previews(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files.disk = FaultyDisk(
        lambda _, name, path: errno.ENOSPC if path.parent.name == "previews" and name == "write" else 0
    )
    try:
        run = probed(tmp_path / "run")
    finally:
        files.disk = files.Disk()
    assert caplog.text.count("training goes on") == 1
    assert list((run / "previews").iterdir()) == []
    assert len(measured(run)) == 4
    assert json.loads((run / "status.json").read_text())["state"] == "finished"


def test_features_that_are_not_finite_are_not_measured(caplog: pytest.LogCaptureFixture) -> None:
    source, recipe = open_source("digits", "train"), toy.mae()
    encoder = methods.build(recipe, 0).encoder
    with torch.no_grad():
        encoder.norm.bias[0] = float("inf")
    batches = inputs.in_order(recipe, toy.runtime(Path("x")), subset(source, range(20)), None)
    probe = online.FeatureProbe(lambda: batches, 15, CPU, recipe.augmentation.mean, recipe.augmentation.std)
    assert probe(3, encoder) == {}
    assert "step 3: some features are not finite" in caplog.text


def test_a_collapsed_encoder_shows() -> None:
    source, recipe = open_source("digits", "train"), toy.mae()
    encoder = methods.build(recipe, 0).encoder
    with torch.no_grad():
        encoder.norm.weight.zero_()
        encoder.norm.bias.fill_(1.0)
    chosen = online.choose(source.labels, 500, 0)
    images = subset(source, np.concatenate([chosen.bank, chosen.queries]))

    def batches() -> Any:
        return inputs.in_order(recipe, toy.runtime(Path("x")), images, None)

    augmentation = recipe.augmentation
    numbers = online.FeatureProbe(batches, len(chosen.bank), CPU, augmentation.mean, augmentation.std)(0, encoder)
    assert numbers["feature_std"] == pytest.approx(0, abs=1e-6)
    assert numbers["rankme"] == pytest.approx(1, abs=1e-3)
    assert numbers["knn_top1"] == pytest.approx(0.1, abs=0.02)
    assert numbers["linear_top1"] < 0.2


# That training does not notice


def test_training_is_bit_identical_with_and_without_probes(tmp_path: Path) -> None:
    """With drop path, whose draws are torch's global ones, and with an averaged model."""
    recipe = toy.mae(encoder={"drop_path": 0.5}, ema_decay=0.9)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    training.run(recipe, toy.runtime(tmp_path / "with", **PROBES))
    training.run(recipe, toy.runtime(tmp_path / "without"))
    assert not torch.equal(before, torch.random.get_rng_state())  # drop path draws from it
    for name in ("model", "optimizer", "ema"):
        one, other = tensors(tmp_path / "with", name), tensors(tmp_path / "without", name)
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    losses = [[row["loss"] for row in read_rows(tmp_path / run) if "loss" in row] for run in ("with", "without")]
    assert losses[0] == losses[1]


def test_probes_draw_nothing_from_global_generators() -> None:
    source, recipe = open_source("digits", "train"), toy.mae()
    method = methods.build(recipe, 0).train()
    assert isinstance(method, MaskedAutoencoder)
    batches = inputs.in_order(recipe, toy.runtime(Path("x"), workers=1), subset(source, range(40)), None)
    probe = online.FeatureProbe(lambda: batches, 30, CPU, recipe.augmentation.mean, recipe.augmentation.std)
    states = torch.random.get_rng_state(), np.random.get_state(legacy=True)
    assert set(probe(0, method.encoder)) == set(KEYS)
    assert method.encoder.training
    assert torch.equal(states[0], torch.random.get_rng_state())
    assert str(states[1]) == str(np.random.get_state(legacy=True))


def test_resumed_runs_have_the_same_rows_and_previews(tmp_path: Path) -> None:
    """Also after an update whose checkpoint was lost: its row and its preview are cut and made again."""
    whole = probed(tmp_path / "whole")
    parts = tmp_path / "parts"
    for stop in (1, 3, 5):
        probed(parts, stop_after_steps=stop, save_every_steps=1)
        if stop == 5:  # as if killed before the checkpoints of 4 and 5
            for _, folder in checkpoints(parts)[:-1]:
                files.remove(folder)
    probed(parts)
    assert [_timeless(row) for row in read_rows(parts)] == [_timeless(row) for row in read_rows(whole)]
    pictures = [{path.name: path.read_bytes() for path in (run / "previews").iterdir()} for run in (parts, whole)]
    assert pictures[0] == pictures[1]


def test_a_run_without_checkpoint_starts_with_clean_rows_and_previews(tmp_path: Path) -> None:
    """Killed before its first checkpoint: the row and the picture of step 0 must not stand there twice."""
    run = tmp_path / "run"
    probed(run, stop_after_steps=1)
    files.remove(checkpoints(run)[0][1])
    files.write_bytes(run / "previews" / "step_99.png", b"later")
    files.write_bytes(run / "previews" / ".tmp-1-step_4.png", b"torn")
    files.write_bytes(run / "previews" / "mine.png", b"not ours")
    probed(run)
    assert [row["step"] for row in measured(run)] == [0, 2, 4, 6]
    names = sorted(path.name for path in (run / "previews").iterdir())
    assert names == ["mine.png", "step_0.png", "step_2.png", "step_4.png", "step_6.png"]


def _timeless(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in toy.TIMES}


# Features


class Shuffled:
    """Batches in another order and division."""

    def __init__(self, batches: Any, sizes: list[int]) -> None:
        (whole,) = batches
        order = torch.randperm(len(whole.ids), generator=torch.Generator().manual_seed(0))
        self.batches = [
            type(whole)(whole.images[rows], whole.labels[rows], whole.ids[rows]) for rows in torch.split(order, sizes)
        ]


def test_features_are_mean_patch_tokens_in_order_of_ids() -> None:
    source, recipe = subset(open_source("digits", "train"), range(50)), toy.mae()
    encoder = methods.build(recipe, 0).encoder.train()
    runtime, augmentation = toy.runtime(Path("x")), recipe.augmentation
    (whole,) = inputs.in_order(recipe, runtime, source, None)
    parts = Shuffled([whole], [7, 40, 3]).batches

    def extract(batches: Any, token: features.Token = "patches") -> features.Features:
        mean, std = augmentation.mean, augmentation.std
        return features.extract(encoder, batches, device=CPU, mean=mean, std=std, token=token)

    found = extract(parts)
    assert encoder.training
    mean, std = augmentation.mean[0], augmentation.std[0]
    with torch.no_grad():
        tokens: Tensor = encoder.eval().forward_features((whole.images / 255 - mean) / std)  # [B, 1 + N, D]
    assert np.allclose(found.values, tokens[:, 1:].mean(dim=1).numpy(), atol=1e-6)
    assert np.allclose(extract(parts, "class").values, tokens[:, 0].numpy(), atol=1e-6)
    assert found.ids.tolist() == list(range(50))
    assert np.array_equal(found.labels, source.labels)
    assert extract([]).values.shape == (0, 16)


def test_ranks_bring_their_shares_and_all_get_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three ranks one after the other; tests/test_training.py has two at once."""
    source, recipe = subset(open_source("digits", "train"), range(50)), toy.mae()
    encoder = methods.build(recipe, 0).encoder

    def extract(rank: int, ranks: int) -> features.Features:
        batches = inputs.in_order(recipe, toy.runtime(Path("x")), source, None, ranks=ranks, rank=rank)
        mean, std = recipe.augmentation.mean, recipe.augmentation.std
        return features.extract(encoder, batches, device=CPU, mean=mean, std=std)

    alone, brought = extract(0, 1), []

    def gather(into: list[Any], own: Any) -> None:
        brought.append(own)
        into[: len(brought)] = brought
        into[len(brought) :] = [[]] * (len(into) - len(brought))

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    together = [extract(rank, 3) for rank in (2, 0, 1)][-1]
    assert np.array_equal(together.ids, alone.ids) and np.array_equal(together.labels, alone.labels)
    assert np.allclose(together.values, alone.values, atol=1e-6)
