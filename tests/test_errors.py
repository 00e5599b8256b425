"""The error contract: every bad input gives one message that says what, found, expected and what to do."""

from __future__ import annotations

import errno
import json
import os
import pickle
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mae_lite import cli, commands, config, errors, files, rundir
from mae_lite.methods.mae import MaskedAutoencoder
from mae_lite.models import weights
from tests import toy
from tests.faulty_disk import FaultyDisk
from tests.figures_of import tally

ROOT = Path(__file__).parent.parent
Captured = pytest.CaptureFixture[str]
CONFIG, DATA, CHECKPOINT, DISK, NUMERICS = 2, 3, 4, 5, 6


def assert_contract(
    captured_stderr: str, exit_code: int, expected_code: int, *, mentions: Sequence[str | Path] = ()
) -> str:
    """Check the error contract and return the message.

    Warnings may come before the message, a line each; the message is the last thing said.
    """
    assert "Traceback" not in captured_stderr, captured_stderr
    assert exit_code == expected_code, captured_stderr
    lines = captured_stderr.splitlines()
    assert sum(line.startswith("error: ") for line in lines) == 1, captured_stderr
    assert sum(line.startswith("Fix:") for line in lines) == 1, captured_stderr
    message = captured_stderr[captured_stderr.index("error: ") :].rstrip("\n")
    what, fix = message.splitlines()  # one line of what is wrong, one of what to do
    assert fix.startswith("Fix: ") and len(fix) > len("Fix: ") + 5
    assert "http" not in message and "pydantic" not in message and "<class" not in message
    assert [str(mention) for mention in mentions if str(mention) not in message] == [], message
    assert len(what) > 15
    tally("bad inputs")
    return message


def run(*words: str | Path) -> int:
    try:
        return cli.main([str(word) for word in words])
    except SystemExit as end:  # only --help and the like
        assert end.code == 0
        return 0


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder, with a disk of its own that need not flush."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(files, "disk", files.Disk())
    monkeypatch.setattr(os, "fsync", lambda _: None)


QUIET = [f"{word}" for word in ("--tensorboard no --progress no --workers 0 --accelerator cpu").split()]
QUIET += ["--log-every-steps", "2", "--save-every-steps", "2"]


def write_recipe(recipe: config.Recipe) -> str:
    path = Path(f"{recipe.name}.json")
    path.write_text(recipe.model_dump_json())
    return str(path)


def pretrain(*words: str | Path, out: str | Path = "run") -> int:
    """Run the toy recipe by its file; a word given again replaces the default."""
    data = [] if "--data" in words else ["--data", "digits"]
    quiet = QUIET if "--accelerator" not in words else []
    return run("pretrain", write_recipe(toy.mae()), *data, "--out", out, *quiet, *words)


def finetune(*words: str | Path, out: str | Path = "fine", **changes: Any) -> int:
    data = [] if "--data" in words else ["--data", "digits"]
    return run("finetune", write_recipe(toy.classifier(**changes)), *data, "--out", out, *QUIET, *words)


def status(folder: str = "run") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((Path(folder) / "status.json").read_text())
    return content


