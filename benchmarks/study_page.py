"""Publish a finished study: its numbers as JSON, its page, and a summary that says what each claim came to.

    python benchmarks/study_page.py cifar10 [--study RUNS/cifar10-cpu] [--transfer RUNS/SUITE] [--again RUN OLD]

``--study`` takes table.json and report.html of a study's folder; ``--transfer`` the numbers of a transfer of its
models; ``--again`` compares a run that was trained anew with the study's run of the same settings. Their numbers go to
benchmarks/results, the pages to docs/studies/NAME (here cifar10). Then the tables of index.md there, and those of the
README, are made anew from the numbers; the words around them are written by hand.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mae_lite import files, studies
from mae_lite.exporting.machine import processor
from mae_lite.report import read
from mae_lite.report.groups import Estimate
from mae_lite.report.values import number
from mae_lite.studying import claims

ROOT = Path(__file__).resolve().parent.parent


def without_places(text: str, runs: Path, data: str = "") -> str:
    """Return ``text`` with paths as somebody has them who works where the runs and the images are."""
    text = text.replace(f"{runs.resolve().parent}/", "")
    text = text.replace(data, Path(data).name) if "/" in data else text
    return re.sub(r"/[\w./-]+/(mae_lite/__main__\.py)", r"\1", text)


def study(folder: Path, command: str) -> dict[str, Any]:
    """Return what a study measured, with the command, the machine, and the seconds of all its runs together."""
    text = (folder / "table.json").read_text()
    content = json.loads(without_places(text, folder.parent, json.loads(text)["data"]))
    runs = {Path(one["run"]).name for one in content["numbers"]}
    seen: set[str] = set()
    seconds, probes = 0.0, {}
    while runs - seen:  # the classifiers, what they start from, and the teachers of that
        for name in runs - seen:
            run = read.read(folder.parent / name)
            seen.add(name)
            seconds += number(run.status.get("seconds")) or 0.0
            if linear := run.series("linear_top1")[1]:
                probes[name] = {"linear_top1_first": linear[0], "linear_top1_last": linear[-1]}
            runs |= {Path(one).name for one in (run.init, run.teacher) if one}
    kept = {path.parent.name: _kept(path) for path in sorted(folder.parent.glob("layers-*/layers.json"))}
    hardware = {**processor(), "cpus": os.cpu_count()}
    made = {"command": command.split(), "hardware": hardware, "runs": len(runs), "core_seconds": round(seconds)}
    return {**content, **made, "probes": dict(sorted(probes.items())), "kept": kept}


def _kept(path: Path) -> dict[str, Any]:
    """Return top-1 by the number of blocks that were kept, from the first and from the last."""
    content = json.loads(path.read_text())
    sides = {side: {str(at["blocks"]): at["top1"]["by_seed"] for at in content[side]} for side in ("first", "last")}
    return {"seeds": content["seeds"], **sides}


def again(new: Path, old: Path) -> dict[str, Any]:
    """Compare a run that was trained anew with that of the study: accuracy, and every weight."""
    runs = [read.read(folder) for folder in (new, old)]
    tops = [run.accuracy() for run in runs]
    raws = [run.raw for run in runs]
    if raws[0] != raws[1] or None in tops:
        raise SystemExit(f"{new} and {old} are not of one recipe, or one is not measured")
    models = [files.sha256((folder / "classifier" / "model.safetensors").read_bytes()) for folder in (new, old)]
    return {"run": old.name, "recipe": raws[0]["name"], "seed": raws[0]["seed"],
            "top1_percent": [100 * one.top1 for one in tops if one is not None],
            "same_weights": models[0] == models[1], "hardware": processor()}  # fmt: skip


def estimate(numbers: Mapping[str, Any]) -> str:
    """Return a mean with its interval."""
    return Estimate(tuple(numbers["values"])).text()


def row(*cells: object) -> str:
    """Return a row of a table."""
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def accuracies(content: Mapping[str, Any]) -> list[str]:
    """Return the table of accuracies: a row for each method, a column for each number of labels."""
    tasks = list(dict.fromkeys(one["task"] for one in content["means"]))
    methods = list(dict.fromkeys(one["method"] for one in content["means"]))
    found = {(one["method"], one["task"]): one for one in content["means"]}
    lines = [row("method", *tasks, "seeds"), "|---" * (len(tasks) + 2) + "|"]
    for method in methods:
        cells = [estimate(found[method, task]) if (method, task) in found else "" for task in tasks]
        lines.append(row(method, *cells, max(len(found[method, task]["seeds"]) for task in tasks)))
    return lines


def verdicts(content: Mapping[str, Any]) -> list[str]:
    """Return the table of claims."""
    lines = [row("the paper says", "measured here", "difference", "verdict"), "|---" * 4 + "|"]
    return lines + [
        row(one["says"], one["what"], claims.text(one), f"**{one['verdict']}**") for one in content["claims"]
    ]


def transferred(content: Mapping[str, Any]) -> list[str]:
    """Return the table of a transfer."""
    sets = [one["set"] for one in content["sets"]]
    found = {(one["model"], one["set"]): one for one in content["results"]}
    lines = [row("weights", *sets), "|---" * (len(sets) + 1) + "|"]
    for model in (one["model"] for one in content["models"]):
        lines.append(row(model, *(estimate(found[model, one]["top1"]) for one in sets)))
    return lines


def repeated(content: Mapping[str, Any]) -> list[str]:
    """Return the sentence about a run that was trained anew."""
    first, second = content["top1_percent"]
    same = "every weight has the same bits" if content["same_weights"] else "the weights differ"
    of = f"`{content['run']}` ({content['recipe']}, seed {content['seed']})"
    return [f"{of}: {second:.2f} % in the study, {first:.2f} % when trained anew; {same}."]


def cost(content: Mapping[str, Any]) -> list[str]:
    """Return the sentence about command, machine and time."""
    machine, hours = content["hardware"], content["core_seconds"] / 3600
    where = f"{machine['cpus']} cores of {machine['model']}"
    trained = f"{content['runs']} runs of pre-training and fine-tuning, {hours:.1f} hours of one core"
    above = "measuring, `layers` and analyses come" if content["kept"] else "measuring and analyses come"
    return [f"`{' '.join(content['command'])}`, {where}: {trained}; {above} on top."]


def beside_the_paper(content: Mapping[str, Any]) -> list[str]:
    """Return the table of accuracies, with what the paper reports of these methods on ImageNet in the last column."""
    paper = {one.name: one.published for one in studies.get("paper").rows}
    header, line, *rows = accuracies(content)
    lines = [f"{header} the paper: ViT-Tiny, ImageNet |", f"{line}---|"]
    for text in rows:
        known = paper.get(text.split("|")[1].strip())
        lines.append(f"{text} {'' if known is None else known} |")
    return [*lines, "", *cost(content)]


def ceiling(content: Mapping[str, Any]) -> list[str]:
    """Return the table of the convolutional network beside a study, and the sentence about its learning rate."""
    measured = [one for one in content["rows"] if one["measured_on"] == "test"]
    tried = {one["rate"]: one["top1"] for one in content["rows"] if one["measured_on"] == "validation"}
    tasks = list(dict.fromkeys(one["task"] for one in measured))
    tops = {task: [one["top1"] for one in measured if one["task"] == task] for task in tasks}
    if len({len(found) for found in tops.values()}) != 1:
        return ["Not measured yet."]
    cells = [estimate({"values": tops[task]}) for task in tasks]
    hours = sum(one["seconds"] for one in content["rows"]) / 3600
    found = f"Learning rates of a batch of 128, on validation images: {', '.join(f'{k:g}' for k in sorted(tried))}; "
    return [
        row("network", *tasks, "seeds"),
        "|---" * (len(tasks) + 2) + "|",
        row(content["model"], *cells, max(map(len, tops.values()))),
        "",
        f"{found}the best is {max(tried, key=lambda rate: tried[rate]):g}. "
        f"`{' '.join(content['command'])}`, {content['hardware']['cpus']} cores: {hours:.1f} hours.",
    ]


TABLES: dict[str, Callable[[Mapping[str, Any]], list[str]]] = {
    "accuracies": accuracies, "claims": verdicts, "transfer": transferred, "again": repeated, "cost": cost,
    "readme": beside_the_paper, "ceiling": ceiling,
}  # fmt: skip


def filled(text: str, results: Path) -> str:
    """Return a page with its tables made anew: those between ``<!-- TABLE FILE -->`` and ``<!-- end -->``."""

    def table(found: re.Match[str]) -> str:
        numbers = results / f"{found[3]}.json"
        lines = TABLES[found[2]](json.loads(numbers.read_text())) if numbers.exists() else ["Not measured yet."]
        return "\n".join([found[1], *lines, found[4]])

    return re.sub(r"(<!-- (\w+) ([\w-]+) -->)\n.*?(<!-- end -->)", table, text, flags=re.DOTALL)


def main(words: Sequence[str] | None = None) -> None:
    """Take over what is given, and make the pages' tables anew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the study: cifar10 or cifar10-scarce")
    parser.add_argument("--study", type=Path, help="folder of its table and page")
    parser.add_argument("--command", default="mae-lite study cifar10 --scale cpu --data cifar10", help="that made it")
    parser.add_argument("--transfer", type=Path, help="folder of a transfer's table")
    parser.add_argument("--again", type=Path, nargs=2, metavar=("RUN", "OLD"))
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--pages", type=Path, nargs="*", default=[ROOT / "README.md"])
    parser.add_argument("--docs", type=Path, default=ROOT / "docs" / "studies")
    options = parser.parse_args(words)
    place, made = options.docs / options.name, {}
    place.mkdir(parents=True, exist_ok=True)
    if options.study is not None:
        made[f"study_{options.study.name}"] = study(options.study, options.command)
        data = json.loads((options.study / "table.json").read_text())["data"]
        html = (options.study / "report.html").read_text()
        (place / "report.html").write_text(without_places(html, options.study.parent, data))
    if options.transfer is not None:
        table = without_places((options.transfer / "transfer.json").read_text(), options.transfer.parent)
        made[f"transfer_{options.name}"] = {**json.loads(table), "hardware": processor()}
        html = (options.transfer / "report.html").read_text()
        (place / "transfer.html").write_text(without_places(html, options.transfer.parent))
    if options.again is not None:
        made[f"again_{options.name}"] = again(*options.again)
    for name, content in made.items():
        (options.results / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    for page in (*options.pages, place / "index.md"):
        if page.exists():
            page.write_text(filled(page.read_text(), options.results))


if __name__ == "__main__":
    main()
