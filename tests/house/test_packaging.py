"""What pyproject.toml installs is what lies in the folders, under names that cannot collide."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

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
    "scal3r_train recipes data_tools eval tests benchmarks docs assets examples pyproject.toml MANIFEST.in README.md "
    "CONTRIBUTING.md CHANGELOG.md CITATION.cff LICENSE Makefile Dockerfile mkdocs.yml .ci .github "
    ".pre-commit-config.yaml .gitignore".split()
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
    """In the package, where setuptools reads it; a citation must name the same."""
    from scal3r_train import __version__

    assert PYPROJECT["project"]["dynamic"] == ["version"] and "version" not in PYPROJECT["project"]
    assert PYPROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "scal3r_train.__version__"}
    assert f"## {__version__}" in (PROJECT_ROOT / "CHANGELOG.md").read_text()
    citation = YAML(typ="safe", pure=True).load((PROJECT_ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (__version__, PYPROJECT["project"]["license"])
    assert PYPROJECT["project"]["urls"]["Paper"] == citation["references"][0]["url"]


def test_all_brings_every_extra_but_those_of_developers() -> None:
    extras = dict(PYPROJECT["project"]["optional-dependencies"])
    assert {"all", "dev"} < set(extras)
    assert extras["all"] == [
        f"scal3r_train[{','.join(name for name in extras if name not in ('all', 'docs', 'dev'))}]"
    ]
    assert {"scal3r_train[all]", "scal3r_train[docs]"} < set(extras["dev"])


def test_what_is_imported_everywhere_is_declared() -> None:
    """Every package that the library imports at the top of a file comes with `pip install`, but for extras."""
    project = PYPROJECT["project"]
    lines = [
        *project["dependencies"],
        *(line for lines in project["optional-dependencies"].values() for line in lines),
    ]
    declared = {re.split(r"[\[<>=;]", line)[0].strip().lower().replace("-", "_") for line in lines}
    import_names = {
        "opencv_python_headless": "cv2",
        "pillow": "PIL",
        "ruamel.yaml": "ruamel",
        "openexr": "OpenEXR",
    }
    known = {import_names.get(name, name) for name in declared}
    ours, standard = set(FOLDERS), sys.stdlib_module_names
    missing = {
        name
        for folder in FOLDERS.values()
        for path in (PROJECT_ROOT / folder).rglob("*.py")
        for name in imported_at_the_top(path)
        if name not in known | ours and name not in standard
    }
    assert missing <= {"mpl_toolkits"}, "declare it in pyproject.toml"  # that one comes with matplotlib


def imported_at_the_top(path: Path) -> set[str]:
    """Return the packages that a file imports when it is imported."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


def test_ci_runs_the_command_of_the_readme() -> None:
    workflow = YAML(typ="safe", pure=True).load((PROJECT_ROOT / ".github/workflows/ci.yml").read_text())
    steps = {name: [step.get("run") for step in job["steps"]] for name, job in workflow["jobs"].items()}
    assert ".ci/run" in steps["tests"]
    versions = workflow["jobs"]["compile"]["strategy"]["matrix"]["python"]
    prefix = "Programming Language :: Python :: 3."
    named = [
        line.split(" :: ")[-1] for line in PYPROJECT["project"]["classifiers"] if line.startswith(prefix)
    ]
    assert versions == named and named[0] == PYPROJECT["project"]["requires-python"].removeprefix(">=")


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
