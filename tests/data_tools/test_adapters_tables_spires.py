"""Oxford Spires: point clouds in files, depth from laser scans, calibrations and layouts."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from scal3r_data_tools import index
from scal3r_data_tools.formats.point_cloud import read_piecewise, read_points, write_piecewise
from scal3r_data_tools.preparing import oxford_spires as oxford_spires_prepare
from scal3r_train.config import UserError, load_config
from scal3r_train.data.index.index import load_index
from scal3r_train.data.io.frame_io import read_frame_depth
from tests.data_tools import test_layouts
from tests.data_tools.layouts import oxford_spires
from tests.data_tools.miniature import BOXES, ROOM, make_miniature
from tests.data_tools.test_adapters_tables import compare, records, small


def surface_points(num: int) -> np.ndarray:
    """Random points [P, 3] on the miniature's walls and boxes, about num of them."""
    random = np.random.default_rng(0)
    faces = []
    for low, high in [ROOM, *BOXES]:
        for axis in range(3):
            others = [other for other in range(3) if other != axis]
            area = np.prod((high - low)[others])
            for side in (low, high):
                points = low + (high - low) * random.random((int(num * area / 350), 3))
                points[:, axis] = side[axis]
                faces.append(points)
    return np.concatenate(faces)


def write_pcd(path: Path, points: np.ndarray, kind: str) -> None:
    """With colour, as the published scans."""
    header = (
        "# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\nFIELDS x y z rgb\nSIZE 4 4 4 4\nTYPE F F F U\n"
        f"COUNT 1 1 1 1\nWIDTH {len(points)}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {len(points)}\nDATA {kind}\n"
    )
    if kind == "binary":
        rows = np.zeros(len(points), [("xyz", "<f4", 3), ("rgb", "<u4")])
        rows["xyz"] = points
        path.write_bytes(header.encode() + rows.tobytes())
    else:
        lines = [" ".join(f"{value:.9g}" for value in point) + " 4278190080" for point in points]
        path.write_text(header + "\n".join(lines) + "\n")


def test_point_clouds_are_read(tmp_path: Path) -> None:
    points = surface_points(500).astype(np.float32)
    cloud = trimesh.PointCloud(points, colors=np.full((len(points), 4), 200, np.uint8))
    for encoding in ("ascii", "binary"):
        (tmp_path / f"{encoding}.ply").write_bytes(trimesh.exchange.ply.export_ply(cloud, encoding=encoding))
        write_pcd(tmp_path / f"{encoding}.pcd", points, encoding)
        for kind in ("ply", "pcd"):
            assert np.abs(read_points(tmp_path / f"{encoding}.{kind}") - points).max() < 1e-5
    write_pcd(tmp_path / "lzf.pcd", points, "binary_compressed")
    with pytest.raises(UserError, match=r"lzf\.pcd cannot be read as point cloud: DATA binary_compressed"):
        read_points(tmp_path / "lzf.pcd")
    data = (tmp_path / "binary.ply").read_bytes()
    (tmp_path / "binary.ply").write_bytes(data[:-100])
    with pytest.raises(UserError, match=r"binary\.ply cannot be read"):
        read_points(tmp_path / "binary.ply")


def test_far_pieces_of_a_cloud_are_not_looked_at(tmp_path: Path) -> None:
    clusters = np.array([[0.0, 0, 0], [50, 0, 0], [0, 0, 90]])
    points = np.concatenate([centre + np.random.default_rng(0).random((1 << 17, 3)) for centre in clusters])
    write_piecewise(tmp_path / "cloud.npy", points.astype(np.float32))
    cloud = read_piecewise(tmp_path / "cloud.npy")
    near = np.concatenate(cloud.near(np.array([0.5, 0.5, -3]), np.array([0, 0, 1.0]), 60.0))
    assert len(near) == 2 << 17
    assert near[:, 2].max() <= 1
    behind = cloud.near(np.array([0.5, 0.5, 3]), np.array([0, 0, 1.0]), 60.0)
    assert behind == []


def prepared(tmp_path: Path, *options: str) -> Path:
    values = load_config(oxford_spires_prepare.Options, None, ["num_workers=0", "downscale=1", *options])
    oxford_spires_prepare.prepare(tmp_path / "spires", tmp_path / "out", values)
    return tmp_path / "out"


def test_oxford_spires_depth_from_the_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = small(oxford_spires)
    (tmp_path / "spires").mkdir()
    oxford_spires.write(tmp_path / "spires", scene)
    with pytest.raises(UserError, match=r"ground_truth_map/observatory-quarter holds no \.pcd or \.ply"):
        prepared(tmp_path)
    site = tmp_path / "spires" / "ground_truth_map" / "observatory-quarter"
    site.mkdir(parents=True)
    up_from_world = np.array([[0.0, 0, 1, 12.3], [-1, 0, 0, -4.5], [0, -1, 0, 0.6]])
    points = surface_points(250_000) @ up_from_world[:, :3].T + up_from_world[:, 3]
    write_pcd(site / "merged-cloud-1cm.pcd", points, "binary")
    (site / "merged-cloud-5cm.pcd").write_text("")
    (record,) = records("oxford_spires", tmp_path / "spires", f"depth={prepared(tmp_path)}")
    assert all(record.depth)
    # points lie anywhere in their pixels
    test_layouts.compare_pixels(record, 0, scene, 1.0, max_depth_error=4e-3)
    depth = np.array(Image.open(record.root / record.depth[1])) / 256
    wrong = np.abs(depth - scene.depth[1])[depth > 0] / scene.depth[1][depth > 0] > 0.1
    shutil.move(tmp_path / "out" / oxford_spires.SEQUENCE, tmp_path / "filtered")
    prepared(tmp_path, "window=0")
    unfiltered = np.array(
        Image.open(tmp_path / "out" / oxford_spires.SEQUENCE / "cam0" / Path(record.depth[1]).name)
    )
    seen_through = (
        np.abs(unfiltered / 256 - scene.depth[1])[unfiltered > 0] / scene.depth[1][unfiltered > 0] > 0.1
    )
    assert seen_through.mean() > 0.02  # walls behind boxes, through the gaps between points
    assert wrong.mean() < 0.1 * seen_through.mean()
    assert (depth > 0).sum() > 0.7 * (unfiltered > 0).sum()
    # what is there is not made again, nor mixed with something else
    with pytest.raises(UserError, match=r"settings\.yaml says that depth was made with other options"):
        prepared(tmp_path)
    monkeypatch.setattr(oxford_spires_prepare, "_make", lambda frame: pytest.fail(str(frame)))
    prepared(tmp_path, "window=0")


