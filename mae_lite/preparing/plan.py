"""What a pack is to hold, settled before the first image is converted; a start that goes on must settle the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from mae_lite import files
from mae_lite.addresses import hidden
from mae_lite.config import Config
from mae_lite.data.opening import open_source
from mae_lite.data.pack import FILE, PLAN, UNDIVIDED, VERSION, Form, is_pack
from mae_lite.data.sources import Source, some
from mae_lite.errors import ConfigError, DataError, SplitError

_FEW, _MANY, _SHARES = 64, 1000, 32


class Plan(Config):
    """What ``prepare.json`` says."""

    version: int = VERSION
    form: Form
    source: str
    """The data set as the user gave it; another spelling of the same is the same."""
    fingerprints: dict[str, dict[str, int | str]]
    """Of each split."""
    images_per_part: int

    def digest(self) -> str:
        """Return a SHA-256 over all that decides the bytes of the parts."""
        return hashlib.sha256(self.model_dump_json(exclude={"source"}).encode()).hexdigest()


def divisions(data: str, allow_empty: bool) -> dict[str, Source]:
    """Open every split that the data have, in the order train, val, test; "all" of data that are not divided.

    Raises:
        DataError: when they cannot be read, or have no images.
    """
    found: dict[str, Source] = {}
    missing: SplitError | None = None
    for split in ("train", "val", "test"):
        try:
            source = open_source(data, split, strict=True, allow_empty=allow_empty)
        except SplitError as error:
            missing = error
            continue
        if source.split is None:
            return {UNDIVIDED: source}
        found[source.split] = source  # a split named with "#" comes whatever is asked for
    if not found and missing is not None:
        raise missing
    return found


def settle(data: str, sources: Mapping[str, Source], form: Form) -> Plan:
    """Return the plan for a data set."""
    # Small sets are cut finer, so that every process has something to do; never by the number of processes, on which
    # no file may depend.
    largest = max(len(source) for source in sources.values())
    per_part = min(max(_FEW, -(-largest // _SHARES)), _MANY)
    prints = {split: source.fingerprint() for split, source in sources.items()}
    return Plan(form=form, source=hidden(data), fingerprints=prints, images_per_part=per_part)


def check_place(data: str, folder: Path) -> None:
    """Refuse a folder that holds something else, or lies within the data.

    Raises:
        ConfigError: when it does.
        DataError: when a file lies there.
    """
    place = Path(data.partition(":")[2] or data).expanduser()
    if place.is_dir() and folder.resolve().is_relative_to(place.resolve()):
        raise ConfigError(
            "PACK",
            found=f"{str(folder)!r}, in the data set itself",
            expected="a folder outside of it",
            fix=f"mae-lite prepare {data} {place.resolve().name}-pack",
        )
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{str(folder)!r} is a file", expected="a folder, or none yet", fix="choose another folder")
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    ours = {PLAN, FILE} & set(names)
    others = [name for name in names if not name.startswith(".")]
    if others and not ours:
        raise DataError(
            f"{str(folder)!r} holds other files",
            found=some(others),
            expected="an empty folder, none yet, or a pack of the same data",
            fix="choose another folder",
        )


def agree(folder: Path, plan: Plan) -> None:
    """Refuse to go on in a folder where another pack was begun.

    Raises:
        DataError: when its plan is another one, or not readable; says in what it differs.
    """
    before = _before(folder)
    if before is None or before.digest() == plan.digest():
        return
    old, new = (_flat(each.model_dump(mode="json", exclude={"source"})) for each in (before, plan))
    changed = [
        f"{name} {old.get(name)} -> {new.get(name)}" for name in {**old, **new} if old.get(name) != new.get(name)
    ]
    same_data = before.fingerprints == plan.fingerprints
    what = "with other settings" if same_data else f"from other data: {before.source!r} as it was then"
    raise DataError(
        f"a pack was begun in {str(folder)!r} {what}",
        found="; ".join(changed),
        expected="the same data and settings as before",
        fix="give the settings of before, choose another folder, or delete this one",
    )


def _before(folder: Path) -> Plan | None:
    path = folder / PLAN
    if not path.exists() and not is_pack(folder):
        return None
    try:
        return Plan.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise DataError(
            f"{str(path)!r} is missing or damaged",
            found=str(error).splitlines()[0],
            expected="what the pack was begun with",
            fix="choose another folder, or delete this one",
        ) from error


def write(folder: Path, plan: Plan) -> None:
    """Keep the plan for later starts."""
    files.write_text(folder / PLAN, json.dumps(plan.model_dump(mode="json"), indent=2) + "\n")


def _flat(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in values.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return found
