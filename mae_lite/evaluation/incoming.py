"""Weights from anywhere, by our names, with what is known about them: runs, checkpoints, folders and files."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from mae_lite import config, files, rundir, shipped
from mae_lite.engine import checkpoint
from mae_lite.errors import CheckpointError, ConfigError
from mae_lite.models import layouts, weights
from mae_lite.models.onnx_session import network_of
from mae_lite.models.vit import architecture_heads
from mae_lite.overrides import build
from mae_lite.run_state import state_of

_log = logging.getLogger(__name__)
Pooling = Literal["token", "avg"]
_TENSORS = ("model.safetensors", "pytorch_model.bin")
_SHAPE = ("image_size", "patch_size", "channels", "width", "depth", "num_heads")
"""Settings of an encoder that its weights must have been trained with."""


@dataclass(frozen=True)
class Incoming:
    """Weights and what their source says about them; None is what it does not say."""

    found: layouts.Recognised
    raw: dict[str, Tensor]
    """By the names in the source."""
    settings: dict[str, Any] = field(default_factory=dict)
    """The source's own description, as it stands there."""
    heads: int | None = None
    decoder_heads: int | None = None
    eps: float | None = None
    """Of LayerNorm."""
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    crop: float | None = None
    """Share of the image that the centre crop keeps in evaluation."""
    pooling: Pooling | None = None
    classes: tuple[str, ...] | None = None
    encoder: config.Encoder | None = None
    """Of a run."""

    def shape_flags(self, other: config.Encoder | config.Swin) -> str:
        """Return the flags that give ``other`` this run's encoder; "" where it has its shape, or it is not known."""
        differ = self.differences(other).items()
        return " ".join(f"--encoder.{name.replace('_', '-')} {ours}" for name, (ours, _) in differ)

    def differences(self, other: config.Encoder | config.Swin) -> dict[str, tuple[int, int]]:
        """Return what of this run's encoder differs from ``other``, as (this, other) by setting; empty if unknown."""
        if self.encoder is None or not isinstance(other, config.Encoder):
            return {}
        both = {name: (getattr(self.encoder, name), getattr(other, name)) for name in _SHAPE}
        differ = {name: (ours, others) for name, (ours, others) in both.items() if ours != others}
        if "patch_size" not in differ:  # positions are made for any size of images
            differ.pop("image_size", None)
        return differ


def read(source: str, prefix: str = "", flag: str = "") -> Incoming:
    """Read a run folder, a checkpoint folder, a folder with ``config.json``, or a file of any known layout.

    Args:
        source: the path, or pretrained:NAME for a model that comes with the package.
        prefix: take only tensors whose names begin with this.
        flag: what gave the path, for messages.

    Raises:
        CheckpointError: when it is not there, damaged, or not known.
    """
    path = Path(shipped.resolved(source))
    if path.is_file():
        raw = weights.read_file(path)
        return Incoming(layouts.recognise(raw, source, prefix), raw)
    if not path.is_dir():
        nearby = sorted(str(p) for p in path.parent.glob("*") if p.is_dir())[:5] if path.parent.is_dir() else []
        where = f"; folders nearby: {', '.join(nearby)}" if nearby else ""
        raise CheckpointError(
            f"{flag} {source!r} does not exist{where}".strip(), fix="give a run folder or a checkpoint file"
        )
    return _described_folder(path, prefix) if (path / "config.json").exists() else _run(path)


def _described_folder(path: Path, prefix: str) -> Incoming:
    settings = rundir.read_json(path / "config.json", "a folder that timm or Hugging Face wrote")
    if (path / files.MANIFEST).exists():
        files.read_folder(path)  # refuses what was damaged since it was written
    file = next((path / name for name in _TENSORS if (path / name).exists()), path / _TENSORS[0])
    raw = weights.read_file(file)
    found = layouts.recognise(raw, str(path), prefix)
    known = Incoming(found, raw, settings)
    try:
        if settings.get("kind") == "mae_lite":
            return _ours(known)
        return _hugging_face(known, path) if "hidden_size" in settings else _timm(known)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{str(path / 'config.json')!r} is not as its library writes it",
            found=repr(error)[:200],
            fix=f"give the file {str(file)!r} itself, with --heads",
        ) from error


