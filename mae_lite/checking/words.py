"""The result of a check in words: a short table, and advice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mae_lite.config import Recipe
from mae_lite.errors import in_line

_SHOWN = 8


def as_text(summary: dict[str, Any]) -> str:
    """Return the numbers of one set as lines for a terminal."""
    classes = summary["classes"]
    labels = "without labels" if classes is None else f"in {len(classes):,} classes"
    part = "" if summary["split"] is None else f", {summary['split']}"
    looked_at = "" if summary["looked_at"] == summary["images"] else f" of {summary['looked_at']:,} looked at"
    head = f"{in_line(summary['data'])}{part}: {summary['images']:,} images {labels}"
    lines = [f"{head}, {summary['readable']:,}{looked_at} readable"]
    if summary["readable"]:
        side, mean, std = summary["short_side_px"], summary["mean"], summary["std"]
        lines += [
            f"  formats     {_counts(summary['kinds'])}",
            f"  short side  {side['min']:,} to {side['max']:,} px, median {side['median']:,.0f}; "
            f"longest to shortest side at most {summary['longest_to_shortest']:g} : 1",
        ]
        if summary["treated"]:
            lines.append(f"  on reading  {_counts(summary['treated'])}")
        lines.append(f"  mean, std   {_numbers(mean)}, {_numbers(std)} (pixels in 0 to 1)")
    if classes:
        lines.append(f"  classes     {_balance(classes)}")
    if summary["copies"]:
        across = summary["copies_across_classes"]
        other = f", {across:,} of them under another label" if across else ""
        lines.append(f"  copies      {summary['copies']:,} images repeat the content of another{other}")
    if summary["bad"]:
        lines.append(f"  bad         {len(summary['bad']):,} cannot be read; training goes on with up to "
                     f"{summary['bad_allowed']:,}")  # fmt: skip
        lines += [f"    {in_line(item['image'])} {in_line(item['reason'])}" for item in summary["bad"][:_SHOWN]]
        if len(summary["bad"]) > _SHOWN:
            lines.append(f"    and {len(summary['bad']) - _SHOWN:,} more")
        fixes = dict.fromkeys(item["fix"] for item in summary["bad"] if item["fix"])
        lines += [f"    to mend them: {in_line(fix)}" for fix in list(fixes)[:3]]
    return "\n".join(lines)


def advice(summary: dict[str, Any], recipe: Recipe) -> list[str]:
    """Return what a person should know before training ``recipe`` on the set."""
    return [*_about_labels(summary), *_about_pixels(summary, recipe), *_about_amount(summary, recipe)]


def _about_labels(summary: dict[str, Any]) -> Iterator[str]:
    classes = summary["classes"]
    if classes is None:
        yield "There are no labels: pre-training works, fine-tuning needs class folders or a CSV with labels."
        return
    filled = {name: count for name, count in classes.items() if count}
    empty = sorted(set(classes) - set(filled))
    if empty:
        yield f"{len(empty)} classes have no image, e.g. {in_line(empty[0])!r}: --allow-empty-classes keeps them."
    if len(filled) < 2:
        yield "There is one class only: pre-training works, a classifier has nothing to tell apart."
        return
    single = [name for name, count in filled.items() if count == 1]
    if len(single) == len(filled):
        yield "Every class has one image: none can be set aside for validation; give --val-data."
    elif single:
        yield f"{len(single)} classes have one image, e.g. {in_line(single[0])!r}: they cannot be validated."
    largest, smallest = max(filled.values()), min(filled.values())
    if largest >= 10 * smallest:
        yield (f"The largest class has {largest / smallest:,.0f} times the images of the smallest: read the macro "
               "average of mae-lite evaluate, which counts every class alike.")  # fmt: skip


def _about_pixels(summary: dict[str, Any], recipe: Recipe) -> Iterator[str]:
    bad, limit, readable = len(summary["bad"]), summary["bad_allowed"], summary["readable"]
    if bad > limit:
        yield f"{bad:,} images cannot be read and training stops above {limit:,}: replace or remove them first."
    if not readable:
        return
    sides, size = summary["short_side_px"], recipe.encoder.image_size
    median, longest = sides["median"], sides["max"]
    if median * 2 < size:
        small = (
            " cifar10-mae-tiny is made for 32 px: --recipe cifar10-mae-tiny shows what it will see."
            if median <= 48 and size > 64
            else ""
        )
        some, side = ("All", longest) if longest * 2 < size else ("Half of the", median)
        seen = "" if summary["looked_at"] == summary["images"] else " looked at"
        yield f"{some} images{seen} have a short side of {side:.0f} px or less and are enlarged to {size}.{small}"
    if summary["longest_to_shortest"] > 5:
        yield f"Some images are {summary['longest_to_shortest']:g} times as long as wide: crops see little of them."
    if recipe.encoder.channels == 3 and summary["grey"] > 0.9 * readable:
        mean, std = (f"{sum(summary[name]) / len(summary[name]):.3f}" for name in ("mean", "std"))
        yield (f"{summary['grey']:,} images are grey: --encoder.channels 1 --augmentation.mean {mean} "
               f"--augmentation.std {std} saves work.")  # fmt: skip
    elif recipe.encoder.channels not in (1, 3):
        yield f"Use --augmentation.mean {_numbers(summary['mean'])} --augmentation.std {_numbers(summary['std'])}."
    if max(summary["std"]) < 0.01:
        yield "The images are nearly of one colour. If their values have another range: --reading.value-range LOW HIGH."
    if summary["copies"] > 0.01 * readable and summary["classes"]:
        yield f"{summary['copies']:,} images are copies of others: a random validation part would hold some of them."


def _about_amount(summary: dict[str, Any], recipe: Recipe) -> Iterator[str]:
    if summary["images"] < recipe.global_batch_size:
        images = summary["images"]
        fitting = max(images // 4, min(images, 16), 1)  # some updates in an epoch; a few images are one batch
        yield (f"The set is smaller than the batch of {recipe.name}, {recipe.global_batch_size:,}: give "
               f"--global-batch-size {min(256, fitting)}.")  # fmt: skip


def about_bad(summary: dict[str, Any]) -> list[str]:
    """Return the advice on bad images of a validation or test set."""
    if len(summary["bad"]) <= summary["bad_allowed"]:
        return []
    return [
        f"{len(summary['bad']):,} {summary['split'] or 'validation'} images cannot be read: replace or remove them."
    ]


def about_overlap(name: str, pairs: int, images: int) -> list[str]:
    """Return the advice on images that a set shares with the training images."""
    if not pairs:
        return []
    text = f"{pairs:,} of the {images:,} {name} images are training images too: accuracy on them says little"
    return [f"{text}; check.json names them."]


def _balance(classes: dict[str, int]) -> str:
    ordered = sorted(classes.items(), key=lambda item: item[1])
    (low_name, low), (high_name, high) = ordered[0], ordered[-1]
    if low == high:
        return f"{low:,} images in each"
    return f"{low:,} ({in_line(low_name)!r}) to {high:,} ({in_line(high_name)!r}) images"


def _counts(counts: dict[str, int]) -> str:
    shown = [f"{count:,} x {name}" for name, count in list(counts.items())[:_SHOWN]]
    return ", ".join(shown) + (f" and {len(counts) - _SHOWN} kinds more" if len(counts) > _SHOWN else "")


def _numbers(values: list[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)
