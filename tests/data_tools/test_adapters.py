"""Adapters on the real samples (skipped without them) and on folders made up in a dataset's layout."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scal3r_data_tools.adapters import game_loop, seven_scenes
from scal3r_train.config import UserError
from scal3r_train.data.io.frame_io import read_frames


def sample(shared_dir: Path, name: str) -> Path:
    folder = shared_dir / "data" / name
    if not folder.is_dir():
        pytest.skip(f"no sample {name}")
    return folder


def test_kitchen_sample(shared_dir: Path) -> None:
    folder = sample(shared_dir, "seven_scenes_kitchen")
    (record,) = seven_scenes.index(folder)
    assert record.num_frames == 600
    assert [i for i, name in enumerate(record.depth) if name] == list(range(0, 600, 5))
    frames = read_frames(record, [0, 1], (240, 320))
    assert frames.depth is not None and frames.intrinsics is not None and frames.extrinsics is not None
    assert 0.5 < frames.depth[0][frames.depth[0] > 0].median() < 5
    assert (frames.depth[1] == 0).all()
    assert frames.intrinsics[0, 0, 0] == 292.5
    # the file holds world_from_cam: its last column is the camera's position
    position = np.loadtxt(folder / "frame-000000.pose.txt")[:3, 3]
    extrinsics = frames.extrinsics[0].numpy()
    assert extrinsics[:, :3] @ position + extrinsics[:, 3] == pytest.approx(np.zeros(3), abs=1e-6)


def test_game_loop_sample(shared_dir: Path) -> None:
    (record,) = game_loop.index(sample(shared_dir, "game_loop"))
    assert record.num_frames == 1414
    frames = read_frames(record, [700], (140, 252))
    assert frames.intrinsics is not None
    assert frames.intrinsics[0, :2, 2].tolist() == [126.0, 70.0]  # integer centres became half


def make_scene(folder: Path, sequence: str, num: int = 2) -> None:
    (folder / sequence).mkdir(parents=True)
    for i in range(num):
        stem = folder / sequence / f"frame-{i:06d}"
        Image.fromarray(np.full((48, 64, 3), i, np.uint8)).save(f"{stem}.color.png")
        Image.fromarray(np.full((48, 64), 1500, np.uint16)).save(f"{stem}.depth.png")
        np.savetxt(f"{stem}.pose.txt", np.eye(4))


def test_seven_scenes_as_published(tmp_path: Path) -> None:
    for sequence in ("seq-01", "seq-02"):
        make_scene(tmp_path / "chess", sequence)
    make_scene(tmp_path / "fire", "seq-01")
    (tmp_path / "chess" / "TestSplit.txt").write_text("sequence2\n")
    records = list(seven_scenes.index(tmp_path))
    assert [(record.sequence_id, record.split) for record in records] == [
        ("chess/seq-01", "train"),
        ("chess/seq-02", "test"),
        ("fire/seq-01", "train"),
    ]
    assert records[0].intrinsics is not None
    assert records[0].intrinsics[0].tolist() == [585, 585, 320, 240]
    assert records[0].image_size.tolist() == [[48, 64]] * 2


def test_incomplete_folders_are_named(tmp_path: Path) -> None:
    make_scene(tmp_path, "seq-01")
    (tmp_path / "seq-01" / "frame-000001.pose.txt").unlink()
    (record,) = seven_scenes.index(tmp_path)
    assert (record.num_frames, record.num_missing) == (1, 1)
    (tmp_path / "seq-01" / "frame-000001.pose.txt").write_text("1 0 0 0\n0 1 0 0\n0 0 one 0\n0 0 0 1")
    with pytest.raises(UserError, match=r"frame-000001\.pose\.txt cannot be read: .*'one'"):
        list(seven_scenes.index(tmp_path))
    (tmp_path / "seq-01" / "frame-000001.pose.txt").write_text("1 0 0 0\n0 1 0 0\n0 0 inf 0\n0 0 0 1")
    (record,) = seven_scenes.index(tmp_path)
    assert (record.num_frames, record.num_missing) == (1, 1)
    (tmp_path / "seq-01" / "frame-000000.pose.txt").unlink()
    with pytest.raises(UserError, match=r"no image \(frame-000000\.color\.png for one\) has a finite pose"):
        list(seven_scenes.index(tmp_path))


def test_game_loop_with_missing_frames(tmp_path: Path) -> None:
    (tmp_path / "rgb").mkdir()
    (tmp_path / "depth").mkdir()
    with pytest.raises(UserError, match=r"poses\.txt does not exist"):
        list(game_loop.index(tmp_path))
    np.savetxt(tmp_path / "poses.txt", np.eye(4)[:3].reshape(1, 12).repeat(2, 0))
    (tmp_path / "calib.txt").write_text("fx fy cx cy w h\n100 100 20.5 13.5 42 28\n")
    (tmp_path / "rgb" / "000000.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"rgb has 1 frames but poses\.txt has 2"):
        list(game_loop.index(tmp_path))
