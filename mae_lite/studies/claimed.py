"""What the paper says, as claims that several studies have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mae_lite.studies.values import Analysis, Claim


def claim(says: str, row: str, over: str, **others: Any) -> Claim:
    """Return a claim that ``row`` is ahead of ``over``: in accuracy, unless ``others`` has another ``kind``."""
    return Claim(says=says, row=row, over=over, **{"kind": "accuracy", **others})


def looks(masked: str, contrastive: str, analyses: Sequence[Analysis]) -> Iterator[Claim]:
    """Yield what the paper says of layers, for two rows of analyses, one pre-trained by masking."""
    if any(one.kind == "layers" for one in analyses):
        yield Claim(says="Lower layers matter more than higher ones.", kind="kept", row=masked)
    likeness = "Contrastive learning makes higher layers that are more like a supervised encoder's than MAE does."
    yield claim(likeness, contrastive, masked, kind="similarity")
    yield claim("MAE's higher layers attend more narrowly than MoCo-v3's.", contrastive, masked, kind="entropy")