def failed_with(message: str, folder: str = "run") -> bool:
    """Whether ``status.json`` says the same as the terminal did."""
    return status(folder)["state"] == "failed" and f"error: {status(folder)['message']}" == message


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished toy pre-training, for reading only."""
    from mae_lite import training

    folder = tmp_path_factory.mktemp("shared") / "trained"
    training.run(toy.mae(), toy.runtime(folder))
    return folder


# Words alone


WORDS: list[tuple[list[str], int, list[str]]] = [
    (["pretran"], CONFIG, ["'pretran'", "nearest: 'pretrain'"]),
    (["--loud"], CONFIG, ["'--loud'"]),
    (["pretrain"], CONFIG, ["recipe is missing", "mae-lite pretrain mae-tiny"]),
    (["finetune", "--data", "digits"], CONFIG, ["recipe is missing"]),
    (["evaluate"], CONFIG, ["run folder is missing"]),
    (["convert"], CONFIG, ["checkpoint is missing", "mae-lite convert checkpoint.pth converted"]),
    (["convert", "w.pth"], CONFIG, ["folder to write is missing", "mae-lite convert checkpoint.pth converted"]),
    (["convert", "w.pth", "out"], CHECKPOINT, ["'w.pth'", "does not exist"]),
    (["convert", "w.pth", "out", "--to", "onnx"], CONFIG, ["to: ", "'onnx'", "'timm' or 'huggingface'"]),
    (["convert", "w.pth", "out", "--heads", "0"], CONFIG, ["heads", "'0'", "greater than or equal to 1"]),
    (["recipes", "more"], CONFIG, ["'more'"]),
    (["recipes", "--jsn-output"], CONFIG, ["nearest: 'json-output'"]),
    (["demo", "--processes", "0"], CONFIG, ["processes", "'0'", "greater than or equal to 1"]),
    (["pretrain", "digits-mea"], CONFIG, ["'digits-mea'", "nearest: 'digits-mae'", "mae-lite recipes lists all"]),
    (["pretrain", "absent.json"], CONFIG, ["'absent.json'", "No such file"]),
    (["pretrain", "digits-finetune", "--data", "digits"], CONFIG, ["Fix: mae-lite finetune digits-finetune"]),
    (["finetune", "digits-mae", "--data", "digits"], CONFIG, ["Fix: mae-lite pretrain digits-mae"]),
    (["pretrain", "digits-mae"], CONFIG, ["data is missing"]),
    (["pretrain", "digits-mae", "--data"], CONFIG, ["--data", "found no value"]),
    (["pretrain", "digits-mae", "--dta", "digits"], CONFIG, ["--dta", "nearest: 'data'"]),
    (["pretrain", "digits-mae", "--data", "nowhere"], DATA, ["'nowhere'", "does not exist", "--data digits"]),
    (["pretrain", "digits-mae", "--data", "digit"], DATA, ["'digit'", "nearest: 'digits'"]),
    (["pretrain", "digits-mae", "--data", "folder:nowhere"], DATA, ["nowhere"]),
    (["pretrain", "digits-mae", "--data", "fodler:here"], CONFIG, ["fodler", "nearest: 'folder'"]),
    (["pretrain", "digits-mae", "--data", ""], DATA, ["no images in '.'"]),
    (["evaluate", "runs/nothing"], CHECKPOINT, ["'runs/nothing'", "is not a run folder"]),
    (["evaluate", "."], CHECKPOINT, ["'.'", "is not a run folder"]),
    (["evaluate", "run", "--batch-size", "0"], CONFIG, ["batch_size", "'0'"]),
    (["evaluate", "run", "--workers", "-1"], CONFIG, ["workers", "'-1'"]),
    (["evaluate", "run", "--split", "all"], CONFIG, ["split", "'all'", "'val' or 'test'"]),
]


@pytest.mark.parametrize(("words", "code", "mentions"), WORDS, ids=[" ".join(words) for words, _, _ in WORDS])
def test_words(words: list[str], code: int, mentions: list[str], capsys: Captured) -> None:
    assert_contract(*reversed_outcome(run(*words), capsys), code, mentions=mentions)
    assert list(Path().iterdir()) == [], "nothing may be left behind"


def reversed_outcome(code: int, capsys: Captured) -> tuple[str, int]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err, code


SETTINGS: list[tuple[list[str], list[str]]] = [
    (["--encoder.image-size", "30", "--encoder.patch-size", "4"], ["encoder.image_size", "30", "28 (or 32)"]),
    (["--encoder.patch-size", "16"], ["encoder.image_size", "found 8", "encoder.patch_size 16"]),
    (["--encoder.patch-size", "8"], ["method.mask_ratio", "more than one patch"]),
    (["--encoder.width", "18"], ["encoder.width", "18", "multiple", "--encoder.width 20"]),
    (["--encoder.num-heads", "3"], ["encoder.width", "multiple of encoder.num_heads 3"]),
    (["--encoder.depth", "0"], ["encoder.depth", "'0'", "greater than or equal to 1"]),
    (["--encoder.depth", "deep"], ["encoder.depth", "'deep'", "valid integer"]),
    (["--encoder.name", "vit_tiny_patch16_225"], ["encoder.name", "vit_tiny_patch16_224"]),
    (["--encoder.channels", "3"], ["augmentation.mean", "1 values", "encoder.channels 3"]),
    (["--encoder.channels", "2"], ["augmentation.mean", "found 1 values", "encoder.channels 2"]),
    (["--encoder.drop-path", "1"], ["encoder.drop_path", "'1'", "less than 1"]),
    (["--encoder.drop-path", "nan"], ["encoder.drop_path", "finite"]),
    (["--method.mask-ratio", "0"], ["method.mask_ratio", "found 0", "0.25 to 0.75"]),
    (["--method.mask-ratio", "1"], ["method.mask_ratio", "found 1", "0.25 to 0.75"]),
    (["--method.mask-ratio", "-1"], ["method.mask_ratio", "found -1", "0.25 to 0.75"]),
    (["--method.mask-ratio", "nan"], ["method.mask_ratio", "nan", "finite"]),
    (["--method.mask-ratio", "inf"], ["method.mask_ratio", "inf", "finite"]),
    (["--method.mask-ratio", "0.999"], ["method.mask_ratio", "found 0.999", "0.25 to 0.75"]),
    (["--method.mask-ratio", "1e-9"], ["method.mask_ratio", "found 1e-09", "0.25 to 0.75"]),
    (["--method.mixup", "0.2"], ["method.mixup"]),
    (["--method.decoder-width", "10"], ["method.decoder_width", "10"]),
    (["--augmentation.crop-scale", "0.9", "0.1"], ["augmentation.crop_scale", "(0.9, 0.1)", "low <= high"]),
    (["--augmentation.crop-scale", "0.1", "2"], ["augmentation.crop_scale", "at most 1"]),
    (["--augmentation.crop-scale", "nan", "nan"], ["augmentation.crop_scale", "finite"]),
    (["--augmentation.zoom", "1", "inf"], ["augmentation.zoom", "finite"]),
    (["--augmentation.std", "0"], ["augmentation.std", "above 0"]),
    (["--augmentation.flip", "1.5"], ["augmentation.flip", "'1.5'"]),
    (["--augmentation.randaugment", "rand-m9-mstd0.5"], ["augmentation.randaugment", "3 channels"]),
    (["--optimizer.betas", "0.9", "1"], ["optimizer.betas", "(0.9, 1.0)"]),
    (["--optimizer.betas", "0.9", "nan"], ["optimizer.betas", "finite"]),
    (["--optimizer.eps", "0"], ["optimizer.eps", "greater than 0"]),
    (["--optimizer.kind", "sdg"], ["optimizer", "sdg"]),
    (["--global-batch-size", "0"], ["global_batch_size", "'0'"]),
    (
        ["--global-batch-size", "1347"],
        ["global_batch_size", "1347", "1346 training images", "--global-batch-size 1346"],
    ),
    (["--micro-batch-size", "3"], ["micro_batch_size", "3", "1, 2, 4, 8, 16"]),
    (["--micro-batch-size", "32"], ["micro_batch_size", "32", "Fix: --micro-batch-size 16"]),
    (["--epochs", "0"], ["epochs", "'0'"]),
    (["--epochs", "nan"], ["epochs", "finite"]),
    (["--precision", "fp16"], ["precision", "'fp16'", "'bf16' or 'fp32'"]),
    (["--on-nan", "ignore"], ["on_nan", "'ignore'", "'stop' or 'rollback'"]),
    (["--epochs", "inf"], ["epochs", "finite"]),
    (["--warmup-epochs", "1000"], ["warmup_epochs", "1000", "at most epochs"]),
    (["--lr-per-256", "0"], ["lr_per_256", "'0'"]),
    (["--lr-per-256", "inf"], ["lr_per_256", "finite"]),
    (["--ema-decay", "1"], ["ema_decay", "'1'"]),
    (["--seed", "-1"], ["seed", "'-1'"]),
    (["--seed", str(2**63)], ["seed"]),
    (["--devices", "0"], ["devices", "'0'"]),
    (["--accelerator", "tpu"], ["accelerator", "'tpu'"]),
    (["--name", "../../x"], ["name", "'../../x'"]),
    (["--validate-every-epochs", "nan"], ["validate_every_epochs", "finite"]),
    (["--probe-every-epochs", "0"], ["probe_every_epochs", "'0'"]),
    (["--probe-images", "-1"], ["probe_images", "'-1'"]),
    (["--precision", "fp16", "--encoder.dept", "3"], ["--encoder.dept"]),
]


@pytest.mark.parametrize(("words", "mentions"), SETTINGS, ids=[" ".join(words) for words, _ in SETTINGS])
def test_settings(words: list[str], mentions: list[str], capsys: Captured) -> None:
    code = pretrain(*words)
    assert_contract(*reversed_outcome(code, capsys), CONFIG, mentions=mentions)
    assert not Path("run/checkpoints/step_2").exists()


@pytest.mark.parametrize(
    ("content", "mentions"),
    [
        ("", ["not a readable recipe file"]),
        ("\x00\x01", ["not a readable recipe file"]),
        ("[]", ["name is missing"]),
        ("{}", ["name is missing", "method is missing"]),
        ('{"recipe": {"name": "x"}}', ["method is missing"]),
        ('{"name": "x", "colour": 1}', ["unknown field 'colour'"]),
        ("null", ["name is missing"]),
        ('{"recipe": []}', ["name is missing"]),
        ('{"name": "x", "encoder": 5, "method": [], "optimizer": null}', ["encoder: found 5", "method", "optimizer"]),
        ('{"name": "x", "method": {"kind": ["mae"]}}', ["method"]),
    ],
)
def test_recipe_files(content: str, mentions: list[str], capsys: Captured) -> None:
    Path("r.json").write_text(content)
    assert_contract(*reversed_outcome(run("pretrain", "r.json", "--data", "digits"), capsys), CONFIG, mentions=mentions)


# Data


def grey_images(folder: str, count: int = 4) -> str:
    Path(folder).mkdir(parents=True)
    for index in range(count):
        Image.fromarray(np.full((8, 8), 10 * index, dtype=np.uint8)).save(f"{folder}/{index}.png")
    return folder


def no_images() -> str:
    Path("set/deep").mkdir(parents=True)
    Path("set/deep/notes.txt").write_text("x")
    return "set"


def empty_class() -> str:
    grey_images("set/cat")
    Path("set/dog").mkdir()
    return "set"


def broken_image() -> str:
    grey_images("set", 16)
    for path in Path("set").iterdir():
        path.write_bytes(path.read_bytes()[:45])
    return "set"


def five_channels() -> str:
    Path("set").mkdir()
    for number in range(16):
        np.save(f"set/{number}.npy", np.zeros((8, 8, 5), np.uint8))
    return "set"


def not_parquet() -> str:
    Path("x.parquet").write_text("hello")
    return "x.parquet"


@pytest.mark.parametrize(
    ("make", "mentions"),
    [
        (no_images, ["no images in 'set'", "1 x .txt", "expected PATH/CLASS/image.jpg"]),
        (empty_class, ["dog"]),
        (broken_image, ["set/", ".png", "cannot be read", "bad ones drawn in a row"]),
        (five_channels, ["set/", ".npy", "another number of channels", "Fix: --encoder.channels 5"]),
        (not_parquet, ["x.parquet", "complete parquet file"]),
    ],
)
@pytest.mark.usefixtures("arrow_cache")
def test_data(make: Callable[[], str], mentions: list[str], capsys: Captured) -> None:
    data = make()
    code = pretrain("--data", data, "--global-batch-size", "4")
    assert_contract(*reversed_outcome(code, capsys), DATA, mentions=mentions)


def test_a_class_too_few_for_the_labels_asked_for(capsys: Captured) -> None:
    code = finetune("--labels-per-class", "500")
    assert_contract(*reversed_outcome(code, capsys), DATA, mentions=["500 labels per class", "Fix: --labels-per-class"])


@pytest.mark.parametrize(("make", "found"), [("set", "no labels"), ("set/only", "one class, 'only'")])
def test_data_that_cannot_train_a_classifier(make: str, found: str, capsys: Captured) -> None:
    grey_images(make)
    code = finetune("--data", "set", "--labels-per-class", "None", "--global-batch-size", "2")
    assert_contract(*reversed_outcome(code, capsys), DATA, mentions=["'set'", f"found {found}", "at least two classes"])


def test_validation_data_with_other_classes(capsys: Captured) -> None:
    for folder in ("train/cat", "train/dog", "val/cat", "val/cow"):
        grey_images(folder)
    code = finetune("--data", "train", "--val-data", "val", "--labels-per-class", "None", "--global-batch-size", "2")
    assert_contract(*reversed_outcome(code, capsys), DATA, mentions=["'val'", "extra 'cow'", "missing 'dog'"])


@pytest.mark.parametrize("words", [["--global-batch-size", "5"], ["--micro-batch-size", "5"]])
def test_an_odd_batch_cannot_be_mixed(words: list[str], capsys: Captured) -> None:
    code = finetune("--method.mixup", "0.2", *words)
    message = assert_contract(*reversed_outcome(code, capsys), CONFIG, mentions=["micro_batch_size", "found 5", "even"])
    proposed = message.partition("Fix: ")[2].split()
    kept = words if "--global-batch-size" not in proposed else []
    kept = [] if "--micro-batch-size" in proposed else kept
    assert finetune("--method.mixup", "0.2", *kept, *proposed, "--stop-after-steps", "1", out="again") == 0


# Weights to start from


class Evil:
    """Touches a file when it is unpickled the careless way."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("canary"),))


