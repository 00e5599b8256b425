"""The package as others get it: built, installed and used outside the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from mae_lite import training
from tests import toy

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-index"]
    subprocess.run([*pip, "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)], check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--target", str(folder), str(wheel)], check=True)
    return folder


def python(site: Path, place: Path, *words: str) -> str:
    """Run Python on the installed package from ``place``; return what it prints.

    With -S Python reads no .pth file, so that the checkout, installed as editable, is not there; the dependencies come
    from the folder where they are installed.
    """
    path = os.pathsep.join([str(site), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    done = subprocess.run(
        [sys.executable, "-S", *words],
        cwd=place,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    held = {name for name in names if ".dist-info/" not in name}
    package = (path for path in (ROOT / "mae_lite").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    assert held == {path.relative_to(ROOT).as_posix() for path in package}
    assert {"mae_lite/checking/__init__.py", "mae_lite/report/templates/page.html.j2"} <= held
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert any(name.endswith(".dist-info/entry_points.txt") for name in names)


def test_installed_wheel_is_what_runs(site: Path, tmp_path: Path) -> None:
    code = "import json, sys, mae_lite; print(json.dumps([mae_lite.__file__, sys.path]))"
    file, path = json.loads(python(site, tmp_path, "-c", code))
    assert Path(file).is_relative_to(site)
    assert str(ROOT) not in path


def test_commands_of_the_installed_wheel(site: Path, tmp_path: Path) -> None:
    listed = python(site, tmp_path, "-m", "mae_lite", "--help")
    assert "pretrain" in listed
    assert "mae-tiny" in python(site, tmp_path, "-m", "mae_lite", "recipes")
    checked = ("check", "digits", "--recipe", "digits-mae", "--sample", "20", "--workers", "0", "--out", "checked")
    python(site, tmp_path, "-m", "mae_lite", *checked)
    assert (tmp_path / "checked" / "check.json").is_file()


def test_report_of_the_installed_wheel(site: Path, tmp_path: Path) -> None:
    run = training.run(toy.mae(), toy.runtime(tmp_path / "run")).folder
    python(site, tmp_path, "-m", "mae_lite", "report", str(run), "--out", "page.html")
    assert run.name in (tmp_path / "page.html").read_text()
