"""Ratchets: rules of the house that a reviewer would otherwise have to remember."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT_ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_LINES = 300
PACKAGES = ("scal3r_train", "eval", "data_tools")
MODULES = sorted(path for package in PACKAGES for path in (PROJECT_ROOT / package).rglob("*.py"))
ALL_PYTHON = sorted(
    {*MODULES, *(PROJECT_ROOT / "tests").rglob("*.py"), *(PROJECT_ROOT / "benchmarks").rglob("*.py")}
)
VAGUE_NAMES = {"utils", "util", "misc", "helpers", "common"}


def run_tool(*arguments: str) -> None:
    """Run a tool of the environment the tests run in; its complaints become the test's."""
    program = Path(sys.executable).with_name(arguments[0])
    finished = subprocess.run([program, *arguments[1:]], cwd=PROJECT_ROOT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr


def relative(path: Path) -> str:
    return path.relative_to(PROJECT_ROOT).as_posix()


def test_imports_point_down() -> None:
    run_tool("lint-imports")


def test_ruff() -> None:
    run_tool("ruff", "check", ".")


@pytest.mark.slow
def test_mypy() -> None:
    run_tool("mypy")


def test_every_floor_is_in_the_contract() -> None:
    settings = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = next(contract["layers"] for contract in settings["contracts"] if contract["type"] == "layers")
    listed = {name.strip(" ()").split(".")[-1] for layer in layers for name in layer.split("|")}
    on_disk = {
        path.stem
        for path in (PROJECT_ROOT / "scal3r_train").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    assert on_disk - {"__init__"} <= listed


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_module_is_short_and_named_for_its_idea(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES
    assert path.stem not in VAGUE_NAMES
    assert path.parent.name not in VAGUE_NAMES


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_module_guesses_at_no_type(path: Path) -> None:
    """`hasattr` and `getattr` with a default hide which type a value has; types say it."""
    calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
    named = [(call.func.id, len(call.args), call.lineno) for call in calls if isinstance(call.func, ast.Name)]
    guards = [
        f"line {line}: {name}" for name, n, line in named if name == "hasattr" or (name, n) == ("getattr", 3)
    ]
    assert not guards


def test_source_is_ascii() -> None:
    assert not [relative(path) for path in ALL_PYTHON if not path.read_text("utf-8").isascii()]