def html() -> None:
    Path("w.pth").write_text("<!DOCTYPE html><title>404</title>")


def lfs_pointer() -> None:
    Path("w.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")


def empty_file() -> None:
    Path("w.pth").write_bytes(b"")


def zip_of_images() -> None:
    with zipfile.ZipFile("w.pth", "w") as archive:
        archive.writestr("cat.jpg", b"\xff\xd8")


def code_in_zip() -> None:
    torch.save({"model": {"x": torch.zeros(1)}, "payload": Evil()}, "w.pth")


def code_in_old_format() -> None:
    torch.save({"model": Evil()}, "w.pth", _use_new_zipfile_serialization=False)


def code_in_plain_pickle() -> None:
    Path("w.pth").write_bytes(pickle.dumps(Evil()))


def flipped_bit() -> None:
    torch.save({"model": {"x": torch.arange(1000.0)}}, "w.pth")
    data = bytearray(Path("w.pth").read_bytes())
    data[data.index(torch.arange(1000.0).numpy().tobytes()) + 100] ^= 1
    Path("w.pth").write_bytes(data)


def cut_zip() -> None:
    torch.save({"model": {"x": torch.arange(1000.0)}}, "w.pth")
    Path("w.pth").write_bytes(Path("w.pth").read_bytes()[:2000])


