from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation, Slerp

from tests.data_tools.miniature import Miniature, make_miniature

HW, FOCAL, OFFSET = (120, 212), (119.0, 118.4), (3.2, -2.6)  # about a sixth of the camera's
LENS = np.array([-0.17, 0.11, -0.0007, -0.0011])
START_NS = 1676379600123456789
BASE_FROM_CAM = np.array(
    [
        [0.005617, -0.001288, 0.999983, 0.0707],
        [-0.999983, -0.001329, 0.005615, 0.2344],
        [0.001321, -0.999998, -0.001296, -0.6660],
        [0, 0, 0, 1],
    ]
)  # as the set's own, to six digits


def scene() -> Miniature:
    """Seen through a lens of OpenCV's model."""
    k = np.array([[FOCAL[0], 0, HW[1] / 2 + OFFSET[0]], [0, FOCAL[1], HW[0] / 2 + OFFSET[1]], [0, 0, 1]])
    columns, rows = np.meshgrid(np.arange(HW[1]) + 0.5, np.arange(HW[0]) + 0.5)
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 200, 1e-12)
    pixels = np.stack([columns, rows], -1).reshape(-1, 1, 2)
    plane = cv2.undistortPoints(pixels, k, LENS, None, None, None, criteria).reshape(*HW, 2)
    return make_miniature(
        hw=HW, focal=FOCAL, centre_offset=OFFSET, rays=np.concatenate([plane, np.ones((*HW, 1))], -1)
    )


def write(folder: Path, scene: Miniature) -> None:
    """Two converted bags; poses of the base halfway between images and at them; the last image comes too late."""
    sequence = folder / "vbr_slam" / "campus" / "campus_train0"
    sequence.mkdir(parents=True)
    fx, fy, cx, cy = scene.intrinsics[0]
    base_from_cam = BASE_FROM_CAM.copy()
    left, _, right = np.linalg.svd(base_from_cam[:3, :3])
    base_from_cam[:3, :3] = left @ right
    rows = "\n".join(f"    - [{', '.join(f'{value:.12f}' for value in row)}]" for row in base_from_cam)
    (sequence / "vbr_calib.yaml").write_text(
        f"cam_l:\n  resolution: [{scene.hw[1]}, {scene.hw[0]}]\n  intrinsics: [{fx}, {fy}, {cx - 0.5}, {cy - 0.5}]\n"
        f"  distortion_coeffs: {LENS.tolist()}\n  T_b:\n{rows}\nlidar:\n  T_b: [[1, 0, 0, 0], [0, 1, 0, 0]]\n"
    )
    half = scene.num_frames // 2
    poses = scene.world_from_cam @ np.linalg.inv(base_from_cam)
    for part, frames in enumerate((range(half), range(half, scene.num_frames))):
        camera = sequence / f"campus_train0_{part:02d}_kitti" / "camera_left"
        (camera / "data").mkdir(parents=True)
        stamps = []
        for place, frame in enumerate(frames):
            Image.fromarray(scene.images[frame]).save(camera / "data" / f"{place:010d}.png")
            stamps.append(np.datetime64(_time_ns(frame, scene), "ns"))
        (camera / "timestamps.txt").write_text("".join(f"{stamp}\n" for stamp in stamps))
    turn = Slerp(np.arange(scene.num_frames), Rotation.from_matrix(poses[:, :3, :3]))
    lines = ["#timestamp tx ty tz qx qy qz qw"]
    for step in range(2 * scene.num_frames - 3):  # none for the last image
        place = step / 2
        weight = place - int(place)
        position = (1 - weight) * poses[int(place), :3, 3] + weight * poses[int(place + 0.5), :3, 3]
        seconds = START_NS // 10**9 + (START_NS % 10**9 + place * 1e8) * 1e-9
        values = [*position, *turn(place).as_quat()]
        lines.append(f"{seconds:.9f} " + " ".join(f"{value:.9f}" for value in values))
    (sequence / "campus_train0_gt.txt").write_text("\n".join(lines) + "\n")


def _time_ns(frame: int, scene: Miniature) -> int:
    return START_NS + frame * 10**8 + (10**9 if frame == scene.num_frames - 1 else 0)
