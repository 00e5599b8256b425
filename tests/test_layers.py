"""The shape of the package: imports point down, a few modules alone touch disk, tensors, images and HTML."""

from __future__ import annotations

import ast
import builtins
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mae_lite import errors

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "mae_lite"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}

# The law (DESIGN.md, Layers), lowest first. A line is a layer; what stands further left on it lies lower. A name
# covers its sub-modules, which may import each other.
LAYERS = (
    (
        ("mae_lite",),
        ("addresses",),
        ("errors",),
        ("config", "files", "draws", "terminal", "provenance"),
        ("overrides", "costs", "locks", "handover", "launch", "resuming"),
    ),  # L0
    (
        ("recipes", "rundir", "run_state", "shipped", "figures", "display", "loggers", "advice"),
        ("left_out", "studies"),
    ),  # L1
    (("data", "models", "measuring"),),
    (("methods",),),
    (("engine",),),
    (("evaluation",),),
    (
        ("inputs", "checking", "converting", "preparing", "predicting", "analysis", "processes"),
        ("loading", "probing", "frozen", "exporting", "memory", "ending"),
        ("training", "cards", "copies"),
        ("timing", "replaying", "pushing"),
    ),
    (("report",), ("demo_results", "studying"), ("demo", "layer_importance")),
    (
        ("cli_options", "compare_options", "export_options", "cli_words"),
        ("completion", "compare_commands", "model_commands"),
        ("commands",),
        ("cli",),
        ("__main__",),
    ),
)
PLACE = {
    name: (layer, row)
    for layer, rows in enumerate(LAYERS)
    for row, names_of_row in enumerate(rows)
    for name in names_of_row
}
METHODS_SEEN_BY = {"engine": "mae_lite.methods.base"}
TORCH = {"torch", "torchvision", "timm", "lightning_fabric", "safetensors"}


def part(module: str) -> str:
    """Return the name in the table that ``module`` belongs to."""
    return module.split(".")[1] if "." in module else module


def imported(tree: ast.Module, *, top_level: bool = False) -> Iterator[str]:
    """Yield the full names of imported modules, inside functions too unless ``top_level``."""
    inner = {child for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) for child in ast.walk(node)}
    for node in ast.walk(tree):
        if top_level and node in inner:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            base = node.module or ""
            for alias in node.names:
                yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base


def upward(module: str, tree: ast.Module) -> list[str]:
    """Return the imports of ``module`` that do not point down."""
    own, wrong = part(module), []
    for name in imported(tree):
        if name.split(".")[0] != "mae_lite" or part(name) == own:
            continue
        only = METHODS_SEEN_BY.get(own) if part(name) == "methods" else None
        if PLACE[part(name)] >= PLACE[own] or (only is not None and name != only):
            wrong.append(f"{module} imports {name}")
    return wrong


def test_every_module_has_a_layer() -> None:
    assert {part(module) for module in MODULES} == set(PLACE)


def test_imports_point_down() -> None:
    assert [fault for module, tree in TREES.items() for fault in upward(module, tree)] == []


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("mae_lite.files", "from mae_lite.rundir import RunDir"),
        ("mae_lite.files", "def f():\n    import mae_lite.training"),
        ("mae_lite.models.vit", "from mae_lite.data.loader import Batch"),
        ("mae_lite.data.loader", "from mae_lite.models import vit"),
        ("mae_lite.engine.loop", "from mae_lite.methods.mae import MaskedAutoencoder"),
        ("mae_lite.engine.loop", "from mae_lite import methods"),
        ("mae_lite.errors", "from mae_lite import config"),
        ("mae_lite.training", "from mae_lite import cli"),
        ("mae_lite.rundir", "if TYPE_CHECKING:\n    from mae_lite import display"),
    ],
)
def test_planted_upward_imports_are_found(module: str, code: str) -> None:
    assert len(upward(module, ast.parse(code))) == 1


def heavy(tree: ast.Module) -> list[str]:
    return [name for name in imported(tree, top_level=True) if name.split(".")[0] in TORCH]


def test_low_layers_load_without_torch() -> None:
    low = [
        module
        for module in MODULES
        if PLACE[part(module)][0] <= 1
        or part(module)
        in ("cli", "cli_options", "compare_options", "export_options", "cli_words", "completion", "report")
    ]
    assert {module: found for module in low if (found := heavy(TREES[module]))} == {}
    assert heavy(ast.parse("if True:\n    import torch.nn")) == ["torch.nn"]
    assert heavy(ast.parse("class A:\n    from timm import create_model")) == ["timm"]
    assert heavy(ast.parse("def f():\n    import torch")) == []


