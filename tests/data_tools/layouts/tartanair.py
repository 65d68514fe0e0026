from pathlib import Path

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from tests.data_tools.miniature import Miniature, make_miniature


def scene() -> Miniature:
    """A pinhole of 90 degrees."""
    return make_miniature(hw=(120, 160), focal=(80.0, 80.0), centre_offset=(0.0, 0.0), has_sky=True)


def ned_poses(scene: Miniature) -> list[str]:
    """Lines of a pose file: both the world and the camera have x forward, y right, z down."""
    ned_from_opencv = np.array([[0.0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    lines = []
    for pose in ned_from_opencv @ scene.world_from_cam @ ned_from_opencv.T:
        values = [*pose[:3, 3], *Rotation.from_matrix(pose[:3, :3]).as_quat()]
        lines.append(" ".join(f"{value:.18e}" for value in values))
    return lines


def write(folder: Path, scene: Miniature) -> None:
    """Version 1: the sky is 10 km away; the last image is not there."""
    flight = folder / "hospital" / "hospital" / "Easy" / "P001"
    for name in ("image_left", "depth_left", "seg_left"):
        (flight / name).mkdir(parents=True)
    for i in range(scene.num_frames - 1):
        Image.fromarray(scene.images[i]).save(flight / "image_left" / f"{i:06d}_left.png")
        depth = np.where(np.isinf(scene.depth[i]), 10000.0, scene.depth[i]).astype(np.float32)
        np.save(flight / "depth_left" / f"{i:06d}_left_depth.npy", depth)
    (flight / "pose_left.txt").write_text("\n".join(ned_poses(scene)) + "\n")
    (flight / "pose_right.txt").write_text("\n".join(ned_poses(scene)) + "\n")
