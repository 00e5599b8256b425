"""What a replay found, in words, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_CALMER = "lower --lr-per-256, or set --clip-grad-norm 1"


def as_text(found: Mapping[str, Any]) -> str:
    """Return lines for people about what :func:`mae_lite.replaying.replay.replay` returned."""
    lines = [
        f"update {found['step']} of {found['recipe']}, replayed on {found['device']} in {found['precision']}",
        "",
        f"{'rank':>4} {'micro-batch':>11} {'images':>6} {'loss then':>12} {'loss now':>12}",
    ]
    for row in found["batches"]:
        then, now = (_number(row[name]) for name in ("loss", "loss_now"))
        lines.append(f"{row['rank']:>4} {row['micro_batch']:>11} {row['images']:>6} {then:>12} {now:>12}")
    largest = found["largest_weight"]
    weight = f"The largest weight is {_number(largest['value'])}, in {largest['name']}."
    return "\n".join([*lines, "", *_where(found), weight, *_images(found), "", advice(found)])


def _where(found: Mapping[str, Any]) -> list[str]:
    if not found["again"]:
        return ["It does not happen again: all numbers are finite."]
    first = found["first"]
    function = f" ({found['function']} returned NaN)" if found["function"] else ""
    if first is None:
        return [f"It happens again, outside of the modules{function}."]
    inputs = f"what enters it lies in {_number(first['lowest'])} to {_number(first['highest'])}"
    if first["way"] == "backward":
        return [
            f"It happens again, on the way back: the gradient first breaks in {first['module']} "
            f"({first['kind']}){function}; {inputs}."
        ]
    if not first["entered"]:
        inputs = "what enters it is not finite already, so that it arises between the module before and this one"
    return [f"It happens again: {first['module']} ({first['kind']}) is the first that is not finite; {inputs}."]


def _images(found: Mapping[str, Any]) -> list[str]:
    total, images = sum(row["images"] for row in found["batches"]), found["images"]
    if not found["again"] or found["weights_not_finite"]:
        return []
    if not images:
        return ["No single image can be blamed: the loss looks at all of them together, or each alone is finite."]
    more = "" if found["images_in_all"] <= len(images) else f"\n  and {found['images_in_all'] - len(images)} more"
    names = "".join(f"\n  {one['name']}" for one in images)
    count = found["images_in_all"]
    return [
        f"{'At least ' if more else ''}{count} of {total} images {'break' if count > 1 else 'breaks'} it:{names}{more}"
    ]


def advice(found: Mapping[str, Any]) -> str:
    """Return what to do."""
    recorded, total = found["recorded"], sum(row["images"] for row in found["batches"])
    if found["weights_not_finite"]:
        return (
            f"The weights were not finite before this update ({found['weights_not_finite']}): an update before it has "
            f"made them so. To do: {_CALMER}."
        )
    if not found["again"]:
        other = [f"it was on {recorded['device']}, here on {found['device']}"] * (recorded["device"] != found["device"])
        other += ["it was compiled, here it is not"] * recorded["compiled"]
        if found["precision"] == "fp32" and recorded["device"] == "cuda":
            other.append("here in fp32: if the run was in bf16, give --precision fp32")
        why = "; ".join(other) or "all is the same as then, so that the device itself may have erred"
        return f"To do: {why}. Start the run again: it goes on from its newest checkpoint."
    if 0 < found["images_in_all"] <= total // 4:
        return (
            "To do: look at these images, and take them out if they are not what they should be (mae-lite check DATA "
            f"shows them); --on-nan rollback leaves the update out; or {_CALMER}."
        )
    return f"To do: it is the weights, not an image: {_CALMER}; in bf16 see whether --precision fp32 is finite here."


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, int | float) else str(value if value is not None else "")
