"""A picture of what the model will see: some images as they are, each beside several of its augmented views."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from mae_lite import draws
from mae_lite.config import Recipe
from mae_lite.data import images
from mae_lite.data.pixels import Picture, planes
from mae_lite.data.sources import Source
from mae_lite.data.transforms import DRAWS, EvalTransform, TrainTransform
from mae_lite.errors import DataError

TILE, GAP, HEAD, FOOT = 168, 6, 30, 20
_VIEWS = 5
INK, PAPER = (38, 38, 38), (255, 255, 255)


def preview(source: Source, recipe: Recipe, rows: int = 6) -> bytes:
    """Return a PNG: a row for each of some images, spread over the set, that can be read.

    Columns: the whole image, what evaluation sees, and views as training draws them.
    """
    encoder, augmentation = recipe.encoder, recipe.augmentation
    train = TrainTransform(augmentation, encoder.image_size, encoder.channels)
    evaluate = EvalTransform(augmentation, encoder.image_size, encoder.channels)
    chosen = _chosen(source, recipe, rows)
    columns = 2 + _VIEWS
    cell = TILE + GAP
    sheet = Image.new("RGB", (columns * cell + GAP, HEAD + max(1, len(chosen)) * (cell + FOOT)), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    side = f"{encoder.image_size} px"
    local = "" if train.local is None else f", {train.local.image_size} px"
    for column, title in enumerate(("as read", f"evaluation, {side}", f"training, {side}{local}")):
        draw.text((GAP + column * cell, 8), title, fill=INK, font=font)
    for row, (index, picture) in enumerate(chosen):
        top = HEAD + row * (cell + FOOT)
        uniforms = draws.uniform(draws.key(recipe.seed, "preview", index), np.arange(_VIEWS), DRAWS)
        keys = [draws.key(recipe.seed, "preview view", index, n) for n in range(_VIEWS)]
        views = [train(picture, uniforms[n], keys[n], n % train.views) for n in range(_VIEWS)]
        tiles = [whole(picture), *(_shown(pixels) for pixels in (evaluate(picture), *views))]
        for column, tile in enumerate(tiles):
            sheet.paste(fitted(tile), (GAP + column * cell, top))
        draw.text((GAP, top + TILE + 3), caption(source, index, picture), fill=INK, font=font)
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    return buffer.getvalue()


def _chosen(source: Source, recipe: Recipe, rows: int) -> list[tuple[int, Picture]]:
    """Return readable images of different places in the set; of different classes where there are some."""
    order = draws.permutation(draws.key(recipe.seed, "preview"), len(source)).tolist()
    found: list[tuple[int, Picture]] = []
    classes: set[int] = set()
    for index in [i for i in order if source.labels[i] < 0 or _new(classes, int(source.labels[i]))] + order:
        if len(found) == rows:
            break
        if index in [taken for taken, _ in found]:
            continue
        try:
            found.append((index, images.decode(source.example(index), recipe.encoder.channels, recipe.reading)))
        except DataError:
            continue
    return found


def _new(met: set[int], label: int) -> bool:
    if label in met:
        return False
    met.add(label)
    return True


def whole(picture: Picture) -> Image.Image:
    """Return a picture in colours: grey for 1 or 2 channels, the first three of more."""
    parts = planes(picture)
    return parts[0].convert("RGB") if len(parts) == 1 else _shown(np.stack([np.asarray(part) for part in parts]))


def _shown(pixels: npt.NDArray[np.uint8]) -> Image.Image:
    """Return [C, H, W] in colours: grey for 1 or 2 channels, the first three of more."""
    three = pixels[:3] if len(pixels) >= 3 else np.repeat(pixels[:1], 3, axis=0)
    return Image.fromarray(np.ascontiguousarray(three.transpose(1, 2, 0)))


def fitted(image: Image.Image) -> Image.Image:
    """Return the image within a square tile, enlarged in blocks when it is small."""
    scale = TILE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    resized = image.resize(size, Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS)
    tile = Image.new("RGB", (TILE, TILE), (236, 236, 236))
    tile.paste(resized, ((TILE - size[0]) // 2, (TILE - size[1]) // 2))
    return tile


def caption(source: Source, index: int, picture: Picture) -> str:
    """Return class, size and position of an image on one line."""
    width, height = planes(picture)[0].size
    label = "" if source.classes is None else f"{source.classes[int(source.labels[index])]}, "
    text = f"{label}{width} x {height} px, image {index}"
    return "".join(sign if sign.isprintable() else "?" for sign in text)[:140]