def cut_safetensors() -> None:
    Path("w.pth").write_bytes(weights.to_bytes({"x": torch.arange(1000.0)})[:-1])


def lying_header() -> None:
    Path("w.pth").write_bytes((2**60).to_bytes(8, "little") + b"{}")


def no_tensors() -> None:
    torch.save({"epoch": 3}, "w.pth")


def sparse() -> None:
    torch.save({"model": {"x": torch.eye(3).to_sparse()}}, "w.pth")


def lying_shape() -> None:
    torch.save({"model": {"x": torch.zeros(1).half().expand(10**7, 10**6)}}, "w.pth")


def complex_numbers() -> None:
    torch.save({"model": {"x": torch.ones(3, dtype=torch.complex64)}}, "w.pth")


def other_model() -> None:
    torch.save({"model": {"conv1.weight": torch.zeros(3, 3), "fc.bias": torch.zeros(2)}}, "w.pth")


@pytest.mark.parametrize(
    ("make", "mentions"),
    [
        (html, ["an HTML page", "download the real file"]),
        (lfs_pointer, ["a Git-LFS pointer"]),
        (empty_file, ["an empty file"]),
        (zip_of_images, ["not a PyTorch checkpoint"]),
        (code_in_zip, ["code inside a checkpoint is never run"]),
        (code_in_old_format, []),
        (code_in_plain_pickle, []),
        (flipped_bit, ["is damaged in"]),
        (cut_zip, []),
        (cut_safetensors, ["not a readable safetensors file"]),
        (lying_header, ["not a readable safetensors file"]),
        (no_tensors, ["holds no tensors"]),
        (sparse, ["'x' is not dense"]),
        (complex_numbers, ["'x' is not dense", "complex64"]),
        (lying_shape, ["'x' claims more than the file holds", "20,000,000,000,000 bytes, of 2 stored"]),
        (other_model, ["no known layout", "conv1.weight, fc.bias", "--prefix"]),
    ],
)
def test_weights_that_are_none(make: Callable[[], None], mentions: list[str], capsys: Captured) -> None:
    make()
    code = pretrain("--init", "w.pth")
    captured = capsys.readouterr()
    message = assert_contract(captured.err, code, CHECKPOINT, mentions=["'w.pth'", *mentions])
    assert not Path("canary").exists() and "weights_only" not in message.partition("Fix: ")[2]
    assert not Path("run").exists()  # the same --out is free for the next try


