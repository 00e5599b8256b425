"""SHA-256 of every image in the format of ``sha256sum``, to find later what decoding cannot see."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from mae_lite import files
from mae_lite.errors import DataError


def write(path: Path, digests: Iterable[tuple[str, bytes]]) -> None:
    """Write name and digest of images; ``sha256sum -c`` in the data's folder checks the file.

    Raises:
        DiskError: when that is not possible.
    """
    files.make_folder(path.parent)
    files.write_text(path, "".join(f"{_line(name, digest.hex())}\n" for name, digest in digests))


def read(path: Path) -> dict[str, str]:
    """Return the digest of each name that a file of hashes holds.

    Raises:
        DataError: when it is not one.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        return dict(_parsed(line) for line in lines if line)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{str(path)!r} is not a file of hashes",
            found=str(error),
            expected="lines of a SHA-256, two spaces and a name",
            fix="write one with --save-hashes FILE while the data are good",
        ) from error


def changed(known: dict[str, str], digests: Sequence[tuple[str, bytes]], whole: bool) -> list[str]:
    """Return the images whose content is not what ``known`` says; new names are passed over.

    Args:
        known: digest by name.
        digests: what was found now.
        whole: whether all images were looked at, so that one not found is missing.
    """
    now = {_unescaped(_escaped(name)): digest.hex() for name, digest in digests}
    altered = [name for name, digest in now.items() if known.get(name, digest) != digest]
    return altered + ([f"{name} (missing or unreadable)" for name in known if name not in now] if whole else [])


def _escaped(name: str) -> str:
    text = name.encode("utf-8", "backslashreplace").decode()
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")


def _unescaped(text: str) -> str:
    parts = text.split("\\\\")
    return "\\".join(part.replace("\\n", "\n").replace("\\r", "\r") for part in parts)


def _line(name: str, digest: str) -> str:
    escaped = _escaped(name)
    mark = "\\" if escaped != name else ""  # as sha256sum does
    return f"{mark}{digest}  {escaped}"


def _parsed(line: str) -> tuple[str, str]:
    marked = line.startswith("\\")
    digest, name = line.removeprefix("\\").split("  ", 1)
    if len(bytes.fromhex(digest)) != 32:
        raise DataError(f"line {line[:80]!r} has no SHA-256", fix="write the file anew with --save-hashes FILE")
    return (_unescaped(name) if marked else name), digest
