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


def test_modules_are_named_for_their_idea() -> None:
    vague = [path for path in MODULES if {path.stem, path.parent.name} & VAGUE_NAMES]
    assert not [relative(path) for path in vague]


def guesses_at_types(source: str) -> list[str]:
    """Return the calls of `hasattr`, and of `getattr` with a default: they hide which type a value has."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    named = [(call.func.id, len(call.args), call.lineno) for call in calls if isinstance(call.func, ast.Name)]
    return [
        f"line {line}: {name}" for name, n, line in named if name == "hasattr" or (name, n) == ("getattr", 3)
    ]


def test_modules_guess_at_no_type() -> None:
    assert guesses_at_types("hasattr(x, 'y')\ngetattr(x, 'y', 0)\ngetattr(x, 'y')") == [
        "line 1: hasattr",
        "line 2: getattr",
    ]
    found = {relative(path): guesses_at_types(path.read_text("utf-8")) for path in MODULES}
    assert not {name: guesses for name, guesses in found.items() if guesses}


def test_source_is_ascii() -> None:
    assert not [relative(path) for path in ALL_PYTHON if not path.read_text("utf-8").isascii()]