def _ours(known: Incoming) -> Incoming:
    settings = known.settings
    return replace(
        known,
        heads=int(settings["encoder"]["num_heads"]),
        decoder_heads=int(settings["decoder"]["decoder_heads"]) if settings["decoder"] else None,
        eps=1e-6,
        pooling=settings["pooling"],
        classes=_names(settings.get("classes")),
        **_preparation(settings),
    )


def _timm(known: Incoming) -> Incoming:
    settings = known.settings
    heads = settings.get("model_args", {}).get("num_heads") or architecture_heads(settings.get("architecture", ""))
    heads = None if isinstance(heads, list) else heads  # Swin's; its shapes tell them
    pooling: Pooling | None = "token" if settings.get("global_pool") == "token" else None
    return replace(
        known,
        heads=None if heads is None else int(heads),
        pooling="avg" if settings.get("global_pool") == "avg" else pooling,
        classes=_names(settings.get("label_names")),
        **_preparation(settings.get("pretrained_cfg", {})),
    )


def _hugging_face(known: Incoming, path: Path) -> Incoming:
    settings, file = known.settings, path / "preprocessor_config.json"
    images = rundir.read_json(file, "a Hugging Face folder") if file.exists() else {}
    decoder = settings.get("decoder_num_attention_heads")
    names = settings.get("id2label") if "encoder.head.weight" in known.found.tensors else None
    return replace(
        known,
        heads=int(settings["num_attention_heads"]),
        decoder_heads=None if decoder is None else int(decoder),
        eps=float(settings.get("layer_norm_eps", 1e-12)),
        pooling="token",
        # Some writers sort these numbers as words: 0, 1, 10, 2.
        classes=_names([names[number] for number in sorted(names, key=int)] if names else None),
        **_preparation({"mean": images.get("image_mean"), "std": images.get("image_std")}),
    )


def _preparation(settings: Mapping[str, Any]) -> dict[str, Any]:
    mean, std, crop = (settings.get(name) for name in ("mean", "std", "crop_pct"))
    return {
        "mean": None if mean is None else tuple(float(value) for value in mean),
        "std": None if std is None else tuple(float(value) for value in std),
        "crop": None if crop is None else float(crop),
    }


def _names(classes: Any) -> tuple[str, ...] | None:
    return None if classes is None else tuple(str(name) for name in classes)


def check_start(recipe: config.Recipe, init: str | None) -> None:
    """Refuse a recipe that needs weights to start from and has none, or has some and needs none.

    Raises:
        ConfigError: says which.
    """
    if init is None and recipe.start == "pretrained":
        raise ConfigError(
            f"recipe {recipe.name!r} fine-tunes pre-trained weights",
            found="no --init",
            expected="weights to start from",
            fix="add --init RUN, or use a recipe that trains from scratch",
        )
    if init is not None and recipe.start == "random" and isinstance(recipe.method, config.Supervised):
        raise ConfigError(
            f"recipe {recipe.name!r} starts from random weights",
            found=f"--init {init}",
            expected="no --init",
            fix="drop --init, or use a fine-tuning recipe",
        )


def refuse_exports(source: str, path: Path, runs_only: bool = False) -> None:
    """Refuse exports that have no tensors by name: an ONNX network, and the folder that holds all exports of a run.

    Args:
        source: what to call it in messages.
        path: where it is.
        runs_only: whether the timm folder among the exports would be refused too.

    Raises:
        CheckpointError: says what to give instead.
    """
    if network_of(path) is not None:
        raise CheckpointError(
            f"{source!r} cannot be looked into",
            found="an ONNX file",
            expected="weights by their names",
            fix=f"give {'the run' if runs_only else 'the run or the timm folder'} that it was exported from; "
            "mae-lite predict counts what an ONNX file recognises",
        )
    if (path / "export.json").exists() and not (path / "recipe.json").exists():
        forms = sorted(each.name for each in path.iterdir() if each.is_dir())
        one = f"give {shlex.quote(str(Path(source) / forms[0]))}" if forms else "export the run again"
        raise CheckpointError(
            f"{source!r} holds exports, each in its folder",
            found=", ".join(forms),
            expected="a run" if runs_only else "one of them",
            fix="give the run that they were exported from" if runs_only else one,
        )


