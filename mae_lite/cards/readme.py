"""The card as a ``README.md`` for the Hugging Face Hub: front matter in YAML, then words for people.

Names of classes, files and data come from anywhere: in YAML they are quoted, in Markdown escaped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mae_lite.cards import words
from mae_lite.cards.words import short

_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_MARKUP = re.compile(r"([\\`*_\[\]<>#!|~&$])")
_LIBRARIES = (("huggingface", "transformers"), ("timm", "timm"), ("timm-half", "timm"), ("onnx", "onnx"))
_OPENED = {
    "timm": 'timm.create_model("local-dir:timm", pretrained=True)',
    "timm-half": 'timm.create_model("local-dir:timm-half", pretrained=True)',
    "torch-export": 'torch.export.load("torch-export/model.pt2").module()',
    "onnx": 'onnxruntime.InferenceSession("onnx/model.onnx")',
    "onnx-int8": 'onnxruntime.InferenceSession("onnx-int8/model.onnx")',
    "huggingface": 'transformers.AutoModel.from_pretrained("huggingface")',
}
FORM_COLUMNS = (
    "form",
    "size",
    "accuracy (95 % interval)",
    "points lost (95 % interval)",
    "one image, one thread: p50",
    "p95",
    "best throughput, all threads",
    "peak memory",
)


def readme(record: Mapping[str, Any], repo: str | None = None) -> str:
    """Return the text of ``README.md``.

    Args:
        record: what stands in ``card.json``; without forms, what is known of a model that was not measured.
        repo: OWNER/NAME on the hub of a model that is the only one there; None for folders of forms.
    """
    parts = ["\n".join(["---", *_yaml(front_matter(record)), "---"]), f"# {_plain(record['title'])}"]
    if record["forms"]:
        parts += [_plain(sentence) for sentence in words.headline(record, short(record["measured_on"]["data"]))]
        parts += ["## Forms", _table(*_forms(record)), *map(_plain, words.processor(record))]
    parts += _opening(record, repo)
    if record["quality"] is not None:
        parts += ["## Quality", *_quality(record)]
    parts += ["## Input and output", _listed(words.inputs(record))]
    classes = record["classes"]
    parts.append("Classes: " + (", ".join(map(_plain, classes)) if classes else "not named."))
    parts += ["## Provenance", _listed(words.origins(record))]
    return "\n\n".join(parts) + "\n"


def front_matter(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the front matter as a tree of values (Hugging Face: "Model Cards")."""
    named = {form["form"] for form in record["forms"]}
    library = next((library for form, library in _LIBRARIES if form in named), "timm")
    found, trained = record["quality"], (record["provenance"] or {}).get("data", "")
    published = trained.startswith("hf:") and not Path(trained.removeprefix("hf:")).exists()
    method = [record["method"].replace("_", "-")] if record["method"] else []
    front: dict[str, Any] = {
        "license": record["licence"] or "unknown",
        "library_name": library,
        "pipeline_tag": record["task"],
        "tags": [record["task"], "vision-transformer", "mae-lite", *method],
    }
    if published:
        front["datasets"] = [trained.removeprefix("hf:").partition("@")[0]]
    if found is None:
        return front
    about = record["measured_on"]
    data = short(about["data"])
    kind = re.sub(r"[^\w./-]+", "-", data.removeprefix("hf:")).strip("-") or "images"
    scores = [
        ("accuracy", found["top1"], "top-1 accuracy"),
        ("accuracy", found["balanced_accuracy"], "balanced accuracy"),
    ]
    metrics = [{"type": kind_, "value": round(value, 6), "name": name} for kind_, value, name in scores]
    result = {
        "task": {"type": record["task"], "name": "image classification"},
        "dataset": {"name": data, "type": kind, **({} if about["split"] == "undivided" else {"split": about["split"]})},
        "metrics": metrics,
    }
    return {**front, "metrics": ["accuracy"], "model-index": [{"name": record["title"], "results": [result]}]}


def _yaml(value: Any, depth: int = 0) -> list[str]:
    """Return lines of block style; every text is quoted."""
    space = "  " * depth
    if isinstance(value, dict):
        lines: list[str] = []
        for key, each in value.items():
            nested = isinstance(each, dict | list)
            lines += [f"{space}{key}:", *_yaml(each, depth + 1)] if nested else [f"{space}{key}: {_scalar(each)}"]
        return lines
    if isinstance(value, list):
        lines = []
        for each in value:
            first, *rest = _yaml(each, depth + 1) if isinstance(each, dict | list) else [_scalar(each)]
            lines += [f"{space}- {first.lstrip()}", *rest]
        return lines
    return [space + _scalar(value)]


def _scalar(value: Any) -> str:
    """Return a text or number as YAML 1.1 and 1.2 read it: JSON, with what YAML does not print escaped."""
    if not isinstance(value, str):
        return json.dumps(value)
    text = json.dumps(value.encode("utf-8", "replace").decode(), ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _plain(text: Any) -> str:
    """Return text of which Markdown makes nothing else, on one line."""
    return _MARKUP.sub(r"\\\1", " ".join(str(text).encode("utf-8", "replace").decode().split()))


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *([_plain(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _forms(record: Mapping[str, Any]) -> tuple[Sequence[str], list[list[str]]]:
    return FORM_COLUMNS, [form_row(form) for form in record["forms"]]


def form_row(form: Mapping[str, Any]) -> list[str]:
    """Return the cells of a form: name, size, accuracy, points lost, latencies, throughput and peak memory."""
    one, best = form["latency"][0], max(form["throughput"]["batches"], key=lambda each: each["images_per_second"])
    peak = None if form["memory"] is None else form["memory"]["peak_mb"]
    known, own = form["accuracy"] is not None, form["form"] == "torch"
    return [
        form["form"],
        words.megabytes(form["bytes"]),
        f"{words.percent(form['accuracy'])} ({words.interval(form['interval'])})" if known else "not measured",
        "reference" if own else words.points(form["drop"], form["drop_interval"]) if known else "not measured",
        words.milliseconds(one["p50_ms"]),
        words.milliseconds(one["p95_ms"]),
        f"{words.rate(best['images_per_second'])} images/s (batch {best['batch']})",
        "not measured" if peak is None else f"{peak:,.0f} MB",
    ]


def _opening(record: Mapping[str, Any], repo: str | None) -> list[str]:
    if repo is not None:
        line = f'model = timm.create_model("hf-hub:{repo}", pretrained=True)'
        return ["Opened with:", f"```python\nimport timm\n\n{line}\n```"]
    lines = [_OPENED[form["form"]] for form in record["forms"] if form["form"] in _OPENED]
    return ["Opened with, in this folder:", "```python\n" + "\n".join(lines) + "\n```"] if lines else []


def _quality(record: Mapping[str, Any]) -> list[str]:
    found = record["quality"]
    sure = found["calibration"]
    error, mean = f"{100 * sure['ece']:.1f} points", words.percent(sure["mean_confidence"])
    said = (
        f"Top-1 accuracy {words.percent(found['top1'])}, balanced accuracy "
        f"{words.percent(found['balanced_accuracy'])}, expected calibration error {error}: "
        f"its mean confidence is {mean}."
    )
    rows = [
        [one["class"], f"{one['images']:,}", "no images" if one["accuracy"] is None else words.percent(one["accuracy"])]
        for one in found["per_class"]
    ]
    return [_plain(said), _table(["class", "images", "accuracy"], rows)]


def _listed(rows: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"- **{name}**: {_plain(text)}" for name, text in rows)
