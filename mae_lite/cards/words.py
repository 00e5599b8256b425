"""Sentences of a card, of its numbers alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

NUMBERS = {
    "torch": "float32, in PyTorch",
    "timm": "float32, for timm",
    "timm-half": "stored in float16, computed in float32",
    "huggingface": "float32, for transformers",
    "torch-export": "float32, a torch.export program",
    "onnx": "float32, for ONNX runtimes",
    "onnx-int8": "8-bit integers, for ONNX runtimes",
}
"""What each form holds."""
_VECTORS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_bf16": "AVX-512 BF16",
    "amx_bf16": "AMX BF16",
    "asimd": "NEON",
    "asimdhp": "NEON float16",
    "asimddp": "NEON dot products of 8-bit numbers",
    "i8mm": "8-bit matrix products (I8MM)",
    "bf16": "BF16",
    "sve": "SVE",
    "avx512_vnni": "AVX-512 VNNI",
    "avx_vnni": "AVX VNNI",
    "avx_vnni_int8": "AVX VNNI INT8",
    "amx_int8": "AMX INT8",
}


def short(data: str) -> str:
    """Return what to call data in public: without the folders of somebody's machine."""
    kind, mark, rest = data.rpartition(":") if not Path(data).exists() else ("", "", data)
    return f"{kind}{mark}{Path(rest).name or rest}" if kind != "hf" else data


def percent(share: float) -> str:
    """Return a share as percent."""
    return f"{100 * share:.1f} %"


def interval(ends: Sequence[float]) -> str:
    """Return a 95 % interval of shares in percent."""
    return f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f} %"


def points(share: float, ends: Sequence[float]) -> str:
    """Return a drop in percentage points with its interval; what was lost is positive."""
    return f"{_points(share)} ({_points(ends[0])} to {_points(ends[1])})"


def gained(share: float, ends: Sequence[float]) -> str:
    """Return a drop the other way round, as is read more easily alone: what was lost is negative."""
    value, low, high = (f"{round(-100 * one, 2) + 0:+.2f}" for one in (share, ends[1], ends[0]))
    return f"{value} ({low} to {high})"


def _points(share: float) -> str:
    value = round(100 * share, 2)
    return f"{value:.2f}" if value >= 0 else f"-{-value:.2f}"


def megabytes(size: float) -> str:
    """Return bytes in megabytes."""
    return f"{size / 1e6:,.2f} MB"


def milliseconds(value: float) -> str:
    """Return milliseconds with three digits that count."""
    return f"{value:.3f} ms" if value < 1 else f"{value:.2f} ms" if value < 100 else f"{value:,.0f} ms"