def test_the_command_line_starts_without_torch() -> None:
    code = (
        "import sys; from mae_lite.cli import main; assert main(['recipes']) == 0;"
        f"print('loaded', sorted({sorted(TORCH | {'numpy', 'sklearn', 'matplotlib'})!r} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert "mae-tiny" in done.stdout and done.stdout.splitlines()[-1] == "loaded []"


# Choke points. Functions are known by their origin through any import alias; a mere mention counts, so that
# `write = os.remove` does not slip through. Methods of objects are known by name.
WRITERS = (
    "os.remove os.rename os.renames os.replace os.makedirs os.mkdir os.unlink os.rmdir os.removedirs os.truncate "
    "os.link os.symlink os.open os.fdopen os.write os.pwrite os.ftruncate shutil. tempfile. io.open io.FileIO "
    "codecs.open torch.save numpy.save numpy.savez numpy.savez_compressed numpy.savetxt numpy.memmap "
    "safetensors.torch.save_file safetensors.numpy.save_file pyarrow.ipc.new_file pyarrow.OSFile "
    "pyarrow.parquet.write_table pyarrow.parquet.ParquetWriter zipfile.PyZipFile tarfile.open "
    "torch.utils.tensorboard. wandb. mlflow. torch.export.save onnx.save onnx.save_model onnxruntime.quantization."
)
WRITING_METHODS = (
    "write_text write_bytes unlink mkdir rmdir touch symlink_to hardlink_to chmod tofile to_csv to_parquet extractall"
)
FORBIDDEN = {
    "write": WRITERS,
    "load": "torch.load torch.jit.load torch.hub. safetensors.torch.load safetensors.torch.load_file "
    "safetensors.safe_open safetensors.deserialize torch.export.load onnx.load onnx.load_model pickle. cPickle. dill. "
    "joblib. numpy.load marshal. shelve. yaml. ruamel. hydra. omegaconf.",
    "image": "PIL.Image.open PIL.ImageFile. torchvision.io. torchvision.datasets. cv2. simplejpeg. imageio.",
    "html": "jinja2. markupsafe. html. xml.",
    "url": "urllib. requests. httpx. http. socket.create_connection aiohttp. ftplib. fsspec. huggingface_hub. "
    "wget. boto3.",
    "print": "builtins.print sys.stdout.write sys.stderr.write",
    "hidden": "builtins.eval builtins.exec builtins.__import__ builtins.compile importlib.import_module",
}
HOMES = {
    "write": {
        "mae_lite.files": "the writer",
        "mae_lite.loggers.event_files": "SummaryWriter streams its own event files",
        "mae_lite.loggers.weights_and_biases": "wandb streams its own files",
        "mae_lite.loggers.mlflow_runs": "mlflow writes its own database",
        "mae_lite.data.arrow_cache": "pyarrow writes inside files.published_file",
        "mae_lite.data.fetch": "downloads stream inside files.published_file",
        "mae_lite.data.shard_cache": "claims room with an empty file inside files.published_file",
        "mae_lite.locks": "makes the empty files that it locks",
        "mae_lite.handover": "memory that other processes read, no file",
        "mae_lite.frozen.embed": "pyarrow and numpy write inside files.published_file",
        "mae_lite.data.cache": "pyarrow writes inside files.published_file",
        "mae_lite.data.shard_index": "tarfile opens in mode 'r:' only",
        "mae_lite.cli": "os.open of /dev/null for a closed pipe",
        "mae_lite.exporting.torch_forms": "torch.export.save into memory",
        "mae_lite.exporting.int8_form": "onnxruntime quantises from file to file, in a scratch folder",
        "mae_lite.studying.running": "the log that a stage's process prints into",
    },
    "load": {
        "mae_lite.models.weights": "the guarded loader",
        "mae_lite.data.images": "numpy.load of an image whose header was checked, without pickle",
        "mae_lite.exporting.torch_forms": "opens the program that it has written, as its user will",
        "mae_lite.cards.fresh": "opens the program that was exported, as its user will",
        "mae_lite.exporting.onnx_form": "opens the network that it has written, to look into it",
        "mae_lite.exporting.int8_form": "opens what onnxruntime has written in a scratch folder",
        "mae_lite.handover": "pickle between a process and its children, as multiprocessing does",
    },
    "image": {
        "mae_lite.data.images": "the guarded decoder",
        "mae_lite.data.raster": "simplejpeg, for files whose size the guard has looked at",
        "mae_lite.data.torchvision_sets": "torchvision lists its sets, the guard opens their images",
    },
    "html": {
        "mae_lite.report.page": "the renderer, escaping on",
        "mae_lite.report.drawings": "lets through of a drawing what figures are made of",
        "mae_lite.studying.slurm": "a shell script, its words quoted by shlex",
    },
    "url": {
        "mae_lite.data.fetch": "the fetcher",
        "mae_lite.data.fetch_rules": "takes addresses apart; nothing is fetched",
        "mae_lite.pushing": "sends to the hub, by its own library; reads no file from it",
        "mae_lite.report.watch": "a server for this machine alone; nothing is fetched",
    },
    "print": {"mae_lite.terminal": "makes harmless what it prints"},
    "hidden": {"mae_lite": "public names on first use"},
    "raise": {
        "mae_lite": "AttributeError is what __getattr__ owes Python",
        "mae_lite.cli": "SystemExit carries the exit code",
        "mae_lite.cli_words": "SystemExit ends --help",
        "mae_lite.processes": "KeyboardInterrupt is what SIGTERM becomes there",
        "mae_lite.__main__": "SystemExit carries the exit code",
        "mae_lite.files": "BlockingIOError and OSError join the system's own, caught at once",
        "mae_lite.data.fetch": "EOFError joins those of the network libraries, caught at once",
        "mae_lite.data.images": "OSError joins those of the image libraries, caught at once",
        "mae_lite.data.tiff": "ValueError joins those of the image libraries, caught at once",
        "mae_lite.data.parquet": "IndexError for a row beyond the files: a bug, not a user's fault",
        "mae_lite.data.rand_augment": "ValueError joins timm's own, caught at once",
    },
}
ALLOWED_RAISES = {
    "mae_lite": {"AttributeError", "ImportError"},
    "mae_lite.cli": {"SystemExit"},
    "mae_lite.cli_words": {"SystemExit"},
    "mae_lite.processes": {"KeyboardInterrupt"},
    "mae_lite.__main__": {"SystemExit"},
    "mae_lite.files": {"BlockingIOError", "OSError"},
    "mae_lite.data.fetch": {"EOFError"},
    "mae_lite.data.images": {"OSError"},
    "mae_lite.data.tiff": {"ValueError"},
    "mae_lite.data.parquet": {"IndexError"},
    "mae_lite.data.rand_augment": {"ValueError"},
}
ERRORS = {
    name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, errors.MaeLiteError)
}


