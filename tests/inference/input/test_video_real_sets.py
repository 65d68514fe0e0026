"""Real sequences (skipped without them) through their adapters, an index and `open_source`, as users do it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from scal3r_data_tools.registry import ADAPTERS
from scal3r_train.data.index.index import write_index
from scal3r_train.data.index.source import open_source
from scal3r_train.inference.input.settings import InputSettings
from scal3r_train.inference.input.video import Video
from tests.inference.input.test_video import MODEL


@pytest.mark.parametrize(
    ("adapter", "sample", "hw", "focal", "num"),
    [
        ("seven_scenes", "seven_scenes_kitchen", (42, 56), None, 600),
        ("kitti_odometry", "kitti_odometry", (14, 56), 707.0912, 24),
        ("game_loop", "game_loop", (28, 56), None, 1414),
    ],
)
def test_rows_of_an_index(
    shared_dir: Path,
    tmp_path: Path,
    adapter: str,
    sample: str,
    hw: tuple[int, int],
    focal: float | None,
    num: int,
) -> None:
    folder = shared_dir / "data" / sample
    if not folder.is_dir():
        pytest.skip(f"no sample {folder}")
    one = ADAPTERS[adapter]
    write_index(tmp_path / "index.parquet", list(one.records(folder, one.options())))
    record = open_source(f"{tmp_path / 'index.parquet'}")
    assert record.num_frames == num
    video = Video.choose(record, InputSettings(stop_s=2, fps=2, intrinsics="from_index"), MODEL)
    assert video.image_hw == hw
    assert video.num_frames == 4
    since_first = video.timestamps.numpy() - record.timestamp[0]
    half_a_frame = np.diff(record.timestamp).max() / 2 + 1e-6
    assert (np.abs(since_first - [0, 0.5, 1, 1.5]) <= half_a_frame).all()
    video.prefetch(range(4))
    images = video.images(range(4))
    assert images.shape == (4, 3, *hw)
    assert images.float().std() > 10
    known = video.known_intrinsics(range(4))
    assert known is not None
    at_input = video.input_intrinsics(range(4), known)
    assert record.intrinsics is not None
    assert at_input[:, 0, 0].numpy() == pytest.approx(record.intrinsics[list(video.frame_indices), 0])
    if focal is not None:
        assert at_input[0, 0, 0].item() == pytest.approx(focal)


def test_a_folder_named_by_times(shared_dir: Path) -> None:
    folder = shared_dir / "data" / "tum_fr2_desk"
    images = next((path.parent for path in folder.rglob("*.png")), None) or next(
        (path.parent for path in folder.rglob("*.jpg")), None
    )
    if images is None:
        pytest.skip(f"no sample {folder}")
    video = Video.choose(open_source(images), InputSettings(), MODEL)
    assert video.num_frames == 20
    assert video.timestamps[0] > 1.3e9
    assert (torch.diff(video.timestamps) > 0).all()
