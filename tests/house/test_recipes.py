"""Every recipe that we ship is valid, and opens with the command that runs it."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from scal3r_train.config import StrictModel, dump_yaml, load_config
from tests.conftest import PROJECT_ROOT

FOLDER = PROJECT_ROOT / "recipes"
LAUNCH_FILES = sorted((FOLDER / "accelerate").rglob("*.yaml"))
RECIPES = sorted(set(FOLDER.rglob("*.yaml")) - set(LAUNCH_FILES))


def relative(path: Path) -> str:
    return path.relative_to(PROJECT_ROOT).as_posix()


def test_there_are_recipes() -> None:
    assert FOLDER / "demo.yaml" in RECIPES


@pytest.mark.parametrize("path", RECIPES, ids=relative)
def test_recipe_is_valid_and_its_resolved_form_reproduces_it(path: Path, tmp_path: Path) -> None:
    from scal3r_eval.recipe import load_any_recipe

    recipe = load_any_recipe(path, [])
    assert isinstance(recipe, StrictModel)
    resolved = tmp_path / "recipe.yaml"
    resolved.write_text(dump_yaml(recipe), encoding="utf-8")
    assert load_config(type(recipe), resolved) == recipe


@pytest.mark.parametrize("path", RECIPES, ids=relative)
def test_recipe_opens_with_its_command(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    header = "\n".join(line for line in lines[:20] if line.startswith("#"))
    assert lines[0].startswith("#")
    assert relative(path) in header, "the first comment must hold the command that runs this recipe"


@pytest.mark.parametrize("path", LAUNCH_FILES, ids=relative)
def test_launch_file_is_a_mapping(path: Path) -> None:
    assert isinstance(YAML(typ="safe", pure=True).load(path), dict)


def test_no_python_among_recipes() -> None:
    assert not list(FOLDER.rglob("*.py"))
