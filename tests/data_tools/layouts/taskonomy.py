import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from tests.data_tools.miniature import Miniature, make_miniature, pinhole_rays

SIDE = 128
Z_UP = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])


def scene() -> Miniature:
    """Square images, every view with another field of view."""
    angles = np.radians(np.linspace(55, 75, 12))
    intrinsics = np.stack([*[SIDE / 2 / np.tan(angles / 2)] * 2, *[np.full(12, SIDE / 2)] * 2], 1)
    rays = np.stack([pinhole_rays(row, (SIDE, SIDE)) for row in intrinsics])
    return replace(make_miniature(hw=(SIDE, SIDE), rays=rays), intrinsics=intrinsics)


def write(folder: Path, scene: Miniature) -> None:
    """As omnitools downloads it: two views a point, and a view whose image is not there."""
    roots = {}
    for domain in ("rgb", "depth_zbuffer", "mask_valid", "point_info"):
        roots[domain] = folder / domain / "taskonomy" / "cauthron"
        roots[domain].mkdir(parents=True)
    for i in range(scene.num_frames + 1):
        shown = min(i, scene.num_frames - 1)
        stem = f"point_{i // 2}_view_{i % 2}_domain"
        position = Z_UP @ scene.world_from_cam[shown][:3, 3]
        rotation = Z_UP @ scene.world_from_cam[shown][:3, :3] @ np.diag([1.0, -1, -1])
        centre = position - 2.5 * rotation[:, 2]
        info = {
            "camera_location": position.tolist(),
            "camera_rotation_final": Rotation.from_matrix(rotation).as_euler("xyz").tolist(),
            "camera_rotation_final_quaternion": np.roll(Rotation.from_matrix(rotation).as_quat(), 1).tolist(),
            "camera_rotation_original": [1.57, 0.0, 0.3],
            "field_of_view_rads": 2 * float(np.arctan(SIDE / 2 / scene.intrinsics[shown, 0])),
            "point_location": centre.tolist(),
            "point_uuid": str(i // 2), "view_id": i % 2, "resolution": SIDE,
        }  # fmt: skip
        (roots["point_info"] / f"{stem}_point_info.json").write_text(json.dumps(info))
        if i == scene.num_frames:
            return
        Image.fromarray(scene.images[i]).save(roots["rgb"] / f"{stem}_rgb.png")
        depth = (scene.depth[i] * 512 + 0.5).astype(np.uint16)
        mask = np.full(scene.hw, 255, np.uint8)
        depth[:10], depth[:, :10], mask[:, :10] = 65535, 700, 0  # holes of the scan
        Image.fromarray(depth).save(roots["depth_zbuffer"] / f"{stem}_depth_zbuffer.png")
        Image.fromarray(mask).save(roots["mask_valid"] / f"{stem}_depth_zbuffer.png")
