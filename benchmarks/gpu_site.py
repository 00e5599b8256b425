"""Install from a folder of wheels what this Python lacks, without network, into a folder of its own.

A package is lacking when it cannot be imported, or when its version is refused by this project or by a package that is
being installed. Nothing that is installed already is changed.

    python benchmarks/gpu_site.py WHEELS TARGET
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable, Sequence
from email.parser import HeaderParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WHEELS = Path(sys.argv[1] if len(sys.argv) > 2 else "wheels")
BORROWED = {"packaging"} if importlib.util.find_spec("packaging") is None else set()
if BORROWED:  # a wheel of plain Python can be imported as it is
    sys.path += [str(path) for path in WHEELS.glob("packaging-*.whl")]

from packaging.requirements import Requirement  # noqa: E402
from packaging.tags import sys_tags  # noqa: E402
from packaging.utils import canonicalize_name, parse_wheel_filename  # noqa: E402


def usable(folder: Path) -> dict[str, Path]:
    """Return the wheels that fit this Python, by name."""
    ours = frozenset(sys_tags())
    parsed = ((path, parse_wheel_filename(path.name)) for path in sorted(folder.glob("*.whl")))
    return {name: path for path, (name, _, _, tags) in parsed if tags & ours}


def project_requirements() -> list[Requirement]:
    """Return what this project needs, and pytest, with whose tests the reference numbers are compared."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [*_applying(project["dependencies"]), Requirement("pytest")]


def wheel_requirements(wheel: Path) -> list[Requirement]:
    """Return what a wheel needs."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        fields = HeaderParser().parsestr(archive.read(name).decode()).get_all("Requires-Dist") or []
    return _applying(fields)


def _applying(lines: Iterable[str]) -> list[Requirement]:
    found = [Requirement(line) for line in lines]
    return [need for need in found if need.marker is None or need.marker.evaluate({"extra": ""})]


def installed(name: str) -> str | None:
    """Return the version of a package; None when it is not installed under this name."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def lacks(need: Requirement) -> bool:
    """Say whether a requirement is not met; a package that can be imported but tells no version meets it."""
    if need.name in BORROWED:
        return True
    version = installed(need.name)
    if version is None:
        module = {"scikit-learn": "sklearn", "pillow": "PIL"}.get(canonicalize_name(need.name))
        return importlib.util.find_spec(module or need.name.replace("-", "_")) is None
    return not need.specifier.contains(version, prereleases=True)


def chosen(wheels: dict[str, Path]) -> tuple[list[Path], list[str]]:
    """Return the wheels to install, and the requirements that remain unmet."""
    take: dict[str, Path] = {}
    unmet: list[str] = []
    needs = project_requirements()
    while needs:
        need = needs.pop()
        name = canonicalize_name(need.name)
        if name in take or not lacks(need):
            continue
        if name not in wheels:
            unmet.append(f"{need} (found {installed(need.name) or 'none'})")
            continue
        take[name] = wheels[name]
        needs += wheel_requirements(wheels[name])
    return sorted(take.values()), list(dict.fromkeys(unmet))


def main(argv: Sequence[str]) -> int:
    """Choose, install, and say what remains unmet."""
    folder, target = Path(argv[0]), Path(argv[1])
    wheels, unmet = chosen(usable(folder))
    for line in unmet:
        print(f"not met: {line}")
    if not wheels:
        print("no wheel is needed")
        return 0
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--upgrade", "--target", str(target), *map(str, wheels)], check=True)
    print(f"installed in {target}: {', '.join(path.name.split('-')[0] for path in wheels)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
