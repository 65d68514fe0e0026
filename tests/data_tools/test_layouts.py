"""Every adapter reads a miniature written in its set's own layout: the same cameras, pixels and depths come out."""

import importlib
import pkgutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from scal3r_data_tools import check, index
from scal3r_data_tools.registry import ADAPTERS
from scal3r_train.data.index.index import load_index
from scal3r_train.data.io.frame_io import frame_camera, read_frame_depth, read_frame_image
from scal3r_train.data.sequence import SequenceRecord
from tests.data_tools import layouts
from tests.data_tools.miniature import Miniature, homogeneous, make_miniature, pinhole_rays, render

NAMES = sorted(module.name for module in pkgutil.iter_modules(layouts.__path__))
WITHOUT_CAMERAS = {"images", "video"}
LUMA = np.array([0.299, 0.587, 0.114])  # of RGB, as image libraries turn colour into grey (ITU-R BT.601)
CHECKED = ["num_pairs=18", "gaps=[1,3]", "max_features=600", "num_workers=1"]
TESTED_ELSEWHERE = {
    "circuits",
    "game_loop",
    "images",
    "seven_scenes",
    "towns",
}  # test_circuits, _adapters, _tools.py


def test_every_adapter_has_a_layout() -> None:
    assert sorted({*NAMES, *TESTED_ELSEWHERE}) == sorted(ADAPTERS)


@pytest.mark.parametrize("name", NAMES)
def test_what_was_written_is_read(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout = importlib.import_module(f"tests.data_tools.layouts.{name}")
    scene = layout.scene() if "scene" in vars(layout) else make_miniature()
    record = indexed(layout, scene, tmp_path)
    assert record.num_frames > 0
    if name not in WITHOUT_CAMERAS:
        scale = vars(layout).get("SCALE", 1.0)
        compare_cameras(record, scene, scale)
        compare_intrinsics(record, scene)
        for frame in (0, record.num_frames // 2):
            compare_pixels(record, frame, scene, scale)
    assert check.main(tmp_path / "index.parquet", CHECKED) == 0, capsys.readouterr().out


def indexed(layout: ModuleType, scene: Miniature, folder: Path) -> SequenceRecord:
    """The first sequence of a layout that is written below a folder and indexed into it."""
    name = layout.__name__.rpartition(".")[2]
    (folder / name).mkdir()
    layout.write(folder / name, scene)
    options = vars(layout).get("OPTIONS", ())
    assert index.main(name, folder / name, folder / "index.parquet", options) == 0
    return load_index(folder / "index.parquet")[0]


def compare_cameras(record: SequenceRecord, scene: Miniature, scale: float) -> None:
    """Poses of all frames relative to the first, whatever the world frame is."""
    cameras = [frame_camera(record, frame).extrinsics for frame in range(record.num_frames)]
    got = homogeneous(np.array(cameras))
    expected = homogeneous(scene.cam_from_world)[: len(got)]
    turn = np.eye(4)
    for _ in range(record.quarter_turns % 4):
        turn = np.array([[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ turn
    expected = turn @ expected
    got, expected = (poses @ np.linalg.inv(poses[0]) for poses in (got, expected))
    expected[:, :3, 3] *= scale
    assert np.abs(got[:, :3, :3] - expected[:, :3, :3]).max() < 1e-4
    assert np.abs(got[:, :3, 3] - expected[:, :3, 3]).max() < 1e-3 * scale


def compare_intrinsics(record: SequenceRecord, scene: Miniature) -> None:
    """Where no lens was undone, focal lengths and principal point to a hundredth of a pixel."""
    if record.camera_model != "pinhole" or record.quarter_turns % 4:
        return
    got = np.array([frame_camera(record, frame).intrinsics for frame in range(record.num_frames)])
    factor = record.image_size[:, [1, 0, 1, 0]] / np.array([*scene.hw[::-1], *scene.hw[::-1]])
    assert np.abs(got - scene.intrinsics[: len(got)] * factor).max() < 0.01


def compare_pixels(
    record: SequenceRecord, frame: int, scene: Miniature, scale: float, max_depth_error: float = 2e-3
) -> None:
    """The image and depth that are read against the scene rendered anew for the camera that is read."""
    image, camera = read_frame_image(record, frame), frame_camera(record, frame)
    assert camera.intrinsics is not None
    hw = image.shape[0], image.shape[1]
    pose = scene.cam_from_world[frame]
    for _ in range(record.quarter_turns % 4):
        pose = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]) @ pose
    truth, depth, _ = render(pose, pinhole_rays(camera.intrinsics, hw), has_sky=scene.has_sky)
    if (image == image[..., :1]).all():  # a grey camera
        truth = np.repeat(truth @ LUMA, 3).reshape(truth.shape)
    difference = np.abs(image.astype(float) - truth)[4:-4, 4:-4]
    assert np.median(difference) < 12
    assert difference.mean() < 20
    got = read_frame_depth(record, frame)
    if got is None:
        return
    factor = np.array([got.shape[1] / hw[1], got.shape[0] / hw[0]] * 2)
    _, depth, _ = render(pose, pinhole_rays(camera.intrinsics * factor, got.shape), has_sky=scene.has_sky)
    valid = got > 0
    assert valid.mean() > 0.3
    error = np.abs(got / scale - depth)[valid] / depth[valid]
    assert np.median(error) < max_depth_error
    if (got == -1).any():
        assert np.isinf(depth[got == -1]).mean() > 0.95
