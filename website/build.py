"""Builds the site: ``python -m website.build [FOLDER]``, by default into build/site."""

from __future__ import annotations

import os
import posixpath
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path

from mae_lite.errors import ConfigError, MaeLiteError
from website import command_pages, method_tables, notebook_pages
from website.menu import as_toml, menu

ROOT = Path(__file__).parent.parent
ROOT_PAGES = {"CONTRIBUTING.md": "contributing.md", "SECURITY.md": "security.md"}
"""Pages of the repository's root that the site has as well."""


def assemble(folder: Path, docs: Path = ROOT / "docs") -> None:
    """Write all that Zensical needs into ``folder``: the pages, its configuration, the style.

    Raises:
        ConfigError: for a page that is in no menu, and for a link to a file that the site does not have.
    """
    pages = folder / "docs"
    shutil.copytree(docs, pages, ignore=shutil.ignore_patterns("*.ipynb"))
    shutil.copy(Path(__file__).parent / "style.css", pages)
    texts = {path.relative_to(pages).as_posix(): path.read_text() for path in pages.rglob("*.md")}
    texts |= {new: (ROOT / old).read_text().replace("](docs/", "](") for old, new in ROOT_PAGES.items()}
    texts |= command_pages.pages()
    for notebook in sorted(docs.rglob("*.ipynb")):
        name = notebook.relative_to(docs).with_suffix(".md").as_posix()
        texts[name], files = notebook_pages.rendered(notebook)
        for path, data in files.items():
            (pages / name).parent.joinpath(path).parent.mkdir(parents=True, exist_ok=True)
            (pages / name).parent.joinpath(path).write_bytes(data)
    there = {path.relative_to(pages).as_posix() for path in pages.rglob("*")} | set(texts)
    for name, text in texts.items():
        (pages / name).parent.mkdir(parents=True, exist_ok=True)
        (pages / name).write_text(method_tables.filled(_links(name, text, there)))
    settings = (Path(__file__).parent / "zensical.toml").read_text()
    (folder / "zensical.toml").write_text(settings.replace("#MENU", as_toml(menu(texts))))


def _links(name: str, text: str, there: Collection[str]) -> str:
    """Return a page whose links to the repository's root and to notebooks lead to pages of the site.

    Raises:
        ConfigError: for a link to nothing that is ``there``; Zensical does not look at all of them.
    """
    for old, new in ROOT_PAGES.items():
        text = text.replace(f"](../{old}", f"]({new}")
    text = text.replace(".ipynb)", ".md)")
    for link in re.findall(r"\]\(([^)#:\s]+)[^)]*\)", re.sub(r"`[^`]*`", "", text)):
        if posixpath.normpath(posixpath.join(posixpath.dirname(name), link)) not in there:
            fix = "mend it; a file that is no page of docs/ is named as `code`, without a link"
            raise ConfigError(f"docs/{name}", found=f"a link to {link}", expected="a page or picture of docs/", fix=fix)
    return text


def build(out: Path, docs: Path = ROOT / "docs") -> None:
    """Build the site into ``out``, which is replaced.

    Raises:
        ConfigError: for what :func:`assemble` refuses, and with Zensical's words where it warns.
    """
    with tempfile.TemporaryDirectory(prefix="mae-lite-site-") as name:
        folder = Path(name)
        assemble(folder, docs)
        command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
        env = os.environ | {"PYTHONPATH": str(ROOT)}  # docstrings are those of this checkout
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
        if done.returncode or not (folder / "site" / "index.html").is_file():
            said = re.sub(r"\x1b\[[\d;]*m", "", done.stdout + done.stderr).partition("\nTraceback")[0]
            raise ConfigError(f"the site cannot be built:\n{said}", fix="mend what is named above")
        shutil.rmtree(out, ignore_errors=True)
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(folder / "site", out)


if __name__ == "__main__":
    place = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "site"
    try:
        build(place)
    except MaeLiteError as error:
        raise SystemExit(f"error: {error}") from None
    print(f"The site: {place / 'index.html'}")
    print(f"With its search, which browsers want a server for: python -m http.server --bind 127.0.0.1 -d {place}")
