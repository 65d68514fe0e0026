from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from tests.data_tools.miniature import Miniature, make_miniature

HW, FOCAL, OFFSET = (270, 360), (174.5, 174.6), (-1.8, 5.1)  # those of cam0, a quarter of its size
LENS = np.array([-0.0411, -0.0024, 0.0034, -0.0019])
SEQUENCE = "2024-03-13-observatory-quarter-01"
START_S = 1710338112.25


def scene() -> Miniature:
    """Seen through the fisheye of cam0."""
    k = np.array([[FOCAL[0], 0, HW[1] / 2 + OFFSET[0]], [0, FOCAL[1], HW[0] / 2 + OFFSET[1]], [0, 0, 1]])
    columns, rows = np.meshgrid(np.arange(HW[1]) + 0.5, np.arange(HW[0]) + 0.5)
    pixels = np.stack([columns, rows], -1).reshape(-1, 1, 2)
    plane = cv2.fisheye.undistortPoints(pixels, k, LENS).reshape(*HW, 2)
    rays = np.concatenate([plane, np.ones((*HW, 1))], -1)
    return make_miniature(8, HW, FOCAL, OFFSET, rays=rays)


def write(folder: Path, scene: Miniature) -> None:
    """Poses of the base in a z-up world; the last image comes too late for a pose."""
    sequence = folder / "sequences" / SEQUENCE
    (sequence / "raw" / "cam0").mkdir(parents=True)
    (sequence / "processed" / "trajectory").mkdir(parents=True)
    calibration = folder / "calibration"
    calibration.mkdir()
    fx, fy, cx, cy = scene.intrinsics[0]
    (calibration / "cam0.yaml").write_text(
        f"image_width: {scene.hw[1]}\nimage_height: {scene.hw[0]}\ncamera_name: cam0\n"
        f"camera_matrix:\n  rows: 3\n  cols: 3\n  data: [{fx}, 0., {cx - 0.5}, 0., {fy}, {cy - 0.5}, 0., 0., 1.]\n"
        "distortion_model: equidistant\n"
        f"distortion_coefficients:\n  rows: 1\n  cols: 4\n  data: {LENS.tolist()}\n"
    )
    cam_from_lidar, base_from_lidar = np.eye(4), np.diag([-1.0, -1, 1, 1])
    quaternion_xyzw = [0.5034725628949727, 0.5003337192107279, -0.4947539264483171, 0.5013981452864594]
    cam_from_lidar[:3, :3] = Rotation.from_quat(quaternion_xyzw).as_matrix()
    cam_from_lidar[:3, 3] = [0.00035060884033447846, -0.079574053851818, -0.053826061545697405]
    base_from_lidar[2, 3] = 0.124
    rows = "\n".join(f"  - {row}" for row in cam_from_lidar.tolist())
    (calibration / "cam-lidar-imu.yaml").write_text(f"cam0:\n  T_cam_lidar:\n{rows}\n")
    cam_from_base = cam_from_lidar @ np.linalg.inv(base_from_lidar)
    up_from_world = np.array([[0.0, 0, 1, 12.3], [-1, 0, 0, -4.5], [0, -1, 0, 0.6], [0, 0, 0, 1]])
    lines = ["# timestamp tx ty tz qx qy qz qw"]
    for i in range(scene.num_frames):
        time = START_S + 0.1 * i
        is_last = i == scene.num_frames - 1
        Image.fromarray(scene.images[i]).save(
            sequence / "raw" / "cam0" / f"{time + 5 * is_last:.9f}.jpg", quality=95
        )
        pose = up_from_world @ scene.world_from_cam[i] @ cam_from_base
        values = [*pose[:3, 3], *Rotation.from_matrix(pose[:3, :3]).as_quat()]
        if not is_last:
            lines.append(f"{time + 0.012:.9f} " + " ".join(f"{value:.9f}" for value in values))
    (sequence / "processed" / "trajectory" / "gt-tum.txt").write_text("\n".join(lines) + "\n")
