"""`mae-lite replay`: where an update that was not finite breaks, and with which images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from mae_lite import cli, config, training
from mae_lite.errors import CheckpointError, NumericsError
from mae_lite.methods.mae import MaskedAutoencoder
from mae_lite.models import weights
from mae_lite.replaying import words
from mae_lite.replaying.replay import Order, replay
from tests import poison, toy
from tests.test_readme import blocks

PAGE = (Path(__file__).parent.parent / "docs" / "runs.md").read_text()
STEP = 3


def failed(folder: Path, recipe: config.Recipe, **settings: Any) -> Path:
    """Run until an update is not finite; return its bundle."""
    with pytest.raises(NumericsError):
        training.run(recipe, toy.runtime(folder, **settings))
    (bundle,) = (folder / "failed").iterdir()
    return bundle


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Provide a bundle where the page says, in an empty working folder."""
    monkeypatch.chdir(tmp_path)
    bundle = failed(Path("runs/photos-mae"), poison.recipe(), micro_batch_size=8, **poison.settings(Path("p")))
    assert bundle.name == f"step_{STEP}"
    return tmp_path / bundle


def test_commands_of_the_page_name_the_module_and_the_image(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(path.stat().st_mtime_ns for path in workplace.parent.parent.rglob("*"))
    lines = [line for block in blocks("bash", PAGE) for line in block.splitlines() if "replay" in line]
    assert len(lines) == 2
    said = []
    for line in lines:
        capsys.readouterr()
        assert cli.main(line.split()[1:]) == 0
        said.append(capsys.readouterr().out)
    text, found = said[0], json.loads(said[1])
    assert "encoder.blocks.0.norm1 (LayerNorm) is the first that is not finite; what enters it lies in" in text
    assert f"1 of 16 images breaks it:\n  p/pictures/{poison.WHITE}" in text
    assert "mae-lite check DATA" in text and "--on-nan rollback" in text
    assert found["again"] and found["first"]["way"] == "forward" and found["first"]["entered"]
    assert 4e19 < found["first"]["highest"] < 8e19 and found["judged_by"] == "halves"
    for row in found["batches"]:
        assert row["loss_now"] == row["loss"], "the very same number"
    assert [row["again"] for row in found["batches"]].count(True) == 1
    assert before == sorted(path.stat().st_mtime_ns for path in workplace.parent.parent.rglob("*"))


def test_weights_that_are_too_large_blame_no_image(workplace: Path) -> None:
    tensors = weights.read_file(Path("p/fragile.safetensors"))
    tensors["patch_embed.proj.weight"] *= 100
    Path("p/large.safetensors").write_bytes(weights.to_bytes(tensors))
    bundle = failed(Path("large"), poison.recipe(), data="p/pictures", init="p/large.safetensors", probe_images=0)
    found = replay(Order(bundle))
    assert found["images_in_all"] == 16 and "it is the weights, not an image" in words.as_text(found)
    assert found["largest_weight"]["name"] == "encoder.patch_embed.proj.weight"
    del workplace


def test_weights_that_were_spoiled_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def after_step(self: MaskedAutoencoder, step: int, total_steps: int) -> None:
        if step == 3 < total_steps:
            with torch.no_grad():
                self.decoder.norm.weight[0] = torch.nan

    monkeypatch.setattr(MaskedAutoencoder, "after_step", after_step)
    found = replay(Order(failed(tmp_path / "run", toy.mae())))
    assert found["weights_not_finite"] == "decoder.norm.weight"
    text = words.as_text(found)
    assert "decoder.norm (LayerNorm) is the first" in text and "an update before it has made them so" in text
    assert "images break" not in text


def poisoned_loss(monkeypatch: pytest.MonkeyPatch, spoiled: Any) -> pytest.MonkeyPatch:
    plain = MaskedAutoencoder.forward
    monkeypatch.setattr(
        MaskedAutoencoder, "forward", lambda self, *rest: (out := plain(self, *rest))._replace(loss=spoiled(out.loss))
    )
    return monkeypatch


def test_what_does_not_happen_again_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as once:
        poisoned_loss(once, lambda loss: loss * torch.nan)
        bundle = failed(tmp_path / "run", toy.mae())
    found = replay(Order(bundle))
    assert not found["again"] and found["images"] == [] and found["first"] is None
    assert "does not happen again" in (text := words.as_text(found)) and "the device itself may have erred" in text
    found["device"] = "elsewhere"
    assert "it was on cpu, here on elsewhere" in words.advice(found)


def test_gradients_that_break_on_the_way_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss is finite: sqrt(0) has an infinite slope, times 0."""
    poisoned_loss(monkeypatch, lambda loss: loss + torch.sqrt(loss * 0))
    found = replay(Order(failed(tmp_path / "run", toy.mae())))
    assert found["again"] and found["function"] in ("SqrtBackward0", "MulBackward0")
    assert isinstance(found["batches"][0]["loss_now"], float) and found["images_in_all"] == 16
    assert f"({found['function']} returned NaN)" in words.as_text(found)


def test_images_of_methods_that_compare_them_are_told_by_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = toy.mocov3(epochs=1.5, warmup_epochs=0.5, lr_per_256=1e-6, augmentation={"blur": (0.0, 0.0)})
    found = replay(Order(failed(tmp_path / "run", recipe, **poison.settings(Path("p")))))
    assert found["again"] and found["judged_by"] in ("rows", None)
    assert found["first"]["module"].startswith("encoder.") and words.as_text(found)


def test_bundles_that_are_none_or_damaged(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["replay", "runs/photos-mae"]) == 4
    assert f"Fix: mae-lite replay runs/photos-mae/failed/step_{STEP}" in capsys.readouterr().err
    assert cli.main(["replay", "nothing"]) == 4 and "no bundle" in capsys.readouterr().err
    with (workplace / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"x")
    with pytest.raises(CheckpointError, match="SHA-256"):
        replay(Order(workplace))


def test_other_images_are_refused_and_moved_ones_found(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.move("p/pictures", "moved")
    assert cli.main(["replay", str(workplace)]) == 3
    capsys.readouterr()
    assert cli.main(["replay", str(workplace), "--data", "moved"]) == 0
    assert f"moved/{poison.WHITE}" in capsys.readouterr().out
    (Path("moved") / "00.png").unlink()
    assert cli.main(["replay", str(workplace), "--data", "moved"]) == 3
    assert "the same images" in capsys.readouterr().err
