"""What every benchmark of the queue shares: its options, the facts of the machine, and the JSON that it leaves.

    python benchmarks/gpu_record.py NAME [--device cuda] [--out FOLDER]

exits with 0 when NAME has been measured on this device with these sources, else with 1; the queue asks.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
SKIPPED = 77
"""Exit code of a benchmark that had nothing to do here, and has said why."""


class StoppedEarlyError(Exception):
    """A signal came to a run; it can be continued."""


def options_of(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks of the queue take."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes of a dry run: the numbers mean nothing")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON")
    parser.add_argument("--date", help="date of the measurement, where the machine's clock is not to be trusted")
    return parser


def device_of(options: argparse.Namespace) -> torch.device:
    """Return the device asked for; leave with an explanation when PyTorch does not see it."""
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"PyTorch {torch.__version__} sees no CUDA device; for a dry run: --device cpu --tiny")
    return torch.device(options.device)


def pack() -> Path:
    """Return the folder of photographs and CIFAR-10 that make_pack.py fills."""
    return Path(os.environ.get("DATA", ROOT / "data-pack"))


def cifar10() -> Path | None:
    """Return the folder of CIFAR-10's parquet files; None, with the reason printed, where it is not whole."""
    data = pack() / "cifar10"
    missing = [name for name in ("train.parquet", "test.parquet") if not (data / name).is_file()]
    if missing:
        print(f"skipped: no {' and no '.join(missing)} in {str(data)!r}; DATA gives another place")
        return None
    return data


def device_name(device: torch.device) -> str:
    """Return the name that results are filed under."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {platform.machine()}"


def cores() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def sources_digest() -> str:
    """Return a digest of the package and of the queue's scripts: what a result depends on, with or without git."""
    digest = hashlib.sha256()
    shared = (ROOT / "benchmarks" / name for name in ("own_step.py", "peers.py"))
    for path in sorted([*(ROOT / "mae_lite").rglob("*.py"), *(ROOT / "benchmarks").glob("gpu_*.py"), *shared]):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def write(options: argparse.Namespace, name: str, argv: Sequence[str], results: Any, passed: bool = True) -> Path:
    """Write ``gpu_NAME.json``: the results, and all that is needed to repeat them. What did not pass is not done."""
    device = torch.device(options.device)
    facts = {
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *argv]),
        "date": options.date or datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": device_name(device),
        "device_memory_gb": _memory_gb(device),
        "driver": _driver() if device.type == "cuda" else None,
        "cpu_cores": cores(),
        "software": f"Python {platform.python_version()}, torch {torch.__version__}, CUDA {torch.version.cuda}",
        "commit": os.environ.get("COMMIT") or _output("git", "-C", str(ROOT), "rev-parse", "HEAD"),
        "sources": sources_digest(),
        "tiny": options.tiny,
        "passed": passed,
        "results": results,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    path: Path = options.out / f"gpu_{name}.json"
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(facts, indent=2) + "\n")
    partial.replace(path)
    print(f"written: {path}")
    return path


def done(options: argparse.Namespace, name: str) -> bool:
    """Say whether ``name`` has been measured on this device, with these sources and at this size.

    The JSON may lie in ``--out``, or where the repository keeps results.
    """
    paths = [folder / f"gpu_{name}.json" for folder in (options.out, RESULTS)]
    found = [json.loads(path.read_text()) for path in paths if path.is_file()]
    here = {
        "device": device_name(torch.device(options.device)),
        "sources": sources_digest(),
        "tiny": options.tiny,
        "passed": True,
    }
    return any({key: facts.get(key) for key in here} == here for facts in found)


def _memory_gb(device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    return round(torch.cuda.get_device_properties(device).total_memory / 1e9, 1)


def _driver() -> str | None:
    return _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")


def _output(*command: str) -> str | None:
    """Return the first line that a program prints; None where there is no such program, or it fails."""
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = answer.stdout.strip().splitlines()
    return lines[0] if lines else None


def main(argv: Sequence[str] | None = None) -> int:
    """Answer the queue's question."""
    parser = options_of(__doc__)
    parser.add_argument("name")
    options = parser.parse_args(argv)
    device_of(options)
    return 0 if done(options, options.name) else 1


if __name__ == "__main__":
    raise SystemExit(main())
