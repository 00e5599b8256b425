"""From a form to a result: written, opened again, compared, timed; or an error that says where it goes wrong."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mae_lite import files
from mae_lite.errors import CheckpointError, MaeLiteError, shortly
from mae_lite.exporting import comparing
from mae_lite.exporting.comparing import Comparison
from mae_lite.exporting.forms import FORMS
from mae_lite.exporting.opened import Opened
from mae_lite.exporting.work import Form, Work

_log = logging.getLogger(__name__)
_ALIKE = 0.9
"""Least cosine similarity of an image's output in 8-bit numbers; what is less is broken, not rounded."""


@dataclass(frozen=True)
class Result:
    """A form that was written and found right."""

    form: str
    contents: dict[str, bytes]
    """Its files."""
    comparison: Comparison
    latency_ms: float
    """Median time for one image, one thread."""
    notes: tuple[str, ...] = ()


def proven(name: str, work: Work) -> Result:
    """Write a form into the scratch folder, open it there as a user would, and compare it.

    Args:
        name: of the form.
        work: what to write, and where.

    Raises:
        CheckpointError: when a library cannot write or open it, or when it computes something else; names the part
            of the model in which that begins.
    """
    form, folder = FORMS[name], work.scratch / name
    _log.info("writing %s, and comparing it on %s images", name, f"{len(work.compared):,}")
    with _explained(f"the form {name} cannot be written", name):
        contents = form.write(work)
    files.make_folder(folder)
    for file, data in contents.items():
        files.write_bytes(folder / file, data)
    reference = form.reference(work)
    opened, found = reopened(name, folder, work, reference)
    wrong = found if isinstance(found, str) else _verdict(form, found, work.settings.max_loss_points)
    if wrong or isinstance(found, str):
        raise _different(name, work, reference, opened, wrong)
    with threads(1):
        milliseconds = comparing.latency_ms(form.reopen(folder, work), work.compared.first())
    return Result(name, contents, found, milliseconds, tuple(work.notes.get(name, ())))


def reopened(name: str, folder: Path, work: Work, reference: Opened) -> tuple[Opened, Comparison | str]:
    """Open a form as a user would, and compare it with ``reference``; a text where its outputs have another shape.

    Raises:
        CheckpointError: when it cannot be opened.
    """
    own = reference is work.reference
    expected = work.expected if own else [reference(images) for images in work.compared.normalised()]
    with _explained(f"the form {name} cannot be opened again", name):
        opened = FORMS[name].reopen(folder, work)
        return opened, comparing.compare(expected, opened, work.compared)


def itself(work: Work) -> Result:
    """Return what the model itself does on the images, without files: the first row of the table."""
    found = comparing.compare(work.expected, work.reference, work.compared)
    assert not isinstance(found, str)
    with threads(1):
        milliseconds = comparing.latency_ms(work.reference, work.compared.first())
    return Result("torch", {}, found, milliseconds)


def _verdict(form: Form, found: Comparison, points: float) -> str:
    """Return what is wrong with a form; nothing where it is right."""
    if not math.isfinite(found.relative):
        return "outputs that are not finite"
    if form.tolerance is not None and found.relative > form.tolerance:
        return f"a difference of {found.relative:.1e} of the largest output, more than {form.tolerance:g}"
    if form.exact:
        return ""
    if form.tolerance is None and not found.cosine >= _ALIKE:
        return f"an output whose cosine similarity is {found.cosine:.2f}, less than {_ALIKE:g}"
    if found.hits is not None and found.reference_hits is not None:
        lost, allowed = found.reference_hits - found.hits, max(1.0, points / 100 * found.images)
        if lost > allowed + 1e-9:
            return f"{100 * lost / found.images:.1f} points of accuracy lost, more than {points:g}"
    return ""


def _different(name: str, work: Work, reference: Opened, opened: Opened, wrong: str) -> CheckpointError:
    form = FORMS[name]
    images = next(work.compared.normalised())[:8]
    with _explained(f"the form {name} computes something else, and cannot be looked into", name):
        part = comparing.first_difference(reference, opened, images, form.tolerance)
    advice = "check that the weights are finite, and the versions of the libraries"
    if form.tolerance is None:
        advice = "give more or other --calibration images, or accept more with --max-loss-points"
    return CheckpointError(
        f"the form {name} computes something else than the model",
        found=f"{wrong}; {'the error grows most in' if form.tolerance is None else 'it begins in'} {part}",
        expected="the same on every image",
        fix=f"{advice}; nothing was written",
    )


@contextmanager
def _explained(what: str, name: str) -> Iterator[None]:
    """Turn any error of another library into ours."""
    try:
        yield
    except (MaeLiteError, MemoryError):
        raise
    except Exception as error:  # each library has its own kinds; the user is told which form to leave out
        raise CheckpointError(
            what, found=shortly(error), fix=f"leave {name} out of --to; --debug shows more"
        ) from error


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch, and what is opened here, work with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def bytes_of(tensors: dict[str, Tensor]) -> int:
    """Return how many bytes tensors take."""
    return sum(value.numel() * value.element_size() for value in tensors.values())