def test_the_canary_would_sing() -> None:
    pickle.loads(pickle.dumps(Evil()))
    assert Path("canary").exists()


def test_missing_weights_name_folders_nearby(trained: Path, capsys: Captured) -> None:
    code = pretrain("--init", trained.parent / "traind")
    assert_contract(capsys.readouterr().err, code, CHECKPOINT, mentions=[trained.parent / "traind", trained])


@pytest.mark.parametrize(
    ("words", "mentions"),
    [
        (["--encoder.num-heads", "4"], ["heads", "found 2", "expected 4", "Fix: --encoder.num-heads 2"]),
        (["--encoder.width", "32"], ["does not fit", ": [16] for [32]"]),
        (["--encoder.depth", "2"], ["does not fit", "encoder.blocks.1.", "missing"]),
        (["--encoder.patch-size", "2"], ["does not fit", "patch_embed.proj.weight: [16, 1, 4, 4] for [16, 1, 2, 2]"]),
    ],
)
@pytest.mark.parametrize("place", ["", "checkpoints/step_6", "encoder"])
def test_weights_that_do_not_fit(
    words: list[str], mentions: list[str], place: str, trained: Path, capsys: Captured
) -> None:
    code = pretrain("--init", trained / place, *words)
    assert_contract(capsys.readouterr().err, code, CHECKPOINT, mentions=[trained / place, *mentions])
    assert not Path("run").exists()


def test_finetuning_needs_weights_and_scratch_refuses_them(trained: Path, capsys: Captured) -> None:
    code = finetune(start="pretrained")
    assert_contract(capsys.readouterr().err, code, CONFIG, mentions=["'toy-classifier'", "no --init", "add --init RUN"])
    code = finetune("--init", trained, out="other")
    assert_contract(capsys.readouterr().err, code, CONFIG, mentions=["random weights", "drop --init"])


