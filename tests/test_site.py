"""The documentation site: built without a warning, complete, and of nothing that lies elsewhere."""

from __future__ import annotations

import re
import shutil
import struct
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from mae_lite import config, overrides, recipes
from mae_lite.commands import COMMANDS
from mae_lite.completion import full_page
from mae_lite.errors import ConfigError

for package in ("zensical", "nbconvert", "l2m4m", "mkdocstrings_handlers"):
    pytest.importorskip(package, reason=f"{package} is not installed: pip install 'mae_lite[docs]'")

from website import build, diagrams, method_tables  # noqa: E402
from website.menu import menu  # noqa: E402

DOCS = build.ROOT / "docs"


class Page(HTMLParser):
    """What a page loads, where it leads, and the places in it that a link can name."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.names: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.names |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "link" and given.get("rel") != "canonical":
            self.loads.append(given.get("href", ""))
        self.loads += [given["src"]] if "src" in given else []


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built") / "site"
    build.build(out)  # an error holds what Zensical warns of
    return out


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path.read_text()) for path in site.rglob("*.html") if path.name != "404.html"}


def test_every_page_is_there(site: Path) -> None:
    wanted = [path.relative_to(DOCS).with_suffix(".html") for kind in ("*.md", "*.ipynb") for path in DOCS.rglob(kind)]
    wanted += [Path("commands", f"{name}.html") for name in COMMANDS]
    assert len(wanted) > 40 and [str(path) for path in wanted if not (site / path).is_file()] == []


def test_nothing_is_fetched(site: Path, pages: dict[Path, Page]) -> None:
    assert {(path.name, url) for path, page in pages.items() for url in page.loads if urlsplit(url).netloc} == set()
    styles = [path.read_text() for path in site.rglob("*.css")]
    assert len(styles) > 1
    for text in styles:
        assert not re.findall(r"@import|url\([\"']?(?:https?:)?//[^)]*", text)
    assert (site / "search.json").is_file()


def test_every_link_leads_somewhere(site: Path, pages: dict[Path, Page]) -> None:
    broken = []
    for path, page in pages.items():
        for link in [*page.links, *page.loads]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file():
                broken.append(f"{path.relative_to(site)}: {link}")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].names:
                broken.append(f"{path.relative_to(site)}: {link}")
    assert broken == []


def test_a_page_in_no_menu_is_named(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    shutil.copytree(DOCS, docs)
    (docs / "stray.md").write_text("# Stray\n")
    with pytest.raises(ConfigError, match=r"in no menu: stray\.md") as caught:
        build.build(tmp_path / "site", docs)
    assert "website/menu.py" in str(caught.value) and not (tmp_path / "site").exists()
    assert menu(["commands/x.md", "index.md"]) == {"Start": ["index.md"], "Commands": ["commands/x.md"]}


@pytest.mark.parametrize("link", ["nowhere.md", "../benchmarks/README.md"])
def test_a_dead_link_ends_the_build(link: str, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    shutil.copytree(DOCS, docs)
    (docs / "index.md").write_text(f"# Start\n\n[there]({link})\n")
    with pytest.raises(ConfigError, match=re.escape(link)):
        build.build(tmp_path / "site", docs)


@pytest.mark.parametrize("command", list(COMMANDS))
def test_command_pages_name_every_option(command: str, site: Path) -> None:
    text = (site / "commands" / f"{command}.html").read_text()
    options = full_page(command, COMMANDS[command]).options
    assert options is not None
    for name in overrides.leaf_fields(type(options), options.model_dump()):
        if not name.startswith("note.") and name not in ("name", "parent") and not name.endswith(".kind"):
            assert f"<code>--{name.replace('_', '-')}</code>" in text, name


def test_api_page_has_every_public_name(site: Path) -> None:
    import mae_lite

    text = (site / "api.html").read_text()
    for name in set(mae_lite.__all__) - {"__version__"}:
        thing = getattr(mae_lite, name)
        assert f'id="{thing.__module__}.{thing.__qualname__}"' in text, name


def test_equations_name_every_recipe_that_pre_trains(site: Path) -> None:
    text = (site / "equations.html").read_text()
    assert "$$" not in text and text.count("<math display") >= 10
    for name in recipes.names():
        if "pretrain" in recipes.commands_for(recipes.get(name)):
            assert f"<code>{name}</code>" in text, name
    assert "| `digits-mae` |" in method_tables.table(["mae"]) and "dino" not in method_tables.table(["mae"])


def test_diagrams_are_those_that_are_drawn() -> None:
    kinds = {page.model_fields["kind"].default for page in config.Method.__args__[0].__args__}
    assert set(diagrams.DIAGRAMS) == kinds
    for name in diagrams.DIAGRAMS:
        assert (diagrams.FOLDER / f"{name}.svg").read_text() == diagrams.drawn(name), "python -m website.diagrams"


def test_pictures_are_small() -> None:
    for path in DOCS.rglob("*.png"):
        wide, high = struct.unpack(">II", path.read_bytes()[16:24])
        assert path.stat().st_size < 200_000 and max(wide, high) < 3000, path
    assert all(path.stat().st_size < 300_000 for path in DOCS.rglob("*.ipynb"))
