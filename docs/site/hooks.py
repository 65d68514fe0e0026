"""Hooks of the documentation site (mkdocs.yml): pages that are made from files outside of docs/.

**Linked files.** The documents link as GitHub needs it, `../scal3r_train/config.py`. A site holds docs/ alone, so each
file or folder outside that some page links to gets a page below `repository/`: Markdown as it is, other text as a
listing. No address of a repository is needed, and a link to something that is not there stays a link that mkdocs
complains of.

**The API reference.** One page a package, with the docstrings of its modules (mkdocstrings reads the files and imports
nothing).
"""

from __future__ import annotations

import ast
import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
BELOW = "repository"
MARKDOWN_LINK = re.compile(r"(\]\(<?)([^)\s>#]+)(#[^)\s>]*)?(?=>?\))")
HTML_LINK = re.compile(r"(\b(?:src|href)=\")([^\"#]+)(#[^\"]*)?(?=\")")
PUBLIC_NAME = re.compile(r"`(scal3r_train\.[\w.]+)`")  # leads to its entry in the API reference
CODE = re.compile(r"^ *(```+|~~~+).*?^ *\1 *$|(`+)(?:(?!\2).)+?\2", re.MULTILINE | re.DOTALL)
LANGUAGES = {
    ".py": "python",
    ".yaml": "yaml",
    ".yml": "yaml",
    ".toml": "toml",
    ".sh": "bash",
    ".json": "json",
}

# Packages with a page below api/: import name, folder, folders in it that are left out (one file a data set or format).
PACKAGES = {
    "model": ("scal3r_train.model", "scal3r_train/model", ()),
    "inference": ("scal3r_train.inference", "scal3r_train/inference", ()),
    "scene": ("scal3r_train.scene", "scal3r_train/scene", ("visualization",)),
    "data": ("scal3r_train.data", "scal3r_train/data", ()),
    "training": ("scal3r_train.training", "scal3r_train/training", ()),
    "losses": ("scal3r_train.losses", "scal3r_train/losses", ()),
    "metrics": ("scal3r_train.metrics", "scal3r_train/metrics", ()),
    "parallel": ("scal3r_train.parallel", "scal3r_train/parallel", ()),
    "planning": ("scal3r_train.planning", "scal3r_train/planning", ()),
    "geometry": ("scal3r_train.geometry", "scal3r_train/geometry", ()),
    "evaluation": ("scal3r_eval", "eval", ("report", "study")),
    "data_tools": ("scal3r_data_tools", "data_tools", ("adapters", "formats", "preparing", "previewing")),
}

# Where the text of a page lies in the repository, by its path in the site; pages of docs/ lie where they are.
origins: dict[str, str] = {}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for everything outside of docs/ that a page links to, and what those pages link to in turn."""
    origins.clear()
    for name, package in PACKAGES.items():
        files.append(File.generated(config, f"api/{name}.md", content=api_text(*package)))
    waiting = [file for file in files.documentation_pages() if file.abs_src_path]
    texts = [(f"docs/{file.src_uri}", file.content_string) for file in waiting]
    while texts:
        origin, text = texts.pop()
        for target in outside_targets(origin, text):
            uri = page_of(target)
            if uri in origins:
                continue
            origins[uri] = target
            content = page_text(target)
            files.append(File.generated(config, uri, content=content, inclusion=InclusionLevel.NOT_IN_NAV))
            texts.append((target, content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links that leave docs/, and those of pages from outside, into links of the site."""
    uri = page.file.src_uri
    if uri == "api.md":
        return PUBLIC_NAME.sub(r"[`\1`][\1]", markdown)
    origin = origins.get(uri, f"docs/{uri}")

    def in_site(link: str) -> str:
        target = resolved(origin, link)
        if target is None or (origin.startswith("docs/") and target.startswith("docs/")):
            return link
        there = target.removeprefix("docs/") if target.startswith("docs/") else page_of(target)
        return posixpath.relpath(there, posixpath.dirname(uri))

    return replace_links(markdown, in_site)


def api_text(package: str, folder: str, left_out: tuple[str, ...]) -> str:
    """Return a page of the API reference: what the package is, then its modules in the order of their paths."""
    opening = ast.get_docstring(ast.parse((ROOT / folder / "__init__.py").read_text("utf-8"))) or ""
    blocks = [f"# {package}\n\n````text\n{opening}\n````\n"]
    for path in sorted((ROOT / folder).rglob("*.py")):
        parts = path.relative_to(ROOT / folder).with_suffix("").parts
        if parts[-1] not in ("__init__", "__main__") and parts[0] not in left_out:
            blocks.append(f"::: {'.'.join((package, *parts))}\n")
    return "\n".join(blocks)


def outside_targets(origin: str, text: str) -> Iterator[str]:
    """Yield the existing files and folders outside of docs/ that a text links to, by their path from the root."""
    found: list[str] = []

    def note(link: str) -> str:
        target = resolved(origin, link)
        if target is not None and not target.startswith("docs/") and (ROOT / target).exists():
            found.append(target)
        return link

    replace_links(text, note)
    yield from found


def resolved(origin: str, link: str) -> str | None:
    """Return where a link of the file `origin` leads, from the root; None: out of the repository."""
    if re.match(r"\w+:|/|$", link):
        return None
    target = posixpath.normpath(posixpath.join(posixpath.dirname(origin), link))
    return None if target.startswith("..") else target


def page_of(target: str) -> str:
    """Return the path of the page that stands for a file of the repository."""
    return f"{BELOW}/{target}" if target.endswith(".md") else f"{BELOW}/{target}.md"


def page_text(target: str) -> str:
    """Return a page for a file or folder: Markdown as it is, other text as a listing."""
    path = ROOT / target
    if path.is_dir():
        names = sorted(one.name for one in path.iterdir() if not one.name.startswith(("__", ".")))
        return f"# {target}/\n\n" + "\n".join(f"- `{name}`" for name in names) + "\n"
    text = path.read_text("utf-8")
    if target.endswith(".md"):
        return text
    fence = "`" * max(4, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"# {target}\n\n{fence}{LANGUAGES.get(path.suffix, 'text')}\n{text.rstrip()}\n{fence}\n"


def replace_links(text: str, change: Callable[[str], str]) -> str:
    """Return a Markdown text with the target of every link changed; what stands in code is none."""
    parts, start = [], 0
    for code in CODE.finditer(text):
        parts += [_changed(text[start : code.start()], change), code[0]]
        start = code.end()
    return "".join([*parts, _changed(text[start:], change)])


def _changed(prose: str, change: Callable[[str], str]) -> str:
    def one(match: re.Match[str]) -> str:
        return f"{match[1]}{change(match[2])}{match[3] or ''}"

    return HTML_LINK.sub(one, MARKDOWN_LINK.sub(one, prose))