def test_oxford_spires_without_images_or_calibration(tmp_path: Path) -> None:
    (tmp_path / "spires").mkdir()
    oxford_spires.write(tmp_path / "spires", small(oxford_spires))
    (plain,) = records("oxford_spires", tmp_path / "spires")
    (one,) = records("oxford_spires", tmp_path / "spires" / "sequences" / oxford_spires.SEQUENCE)
    assert np.array_equal(one.cam_from_world, plain.cam_from_world)
    assert plain.intrinsics is not None and plain.distortion is not None
    shutil.move(tmp_path / "spires" / "calibration", tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"no calibration/ with cam0\.yaml"):
        records("oxford_spires", tmp_path / "spires")
    (moved,) = records("oxford_spires", tmp_path / "spires", f"calibration={tmp_path / 'elsewhere'}")
    assert np.array_equal(moved.cam_from_world, plain.cam_from_world)
    quaternion = "0.5034725628949727, 0.5003337192107279, -0.4947539264483171, 0.5013981452864594"
    (tmp_path / "sensor.yaml").write_text(
        "sensor:\n  cameras:\n    - label: cam_front\n"
        "      topic: /alphasense_driver_ros/cam0/debayered/image/compressed\n"
        f"      T_cam_lidar_t_xyz_q_xyzw: [0.00035060884033447846, -0.079574053851818,\n"
        f"        -0.053826061545697405, {quaternion}]\n"
        f"      intrinsics: {plain.intrinsics[0].tolist()}\n      extra_params: {plain.distortion[0].tolist()}\n"
        f"      image_height: {oxford_spires.HW[0]}\n      image_width: {oxford_spires.HW[1]}\n"
        "  T_base_lidar_t_xyz_q_xyzw: [0.0, 0.0, 0.124, 0.0, 0.0, 1.0, 0.0]\n"
    )
    (kit,) = records("oxford_spires", tmp_path / "spires", f"calibration={tmp_path / 'sensor.yaml'}")
    assert np.allclose(kit.cam_from_world, plain.cam_from_world, atol=1e-9)
    assert np.allclose(kit.intrinsics, plain.intrinsics)
    raw = tmp_path / "spires" / "sequences" / oxford_spires.SEQUENCE / "raw"
    shutil.rmtree(raw / "cam0")
    (raw / "images.zip").write_bytes(b"")
    with pytest.raises(UserError, match=r"unpack raw/images\.zip there"):
        records("oxford_spires", tmp_path / "spires")


def test_oxford_spires_as_lingbot_processes_it(tmp_path: Path) -> None:
    scene = make_miniature(3)
    folder = tmp_path / "keble-college-02"
    for name in ("images", "depth"):
        (folder / name).mkdir(parents=True)
    for i in range(3):
        Image.fromarray(scene.images[i]).save(folder / "images" / f"{i:06d}.png")
        np.save(folder / "depth" / f"{i:06d}.npy", scene.depth[i].astype(np.float32))
    fx, fy, cx, cy = scene.intrinsics[0]
    (folder / "intrinsics.txt").write_text(f"{fx} {fy} {cx - 0.5} {cy - 0.5} {scene.hw[1]} {scene.hw[0]}\n")
    np.savetxt(folder / "poses_c2w.txt", scene.world_from_cam.reshape(-1, 16), fmt="%.10f")
    (record,) = records("oxford_spires", tmp_path)
    compare(record, scene)


def test_what_is_prepared_can_be_indexed(tmp_path: Path) -> None:
    """Depth in another folder is found from the index, wherever that lies."""
    (tmp_path / "spires").mkdir()
    oxford_spires.write(tmp_path / "spires", small(oxford_spires))
    points = surface_points(60_000)[:, [2, 0, 1]] * [1, -1, -1] + [12.3, -4.5, 0.6]
    (tmp_path / "scan.ply").write_bytes(trimesh.exchange.ply.export_ply(trimesh.PointCloud(points)))
    prepared(tmp_path, f"cloud={tmp_path / 'scan.ply'}", "window=1")
    target = tmp_path / "indexes" / "spires.parquet"
    index.main("oxford_spires", tmp_path / "spires", target, [f"depth={tmp_path / 'out'}"])
    depth = read_frame_depth(load_index(target)[0], 0)
    assert depth is not None
    assert (depth > 0).any()
