from pathlib import Path

import numpy as np
from PIL import Image

from tests.data_tools.miniature import Miniature

OPTIONS = ("poses_are=cam_from_world", "camera_axes=opengl", "is_metric=true")


def write(folder: Path, scene: Miniature) -> None:
    """Names with blanks, poses of OpenGL cameras by name, a K, depth in NPY, and a pose too many."""
    for name in ("images", "depth"):
        (folder / name).mkdir(parents=True)
    lines = []
    for i in range(scene.num_frames):
        name = f"my view {i + 1}"
        Image.fromarray(scene.images[i]).save(folder / "images" / f"{name}.png")
        np.save(folder / "depth" / f"{name}.npy", scene.depth[i].astype(np.float32))
        cam_from_world = np.diag([1.0, -1, -1, 1]) @ np.linalg.inv(scene.world_from_cam[i])
        lines.append(
            f"images/{name}.png " + " ".join(f"{number:.9f}" for number in cam_from_world[:3].ravel())
        )
    lines.append("images/my view 99.png " + " ".join(map(str, np.eye(4)[:3].ravel())))
    (folder / "poses.txt").write_text("\n".join(lines[::-1]) + "\n")
    fx, fy, cx, cy = scene.intrinsics[0]
    (folder / "intrinsics.txt").write_text(f"{fx} 0 {cx}\n0 {fy} {cy}\n0 0 1\n")
