"""From what was seen to files: JSON with every number, figures, and the sentences that say what they show."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from mae_lite import figures
from mae_lite.analysis import sentences
from mae_lite.analysis.importance import How
from mae_lite.analysis.loading import labels_of
from mae_lite.analysis.observing import Observer
from mae_lite.analysis.pictures import attention_png, tokens_png
from mae_lite.evaluation.probes import Labels

_WORDS: Mapping[How, str] = {"skip": "skipped", "reinitialise": "begun anew"}


@dataclass
class Contents:
    """All that an analysis leaves."""

    summary: dict[str, Any]
    """What was looked at, and the sentences of every figure by the name of its file."""
    files: dict[str, bytes] = field(default_factory=dict)

    def numbers(self, name: str, value: Any) -> None:
        """Add a JSON file."""
        self.files[name] = (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()

    def figure(self, name: str, data: bytes | str, said: list[str]) -> None:
        """Add a figure and what it shows."""
        self.files[name] = data.encode() if isinstance(data, str) else data
        self.summary["figures"][name] = said


def contents(
    observers: Sequence[Observer],
    matrices: Mapping[tuple[int, int], Tensor],
    labels: Labels,
    how: How | None,
    about: Mapping[str, Any],
) -> Contents:
    """Return all files of an analysis.

    Args:
        observers: one for each model, after the last image.
        matrices: CKA [L, M] between the blocks of two models, by their numbers.
        labels: [n] class numbers of the images.
        how: what was done to one block at a time; None for nothing.
        about: what else to write down.
    """
    names = labels_of([observer.analysed.source for observer in observers])
    described = {name: _described(observer) for name, observer in zip(names, observers, strict=True)}
    found = Contents({**about, "images": len(labels), "models": described, "figures": {}, "not_shown": []})
    named = dict(zip(names, observers, strict=True))
    colours = figures.assign_colours({name: observer.analysed.method for name, observer in named.items()})
    for (one, other), matrix in matrices.items():
        _add_cka(found, names[one], names[other], matrix)
    _add_attention(found, named, colours)
    if how is not None:
        _add_importance(found, named, colours, labels, how)
    for name, observer in named.items():
        _add_pictures(found, name, observer)
        _add_gallery(found, name, observer)
    return found


def _described(observer: Observer) -> dict[str, Any]:
    analysed = observer.analysed
    model = analysed.model
    return {
        "source": analysed.source,
        "side_px": analysed.side_px,
        "patch_px": analysed.patch_px,
        "blocks": len(model.blocks),
        "heads": model.blocks[0].attn.num_heads,
        "width": model.embed_dim,
    }


def _add_cka(found: Contents, one: str, other: str, matrix: Tensor) -> None:
    cells = [[None if math.isnan(value) else value for value in row] for row in matrix.tolist()]
    stem = f"cka-{one}" if one == other else f"cka-{one}+{other}"  # no name has a plus
    said = sentences.within(one, cells) if one == other else sentences.between(one, other, cells)
    found.numbers(f"{stem}.json", {"rows": one, "columns": other, "cka": cells, "sentence": said})
    picture = figures.heatmap(cells, f"block of {other}", f"block of {one}", "CKA")
    found.figure(f"{stem}.svg", picture, [said])


def _add_attention(found: Contents, named: Mapping[str, Observer], colours: Mapping[str, str]) -> None:
    far = {name: observer.heads.distance_px() for name, observer in named.items()}
    wide = {name: observer.heads.entropy_nats() for name, observer in named.items()}
    uniform = {name: observer.heads.distances.mean().item() for name, observer in named.items()}
    most = {name: math.log(len(observer.heads.distances)) for name, observer in named.items()}
    told = [sentences.distance(name, far[name], uniform[name]) for name in named]
    told_widths = [sentences.entropy(name, wide[name], most[name]) for name in named]
    numbers = {
        name: {
            "distance_px": far[name],
            "uniform_distance_px": uniform[name],
            "entropy_nats": wide[name],
            "uniform_entropy_nats": most[name],
        }
        for name in named
    }
    found.numbers("attention.json", {"models": numbers, "sentences": [*told, *told_widths]})
    found.figure("attention-distance.svg", _over_blocks(far, colours, "attention distance (pixels)"), told)
    found.figure("attention-entropy.svg", _over_blocks(wide, colours, "attention entropy (nats)"), told_widths)


def _add_importance(
    found: Contents, named: Mapping[str, Observer], colours: Mapping[str, str], labels: Labels, how: How
) -> None:
    measured = {name: o.ablation.result(labels) for name, o in named.items() if o.ablation is not None}
    told = [sentences.importance(name, value, _WORDS[how]) for name, value in measured.items()]
    numbers = {
        name: {"knn_top1": value.whole, "knn_top1_without": value.without, "drop": value.drops()}
        for name, value in measured.items()
    }
    found.numbers("importance.json", {"how": how, "models": numbers, "sentences": told})
    drops = {name: [[100 * drop] for drop in value.drops()] for name, value in measured.items()}
    picture = _over_blocks(drops, colours, f"kNN lost with the block {_WORDS[how]} (points)")
    found.figure("importance.svg", picture, told)


def _over_blocks(values: Mapping[str, list[list[float]]], colours: Mapping[str, str], label: str) -> str:
    """Draw numbers of each block; a model with fewer blocks has none above its last."""
    depth = max(map(len, values.values()))
    padded = {name: [*rows, *([] for _ in range(depth - len(rows)))] for name, rows in values.items()}
    return figures.points([str(number + 1) for number in range(depth)], padded, colours, "block", label)


def _add_pictures(found: Contents, name: str, observer: Observer) -> None:
    if not observer.pictures:
        return
    images, tokens = observer.shown()
    picture, share = tokens_png(images, tokens, observer.analysed.grid)
    found.figure(f"tokens-{name}.png", picture, [sentences.colours(name, share)])
    maps = observer.maps()
    numbers: dict[str, Any] = {"tokens_variance_share": share}
    if maps:
        shares = [block.sum(dim=1).mean().item() for block in maps]
        places = sorted({0, len(maps) // 2, len(maps) - 1})
        rows = [maps[place] for place in places]
        said = sentences.looking(name, [place + 1 for place in places], shares[0], shares[-1])
        found.figure(f"class-attention-{name}.png", attention_png(images, rows, observer.analysed.grid), [said])
        numbers["class_attention_on_patches"] = shares
    found.numbers(f"pictures-{name}.json", numbers)


def _add_gallery(found: Contents, name: str, observer: Observer) -> None:
    gallery, not_shown = observer.gallery, found.summary["not_shown"]
    if isinstance(gallery, str):
        not_shown += [sentences.no_painting(name, gallery)] if gallery else []
        return
    if gallery.left_out:
        not_shown.append(sentences.nothing_left(name, gallery.left_out, math.prod(observer.analysed.grid)))
    if not gallery.painted():
        return
    said = sentences.painting(name, gallery.painted(), gallery.trained_with)
    found.numbers(f"reconstructions-{name}.json", {**gallery.numbers(), "sentence": said})
    picture = gallery.png()
    if picture is None:
        not_shown.append(said)
    else:
        found.figure(f"reconstructions-{name}.png", picture, [said])
