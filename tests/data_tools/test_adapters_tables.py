"""Adapters of sets with poses in tables: options, other layouts, half-missing and wrong folders."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from scal3r_data_tools import index
from scal3r_data_tools.registry import ADAPTERS
from scal3r_train.config import UserError, load_config
from scal3r_train.data.io.frame_io import read_frame_depth, read_frame_image
from scal3r_train.data.sequence import SequenceRecord
from tests.data_tools import test_layouts
from tests.data_tools.layouts import (
    blended_mvs,
    euroc,
    kitti_raw,
    mvs_synth,
    tartanair,
    virtual_kitti_2,
    waymo,
)
from tests.data_tools.miniature import Miniature, make_miniature
from tests.data_tools.test_adapters import sample

TABLES = (
    "blended_mvs", "cut3r", "euroc", "kitti_raw", "mvs_synth", "oxford_spires", "replica", "tartanair", "tum",
    "virtual_kitti_2", "waymo", "wildrgbd",
)  # fmt: skip


def first(scene: Miniature, num: int) -> Miniature:
    names = ("images", "depth", "length", "cam_from_world", "intrinsics", "timestamp")
    return replace(scene, **{name: vars(scene)[name][:num] for name in names})


def small(layout: ModuleType, num: int = 3) -> Miniature:
    return first(layout.scene() if "scene" in vars(layout) else make_miniature(num), num)


def records(name: str, source: Path, *options: str) -> list[SequenceRecord]:
    adapter = ADAPTERS[name]
    return list(adapter.records(source, load_config(adapter.options, None, options)))


def compare(record: SequenceRecord, scene: Miniature) -> None:
    test_layouts.compare_cameras(record, scene, 1.0)
    test_layouts.compare_intrinsics(record, scene)
    test_layouts.compare_pixels(record, 0, scene, 1.0)


@pytest.mark.parametrize("name", TABLES)
def test_other_folders_are_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "photos" / "holiday").mkdir(parents=True)
    (tmp_path / "photos" / "holiday" / "beach.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=rf"photos holds no sequence in the layout of {name}") as error:
        index.main(name, tmp_path / "photos", tmp_path / "index.parquet")
    assert "\n" not in str(error.value)


def test_tum_sample(shared_dir: Path) -> None:
    (record,) = records("tum", sample(shared_dir, "tum_fr2_desk"))
    assert (record.num_frames, record.num_missing, record.depth, record.is_dynamic) == (20, 0, (), False)
    assert record.camera_model == "opencv"
    assert record.cam_from_world is not None and record.intrinsics is not None
    assert record.intrinsics[0].tolist() == [520.9, 521.0, 325.1, 249.7]
    # the line of groundtruth.txt nearest to 1311868169.163498
    rows = np.loadtxt(shared_dir / "data" / "tum_fr2_desk" / "groundtruth.txt")
    row = rows[np.abs(rows[:, 0] - 1311868169.163498).argmin()]
    pose = record.cam_from_world[0]
    assert np.abs(pose[:, :3] @ row[1:4] + pose[:, 3]).max() < 1e-9
    assert np.abs(pose[:, :3].T - Rotation.from_quat(row[4:]).as_matrix()).max() < 1e-9
    (between,) = records("tum", shared_dir / "data" / "tum_fr2_desk", "interpolate=true")
    moved = np.abs(between.cam_from_world - record.cam_from_world).max()
    assert 0 < moved < 5e-3
    (exact,) = records("tum", shared_dir / "data" / "tum_fr2_desk", "max_gap_s=1e-9")
    assert (exact.num_frames, exact.num_missing) == (1, 19)  # clocks that meet once by chance


def test_tum_between_two_poses(tmp_path: Path) -> None:
    folder = tmp_path / "recorded_at_home"
    (folder / "rgb").mkdir(parents=True)
    Image.new("RGB", (640, 480)).save(folder / "rgb" / "100.005.png")
    (folder / "groundtruth.txt").write_text(
        f"100.000 0 0 0 0 0 0 1\n100.020 4 0 0 0 0 {np.sqrt(0.5)} {np.sqrt(0.5)}\n"
    )
    with pytest.raises(UserError, match=r"no freiburg1, 2 or 3.*give camera=freiburg1"):
        records("tum", tmp_path)
    with pytest.raises(UserError, match=r"recorded_at_home has no image within 0\.001 s of a pose"):
        records("tum", tmp_path, "camera=ros", "max_gap_s=0.001")
    (nearest,) = records("tum", tmp_path, "camera=ros")
    assert nearest.cam_from_world is not None
    assert nearest.cam_from_world[0] == pytest.approx(np.eye(4)[:3])
    (between,) = records("tum", tmp_path, "camera=ros", "interpolate=true")
    assert between.cam_from_world is not None
    rotation = between.cam_from_world[0, :, :3]
    assert -rotation.T @ between.cam_from_world[0, :, 3] == pytest.approx([1, 0, 0], abs=1e-6)
    assert Rotation.from_matrix(rotation.T).as_euler("xyz", degrees=True) == pytest.approx(
        [0, 0, 22.5], abs=1e-4
    )


def test_kitti_raw_with_depth_elsewhere(tmp_path: Path) -> None:
    scene = small(kitti_raw, 4)
    kitti_raw.write(tmp_path / "raw", scene)
    drive = tmp_path / "raw" / kitti_raw.DATE / kitti_raw.DRIVE
    (plain,) = records("kitti_raw", drive)
    assert plain.num_missing == 2  # one without, one with damaged oxts
    shutil.move(drive / "proj_depth", tmp_path / "annotated" / "val" / kitti_raw.DRIVE / "proj_depth")
    (record,) = records("kitti_raw", tmp_path / "raw", f"depth={tmp_path / 'annotated'}")
    assert record.depth[0] == ""
    assert np.array_equal(read_frame_depth(record, 1) > 0, read_frame_depth(record, 1) != 0)
    assert records("kitti_raw", tmp_path / "raw")[0].depth == ()
    (drive.parent / "calib_imu_to_velo.txt").unlink()
    with pytest.raises(UserError, match=r"calib_imu_to_velo\.txt does not exist; download the calibration"):
        records("kitti_raw", tmp_path / "raw")


def test_euroc_sensor_as_opencv_writes_it(tmp_path: Path) -> None:
    euroc.write(tmp_path, small(euroc))
    (plain,) = records("euroc", tmp_path / "MH_00_miniature" / "mav0")
    assert plain.num_missing == 2  # one not there, one after the ground truth
    sensor = tmp_path / "MH_00_miniature" / "mav0" / "cam0" / "sensor.yaml"
    text = sensor.read_text()
    sensor.write_text("%YAML:1.0\n" + text.replace("T_BS:", "T_BS: !!opencv-matrix"))
    (record,) = records("euroc", tmp_path)
    assert np.array_equal(record.cam_from_world, plain.cam_from_world)
    sensor.write_text(text.replace("radial-tangential", "fov"))
    with pytest.raises(UserError, match=r"sensor\.yaml: distortion_model 'fov' is unknown"):
        records("euroc", tmp_path)
    sensor.write_text(text.replace("T_BS", "T_SB"))
    with pytest.raises(UserError, match=r"sensor\.yaml: 'T_BS' is not an array of \(4, 4\) numbers"):
        records("euroc", tmp_path)


def test_virtual_kitti_2_holds_scenes_out(tmp_path: Path) -> None:
    virtual_kitti_2.write(tmp_path, small(virtual_kitti_2))
    shutil.copytree(tmp_path / "Scene01" / "15-deg-left", tmp_path / "Scene01" / "fog")
    shutil.copytree(tmp_path / "Scene01", tmp_path / "Scene20")
    assert [(record.sequence_id, record.split) for record in records("virtual_kitti_2", tmp_path)] == [
        ("Scene01/15-deg-left/Camera_0", "train"),
        ("Scene01/fog/Camera_0", "train"),
        ("Scene20/15-deg-left/Camera_0", "test"),
        ("Scene20/fog/Camera_0", "test"),
    ]
    chosen = records("virtual_kitti_2", tmp_path, "scenes=[Scene20]", "variations=[fog]")
    assert [record.sequence_id for record in chosen] == ["Scene20/fog/Camera_0"]
    with pytest.raises(UserError, match=r"has no Scene2, which `scenes` asks for"):
        records("virtual_kitti_2", tmp_path, "scenes=[Scene2]")
    (tmp_path / "Scene20" / "fog" / "intrinsic.txt").unlink()
    with pytest.raises(UserError, match=r"fog/intrinsic\.txt does not exist"):
        records("virtual_kitti_2", tmp_path, "scenes=[Scene20]")


def test_tartanair_2(tmp_path: Path) -> None:
    scene = small(tartanair)
    flight = tmp_path / "AbandonedCable" / "Data_easy" / "P000"
    for name in ("image_lcam_front", "depth_lcam_front"):
        (flight / name).mkdir(parents=True)
    for i in range(scene.num_frames):
        Image.fromarray(scene.images[i]).save(flight / "image_lcam_front" / f"{i:06d}_lcam_front.png")
        numbers = np.where(np.isinf(scene.depth[i]), 65504.0, scene.depth[i]).astype("<f4")
        blue, green, red, alpha = np.moveaxis(
            np.frombuffer(numbers.tobytes(), np.uint8).reshape(*scene.hw, 4), -1, 0
        )
        colours = np.stack([red, green, blue, alpha], -1)
        Image.fromarray(colours, "RGBA").save(flight / "depth_lcam_front" / f"{i:06d}_lcam_front_depth.png")
    lines = tartanair.ned_poses(scene)
    (flight / "pose_lcam_front.txt").write_text("\n".join([*lines[:2], "nan " * 7, *lines[3:]]) + "\n")
    (record,) = records("tartanair", tmp_path)
    assert (record.sequence_id, record.num_missing) == ("AbandonedCable/Data_easy/P000", 1)
    compare(record, scene)


def test_blended_mvs_knows_who_sees_the_same(tmp_path: Path) -> None:
    blended_mvs.write(tmp_path, small(blended_mvs, 5))
    (tmp_path / "validation_list.txt").write_text(f"{blended_mvs.SCENE}\n")
    (record,) = records("blended_mvs", tmp_path)
    assert (record.num_frames, record.num_missing, record.split, record.is_ordered) == (4, 1, "test", False)
    assert record.covisible is not None
    assert record.covisible.tolist() == [[1, 2, 3], [0, 2, 3], [1, 3, 0], [2, 1, 0]]  # view 4 is not there
    (tmp_path / blended_mvs.SCENE / blended_mvs.SCENE / "cams" / "pair.txt").write_text("5\n0\n")
    with pytest.raises(UserError, match=r"pair\.txt is no list of views"):
        records("blended_mvs", tmp_path)


def test_mvs_synth_in_its_own_unit(tmp_path: Path) -> None:
    mvs_synth.write(tmp_path, small(mvs_synth))
    (metres,) = records("mvs_synth", tmp_path)
    (units,) = records("mvs_synth", tmp_path, "metres_per_unit=1.0")
    assert metres.cam_from_world is not None and units.cam_from_world is not None
    assert np.allclose(metres.cam_from_world * [1, 1, 1, 10], units.cam_from_world)
    assert np.linalg.det(units.cam_from_world[:, :, :3]) == pytest.approx(1)
    assert (metres.max_depth, metres.depth_scale, metres.num_missing) == (100.0, 0.1, 1)


def camera_npz(path: Path, scene: Miniature, i: int, **others: np.ndarray | float) -> None:
    fx, fy, cx, cy = scene.intrinsics[i]
    k = np.array([[fx, 0, cx - 0.5], [0, fy, cy - 0.5], [0, 0, 1]], np.float32)
    np.savez(path, camera_intrinsics=k, camera_pose=scene.world_from_cam[i], **others)


def test_cut3r_flat_frames(tmp_path: Path) -> None:
    """Virtual KITTI 2 as CUT3R processes it."""
    scene = make_miniature(3, has_sky=True)
    folder = tmp_path / "Scene01" / "clone" / "Camera_0"
    folder.mkdir(parents=True)
    for i in range(3):
        Image.fromarray(scene.images[i]).save(folder / f"{i:05d}_rgb.jpg", quality=95)
        counts = np.where(np.isinf(scene.depth[i]), 65535, np.rint(scene.depth[i] * 100)).astype(np.uint16)
        Image.fromarray(counts).save(folder / f"{i:05d}_depth.png")
        camera_npz(folder / f"{i:05d}_cam.npz", scene, i)
    (record,) = records("cut3r", tmp_path, "depth_codec=uint16_cm_sky", "is_metric=true", "dataset=vkitti")
    assert (record.sequence_id, record.is_metric, record.dataset) == (
        "Scene01/clone/Camera_0",
        True,
        "vkitti",
    )
    compare(record, scene)
    with pytest.raises(UserError, match=r"depth_codec 'cm' is unknown"):
        records("cut3r", tmp_path, "depth_codec=cm")


def test_cut3r_flat_frames_of_a_car_and_of_blended_mvs(tmp_path: Path) -> None:
    scene = small(waymo)
    waymo.write(tmp_path / "waymo", scene)
    segment = tmp_path / "waymo" / waymo.SEGMENT
    for path in sorted(segment.iterdir()):
        shutil.copy(path, segment / path.name.replace("_1.", "_2."))
    ids = [record.sequence_id for record in records("cut3r", tmp_path / "waymo")]
    assert ids == [f"{waymo.SEGMENT}/camera_1", f"{waymo.SEGMENT}/camera_2"]
    folder = tmp_path / "blended" / blended_mvs.SCENE
    folder.mkdir(parents=True)
    scene = make_miniature(2)
    for i, pose in enumerate(scene.world_from_cam):
        Image.fromarray(scene.images[i]).save(folder / f"{i:08d}.jpg", quality=95)
        mvs_synth.write_exr(folder / f"{i:08d}.exr", scene.depth[i])
        camera_npz(folder / f"{i:08d}.npz", scene, i)
        with np.load(folder / f"{i:08d}.npz") as file:
            k = file["camera_intrinsics"]
        np.savez(folder / f"{i:08d}.npz", intrinsics=k, R_cam2world=pose[:3, :3], t_cam2world=pose[:3, 3])
    (record,) = records("cut3r", tmp_path / "blended", "is_ordered=false")
    compare(record, scene)
    np.savez(folder / "00000001.npz", K=np.eye(3))
    with pytest.raises(UserError, match=r"00000001\.npz holds K; expected one of camera_intrinsics"):
        records("cut3r", tmp_path / "blended")


def test_cut3r_refuses_depth_with_a_scale_per_frame(tmp_path: Path) -> None:
    """Co3D as DUSt3R processes it."""
    scene = make_miniature(2)
    folder = tmp_path / "apple" / "110_13051_23361"
    for name in ("images", "depths", "masks"):
        (folder / name).mkdir(parents=True)
    for i in range(2):
        name = f"frame{i + 1:06d}"
        Image.fromarray(scene.images[i]).save(folder / "images" / f"{name}.jpg", quality=95)
        most = scene.depth[i].max()
        Image.fromarray((scene.depth[i] / most * 65535).astype(np.uint16)).save(
            folder / "depths" / f"{name}.jpg.geometric.png"
        )
        camera_npz(folder / "images" / f"{name}.npz", scene, i, maximum_depth=most)
    with pytest.raises(UserError, match=r"hold maximum_depth.*with_depth=false.*depth_codec=uint16_mm"):
        records("cut3r", tmp_path)
    (record,) = records("cut3r", tmp_path, "with_depth=false")
    assert (record.depth, record.depth_codec) == ((), "")
    compare(record, scene)
    (plain,) = records("cut3r", tmp_path, "depth_codec=uint16_mm")
    assert plain.depth == tuple(f"depths/frame{i + 1:06d}.jpg.geometric.png" for i in range(2))


def test_waymo_options(tmp_path: Path) -> None:
    scene = small(waymo)
    waymo.write(tmp_path, scene)
    (record,) = records("waymo", tmp_path / waymo.SEGMENT)
    assert (record.camera_model, record.num_frames, record.num_missing) == ("opencv", 2, 1)
    (record,) = records("waymo", tmp_path, "undistort=false", "skip_invalid=false")
    assert (record.camera_model, record.num_frames, record.num_missing) == ("pinhole", 3, 0)
    assert np.array_equal(read_frame_image(record, 0).shape, scene.images[0].shape)
    assert records("waymo", tmp_path, "cameras=[2]") == []
    (tmp_path / "invalid_files.h5").write_bytes(b"truncated")
    with pytest.raises(UserError, match=r"invalid_files\.h5 cannot be read.*skip_invalid=false"):
        records("waymo", tmp_path)
