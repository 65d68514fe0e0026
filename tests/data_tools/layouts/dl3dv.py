import json
from pathlib import Path

import numpy as np
from PIL import Image

from tests.data_tools.lens_rays import colmap_camera, rays_of
from tests.data_tools.miniature import Miniature, make_miniature

HW, LENS = (120, 160), [0.06, -0.08, -0.001, 0.0006]
HASH = "1e6de41ee1bb1b8e4a2e0d5e9f4f3f9f7f0d2c1b0a9e8d7c6b5a49382716051f"


def scene() -> Miniature:
    camera = colmap_camera("OPENCV", [130.0, 128.0, 80.0, 60.0, *LENS], HW)
    return make_miniature(hw=HW, centre_offset=(0, 0), rays=rays_of(camera))


def write(folder: Path, scene: Miniature) -> None:
    """Only the copies of a quarter of the calibrated size are there, and a model of COLMAP that nobody needs."""
    place = folder / "1K" / HASH
    (place / "images_4").mkdir(parents=True)
    (place / "colmap" / "sparse" / "0").mkdir(parents=True)
    (place / "colmap" / "sparse" / "0" / "cameras.bin").write_bytes(b"")
    fx, fy, cx, cy = (4 * float(value) for value in scene.intrinsics[0])
    applied = np.array([[0.0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1]])
    frames = []
    for i, pose in enumerate(scene.world_from_cam):
        Image.fromarray(scene.images[i]).save(place / "images_4" / f"frame_{i + 1:05d}.png")
        matrix = applied @ pose @ np.diag([1.0, -1, -1, 1])
        name = f"images/frame_{i + 1:05d}.png"
        frames.append({"file_path": name, "transform_matrix": matrix.tolist(), "colmap_im_id": 7 + i})
    document = {
        "w": 4 * HW[1], "h": 4 * HW[0], "fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy,
        **dict(zip(("k1", "k2", "p1", "p2"), LENS, strict=True)),
        "camera_model": "OPENCV", "frames": frames, "applied_transform": applied[:3].tolist(),
    }  # fmt: skip
    (place / "transforms.json").write_text(json.dumps(document))
