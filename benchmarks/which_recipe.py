"""Write docs/which_recipe.md: which recipe to take, from the comparisons in benchmarks/results.

Read are small_data.json, demo.json (of `make demo`, with --demo), and study*.json (the table.json of a study).

    python benchmarks/which_recipe.py [--demo runs/demo] [--out docs/which_recipe.md]
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mae_lite import costs, recipes
from mae_lite.report import read
from mae_lite.report.groups import Estimate
from mae_lite.report.lineage import Lineage
from mae_lite.report.repeat import changes
from mae_lite.studying import recommending

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parent.parent / "docs" / "which_recipe.md"
_DEMO = {
    "digits-finetune": "MAE, 100 updates",
    "digits-scratch": "scratch, 100 updates",
    "digits-scratch-longer": "scratch, 400 updates",
}
HEAD = """# Which recipe for your data?

What was measured, and what it advises. `best` has the highest mean. The advice is what costs least arithmetic, its
pre-training included, of the best and all that are at most one point behind it. What is within chance of the best is
named below the table: the 95 % interval of the difference, paired by seed, holds 0; with few seeds that is wide. Of one
seed nothing is said of chance. The gain is over the best that starts from scratch.

These are small images and small encoders. On yours, `mae-lite study` compares again ([studies.md](studies.md)). Left
out are classifiers on raw pixels, which the page of `make demo` shows beside these.
"""
TAIL = """
Written by `python benchmarks/which_recipe.py` from `benchmarks/results`, where the numbers and their commands stand. A
study's advice comes in with `cp runs/studies/NAME/table.json benchmarks/results/study_NAME.json`.
"""


def advices(results: Path) -> list[dict[str, Any]]:
    """Return all advices, as :func:`mae_lite.studying.recommending.recommended` makes them, each with its source."""
    found = [*_demo(results / "demo.json"), *_small_data(results / "small_data.json")]
    for path in sorted(results.glob("study*.json")):
        for item in json.loads(path.read_text())["recommended"]:
            found.append({**item, "on": "the test images", "source": path.name})
    return found


def collected(demo: Path) -> dict[str, Any]:
    """Return the numbers of a finished demo: top-1 and arithmetic of every classifier, as its run folders say."""
    runs = [read.read(folder) for folder in read.find([demo])]
    lineage, numbers = Lineage(runs), []
    for run in runs:
        measured = run.accuracy()
        if run.supervised and measured is not None:
            about = {"recipe": run.raw["name"], "labels_per_class": run.labels, "seed": run.seed}
            spent = lineage.past(run).gflops()
            numbers.append({**about, "top1_percent": 100 * measured.top1, "gflops": spent, "images": measured.images})
    numbers.sort(key=lambda one: (one["labels_per_class"], one["recipe"], one["seed"]))
    return {
        "numbers": numbers,
        "command": ["mae-lite", "demo"],
        "collected": ["python", "benchmarks/which_recipe.py", *sys.argv[1:]],
    }


def _demo(path: Path) -> Iterator[dict[str, Any]]:
    """Compare the demo's recipes at every number of labels."""
    numbers = json.loads(path.read_text())["numbers"] if path.exists() else []
    for labels in sorted({one["labels_per_class"] for one in numbers}):
        here = [one for one in numbers if one["labels_per_class"] == labels]
        single: dict[str, dict[int, float]] = {}
        for one in here:
            single.setdefault(_DEMO[one["recipe"]], {})[one["seed"]] = one["top1_percent"]
        spent = {_DEMO[one["recipe"]]: one["gflops"] for one in here}
        chosen = recommending.choice(single, spent, [name for name in single if name.startswith("scratch")])
        recipe = next(name for name, shown in _DEMO.items() if shown == chosen["advice"])
        yield {
            "source": path.name,
            "data": "digits, 8 px",
            "on": f"{here[0]['images']} test images. One pre-training serves all seeds, and the test images were seen "
            "between rounds of the search for its settings ([digits.md](digits.md))",
            "training_images": 1346,
            "labels_per_class": labels,
            **chosen,
            "commands": _digits_commands(recipe, labels),
        }


def _digits_commands(name: str, labels: int) -> list[str]:
    """Return the demo's commands for a number of labels: as many updates at the same rate, in batches of 50 at most."""
    base, batch = recipes.get(name), min(10 * labels, 50)
    times = 10 * labels // batch
    tuned = recipes.derive(
        base,
        labels_per_class=labels,
        global_batch_size=batch,
        epochs=base.epochs / times,
        warmup_epochs=base.warmup_epochs / times,
        lr_per_256=base.peak_lr * 256 / batch,
    )
    flags = changes(tuned)
    if base.start == "random":
        return [shlex.join(["mae-lite", "finetune", name, "--data", "digits", *flags])]
    return [
        "mae-lite pretrain digits-mae --data digits --out runs/digits-mae",
        shlex.join(["mae-lite", "finetune", name, "--data", "digits", "--init", "runs/digits-mae", *flags]),
    ]


