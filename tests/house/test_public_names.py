"""`from scal3r_train import NAME`: every name is what it says, and nothing is loaded before it is used."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import scal3r_train
from tests.conftest import PROJECT_ROOT


def test_type_checkers_see_the_names_that_exist() -> None:
    tree = ast.parse(Path(scal3r_train.__file__).read_text(encoding="utf-8"))
    (guarded,) = [node for node in tree.body if isinstance(node, ast.If)]
    declared = {
        alias.asname: node.module
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert declared == scal3r_train._HOMES
    assert set(scal3r_train.__all__) == {*declared, "__version__"} <= set(dir(scal3r_train))


@pytest.mark.parametrize("name", sorted(scal3r_train._HOMES))
def test_name_is_what_its_module_defines(name: str) -> None:
    assert getattr(scal3r_train, name) is getattr(sys.modules[scal3r_train._HOMES[name]], name)
    assert getattr(scal3r_train, name).__module__ == scal3r_train._HOMES[name]


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Scal4RModel"):
        scal3r_train.Scal4RModel  # noqa: B018


def test_the_package_loads_a_handful_of_modules() -> None:
    """The start of Python aside, which a time would measure: importlib and typing, and what these need."""
    code = "import sys; before = set(sys.modules); import scal3r_train; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT_ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "scal3r_train" in loaded
    assert not loaded - {"scal3r_train"} - set(sys.stdlib_module_names)
