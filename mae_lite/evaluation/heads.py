"""Linear classifiers on frozen features, one for each learning rate, trained at once; no encoder is needed.

Shapes: n images, D numbers each, R learning rates, C classes, B images of an update.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mae_lite import draws
from mae_lite.evaluation.probes import Labels

_FLATTEST = 1e-6
_CELLS_AT_ONCE = 2**24
_MOMENTUM = 0.9


@dataclass(frozen=True)
class Schedule:
    """How long heads are trained."""

    epochs: float = 90.0
    """Passes over the features (MAE's linear probing, He et al. 2022, table 10)."""
    fewest_updates: int = 1000
    """Few images are passed more often, until so many updates have been made."""
    batch_size: int = 256
    """Features per update, all where there are fewer."""

    def updates(self, images: int) -> int:
        """Return the updates for so many images."""
        per_epoch = math.ceil(images / min(self.batch_size, images))
        return max(self.fewest_updates, round(self.epochs * per_epoch))


@dataclass(frozen=True)
class Heads:
    """R linear classifiers behind one standardisation."""

    centre: Tensor
    """[D] means of the training features."""
    spread: Tensor
    """[D] their deviations."""
    weight: Tensor
    """[R, C, D]."""
    bias: Tensor
    """[R, C]."""

    @torch.inference_mode()
    def measured(self, features: npt.NDArray[np.float32], labels: Labels) -> list[tuple[float, float]]:
        """Return top-1 accuracy, 0 to 1, and mean cross-entropy in nats of each head; (0, inf) of one that diverged.

        Args:
            features: [n, D].
            labels: [n] class numbers.
        """
        rates, classes = self.bias.shape
        hits, losses = torch.zeros(2, rates, dtype=torch.float64, device=self.bias.device)
        step = max(1, _CELLS_AT_ONCE // (rates * classes))
        for start in range(0, len(features), step):
            some = _standardised(features[start : start + step], self.centre, self.spread)
            wanted = torch.from_numpy(labels[start : start + step]).to(some.device)
            logits = torch.addmm(self.bias.flatten(), some, self.weight.flatten(0, 1).T).view(-1, rates, classes)
            hits += (logits.argmax(dim=2) == wanted[:, None]).sum(dim=0)
            expected = wanted[:, None].expand(-1, rates)
            losses += torch.nn.functional.cross_entropy(logits.mT, expected, reduction="none").double().sum(dim=0)
        sound = losses.isfinite() & self.weight.flatten(1).isfinite().all(dim=1)
        top1 = torch.where(sound, hits / len(features), 0.0).tolist()
        nats = torch.where(sound, losses / len(features), math.inf).tolist()
        return list(zip(top1, nats, strict=True))


def train(
    features: npt.NDArray[np.float32],
    labels: Labels,
    classes: int,
    rates: Sequence[float],
    *,
    seed: int,
    schedule: Schedule = Schedule(),
    device: torch.device | str = "cpu",
) -> Heads:
    """Train a head for each learning rate, from zero, on the same batches in the same order.

    Features are standardised by their own means and deviations, which is what a BatchNorm without parameters does in
    evaluation (He et al. 2022, appendix A.1); these are exact, since all features are known. Then SGD with momentum
    0.9, a cosine from the rate to 0, and no weight decay. A head is the same whatever the other rates are, up to
    rounding: the heads share reading and standardising, and are one matrix for the two products of each update.

    Args:
        features: [n, D].
        labels: [n] class numbers below ``classes``.
        classes: C.
        rates: R learning rates of a whole batch; they are not scaled.
        seed: of the order of the images.
        schedule: how long.
        device: where to train.
    """
    centre, spread = (part.to(device) for part in statistics(features))
    known = _standardised(features, centre, spread)
    targets = torch.nn.functional.one_hot(torch.from_numpy(labels), classes).float().to(device)  # [n, C]
    count, size = len(features), min(schedule.batch_size, len(features))
    per_epoch, total = math.ceil(count / size), schedule.updates(count)
    heads = _Together(rates, classes, features.shape[1], device)
    order = torch.empty(0, dtype=torch.int64, device=device)
    for step in range(total):
        epoch, place = divmod(step, per_epoch)
        if place == 0:
            order = torch.from_numpy(draws.permutation(draws.key(seed, "heads", epoch), count)).to(device)
        rows = order[place * size : (place + 1) * size]
        share = 0.5 * (1 + math.cos(math.pi * step / total))
        heads.update(known.index_select(0, rows), targets.index_select(0, rows), share)
    return Heads(centre, spread, heads.weight.view(len(rates), classes, -1), heads.bias.view(len(rates), classes))


class _Together:
    """R heads as one matrix, so that an update is two products, and their gradient, which is written out."""

    def __init__(self, rates: Sequence[float], classes: int, width: int, device: torch.device | str) -> None:
        self._classes = classes
        self.weight = torch.zeros(len(rates) * classes, width, device=device)
        self.bias = torch.zeros(len(rates) * classes, 1, device=device)
        self._speed, self._bias_speed = torch.zeros_like(self.weight), torch.zeros_like(self.bias)
        self._rates = torch.tensor(list(rates), device=device).repeat_interleave(classes)[:, None]

    def update(self, x: Tensor, y: Tensor, share: float) -> None:
        """Take a step with features [B, D], targets [B, C] and a share of each rate."""
        # [R, C, B] and not [B, R, C]: what follows then runs along B, which is long where C is short.
        error = torch.addmm(self.bias, self.weight, x.T).view(-1, self._classes, len(x))
        error = error.sub_(error.amax(dim=1, keepdim=True)).exp_()
        error = error.div_(error.sum(dim=1, keepdim=True)).sub_(y.T).view(-1, len(x))
        self._speed.addmm_(error, x, beta=_MOMENTUM, alpha=1 / len(x))
        self._bias_speed.mul_(_MOMENTUM).add_(error.mean(dim=1, keepdim=True))
        self.weight.addcmul_(self._speed, self._rates, value=-share)
        self.bias.addcmul_(self._bias_speed, self._rates, value=-share)


def chosen(measured: Sequence[tuple[float, float]]) -> int:
    """Return the place of the most accurate head; among equals that of the smallest cross-entropy, then the first."""
    return min(range(len(measured)), key=lambda place: (-measured[place][0], measured[place][1]))


def statistics(features: npt.NDArray[np.float32]) -> tuple[Tensor, Tensor]:
    """Return means [D] and deviations [D] of features [n, D], in float32; a constant one is divided by 1."""
    centre = features.mean(axis=0, dtype=np.float64)
    spread = features.std(axis=0, dtype=np.float64)
    spread = np.where(spread > _FLATTEST, spread, 1.0)
    return torch.from_numpy(centre).float(), torch.from_numpy(spread).float()


def _standardised(features: npt.NDArray[np.float32], centre: Tensor, spread: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(features)).to(centre.device).sub(centre).div_(spread)
