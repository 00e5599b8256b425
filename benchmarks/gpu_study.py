"""The study of photographs on a GPU, at full scale, as far as the time goes: scratch and MAE first, every row at last.

    DATA=data-pack python benchmarks/gpu_study.py [--study cifar10] [--runs runs/gpu-study] [--device cpu --tiny]

reads DATA/cifar10/train.parquet and test.parquet. Cut short, it goes on when it is given again with the same folder of
runs; the table of what is finished so far is written every time.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import gpu_record

from mae_lite import studies
from mae_lite.errors import EXIT_STOPPED
from mae_lite.studies.values import Study
from mae_lite.studying import study as studying

PARTS = (("scratch", "MAE"), ("scratch", "MAE", "D-MAE"), ("scratch", "MAE", "D-MAE", "D2-MAE"))
"""Rows in the order of what they tell; the whole study is the last part."""


def parts(study: Study) -> Iterator[Study]:
    """Yield the study with more and more rows, without analyses before it is whole."""
    for names in PARTS:
        rows = tuple(row for row in study.rows if row.name in names)
        yield study.model_copy(update={"rows": rows, "analyses": (), "claims": ()})
    yield study


def tiny(study: Study) -> Study:
    """Return a study of one update of one row, for a dry run."""
    changes = {"rows": study.rows[:1], "analyses": (), "claims": (), "updates": 1}
    return Study.model_validate({**dict(study), **changes})


def carry_out(study: Study, options: argparse.Namespace, data: Path) -> bool:
    """Carry out the study part by part; return whether it is whole."""
    for part in [tiny(study)] if options.tiny else parts(study):
        order = studying.order(part, str(data), str(options.runs), None)
        if studying.run(order) == EXIT_STOPPED:
            return False
    return True


def main(argv: Sequence[str] | None = None) -> int:
    """Train, measure, and write the table of what is finished."""
    parser = gpu_record.options_of(__doc__)
    parser.add_argument("--study", choices=("cifar10", "cifar10-scarce"), default="cifar10")
    parser.add_argument("--runs", type=Path, default=gpu_record.ROOT / "runs" / "gpu-study")
    options = parser.parse_args(argv)
    gpu_record.device_of(options)
    data = gpu_record.cifar10()
    if data is None:
        return gpu_record.SKIPPED
    study = studies.get(options.study, "smoke" if options.tiny else "full")
    whole = carry_out(study, options, data)
    text = (options.runs / study.name / "table.json").read_text()
    for place, name in ((data, "cifar10"), (options.runs, "runs")):  # nobody else has these
        text = text.replace(str(place), name)
    content = json.loads(text)
    given = sys.argv[1:] if argv is None else argv
    gpu_record.write(options, options.study.replace("-", "_") + "_study", given, content, passed=whole)
    return 0 if whole else EXIT_STOPPED


if __name__ == "__main__":
    raise SystemExit(main())
