"""One update after the other, and when the host learns whether one was finite.

An update that is not finite is not made. To know that, a host has to wait for the device, which meanwhile gets nothing
to do. So where the device works beside the host, and nothing but the optimiser changes anything
(:func:`_can_pass_over`), the optimiser itself passes over such an update, on the device, and the host asks for it when
the next update is already on its way. Nobody may look at weights or optimiser before it has asked:
:meth:`Updates.settle`.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from mae_lite import draws
from mae_lite.data.batch import Batch, to_device
from mae_lite.engine import feed
from mae_lite.engine.failure import Seen, refuse
from mae_lite.engine.feed import Feed, Food
from mae_lite.engine.optim import set_learning_rate, set_weight_decay
from mae_lite.engine.ranks import averaged
from mae_lite.methods.base import Method, StepOutput

if TYPE_CHECKING:
    from mae_lite.engine.loop import Job


class _Made(NamedTuple):
    """An update that the optimiser has passed over if it was not finite."""

    step: int
    foods: tuple[Food, ...]
    """Its micro-batches, for its gradients once more."""
    loss: Tensor
    norm: Tensor
    is_finite: Callable[[], bool]
    """Waits until the device knows."""


class Updates:
    """The updates of a run."""

    def __init__(self, job: Job, batches: Iterator[Batch]) -> None:
        """Make them from ``batches``, micro-batch by micro-batch."""
        self._job, self._feed = job, Feed(job, batches)
        self._can_pass_over = _can_pass_over(job)
        self._later = False  # the first update gives the optimiser its state, which one that is refused must not
        self._unsettled: _Made | None = None
        self.seen: list[Seen] = []
        """Micro-batches of the last update, or of the one that failed."""

    def make(self, step: int) -> tuple[dict[str, Tensor], Tensor]:
        """Make the update number ``step``; return the means of loss and logs on this rank, and the gradients' norm.

        Raises:
            NotFinite: as :meth:`settle` for the update before; or for this one, before it changes anything.
        """
        job, seen = self._job, list[Seen]()
        epoch = _on_schedule(job, step)
        try:
            foods, numbers = self._backward(step, seen)
        except Exception as error:
            if self._unsettled is not None:
                traceback.clear_frames(error.__traceback__)  # what they hold of a device's memory may be wanted
                self.settle()  # an update that failed comes before whatever keeps the next from being made
            raise
        job.method.after_backward(epoch)
        self._feed.prepare(step + 1, job.plan.micro_rows(0))  # while the device computes: it may be waited for
        self.settle()  # if it raises, ``seen`` is still that of the update before
        self.seen = seen
        loss, norm = averaged(job.fabric, numbers["loss"]), _norm(job.method)
        finite = _is_finite(loss, norm)
        job.optimizer.optimizer.found_inf = (~finite).float() if self._later else None
        if self._later:
            self._unsettled = _Made(step, foods, loss, norm, _answer(finite))
        elif not finite:
            raise refuse(step, loss, norm)
        self._step(step, norm)
        self._later = self._can_pass_over
        return numbers, norm

    def _backward(self, step: int, seen: list[Seen]) -> tuple[tuple[Food, ...], dict[str, Tensor]]:
        """Go through the next micro-batches, as :func:`_backward`; return them too if they may be needed once more."""
        plan = self._job.plan
        foods = (self._feed.take(step, plan.micro_rows(micro)) for micro in range(plan.micro_batches))
        if not self._later:  # one at a time is in memory
            return (), _backward(self._job, step, foods, seen)
        kept = tuple(foods)
        return kept, _backward(self._job, step, kept, seen)

    def _step(self, step: int, norm: Tensor) -> None:
        job, most = self._job, self._job.recipe.clip_grad_norm
        if most is not None:
            torch.nn.utils.clip_grads_with_norm_(_with_gradients(job.method), most, norm, foreach=True)
        job.optimizer.step()
        job.optimizer.zero_grad(set_to_none=True)
        job.method.after_step(step + 1, job.rate.total_steps)
        if job.ema is not None:
            job.ema.update_parameters(job.method)

    def settle(self) -> None:
        """Wait until it is known that the last update was finite. Nothing of the run's state may be read before.

        Raises:
            NotFinite: it was not. Weights and optimiser are what they were before it, gradients and ``seen`` its own;
                without memory for its gradients there are none.
        """
        made, self._unsettled = self._unsettled, None
        if made is None or made.is_finite():
            return
        job = self._job
        job.optimizer.zero_grad(set_to_none=True)
        epoch = _on_schedule(job, made.step)
        try:
            _backward(job, made.step, made.foods, [])  # once more, for its gradients: they tell where it begins
            job.method.after_backward(epoch)
        except torch.OutOfMemoryError:
            job.optimizer.zero_grad(set_to_none=True)  # a part of them would tell of a wrong place
        raise refuse(made.step, made.loss, made.norm)

    def leave_out(self) -> None:
        """Pass over the images of an update."""
        self.settle()
        for _ in range(self._job.plan.micro_batches):
            self._feed.leave_out()


def _can_pass_over(job: Job) -> bool:
    """Say whether an update changes nothing but what the optimiser does, which can leave it on the device.

    With several micro-batches an update is long, and its images, which are kept until it is settled, are many. Several
    ranks tell each other at every update whether to stop: they wait anyhow.
    """
    fused = all(group.get("fused") for group in job.optimizer.param_groups)
    follows = type(job.method).after_step is not Method.after_step or job.ema is not None
    buffers = set(job.method.state_dict()) - {name for name, _ in job.method.named_parameters()}
    alone = job.fabric.world_size == 1 and job.plan.micro_batches == 1
    return job.fabric.device.type in feed.WORK_BESIDE and alone and fused and not follows and not buffers


def _answer(finite: Tensor) -> Callable[[], bool]:
    """Send ``finite`` [] to the host; return what waits for it, and for nothing that was asked of the device later."""
    here = finite.to("cpu", non_blocking=True)
    if finite.device.type != "cuda":
        return lambda: bool(here)
    event: Any = torch.cuda.Event
    arrived = event()
    arrived.record()

    def wait() -> bool:
        arrived.synchronize()
        return bool(here)

    return wait


def _on_schedule(job: Job, step: int) -> float:
    """Set what follows a schedule for update ``step``; return its epoch."""
    epoch = step / job.plan.steps_per_epoch
    set_learning_rate(job.optimizer, job.rate(step))
    set_weight_decay(job.optimizer, job.decay(step))
    job.method.before_step(epoch)
    return epoch


def _backward(job: Job, step: int, foods: Iterable[Food], seen: list[Seen]) -> dict[str, Tensor]:
    """Add up the gradients of all micro-batches of an update; return the means of loss and logs on this rank."""
    fabric, count, augmentation = job.fabric, job.plan.micro_batches, job.recipe.augmentation
    total: dict[str, Tensor] = {}
    for micro, food in enumerate(foods):
        batch = to_device(food.batch, fabric.device, augmentation.mean, augmentation.std)
        with fabric.no_backward_sync(job.wrapped, enabled=micro + 1 < count):
            output = forward(job, step, batch, food.drawn, (fabric.global_rank, micro))
            fabric.backward(output.loss / count)
        seen.append(Seen(batch.ids, output.loss.detach()))
        for name, value in {"loss": output.loss, **output.logs}.items():
            total[name] = total.get(name, 0.0) + value.detach() / count
    return total


def forward(job: Job, step: int, batch: Batch, drawn: Mapping[str, Tensor], part: tuple[int, int]) -> StepOutput:
    """Return loss and logs of a part of an update.

    Args:
        job: the run.
        step: the update.
        batch: images on the device.
        drawn: random numbers for them.
        part: rank and micro-batch, which drop path depends on.
    """
    if job.recipe.encoder.drop_path > 0:
        torch.manual_seed(draws.key(job.recipe.seed, "drop path", step, *part) >> 1)
    local = () if batch.local_images is None else (batch.local_images,)
    output: StepOutput = job.wrapped(batch.images, batch.labels, drawn, *local)
    return output


def _with_gradients(method: Method) -> list[torch.nn.Parameter]:
    return [parameter for parameter in method.parameters() if parameter.grad is not None]


def _norm(method: Method) -> Tensor:
    """Return the norm of all gradients."""
    gradients = [p.grad for p in _with_gradients(method) if p.grad is not None]
    return torch.nn.utils.get_total_norm(gradients, foreach=True)


def _is_finite(loss: Tensor, norm: Tensor) -> Tensor:
    """Return whether an update with this loss and norm of the gradients may be made.

    The optimiser keeps squares; one that overflowed would hold its weights still for ever, without a word. Gradients
    and loss are averaged over the ranks, so one rank's NaN is every rank's and all of them stop here.
    """
    return torch.isfinite(norm.square() + loss)
