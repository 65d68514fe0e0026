import json
from pathlib import Path

import numpy as np
import OpenEXR
from PIL import Image

from tests.data_tools.miniature import Miniature, make_miniature


def scene() -> Miniature:
    """A square view with one focal length, the principal point in the middle, sky above."""
    return make_miniature(focal=(130.0, 130.0), centre_offset=(0, 0), has_sky=True)


def block_document(scene: Miniature) -> dict[str, object]:
    """Rotations are divided by 100 and so is the last row, positions are metres; z up, OpenGL axes."""
    z_up_from_world = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    frames = []
    for i, pose in enumerate(scene.world_from_cam):
        matrix = z_up_from_world @ pose @ np.diag([1.0, -1, -1, 1])
        matrix[:3, :3] /= 100
        matrix[3, 3] = 0.01
        frames.append({"frame_index": i, "rot_mat": matrix.tolist(), "euler": [0.1, 0.2, 0.3]})
    angle = 2 * np.arctan(scene.hw[1] / 2 / scene.intrinsics[0, 0])
    return {"camera_angle_x": float(angle), "frames": frames}


def write_depth(path: Path, depth_m: np.ndarray, kind: type) -> None:
    """Centimetres in three equal channels; float16 overflows to its largest number."""
    pixels = np.minimum(depth_m * 100, 65504 if kind is np.float16 else 1e9).astype(kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    OpenEXR.File(header, {"RGB": np.stack([pixels] * 3, -1)}).write(str(path))


def write(folder: Path, scene: Miniature) -> None:
    """Depth in a tree of its own; more poses than images."""
    block = folder / "small_city" / "street" / "train" / "small_city_road_horizon"
    block.mkdir(parents=True)
    document = block_document(scene)
    assert isinstance(document["frames"], list)
    document["frames"].append({"frame_index": 9999, "rot_mat": document["frames"][0]["rot_mat"]})
    (block / "transforms.json").write_text(json.dumps(document))
    (block / "transforms_origin.json").write_text(json.dumps(document))
    depths = folder / "small_city_depth" / "street" / "train" / "small_city_road_horizon_depth"
    for i, image in enumerate(scene.images):
        Image.fromarray(image).save(block / f"{i:04d}.png")
        write_depth(depths / f"{i:04d}.exr", scene.depth[i], np.float16)
