"""Divide a data set by its classes, so that pre-training and what comes after share none of them.

    python benchmarks/class_split.py CIFAR10_FOLDER OUT [--first 6]

reads CIFAR10_FOLDER/train.parquet and test.parquet (Hugging Face's layout) and writes OUT/pretrain with the images of
the first six classes, in the order of their numbers, and OUT/transfer with those of the others, each with train.parquet
and test.parquet. Nothing is chosen by looking. `mae-lite study cifar10-scarce --data OUT` compares pre-trainings on it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

PARTS = ("pretrain", "transfer")


def some_classes(table: pa.Table, names: Sequence[str], wanted: range) -> pa.Table:
    """Return the rows of the classes ``wanted``, numbered from 0."""
    labels = table["label"]
    rows = table.filter(pc.is_in(labels, value_set=pa.array(wanted)))
    features = {"image": {"_type": "Image"}, "label": {"names": [names[n] for n in wanted], "_type": "ClassLabel"}}
    numbers = pc.subtract(rows["label"], wanted.start)
    table = rows.set_column(rows.schema.get_field_index("label"), "label", numbers)
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def main(words: Sequence[str] | None = None) -> None:
    """Write both parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--first", type=int, default=6)
    options = parser.parse_args(words)
    for split in ("train", "test"):
        table = pq.read_table(options.data / f"{split}.parquet")
        names = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]["label"]["names"]
        for part, wanted in zip(PARTS, (range(options.first), range(options.first, len(names))), strict=True):
            rows = some_classes(table, names, wanted)
            (options.out / part).mkdir(parents=True, exist_ok=True)
            pq.write_table(rows, options.out / part / f"{split}.parquet")
            print(f"{part} {split}: {len(rows):,} images of {', '.join(names[n] for n in wanted)}")


if __name__ == "__main__":
    main()
