import json
from pathlib import Path

import numpy as np
import OpenEXR
from PIL import Image

from tests.data_tools.miniature import Miniature, homogeneous, make_miniature

UNITS_PER_METRE = 10.0


def scene() -> Miniature:
    return make_miniature(has_sky=True)


def write_exr(path: Path, values: np.ndarray, channel: str = "Y") -> None:
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    OpenEXR.File(header, {channel: OpenEXR.Channel(np.ascontiguousarray(values, np.float32))}).write(
        str(path)
    )


def write(folder: Path, scene: Miniature) -> None:
    """A world that is a mirror image of the true one, in tenths of metres; infinite sky; a pose with NaN at the end."""
    place = folder / "GTAV_720" / "0000"
    for name in ("images", "depths", "poses"):
        (place / name).mkdir(parents=True)
    mirror = np.diag([1.0, 1.0, -1.0, 1.0])
    for i in range(scene.num_frames):
        Image.fromarray(scene.images[i]).save(place / "images" / f"{i:04d}.png")
        write_exr(place / "depths" / f"{i:04d}.exr", scene.depth[i] * UNITS_PER_METRE)
        extrinsic = homogeneous(scene.cam_from_world[i]) @ mirror
        extrinsic[:3, 3] *= UNITS_PER_METRE
        if i == scene.num_frames - 1:
            extrinsic[0, 0] = np.nan
        fx, fy, cx, cy = scene.intrinsics[i]
        camera = {"c_x": cx, "c_y": cy, "f_x": fx, "f_y": fy, "extrinsic": extrinsic.tolist()}
        (place / "poses" / f"{i:04d}.json").write_text(json.dumps(camera))
    (place / "num_images.json").write_text(str(scene.num_frames))
