"""From what the user gave with ``--data`` to a source: kinds by name, and bare paths that are recognised aloud."""

from __future__ import annotations

import errno
import logging
import os
import re
from pathlib import Path
from typing import NamedTuple, get_args

from mae_lite.addresses import is_url
from mae_lite.data.fetch_rules import check_kind
from mae_lite.data.sources import Source, Split, some
from mae_lite.data.splits import split_of
from mae_lite.errors import ConfigError, DataError, SplitError, nearest

_log = logging.getLogger(__name__)

KINDS = {
    "digits": "digits",
    "folder": "folder:PATH",
    "csv": "csv:FILE.csv",
    "parquet": "parquet:PATH",
    "shards": "shards:'train-{000..127}.tar'",
    "torchvision": "torchvision:cifar10",
    "hf": "hf:PATH_OR_NAME",
    "pack": "pack:FOLDER",
}
"""Every kind with an example."""

_CALLED = {
    "folder": "a folder of images",
    "csv": "a table of paths and labels",
    "parquet": "parquet files",
    "shards": "tar shards",
    "hf": "a Hugging Face data set",
    "pack": "a pack",
}


_told: set[str] = set()  # a data set is opened once for each of its splits


class _Request(NamedTuple):
    kind: str
    place: str
    part: str | None
    """What stands after "#": a split by name."""


def open_source(spec: str, split: Split = "train", *, strict: bool = False, allow_empty: bool = False) -> Source:
    """Open a data set.

    Data without splits (a folder of classes, one parquet file) are taken whole whatever split is asked for. Where one
    of validation and test images is missing, the other stands in, which is logged.

    Args:
        spec: "digits", "KIND:PLACE" with a kind of :data:`KINDS`, or a path whose kind is recognised; "#SPLIT" at the
            end names the split instead of ``split``.
        split: which part, where the data set has parts.
        strict: whether nothing may stand in for a missing split.
        allow_empty: whether a class folder may be empty; it stays a class.

    Raises:
        ConfigError: when the kind is unknown.
        SplitError: when the data do not have the split.
        DataError: when nothing usable is at the path; says what is there.
    """
    request = _parse(spec)
    named = None if request.part is None else split_of(request.part)
    if request.part is not None and named is None and request.kind not in ("torchvision", "hf"):
        raise ConfigError(
            "data",
            found=repr(spec),
            expected=f"a split such as {', '.join(get_args(Split))} after #",
            fix="--data X#val",
        )
    source = _open(spec, request, named or split, strict or named is not None, allow_empty)
    if request.part is not None and source.split is None and request.kind not in ("torchvision", "hf"):
        raise SplitError(
            f"{request.place!r} is not divided, so that it has no part {request.part!r}",
            found="one part, all of it",
            expected="folders, file names or a column that say train, val or test",
            fix=f"--data {request.place}, or divide it",
        )
    return source


def is_data_set(spec: str) -> bool:
    """Say whether ``spec`` is more than a path of files and folders of images: another kind, or one part of it.

    Raises:
        ConfigError: when it has a kind, and that is unknown.
    """
    request = _parse(spec)
    return request.kind != "folder" or request.place != spec


def own_split(spec: str, train: Source, split: Split, allow_empty: bool = False) -> Source | None:
    """Return the validation or test images that a data set brings itself beside ``train``; None when it has none.

    Raises:
        DataError: when it has them and they cannot be used.
    """
    if train.split is None or _parse(spec).part is not None:
        return None
    try:
        source = open_source(spec, split, strict=True, allow_empty=allow_empty)
    except SplitError:
        return None
    return source if source.split == split else None


