"""Random draws: pinned values, their distribution, and that they depend on named keys alone."""

from __future__ import annotations

import random

import numpy as np
import numpy.typing as npt
import pytest
import torch

from mae_lite import draws
from mae_lite.methods import build
from tests import toy

# These values decide every run: whoever changes them makes all former runs unrepeatable and unresumable.
PINNED_KEYS = {
    (0, "mask", 0): 6018830010098749651,
    (7, "augment", 3): 9353417706596436082,
    (2**63 - 1, "transform", 1, 2): 8725709333069658344,
}


@pytest.mark.parametrize("parts", PINNED_KEYS)
def test_pinned_keys(parts: tuple[int, str, int]) -> None:
    assert draws.key(*parts) == PINNED_KEYS[parts]


def test_pinned_draws() -> None:
    drawn = draws.uniform(draws.key(0, "mask", 0), [0, 5], 3)
    expected = [
        [0.11857253313064575, 0.33897119760513306, 0.3027336597442627],
        [0.4126353859901428, 0.6516559720039368, 0.6947396993637085],
    ]
    assert drawn.tolist() == expected
    assert draws.permutation(draws.key(0, "order", 0), 8).tolist() == [6, 4, 3, 2, 1, 5, 0, 7]
    floats = draws.generator(draws.key(0, "mix", 0)).random(2).tolist()
    assert floats == [0.31849195030897504, 0.8702943915857599]


def test_keys_differ() -> None:
    keys = {draws.key(seed, what, step) for seed in range(30) for what in ("mask", "mix") for step in range(50)}
    assert len(keys) == 30 * 2 * 50
    assert len({draws.key(0, "a"), draws.key(0, "a", 1), draws.key(0, "a", 1, 1), draws.key(0, "a", 11)}) == 4
    assert all(0 <= value < 2**64 for value in keys)


@pytest.fixture(scope="module")
def table() -> npt.NDArray[np.float64]:
    return draws.uniform(draws.key(3, "mask", 9), range(2000), 196).astype(np.float64)


def test_uniform_distribution(table: npt.NDArray[np.float64]) -> None:
    assert table.min() >= 0
    assert table.max() < 1
    error = 1 / np.sqrt(table.size)
    assert abs(table.mean() - 1 / 2) < 4 * error * np.sqrt(1 / 12)
    assert abs(table.var() - 1 / 12) < 4 * error * np.sqrt(1 / 180)
    counts = np.histogram(table, bins=100, range=(0, 1))[0]
    expected = table.size / 100
    assert ((counts - expected) ** 2 / expected).sum() < 150  # chi-square, 99 degrees: passes 99.9 %
    # Each column and each row is uniform on its own too.
    assert abs(table.mean(axis=0) - 1 / 2).max() < 5 * np.sqrt(1 / 12 / len(table))
    assert abs(table.mean(axis=1) - 1 / 2).max() < 5 * np.sqrt(1 / 12 / table.shape[1])
    assert set(np.unique(np.float32(table) * 2**24 % 1)) == {0.0}


def correlation(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> float:
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


@pytest.mark.parametrize("lag", [1, 2, 7, 64])
def test_no_correlation_along_rows_and_columns(table: npt.NDArray[np.float64], lag: int) -> None:
    limit = 4.5 / np.sqrt(table.size / 2)
    assert abs(correlation(table[:, lag:], table[:, :-lag])) < limit
    assert abs(correlation(table[lag:], table[:-lag])) < limit
    assert abs(correlation(table[lag:, lag:], table[:-lag, :-lag])) < limit
    assert abs(correlation(table[lag:, :-lag], table[:-lag, lag:])) < limit


@pytest.mark.parametrize("other", [("mask", 10), ("mask", 8), ("mix", 9)])
def test_no_correlation_between_keys(table: npt.NDArray[np.float64], other: tuple[str, int]) -> None:
    second = draws.uniform(draws.key(3, *other), range(2000), 196).astype(np.float64)
    assert abs(correlation(table, second)) < 4.5 / np.sqrt(table.size)
    assert abs(correlation(table[1:], second[:-1])) < 4.5 / np.sqrt(table.size)


def test_keys_that_differ_by_the_increment_do_not_shift_rows() -> None:
    first, second = (draws.uniform(key, range(500), 50).astype(np.float64) for key in (5, 6))
    assert abs(correlation(first, second)) < 4.5 / np.sqrt(first.size)
    assert len(np.unique(np.concatenate([first, second]))) > 49_000


def test_rows_do_not_depend_on_each_other(table: npt.NDArray[np.float64]) -> None:
    key = draws.key(3, "mask", 9)
    chosen = np.array([1999, 0, 3, 3])
    assert np.array_equal(draws.uniform(key, chosen, 196), table[chosen])
    assert np.array_equal(draws.uniform(key, range(40, 60), 196), table[40:60])
    assert np.array_equal(draws.uniform(key, range(2000), 10), table[:, :10])
    assert draws.uniform(key, [2**62], 4).shape == (1, 4)
    assert draws.uniform(key, [], 4).shape == (0, 4)
    assert draws.uniform(key, [0], 1).dtype == np.float32


def test_permutation() -> None:
    key = draws.key(1, "order", 4)
    order = draws.permutation(key, 1000)
    assert sorted(order.tolist()) == list(range(1000))
    assert not np.array_equal(order, np.arange(1000))
    assert np.array_equal(order, draws.permutation(key, 1000))
    assert not np.array_equal(order, draws.permutation(draws.key(1, "order", 5), 1000))
    assert abs(np.corrcoef(order, np.arange(1000))[0, 1]) < 4 / np.sqrt(1000)


def test_seeded_globals_restores_the_state() -> None:
    random.seed(1)
    np.random.seed(1)
    expected = [random.random(), random.random()], np.random.rand(2).tolist()
    random.seed(1)
    np.random.seed(1)
    first = random.random(), float(np.random.rand())
    seen = []
    for _ in range(2):
        with draws.seeded_globals(2**64 - 1):
            seen.append((random.random(), random.gauss(0, 1), np.random.rand(3).tolist()))
    assert seen[0] == seen[1]
    with draws.seeded_globals(2**64 - 2):
        assert (random.random(), random.gauss(0, 1), np.random.rand(3).tolist()) != seen[0]
    with pytest.raises(ZeroDivisionError), draws.seeded_globals(5):
        random.random()
        raise ZeroDivisionError
    assert ([first[0], random.random()], [first[1], float(np.random.rand())]) == expected


def test_mask_noise_of_a_split_is_the_wholes() -> None:
    method = build(toy.mae(), 0)
    whole = method.draw(4, 11, range(16))["noise"]
    assert whole.shape == (16, 4)
    for size in (1, 4, 8):
        parts = [method.draw(4, 11, range(start, start + size))["noise"] for start in range(0, 16, size)]
        assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(method.draw(4, 12, range(16))["noise"], whole)
    assert not torch.equal(method.draw(5, 11, range(16))["noise"], whole)
    assert len(torch.unique(whole)) == whole.numel()
