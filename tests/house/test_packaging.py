"""What pyproject.toml installs is what lies in the folders, under names that cannot collide."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT_ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PYPROJECT = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())
FOLDERS = {"scal3r_train": "scal3r_train", "scal3r_eval": "eval", "scal3r_data_tools": "data_tools"}

# Of files alone: installed inside the package, found by scal3r_train/shipped.py.
SHIPPED = {"scal3r_train.recipes": "recipes", "scal3r_train.assets": "assets"}

# `assets` holds a small checkpoint; `.gitignore` is git's.
TOP_LEVEL = set(
    "scal3r_train recipes data_tools eval tests benchmarks docs assets pyproject.toml README.md "
    "CONTRIBUTING.md CHANGELOG.md LICENSE Makefile .ci .pre-commit-config.yaml .gitignore".split()
)


def packages_on_disk() -> set[str]:
    """Return the import names of all folders that hold Python files below the three packages."""
    names = set()
    for import_name, folder in FOLDERS.items():
        for path in (PROJECT_ROOT / folder).rglob("*.py"):
            parts = path.parent.relative_to(PROJECT_ROOT / folder).parts
            names.add(".".join((import_name, *parts)))
    return names


def test_package_list_matches_folders() -> None:
    listed = PYPROJECT["tool"]["setuptools"]["packages"]
    assert len(listed) == len(set(listed))
    assert set(listed) == packages_on_disk() | set(SHIPPED)


def test_every_package_has_an_init_file() -> None:
    folders = {path.parent for folder in FOLDERS.values() for path in (PROJECT_ROOT / folder).rglob("*.py")}
    assert not [str(folder) for folder in folders if not (folder / "__init__.py").is_file()]


def test_folders_install_under_unique_names() -> None:
    assert PYPROJECT["tool"]["setuptools"]["package-dir"] == FOLDERS | SHIPPED


def test_no_build_of_torch_is_forced() -> None:
    """A pin or an index would replace the CUDA build that a GPU machine already has."""
    (requirement,) = [name for name in PYPROJECT["project"]["dependencies"] if name.startswith("torch")]
    assert requirement.startswith("torch>=")
    assert "@" not in requirement


def test_version_is_stated_once() -> None:
    from scal3r_train import __version__

    assert PYPROJECT["project"]["version"] == __version__
    assert f"## {__version__}" in (PROJECT_ROOT / "CHANGELOG.md").read_text()


def test_renamed_packages_are_this_checkout() -> None:
    import scal3r_data_tools
    import scal3r_eval

    for module, folder in ((scal3r_eval, "eval"), (scal3r_data_tools, "data_tools")):
        assert module.__file__ is not None
        assert Path(module.__file__).resolve().parent == PROJECT_ROOT / folder


def test_top_level_holds_nothing_else() -> None:
    listing = subprocess.run(["git", "ls-files"], cwd=PROJECT_ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout")
    assert {name.split("/")[0] for name in listing.stdout.splitlines()} <= TOP_LEVEL
