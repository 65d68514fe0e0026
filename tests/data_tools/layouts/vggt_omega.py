import json
from pathlib import Path

import numpy as np
import OpenEXR
from PIL import Image

from tests.data_tools.miniature import Miniature

OPTIONS = ["mask=valid", "is_ordered=true", "is_metric=true"]


def write(folder: Path, scene: Miniature) -> None:
    """Depth under the mask is wrong; the last listed image is not there, the one before has no finite pose."""
    place = folder / "uco3d" / "scene_a"
    for name in ("images", "depths", "valid"):
        (place / name).mkdir(parents=True)
    matrices = np.tile(np.eye(3), (scene.num_frames, 1, 1))
    matrices[:, 0, 0], matrices[:, 1, 1], matrices[:, 0, 2], matrices[:, 1, 2] = scene.intrinsics.T
    poses = scene.cam_from_world.copy()
    poses[-2] = np.nan
    for i, image in enumerate(scene.images):
        if i < scene.num_frames - 1:
            Image.fromarray(image).save(place / "images" / f"{i:05d}.png")
        depth, mask = scene.depth[i].astype(np.float32), np.full(scene.hw, 255, np.uint8)
        depth[:10], depth[30:40, 30:60], mask[30:40, 30:60] = 0, 9, 0
        header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
        OpenEXR.File(header, {"Y": depth}).write(str(place / "depths" / f"{i:05d}.exr"))
        Image.fromarray(mask).save(place / "valid" / f"{i:05d}.png")
    (place / "image_names.json").write_text(json.dumps([f"{i:05d}.png" for i in range(scene.num_frames)]))
    np.save(place / "cam_from_worlds.npy", poses.astype(np.float32))
    np.save(place / "intrinsics.npy", matrices.astype(np.float32))
    np.save(place / "ranking.npy", np.arange(scene.num_frames)[:, None])
