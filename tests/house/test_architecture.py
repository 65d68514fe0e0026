"""docs/architecture.md is one page that names every folder, and its two walks stay short enough to be remembered."""

from __future__ import annotations

import re

import pytest

from tests.conftest import PROJECT_ROOT
from tests.house.test_references import NAMED_FUNCTION, functions, source_file

PAGE = (PROJECT_ROOT / "docs/architecture.md").read_text("utf-8")
MOST_STATIONS = 12


def stations(page: str, heading: str) -> list[str]:
    """Return the items of the numbered list in a section."""
    section = page.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [item.strip() for item in re.split(r"^\d+\. ", section, flags=re.MULTILINE)[1:]]


@pytest.mark.parametrize(
    "heading", ["One frame from disk to point cloud", "One training step from recipe to optimizer"]
)
def test_a_walk_has_at_most_a_dozen_stations(heading: str) -> None:
    items = stations(PAGE, heading)
    assert 2 <= len(items) <= MOST_STATIONS
    for item in items:
        named = NAMED_FUNCTION.match(item)
        assert named, f"not a function: {item}"
        file = source_file(named[1], PROJECT_ROOT)
        assert file is not None, named[1]
        assert named[2] in functions(file), item


def test_stations_are_counted() -> None:
    page = "# Page\n\n## Walk\nText.\n\n1. one\n   and more\n2. two\n\n## Other\n1. three\n"
    assert stations(page, "Walk") == ["one\n   and more", "two"]


def test_every_folder_is_on_the_page() -> None:
    table = PAGE.split("\n## Folders\n")[1].split("\n## ")[0]
    missing = []
    for package in ("scal3r_train", "eval", "data_tools"):
        for file in sorted((PROJECT_ROOT / package).rglob("__init__.py")):
            folder = file.parent.relative_to(PROJECT_ROOT)
            # A folder is named by its path, one inside another by its name alone.
            names = {f"`{folder.as_posix()}/`", f"`{folder.name}/`"}
            if folder.as_posix() != "scal3r_train" and not any(name in table for name in names):
                missing.append(folder.as_posix())
    assert not missing
