"""What lies in examples/ runs as it stands, on tiny data, and stays short."""

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from scal3r_train import Scal3RModel, load_scene
from tests.conftest import PROJECT_ROOT

EXAMPLES = PROJECT_ROOT / "examples"
NOTEBOOK = EXAMPLES / "reconstruct.ipynb"
MOST_LINES = 40


def code_cells() -> list[str]:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def example(name: str) -> Any:
    """Import an example as a module."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_each_is_short_and_all_are_here() -> None:
    lengths = {path.name: len(path.read_text().splitlines()) for path in EXAMPLES.glob("*.py")}
    lengths[NOTEBOOK.name] = sum(len(cell.splitlines()) for cell in code_cells())
    assert set(lengths) == {path.name for path in EXAMPLES.iterdir() if path.is_file()}
    assert max(lengths.values()) < MOST_LINES, lengths


def test_every_example_is_in_a_document() -> None:
    documents = [PROJECT_ROOT / "README.md", *(PROJECT_ROOT / "docs").glob("*.md")]
    text = "".join(path.read_text(encoding="utf-8") for path in documents)
    missing = [
        path.name for path in EXAMPLES.iterdir() if path.is_file() and f"examples/{path.name}" not in text
    ]
    assert not missing


def test_reconstruct_folder(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "images").mkdir()
    for frame in range(9):
        picture = np.random.default_rng(frame).integers(0, 256, (48, 72, 3), np.uint8)
        Image.fromarray(picture).save(here / "images" / f"{frame}.png")
    scene = example("reconstruct_folder").main("images", "scene")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[:9]] == [f"{frame}.png" for frame in range(9)]
    assert f"{len(load_scene(here / 'scene').positions)} points" in lines[9] and len(scene.frames) == 9


def test_finetune(here: Path, towns: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ("optim.num_steps=2", "validation.every=2", "validation.num_windows=1", "checkpoint.every=2")
    small = ("curriculum.chunks_per_rank={1: 1.0}", "parallel.engine=single")
    model = example("finetune").main(str(towns), str(towns), "run", *few, *small)
    assert isinstance(model, Scal3RModel) and not model.training
    assert "val/rotation_deg: " in capsys.readouterr().out


def test_evaluate(towns: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = example("evaluate").main(str(towns))
    assert len(scores) == 4 and all(math.isfinite(score.ate_rmse_m) for score in scores.values())
    assert capsys.readouterr().out.count("driving straight on") == 4


def test_every_cell_of_the_notebook_runs(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one namespace, as a kernel does; a kernel of its own would take longer to start than all cells to run."""
    names: dict[str, Any] = {"__name__": "__main__"}
    with mpl.rc_context({"backend": "agg"}):
        for number, cell in enumerate(code_cells()):
            exec(compile(cell, f"cell {number}", "exec"), names)  # noqa: S102  the point of the test
    assert names["scene"].world_from_cam.shape == (32, 3, 4)
    assert names["whole"].depth.shape == (16, 48, 72)
