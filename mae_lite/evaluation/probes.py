"""What features are worth, as pure functions of a table of them: no model, no state, no random draw.

Shapes: n images of the bank, m queries, D numbers per image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Table = npt.NDArray[np.floating[Any]]
Labels = npt.NDArray[np.integer[Any]]

_SMALLEST = 1e-12
_ALPHAS = np.logspace(-2, 4, 7)
_QUERIES_AT_ONCE = 1024
_CELLS_AT_ONCE = 2**25
"""Similarities held at once: 256 MiB."""


def weighted_knn(
    bank: Table,
    bank_labels: Labels,
    queries: Table,
    query_labels: Labels,
    *,
    k: int = 20,
    temperature: float = 0.07,
) -> float:
    """Return the top-1 accuracy, 0 to 1, of :func:`weighted_knns` with one k."""
    found = weighted_knns(bank, bank_labels, queries, query_labels, ks=(k,), temperature=temperature)
    return found[min(k, len(bank))]


def weighted_knns(
    bank: Table,
    bank_labels: Labels,
    queries: Table,
    query_labels: Labels,
    *,
    ks: Sequence[int],
    temperature: float = 0.07,
    device: str = "cpu",
) -> dict[int, float]:
    """Return the top-1 accuracy, 0 to 1, of the weighted nearest neighbours of Wu et al. 2018 (arXiv:1805.01978).

    Each of the k images of the bank with the highest cosine similarity s votes exp(s / temperature) for its class; k
    and temperature are those of DINO (Caron et al. 2021). Among equally similar images the first of the bank counts.
    Similarities, in float64, are computed once for all k.

    Args:
        bank: [n, D] features with known labels.
        bank_labels: [n] class numbers from 0.
        queries: [m, D] features to classify.
        query_labels: [m] class numbers from 0.
        ks: neighbours that vote; all of the bank where it is smaller.
        temperature: the smaller, the more the nearest counts.
        device: where to compare.

    Returns:
        Accuracy by k, at most n, in rising order.
    """
    import torch

    known = torch.from_numpy(_unit(bank)).to(device)
    of_known = torch.from_numpy(bank_labels.astype(np.int64)).to(device)
    wanted = torch.from_numpy(query_labels.astype(np.int64)).to(device)
    hits = {k: 0 for k in sorted({min(k, len(bank)) for k in ks})}
    step = max(1, min(_QUERIES_AT_ONCE, _CELLS_AT_ONCE // len(bank)))
    classes = int(bank_labels.max()) + 1
    for start in range(0, len(queries), step):
        similarity = torch.from_numpy(_unit(queries[start : start + step])).to(device) @ known.T  # [m, n]
        nearest = _nearest(similarity, max(hits))
        weights = similarity.gather(1, nearest).div_(temperature).exp_()
        votes = torch.zeros(len(nearest), classes, dtype=torch.float64, device=device)
        done = 0
        for k in hits:
            votes.scatter_add_(1, of_known[nearest[:, done:k]], weights[:, done:k])
            hits[k] += int((votes.argmax(dim=1) == wanted[start : start + step]).sum())
            done = k
    return {k: count / len(queries) for k, count in hits.items()}


def _nearest(similarity: Any, k: int) -> Any:
    """Return the places [m, k] of the largest of each row of a tensor [m, n], in falling order, of equals the first."""
    values, places = similarity.topk(k, dim=1)
    doubtful = ((similarity >= values[:, -1:]).sum(dim=1) > k).nonzero().flatten()  # topk takes any of the equals
    if len(doubtful):
        places[doubtful] = similarity[doubtful].sort(dim=1, descending=True, stable=True).indices[:, :k]
    places = places.sort(dim=1).values
    order = similarity.gather(1, places).sort(dim=1, descending=True, stable=True).indices
    return places.gather(1, order)


def linear(bank: Table, bank_labels: Labels, queries: Table, query_labels: Labels) -> float:
    """Return the top-1 accuracy, 0 to 1, of a linear classifier on features, solved in closed form.

    Ridge regression onto the classes (targets 1 and -1; an intercept), on features standardised by the bank's means
    and deviations; its penalty, of 0.01 to 10,000, is the one with the smallest squared leave-one-out error. Solved
    anew each time instead of trained along with the encoder by SGD: so it has no weights that a checkpoint would have
    to keep, no learning rate to choose, and says what these features are worth, not how fast a classifier follows them.

    Args:
        bank: [n, D] features to fit, of two classes at least.
        bank_labels: [n] class numbers.
        queries: [m, D] features to classify.
        query_labels: [m] class numbers.
    """
    from sklearn.linear_model import RidgeClassifierCV  # takes a second to import, and most commands never probe

    known = bank.astype(np.float64)
    centre, spread = known.mean(axis=0), known.std(axis=0)
    spread = np.where(spread > 1e-6, spread, 1.0)
    model = RidgeClassifierCV(alphas=_ALPHAS).fit((known - centre) / spread, bank_labels)
    return float((model.predict((queries - centre) / spread) == query_labels).mean())


def rankme(features: Table, epsilon: float = 1e-7) -> float:
    """Return RankMe (Garrido et al. 2023, arXiv:2210.02885): how many dimensions features use, from 1 to min(n, D).

    exp of the entropy of p_i = s_i / sum(s) + epsilon, where s are the singular values of the features [n, D], not
    centred.
    """
    singular = np.linalg.svd(features.astype(np.float64), compute_uv=False)
    shares = singular / max(float(singular.sum()), _SMALLEST) + epsilon
    return float(np.exp(-(shares * np.log(shares)).sum()))


def feature_std(features: Table) -> float:
    """Return how far features [n, D] are from having collapsed onto a point: 0 if they have, 1 if isotropic.

    The deviation of each dimension of the features at length 1, averaged over the dimensions, times sqrt(D), as in
    SimSiam (Chen and He 2021, arXiv:2011.10566, figure 2).
    """
    return float(_unit(features).std(axis=0).mean() * np.sqrt(features.shape[1]))


def _unit(features: Table) -> npt.NDArray[np.float64]:
    """Scale each row to length 1."""
    wide = features.astype(np.float64)
    unit: npt.NDArray[np.float64] = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), _SMALLEST)
    return unit
