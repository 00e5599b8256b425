"""The same images as a folder, CSV, parquet, shards, pack and Python object make the same batches, bit for bit."""

from __future__ import annotations

import csv
import hashlib
import io
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import mae_lite
from mae_lite.config import Augmentation
from mae_lite.data.loader import Batch, training_loader
from mae_lite.data.opening import open_source
from mae_lite.data.plan import Plan
from mae_lite.data.sources import Objects, Source
from mae_lite.data.transforms import TrainTransform
from mae_lite.preparing.prepare import Order, prepare
from tests import toy

KINDS = ("folder", "csv", "parquet", "shards", "pack", "object")
COUNT = 200
CLASSES = ("bird", "cat", "dog")


class Dataset:
    """What torchvision's data sets look like from outside."""

    classes = CLASSES

    def __init__(self, items: list[tuple[bytes, int]]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        data, label = self.items[index]
        return Image.open(io.BytesIO(data)).convert("RGB"), label


def photographs() -> list[tuple[str, bytes, int]]:
    """Return name, JPEG and label of images of many sizes, in the order of their names."""
    rng = np.random.default_rng(3)
    found = []
    for number in range(COUNT):
        height, width = rng.integers(20, 60, 2)
        pixels = rng.integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).resize((width, height)).save(buffer, "JPEG", quality=90)
        label = int(rng.integers(0, 3))
        found.append((f"{CLASSES[label]}/{number:03d}.jpg", buffer.getvalue(), label))
    return sorted(found)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Iterable[dict[str, Source]]:
    root = tmp_path_factory.mktemp("same")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAE_LITE_CACHE", str(root / "cache"))
        yield planted(root)


def planted(root: Path) -> dict[str, Source]:
    items = photographs()
    for name, data, _ in items:
        path = root / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    with (root / "list.csv").open("w", newline="") as handle:
        rows = csv.writer(handle)
        rows.writerow(["path", "label"])
        rows.writerows([f"photos/{name}", CLASSES[label]] for name, _, label in items)
    features = {"label": {"names": list(CLASSES), "_type": "ClassLabel"}}
    table = pa.table(
        {"image": [{"bytes": data, "path": name} for name, data, _ in items], "label": [label for *_, label in items]}
    ).replace_schema_metadata({"huggingface": __import__("json").dumps({"info": {"features": features}})})
    pq.write_table(table, root / "rows.parquet", row_group_size=64)
    (root / "tars").mkdir()
    for shard in range(3):
        with tarfile.open(root / "tars" / f"part-{shard}.tar", "w") as tar:
            for name, data, _ in items[shard * 70 : (shard + 1) * 70]:
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    prepare(Order(str(root / "photos"), root / "pack"))  # small and plain, they stay as they are
    return {
        "pack": open_source(str(root / "pack")),
        "folder": open_source(str(root / "photos")),
        "csv": open_source(str(root / "list.csv")),
        "parquet": open_source(str(root / "rows.parquet")),
        "shards": open_source(f"shards:{root}/tars/part-{{0..2}}.tar"),
        "object": Objects(Dataset([(data, label) for _, data, label in items])),
    }


def batches(source: Source, workers: int, start: int = 0, stop: int = 30) -> list[str]:
    """Return a digest of every batch of steps ``start`` to ``stop`` - 1; an epoch has 12 of them."""
    plan = Plan(samples=COUNT, global_batch_size=16, micro_batch_size=8, seed=5)
    transform = TrainTransform(Augmentation(randaugment="rand-m9-mstd0.5-inc1", erasing=0.3), 32, 3)
    loader = training_loader(source, transform, plan, channels=3, start_step=start, stop_step=stop, workers=workers)
    return [digest(batch) for batch in loader]


def digest(batch: Batch) -> str:
    parts = (batch.images.numpy(), batch.labels.numpy(), batch.ids.numpy())
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


def test_all_hold_the_same(sources: dict[str, Source]) -> None:
    for source in sources.values():
        assert (len(source), source.classes, source.split) == (COUNT, CLASSES, None)
        assert source.labels.tolist() == sources["folder"].labels.tolist()


@pytest.fixture(scope="module")
def expected(sources: dict[str, Source]) -> list[str]:
    found = batches(sources["folder"], 0)
    assert len(set(found)) == len(found) == 60  # two micro-batches an update, all different
    return found


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_the_batches_are_the_same(sources: dict[str, Source], expected: list[str], kind: str, workers: int) -> None:
    assert batches(sources[kind], workers) == expected


@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_so_they_are_after_resuming_in_mid_epoch(
    sources: dict[str, Source], expected: list[str], kind: str, workers: int
) -> None:
    assert batches(sources[kind], workers, start=17) == expected[34:]


def test_runs_are_the_same_too(sources: dict[str, Source], tmp_path: Path) -> None:
    """Whole runs: losses, and the weights of the last checkpoint."""
    recipe = mae_lite.derive(
        toy.mae(),
        encoder={"channels": 3},
        augmentation={"mean": (0.5,) * 3, "std": (0.25,) * 3, "crop_scale": (0.2, 1.0)},
        epochs=0.5,
        warmup_epochs=0.1,
    )
    results: set[Any] = set()
    for kind, source in sources.items():
        outcome = mae_lite.run(recipe, toy.runtime(tmp_path / kind, data=kind), source)
        assert outcome.state == "finished"
        results.add((tmp_path / kind / "encoder" / "model.safetensors").read_bytes())
    assert len(results) == 1
