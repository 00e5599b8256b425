"""Small diagrams of the methods, as SVG: ``python -m website.diagrams`` writes them into docs/figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "docs" / "figures"
_STEP, _HIGH, _WIDE = 150, 64, 116
_COLOURS = {"image": "#e8e8e8", "trained": "#cfe3f5", "frozen": "#f5e3c4", "target": "#dcefd9", "loss": "#f6d4d4"}
"""Of what is given, trained, frozen or following, compared with, and minimised."""

Box = tuple[str, str]
"""Words, with ``/`` between lines, and their kind."""
DIAGRAMS: dict[str, tuple[Sequence[Box], ...]] = {
    "mae": (
        (
            ("visible/patches", "image"),
            ("encoder", "trained"),
            ("+ mask tokens/decoder", "trained"),
            ("error²", "loss"),
        ),
        (("hidden/patches", "image"), ("normalised/pixels", "target")),
    ),
    "mae_hog": (
        (
            ("visible/patches", "image"),
            ("encoder", "trained"),
            ("+ mask tokens/decoder", "trained"),
            ("error²", "loss"),
        ),
        (("hidden/patches", "image"), ("HOG", "target")),
    ),
    "maskfeat": (
        (("patches,/40 % masked", "image"), ("encoder", "trained"), ("linear layer", "trained"), ("error²", "loss")),
        (("hidden/patches", "image"), ("HOG", "target")),
    ),
    "simmim": (
        (("patches,/60 % masked", "image"), ("encoder", "trained"), ("linear layer", "trained"), ("|error|", "loss")),
        (("hidden/squares", "image"), ("pixels", "target")),
    ),
    "mocov3": (
        (("view 1", "image"), ("encoder,/projector", "trained"), ("predictor", "trained"), ("InfoNCE", "loss")),
        (("view 2", "image"), ("slow average", "frozen"), ("keys of all/images", "target")),
    ),
    "dino": (
        (
            ("large and/small views", "image"),
            ("student", "trained"),
            ("prototypes", "trained"),
            ("cross-/entropy", "loss"),
        ),
        (("large views", "image"), ("slow average", "frozen"), ("centred,/sharpened", "target")),
    ),
    "distilled_mae": (
        (
            ("visible/patches", "image"),
            ("encoder", "trained"),
            ("attention,/mapped", "trained"),
            ("error² +/MAE's loss", "loss"),
        ),
        (("the same/patches", "image"), ("larger MAE", "frozen"), ("attention", "target")),
    ),
    "distilled_simmim": (
        (
            ("patches,/60 % masked", "image"),
            ("Swin-Tiny", "trained"),
            ("last attention,/mapped", "trained"),
            ("error² +/SimMIM's", "loss"),
        ),
        (("the same/patches", "image"), ("larger Swin", "frozen"), ("last attention", "target")),
    ),
    "feature_distillation": (
        (("image", "image"), ("encoder", "trained"), ("linear layer,/LayerNorm", "trained"), ("smooth L1", "loss")),
        (("same pixels", "image"), ("any ViT", "frozen"), ("tokens,/LayerNorm", "target")),
    ),
    "supervised": (
        (("image", "image"), ("encoder", "trained"), ("linear layer", "trained"), ("cross-/entropy", "loss")),
        (("label", "target"),),
    ),
}


def drawn(name: str) -> str:
    """Return the diagram of a method: what is learned above, what it is compared with below, ending in the loss."""
    rows = DIAGRAMS[name]
    wide, high = _STEP * 3 + _WIDE + 8, 2 * _HIGH + 52
    parts = [_box(box, column, row) for row, boxes in enumerate(rows) for column, box in enumerate(boxes)]
    for row, boxes in enumerate(rows):
        middle = 4 + row * (_HIGH + 40) + _HIGH // 2
        for column in range(len(boxes) - 1):
            parts.append(_arrow(f"M{column * _STEP + _WIDE + 4} {middle}H{(column + 1) * _STEP + 1}"))
    last = len(rows[1]) - 1
    below = 4 + _HIGH + 40 + _HIGH // 2
    parts.append(_arrow(f"M{last * _STEP + _WIDE + 4} {below}H{3 * _STEP + _WIDE // 2 + 4}V{_HIGH + 9}"))
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" font-family="sans-serif" '
        f'font-size="14" role="img"><title>{name}</title><defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" '
        'markerWidth="8" markerHeight="8" orient="auto"><path d="M0 0L8 4L0 8z" fill="#444"/></marker></defs>'
    )
    return head + "".join(parts) + "</svg>\n"


def _box(box: Box, column: int, row: int) -> str:
    words, kind = box
    left, top = 4 + column * _STEP, 4 + row * (_HIGH + 40)
    lines = words.split("/")
    first = top + _HIGH / 2 + 5 - 9 * (len(lines) - 1)
    text = "".join(
        f'<text x="{left + _WIDE / 2:g}" y="{first + 18 * number:g}" text-anchor="middle">{line}</text>'
        for number, line in enumerate(lines)
    )
    shape = (
        f'<rect x="{left}" y="{top}" width="{_WIDE}" height="{_HIGH}" rx="6" fill="{_COLOURS[kind]}" stroke="#666"/>'
    )
    return shape + text


def _arrow(path: str) -> str:
    return f'<path d="{path}" fill="none" stroke="#444" stroke-width="1.5" marker-end="url(#tip)"/>'


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for each in DIAGRAMS:
        (FOLDER / f"{each}.svg").write_text(drawn(each))
