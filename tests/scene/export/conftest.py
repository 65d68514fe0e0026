"""A scene, and the command on it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from scal3r_train import cli
from tests.inference.conftest import image_folder, tiny_model  # noqa: F401  # fixtures
from tests.scene.export.scenes import make_scene

Run = Callable[..., Path]


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return make_scene(tmp_path / "scene")


@pytest.fixture
def export(tmp_path: Path) -> Run:
    """Return a function that runs `scal3r export`, which must succeed, and gives the path of what it wrote."""

    def run(scene: Path, form: str, *options: object, name: str = "out") -> Path:
        output = tmp_path / name
        assert cli.main(["export", str(scene), str(output), "--to", form, *map(str, options)]) == 0
        return output

    return run