def test_a_start_that_failed_does_not_block_the_corrected_one(trained: Path, capsys: Captured) -> None:
    assert pretrain("--init", "nowhere") == CHECKPOINT
    assert pretrain("--global-batch-size", "5000") == CONFIG
    assert pretrain("--init", trained) == 0, capsys.readouterr().err
    assert status()["state"] == "finished"


@pytest.mark.parametrize("content", ["{}", "[]", "{", '{"recipe": {}}', '{"recipe": [], "classes": null, "data": ""}'])
def test_a_run_folder_with_a_foreign_recipe(content: str, capsys: Captured) -> None:
    Path("odd").mkdir()
    Path("odd/recipe.json").write_text(content)
    for words in (
        ["evaluate", "odd"],
        ["pretrain", write_recipe(toy.mae()), "--data", "digits", "--init", "odd", *QUIET],
    ):
        code = run(*words)
        error = capsys.readouterr().err
        assert_contract(error, code, CHECKPOINT, mentions=["odd"])


# Run folders


def test_evaluate_wants_a_classifier(trained: Path, tmp_path: Path, capsys: Captured) -> None:
    code = run("evaluate", trained)
    mentions = [str(trained), "pre-training run", f"--init {trained}"]
    assert_contract(capsys.readouterr().err, code, CONFIG, mentions=mentions)
    Path("file").write_text("x")
    code = run("evaluate", tmp_path / "file")
    assert_contract(capsys.readouterr().err, code, CHECKPOINT, mentions=[tmp_path / "file"])
    code = run("evaluate", trained.parent)
    assert_contract(capsys.readouterr().err, code, CHECKPOINT, mentions=["is not a run folder"])


def test_evaluate_wants_the_runs_classes(capsys: Captured) -> None:
    assert finetune() == 0
    for folder in ("pets/cat", "pets/dog", "plain"):
        grey_images(folder)
    capsys.readouterr()
    code = run("evaluate", "fine", "--data", "pets")
    assert_contract(capsys.readouterr().err, code, DATA, mentions=["'pets'", "extra 'cat', 'dog'"])
    code = run("evaluate", "fine", "--data", "plain")
    assert_contract(capsys.readouterr().err, code, DATA, mentions=["'plain'", "no labels"])


def test_another_recipe_in_the_same_folder(capsys: Captured) -> None:
    rate = toy.mae().lr_per_256
    assert pretrain("--stop-after-steps", "2") == 0
    files_of_run = [path for path in Path("run").rglob("*") if path.is_file() and path.name != "run.lock"]
    before = {path: path.read_bytes() for path in files_of_run}
    capsys.readouterr()
    code = pretrain("--lr-per-256", "0.5", "--method.mask-ratio", "0.25")
    mentions = ["'run'", f"lr_per_256: {rate} -> 0.5", "method.mask_ratio: 0.5 -> 0.25", "--override", "--out"]
    assert_contract(capsys.readouterr().err, code, CONFIG, mentions=mentions)
    assert {path: path.read_bytes() for path in before} == before
    assert pretrain("--lr-per-256", str(rate)) == 0


def test_all_checkpoints_damaged(capsys: Captured) -> None:
    assert pretrain("--stop-after-steps", "2") == 0
    (Path("run/checkpoints/step_2") / "model.safetensors").write_bytes(b"")
    capsys.readouterr()
    code = pretrain()
    message = assert_contract(capsys.readouterr().err, code, CHECKPOINT, mentions=["all 1 checkpoints of 'run'"])
    assert failed_with(message)


def test_a_folder_full_of_other_things(capsys: Captured) -> None:
    Path("run").mkdir()
    Path("run/thesis.tex").write_text("x")
    assert_contract(*reversed_outcome(pretrain(), capsys), DISK, mentions=["'run'", "thesis.tex", "--out FOLDER"])
    assert [path.name for path in Path("run").iterdir()] == ["thesis.tex"]


def test_a_folder_in_use_names_its_holder(capsys: Captured) -> None:
    Path("run").mkdir()
    code = (
        "import os, sys; from pathlib import Path; from mae_lite import files;"
        "files.Lock(Path(sys.argv[1]), f'pid {os.getpid()} on a host'); print(os.getpid(), flush=True);"
        "sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(Path("run/run.lock").absolute())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, cwd=ROOT) as holder:
        assert holder.stdout is not None and holder.stdin is not None
        pid = holder.stdout.readline().strip()
        mentions = ["'run'", "live run", f"pid {pid} on a host", "--out FOLDER"]
        assert_contract(*reversed_outcome(pretrain(), capsys), DISK, mentions=mentions)
        holder.stdin.close()
        holder.wait()
    assert pretrain("--stop-after-steps", "1") == 0


# Disks


@pytest.mark.parametrize("place", ["run", "run/below", "run/checkpoints"])
def test_a_file_where_the_folder_should_be(place: str, capsys: Captured) -> None:
    file = Path("run/checkpoints") if place == "run/checkpoints" else Path("run")
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine")
    code = pretrain(out=place if place != "run/checkpoints" else "run")
    assert_contract(*reversed_outcome(code, capsys), DISK, mentions=["run", "a file is where a folder should be"])
    assert file.read_text() == "mine"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EPERM])
