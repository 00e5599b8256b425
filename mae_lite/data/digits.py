"""The handwritten digits that come with scikit-learn: 1,797 grey images of 8 x 8 pixels in 10 classes."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
from PIL import Image

from mae_lite.data.sources import Source, Split, stratified_split

TEST_FRACTION = 0.25


class Digits(Source):
    """Digits in memory; within each class, a fixed random 25 % are the test images."""

    channels = 1
    in_memory = True

    def __init__(self, split: Split = "train") -> None:
        """Load one of the two splits."""
        from sklearn.datasets import load_digits  # importing scikit-learn takes most of a second

        bunch = load_digits()
        labels: npt.NDArray[np.int64] = np.asarray(bunch.target, dtype=np.int64)
        train, test = stratified_split(labels, TEST_FRACTION, seed=0, purpose="digits split")
        chosen = train if split == "train" else test
        # Values are counts from 0 to 16.
        self._pixels: npt.NDArray[np.uint8] = np.rint(bunch.images[chosen] * (255 / 16)).astype(np.uint8)
        self.name = "digits"
        self.labels = labels[chosen]
        self.classes = tuple(str(digit) for digit in range(10))

    def image(self, index: int, channels: int) -> Image.Image:
        """Return digit ``index``, 8 x 8 pixels."""
        grey = Image.fromarray(self._pixels[index])
        return grey if channels == 1 else grey.convert("RGB")

    def fingerprint(self) -> dict[str, int | str]:
        """Return the count and a SHA-256 over pixels and labels."""
        digest = hashlib.sha256(self._pixels.tobytes() + self.labels.tobytes())
        return {"count": len(self), "sha256": digest.hexdigest()}
