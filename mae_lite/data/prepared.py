"""One image made ready for a model, as evaluation does it: decoded by the guard, resized, cropped, normalised."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from mae_lite.config import Augmentation, Reading
from mae_lite.data import images
from mae_lite.data.batch import normalised
from mae_lite.data.sources import Encoded, Example
from mae_lite.data.transforms import EvalTransform


class Prepare:
    """Makes of one image what a model is given: ``model(prepare("cat.jpg").unsqueeze(0))``. It can be pickled."""

    def __init__(
        self,
        augmentation: Augmentation,
        image_size: int,
        channels: int,
        reading: Reading = Reading(),  # noqa: B008  # it is frozen
    ) -> None:
        """Keep how images are read.

        Args:
            augmentation: its evaluation crop, mean and deviation count.
            image_size: side of the model's images, in pixels.
            channels: of the model's images.
            reading: rules by which files become pixels.
        """
        self.mean, self.std = augmentation.mean, augmentation.std
        self.channels, self.reading = channels, reading
        self.crop = EvalTransform(augmentation, image_size, channels)
        """Resizes and crops, before values are normalised."""

    def __call__(self, image: Encoded | str) -> Tensor:
        """Return one image of any size as [C, S, S] float32.

        Args:
            image: a Pillow image, pixels [H, W] or [H, W, C], a path, or the bytes of an image file.

        Raises:
            DataError: when it cannot be read, or has another number of channels.
        """
        if isinstance(image, str):
            image = Path(image)
        name = str(image) if isinstance(image, Path) else f"the {type(image).__name__}"
        picture = images.decode(Example(name, image), self.channels, self.reading)
        return normalised(torch.from_numpy(self.crop(picture)), self.mean, self.std)

    def __repr__(self) -> str:
        """Return the numbers that decide."""
        size, short = self.crop.image_size, self.crop.short_side
        words = f"short side {short} px, centre {size} x {size}, {self.channels} channels"
        return f"{type(self).__name__}({words}, mean {self.mean}, std {self.std})"
