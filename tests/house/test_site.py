"""The documentation site: every page is in its menu, it builds without warnings, its links lead somewhere, and no page
asks for anything from elsewhere."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.conftest import PROJECT_ROOT

DOCS = PROJECT_ROOT / "docs"
CONFIG = YAML(typ="rt", pure=True).load((PROJECT_ROOT / "mkdocs.yml").read_text("utf-8"))
# Attributes that make a browser fetch something; a link of a reader's choice is none of them.
FETCHED = {
    "script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src", "embed": "src",
    "object": "data", "link": "href",
}  # fmt: skip
FETCHED_BY_STYLE = re.compile(r"(?:@import\s+|url\()\s*[\"']?(?:https?:)?//")


def in_menu(entries: Any) -> Iterator[str]:
    for entry in entries:
        if isinstance(entry, str):
            yield entry
        else:
            for inner in entry.values():
                yield from in_menu([inner] if isinstance(inner, str) else inner)


def test_every_page_is_in_the_menu_once() -> None:
    listed = list(in_menu(CONFIG["nav"]))
    written = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert len(listed) == len(set(listed))
    assert written - set(listed) == set(), "add these pages to `nav` in mkdocs.yml"
    assert all(name.startswith("api/") for name in set(listed) - written), "no such page"


def test_the_theme_loads_nothing_from_elsewhere() -> None:
    assert CONFIG["theme"]["font"] is False
    assert not any(
        str(value).startswith("http")
        for value in CONFIG.get("extra_css", []) + CONFIG.get("extra_javascript", [])
    )


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    pytest.importorskip("mkdocs", reason="extra [docs]")
    spec = importlib.util.spec_from_file_location("site_hooks", DOCS / "site/hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class FakePage:
    def __init__(self, uri: str) -> None:
        self.file = type("FakeFile", (), {"src_uri": uri})()


@pytest.mark.parametrize(
    ("page", "text", "expected"),
    [
        ("data/README.md", "[a](../../eval/recipe.py)", "[a](../repository/eval/recipe.py.md)"),
        ("index.md", "[a](../README.md#install)", "[a](repository/README.md#install)"),
        ("index.md", "[a](training.md#metrics) [b](#c)", "[a](training.md#metrics) [b](#c)"),
        ("index.md", "`[a](../README.md)`", "`[a](../README.md)`"),
        ("index.md", "```\n[a](../README.md)\n```", "```\n[a](../README.md)\n```"),
        ("index.md", "[a](https://host/../README.md)", "[a](https://host/../README.md)"),
        ("index.md", '<img src="../assets/a.png">', '<img src="repository/assets/a.png.md">'),
        ("repository/README.md", "[a](docs/model.md#the-memory)", "[a](../model.md#the-memory)"),
        ("repository/README.md", '<img src="docs/images/a.png" width="9">', '<img src="../images/a.png" width="9">'),
        ("repository/README.md", "[a](CHANGELOG.md)", "[a](CHANGELOG.md)"),
        ("api.md", "`Scene`, `scal3r_train.x.Scene`", "`Scene`, [`scal3r_train.x.Scene`][scal3r_train.x.Scene]"),
    ],
)  # fmt: skip
def test_links_that_leave_docs_lead_into_the_site(
    hooks: ModuleType, page: str, text: str, expected: str
) -> None:
    hooks.origins.clear()
    hooks.origins["repository/README.md"] = "README.md"
    assert hooks.on_page_markdown(text, FakePage(page), None, None) == expected


def test_pages_of_files(hooks: ModuleType) -> None:
    listing = hooks.page_text("scal3r_train/config.py")
    assert listing.startswith("# scal3r_train/config.py\n\n````python\n")
    assert "- `recipe.py`" in hooks.page_text("eval")
    assert hooks.page_text("README.md").startswith("# scal3r_train\n")


# Of the theme and of ours; another one is text between < and > that was taken for HTML, and is not seen.
TAGS = set(
    """a article aside autoref b blockquote body br button code dd details div dl dt em fieldset footer form h1 h2 h3 h4
    h5 h6 head header hr html img input label li link main meta nav ol option p path pre script select small span strong
    style summary svg table tbody td th thead title tr ul""".split()
)


class Page(HTMLParser):
    """What a page links to, what it makes a browser fetch, the anchors it has, and tags that HTML does not know."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.anchors: set[str] = set()
        self.strange: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in TAGS:
            self.strange.append(tag)
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        address = values.get(FETCHED.get(tag, ""), "")
        if address and values.get("rel") != "canonical":
            self.fetched.append(address)
        if FETCHED_BY_STYLE.search(values.get("style", "")):
            self.fetched.append("https://style")


