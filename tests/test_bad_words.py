"""Words that every command refuses: one clear error each, and nothing left behind but what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mae_lite import cli
from tests.test_errors import CHECKPOINT, CONFIG, DATA, assert_contract

WORDS: tuple[tuple[str, int, str], ...] = (
    ("analyze", CONFIG, "the model is missing"),
    ("analyze nowhere", CONFIG, "data is missing\nFix: add --data VALUE"),
    (
        "pretrain finetune-improved --data folder",
        CONFIG,
        "found one for mae-lite finetune, expected one for mae-lite pretrain",
    ),
    ("probe", CONFIG, "the model is missing"),
    ("probe nowhere --data digits", CHECKPOINT, "'nowhere' does not exist; folders nearby"),
    ("probe folder", CONFIG, "data is missing"),
    ("embed", CONFIG, "the model is missing"),
    ("embed nowhere --data digits", CHECKPOINT, "'nowhere' does not exist; folders nearby"),
    ("predict", CONFIG, "the model is missing"),
    ("predict nowhere words.txt", CHECKPOINT, "'nowhere' does not exist; folders nearby"),
    ("predict folder words.txt", CHECKPOINT, "'folder' is not a run folder"),
    ("export", CONFIG, "the finished run is missing"),
    ("export nowhere", CHECKPOINT, "'nowhere' is no folder"),
    ("export folder", CHECKPOINT, "'folder' is not a run folder"),
    ("check", CONFIG, "the data set is missing"),
    ("check words.txt", DATA, "'words.txt' is no folder"),
    ("check empty.csv", DATA, "table 'empty.csv' is empty"),
    ("check digits --workers -1", CONFIG, "workers"),
    ("check digits --recipe absent.json", CONFIG, "'absent.json' is not a readable recipe file"),
    ("prepare", CONFIG, "the data set is missing"),
    ("prepare digits", CONFIG, "the folder to write is missing"),
    ("prepare nowhere pack", DATA, "data 'nowhere' does not exist"),
    ("prepare digits pack --quality 0", CONFIG, "quality"),
    ("prepare digits pack --kind gif", CONFIG, "kind"),
    ("report", CONFIG, "the run folder is missing"),
    ("report nowhere", CHECKPOINT, "no run in 'nowhere'"),
    ("report folder", CHECKPOINT, "no run in 'folder'"),
    ("layers", CONFIG, "the pre-trained run is missing"),
    ("layers nowhere --data digits", CONFIG, "the recipe is missing"),
    ("study", CONFIG, "the study is missing"),
    ("study nothing --data digits", CONFIG, "unknown study 'nothing'"),
    ("study digits --processes 0", CONFIG, "processes"),
    ("transfer", CONFIG, "the pre-trained run is missing"),
    ("transfer nowhere", CHECKPOINT, "'nowhere' does not exist; folders nearby"),
    ("bench", CONFIG, "the recipe is missing"),
    ("bench nothing --data digits", CONFIG, "unknown recipe 'nothing'"),
    ("plan", CONFIG, "the recipe is missing"),
    ("plan digits-mae --images 0", CONFIG, "unknown option --images (nearest"),
    (
        "finetune digits-finetune --data digits --init nowhere",
        CHECKPOINT,
        "--init 'nowhere' does not exist; folders nearby",
    ),
    ("finetune digits-finetune --data digits --init words.txt", CHECKPOINT, "'words.txt' is a text file"),
    ("finetune digits-finetune --data digits --labels-per-class 0", CONFIG, "labels_per_class"),
    ("finetune digits-finetune --data digits --label-fraction 2", CONFIG, "label_fraction"),
    ("finetune digits-finetune --data digits --layer-decay 0", CONFIG, "layer_decay"),
    ("finetune digits-finetune --data digits --validation-fraction 1", CONFIG, "validation_fraction"),
    ("finetune digits-finetune --data digits --method.label-smoothing 2", CONFIG, "method.label_smoothing"),
    ("finetune digits-finetune --data digits --method.mixup -1", CONFIG, "method.mixup"),
    ("pretrain digits-mae --data digits --optimizer.weight-decay -1", CONFIG, "optimizer.weight_decay"),
    ("pretrain digits-mae --data digits --clip-grad-norm 0", CONFIG, "clip_grad_norm"),
    ("pretrain digits-mae --data digits --log-every-steps 0", CONFIG, "log_every_steps"),
    ("pretrain digits-mae --data digits --save-every-steps 0", CONFIG, "save_every_steps"),
    ("pretrain digits-mae --data digits --stop-after-steps -1", CONFIG, "stop_after_steps"),
    ("pretrain digits-mae --data digits --image-fraction 0", CONFIG, "image_fraction"),
    ("pretrain digits-mae --data digits --image-fraction 1.5", CONFIG, "image_fraction"),
    ("pretrain digits-mae --data digits --teacher nowhere", CONFIG, "recipe 'digits-mae' learns from no teacher"),
    ("pretrain digits-mae --data empty.csv", DATA, "table 'empty.csv' is empty"),
    ("pretrain digits-mae --data list.csv", DATA, "'list.csv' line 2"),
    ("pretrain digits-mae --data words.txt", DATA, "'words.txt' is no folder"),
    ("pretrain digits-mae --data parquet:nowhere", DATA, "data 'parquet:nowhere' does not exist"),
    ("pretrain digits-mae --data digits --seed 1.5", CONFIG, "seed"),
    ("pretrain digits-mae --data digits --precision fp16", CONFIG, "precision"),
    ("pretrain digits-mae --data digits --method.decoder-depth -1", CONFIG, "method.decoder_depth"),
    ("pretrain digits-mae --data digits --encoder.num-heads 0", CONFIG, "encoder.num_heads"),
    ("pretrain digits-mae --data digits --lr-per-256 -1", CONFIG, "lr_per_256"),
    ("pretrain digits-mae --data digits --warmup-epochs -1", CONFIG, "warmup_epochs"),
    ("pretrain digits-mae --data digits --global-batch-size 1e3", CONFIG, "global_batch_size"),
    ("pretrain digits-mae --data digits --pixels some", CONFIG, "pixels"),
    ("pretrain digits-mae --data digits --optimizer.betas 0.9", CONFIG, "optimizer.betas.1 is missing"),
)
"""A command line, its exit code, and how the message names what is wrong."""


@pytest.mark.parametrize(("words", "code", "named"), WORDS, ids=[words for words, _, _ in WORDS])
def test_words_are_refused(
    words: str,
    code: int,
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    for name, content in {"empty.csv": "", "words.txt": "hello\n", "list.csv": "path,label\na.png,cat\n"}.items():
        Path(name).write_text(content)
    before = sorted(Path().iterdir())
    found = cli.main(words.split())
    captured = capsys.readouterr()
    assert captured.out == ""
    message = assert_contract(captured.err, found, code, mentions=[named])
    assert sorted(path for path in Path().iterdir() if path.name != "runs") == before
    for status in (json.loads(path.read_text()) for path in Path("runs").glob("*/status.json")):  # it had begun
        assert status["state"] == "failed" and f"error: {status['message']}" == message
    assert not list(Path("runs").rglob("checkpoints/*"))
