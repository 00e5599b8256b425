"""The machine that an export was made and timed on, and what its processor means for 8-bit numbers."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path
from typing import Any

CPUINFO = Path("/proc/cpuinfo")
_LIBRARIES = ("mae_lite", "torch", "timm", "transformers", "onnx", "onnxscript", "onnxruntime", "safetensors", "numpy")
_DOT_PRODUCTS = ("avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8")
_VECTORS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve")
_X86 = ("x86_64", "amd64", "i686")


def processor() -> dict[str, Any]:
    """Return the processor's name, its instructions for vectors, and those for 8-bit numbers without overflow."""
    fields = _cpuinfo()
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    return {
        "machine": platform.machine(),
        "model": fields.get("model name", platform.processor() or "unknown"),
        "vectors": [name for name in _VECTORS if name in flags],
        "dot_products": sorted(flags & set(_DOT_PRODUCTS)),
    }


def _cpuinfo() -> dict[str, str]:
    """Return what Linux says of the first processor; nothing elsewhere."""
    try:
        text = CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}


def reduced_range() -> tuple[bool, str]:
    """Say whether 8-bit weights have to make do with 7 bits here, and why.

    x86 without VNNI adds two products of 8-bit numbers in 16 bits, which overflow silently (onnxruntime's document
    "Quantize ONNX Models").
    """
    known = processor()
    if known["machine"].lower() not in _X86:
        return False, f"weights of 8 bits: {known['machine']} adds their products in 32 bits"
    if known["dot_products"]:
        return False, f"weights of 8 bits: this processor has {', '.join(known['dot_products'])}"
    return True, "weights of 7 bits: this processor has no VNNI, and would overflow with 8"


def versions() -> dict[str, str]:
    """Return the versions of the libraries that are installed, and of Python."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