@pytest.mark.parametrize("operation", ["make_folder", "write", "sync", "rename"])
def test_a_folder_that_cannot_be_written(number: int, operation: str, capsys: Captured) -> None:
    files.disk = FaultyDisk(lambda _, name, path: number if name == operation and "run" in path.parts else 0)
    code = pretrain()
    mentions = ["run", errno.errorcode[number], "choose a folder you may write to, with --out FOLDER"]
    assert_contract(*reversed_outcome(code, capsys), DISK, mentions=mentions)


def full(times: int, place: str = "checkpoints", *, skip: int = 0) -> FaultyDisk:
    """Return a disk that takes no tensors below ``place`` from write number ``skip`` on, for ``times`` writes."""
    seen = [0]

    def fault(count: int, name: str, path: Path) -> int:
        del count
        if name != "write" or path.name != "model.safetensors" or place not in path.parts:
            return 0
        seen[0] += 1
        return errno.ENOSPC if skip < seen[0] <= skip + times else 0

    return FaultyDisk(fault, torn=True)


def test_a_disk_full_once_costs_a_checkpoint_not_the_run(capsys: Captured) -> None:
    files.disk = full(1, skip=1)
    assert pretrain() == 0
    error = capsys.readouterr().err
    assert "step 4 failed, training goes on" in error and "ENOSPC" in error and "MB are free" in error
    assert "step_4" in error and not any(line.startswith(("Fix:", "error:")) for line in error.splitlines())
    assert [step for step, _ in rundir.checkpoints(Path("run"))] == [6, 2]
    assert status()["state"] == "finished"
    assert all(files.read_folder(path) for _, path in rundir.checkpoints(Path("run")))


@pytest.mark.parametrize(("steps", "warnings"), [(6, 1), (20, 2)])
def test_a_disk_that_stays_full_stops_the_run(steps: int, warnings: int, capsys: Captured) -> None:
    """The last save of a run must succeed; before it, two in a row may fail."""
    files.disk = full(99, skip=1)
    code = pretrain("--epochs", f"{steps / 84}")
    error = capsys.readouterr().err
    message = assert_contract(error, code, DISK, mentions=["run/checkpoints/step_", "ENOSPC", "free space"])
    assert error.count("training goes on") == warnings
    assert failed_with(message)
    assert [step for step, _ in rundir.checkpoints(Path("run"))] == [2]
    kept = files.read_folder(Path("run/checkpoints/step_2"))
    assert json.loads(kept["state.json"])["step"] == 2
    files.disk = files.Disk()
    assert pretrain("--epochs", f"{steps / 84}") == 0, "room again: the same command continues"


def test_a_disk_full_for_everything_still_says_why(capsys: Captured) -> None:
    started = [False]

    def fault(count: int, name: str, path: Path) -> int:
        del count
        started[0] |= "step_4" in path.name
        return errno.ENOSPC if started[0] and name in ("write", "append", "make_folder") else 0

    files.disk = FaultyDisk(fault)
    code = pretrain()
    message = assert_contract(capsys.readouterr().err, code, DISK, mentions=["ENOSPC", "free space"])
    assert "checkpoints/step_" in message, "the first cause, not the status file that could not be written either"
    assert files.read_folder(Path("run/checkpoints/step_2"))


def test_a_disk_full_for_rows_costs_rows(capsys: Captured) -> None:
    files.disk = FaultyDisk(lambda _, name, path: errno.ENOSPC if name == "append" and path.name else 0, torn=True)
    assert pretrain() == 0
    error = capsys.readouterr().err
    assert error.count("metrics.jsonl") == 1 and "training goes on" in error and "Fix:" not in error
    assert status()["state"] == "finished" and rundir.read_rows(Path("run")) == []


