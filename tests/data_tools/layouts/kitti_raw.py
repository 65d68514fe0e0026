from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from tests.data_tools.miniature import Miniature

DATE, DRIVE = "2011_09_26", "2011_09_26_drive_0001_sync"
EARTH_M = 6378137.0
LATITUDE, LONGITUDE = 49.015, 8.434  # Karlsruhe
OPTIONS = ("cameras=[image_02]",)


def rigid(angles_deg: tuple[float, float, float], translation: tuple[float, float, float]) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_euler("xyz", angles_deg, degrees=True).as_matrix()
    pose[:3, 3] = translation
    return pose


def row(name: str, values: np.ndarray) -> str:
    return f"{name}: " + " ".join(f"{value:.12e}" for value in np.ravel(values))


def write(folder: Path, scene: Miniature) -> None:
    """A GPS/IMU in the boot, a LiDAR on the roof; the last image has no oxts file, one oxts line is cut off."""
    drive = folder / DATE / DRIVE
    for name in ("image_02/data", "oxts/data", "proj_depth/groundtruth/image_02", "velodyne_points/data"):
        (drive / name).mkdir(parents=True)
    axes = np.array(
        [[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]]
    )  # camera from forward left up
    velo_from_imu = rigid((0.3, -0.4, 1.2), (-0.81, 0.32, -0.8))
    cam0_from_velo = rigid((0.5, -0.3, 0.4), (-0.004, -0.076, -0.27)) @ axes
    rect_from_cam0 = rigid((0.2, 0.5, -0.3), (0, 0, 0))
    cam2_from_rect = rigid((0, 0, 0), (0.06, -0.0003, 0.003))
    fx, fy, cx, cy = scene.intrinsics[0]
    k = np.array([[fx, 0, cx - 0.5], [0, fy, cy - 0.5], [0, 0, 1]])
    (folder / DATE / "calib_cam_to_cam.txt").write_text(
        "calib_time: 09-Jan-2012 13:57:47\ncorner_dist: 9.950000e-02\n"
        + "\n".join(
            [
                row("S_rect_02", np.array([scene.hw[1], scene.hw[0]])),
                row("R_rect_00", rect_from_cam0[:3, :3]),
                row("P_rect_00", k @ np.eye(4)[:3]),
                row("R_rect_02", rect_from_cam0[:3, :3] @ rect_from_cam0[:3, :3]),  # not to be used
                row("P_rect_02", k @ cam2_from_rect[:3]),
            ]
        )
        + "\n"
    )
    for name, pose in (("velo_to_cam", cam0_from_velo), ("imu_to_velo", velo_from_imu)):
        lines = ["calib_time: 25-May-2012 16:47:16", row("R", pose[:3, :3]), row("T", pose[:3, 3])]
        (folder / DATE / f"calib_{name}.txt").write_text("\n".join(lines) + "\n")
    cam_from_imu = cam2_from_rect @ rect_from_cam0 @ cam0_from_velo @ velo_from_imu
    up_from_world = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])  # z up
    times = []
    for i in range(scene.num_frames):
        Image.fromarray(scene.images[i]).save(drive / "image_02" / "data" / f"{i:010d}.png")
        times.append(f"2011-09-26 13:02:{25.25 + 0.1 * i:012.9f}")
        if i == scene.num_frames - 1:
            continue
        pose = up_from_world @ scene.world_from_cam[i] @ cam_from_imu
        scale = np.cos(np.deg2rad(LATITUDE))
        if i == 0:
            start = pose[:3, 3]
        east, north, up = pose[:3, 3] - start
        north_0 = scale * EARTH_M * np.arctanh(np.sin(np.deg2rad(LATITUDE)))
        latitude = np.rad2deg(np.arcsin(np.tanh((north_0 + north) / (scale * EARTH_M))))
        longitude = LONGITUDE + np.rad2deg(east / (scale * EARTH_M))
        yaw, pitch, roll = Rotation.from_matrix(pose[:3, :3]).as_euler("ZYX")
        values = [latitude, longitude, 112.8 + up, roll, pitch, yaw, *np.zeros(24)]
        text = " ".join(f"{value:.15g}" for value in values)
        (drive / "oxts" / "data" / f"{i:010d}.txt").write_text(
            text[: 30 if i == scene.num_frames - 2 else None]
        )
        if 1 <= i < scene.num_frames - 1:  # the published ones start late and end early
            counts = np.rint(scene.depth[i] * 256).astype(np.uint16)
            counts[np.random.default_rng(i).random(counts.shape) < 0.5] = 0
            cv2.imwrite(str(drive / "proj_depth" / "groundtruth" / "image_02" / f"{i:010d}.png"), counts)
    (drive / "image_02" / "timestamps.txt").write_text("\n".join(times) + "\n")
    (drive / "oxts" / "dataformat.txt").write_text("lat:   latitude of the oxts-unit (deg)\n")