def described(run: Path, what: str) -> tuple[dict[str, Any], config.Recipe]:
    """Return what ``recipe.json`` says of a run, and the recipe in it.

    Raises:
        CheckpointError: when it is not a run's, or cannot be used by this version.
    """
    refuse_exports(str(run), run, runs_only=True)
    record = rundir.read_json(run / "recipe.json", what)
    if not (isinstance(record.get("recipe"), dict) and {"classes", "data"} <= record.keys()):
        raise CheckpointError(
            f"{str(run)!r} is not a run folder: its recipe.json was not written by a run", fix=f"give {what}"
        )
    rundir.check_format(record, run)
    try:
        return record, build(config.Recipe, record["recipe"])
    except ConfigError as error:
        raise CheckpointError(
            f"the recipe of {str(run)!r} cannot be used here: {error.what}",
            found=error.found,
            expected=error.expected,
            fix="use the version of mae_lite that wrote it (its provenance.json says which)",
        ) from error


def newest(run: Path) -> tuple[int, dict[str, bytes]]:
    """Return step and files of a run's newest checkpoint; say aloud that the run is not finished.

    Raises:
        CheckpointError: when there is none.
    """
    status = rundir.read_json(run / "status.json", "a run folder") if (run / "status.json").exists() else {}
    state = state_of(status)
    found = checkpoint.newest(run)
    if found is None:
        fix = "wait for its first checkpoint" if state == "running" else "start it again with the same command"
        raise CheckpointError(f"{str(run)!r} has no checkpoint yet", found=f"a run that is {state}", fix=fix)
    if state not in ("unknown", "finished"):
        total = status.get("total_steps")
        _log.warning("%s is not finished (%s): these are its weights at step %d of %s", run, state, found[0], total)
    return found


def method_tensors(contents: dict[str, bytes]) -> dict[str, Tensor]:
    """Return the weights of a checkpoint by the method's names; the moving average where there is one."""
    if "ema.safetensors" not in contents:
        return weights.from_bytes(contents["model.safetensors"], "model.safetensors")
    averaged = weights.from_bytes(contents["ema.safetensors"], "ema.safetensors")
    return {name.removeprefix("module."): value for name, value in averaged.items() if name.startswith("module.")}


def _run(path: Path) -> Incoming:
    """Read a run's newest checkpoint, or the checkpoint folder that ``path`` is."""
    refuse_exports(str(path), path)
    run = path.parent.parent if (path / files.MANIFEST).exists() else path
    record, recipe = described(run, "a run folder, a checkpoint folder or a file with weights")
    if run != path:
        raw = method_tensors(checkpoint.read(path))
    else:
        step, contents = newest(run)
        _log.info("weights of %s, step %d", path, step)
        raw = method_tensors(contents)
    supervised = isinstance(recipe.method, config.Supervised)
    plain = recipe.encoder if isinstance(recipe.encoder, config.Encoder) else None
    return Incoming(
        layouts.Recognised("a run of mae_lite", raw, raw, (), ()),
        raw,
        heads=None if plain is None else plain.num_heads,
        decoder_heads=recipe.method.decoder_heads if isinstance(recipe.method, config.MAE) else None,
        eps=None if plain is None else 1e-6,
        mean=recipe.augmentation.mean,
        std=recipe.augmentation.std,
        crop=recipe.augmentation.eval_crop,
        pooling="avg" if supervised and "encoder.fc_norm.weight" in raw else "token",
        classes=_names(record["classes"]) if supervised else None,
        encoder=plain,
    )
