"""From the numbers of probes to files: JSON, the labels that were used, figures over blocks with a sentence each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mae_lite import figures, files
from mae_lite.analysis.loading import Analysed, labels_of
from mae_lite.data import labels_file
from mae_lite.frozen.images import Divided
from mae_lite.frozen.settings import ProbeSettings

TOKENS = {"class": "class token", "patches": "mean patch token"}
_USUAL_K = "20"
Row = Mapping[str, Any]


def written(
    models: Sequence[Analysed],
    results: Sequence[Sequence[Row]],
    images: Divided,
    settings: ProbeSettings,
    out: Path | None,
) -> dict[str, Any]:
    """Return the summary of all models; with ``out``, leave it there, and each run's numbers in its ``eval`` folder."""
    names = labels_of([model.source for model in models])
    about = _about(images, settings)
    listed = labels_file.as_csv(images.train.images) if images.few else None
    if listed is not None:
        about["train"]["labels_sha256"] = files.sha256(listed.encode())
    described = {
        name: {"model": model.source, "pretraining": model.method or None, "features": [dict(row) for row in rows]}
        for name, model, rows in zip(names, models, results, strict=True)
    }
    summary: dict[str, Any] = {**about, "models": described, "figures": {}}
    drawn = _figures(models, described) if settings.blocks else {}
    summary["figures"] = {name: said for name, (_, said) in drawn.items()}
    if out is None:
        return summary
    files.make_folder(out)
    if listed is not None:
        files.write_text(out / labels_file.FILE, listed)
    for name, (svg, _) in drawn.items():
        files.write_text(out / name, svg)
    for name, one in described.items():
        _write_one(name, {**about, **one}, out)
    files.write_json(out / "probe.json", summary)
    return summary


def _write_one(name: str, result: dict[str, Any], out: Path) -> None:
    run = Path(result["model"])
    if not (run / "recipe.json").exists():
        files.write_json(out / f"probe-{name}.json", result)
        return
    asked = repr([result[key] for key in ("data", "test_data", "train", "settings")])
    files.make_folder(run / "eval")
    files.write_json(
        run / "eval" / f"probe-{result['split'].split()[0]}-{files.sha256(asked.encode())[:8]}.json", result
    )


def _about(images: Divided, settings: ProbeSettings) -> dict[str, Any]:
    train, measured = images.train, images.measured
    used = ("labels_per_class", "label_fraction", "test_fraction", "validation_fraction", "seed", "ks", "temperature")
    chosen = settings.model_dump(mode="json")
    return {
        "kind": "probe",
        "data": settings.data,
        "test_data": settings.test_data,
        "split": measured.split,
        "images": len(measured.positions),
        "fingerprint": measured.images.fingerprint(),
        "train": {"images": len(train.positions), "fingerprint": train.images.fingerprint()},
        "classes": len(images.classes),
        "settings": {name: chosen[name] for name in (*used, "rates", "epochs", "blocks")},
    }


def _figures(models: Sequence[Analysed], described: Mapping[str, Row]) -> dict[str, tuple[str, list[str]]]:
    """Return SVG and sentences of accuracy against block, by file: of each probe and token one with all models."""
    blocks = [str(block + 1) for block in range(max(len(model.model.blocks) for model in models))]
    colours = figures.assign_colours({name: model.method for name, model in zip(described, models, strict=True)})
    found = {}
    for kind, label in (("linear", "linear probe"), ("knn", f"kNN vote (k = {_k(described)})")):
        for token, words in TOKENS.items():
            lines = {
                name: [_top1(row, kind) for row in one["features"] if row["token"] == token]
                for name, one in described.items()
            }
            lines = {name: line for name, line in lines.items() if line}  # not every model has a class token
            if not lines:
                continue
            padding: list[list[float]] = [[] for _ in blocks]
            values = {name: [*([100 * top1] for top1 in line), *padding[len(line) :]] for name, line in lines.items()}
            svg = figures.points(blocks, values, colours, f"block ({words})", f"top-1 of the {label}, %")
            found[f"probe-{kind}-{token}.svg"] = (
                svg,
                [sentence(name, words, label, line) for name, line in lines.items()],
            )
    return found


def sentence(name: str, token: str, label: str, top1: Sequence[float]) -> str:
    """Say how accuracy, 0 to 1 after each block, goes from the first block to the last, and where it is highest."""
    best = max(range(len(top1)), key=lambda place: top1[place])
    where = "the last" if best == len(top1) - 1 else f"block {best + 1} ({100 * top1[best]:.1f} %)"
    return (
        f"{name}, {token}: the {label} is right for {100 * top1[0]:.1f} % after block 1 and {100 * top1[-1]:.1f} % "
        f"after block {len(top1)}; best is {where}."
    )


def _k(described: Mapping[str, Row]) -> str:
    known = list(next(iter(described.values()))["features"][0]["knn_top1"])
    return _USUAL_K if _USUAL_K in known else str(known[0])


def _top1(row: Row, kind: str) -> float:
    known = row["knn_top1"]
    return float(row["linear_top1"]) if kind == "linear" else float(known.get(_USUAL_K, next(iter(known.values()))))


def as_text(summary: Mapping[str, Any]) -> str:
    """Return a table of accuracies in percent, and the sentences."""
    ks = list(next(iter(summary["models"].values()))["features"][0]["knn_top1"])
    width = max(len("model"), *(len(name) for name in summary["models"]))
    head = ["block", "token", "linear", "rate", *(f"k={k}" for k in ks)]
    train = f"{summary['train']['images']:,} training images of {summary['data']}{_few(summary['settings'])}"
    lines = [
        f"{train}, top-1 in percent on {summary['images']:,} others ({summary['split']})",
        "model".ljust(width) + "".join(word.rjust(9) for word in head),
    ]
    for name, one in summary["models"].items():
        for row in one["features"]:
            cells = [str(row["block"]), row["token"], f"{100 * row['linear_top1']:.1f}", f"{row['learning_rate']:g}"]
            cells += [f"{100 * row['knn_top1'][k]:.1f}" for k in ks]
            lines.append(name.ljust(width) + "".join(cell.rjust(9) for cell in cells))
    for name, said in summary["figures"].items():
        lines += [name, *(f"  {words}" for words in said)]
    return "\n".join(lines)


def _few(settings: Mapping[str, Any]) -> str:
    if settings["labels_per_class"] is not None:
        return f" ({settings['labels_per_class']} of each class)"
    return "" if settings["label_fraction"] is None else f" ({100 * settings['label_fraction']:g} % of each class)"