def makers_in(tree: ast.Module) -> set[str]:
    """Return the functions of a module that return one of our errors, to be raised."""
    return {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and isinstance(node.returns, ast.Name) and node.returns.id in ERRORS
    }


ERROR_MAKERS = {f"{module}.{name}" for module, tree in TREES.items() for name in makers_in(tree)}


def origins(tree: ast.Module) -> dict[str, str]:
    """Return what each imported name stands for."""
    found = {name: f"builtins.{name}" for name in vars(builtins)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found


def dotted(node: ast.AST, names: dict[str, str]) -> str:
    """Return the origin of ``a.b.c``, or "" for anything else."""
    if isinstance(node, ast.Name):
        return names.get(node.id, "")
    if isinstance(node, ast.Attribute):
        base = dotted(node.value, names)
        return f"{base}.{node.attr}" if base else ""
    if isinstance(node, ast.Call) and dotted(node.func, names) == "builtins.getattr" and len(node.args) > 1:
        base, wanted = dotted(node.args[0], names), node.args[1]
        known = isinstance(wanted, ast.Constant) and isinstance(wanted.value, str)
        return f"{base}.{ast.literal_eval(wanted) if known else '*'}" if base else ""
    return ""


def matches(origin: str, kind: str) -> bool:
    """Whether ``origin`` is forbidden; a pattern with a dot at its end covers a whole package."""
    listed = FORBIDDEN[kind].split()
    if origin.endswith(".*"):
        return any(item.startswith(origin[:-1]) for item in listed)
    return any(origin == item or (item.endswith(".") and f"{origin}.".startswith(item)) for item in listed)


def opens_for_writing(node: ast.Call, names: dict[str, str]) -> bool:
    """Whether a call of ``open`` or ``path.open`` may write; a mode that is not a plain string may."""
    function = isinstance(node.func, ast.Name) and dotted(node.func, names) == "builtins.open"
    method = isinstance(node.func, ast.Attribute) and node.func.attr == "open" and not dotted(node.func, names)
    if not function and not method:
        return False
    position = 1 if function else 0
    modes = [keyword.value for keyword in node.keywords if keyword.arg in ("mode", None)] + node.args[position:][:1]
    return any(not isinstance(mode, ast.Constant) or bool(set(str(mode.value)) & set("wax+")) for mode in modes)


def writes(node: ast.AST, names: dict[str, str]) -> bool:
    """Whether ``node`` writes, renames or deletes by a method of an object, or opens for it."""
    if isinstance(node, ast.Attribute) and node.attr in WRITING_METHODS.split():
        return not dotted(node, names).startswith("mae_lite.files.")
    if not isinstance(node, ast.Call):
        return False
    if isinstance(node.func, ast.Attribute) and node.func.attr in ("rename", "replace", "open"):
        if dotted(node.func, names).startswith("mae_lite.files."):
            return False
        if node.func.attr != "open":  # str.replace takes two arguments, Path.replace one
            return len(node.args) + len(node.keywords) == 1 and not dotted(node.func, names)
    return opens_for_writing(node, names)


def bypasses(module: str, tree: ast.Module) -> list[str]:
    """Return every use of a choke point outside of its home."""
    names = origins(tree)
    found = []
    for node in ast.walk(tree):
        origin = dotted(node, names)
        if isinstance(node, ast.Import | ast.ImportFrom):
            base = getattr(node, "module", None)
            used = [f"{base}.{alias.name}" if base else alias.name for alias in node.names]
        else:
            used = [origin] if origin else []
        kinds = {kind for kind in FORBIDDEN for name in used if matches(name, kind)}
        if writes(node, names):
            kinds.add("write")
        found += [f"{module}:{getattr(node, 'lineno', 0)} {kind}" for kind in kinds if module not in HOMES[kind]]
    return found + foreign_errors(module, tree)


def foreign_errors(module: str, tree: ast.Module) -> list[str]:
    """Return every raise of a class that is not from errors.py; functions may return the error to raise."""
    names = origins(tree)
    makers = makers_in(tree)
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Raise) or node.exc is None:
            continue
        raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        origin = dotted(raised, names)
        ours = origin.removeprefix("mae_lite.errors.") in ERRORS
        local = isinstance(raised, ast.Name) and raised.id in makers
        maker = isinstance(node.exc, ast.Call) and (local or origin in ERROR_MAKERS)
        caught = isinstance(node.exc, ast.Name) and not origin and raised_before(node.exc.id, tree)
        allowed = origin.removeprefix("builtins.") in ALLOWED_RAISES.get(module, set())
        if not (ours or maker or caught or allowed):
            found.append(f"{module}:{node.lineno} raise")
    return found


