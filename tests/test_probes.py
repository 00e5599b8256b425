"""Probes against slow formulas of their own: explicit loops, numpy's solver, the definition."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.neighbors import KNeighborsClassifier

from mae_lite.evaluation.probes import feature_std, linear, rankme, weighted_knn

Table = npt.NDArray[np.float32]
Wide = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


def clusters(count: int, seed: int, width: int = 8, classes: int = 3, spread: float = 1.5) -> tuple[Table, Labels]:
    """Return ``count`` points around the centres of overlapping classes, and their classes."""
    centres = np.random.default_rng(99).normal(size=(classes, width))
    random = np.random.default_rng(seed)
    labels = random.integers(classes, size=count)
    return (centres[labels] + spread * random.normal(size=(count, width))).astype(np.float32), labels


BANK, BANK_LABELS = clusters(60, 0)
QUERIES, QUERY_LABELS = clusters(40, 1)


def slow_knn(k: int, temperature: float) -> float:
    hits = 0
    for query, label in zip(QUERIES.tolist(), QUERY_LABELS.tolist(), strict=True):
        similar = []
        for known, known_label in zip(BANK.tolist(), BANK_LABELS.tolist(), strict=True):
            dot = sum(a * b for a, b in zip(query, known, strict=True))
            similar.append((dot / math.hypot(*query) / math.hypot(*known), known_label))
        votes = [0.0, 0.0, 0.0]
        for similarity, known_label in sorted(similar, reverse=True)[:k]:
            votes[known_label] += math.exp(similarity / temperature)
        hits += votes.index(max(votes)) == label
    return hits / len(QUERIES)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (5, 0.07), (20, 0.07), (20, 1.0), (1000, 0.5)])
def test_knn_is_that_of_explicit_loops(k: int, temperature: float) -> None:
    found = weighted_knn(BANK, BANK_LABELS, QUERIES, QUERY_LABELS, k=k, temperature=temperature)
    assert found == slow_knn(k, temperature)
    assert 0.4 < found < 1


def test_knn_without_weights_is_scikit_learns() -> None:
    """A high temperature makes all votes equal; of one neighbour there is no other vote."""
    model = KNeighborsClassifier(1, metric="cosine").fit(BANK, BANK_LABELS)
    assert weighted_knn(BANK, BANK_LABELS, QUERIES, QUERY_LABELS, k=1) == model.score(QUERIES, QUERY_LABELS)


def test_knn_of_many_queries_is_the_mean_of_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = weighted_knn(BANK, BANK_LABELS, QUERIES, QUERY_LABELS)
    monkeypatch.setattr("mae_lite.evaluation.probes._QUERIES_AT_ONCE", 7)
    assert weighted_knn(BANK, BANK_LABELS, QUERIES, QUERY_LABELS) == whole


def test_linear_is_the_ridge_of_numpy() -> None:
    """Normal equations for every penalty, and leave-one-out by leaving out."""
    centre, spread = BANK.mean(axis=0, dtype=np.float64), BANK.std(axis=0, dtype=np.float64)
    bank, queries = (BANK - centre) / spread, (QUERIES - centre) / spread
    targets = np.where(BANK_LABELS[:, None] == np.arange(3), 1.0, -1.0)

    def predict(x: Wide, y: Wide, at: Wide, alpha: float) -> Wide:
        x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
        x = x - x_mean
        weights = np.linalg.solve(x.T @ x + alpha * np.eye(x.shape[1]), x.T @ (y - y_mean))
        return np.asarray((at - x_mean) @ weights + y_mean)

    errors = {}
    for alpha in np.logspace(-2, 4, 7):
        left = [np.arange(60) != i for i in range(60)]
        outside = np.concatenate([predict(bank[keep], targets[keep], bank[~keep], alpha) for keep in left])
        errors[alpha] = ((outside - targets) ** 2).mean()
    best = min(errors, key=lambda alpha: errors[alpha])
    expected = float((predict(bank, targets, queries, best).argmax(axis=1) == QUERY_LABELS).mean())
    assert linear(BANK, BANK_LABELS, QUERIES, QUERY_LABELS) == expected
    assert expected > 0.6


def test_linear_ignores_the_scale_of_each_dimension() -> None:
    scale = np.logspace(-3, 3, 8).astype(np.float32)
    plain = linear(BANK, BANK_LABELS, QUERIES, QUERY_LABELS)
    assert linear(BANK * scale + 5, BANK_LABELS, QUERIES * scale + 5, QUERY_LABELS) == pytest.approx(plain, abs=0.03)


def test_linear_of_two_classes_and_of_a_dead_dimension() -> None:
    two = BANK_LABELS < 2, QUERY_LABELS < 2
    bank, queries = np.pad(BANK[two[0]], ((0, 0), (0, 1))), np.pad(QUERIES[two[1]], ((0, 0), (0, 1)))
    assert linear(bank, BANK_LABELS[two[0]], queries, QUERY_LABELS[two[1]]) > 0.6


def test_rankme_is_its_definition() -> None:
    values = np.sqrt(np.linalg.eigvalsh(BANK.astype(np.float64).T @ BANK.astype(np.float64)))
    shares = [value / sum(values.tolist()) + 1e-7 for value in values.tolist()]
    assert rankme(BANK) == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)), rel=1e-9)


@pytest.mark.parametrize("rank", [1, 2, 5, 8])
def test_rankme_counts_equal_directions(rank: int) -> None:
    orthogonal, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(30, rank)))
    rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))
    assert rankme(orthogonal @ rotation[:rank]) == pytest.approx(rank, rel=1e-4)


def test_feature_std_of_isotropic_features_is_one() -> None:
    isotropic = np.random.default_rng(0).normal(size=(5000, 64))
    assert feature_std(isotropic) == pytest.approx(1, abs=0.02)
    lengths = np.random.default_rng(1).uniform(0.1, 10, size=(5000, 1))
    assert feature_std(isotropic * lengths) == pytest.approx(feature_std(isotropic), rel=1e-9)


def test_collapsed_features_show() -> None:
    collapsed = np.tile(BANK[:1], (60, 1))
    assert feature_std(collapsed) == pytest.approx(0, abs=1e-6)
    assert rankme(collapsed) == pytest.approx(1, abs=1e-4)
    answers = weighted_knn(collapsed, BANK_LABELS, collapsed[:40], QUERY_LABELS)
    assert answers == pytest.approx(float((QUERY_LABELS == answer_of_all(20)).mean()))
    assert linear(collapsed, BANK_LABELS, collapsed[:40], QUERY_LABELS) < 0.6


def answer_of_all(k: int) -> int:
    """Return the class that collapsed features give to everyone: the most frequent among the bank's first."""
    return int(np.bincount(BANK_LABELS[:k]).argmax())


def test_features_of_nothing_but_zeros_do_not_divide_by_zero() -> None:
    zeros = np.zeros((60, 8), dtype=np.float32)
    assert feature_std(zeros) == 0
    assert math.isfinite(rankme(zeros))
    assert math.isfinite(weighted_knn(zeros, BANK_LABELS, zeros[:40], QUERY_LABELS))
