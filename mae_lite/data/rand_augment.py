"""timm's RandAugment, checked more strictly; its draws come from the global generators."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import cast

from PIL import Image, ImageOps

from mae_lite.config import Augmentation
from mae_lite.errors import ConfigError

_RAND_AUGMENT = re.compile(r"rand(-((m|n|mmax|inc)\d+|(mstd|p)(\d+(\.\d*)?)|t(weights|3aw?)))*")


def rand_augment(
    text: str, augmentation: Augmentation, image_size: int, channels: int
) -> Callable[[Image.Image], Image.Image]:
    """Return the operation; raises ConfigError for other than colour images, or a string that is wrong."""
    if channels != 3:
        raise ConfigError(
            "augmentation.randaugment",
            found=f"{text!r} with encoder.channels {channels}",
            expected="3 channels, because its colour operations need them",
            fix="--augmentation.randaugment None",
        )
    from timm.data.auto_augment import rand_augment_transform  # importing timm takes seconds

    settings: dict[str, object] = {
        "translate_const": int(image_size * 0.45),
        "img_mean": tuple(min(255, round(255 * value)) for value in augmentation.mean),
    }
    if augmentation.interpolation != "random":  # timm picks one per operation unless told otherwise
        settings["interpolation"] = Image.Resampling[augmentation.interpolation.upper()]
    try:
        # timm passes over sections it cannot read, so that a slip of the pen would go unnoticed.
        if not _RAND_AUGMENT.fullmatch(text):
            raise ValueError(text)
        transform = rand_augment_transform(text, settings)
    except (AssertionError, KeyError, ValueError) as error:
        raise ConfigError(
            "augmentation.randaugment",
            found=repr(text),
            expected='a string that timm understands, such as "rand-m9-mstd0.5-inc1"',
            fix="--augmentation.randaugment rand-m9-mstd0.5-inc1",
        ) from error
    for operation in transform.ops:
        if operation.name.startswith("Posterize"):
            operation.aug_fn = _posterize
    return cast("Callable[[Image.Image], Image.Image]", transform)


def _posterize(image: Image.Image, bits: int, **_: object) -> Image.Image:
    # At its strongest level timm asks for 0 bits and means black; Pillow 13 raises instead.
    return ImageOps.posterize(image, bits) if bits > 0 else Image.new(image.mode, image.size)