def _open(spec: str, request: _Request, split: Split, strict: bool, allow_empty: bool) -> Source:
    kind, place, part = request
    path = Path(place).expanduser()
    match kind:
        case "digits":
            from mae_lite.data.digits import Digits

            return Digits(split, strict=strict)
        case "torchvision":
            from mae_lite.data.torchvision_sets import TorchvisionSet

            return TorchvisionSet(place, split, spec, part=part, strict=strict)
        case "hf":
            from mae_lite.data.hub import HubSet

            return HubSet(place, split, spec, part=part, strict=strict)
        case "shards" if is_url(place):
            from mae_lite.data.remote_shards import RemoteShards

            return RemoteShards(place, spec)
        case "shards":
            from mae_lite.data.shards import Shards

            return Shards(place, split, spec, strict=strict)
    _check_name(place)
    if not os.path.exists(path):
        raise _missing(spec, path)
    if not (path.is_file() or path.is_dir()):  # reading a pipe would wait for ever
        raise DataError(
            f"data {spec!r} cannot be read",
            found="a pipe, socket or device",
            expected="a file or a folder",
            fix="give an existing folder of images or parquet file with --data PATH",
        )
    if kind == "csv":
        from mae_lite.data.table import Table

        return Table(path, split, spec, strict=strict)
    if kind == "parquet":
        from mae_lite.data.parquet import Parquet

        return Parquet(path, split, spec, strict=strict)
    if kind == "pack":
        from mae_lite.data.pack import Pack

        return Pack(path, split, spec, strict=strict)
    from mae_lite.data.folder import Folder

    return Folder(path, split, spec, strict=strict, allow_empty=allow_empty)


def _parse(spec: str) -> _Request:
    """Return what ``spec`` asks for; a path that exists is a path, whatever signs it has."""
    part: str | None = None
    place = spec
    # os.path, as pathlib raises for names that are too long.
    if "#" in spec and not os.path.exists(os.path.expanduser(spec)):
        place, part = spec.rsplit("#", 1)
    if place == "digits":
        return _Request("digits", "", part)
    # Two letters at least, so that a drive such as C: stays part of a path.
    match = re.fullmatch(r"([A-Za-z][A-Za-z0-9_-]+):(.*)", place, flags=re.DOTALL)
    if match is None or os.path.exists(place):
        check_kind(place)
        return _Request(_recognised(place), place, part)
    kind, rest = match.groups()
    if is_url(place):
        raise ConfigError("data", found=repr(spec), expected="what lies there, before it", fix=f"--data shards:{place}")
    if not is_url(rest):
        check_kind(rest if kind in KINDS else place)
    if kind not in KINDS or kind == "digits" or not rest:
        close = next((option for option in KINDS if nearest(kind, [option])), "folder")
        raise ConfigError(
            "data",
            found=repr(spec) + nearest(kind, KINDS),
            expected=f"{', '.join(KINDS.values())}, or a path",
            fix=f"--data {KINDS[close]}",
        )
    return _Request(kind, rest, part)


def _recognised(place: str) -> str:
    """Return the kind of what lies at a bare path, and say it."""
    path = Path(place).expanduser()
    kind = _kind_of(path)
    if kind != "folder" and place not in _told and (kind == "shards" or os.path.exists(path)):
        _told.add(place)
        _log.info("%s is read as %s", place, _CALLED[kind])
    return kind


def _kind_of(path: Path) -> str:
    suffixes = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".tar": "shards"}
    if not os.path.isdir(path):
        return suffixes.get(path.suffix.lower(), "folder")
    if (path / "dataset_dict.json").exists() or (path / "dataset_info.json").exists():
        return "hf"
    if (path / "pack.json").exists() or (path / "prepare.json").exists():
        return "pack"
    try:
        with os.scandir(path) as entries:  # once, for there may be a million
            found = {suffixes.get(os.path.splitext(entry.name)[1].lower()) for entry in entries}
    except OSError:  # the folder source says what is wrong
        return "folder"
    if "parquet" in found or any(path.glob("data/*.parquet")):
        return "parquet"
    return "shards" if "shards" in found else "folder"


def _check_name(place: str) -> None:
    """Refuse what no file system takes as a name.

    Raises:
        DataError: when it is too long, or holds a zero byte.
    """
    try:
        os.stat(os.path.expanduser(place) or ".")
    except ValueError as error:
        found = str(error)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            return
        found = f"a name of {len(place):,} characters"
    else:
        return
    fix = "give an existing folder of images or parquet file with --data PATH"
    raise DataError(f"data {place[:80]!r} cannot be a path", found=found, fix=fix)


def _missing(spec: str, path: Path) -> DataError:
    parent = path.absolute().parent
    while not parent.is_dir():
        parent = parent.parent
    names = sorted(entry.name for entry in parent.iterdir() if not entry.name.startswith("."))
    close = nearest(path.name, [*names, "digits"])
    return DataError(
        f"data {spec!r} does not exist",
        found=f"in {str(parent)!r}: {some(names)}{close}",
        fix="give an existing folder of images or parquet file with --data PATH, or --data digits to try things out",
    )
