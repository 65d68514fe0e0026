import json
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from tests.data_tools.miniature import Miniature, make_miniature

LENS = np.array([0.06, -0.08, -0.001, 0.0006])  # about fox's
HW, FOCAL, OFFSET = (120, 160), (130.0, 128.0), (2.3, -1.7)


def scene() -> Miniature:
    """Seen through a lens, as OpenCV models it."""
    k = np.array([[FOCAL[0], 0, HW[1] / 2 + OFFSET[0]], [0, FOCAL[1], HW[0] / 2 + OFFSET[1]], [0, 0, 1]])
    columns, rows = np.meshgrid(np.arange(HW[1]) + 0.5, np.arange(HW[0]) + 0.5)
    pixels = np.stack([columns, rows], -1).reshape(-1, 1, 2)
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 100, 1e-12)
    plane = cv2.undistortPoints(pixels, k, LENS, None, None, None, criteria).reshape(*HW, 2)
    rays = np.concatenate([plane, np.ones((*HW, 1))], -1)
    return make_miniature(hw=HW, focal=FOCAL, centre_offset=OFFSET, rays=rays)


def write(folder: Path, scene: Miniature) -> None:
    """World z up, OpenGL cameras, a lens; some frames are listed whose images are not there."""
    (folder / "images").mkdir(parents=True)
    z_up_from_world = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    fx, fy, cx, cy = scene.intrinsics[0]
    frames = []
    for i, pose in enumerate(scene.world_from_cam):
        Image.fromarray(scene.images[i]).save(folder / "images" / f"frame_{i + 1:05d}.png")
        matrix = z_up_from_world @ pose @ np.diag([1.0, -1, -1, 1])
        frames.append({"file_path": f"images/frame_{i + 1:05d}.png", "transform_matrix": matrix.tolist()})
    frames.append({"file_path": "images/frame_90000.png", "transform_matrix": np.eye(4).tolist()})
    height, width = scene.hw
    document = {
        "camera_model": "OPENCV", "fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy, "w": width, "h": height,
        **dict(zip(("k1", "k2", "p1", "p2"), LENS.tolist(), strict=True)),
        "frames": frames[::-1],
    }  # fmt: skip
    (folder / "transforms.json").write_text(json.dumps(document))
