"""What is to be exported: a finished model, and what belongs to it.

Shapes: B images, C channels, H side in pixels, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mae_lite import config, files, rundir, shipped
from mae_lite.errors import CheckpointError
from mae_lite.evaluation import incoming
from mae_lite.evaluation.building import check_names, preparation
from mae_lite.evaluation.token_teacher import from_timm_folder, timm_settings
from mae_lite.run_state import state_of

_WHAT = "a finished run, or a folder that timm reads, e.g. runs/NAME/classifier"
RESAMPLING = "bicubic"


@dataclass(frozen=True, eq=False)
class Subject:
    """A finished model and what its input has to be."""

    source: str
    """What the user gave."""
    folder: Path
    """Where timm reads it."""
    settings: Mapping[str, Any]
    """Its ``config.json``."""
    model: Any
    """The timm model in eval mode, on the CPU in float32."""
    augmentation: config.Augmentation
    """Mean, deviation and evaluation crop of its images."""
    classes: tuple[str, ...] | None
    """Names of the outputs, where they are known."""
    run: Path | None = None
    """The run that it comes from; None for a timm folder by itself."""
    recipe: config.Recipe | None = None
    """Of the run."""
    data: str | None = None
    """Training data of the run."""

    @property
    def shape(self) -> tuple[int, int]:
        """Channels and side in pixels of its images."""
        channels, side, _ = self.settings["pretrained_cfg"]["input_size"]
        return int(channels), int(side)

    @property
    def output(self) -> str:
        """Name of what it computes: "logits" [B, classes], or without a head "tokens" after the last norm."""
        return "logits" if self.model.num_classes else "tokens"

    @property
    def served(self) -> nn.Module:
        """The module that maps normalised images [B, C, H, H] to :attr:`output`."""
        model: nn.Module = self.model
        return model if self.model.num_classes else Tokens(model).eval()

    def preprocessing(self) -> dict[str, Any]:
        """Return all that another program needs to make the model's input from an image, and to read its output."""
        channels, side = self.shape
        return {
            "input": {"name": "images", "type": "float32", "layout": "NCHW", "shape": ["batch", channels, side, side]},
            "resize_short_side_px": round(side / self.augmentation.eval_crop),
            "interpolation": RESAMPLING,
            "centre_crop_px": side,
            "normalise": "(pixel / 255 - mean) / std",
            "mean": list(self.augmentation.mean),
            "std": list(self.augmentation.std),
            "output": self.output,
            "classes": None if self.classes is None else list(self.classes),
        }


class Tokens(nn.Module):
    """An encoder without a head: images [B, C, H, H] to tokens after the last norm, [B, T, D] (Swin: [B, h, h, D])."""

    def __init__(self, model: nn.Module) -> None:
        """Wrap a timm model."""
        super().__init__()
        self.model: Any = model

    def forward(self, images: Tensor) -> Tensor:
        """Return the tokens."""
        return self.model.forward_features(images)  # type: ignore[no-any-return]


def load(source: str) -> Subject:
    """Load a finished run, or a folder that timm reads.

    Raises:
        CheckpointError: when it is neither, not finished, or damaged.
    """
    path = Path(shipped.resolved(source))
    if (settings := timm_settings(path)) is not None:
        return _subject(source, path, settings)
    if not path.is_dir():
        raise CheckpointError(f"{source!r} is no folder", expected=_WHAT, fix="give the folder of a run")
    record, recipe = incoming.described(path, _WHAT)
    state = state_of(rundir.read_json(path / "status.json", _WHAT))
    folder = next((path / name for name in ("classifier", "encoder") if (path / name).is_dir()), None)
    if state != "finished" or folder is None:
        raise CheckpointError(
            f"the run {source!r} is not finished",
            found=state if state != "finished" else "neither encoder/ nor classifier/",
            expected="a finished run",
            fix="give the command that started it again, which continues it; or take the weights as they are, with "
            f"mae-lite convert {source} FOLDER --to timm, and export FOLDER",
        )
    found = rundir.read_json(folder / "config.json", _WHAT)
    return _subject(source, folder, found, run=path, recipe=recipe, data=str(record["data"]))


def _subject(source: str, folder: Path, settings: Mapping[str, Any], **of_run: Any) -> Subject:
    known = settings.get("pretrained_cfg") or {}
    size = list(known.get("input_size") or [])
    if len(size) != 3 or size[1] != size[2]:
        raise CheckpointError(
            f"{str(folder / 'config.json')!r} cannot be exported",
            found=f"images of {size}",
            expected="square images, whose size is known",
            fix=f"give {_WHAT}",
        )
    model = from_timm_folder(folder, lambda _: None, head=True)
    sides = {*(getattr(getattr(model, "patch_embed", None), "img_size", None) or size[1:])}
    if sides != {size[1]}:
        raise CheckpointError(
            f"{str(folder / 'config.json')!r} contradicts itself",
            found=f"input_size {size[1]} and a model for {' x '.join(map(str, sides))} pixels",
            expected="one size",
            fix="correct input_size in its pretrained_cfg",
        )
    return Subject(
        source,
        folder,
        settings,
        model.eval().requires_grad_(False),
        _augmentation(folder, known, int(size[0])),
        _classes(folder, settings, int(model.num_classes)),
        **of_run,
    )


def _classes(folder: Path, settings: Mapping[str, Any], outputs: int) -> tuple[str, ...] | None:
    names = settings.get("label_names")
    if not names or not outputs:
        return None
    check_names(str(folder), names, outputs)
    return tuple(map(str, names))


def _augmentation(folder: Path, known: Mapping[str, Any], channels: int) -> config.Augmentation:
    mean, std = list(known.get("mean") or []), list(known.get("std") or [])
    if len(mean) != channels or len(std) != channels:
        raise CheckpointError(
            f"{str(folder / 'config.json')!r} does not say how images are normalised",
            found=f"{len(mean)} means and {len(std)} deviations",
            expected=f"one for each of {channels} channels",
            fix="write mean and std into its pretrained_cfg",
        )
    return preparation(str(folder), channels, known)


def weights_digest(folder: Path) -> str | None:
    """Return the SHA-256 of a timm folder's weights."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).exists():
            return files.sha256((folder / name).read_bytes())
    return None
