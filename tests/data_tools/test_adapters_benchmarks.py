"""VBR and SpatialBench: their other layouts, pinned lists, and what they leave out."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from scal3r_data_tools import index
from scal3r_train.config import UserError
from scal3r_train.data.index.index import load_index
from scal3r_train.data.io.depth_codec import decode_depth
from scal3r_train.data.sequence import SequenceRecord
from tests.data_tools.layouts import spatialbench, vbr
from tests.data_tools.miniature import Miniature, homogeneous, make_miniature


def indexed(name: str, folder: Path, *options: str) -> list[SequenceRecord]:
    assert index.main(name, folder, folder.parent / "index.parquet", list(options)) == 0
    loaded = load_index(folder.parent / "index.parquet")
    return [loaded[number] for number in range(len(loaded))]


def small(num: int = 6) -> Miniature:
    return make_miniature(num_frames=num, hw=(24, 32), focal=(26, 26), centre_offset=(0.5, -1))


def assert_same_cameras(record: SequenceRecord, scene: Miniature) -> None:
    """Relative to the first."""
    assert record.cam_from_world is not None
    got, expected = (homogeneous(poses) for poses in (record.cam_from_world, scene.cam_from_world))
    got, expected = (poses @ np.linalg.inv(poses[0]) for poses in (got, expected[: len(got)]))
    np.testing.assert_allclose(got, expected, atol=2e-5)


def test_vbr_bags_in_one_or_two_and_without_truth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = small()
    vbr.write(tmp_path / "src", scene)
    sequence = tmp_path / "src" / "vbr_slam" / "campus" / "campus_train0"
    (record,) = indexed("vbr", tmp_path / "src")
    assert (record.sequence_id, record.num_frames, record.num_missing) == ("campus_train0", 5, 1)
    assert_same_cameras(record, scene)
    assert (
        "5 frames, 5 with pose, 0 with depth; left out: 1 frame without a pose\n" in capsys.readouterr().out
    )
    for part in ("00", "01"):  # beside the sequence, as the kit's example has it
        shutil.move(sequence / f"campus_train0_{part}_kitti", sequence.parent)
    (beside,) = indexed("vbr", tmp_path / "src")
    np.testing.assert_array_equal(beside.timestamp, record.timestamp)
    assert beside.image[0] == "campus_train0_00_kitti/camera_left/data/0000000000.png"
    (sequence / "campus_train0_gt.txt").unlink()
    (blind,) = indexed("vbr", tmp_path / "src")
    assert (blind.num_frames, blind.cam_from_world) == (6, None)
    assert np.diff(blind.timestamp)[:4] == pytest.approx(0.1, abs=1e-6)
    with pytest.raises(UserError, match="holds no sequence in the layout of vbr"):
        indexed("vbr", tmp_path / "src", "camera=right")
    assert (
        "1 sequence without images is left out, campus_train0 for one; convert the bags"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("kind", ["aligned", "unpacked"])
def test_vbr_as_others_process_it(kind: str, tmp_path: Path) -> None:
    scene = small()
    vbr.write(tmp_path / "src", scene)
    (published,) = indexed("vbr", tmp_path / "src")
    name = "spagna_train0"
    folder = tmp_path / "out" / (f"{name}_processed_aligned" if kind == "aligned" else name)
    truth = tmp_path / "out" / "processed_gt" if kind == "aligned" else folder
    (folder / "rgb").mkdir(parents=True)
    truth.mkdir(exist_ok=True)
    for number, image in enumerate(published.image):
        shutil.copy(published.root / image, folder / "rgb" / f"{number:06d}.png")
    (folder / "intrinsics.txt").write_text("26 0 16\n0 26 10.5\n0 0 1\n")
    pose = scene.world_from_cam
    rows = ["#timestamp tx ty tz qx qy qz qw"]
    from scipy.spatial.transform import Rotation

    for number in range(published.num_frames):
        quaternion = Rotation.from_matrix(pose[number, :3, :3]).as_quat()
        rows.append(f"{number / 10} " + " ".join(f"{x:.9f}" for x in [*pose[number, :3, 3], *quaternion]))
    (truth / f"{name}_gt.txt").write_text("\n".join(rows) + "\n")
    (record,) = indexed("vbr", tmp_path / "out")
    assert (record.sequence_id, record.camera_model, record.num_missing) == (name, "pinhole", 0)
    assert_same_cameras(record, scene)
    (truth / f"{name}_gt.txt").write_text("\n".join(rows[:-1]) + "\n")
    with pytest.raises(UserError, match="has 4 poses for 5 images"):
        indexed("vbr", tmp_path / "out")


def test_spatialbench_by_its_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = small()
    source = tmp_path / "SpatialBenchmark"
    spatialbench.write(source, scene)
    listing = f"scene_index={source / 'all_scenes.json'}"
    chess, pick = indexed("spatialbench", source, listing)
    assert [one.sequence_id for one in (chess, pick)] == ["7scenes_chess_seq-01_dense", "rlbench_pick_sparse"]
    assert (chess.is_synthetic, pick.is_synthetic, chess.max_depth, pick.max_depth) == (
        False,
        True,
        10.0,
        3.0,
    )
    assert_same_cameras(chess, scene)
    assert pick.cam_from_world is not None and pick.intrinsics is not None
    np.testing.assert_allclose(pick.cam_from_world[:, :2], -scene.cam_from_world[::3][:, :2], atol=1e-6)
    np.testing.assert_allclose(pick.cam_from_world[:, 2], scene.cam_from_world[::3][:, 2], atol=1e-6)
    np.testing.assert_allclose(pick.intrinsics[0, 2:] + 0.5, np.array([32, 24]) - scene.intrinsics[0, 2:])
    said = capsys.readouterr()
    assert "left out: 1 sequence of the list that are not here" in said.out
    assert "rlbench_lost_sparse for one" in said.err
    by_folder = indexed("spatialbench", source, "tags=dtu|7scenes")
    assert [one.sequence_id for one in by_folder] == ["dense/7scenes/chess/seq-01"]
    below = indexed("spatialbench", source / "sparse")
    assert [one.sequence_id for one in below] == ["sparse/rlbench/pick/front"]
    (source / "dense/7scenes/chess/seq-01/images/frame-000003.png").unlink()
    (only,) = indexed("spatialbench", source, listing)
    assert only.sequence_id == pick.sequence_id
    assert "1 sequence with another number of frames than the benchmark's list" in capsys.readouterr().out


def test_spatialbench_formats_and_flips(tmp_path: Path) -> None:
    scene = small(3)
    folder = tmp_path / "sparse" / "omniworld" / "a"
    spatialbench.write_scene(folder, scene, range(3))
    meta = json.loads((folder / "meta.json").read_text())

    def again(**changes: object) -> SequenceRecord:
        (folder / "meta.json").write_text(json.dumps(meta | changes))
        return indexed("spatialbench", tmp_path)[0]

    assert again(depth_format="uint16_png_inverse_encoded", metric_scale=2.5).depth_scale == 2.5
    assert again(depth_format="uint16_png_div_655.35").depth_scale == 10
    assert again(depth_format="none").depth == ()
    stem = Path(again().image[1]).stem
    mirrored = again(pyrep_flip=[{"basename": stem, "flip_lr": True, "flip_ud": False}])
    assert (mirrored.num_frames, mirrored.num_missing) == (2, 1)
    for changes, said in (
        ({"depth_format": "jpeg"}, "depth_format 'jpeg' is unknown"),
        ({"depth_format": "uint16_png_inverse_encoded", "metric_scale": None}, "metric_scale is None"),
        ({"pyrep_flip": [1]}, "pyrep_flip is not a list"),
    ):
        with pytest.raises(UserError, match=said):
            again(**changes)
    np.save(folder / "intrinsics" / "distortion_coeffs.npy", np.array([[0.1, 0, 0, 0, 0]]))
    np.save(folder / "intrinsics" / "K_distorted.npy", np.array([[20.0, 0, 16], [0, 21, 12], [0, 0, 1]]))
    lens = again(image_state="distorted_original")
    assert (lens.camera_model, lens.depth) == ("opencv", ())
    assert lens.intrinsics is not None and lens.intrinsics[0].tolist() == [20, 21, 16, 12]


def test_inverse_depth_is_decoded_as_its_readers_do() -> None:
    """1 / 0.004 of near and far planes 1 and 1000; below 0.0015 nothing, above 65500 sky."""
    import cv2

    counts = np.array([[50, 99, 6553, 32768, 65500, 65501]], np.uint16)
    depth = decode_depth(cv2.imencode(".png", counts)[1].tobytes(), "uint16_inverse_sky", "a.png")[0]
    stored = counts[0] / 65535
    expected = stored / (1000 - stored * 999) / 0.004
    assert depth[0] == 0 and depth[5] == -1
    np.testing.assert_allclose(depth[1:5], expected[1:5], rtol=1e-4)
