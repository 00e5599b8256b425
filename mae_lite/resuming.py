"""Which settings may change when a run goes on. Every one has its class here; ``tests/test_resuming.py`` sees to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mae_lite import provenance
from mae_lite.errors import CheckpointError, ConfigError, nearest

Class = Literal["safe", "override", "new run"]

_SAFE = """
name parent note.source note.command note.cost note.expected
on_bad on_nan allow_empty_classes out override init allow_missing teacher stop_after_steps micro_batch_size workers
loading log_every_steps save_every_steps validate_every_epochs probe_every_epochs probe_images devices accelerator
compiled loggers tensorboard progress
"""
"""They change no result beyond rounding, or what they name is known by its hash (init, with what it may lack; teacher).
They just go on."""
_OVERRIDE = """
data val_data pixels
epochs warmup_epochs lr_per_256 warmup_start_lr final_lr layer_decay clip_grad_norm precision
optimizer.betas optimizer.eps optimizer.weight_decay optimizer.final_weight_decay optimizer.no_decay
optimizer.momentum optimizer.nesterov
encoder.drop_path
method.mask_ratio method.weight method.smooth_l1_beta method.temperature method.momentum method.student_temperature
method.teacher_temperature method.teacher_start_temperature method.teacher_warmup_epochs method.centre_momentum
method.freeze_prototypes_epochs method.label_smoothing method.mixup method.cutmix method.mix_probability
reading.turn_upright reading.background reading.apply_profile reading.value_range reading.smallest_side
reading.max_pixels
augmentation.local_views augmentation.local_size augmentation.local_scale augmentation.crop_scale
augmentation.crop_ratio augmentation.interpolation augmentation.jitter augmentation.jitter_probability
augmentation.blur augmentation.blur_sigma augmentation.grey augmentation.solarise augmentation.flip
augmentation.rotate_degrees augmentation.shear_degrees augmentation.translate augmentation.zoom
augmentation.randaugment augmentation.erasing augmentation.eval_crop augmentation.mean augmentation.std
"""
"""What was trained fits, but the run is no longer one of a single recipe: named with --override they go on."""
_NEW_RUN = """
start encoder.kind encoder.name encoder.image_size encoder.channels encoder.patch_size encoder.width encoder.depth
encoder.depths encoder.num_heads encoder.window_size encoder.positions encoder.init
method.kind method.decoder_depth method.decoder_width method.decoder_heads method.normalize_target method.target
method.teacher_width method.teacher_depth method.teacher_depths method.teacher_heads method.teacher_patch_size
method.teacher_prefix_tokens method.blocks method.use_probabilities method.decoupled_at method.mask_unit_px
method.distance method.hidden_width method.output_width method.bottleneck_width method.prototypes
method.freeze_patch_projection method.pooling method.relative_positions method.keep_blocks
augmentation.views optimizer.kind global_batch_size ema_decay
labels_per_class label_fraction image_fraction validation_fraction seed
init_sha256 teacher_sha256 classes
"""
"""What was trained does not fit, or steps, images and draws would mean something else."""
CLASSES: dict[str, Class] = {
    **dict.fromkeys(_SAFE.split(), "safe"),
    **dict.fromkeys(_OVERRIDE.split(), "override"),
    **dict.fromkeys(_NEW_RUN.split(), "new run"),
}
_DERIVED = ("digest", "format", "overridden", "fingerprint")
_NOTES = {"epochs": "the rate then follows the schedule of all epochs", "data": "images of another order or number"}


@dataclass(frozen=True)
class Change:
    """A setting that is no longer what it was."""

    name: str
    """As a flag has it, with underscores; "data" stands for the fingerprint of the images too."""
    saved: Any
    now: Any

    def row(self) -> str:
        """Return "name: saved -> now (what to do)"."""
        note = f"; {_NOTES[self.name]}" if self.name in _NOTES else ""
        advice = f"--override {self.name}{note}" if _class(self.name) == "override" else "needs a new run"
        return f"{self.name}: {self.saved!r} -> {self.now!r} ({advice})"


def changes(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """Return what differs between two contents of ``recipe.json`` and is not safe, the gravest first."""
    found = [
        Change(path.removeprefix("recipe."), old, new)
        for path, old, new in _differences(saved, now)
        if path.partition(".")[0] not in _DERIVED
    ]
    images = [{key: (one.get("fingerprint") or {}).get(key) for key in ("count", "sha256")} for one in (saved, now)]
    if images[0] != images[1]:
        found.append(Change("data", *(f"{one['count']} images {str(one['sha256'])[:8]}" for one in images)))
    return sorted((change for change in found if _class(change.name) != "safe"), key=lambda one: _class(one.name))


def allowed(found: Sequence[Change], override: Sequence[str], where: str, about_data: str = "") -> None:
    """Refuse changes that ``override`` does not name, or that nothing allows.

    Args:
        found: what has changed, from :func:`changes`.
        override: names of settings that may differ from now on.
        where: the run folder.
        about_data: which images came, went and changed, where that is known.

    Raises:
        ConfigError: a table of saved -> now, each with what to do.
    """
    check_names(override)
    refused = [change for change in found if change.name not in override]
    if not refused:
        return
    grave = [change for change in found if _class(change.name) == "new run"]
    names = " ".join(dict.fromkeys([*override, *(change.name for change in refused)]))
    on = "" if grave else f"go on with the new ones by --override {names}, "
    rows = [change.row() for change in refused]
    rows += [about_data] if about_data and any(change.name == "data" for change in refused) else []
    raise ConfigError(
        f"{where!r} holds another run (saved -> now)",
        found="; ".join(rows),
        fix=f"repeat the saved settings to continue it, {on}or give a new folder with --out FOLDER",
    )


def check_names(override: Sequence[str]) -> None:
    """Refuse names of settings that do not exist, or whose change makes another run.

    Raises:
        ConfigError: names the first.
    """
    for name in override:
        if CLASSES.get(name) == "new run":
            raise ConfigError(
                f"override: {name} cannot change on the way", fix="begin a new run with --out FOLDER, or drop it"
            )
        if name not in CLASSES:
            names = [known for known, kind in CLASSES.items() if kind == "override"]
            raise ConfigError(
                "override",
                found=f"{name!r}{nearest(name, names)}",
                expected="names of settings that may change on the way, e.g. epochs or optimizer.weight_decay",
                fix="--override FIELD ..., as the message that asked for it says",
            )


def newer(where: str, found: int, known: int, version: str | None) -> CheckpointError:
    """Return the error of a run in a format that this version does not know.

    Args:
        where: what to call it.
        found: its format.
        known: the newest known one.
        version: of mae_lite that wrote it, where that is known.
    """
    wrote, here = (f" of mae_lite {one}" if one else "" for one in (version, provenance.version("mae_lite")))
    return CheckpointError(
        f"{where} was written by a newer version",
        found=f"format {found}{wrote}",
        expected=f"at most {known}{here}",
        fix="upgrade mae_lite",
    )


def _class(name: str) -> Class:
    return CLASSES.get(name, "new run")


def _differences(saved: Any, now: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(saved, Mapping) and isinstance(now, Mapping):
        for key in sorted({*saved, *now}):
            yield from _differences(saved.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif saved != now:
        yield name, saved, now
