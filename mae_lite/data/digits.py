"""The handwritten digits that come with scikit-learn: 1,797 grey images of 8 x 8 pixels in 10 classes."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from mae_lite.data.sources import Example, Source, Split
from mae_lite.data.splits import choose_split, stratified_split

TEST_FRACTION = 0.25


class Digits(Source):
    """Digits in memory; within each class, a fixed random 25 % are the test images."""

    in_memory = True

    def __init__(self, split: Split = "train", *, strict: bool = False) -> None:
        """Load one of the two splits, train and test."""
        from sklearn.datasets import load_digits  # importing scikit-learn takes most of a second

        self.name = "digits"
        self.split = choose_split(("train", "test"), split, self.name, strict=strict)
        bunch = load_digits()
        labels: npt.NDArray[np.int64] = np.asarray(bunch.target, dtype=np.int64)
        train, test = stratified_split(labels, TEST_FRACTION, seed=0, purpose="digits split")
        chosen = train if self.split == "train" else test
        # Values are counts from 0 to 16.
        self._pixels: npt.NDArray[np.uint8] = np.rint(bunch.images[chosen] * (255 / 16)).astype(np.uint8)
        self.labels = labels[chosen]
        self.classes = tuple(str(digit) for digit in range(10))

    def example(self, index: int) -> Example:
        """Return digit ``index``, [8, 8] uint8."""
        return Example(f"digit {index}", self._pixels[index])

    def fingerprint(self) -> dict[str, int | str]:
        """Return the count and a SHA-256 over pixels and labels."""
        digest = hashlib.sha256(self._pixels.tobytes() + self.labels.tobytes())
        return {"count": len(self), "sha256": digest.hexdigest()}
