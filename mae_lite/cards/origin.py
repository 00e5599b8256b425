"""What a model is and where it comes from, as far as it is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from timm.layers.patch_embed import PatchEmbed
from timm.models import VisionTransformer

from mae_lite import rundir, shipped
from mae_lite.cards.words import short
from mae_lite.exporting import subject
from mae_lite.exporting.subject import Subject


def about(model: Subject, licence: str | None) -> dict[str, Any]:
    """Return name, task, architecture, size and licence of a model."""
    named = model.folder.resolve().name if model.recipe is None else model.recipe.name
    title = named if model.data is None else f"{named} on {short(model.data)}"
    stated = model.settings.get("pretrained_cfg", {}).get("license")
    if model.source.startswith(shipped.PREFIX):
        stated = "apache-2.0"
    return {
        "title": title,
        "source": model.source,
        "task": "image-classification" if model.output == "logits" else "image-feature-extraction",
        "architecture": model.settings.get("architecture"),
        "encoder": _sizes(model.model),
        "method": None if model.recipe is None else model.recipe.method.kind,
        "parameters": sum(value.numel() for value in model.model.parameters()),
        "weights_sha256": subject.weights_digest(model.folder),
        "licence": licence or (str(stated) if stated else None),
    }


def _sizes(model: Any) -> dict[str, int] | None:
    """Return the sizes of a plain Vision Transformer; the name that timm builds it by is that of other sizes."""
    block: Any = model.blocks[0] if isinstance(model, VisionTransformer) and len(model.blocks) else None
    patches: Any = getattr(model, "patch_embed", None)
    if type(patches) is not PatchEmbed or not hasattr(block, "attn") or len({*patches.patch_size}) > 1:
        return None
    return {
        "width": model.embed_dim,
        "depth": len(model.blocks),
        "heads": int(block.attn.num_heads),
        "patch_px": int(patches.patch_size[0]),
        "image_px": int(patches.img_size[0]),
    }


def provenance(model: Subject) -> dict[str, Any] | None:
    """Return recipe, data, pre-training and versions of the run behind a model; None where there is no run."""
    if model.run is None or model.recipe is None:
        return None
    record = rundir.read_json(model.run / "recipe.json", "a run folder")
    start = rundir.last_start(model.run)
    parents = None
    if record.get("init") and (Path(str(record["init"])) / "recipe.json").exists():
        parent = rundir.read_json(Path(str(record["init"])) / "recipe.json", "a run folder")
        recipe = parent.get("recipe") or {}
        parents = {name: parent.get(name) for name in ("data", "fingerprint", "digest")}
        parents["recipe"] = recipe.get("name") if isinstance(recipe, dict) else None
    kept = ("data", "fingerprint", "init", "init_sha256", "teacher", "teacher_sha256")
    return {
        "recipe": model.recipe.name,
        "recipe_sha256": record.get("digest"),
        "method": model.recipe.method.kind,
        "source": model.recipe.note.source,
        "epochs": model.recipe.epochs,
        "labels_per_class": model.recipe.labels_per_class,
        "seed": model.recipe.seed,
        **{name: record.get(name) for name in kept},
        "pre_training": parents,
        "trained_with": start.get("versions"),
        "git": start.get("git"),
        "started": start.get("time"),
    }
