"""check on the real samples (skipped without them): good as they are, and mistakes planted into them are named."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from scal3r_data_tools.checking.evidence import CheckSettings
from scal3r_data_tools.checking.examine import SequenceReport, examine
from scal3r_data_tools.registry import ADAPTERS
from scal3r_train.data.sequence import SequenceRecord
from tests.data_tools.planted import CAMERA_AXES

SETTINGS = CheckSettings(decode_every=0, num_workers=1, num_pairs=24)
FOLDERS = {
    "game_loop": "game_loop",
    "seven_scenes": "seven_scenes_kitchen",
    "kitti_odometry": "kitti_odometry",
    "nerfstudio": "fox",
}


def sample(shared_dir: Path, adapter: str) -> SequenceRecord:
    folder = shared_dir / "data" / FOLDERS[adapter]
    if not folder.is_dir():
        pytest.skip(f"no sample {folder}")
    one = ADAPTERS[adapter]
    return next(iter(one.records(folder, one.options())))


def tum_sample(shared_dir: Path) -> SequenceRecord:
    """Frames with the nearest pose; camera as the benchmark states it for freiburg2."""
    folder = shared_dir / "data" / "tum_fr2_desk"
    if not folder.is_dir():
        pytest.skip("no sample tum_fr2_desk")
    images = sorted(path for path in folder.rglob("*") if path.suffix in (".png", ".jpg"))
    times = np.array([float(path.stem) for path in images])
    truth = np.loadtxt(folder / "groundtruth.txt")
    nearest = truth[np.abs(truth[:, :1] - times).argmin(0)]
    world_from_cam = np.tile(np.eye(4), (len(images), 1, 1))
    world_from_cam[:, :3, :3] = Rotation.from_quat(nearest[:, 4:]).as_matrix()
    world_from_cam[:, :3, 3] = nearest[:, 1:4]
    return SequenceRecord(
        dataset="tum",
        sequence_id="fr2_desk",
        root=folder,
        image=tuple(path.relative_to(folder).as_posix() for path in images),
        image_size=np.tile((480, 640), (len(images), 1)),
        timestamp=times,
        camera_model="opencv",
        intrinsics=np.tile([520.9, 521.0, 325.1, 249.7], (len(images), 1)),
        distortion=np.tile([0.2312, -0.7849, -0.0033, -0.0001, 0.9172], (len(images), 1)),
        cam_from_world=np.linalg.inv(world_from_cam)[:, :3],
        pixel_centre="integer",
        is_metric=True,
    )


def assert_good(report: SequenceReport) -> None:
    assert report.problems == []
    assert report.is_decidable


def test_game_loop_is_exact(shared_dir: Path) -> None:
    report = examine(sample(shared_dir, "game_loop"), SETTINGS)
    assert_good(report)
    assert report.warp_gap == 3
    assert report.errors["warp"] < 1e-3
    assert report.errors["epipolar"] < 0.5


def test_kitchen_is_good(shared_dir: Path) -> None:
    """Colour comes from another camera than depth and is some pixels off, which is known and no reason to fail."""
    report = examine(sample(shared_dir, "seven_scenes"), SETTINGS)
    assert_good(report)
    assert report.warp_gap == 5
    assert report.errors["warp"] < 5e-3


@pytest.mark.parametrize(("adapter", "bound_px"), [("kitti_odometry", 1.0), ("nerfstudio", 2.0)])
def test_sets_without_depth_are_good(shared_dir: Path, adapter: str, bound_px: float) -> None:
    report = examine(sample(shared_dir, adapter), SETTINGS)
    assert_good(report)
    assert report.errors["epipolar"] < bound_px


def test_tum_is_good(shared_dir: Path) -> None:
    report = examine(tum_sample(shared_dir), SETTINGS)
    assert_good(report)


def focal(record: SequenceRecord) -> SequenceRecord:
    assert record.intrinsics is not None
    return replace(record, intrinsics=record.intrinsics * [1.3, 1.3, 1, 1])


def shift(record: SequenceRecord) -> SequenceRecord:
    assert record.cam_from_world is not None
    source = np.minimum(np.arange(record.num_frames) + 3, record.num_frames - 1)
    return replace(record, cam_from_world=record.cam_from_world[source])


def opengl(record: SequenceRecord) -> SequenceRecord:
    assert record.cam_from_world is not None
    return replace(record, cam_from_world=CAMERA_AXES["opengl"] @ record.cam_from_world)


def unit(record: SequenceRecord) -> SequenceRecord:
    return replace(record, depth_scale=0.1)


@pytest.mark.parametrize(
    ("adapter", "key", "mistake"),
    [
        ("game_loop", "focal", focal),
        pytest.param("game_loop", "shift-3", shift, marks=pytest.mark.slow),
        pytest.param("seven_scenes", "shift-3", shift, marks=pytest.mark.slow),
        pytest.param("seven_scenes", "unit", unit, marks=pytest.mark.slow),
        ("kitti_odometry", "shift-3", shift),
        ("kitti_odometry", "opengl", opengl),
        pytest.param("nerfstudio", "focal", focal, marks=pytest.mark.slow),
    ],
)
def test_planted_mistakes_are_named(
    shared_dir: Path, adapter: str, key: str, mistake: Callable[[SequenceRecord], SequenceRecord]
) -> None:
    assert examine(mistake(sample(shared_dir, adapter)), SETTINGS).mistakes == (key,)
