"""Images of any kind keep shape and orientation; damaged images and checkpoints are refused, never half taken."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from mae_lite import files
from mae_lite.config import Reading
from mae_lite.data.images import decode, decode_raster
from mae_lite.data.sources import Example
from mae_lite.engine import checkpoint
from mae_lite.errors import CheckpointError, DataError
from mae_lite.evaluation import incoming
from mae_lite.models import weights
from mae_lite.models.vit import build_encoder
from tests import toy

LAYOUT: dict[str, tuple[Any, tuple[int, ...]]] = {
    "L": (np.uint8, ()),
    "RGB": (np.uint8, (3,)),
    "RGBA": (np.uint8, (4,)),
    "LA": (np.uint8, (2,)),
    "CMYK": (np.uint8, (4,)),
    "I;16": (np.uint16, ()),
    "1": (np.bool_, ()),
    "P": (np.uint8, ()),
}
"""Numbers of a pixel in the modes of Pillow."""
KINDS = {"PNG": {"L", "RGB", "RGBA", "LA", "I;16", "1", "P"}, "TIFF": {"L", "RGB", "RGBA", "CMYK", "I;16", "1", "P"}}
KINDS |= {"WEBP": {"RGB", "RGBA"}, "BMP": {"L", "RGB", "1", "P"}, "JPEG": {"L", "RGB", "CMYK"}}
CASES = [(kind, mode) for kind, modes in KINDS.items() for mode in sorted(modes)]
TURNED = {"PNG", "WEBP", "JPEG"}
"""What carries EXIF here."""


def picture(mode: str, height: int, width: int, seed: int) -> Image.Image:
    """Return an image of noise in a mode of Pillow."""
    kind, planes = LAYOUT[mode]
    noise = np.random.default_rng(seed).integers(0, np.iinfo(np.uint16).max, (height, width, *planes))
    values: npt.NDArray[Any] = (noise % 2 == 1) if kind is np.bool_ else noise.astype(kind)
    if mode == "P":
        return Image.fromarray(values).convert("RGB").quantize(16)
    # Of an array of four numbers Pillow would take any for RGBA.
    made = Image.frombytes(mode, (width, height), values.tobytes()) if planes else Image.fromarray(values)
    assert made.mode == mode
    return made


@given(
    case=st.sampled_from(CASES),
    size=st.tuples(st.integers(1, 13), st.integers(1, 13)),
    turn=st.integers(1, 8),
    channels=st.sampled_from([1, 3]),
    seed=st.integers(0, 99),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_an_image_keeps_shape_and_orientation(
    case: tuple[str, str], size: tuple[int, int], turn: int, channels: int, seed: int
) -> None:
    kind, mode = case
    original = picture(mode, *size, seed)
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    if kind in TURNED:
        exif = Image.Exif()
        exif[274] = turn
        options["exif"] = exif.tobytes()
        original.getexif()[274] = turn
    buffer = io.BytesIO()
    original.save(buffer, kind, **options)
    upright = ImageOps.exif_transpose(original)
    found = decode(Example("noise", buffer.getvalue()), channels, Reading())
    assert isinstance(found, Image.Image)
    assert (found.size, found.mode) == (upright.size, "L" if channels == 1 else "RGB")
    if kind != "JPEG" and mode in ("L", "RGB", "P", "1") and (channels == 3 or mode in ("L", "1")):
        assert np.array_equal(np.asarray(found), np.asarray(upright.convert(found.mode)))
    elif mode == "I;16" and kind != "JPEG":
        upper = np.asarray(upright) >> 8
        assert np.array_equal(np.asarray(found), upper if channels == 1 else np.stack([upper] * 3, axis=2))


def valid(kind: str) -> bytes:
    """Return an intact file of noise."""
    buffer = io.BytesIO()
    picture("RGB", 24, 24, 0).save(buffer, kind)
    return buffer.getvalue()


WHOLE = {kind: valid(kind) for kind in ("JPEG", "PNG")}


@given(kind=st.sampled_from(sorted(WHOLE)), at=st.floats(0.0, 1.0), cut=st.integers(0, 9), junk=st.binary(max_size=12))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_bytes_spliced_into_an_image_leave_an_image_or_one_error(kind: str, at: float, cut: int, junk: bytes) -> None:
    whole = WHOLE[kind]
    place = int(at * len(whole))
    spliced = Example("spliced", whole[:place] + junk + whole[place + cut :])
    readers: tuple[Callable[[], Any], ...] = (
        lambda: decode(spliced, 3),
        lambda: decode_raster(spliced, 3, Reading()),
    )
    for read in readers:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # not even a warning reaches the user
            try:
                found = read()
            except DataError as error:
                assert "'spliced'" in error.what and error.fix and "Traceback" not in str(error)
            else:
                assert len(found.size) == 2 and min(found.size) >= 1


# Checkpoints

PARTS: dict[str, bytes] = {
    "model.safetensors": weights.to_bytes(
        {f"encoder.{key}": value for key, value in build_encoder(toy.mae().plain_encoder, 0).state_dict().items()}
    ),
    "optimizer.safetensors": weights.to_bytes({}),
    "ema.safetensors": weights.to_bytes({}),
    "state.json": b'{"format": 1, "step": 2}',
}
EDITS = st.lists(
    st.tuples(st.floats(0.0, 1.0), st.integers(0, 300), st.binary(max_size=12)),
    min_size=1,
    max_size=4,
)
"""Where, in a share of the length; how many bytes go; which come."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run with one checkpoint."""
    folder = tmp_path_factory.mktemp("run")
    record = {"recipe": toy.mae().model_dump(mode="json"), "classes": None, "data": "digits"}
    files.write_json(folder / "recipe.json", record)
    files.make_folder(folder / "checkpoints")
    files.publish_folder(folder / "checkpoints" / "step_2", PARTS)
    return folder


def edited(data: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
    for at, gone, come in edits:
        place = int(at * len(data))
        data = data[:place] + come + data[place + gone :]
    return data


@given(name=st.sampled_from([*PARTS, files.MANIFEST]), edits=EDITS)
@settings(max_examples=120, deadline=None, derandomize=True)
def test_no_edit_of_a_checkpoint_is_loaded_in_silence(
    run: Path, name: str, edits: list[tuple[float, int, bytes]]
) -> None:
    loads(run, name, edited((run / "checkpoints/step_2" / name).read_bytes(), edits))


def loads(run: Path, name: str, content: bytes) -> bool:
    """Put ``content`` in the place of a file, and say whether a checkpoint is read then: the one that was saved."""
    folder = run / "checkpoints" / "step_2"
    path = folder / name
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        assert checkpoint.newest(run) == (2, PARTS)
        assert name == files.MANIFEST or content == before
    except CheckpointError as error:
        assert "all 1 checkpoints" in error.what and error.fix
        with pytest.raises(CheckpointError, match=r"step_2.*\nFix: "):
            incoming.read(str(folder))
        return False
    finally:
        path.write_bytes(before)
    return True


def without(name: str) -> bytes:
    """Return the manifest without a file."""
    listed = {part: {"bytes": len(data), "sha256": files.sha256(data)} for part, data in PARTS.items() if part != name}
    return json.dumps(listed).encode()


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"null", b"[" * 100_000, b'{"a": 1e999}', *map(without, PARTS)])
def test_a_manifest_of_something_else_is_refused(content: bytes, run: Path) -> None:
    """Above all one without the moving average, in whose place the last weights would be taken."""
    assert not loads(run, files.MANIFEST, content)


def test_a_manifest_in_other_words_is_taken(run: Path) -> None:
    assert loads(run, files.MANIFEST, without("nothing"))
