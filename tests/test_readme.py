"""What the README says to type works, with a tiny override."""

from __future__ import annotations

import io
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from mae_lite import cli, commands, config, demo_results, recipes
from mae_lite.data.batch import Batch, to_device
from mae_lite.data.images import decode
from mae_lite.data.sources import Example
from mae_lite.data.transforms import EvalTransform
from mae_lite.evaluation.load import load_run
from mae_lite.exporting.settings import PACKAGES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
TINY = {"encoder.depth": "1", "global-batch-size": "8", "stop-after-steps": "1", "workers": "0", "tensorboard": "false"}


DATA_PAGE = (ROOT / "docs" / "data.md").read_text()
WEIGHTS_PAGE = (ROOT / "docs" / "weights.md").read_text()
ANALYSIS_PAGE = (ROOT / "docs" / "analysis.md").read_text()
PROBES_PAGE = (ROOT / "docs" / "probes.md").read_text()
PREDICT_PAGE = (ROOT / "docs" / "predict.md").read_text()
EXPORT_PAGE = (ROOT / "docs" / "export.md").read_text()
METHODS_PAGE = (ROOT / "docs" / "methods.md").read_text()


def blocks(language: str, text: str = README) -> list[str]:
    """Return the code blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def with_override(line: str) -> list[str]:
    """Return the arguments of a documented command, its model and batch made tiny."""
    program, *words = shlex.split(line)
    assert program == "mae-lite"
    if words[0] == "analyze":
        words = [word if before != "--images" else "10" for before, word in zip(["", *words], words, strict=False)]
    if words[0] in ("export", "card"):
        words += ["--seconds", "0", "--memory", "false"]
    if words[0] == "layers":
        words[words.index("--global-batch-size") + 1] = "8"
        words += ["--encoder.depth", "1", "--encoder.image-size", "32", "--epochs", "1", "--warmup-epochs", "0"]
        words += ["--seeds", "0", "--workers", "0", "--tensorboard", "false"]
    if words[0] in ("pretrain", "finetune", "bench", "plan"):
        tiny = dict(TINY) | ({"seconds": "0"} if words[0] in ("bench", "plan") else {})
        if "cifar10" not in words[1]:
            tiny["encoder.image-size"] = "32"
        if "swin" in words[1]:
            del tiny["encoder.depth"]
            tiny["encoder.image-size"] = "64"
        if words[1] == "dino-tiny":
            tiny |= {"augmentation.local-size": "16", "augmentation.local-views": "1", "method.prototypes": "64"}
        for flag, value in tiny.items():
            if f"--{flag}" in words:
                words[words.index(f"--{flag}") + 1] = value
            else:
                words += [f"--{flag}", value]
    return words


def picture(seed: int) -> bytes:
    """Return a small random JPEG."""
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG")
    return buffer.getvalue()


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Provide the folders and files that the README's examples name, in an empty working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MAE_LITE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "photos").mkdir()
    for number in range(16):
        (tmp_path / "photos" / f"{number}.jpg").write_bytes(picture(number))
        for split in ("train", "test"):
            folder = tmp_path / "labelled" / split / ("cat" if number % 2 else "dog")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number}.jpg").write_bytes(picture(number + 100 * (split == "test")))
    for split in ("train", "test"):
        first = 100 if split == "test" else 0
        images = [{"bytes": picture(first + number), "path": None} for number in range(40)]
        table = pa.table({"image": images, "label": [number % 2 for number in range(40)]})
        pq.write_table(table, tmp_path / f"{split}.parquet")
    return tmp_path


@pytest.mark.slow
def test_documented_commands_run(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    assert len(lines) >= 9
    for line in lines:
        assert cli.main(with_override(line)) == 0, f"{line}\n{capsys.readouterr().err}"
    assert (workplace / "runs" / "photos-fine" / "eval").is_dir()


def test_commands_of_the_data_page_run(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line for block in blocks("bash", DATA_PAGE) for line in block.splitlines()]
    assert len(lines) >= 4
    for line in lines:
        assert cli.main(with_override(line)) == 0, f"{line}\n{capsys.readouterr().err}"
    assert (workplace / "runs" / "check-photos" / "preview.png").exists()


def test_commands_of_the_weights_page_run(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(ROOT / "tests" / "fixtures" / "mae_tiny_public_format.pth.tar", workplace / "checkpoint.pth")
    lines = [line for block in blocks("bash", WEIGHTS_PAGE) for line in block.splitlines()]
    assert {word for line in lines for word in line.split()} >= {"--heads", "timm", "huggingface", "--image-size"}
    for line in lines:
        assert cli.main(with_override(line)) == 0, f"{line}\n{capsys.readouterr().err}"
    assert (workplace / "runs" / "for-huggingface" / "model.safetensors").exists()


@pytest.mark.slow
def test_commands_of_the_analysis_page_run(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for recipe, data, out in (("mae-tiny", "photos", "photos"), ("scratch", "labelled", "photos-fine")):
        command = "pretrain" if recipe == "mae-tiny" else "finetune"
        line = f"mae-lite {command} {recipe} --data {data} --out runs/{out}"
        assert cli.main(with_override(line)) == 0, capsys.readouterr().err
    lines = [line for block in blocks("bash", ANALYSIS_PAGE) for line in block.splitlines()]
    assert len(lines) == 3
    for line in lines:
        assert cli.main(with_override(line)) == 0, f"{line}\n{capsys.readouterr().err}"
    shown = {path.name for out in ("analysis", "layers") for path in (workplace / "runs" / out).iterdir()}
    named = {
        name.replace("A", "photos").replace("B", "photos-fine")
        for name in re.findall(r"`([\w+-]+\.(?:svg|png|json))`", ANALYSIS_PAGE)
    }
    assert named <= shown


@pytest.mark.slow
def test_commands_of_the_probes_page_run(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for recipe, data, out in (("mae-tiny", "photos", "photos"), ("scratch", "labelled", "photos-fine")):
        command = "pretrain" if recipe == "mae-tiny" else "finetune"
        line = f"mae-lite {command} {recipe} --data {data} --out runs/{out}"
        assert cli.main(with_override(line)) == 0, capsys.readouterr().err
    lines = [line for block in blocks("bash", PROBES_PAGE) for line in block.splitlines()]
    assert len(lines) == 3
    for line in lines:
        words = with_override(line)
        assert cli.main(words) == 0, f"{line}\n{capsys.readouterr().err}"
    assert cli.main([*with_override(lines[0]), "--blocks", "--rates", "0.05"]) == 0
    shown = {path.name for path in (workplace / "runs" / "probe").iterdir()}
    assert set(re.findall(r"`([\w-]+\.(?:svg|json))`", PROBES_PAGE)) <= shown
    assert (workplace / "runs" / "probe-few" / "labels.csv").exists() and (
        workplace / "runs" / "photos.parquet"
    ).exists()
    (block,) = blocks("python", PROBES_PAGE)
    names: dict[str, Any] = {}
    exec(compile(block, "probes.md", "exec"), names)  # the page is ours
    assert len(names["features"]) == 1346


def test_the_predict_page_runs(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = "mae-lite finetune scratch --data labelled --out runs/photos-fine"
    assert cli.main([*with_override(line), "--epochs", "1", "--warmup-epochs", "0"]) == 0, capsys.readouterr().err
    lines = [line for block in blocks("bash", PREDICT_PAGE) for line in block.splitlines()]
    assert len(lines) == 5
    for line in lines:
        assert cli.main(with_override(line)) == 0, f"{line}\n{capsys.readouterr().err}"
    assert (workplace / "runs" / "photos.csv").read_text().startswith("image,class_1,probability_1,class_2,")
    assert len(json.loads((workplace / "runs" / "test.json").read_text())["images"]) == 16
    (block,) = blocks("python", PREDICT_PAGE)
    names: dict[str, Any] = {}
    exec(compile(block, "predict.md", "exec"), names)  # the page is ours
    assert names["name"] in ("cat", "dog") and names["tokens"].shape == (1, 5, 192)


@pytest.mark.slow
def test_commands_of_the_methods_page_run(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line for block in blocks("bash", METHODS_PAGE) for line in block.splitlines()]
    assert len(lines) >= 9
    for line in lines:
        words = with_override(line)
        if "--teacher" in words:
            words += ["--method.teacher-depth", "1"]
        assert cli.main(words) == 0, f"{line}\n{capsys.readouterr().err}"
    assert (workplace / "runs" / "relative" / "checkpoints").is_dir()


def test_commands_of_the_export_page_run(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime", "transformers"):
        pytest.importorskip(package, reason=f"{package} is not installed: the page needs it")
    small = "--encoder.depth 1 --encoder.image-size 32 --global-batch-size 8 --epochs 1 --warmup-epochs 0 --workers 0"
    for words in ("pretrain mae-tiny --data photos --out", "finetune scratch --data labelled --out"):
        run = "runs/photos" if "photos" in words else "runs/photos-fine"
        assert cli.main([*words.split(), run, *small.split(), "--tensorboard", "false"]) == 0, capsys.readouterr().err
    lines = [line for block in blocks("bash", EXPORT_PAGE) for line in block.splitlines()]
    assert set(PACKAGES) <= {word for line in lines for word in line.split()}
    for line in lines:
        assert cli.main(with_override(line)) == 0, f"{line}\n{capsys.readouterr().err}"
    assert all(f"| `{form}` |" in EXPORT_PAGE for form in PACKAGES)
    for folder in ("photos-fine/export", "model", "photos-fine/card"):
        assert (workplace / "runs" / folder / "card.html").exists(), folder
    (block,) = blocks("python", EXPORT_PAGE)
    names: dict[str, Any] = {}
    exec(compile(block, "export.md", "exec"), names)  # the page is ours
    own = load_run(workplace / "runs" / "photos-fine")
    transform = EvalTransform(own.recipe.augmentation, 32, 3)
    pixels = transform(decode(Example("1.jpg", Path("labelled/test/cat/1.jpg")), 3))
    batch = Batch(torch.from_numpy(pixels)[None], torch.zeros(1), torch.zeros(1))
    image = to_device(batch, "cpu", own.recipe.augmentation.mean, own.recipe.augmentation.std).images
    assert np.abs(names["batch"] - image.numpy()).max() < 1e-5
    with torch.no_grad():
        assert np.abs(names["logits"] - own.model(image).numpy()).max() < 1e-5


def test_methods_page_names_every_method() -> None:
    named = {recipes.get(name).method.kind for name in recipes.names() if f"`{name}`" in METHODS_PAGE}
    assert named == {kind.model_fields["kind"].default for kind in get_args(get_args(config.Method)[0])}


def test_documented_python_runs(workplace: Path) -> None:
    (block,) = blocks("python")
    names: dict[str, object] = {}
    exec(compile(block, "README.md", "exec"), names)  # the README is ours
    assert getattr(names["features"], "shape", None) == (1, 17, 96)
    assert (workplace / "runs" / "python" / "encoder" / "config.json").exists()


def test_documented_table_is_one_that_the_demo_prints() -> None:
    table = blocks("")[2]
    for name in (*demo_results.METHODS, *demo_results.BASELINES):
        assert re.search(rf"^{re.escape(name)}  .*\d\d\.\d  \(", table, flags=re.MULTILINE), name


def test_readme_is_short_and_names_every_command() -> None:
    assert README.count("\n") < 200
    assert all(f"mae-lite {name} " in README or name in ("demo", "recipes") for name in commands.COMMANDS)
