"""True overlaps are those of the frames that an evaluation used."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import evaluated_paths, loops_found


def two_laps(num_frames: int) -> SimpleNamespace:
    """Cameras that go round a circle of radius 50 twice and look ahead."""
    angle = np.linspace(0, 4 * np.pi, num_frames, endpoint=False)
    zero, one = np.zeros(num_frames), np.ones(num_frames)
    centres = 50 * np.stack([np.cos(angle), zero, np.sin(angle)], 1)
    ahead = np.stack([-np.sin(angle), zero, np.cos(angle)], 1)
    down = np.stack([zero, -one, zero], 1)
    rotation = np.stack([np.cross(down, ahead), down, ahead], 1)
    translation = -np.einsum("sij,sj->si", rotation, centres)
    return SimpleNamespace(
        cam_from_world=np.concatenate([rotation, translation[:, :, None]], 2), sequence_id="circle/000"
    )


@pytest.mark.parametrize("stride", [1, 2])
def test_frames_of_loops_are_those_of_the_scene(monkeypatch: pytest.MonkeyPatch, stride: int) -> None:
    lap = 200 // stride
    loops = ({"frames": [10, 10 + lap], "accepted": True}, {"frames": [10, 60 + lap], "accepted": False})
    info = SimpleNamespace(frame_indices=tuple(range(0, 400, stride)), loops=loops)
    monkeypatch.setattr(loops_found, "load_scene_info", lambda scene: info)
    row = loops_found.row_of(two_laps(400), Path("scene"), 3.0, 40.0)
    assert row == ("circle/000", 1, 1, 2, 1, 1, 1, 0)


def test_paths_of_nothing_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="usage"):
        evaluated_paths.main([str(tmp_path), "a.png"])
    with pytest.raises(SystemExit, match=r"holds no truth"):
        evaluated_paths.main([str(tmp_path), "a.png", "scal3r"])
