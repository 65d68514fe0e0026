"""What comments, docstrings and documents refer to exists: documents, their sections, linked files, named functions.

A reference is `docs/FILE.md` or `docs/FILE.md#section` anywhere in a text file, a Markdown link, or in a document the
name of a function as `path.py: function` or `path.py: Class.method`. Nobody refers to notes outside the repository.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import PROJECT_ROOT

SUFFIXES = {".py", ".md", ".yaml", ".toml", ".sh"}
HERE = "tests/house/test_references.py"
SKIPPED_FOLDERS = {"runs", "build", "dist"}

# Capital stems stand for a name to fill in: docs/data/DATASET.md.
DOCUMENT = re.compile(r"(?<![\w/.-])docs/(?:[\w-]+/)*(?![A-Z]+\.md)[\w-]+\.md(?:#[\w-]+)?")
LINK = re.compile(r"\]\(<?([^)\s>]+)>?\)|(?:src|href)=\"([^\"]+)\"")
NAMED_FUNCTION = re.compile(r"`([\w./-]+\.py): ([\w.]+)`")
NAMED_FILE = re.compile(r"`([\w.-]+(?:/[\w.-]+)+\.py)\b")
CODE_SPAN = re.compile(r"(`+).+?\1")
HEADING = re.compile(r"#{1,6} +(.*?)(?: +#+)? *")

# Notes of the project's beginnings that never were part of the repository.
FOREIGN = re.compile(
    r"\b(?:SPEC|DESIGN|DISTRIBUTED|REFERENCE_FLAWS|ROOMS|ANCHORS)\b"
    r"|\b(?:PAPER|FIELD|STYLE|USERS|DATASETS|CUDA)\.md\b|\bflaws? [ABC]\d+|\.\./shared/\w+\.md\b"
)
MAY_NAME_FOREIGN = {
    "CHANGELOG.md",  # history
    "tests/eval/test_cited.py",  # opens the notes on the paper where they are at hand
}
# A lab book and a change log name files as they were.
MAY_NAME_FORMER_FILES = {"CHANGELOG.md", "docs/experiments.md"}


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").replace("*", "")
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")


def prose(text: str) -> Iterator[tuple[int, str]]:
    """Numbered lines of a Markdown text that lie in no fenced block."""
    fence = ""
    for number, line in enumerate(text.splitlines(), 1):
        mark = re.match(r" *(```+|~~~+)", line)
        if mark and (not fence or mark[1].startswith(fence)):
            fence = "" if fence else mark[1]
        elif not fence:
            yield number, line


@cache
def anchors(document: Path) -> frozenset[str]:
    """The anchors of a Markdown file; the second of two equal headings gets -1."""
    found: dict[str, int] = {}
    names = set()
    for _, line in prose(document.read_text("utf-8")):
        heading = HEADING.fullmatch(line)
        if heading:
            name = slug(heading[1])
            count = found[name] = found.get(name, -1) + 1
            names.add(f"{name}-{count}" if count else name)
    return frozenset(names)


@cache
def functions(module: Path) -> frozenset[str]:
    """Functions and classes of a Python file, methods as Class.method."""
    names = set()
    for node in ast.parse(module.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {
                f"{node.name}.{inner.name}"
                for inner in node.body
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef)
            }
    return frozenset(names)


def why_not(target: str, folder: Path, document: Path) -> str:
    """Why a link in a document cannot be followed; empty when it can."""
    path, _, anchor = target.partition("#")
    file = folder / path if path else document
    if not file.exists():
        return "no such file"
    if anchor and file.suffix == ".md" and anchor not in anchors(file):
        return "no such section"
    return ""


def source_file(name: str, root: Path) -> Path | None:
    """The Python file that a document names, from the root or from inside a package."""
    candidates = [root / name, *(root / package / name for package in ("scal3r_train", "eval", "data_tools"))]
    return next((path for path in candidates if path.is_file()), None)


def faults(name: str, text: str, root: Path) -> list[str]:
    """All references of one file that lead nowhere, as `file:line: reference: why`."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        targets = [match[0] for match in DOCUMENT.finditer(line)]
        found += [(number, target, why_not(target, root, root / name)) for target in targets]
        if name not in MAY_NAME_FOREIGN:
            found += [(number, match[0], "not in this repository") for match in FOREIGN.finditer(line)]
    if name.endswith(".md"):
        found += [(number, target, why) for number, target, why in _document_faults(name, text, root)]
    return [f"{name}:{number}: {target}: {why}" for number, target, why in sorted(found) if why]


