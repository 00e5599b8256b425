"""Numbers that are not finite: what is kept of them, and how a run goes on without them."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import torch

from mae_lite import files, left_out, rundir, training
from mae_lite.engine import checkpoint, failure
from mae_lite.errors import NumericsError
from mae_lite.methods.mae import MaskedAutoencoder
from mae_lite.models import weights
from tests import poison, toy
from tests.faulty_disk import FaultyDisk

FAILS_AT = 3


@pytest.fixture
def poisoned(tmp_path: Path) -> dict[str, Any]:
    return poison.settings(tmp_path)


def run(out: Path, **settings: Any) -> training.Outcome:
    return training.run(poison.recipe(), toy.runtime(out, **settings))


def model(folder: Path) -> bytes:
    return files.read_folder(folder)["model.safetensors"]


def test_a_bundle_keeps_what_failed(tmp_path: Path, poisoned: dict[str, Any]) -> None:
    out = tmp_path / "run"
    with pytest.raises(NumericsError) as caught:
        run(out, micro_batch_size=4, **poisoned)
    folder, found = out / "failed" / f"step_{FAILS_AT}", poison.bundle(out, FAILS_AT)
    assert f"mae-lite replay {folder}" in caught.value.fix and "--on-nan rollback" in caught.value.fix
    assert "update 3: loss nan" in str(caught.value) and "encoder.cls_token" in str(caught.value)
    assert (found["step"], found["seed"], found["checkpoint"]) == (FAILS_AT, 0, "checkpoints/step_2")
    assert found["digest"] == poison.recipe().digest() == rundir.read_json(out / "recipe.json", "a run")["digest"]
    assert found["first_not_finite"] == {"weights": None, "gradient": "encoder.cls_token"}
    lost = [[name.endswith(poison.WHITE) for name in one["names"]] for one in found["batches"]]
    assert [one["loss"] == "nan" for one in found["batches"]] == [any(part) for part in lost] and sum(
        map(sum, lost)
    ) == 1
    assert [len(one["ids"]) for one in found["batches"]] == [4] * 4
    run(tmp_path / "clean", micro_batch_size=4, stop_after_steps=FAILS_AT, **poisoned)
    before = tmp_path / "clean" / "checkpoints" / f"step_{FAILS_AT}"
    assert model(folder) == model(before), "the weights are those before the update"
    assert [step for step, _ in rundir.checkpoints(out)] == [2]
    saved = weights.from_bytes(model(out / "checkpoints" / "step_2"), "model")
    assert all(value.isfinite().all() for value in saved.values())


def test_a_disk_that_refuses_the_bundle_hides_nothing(
    tmp_path: Path, poisoned: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    full = FaultyDisk(lambda _, name, path: errno.ENOSPC * (name == "write" and f"step_{FAILS_AT}" in str(path)))
    monkeypatch.setattr(files, "disk", full)
    with pytest.raises(NumericsError, match=r"no bundle to replay: cannot write.*ENOSPC"):
        run(tmp_path / "run", **poisoned)
    assert not list((tmp_path / "run" / "failed").iterdir())


def test_rolled_back_runs_leave_the_update_out(tmp_path: Path, poisoned: dict[str, Any]) -> None:
    out = tmp_path / "run"
    assert run(out, on_nan="rollback", **poisoned).state == "finished"
    assert left_out.read(out) == (FAILS_AT,)
    rows = rundir.read_rows(out)
    assert [row["step"] for row in rows if row.get("left_out")] == [FAILS_AT + 1]
    assert [row["step"] for row in rows if "loss" in row] == [2, 6], "the row of update 3 would have been the fourth's"
    assert rundir.last_start(out)["left_out"] == [FAILS_AT] and rundir.last_start(out)["resumed_at"] == 2
    for stop in (1, 3, 4, 5):
        run(tmp_path / "again", on_nan="rollback", stop_after_steps=stop, **poisoned)
    run(tmp_path / "again", **poisoned)  # what is left out belongs to the run, not to the command
    for name in ("model", "optimizer"):
        file = f"{name}.safetensors"
        assert (
            files.read_folder(out / "checkpoints/step_6")[file]
            == files.read_folder(tmp_path / "again/checkpoints/step_6")[file]
        )


def test_what_is_left_out_changes_nothing(tmp_path: Path, poisoned: dict[str, Any]) -> None:
    out = tmp_path / "run"
    run(out, on_nan="rollback", stop_after_steps=4, **poisoned)
    three, four = (files.read_folder(out / f"checkpoints/step_{step}") for step in (2, 4))
    run(tmp_path / "clean", stop_after_steps=3, **poisoned)
    assert model(tmp_path / "clean/checkpoints/step_3") == four["model.safetensors"] != three["model.safetensors"]


def test_another_run_in_the_folder_leaves_nothing_out(tmp_path: Path, poisoned: dict[str, Any]) -> None:
    out = tmp_path / "run"
    with pytest.raises(NumericsError, match="update 3"):
        run(out, save_every_steps=100, **poisoned)
    left_out.add(out, 1, NumericsError("x", fix="x"))
    with pytest.raises(NumericsError, match="update 3"):
        run(out, save_every_steps=100, **poisoned)
    assert left_out.read(out) == (1,), "the same run, from its start"
    run(out, **{**poisoned, "init": None}, stop_after_steps=4)
    assert left_out.read(out) == () and not any(row.get("left_out") for row in rundir.read_rows(out))


def test_three_updates_and_no_more(tmp_path: Path, poisoned: dict[str, Any]) -> None:
    tensors = weights.read_file(Path(poisoned["init"]))
    tensors["patch_embed.proj.weight"] *= 100  # every picture is too bright for it
    Path(poisoned["init"]).write_bytes(weights.to_bytes(tensors))
    with pytest.raises(NumericsError, match=r"update 3: .*3 updates were left out already \(0, 1, 2\)"):
        run(tmp_path / "run", on_nan="rollback", **poisoned)
    tensors["norm.weight"][0] = torch.inf
    Path(poisoned["init"]).write_bytes(weights.to_bytes(tensors))
    with pytest.raises(NumericsError, match=r"encoder.norm.weight is not finite.*no update can be blamed"):
        run(tmp_path / "start", on_nan="rollback", **poisoned)
    assert left_out.read(tmp_path / "start") == ()


def spoil(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Let update ``at`` make a weight that is not finite, the first time that it is made."""
    done: list[int] = []

    def after_step(self: MaskedAutoencoder, step: int, total_steps: int) -> None:
        del total_steps
        if step == at + 1 and not done:
            done.append(step)
            with torch.no_grad():
                self.decoder.norm.weight[0] = torch.nan

    monkeypatch.setattr(MaskedAutoencoder, "after_step", after_step)


@pytest.mark.parametrize("at", [2, 3])
def test_the_update_that_spoiled_the_weights_is_to_blame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Noticed by the next update, or before the checkpoint after it: no checkpoint is written of such weights."""
    saved: list[int] = []
    original = checkpoint.save

    def save(run: Path, progress: checkpoint.Progress, method: Any, *rest: Any) -> None:
        assert failure.first_not_finite(method.state_dict()) is None
        saved.append(progress.step)
        original(run, progress, method, *rest)

    monkeypatch.setattr(checkpoint, "save", save)
    spoil(monkeypatch, at)
    training.run(toy.mae(), toy.runtime(tmp_path / "run", on_nan="rollback"))
    assert left_out.read(tmp_path / "run") == (at,) and saved == [2, 4, 6]
    assert (tmp_path / "run" / "failed").exists() == (at == 2)
