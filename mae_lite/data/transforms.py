"""From a decoded image to the uint8 array that is batched; every random number is an argument."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from mae_lite import draws
from mae_lite.config import Augmentation
from mae_lite.data import colours
from mae_lite.data.pixels import Picture, planes
from mae_lite.data.rand_augment import rand_augment
from mae_lite.data.raster import Box, Raster, resize_into

Pixels = npt.NDArray[np.uint8]
Uniforms = npt.NDArray[np.float32]

DRAWS = 48 + colours.DRAWS
"""Uniform numbers in [0, 1) that :class:`TrainTransform` takes per view, at the fixed positions below."""

_ATTEMPTS = 10
_CROP = slice(0, 4 * _ATTEMPTS)  # area, ratio, top, left for each attempt
_INTERPOLATION, _FLIP, _ROTATE, _SHIFT_X, _SHIFT_Y, _ZOOM, _ERASE, _SHEAR = range(40, 48)
_COLOURS = slice(48, DRAWS)

_ERASED_AREA = (0.02, 1 / 3)
_ERASED_RATIO = (0.3, 1 / 0.3)
_WORTH_REDUCING = 1_000_000  # pixels; fewer take some milliseconds to decode
_MAX_RESIZED = 50_000_000  # pixels; a strip of 10000 x 1 would grow beyond any memory


class TrainTransform:
    """Random crop, jitter, blur, grey, flip, solarising, affine map, RandAugment and erasing, in this order."""

    def __init__(
        self,
        augmentation: Augmentation,
        image_size: int,
        channels: int,
        rounding: Literal["exact", "fast"] = "exact",
    ) -> None:
        """Prepare for square outputs.

        Args:
            augmentation: what to do and how strongly.
            image_size: side of the output, in pixels.
            channels: of the images.
            rounding: "exact" resizes as Pillow does; "fast" resizes colour images as torch does, see ``raster``.

        Raises:
            ConfigError: when RandAugment is asked for other than colour images, or its string is wrong.
        """
        self.augmentation, self.image_size, self.channels = augmentation, image_size, channels
        self.fast = rounding == "fast" and channels == 3
        self.local = _local(augmentation, channels, rounding)
        self._plain = _only_cropped(augmentation)
        self._rand_augment = None
        if augmentation.randaugment is not None:
            self._rand_augment = rand_augment(augmentation.randaugment, augmentation, image_size, channels)

    @property
    def views(self) -> int:
        """How many views there are of an image, the local ones included."""
        return self.augmentation.views + (0 if self.local is None else self.local.views)

    def __call__(
        self, picture: Picture | Raster, u: Uniforms, key: int, view: int = 0, out: Pixels | None = None
    ) -> Pixels:
        """Make one view of an image; all its channels alike.

        Args:
            picture: any size.
            u: [DRAWS] uniform numbers in [0, 1).
            key: key of this sample and view for what draws its own numbers (RandAugment, erasing).
            view: which view to make, from 0; the local ones come last.
            out: [C, H, W], where to write it; None makes a new array.

        Returns:
            [C, H, W] uint8.
        """
        if self.local is not None and view >= self.augmentation.views:
            return self.local(picture, u, key, view - self.augmentation.views, out)
        if out is None:
            out = np.empty((self.channels, self.image_size, self.image_size), np.uint8)
        if self.fast and not isinstance(picture, tuple):
            name = _resampling(self.augmentation.interpolation, float(u[_INTERPOLATION])).name.lower()
            box = self._box(picture.size, u)
            if self._plain:
                resize_into(picture, box, name, out, bool(u[_FLIP] < self.augmentation.flip))
            else:
                pixels = np.empty((self.image_size, self.image_size, 3), np.uint8)
                resize_into(picture, box, name, pixels.transpose(2, 0, 1))
                write([self._changed(Image.fromarray(pixels), u, key, view)], out)
        else:
            whole = (Image.fromarray(picture.pixels),) if isinstance(picture, Raster) else planes(picture)
            write([self._changed(self._resized(part, u), u, key, view) for part in whole], out)
        if u[_ERASE] < self.augmentation.erasing:
            erase(out, self.augmentation.mean, self.augmentation.std, draws.generator(key))
        return out

    def reduction(self, size: tuple[int, int], u: Uniforms) -> int:
        """Say by how much an image may be made smaller when it is decoded: 1, 2, 4 or 8.

        Args:
            size: its width and height.
            u: [V, DRAWS] uniform numbers of all views that are made of it.

        Returns:
            The largest that leaves the crop of each view at least twice as large as its output, so that the
            resampling filter still decides; 1 for images so small that nothing is saved.
        """
        if not self.fast or size[0] * size[1] < _WORTH_REDUCING:
            return 1
        factor = 8
        for view, row in enumerate(u):
            own = self if self.local is None or view < self.augmentation.views else self.local
            factor = min(factor, min(own._box(size, row)[2:]) // (2 * own.image_size))
        return 1 << (max(factor, 1).bit_length() - 1)

    def _box(self, size: tuple[int, int], u: Uniforms) -> Box:
        if self.augmentation.crop_scale is None:
            return 0, 0, *size
        return crop_box(size, self.augmentation.crop_scale, self.augmentation.crop_ratio, u[_CROP])

    def _resized(self, image: Image.Image, u: Uniforms) -> Image.Image:
        """Crop and resize."""
        side = self.image_size
        left, top, width, height = self._box(image.size, u)
        if (width, height) != image.size:
            image = image.crop((left, top, left + width, top + height))
        if image.size != (side, side):
            image = image.resize((side, side), _resampling(self.augmentation.interpolation, float(u[_INTERPOLATION])))
        return image

    def _changed(self, image: Image.Image, u: Uniforms, key: int, view: int) -> Image.Image:
        """Recolour, flip, shift and augment."""
        augmentation = self.augmentation
        image = colours.recoloured(image, augmentation, u[_COLOURS], view)
        if u[_FLIP] < augmentation.flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        image = colours.solarised(image, augmentation, u[_COLOURS], view)
        if _moves(augmentation):
            image = _affine(image, augmentation, u)
        if self._rand_augment is not None:
            with draws.seeded_globals(key):
                image = self._rand_augment(image)
        return image


def _moves(augmentation: Augmentation) -> bool:
    moves = (augmentation.rotate_degrees, augmentation.shear_degrees, augmentation.translate)
    return any(moves) or augmentation.zoom != (1.0, 1.0)


def _only_cropped(augmentation: Augmentation) -> bool:
    """Say whether nothing but cropping, resizing, flipping and erasing is asked for."""
    colour = (augmentation.jitter is not None, augmentation.grey, *augmentation.blur, *augmentation.solarise)
    return not (any(colour) or _moves(augmentation) or augmentation.randaugment is not None)


def _local(augmentation: Augmentation, channels: int, rounding: Literal["exact", "fast"]) -> TrainTransform | None:
    """Return what makes the local views, which differ from the others in size, crop, blur and solarising alone."""
    if augmentation.local_views is None or augmentation.local_size is None:
        return None
    own = {
        "views": augmentation.local_views,
        "crop_scale": augmentation.local_scale,
        "blur": augmentation.blur[-1:],
        "solarise": augmentation.solarise[-1:],
        **dict.fromkeys(("local_views", "local_size", "local_scale")),
    }
    return TrainTransform(Augmentation(**dict(augmentation) | own), augmentation.local_size, channels, rounding)


class EvalTransform:
    """Resize the short side, crop the centre: the same for every model, nothing random."""

    def __init__(self, augmentation: Augmentation, image_size: int, channels: int) -> None:
        """Prepare for square outputs of side ``image_size`` from images of ``channels`` channels."""
        self.image_size, self.channels = image_size, channels
        self.sides = image_size, image_size
        self.short_side = round(image_size / augmentation.eval_crop)

    def __call__(self, picture: Picture, out: Pixels | None = None) -> Pixels:
        """Return the centre of an image of any size as [C, H, W] uint8, written to ``out`` if that is given."""
        if out is None:
            out = np.empty((self.channels, self.image_size, self.image_size), np.uint8)
        write([self._centre(part) for part in planes(picture)], out)
        return out

    def _centre(self, image: Image.Image) -> Image.Image:
        size, (width, height) = self.image_size, image.size
        short = min(width, height)
        wide = int(self.short_side * width / short), int(self.short_side * height / short)
        left, top = round((wide[0] - size) / 2), round((wide[1] - size) / 2)
        if wide[0] * wide[1] > _MAX_RESIZED:  # the same pixels up to rounding, without those that are cut off
            x, y = width / wide[0], height / wide[1]
            box = (left * x, top * y, (left + size) * x, (top + size) * y)
            return image.resize((size, size), Image.Resampling.BICUBIC, box)
        if short != self.short_side:
            image = image.resize(wide, Image.Resampling.BICUBIC)
        return image.crop((left, top, left + size, top + size))


def key_of_view(seed: int, purpose: str, *place: int, view: int) -> int:
    """Return the key of a view's draws at (epoch) or (epoch, index); the first view's is that of a single view."""
    return draws.key(seed, purpose, *place, *((view,) if view else ()))


def crop_box(size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float], u: Uniforms) -> Box:
    """Choose a random crop as torchvision's ``RandomResizedCrop`` does.

    The area is uniform, the ratio of width to height log-uniform; after ten attempts that do not fit, the
    largest central crop within the range of ratios is taken.

    Args:
        size: width and height of the image.
        scale: range of the crop's share of the area.
        ratio: range of width / height.
        u: [40] uniform numbers, four for each attempt.

    Returns:
        The crop; it lies within the image and is never empty.
    """
    width, height = size
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for area_draw, ratio_draw, top_draw, left_draw in u.reshape(_ATTEMPTS, 4).tolist():
        area = width * height * (scale[0] + (scale[1] - scale[0]) * area_draw)
        aspect = math.exp(low + (high - low) * ratio_draw)
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(left_draw * (width - w + 1)), int(top_draw * (height - h + 1)), w, h
    # At least one pixel: torchvision fails on strips so thin that the clamped side rounds to nothing.
    w = min(width, max(round(height * ratio[1]), 1))
    h = min(height, max(round(width / ratio[0]), 1))
    return (width - w) // 2, (height - h) // 2, w, h


def erase(pixels: Pixels, mean: tuple[float, ...], std: tuple[float, ...], generator: np.random.Generator) -> None:
    """Replace one random rectangle by noise in place, with the defaults of timm's ``RandomErasing``.

    timm erases normalised pixels with N(0, 1); on bytes that is N(mean, std), rounded and clipped.

    Args:
        pixels: [C, H, W]; left as they are when no rectangle fits in ten attempts.
        mean: [C] channel means of pixels in 0 to 1.
        std: [C] channel deviations of pixels in 0 to 1.
        generator: draws place and noise.
    """
    channels, height, width = pixels.shape
    low, high = math.log(_ERASED_RATIO[0]), math.log(_ERASED_RATIO[1])
    for area_draw, ratio_draw, top_draw, left_draw in generator.random((_ATTEMPTS, 4)).tolist():
        area = height * width * (_ERASED_AREA[0] + (_ERASED_AREA[1] - _ERASED_AREA[0]) * area_draw)
        aspect = math.exp(low + (high - low) * ratio_draw)
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if h < height and w < width:
            top, left = int(top_draw * (height - h + 1)), int(left_draw * (width - w + 1))
            noise = generator.standard_normal((channels, h, w), dtype=np.float32)
            colour = np.reshape(mean, (-1, 1, 1)) + noise * np.reshape(std, (-1, 1, 1))
            pixels[:, top : top + h, left : left + w] = np.clip(np.rint(255 * colour), 0, 255)
            return


def _resampling(name: str, u: float) -> Image.Resampling:
    if name == "random":
        name = "bilinear" if u < 0.5 else "bicubic"
    return Image.Resampling.BILINEAR if name == "bilinear" else Image.Resampling.BICUBIC


def _affine(image: Image.Image, augmentation: Augmentation, u: Uniforms) -> Image.Image:
    """Slant, rotate and zoom about the centre, then shift; what comes from outside is black."""
    places = (_ROTATE, _SHEAR, _SHIFT_X, _SHIFT_Y)
    turn, slant, shift_x, shift_y = (2 * float(u[place]) - 1 for place in places)
    angle = math.radians(turn * augmentation.rotate_degrees)
    low, high = augmentation.zoom
    zoom = low + (high - low) * float(u[_ZOOM])
    width, height = image.size
    shift_x, shift_y = shift_x * augmentation.translate * width, shift_y * augmentation.translate * height
    # Pillow asks for the inverse map, from output to input, in coordinates where pixel 0 spans 0 to 1.
    cosine, sine, shear = math.cos(angle), math.sin(angle), math.tan(math.radians(slant * augmentation.shear_degrees))
    a, b = cosine / zoom, (sine - shear * cosine) / zoom
    d, e = -sine / zoom, (cosine + shear * sine) / zoom
    x, y = width / 2, height / 2
    matrix = (a, b, x - a * (x + shift_x) - b * (y + shift_y), d, e, y - d * (x + shift_x) - e * (y + shift_y))
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


def write(parts: Sequence[Image.Image], out: Pixels) -> None:
    """Write one grey or colour image, or the channels of another, to ``out`` [C, H, W]."""
    if len(parts) == 1 and parts[0].mode == "RGB":
        out[:] = np.asarray(parts[0]).transpose(2, 0, 1)
    else:
        for channel, part in zip(out, parts, strict=True):
            channel[:] = np.asarray(part)
