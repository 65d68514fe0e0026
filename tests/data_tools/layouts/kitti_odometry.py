from pathlib import Path

import numpy as np
from PIL import Image

from tests.data_tools.miniature import Miniature, homogeneous

BASELINE_M = np.array([0.06, -0.001, 0.003])  # of camera 2 from camera 0, about KITTI's


def write(folder: Path, scene: Miniature) -> None:
    """Camera 2 saw the images; poses are those of camera 0, whose first pose is the identity."""
    sequence = folder / "sequences" / "04"
    (sequence / "image_2").mkdir(parents=True)
    (folder / "poses").mkdir()
    fx, fy, cx, cy = scene.intrinsics[0]
    k = np.array([[fx, 0, cx - 0.5], [0, fy, cy - 0.5], [0, 0, 1]])
    lines = []
    for name, shift in (("P0", np.zeros(3)), ("P1", [-0.5, 0, 0]), ("P2", BASELINE_M), ("P3", [-0.4, 0, 0])):
        matrix = k @ np.column_stack([np.eye(3), shift])
        lines.append(f"{name}: " + " ".join(f"{value:.12e}" for value in matrix.ravel()))
    (sequence / "calib.txt").write_text("\n".join(lines) + "\n")
    (sequence / "times.txt").write_text("".join(f"{t - scene.timestamp[0]:e}\n" for t in scene.timestamp))
    cam0_from_cam2 = np.eye(4)
    cam0_from_cam2[:3, 3] = -BASELINE_M
    cam0_from_world = cam0_from_cam2 @ homogeneous(scene.cam_from_world)
    world_from_cam0 = cam0_from_world[0] @ np.linalg.inv(cam0_from_world)
    np.savetxt(folder / "poses" / "04.txt", world_from_cam0[:, :3].reshape(-1, 12), fmt="%.12e")
    for i, image in enumerate(scene.images):
        Image.fromarray(image).save(sequence / "image_2" / f"{i:06d}.png")