@cache
def read_page(path: Path) -> Page:
    return Page(path.read_text("utf-8"))


def leads_somewhere(page: Path, link: str) -> bool:
    address, _, anchor = urllib.parse.unquote(link).partition("#")
    target = (page.parent / address).resolve() if address else page
    if target.is_dir():
        target /= "index.html"
    if not target.is_file():
        return False
    return not anchor or target.suffix != ".html" or anchor in read_page(target).anchors


def test_a_link_that_leads_nowhere_is_seen(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<h1 id="top">A</h1><a href="b.html#x">b</a><script src="//cdn/x.js"></script>'
    )
    (tmp_path / "b.html").write_text('<h1 id="x">B</h1>')
    assert Page("<p>sum <f_W(k), v> and <b>bold</b></p>").strange == ["f_w(k),"]
    page = read_page(tmp_path / "a.html")
    assert (page.links, page.fetched) == (["b.html#x"], ["//cdn/x.js"])
    found = [
        leads_somewhere(tmp_path / "a.html", link)
        for link in ("b.html#x", "#top", "b.html#y", "#y", "c.html")
    ]
    assert found == [True, True, False, False, False]
    assert FETCHED_BY_STYLE.search("@import url(//fonts/x.css)")
    assert FETCHED_BY_STYLE.search("src: url('https://fonts/x.woff')")
    assert not FETCHED_BY_STYLE.search("background: url('x.png')")


@pytest.mark.slow
def test_the_site_builds_offline_and_its_links_lead_somewhere(tmp_path: Path) -> None:
    """In a process whose proxies lead nowhere; mkdocs is strict, so that a warning fails it."""
    pytest.importorskip("mkdocs", reason="extra [docs]")
    nowhere = "http://127.0.0.1:9"
    environment = os.environ | {
        name: nowhere for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")
    }
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(
        command,
        cwd=PROJECT_ROOT,
        env=environment | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    pages = sorted(tmp_path.rglob("*.html"))
    assert len(pages) > 80
    faults = []
    for path in pages:
        if path.name == "404.html":
            continue
        page, name = read_page(path), path.relative_to(tmp_path).as_posix()
        faults += [f"{name} fetches {one}" for one in page.fetched if re.match(r"(https?:)?//", one)]
        faults += [f"{name}: <{one}> is no tag; write it as code" for one in page.strange]
        inner = [link for link in page.links if not re.match(r"\w+:|//|#?$", link)]
        faults += [f"{name}: {link}" for link in inner if not leads_somewhere(path, link)]
    faults += [
        f"{path.relative_to(tmp_path)} fetches from elsewhere"
        for path in tmp_path.rglob("*.css")
        if FETCHED_BY_STYLE.search(path.read_text("utf-8"))
    ]
    assert not faults, "\n".join(faults)
    api = (tmp_path / "api/model.html").read_text("utf-8")
    assert 'id="scal3r_train.model.modeling_scal3r.Scal3RModel"' in api
    assert "api/model.html#scal3r_train.model.modeling_scal3r.Scal3RModel" in (
        tmp_path / "api.html"
    ).read_text("utf-8")
