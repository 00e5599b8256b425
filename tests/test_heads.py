"""Linear heads on features, and several k at once: against scikit-learn, autograd and each other."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from mae_lite import draws
from mae_lite.evaluation import heads
from mae_lite.evaluation.probes import weighted_knn, weighted_knns

Table = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
SHORT = heads.Schedule(epochs=3, fewest_updates=1, batch_size=32)


def clusters(count: int, seed: int, width: int = 16, classes: int = 5, spread: float = 2.0) -> tuple[Table, Labels]:
    """Return points around the centres of overlapping classes, on axes of very different scale."""
    centres = np.random.default_rng(99).normal(size=(classes, width))
    random = np.random.default_rng(seed)
    labels = random.integers(classes, size=count)
    scale = np.logspace(-2, 2, width)
    return ((centres[labels] + spread * random.normal(size=(count, width)) + 3) * scale).astype(np.float32), labels


BANK, BANK_LABELS = clusters(1000, 0)
QUERIES, QUERY_LABELS = clusters(600, 1)
KS = (1, 10, 20, 100, 200, 5000)


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_every_k_is_scikit_learns(temperature: float) -> None:
    found = weighted_knns(BANK, BANK_LABELS, QUERIES, QUERY_LABELS, ks=KS, temperature=temperature)
    assert list(found) == [1, 10, 20, 100, 200, 1000]
    for k, top1 in found.items():
        model = KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=lambda d: np.exp(-d / temperature))
        assert top1 == model.fit(BANK.astype(np.float64), BANK_LABELS).score(QUERIES.astype(np.float64), QUERY_LABELS)
    assert found[1] != found[20]


def test_equally_similar_images_count_in_the_order_of_the_bank() -> None:
    bank = np.repeat(np.eye(4, dtype=np.float32), 5, axis=0)
    labels = np.tile(np.array([2, 2, 0, 1, 1]), 4)
    for k, expected in ((1, 2), (2, 2), (3, 2), (5, 1), (4, 2)):
        answer = weighted_knns(bank, labels, bank[:1], np.array([expected]), ks=(k, 1))[k]
        assert answer == 1.0, k


def test_parts_of_queries_and_one_k_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = weighted_knns(BANK, BANK_LABELS, QUERIES, QUERY_LABELS, ks=KS)
    monkeypatch.setattr("mae_lite.evaluation.probes._CELLS_AT_ONCE", 7 * len(BANK))
    assert weighted_knns(BANK, BANK_LABELS, QUERIES, QUERY_LABELS, ks=KS) == whole
    assert weighted_knn(BANK, BANK_LABELS, QUERIES, QUERY_LABELS, k=20) == whole[20]


def slow_head(rate: float, schedule: heads.Schedule) -> torch.nn.Linear:
    """Train one head as one would write it: BatchNorm's statistics, cross-entropy, torch's SGD."""
    values = torch.from_numpy(BANK).double()
    norm = torch.nn.BatchNorm1d(values.shape[1], affine=False, momentum=None, eps=1e-12).double()
    norm(values)
    assert norm.running_var is not None
    norm.running_var *= (len(values) - 1) / len(values)
    x, y = norm.eval()(values), torch.from_numpy(BANK_LABELS)
    model = torch.nn.Linear(values.shape[1], 5).double()
    torch.nn.init.zeros_(model.weight)
    torch.nn.init.zeros_(model.bias)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    total, step = schedule.updates(len(x)), 0
    for epoch in range(math.ceil(schedule.epochs)):
        order = draws.permutation(draws.key(3, "heads", epoch), len(x))
        for start in range(0, len(x), schedule.batch_size):
            rows = order[start : start + schedule.batch_size]
            optimizer.param_groups[0]["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / total))
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step += 1
    assert step == total
    return model


def test_heads_are_torchs_sgd_one_by_one() -> None:
    rates = (0.003, 0.03, 0.3)
    found = heads.train(BANK, BANK_LABELS, 5, rates, seed=3, schedule=SHORT)
    for place, rate in enumerate(rates):
        expected = slow_head(rate, SHORT)
        assert torch.allclose(found.weight[place].double(), expected.weight, atol=1e-4)
        assert torch.allclose(found.bias[place].double(), expected.bias, atol=1e-4)
        logits = (
            (torch.from_numpy(QUERIES) - found.centre) / found.spread
        ).double() @ expected.weight.T + expected.bias
        wanted = torch.from_numpy(QUERY_LABELS)
        top1, nats = found.measured(QUERIES, QUERY_LABELS)[place]
        assert top1 == pytest.approx((logits.argmax(dim=1) == wanted).double().mean().item(), abs=2 / len(QUERIES))
        assert nats == pytest.approx(torch.nn.functional.cross_entropy(logits, wanted).item(), rel=1e-4)


def test_a_head_does_not_depend_on_the_other_rates() -> None:
    alone = heads.train(BANK, BANK_LABELS, 5, [0.1], seed=0, schedule=SHORT)
    beside = heads.train(BANK, BANK_LABELS, 5, [1e6, 0.1, 1e-6], seed=0, schedule=SHORT)
    assert torch.allclose(alone.weight[0], beside.weight[1], atol=1e-5)


def test_the_best_head_is_nearly_scikit_learns_logistic_regression() -> None:
    centre, spread = BANK.mean(axis=0), BANK.std(axis=0)
    model = LogisticRegression(C=1e4, max_iter=5000).fit((BANK - centre) / spread, BANK_LABELS)
    expected = model.score((QUERIES - centre) / spread, QUERY_LABELS)
    (found,) = heads.train(BANK, BANK_LABELS, 5, [0.05], seed=0).measured(QUERIES, QUERY_LABELS)
    assert found[0] == pytest.approx(expected, abs=0.01) and expected > 0.6


def test_few_images_are_passed_more_often() -> None:
    assert heads.Schedule().updates(10) == 1000
    assert heads.Schedule().updates(50_000) == 90 * 196
    few = heads.train(BANK[:10], BANK_LABELS[:10], 5, [0.1], seed=0)
    assert few.measured(BANK[:10], BANK_LABELS[:10])[0][0] == 1.0


def test_a_rate_that_diverges_is_not_chosen_and_a_dead_dimension_divides_nothing_by_zero() -> None:
    dead = np.pad(BANK, ((0, 0), (0, 1)), constant_values=7)
    found = heads.train(dead, BANK_LABELS, 5, [float("inf"), 0.01], seed=0, schedule=SHORT)
    scores = found.measured(dead, BANK_LABELS)
    assert scores[0] == (0.0, math.inf) and 0.5 < scores[1][0] < 1
    assert heads.chosen(scores) == 1


def test_equals_are_told_apart_by_their_loss() -> None:
    assert heads.chosen([(0.5, 1.0), (0.7, 2.0), (0.7, 1.5), (0.7, 1.5)]) == 2