def _small_data(path: Path) -> Iterator[dict[str, Any]]:
    """Compare MAE and scratch on the test images, each with the settings that were chosen on others."""
    content = json.loads(path.read_text())
    single, spent = {}, {}
    for row in content["test"]:
        chosen = row["chosen"]
        updates = chosen["finetune_epochs"] * content["labels_per_class"] * 10 // 100
        name = f"{'MAE' if chosen['side'] == 'mae' else 'scratch'}, {updates:,} updates"
        single[name] = {0: 100 * row["test_top1"]}
        spent[name] = _small_gflops(chosen, content)
    yield {
        "source": path.name,
        "data": "CIFAR-10, 32 px",
        "on": "10,000 test images, with an encoder smaller than the recipes' ([small_data.md](small_data.md))",
        "training_images": content["images"],
        "labels_per_class": content["labels_per_class"],
        **recommending.choice(single, spent, [name for name in single if name.startswith("scratch")]),
        "commands": [
            "mae-lite pretrain small-data-mae --data train.parquet --out runs/small-data-mae",
            "mae-lite finetune small-data-finetune --data train.parquet --init runs/small-data-mae "
            "--labels-per-class 100",
        ],
    }


def _small_gflops(chosen: Mapping[str, Any], content: Mapping[str, Any]) -> float:
    """Return the arithmetic of one row of small_data.json, with the encoder that it was measured with."""
    side = "finetune" if chosen["side"] == "mae" else "scratch"
    tuned = recipes.derive(recipes.get(f"small-data-{side}"), encoder=content["encoder"])
    start = recipes.derive(recipes.get("small-data-mae"), encoder=content["encoder"])
    labelled: float = content["labels_per_class"] * 10
    before: float = costs.step_gflops(start) * content["images"] * chosen["pretrain_epochs"]
    after: float = costs.step_gflops(tuned) * labelled * chosen["finetune_epochs"]
    return before + after


def page(found: Sequence[Mapping[str, Any]]) -> str:
    """Return the page."""
    header = ["data", "training images", "labels per class", "what was compared", "best", "advice", "TFLOP",
              "points over scratch"]  # fmt: skip
    lines = [HEAD, f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    for item in found:
        labels = _labels(item)
        cells = [_size(item), f"{item['training_images']:,}", labels, "; ".join(item["compared"]), item["best"]]
        cells += [f"**{item['advice']}**: {_text(item['top1_percent'])} %", f"{item['gflops'] / 1e3:,.3g}", _gain(item)]
        lines.append(f"| {' | '.join(str(cell) for cell in cells)} |")
    for item in found:
        between = " of the" if item.get("label_fraction") else ""
        labels = f"{_labels(item)}{between} labels" + ("" if item["labels_per_class"] is None else " per class")
        lines += ["", f"## {item['data']}, {labels}: {item['advice']}", "", _basis(item), ""]
        lines += ["```", *item["commands"], "```"]
    return "\n".join([*lines, TAIL])


def _labels(item: Mapping[str, Any]) -> str:
    share = item.get("label_fraction")
    return f"{100 * share:g} %" if share else str(item["labels_per_class"] or "all")


def _size(item: Mapping[str, Any]) -> str:
    size = item.get("encoder_parameters")
    return item["data"] if size is None else f"{item['data']}, {size / 1e6:.2f} M parameters"


def _basis(item: Mapping[str, Any]) -> str:
    """Return what an advice rests on."""
    seeds = "One seed, so that nothing is said of chance" if item["seeds"] == 1 else f"{item['seeds']} seeds"
    others = " It is the best."
    if item["behind_best"] is not None:
        times = item["best_gflops"] / item["gflops"]
        others = (
            f" It is {_text(item['behind_best'])} points from the best, {item['best']}, which costs {times:.2g} times"
        )
        others += " as much arithmetic."
    source = f"Numbers: `benchmarks/results/{item['source']}`."
    return f"{seeds}; measured on {item['on']}.{others}{recommending.chance(item)} {source}"


def _text(numbers: Mapping[str, Any]) -> str:
    return Estimate(tuple(numbers["values"])).text()


def _gain(item: Mapping[str, Any]) -> str:
    gain = item["gain_over_scratch"]
    if gain is None:
        return "none: it is scratch" if item["scratch"] else "no scratch here"
    return f"{'+' * (gain['mean'] > 0)}{_text(gain)} ({item['scratch']})"


def main(words: Sequence[str] | None = None) -> None:
    """Read the results and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, help="folder of a finished demo, whose numbers go to demo.json")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=PAGE)
    options = parser.parse_args(words)
    if options.demo is not None:
        (options.results / "demo.json").write_text(json.dumps(collected(options.demo), indent=1) + "\n")
    options.out.write_text(page(advices(options.results)))
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
