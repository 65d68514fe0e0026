"""`reconstruct` from Python: the scene of the command, from whatever one has in a notebook."""

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from scal3r_train import cli, load_scene, reconstruct
from scal3r_train.config import UserError
from scal3r_train.inference import python_api
from scal3r_train.model.configuration_scal3r import PROCESSOR_FILE
from scal3r_train.model.modeling_scal3r import Scal3RModel
from tests.inference.conftest import NUM_FRAMES

FEW = {"schedule": {"chunk_size": 4, "overlap": 2}, "input__resize__size": 42}
WORDS = ("schedule.chunk_size=4", "schedule.overlap=2", "input.resize.size=42")


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which temporary folders are made."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_it_is_the_scene_of_the_command(
    checkpoint: Path, image_folder: Path, tmp_path: Path, temporary: Path
) -> None:
    command = ["reconstruct", str(image_folder), str(tmp_path / "scene"), f"model.checkpoint={checkpoint}"]
    assert cli.main([*command, *WORDS]) == 0
    expected = load_scene(tmp_path / "scene")
    arrays = [np.asarray(Image.open(path)) for path in sorted(image_folder.iterdir())]
    for images in (image_folder, arrays):
        scene = reconstruct(images, checkpoint, **FEW)  # type: ignore[arg-type]
        assert torch.equal(scene.world_from_cam, expected.world_from_cam)
        assert torch.equal(scene.intrinsics, expected.intrinsics)
        np.testing.assert_array_equal(scene.positions, expected.positions)
        np.testing.assert_array_equal(scene.colours, expected.colours)
    assert not list(temporary.iterdir()) and {path.name for path in tmp_path.iterdir()} == {
        "scene",
        "temporary",
    }


def test_a_folder_is_kept_and_not_made_twice(
    checkpoint: Path, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = [np.asarray(Image.open(path)) for path in sorted(image_folder.iterdir())]
    made = reconstruct(arrays, checkpoint, tmp_path / "scene", **FEW)
    assert (tmp_path / "scene" / "report.html").is_file() and len(made.frames) == NUM_FRAMES
    with pytest.raises(UserError, match="holds another scene"):
        reconstruct([*arrays[:-1], arrays[0]], checkpoint, tmp_path / "scene", **FEW)
    monkeypatch.delattr(python_api, "reconstruct_into")
    assert torch.equal(reconstruct(arrays, checkpoint, tmp_path / "scene", **FEW).intrinsics, made.intrinsics)


def test_a_model_in_memory_runs_as_it_is(
    tiny_model: Scal3RModel, image_folder: Path, checkpoint: Path
) -> None:
    scene = reconstruct(image_folder, tiny_model, input__max_frames=4, **FEW)
    assert torch.equal(
        scene.world_from_cam, reconstruct(image_folder, checkpoint, input__max_frames=4, **FEW).world_from_cam
    )
    with pytest.raises(UserError, match="model.memory is for loading; give the model's folder"):
        reconstruct(image_folder, tiny_model, model__memory="off")


def test_sizes_and_chunks_are_those_of_the_model_s_processor(
    image_folder: Path, tmp_path: Path, project_root: Path
) -> None:
    images = sorted(image_folder.iterdir())[:9]
    scene = reconstruct([str(path) for path in images], out=tmp_path / "scene", export__report=False)
    assert scene.info.processed_hw == (48, 72) and scene.info.chunks == ((0, 8), (4, 9))
    recipe = reconstruct(
        images, project_root / "assets/scal3r-tiny", recipe="reconstruct/demo", schedule__chunk_size=9
    )
    assert recipe.info.chunks == ((0, 9),) and recipe.info.recipe["alignment"]["max_points"] == 4000


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"images": []}, "no images are given"),
        ({"model": "nowhere"}, "checkpoint folder nowhere does not exist"),
        (
            {"schedule__chunksize": 3},
            r"reconstruct\(\): unknown key 'schedule.chunksize'; did you mean 'chunk_size'",
        ),
        ({"schedule": {"chunk_size": 0}}, r"reconstruct\(\): schedule.chunk_size = 0"),
        ({"recipe": "nowhere.yaml"}, "recipe nowhere.yaml does not exist"),
        ({"input": 3}, r"reconstruct\(\): input"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_leaves_nothing(
    call: dict[str, Any], message: str, image_folder: Path, checkpoint: Path, tmp_path: Path, temporary: Path
) -> None:
    arguments = {"images": image_folder, "model": checkpoint, "out": tmp_path / "scene", **call}
    with pytest.raises(UserError, match=message) as refused:
        reconstruct(**arguments)
    assert "\n" not in str(refused.value)
    assert os.listdir(tmp_path) == ["temporary"] and not list(temporary.iterdir())


def test_several_processes_are_for_the_command(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="runs on one process; start `scal3r reconstruct` under torchrun"):
        reconstruct(image_folder)


def test_a_damaged_processor_file_is_named(
    image_folder: Path, tiny_model: Scal3RModel, tmp_path: Path
) -> None:
    tiny_model.save_pretrained(tmp_path)
    (tmp_path / PROCESSOR_FILE).write_text('{"chunk_size": 4, "overlap": 9}')
    with pytest.raises(UserError, match=f"{PROCESSOR_FILE} cannot be used: .*overlap = 9 must be less than"):
        reconstruct(image_folder, tmp_path)
    (tmp_path / PROCESSOR_FILE).write_text("{")
    with pytest.raises(UserError, match=f"{PROCESSOR_FILE} cannot be used"):
        reconstruct(image_folder, tmp_path)
    (tmp_path / PROCESSOR_FILE).unlink()  # older folders have none: the recipe's own defaults
    scene = reconstruct(image_folder, tmp_path, input__resize__size=42, input__max_frames=3)
    assert scene.info.recipe["schedule"]["chunk_size"] == 60