def test_an_operating_system_error_from_elsewhere(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    def surprise(words: Sequence[str]) -> int:
        del words
        raise OSError(errno.ENFILE, "Too many open files in system", "/x")

    monkeypatch.setitem(commands.COMMANDS, "recipes", surprise)
    assert_contract(*reversed_outcome(run("recipes"), capsys), DISK, mentions=["Too many open files", "/x"])


# Numbers


def test_no_finite_loss_no_update(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    def poison(self: MaskedAutoencoder, step: int, total_steps: int) -> None:
        del total_steps
        if step == 3:
            with torch.no_grad():
                next(iter(self.encoder.blocks.parameters()))[0] = float("nan")

    with monkeypatch.context() as poisoned:
        poisoned.setattr(MaskedAutoencoder, "after_step", poison)
        code = pretrain()
    mentions = ["update 3", "loss nan", "the weights were not changed", "finite", "--lr-per-256"]
    message = assert_contract(capsys.readouterr().err, code, NUMERICS, mentions=mentions)
    assert failed_with(message)
    assert [step for step, _ in rundir.checkpoints(Path("run"))] == [2]
    after = files.read_folder(Path("run/checkpoints/step_2"))
    assert pretrain("--stop-after-steps", "2", out="clean") == 0
    assert files.read_folder(Path("clean/checkpoints/step_2")) == after
    tensors = weights.from_bytes(after["model.safetensors"], "model")
    assert all(value.isfinite().all() for value in tensors.values())


def test_weights_that_are_not_numbers_stop_the_first_update(trained: Path, capsys: Captured) -> None:
    tensors = weights.read_file(trained / "encoder" / "model.safetensors")
    tensors["norm.weight"][0] = float("inf")
    Path("w.safetensors").write_bytes(weights.to_bytes(tensors))
    code = pretrain("--init", "w.safetensors")
    message = assert_contract(capsys.readouterr().err, code, NUMERICS, mentions=["update 0", "nan"])
    assert failed_with(message) and rundir.checkpoints(Path("run")) == []


# The classes themselves


def test_every_error_has_its_exit_code_and_survives_pickling() -> None:
    codes = {
        errors.ConfigError: CONFIG,
        errors.DataError: DATA,
        errors.CheckpointError: CHECKPOINT,
        errors.DiskError: DISK,
        errors.Stopped: errors.EXIT_STOPPED,
        errors.NumericsError: NUMERICS,
        errors.StudyError: 7,
    }
    assert set(errors.MaeLiteError.__subclasses__()) == set(codes)
    for kind, code in codes.items():
        error = kind("what", found="this", expected="that", fix="do so")
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is kind and str(again) == str(error) == "what: found this, expected that\nFix: do so"
        assert again.exit_code == code and again.fix == "do so"


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(errors.ConfigError, match="pretran"):
        cli.main(["pretran", "--debug"])


@pytest.mark.parametrize("variable", ["RANK", "LOCAL_RANK"])
def test_the_first_rank_speaks_for_all_of_what_all_know(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, variable: str
) -> None:
    """An error that every rank raises is told once; one that only another rank has is told by that rank."""
    monkeypatch.setenv(variable, "1")
    assert run("pretran") == CONFIG
    assert "pretran" in capsys.readouterr().err
    error = errors.ConfigError("the same everywhere", fix="nothing")
    error.shared = True

    def fail(_: object) -> int:
        raise error

    monkeypatch.setitem(commands.COMMANDS, "recipes", fail)
    assert run("recipes") == CONFIG
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "value"),
    [("WORLD_SIZE", "two"), ("WORLD_SIZE", "0"), ("LOCAL_WORLD_SIZE", "-1"), ("LOCAL_WORLD_SIZE", "")],
)
def test_a_launch_that_says_nonsense(name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    monkeypatch.setenv(name, value)
    code = pretrain()
    message = assert_contract(capsys.readouterr().err, code, CONFIG, mentions=[name, repr(value)])
    assert "torchrun" in message


@pytest.mark.parametrize(
    ("name", "given", "set_here"),
    [
        ("RANK", "2", {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}),
        ("LOCAL_RANK", "x", {"WORLD_SIZE": "2"}),
        ("MASTER_PORT", "70000", {}),
        ("LOCAL_WORLD_SIZE", "", {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}),
        ("MASTER_ADDR", None, {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}),
    ],
)
def test_a_launch_that_is_half_set_or_contradicts_itself(
    name: str, given: str | None, set_here: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    for variable, value in set_here.items():
        monkeypatch.setenv(variable, value)
    if given is None:
        monkeypatch.delenv(name, raising=False)
    else:
        monkeypatch.setenv(name, given)
    code = pretrain()
    assert "torchrun" in assert_contract(capsys.readouterr().err, code, CONFIG, mentions=[f"environment's {name}"])


def test_a_port_in_use_is_named(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        port = str(other.getsockname()[1])
        launched = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_PORT": port}
        for variable, value in {**launched, "MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "x"}.items():
            monkeypatch.setenv(variable, value)
        code = pretrain()
    message = assert_contract(capsys.readouterr().err, code, CONFIG, mentions=["MASTER_PORT", port])
    assert "--master-port" in message


def test_a_folder_name_gives_no_orders_to_a_terminal(capsys: Captured) -> None:
    assert pretrain("--stop-after-steps", "1", out="run\x1b[2J") == 0
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out + captured.err and "run\\x1b[2J" in captured.out