def rate(value: float) -> str:
    """Return images per second, slow ones with two digits that count."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def images(record: Mapping[str, Any], data: str) -> str:
    """Return what was measured on, to stand behind "of"."""
    about = record["measured_on"]
    named = {"test": "test images", "val": "validation images", "train": "training images"}
    return f"{about['images']:,} {named.get(about['split'], 'images')} of {data}"


def headline(record: Mapping[str, Any], data: str) -> list[str]:
    """Return what matters most, in sentences."""
    found, forms = record["quality"], record["forms"]
    if found is None:
        said = [f"No accuracy was measured: {record['measured_on']['unmeasured']}."]
    else:
        said = [f"{percent(found['top1'])} of {images(record, data)} are recognised (95 % interval "
                f"{interval(found['top1_interval'])})."]  # fmt: skip
    fastest = min(forms, key=lambda form: form["latency"][0]["p50_ms"])
    one = fastest["latency"][0]
    said.append(
        f"The fastest form here, {fastest['form']}, answers one image in {milliseconds(one['p50_ms'])} on one thread "
        f"(95 % of the calls within {milliseconds(one['p95_ms'])})."
    )
    smallest = min(forms, key=lambda form: form["bytes"])
    lost = "" if smallest["drop"] is None or smallest["form"] == "torch" else (
        f"; its accuracy minus float32's is {gained(smallest['drop'], smallest['drop_interval'])} points"
    )  # fmt: skip
    said.append(f"The smallest form, {smallest['form']}, has {megabytes(smallest['bytes'])}{lost}.")
    return said


def processor(record: Mapping[str, Any]) -> list[str]:
    """Say what the processor is, what it can do with 8-bit numbers, and what that came to here."""
    machine = record["machine"]
    known = machine["processor"]
    names = [_VECTORS.get(name, name) for name in [*known["vectors"], *known["dot_products"]]]
    memory = "" if machine["memory_gb"] is None else f", {machine['memory_gb']:,.1f} GB of memory"
    said = [
        f"{known['model']} ({known['machine']}), {machine['cpus']} CPU{'' if machine['cpus'] == 1 else 's'}{memory}; "
        f"instructions: {', '.join(names) or 'unknown'}.",
        _eight_bits(known),
    ]
    forms = {form["form"]: form["latency"][0]["p50_ms"] for form in record["forms"]}
    if {"onnx", "onnx-int8"} <= set(forms):
        ratio = forms["onnx-int8"] / forms["onnx"]
        said.append(f"Measured here, onnx-int8 takes {ratio:.2f} times the time of onnx for one image on one thread.")
    load = machine["load"]
    if load is not None and load > 0.3 * machine["cpus"]:
        said.append(f"The machine was busy meanwhile (load {load:.1f} on {machine['cpus']} CPUs): alone it is faster.")
    return said


def _eight_bits(known: Mapping[str, Any]) -> str:
    dots = [_VECTORS.get(name, name) for name in known["dot_products"]]
    arm = [_VECTORS[name] for name in ("asimddp", "i8mm") if name in known["vectors"]]
    if dots or arm:
        return (
            f"This processor multiplies 8-bit numbers directly ({', '.join(dots or arm)}): onnx-int8 can be faster "
            "than float32; processors without such instructions gain size, hardly time."
        )
    if known["machine"].lower() in ("x86_64", "amd64", "i686"):
        return (
            "This processor has no VNNI: 8-bit weights are kept to 7 bits, and onnx-int8 gains size, hardly time. On a "
            "processor with VNNI or AMX it can be faster."
        )
    return "Whether this processor multiplies 8-bit numbers directly is unknown."


def inputs(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what an image has to become, by name."""
    channels, side = record["input"]["shape"][1], record["input"]["shape"][2]
    kind = {1: "grey", 3: "colour (RGB)"}.get(channels, f"{channels} channels")
    return [
        ("image", f"{side} x {side} px, {kind}"),
        ("resize", f"short side to {record['resize_short_side_px']} px ({record['interpolation']}), then the square of "
         f"{record['centre_crop_px']} px in its centre"),
        ("normalise", f"{record['normalise']}; mean {_listed(record['mean'])}, std {_listed(record['std'])}"),
        ("tensor", f"{record['input']['name']}: {record['input']['type']}, "
         f"{' x '.join(map(str, record['input']['shape']))} ({record['input']['layout']})"),
        ("output", "logits: a score for each class; a softmax makes probabilities of them"
         if record["output"] == "logits" else "tokens after the last norm"),
    ]  # fmt: skip


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _architecture(record: Mapping[str, Any]) -> str:
    name, sizes = record["architecture"] or "unknown", record.get("encoder")
    if sizes is None:
        return str(name)
    return (
        f"a plain Vision Transformer of {sizes['depth']} blocks, {sizes['width']} wide, with {sizes['heads']} heads, "
        f"on {sizes['image_px']} x {sizes['image_px']} px in patches of {sizes['patch_px']} x {sizes['patch_px']} "
        f"(timm: {name}, with these sizes)"
    )


def origins(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return where the model comes from, by name; what is not known is said to be so."""
    found = record["provenance"]
    own = [
        ("licence", record["licence"] or "not stated (--licence states it)"),
        ("architecture", f"{_architecture(record)}, {record['parameters'] / 1e6:,.2f} M parameters"),
        ("SHA-256 of the weights", record["weights_sha256"] or "unknown"),
    ]
    if found is None:
        return [*own, ("training", "unknown: this is a folder of weights, not a run")]
    labels = f", {found['labels_per_class']} labels per class" if found["labels_per_class"] else ""
    parent = found["pre_training"]
    start = "random weights" if not found["init"] else short(found["init"]) + (
        f" (recipe {parent['recipe']} on {short(str(parent['data']))})" if parent else " (its training is unknown)"
    )  # fmt: skip
    versions = found["trained_with"] or {}
    return [
        *own,
        ("recipe", f"{found['recipe']} ({found['method']}), {found['epochs']:g} epochs, seed {found['seed']}{labels}"),
        ("recipe's source", found["source"]),
        ("training data", f"{short(found['data'])}; fingerprint {_fingerprint(found['fingerprint'])}"),
        ("started from", start),
        *([("teacher", short(found["teacher"]))] if found["teacher"] else []),
        ("trained with", ", ".join(f"{name} {version}" for name, version in versions.items() if version) or "unknown"),
        ("trained", found["started"] or "unknown"),
    ]


def _fingerprint(found: Any) -> str:
    if not isinstance(found, dict):
        return "unknown"
    return ", ".join(f"{name} {value}" for name, value in found.items())