def raised_before(name: str, tree: ast.Module) -> bool:
    """Whether ``name`` holds an error that was caught, or one that an isinstance or an annotation says is ours."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.name == name:
            return True
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == name:
            return any(isinstance(child, ast.Name) and child.id in ERRORS for child in ast.walk(node.annotation))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
            checked, kind = node.args
            if isinstance(checked, ast.Name) and checked.id == name and isinstance(kind, ast.Name):
                return kind.id in ERRORS
    return False


def test_choke_points_are_not_bypassed() -> None:
    assert [found for module, tree in TREES.items() for found in bypasses(module, tree)] == []


def test_no_exception_is_listed_in_vain() -> None:
    """An exception that nothing needs any more would hide the next bypass."""
    for kind, homes in HOMES.items():
        for module in list(homes):
            tree = TREES[module]
            listed = HOMES[kind].pop(module)
            allowed = ALLOWED_RAISES.pop(module, None) if kind == "raise" else None
            try:
                assert any(found.endswith(f" {kind}") for found in bypasses(module, tree)), (kind, module)
            finally:
                HOMES[kind][module] = listed
                if allowed is not None:
                    ALLOWED_RAISES[module] = allowed


BYPASSES = {
    "print": [
        "print('x')",
        "print(f'{name}')",
        "run(tell=print)",
        "import builtins\nbuiltins.print('x')",
        "import sys\nsys.stdout.write('x')",
        "from sys import stderr\nstderr.write('x')",
    ],
    "write": [
        "open('x', 'w')",
        "open('x', mode='ab')",
        "open('x', mode)",
        "open('x', **options)",
        "path.open('xb')",
        "path.open(mode='r+')",
        "(folder / 'x').write_text('y')",
        "path.write_bytes(b'')",
        "path.unlink(missing_ok=True)",
        "path.rename(other)",
        "path.replace(other)",
        "path.replace(target=other)",
        "path.mkdir(parents=True)",
        "path.rmdir()",
        "path.touch()",
        "write = path.write_text",
        "import os\nos.remove('x')",
        "import os as o\no.replace('a', 'b')",
        "from os import makedirs as m\nm('x')",
        "import os\nf = os.unlink",
        "import os\ngetattr(os, 'mkdir')('x')",
        "import os\ngetattr(os, name)('x')",
        "import os\nos.open('x', 1)",
        "import shutil\nshutil.rmtree('x')",
        "from shutil import move",
        "from shutil import *",
        "import tempfile",
        "import io\nio.open('x', 'w')",
        "import torch\ntorch.save({}, 'x')",
        "import numpy as np\nnp.save('x', 1)",
        "from safetensors.torch import save_file",
        "import pyarrow as pa\npa.ipc.new_file('x', schema)",
        "from torch.utils.tensorboard import SummaryWriter",
        "def f():\n    import wandb",
        "from mlflow import MlflowClient",
        "import torch\ntorch.export.save(program, 'x')",
        "import onnx\nonnx.save(model, 'x')",
        "from onnxruntime import quantization",
    ],
    "load": [
        "import torch\ntorch.load('x')",
        "from torch import load as read",
        "import torch as t\nread = t.load",
        "import safetensors.torch\nsafetensors.torch.load_file('x')",
        "from safetensors import safe_open",
        "import pickle",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "def f():\n    from torch.hub import load_state_dict_from_url",
        "import torch\ntorch.export.load('x')",
        "from onnx import load",
        "import yaml",
        "from yaml import safe_load",
        "def f():\n    from omegaconf import OmegaConf",
    ],
    "image": [
        "from PIL import Image\nImage.open('x')",
        "import PIL.Image\nPIL.Image.open('x')",
        "import PIL.Image as I\nI.open('x')",
        "from PIL.Image import open as read",
        "from PIL import ImageFile",
        "from torchvision.io import read_image",
    ],
    "html": ["import jinja2", "from markupsafe import Markup", "import html"],
    "url": [
        "import urllib.request",
        "from urllib.parse import urlparse",
        "import requests as r",
        "def f():\n    import httpx",
        "import http.client",
    ],
    "hidden": ["eval('1')", "exec(text)", "__import__('os')", "import importlib\nimportlib.import_module('os')"],
    "raise": [
        "raise ValueError('x')",
        "raise RuntimeError",
        "raise AssertionError",
        "import argparse\nraise argparse.ArgumentError(None, 'x')",
        "raise make()",
        "error = ValueError('x')\nraise error",
        "class Mine(Exception): ...\nraise Mine('x')",
        "raise SystemExit(1)",
    ],
}


@pytest.mark.parametrize(("kind", "code"), [(kind, code) for kind, codes in BYPASSES.items() for code in codes])
def test_planted_bypasses_are_found(kind: str, code: str) -> None:
    assert {found.split()[-1] for found in bypasses("mae_lite.planted", ast.parse(code))} == {kind}


@pytest.mark.parametrize(
    "code",
    [
        "open('x')",
        "path.open('rb')",
        "name.replace('_', '-')",
        "from dataclasses import replace\nreplace(batch, images=images)",
        "from mae_lite import files\nfiles.write_text(path, 'x')\nfiles.write_bytes(path, b'')",
        "from mae_lite import files as disk\ndisk.disk.rename(a, b)",
        "names.remove('x')",
        "from PIL import Image\nImage.fromarray(pixels)",
        "from mae_lite.errors import DataError\nraise DataError('x', fix='y')",
        "from mae_lite.errors import DataError\ndef make() -> DataError: ...\nraise make() from None",
        "try: ...\nexcept OSError as error:\n    raise error",
        "try: ...\nexcept OSError:\n    raise",
        "import os\nos.fsync(1)",
    ],
)
def test_honest_code_is_left_alone(code: str) -> None:
    assert bypasses("mae_lite.planted", ast.parse(code)) == []


def long_functions(tree: ast.Module, limit: int = 50) -> list[tuple[str, int]]:
    found = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    sizes = [(node.name, (node.end_lineno or 0) - node.lineno + 1) for node in found]
    return [(name, size) for name, size in sizes if size > limit]


def test_functions_and_files_are_short() -> None:
    assert {module: found for module, tree in TREES.items() if (found := long_functions(tree))} == {}
    lengths = {module: len(path.read_text().splitlines()) for module, path in MODULES.items()}
    assert {m: n for m, n in lengths.items() if n > 300 and m != "mae_lite.config"} == {}
    assert long_functions(ast.parse("def f():\n" + "    x = 1\n" * 50)) == [("f", 51)]


def test_no_module_is_a_drawer() -> None:
    assert {name.split(".")[-1] for name in MODULES} & {"utils", "helpers", "misc", "common", "util", "helper"} == set()