def _document_faults(name: str, text: str, root: Path) -> Iterator[tuple[int, str, str]]:
    document = root / name
    for number, line in prose(text):
        for match in LINK.finditer(CODE_SPAN.sub("", line)):
            target = match[1] or match[2]
            if not re.match(r"\w+:", target):
                yield number, target, why_not(target, document.parent, document)
        if name in MAY_NAME_FORMER_FILES:
            continue
        for match in NAMED_FUNCTION.finditer(line):
            file = source_file(match[1], root)
            if file is not None and match[2] not in functions(file):
                yield number, f"{match[1]}: {match[2]}", "no such function"
        for match in NAMED_FILE.finditer(line):
            yield number, match[1], "" if source_file(match[1], root) else "no such file"


def text_files() -> Iterator[str]:
    """Text files of the checkout by their path from its root, this one apart."""
    for top in sorted(PROJECT_ROOT.iterdir()):
        if top.name in SKIPPED_FOLDERS or (top.name.startswith(".") and top.name != ".ci"):
            continue
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            name = path.relative_to(PROJECT_ROOT).as_posix()
            is_text = path.suffix in SUFFIXES or path.name in ("Makefile", "run")
            if is_text and path.is_file() and name != HERE:
                yield name


def test_every_reference_leads_somewhere() -> None:
    found = [
        fault
        for name in text_files()
        for fault in faults(name, (PROJECT_ROOT / name).read_text("utf-8"), PROJECT_ROOT)
    ]
    assert not found, "\n".join([f"{len(found)} references lead nowhere:", *found])


@pytest.mark.parametrize(
    ("heading", "anchor"),
    [
        ("Newton-Schulz", "newton-schulz"),
        ("`report.html` and *more*", "reporthtml-and-more"),
        ("Sim(3) tangent", "sim3-tangent"),
        ("2026-11-28: what a [second](x.md#y) look changed", "2026-11-28-what-a-second-look-changed"),
        ("A_b - c", "a_b---c"),
    ],
)
def test_slugs_are_githubs(heading: str, anchor: str) -> None:
    assert slug(heading) == anchor


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("see docs/page.md#first-part, docs/page.md and [this](page.md#first-part-1) or [that](#first-part).", ""),
        ("docs/data/NAME.md stands for many; `[code](nowhere.md)`; https://host/docs/other.md", ""),
        ("```\n[shown](nowhere.md)\n```", ""),
        ("[out](https://host/x.md#y) ![picture](images/a.png) <img src=\"images/a.png\">", ""),
        ("`part/tool.py: run`, `tool.py: Thing.go` and `part/tool.py`", ""),
        ("docs/nowhere.md", "docs/page.md:1: docs/nowhere.md: no such file"),
        ("\ndocs/page.md#third", "docs/page.md:2: docs/page.md#third: no such section"),
        ("docs/page.md#not-a-heading", "docs/page.md:1: docs/page.md#not-a-heading: no such section"),
        ("[a](nowhere.md)", "docs/page.md:1: nowhere.md: no such file"),
        ("[a](#nowhere)", "docs/page.md:1: #nowhere: no such section"),
        ("<img src=\"images/b.png\">", "docs/page.md:1: images/b.png: no such file"),
        ("`part/tool.py: stop`", "docs/page.md:1: part/tool.py: stop: no such function"),
        ("`part/tool.py: Thing.stop`", "docs/page.md:1: part/tool.py: Thing.stop: no such function"),
        ("`part/none.py: run`", "docs/page.md:1: part/none.py: no such file"),
        ("as SPEC 3.2 has it", "docs/page.md:1: SPEC: not in this repository"),
        ("(DISTRIBUTED.md 1)", "docs/page.md:1: DISTRIBUTED: not in this repository"),
        ("DESIGN, idea 4", "docs/page.md:1: DESIGN: not in this repository"),
        ("flaw A10", "docs/page.md:1: flaw A10: not in this repository"),
        ("../shared/CUDA.md", "docs/page.md:1: ../shared/CUDA.md: not in this repository"),
    ],
)  # fmt: skip
def test_a_reference_that_leads_nowhere_is_named(tmp_path: Path, text: str, why: str) -> None:
    """On a made-up repository: one page with two sections of the same name, one picture, one module."""
    page = "# Page\n## First part\n### First part\n```\n# not a heading\n```\n"
    module = "def run(): ...\nclass Thing:\n    def go(self): ...\n"
    for name, content in (
        ("docs/page.md", page),
        ("docs/images/a.png", ""),
        ("scal3r_train/part/tool.py", module),
        ("tool.py", module),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    found = faults("docs/page.md", text, tmp_path)
    assert found == ([why] if why else [])


def test_in_code_documents_alone_are_followed(tmp_path: Path) -> None:
    text = '"""See [x](nowhere.md), `none.py: run` and docs/none.md#part."""'
    assert faults("a.py", text, tmp_path) == ["a.py:1: docs/none.md#part: no such file"]
