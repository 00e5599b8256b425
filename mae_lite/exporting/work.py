"""What the forms share while they are written, and what a form is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from mae_lite.exporting import pictures
from mae_lite.exporting.opened import Opened, of_timm
from mae_lite.exporting.pictures import Pictures
from mae_lite.exporting.settings import ExportSettings
from mae_lite.exporting.subject import Subject


@dataclass(eq=False)
class Work:
    """A subject, its images, and a folder for libraries that write files themselves."""

    subject: Subject
    settings: ExportSettings
    compared: Pictures
    scratch: Path
    notes: dict[str, list[str]] = field(default_factory=dict)
    """What there is to say of each form."""
    made: dict[str, bytes] = field(default_factory=dict)
    """What one form has made that another starts from."""

    @cached_property
    def calibration(self) -> Pictures:
        """Images that say how large activations become."""
        return pictures.to_calibrate(self.subject, self.settings)

    @cached_property
    def reference(self) -> Opened:
        """The model that all forms are made from."""
        return of_timm(self.subject.model, self.subject.served)

    @cached_property
    def expected(self) -> list[Tensor]:
        """What :attr:`reference` makes of the images, batch by batch."""
        return [self.reference(images) for images in self.compared.normalised()]

    @cached_property
    def preprocessing(self) -> bytes:
        """The content of ``preprocessing.json``."""
        return (json.dumps(self.subject.preprocessing(), indent=2) + "\n").encode()

    def example(self) -> Tensor:
        """Return what a model is traced with, zeros [2, C, H, H].

        No real images: torch.export keeps them in its file. And two of them: a batch of one counts as a constant.
        """
        channels, side = self.subject.shape
        return torch.zeros(2, channels, side, side)

    def note(self, form: str, words: str) -> None:
        """Say something of a form."""
        self.notes.setdefault(form, []).append(words)


def _reference(work: Work) -> Opened:
    return work.reference


@dataclass(frozen=True)
class Form:
    """One way to write a model."""

    write: Callable[[Work], dict[str, bytes]]
    """Returns the files."""
    reopen: Callable[[Path, Work], Opened]
    """Opens the folder with these files as a user would, with as many threads as torch has."""
    tolerance: float | None = 1e-4
    """Largest difference that rounding explains, as a share of the largest output; None for 8-bit numbers."""
    exact: bool = True
    """Whether the numbers are those of the model; others are also judged by the accuracy that they lose."""
    reference: Callable[[Work], Opened] = _reference
    """What it has to agree with."""
